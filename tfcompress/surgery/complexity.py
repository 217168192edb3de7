"""`tfc.complexity`: parameters, multiply-adds and activation memory, layer by layer."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.files import write_json
from tfcompress.tables import aligned

if TYPE_CHECKING:
    import keras

_RULE = (
    "multiply-adds of convolutions, dense, recurrent and attention layers and matrix products for "
    "one example, padding included; biases, activations, normalisation and pooling count as 0"
)


@dataclass(frozen=True)
class LayerComplexity:
    """One call of a layer or operation.

    Attributes:
        path: its name, behind the names of the models and layers that hold it.
        kind: its class.
        output_shape: shape of what it gives, with the batch axis; a list of them where it gives
            several tensors.
        parameters: how many it has that no earlier row has counted.
        multiply_adds: what the call costs, for one example.
        activation_elements: elements of what it gives, for one example.
        activation_bytes: the same in bytes.
    """

    path: str
    kind: str
    output_shape: Any
    parameters: int
    multiply_adds: int
    activation_elements: int
    activation_bytes: int


@dataclass
class Complexity:
    """What a model holds and costs.

    Attributes:
        name: the model's name.
        parameters: of the whole model, each counted once.
        multiply_adds: of one example.
        peak_activation_bytes: the largest sum of tensors that are alive at once, for one example:
            the layers run in the model's order, and a tensor lives from the call that makes it to
            the last that reads it. No layer is taken to work in place, and what a layer holds
            while it computes is not counted.
        layers: a row for each call.
        notes: what the numbers leave out.
    """

    name: str
    parameters: int
    multiply_adds: int
    peak_activation_bytes: int
    layers: list[LayerComplexity] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Complexity:
        """The inverse of `to_dict`."""
        rows = [LayerComplexity(**row) for row in values["layers"]]
        return cls(**{**values, "layers": rows})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes it as JSON."""
        return write_json(path, self.to_dict())

    def __str__(self) -> str:
        head = ["layer", "class", "output", "parameters", "multiply-adds", "activation bytes"]
        rows = [
            [row.path, row.kind, _shown(row.output_shape), f"{row.parameters:,}",
             f"{row.multiply_adds:,}", f"{row.activation_bytes:,}"]
            for row in self.layers
        ]  # fmt: skip
        lines = [
            f"{self.name}: {self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds, "
            f"{self.peak_activation_bytes:,} bytes of activations at the peak"
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), *aligned([head, *rows])])


def complexity(model: keras.Model, *, input_shapes: Any = None) -> Complexity:
    """Counts a model's parameters, multiply-adds and activation memory, layer by layer.

    Counted are the multiply-adds of convolutions (transposed, depthwise, separable and grouped
    ones), Dense, EinsumDense, recurrent layers (at every time step), attention and matrix
    products, for one example and with padding included, as published counts have it: MobileNet
    569 million, MobileNetV2 300 million, ResNet50 3.9 billion at 224 x 224. Biases, activations,
    normalisation, pooling and element-wise arithmetic count as 0.

    Nested models are laid open. A layer that is called several times has a row for each call, and
    its parameters stand in the first. Layers of your own, and subclassed models, are traced: the
    layers that their `call` calls have rows of their own, and its convolutions and matrix products
    between them are in the row of the layer itself. What a trace cannot see, as what runs inside a
    loop, is told in `notes`.

    Args:
        model: a built Keras 3 model. It is left as it is.
        input_shapes: sizes that the model leaves open, without the batch axis: a shape, or a dict
            of shapes by input name, or a list of them. Without it such sizes count as 1.

    Returns:
        A `Complexity`: `.parameters`, `.multiply_adds`, `.peak_activation_bytes`, `.layers`; it
        prints as a table and saves as JSON.

    Raises:
        ModelTypeError: no built Keras 3 model.
        ConfigError: `input_shapes` does not fit the model.

    Example:
        >>> found = tfc.complexity(keras.applications.MobileNet(weights=None))
        >>> found.multiply_adds
        568740352

    Source: the counts of Howard et al. 2017, "MobileNets" (arXiv:1704.04861), Sandler et al. 2018
    (arXiv:1801.04381) and He et al. 2015 (arXiv:1512.03385) are the measure.
    """
    from tfcompress.conversion.export import read_interface
    from tfcompress.errors import ModelTypeError
    from tfcompress.graph.calls import is_graph
    from tfcompress.keras3 import check_keras3
    from tfcompress.surgery.tracing import holds_layers
    from tfcompress.surgery.work import read_work

    check_keras3(model)
    if not model.built:
        raise ModelTypeError(
            f"The model must be built, so that its shapes are known. Received: {model.name!r}, "
            "which is not. Call it on data once, or give its first layer an Input."
        )
    interface = None
    if input_shapes is not None or not is_graph(model):
        interface = read_interface(model, input_shapes)
    work = read_work(model, interface)
    rows = []
    counted: set[int] = set()
    for step in filter(lambda step: step.listed, work.steps):
        row = _row(step, counted)
        # What only holds other layers, whose rows say it all, needs none.
        if step.makes or row.parameters or row.multiply_adds or not holds_layers(step.operation):
            rows.append(row)
    parameters = int(model.count_params())
    notes = [_RULE, *work.notes]
    elsewhere = parameters - sum(row.parameters for row in rows)
    if elsewhere:
        notes.append(f"{elsewhere:,} parameters are in no layer that is called")
    return Complexity(
        model.name,
        parameters,
        sum(step.multiply_adds for step in work.steps),
        work.peak_bytes(),
        rows,
        notes,
    )


def _row(step: Any, counted: set[int]) -> LayerComplexity:
    from tfcompress.surgery.multiply_adds import size
    from tfcompress.surgery.work import item_bytes

    weights = getattr(step.operation, "weights", [])
    if not step.makes:  # those of the layers that it holds stand in their rows
        held = step.operation._flatten_layers(include_self=False)
        inner = {id(variable) for layer in held for variable in layer.weights}
        weights = [variable for variable in weights if id(variable) not in inner]
    fresh = [variable for variable in weights if id(variable) not in counted]
    counted.update(id(variable) for variable in fresh)
    shapes = [value.shape for value in step.outputs]
    elements = [size(value.shape) * value.rows for value in step.outputs]
    return LayerComplexity(
        step.path,
        type(step.operation).__name__,
        shapes[0] if len(shapes) == 1 else shapes,
        sum(size(variable.shape) for variable in fresh),
        step.multiply_adds,
        sum(elements),
        sum(n * item_bytes(v.dtype) for n, v in zip(elements, step.outputs, strict=True)),
    )


def _shown(shape: Any) -> str:
    shapes = [shape] if isinstance(shape, tuple) else list(shape)
    texts = ["x".join("?" if n is None else str(n) for n in one[1:]) for one in shapes]
    return " ".join(text or "1" for text in texts)
