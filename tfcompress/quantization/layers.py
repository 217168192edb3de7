"""`QuantizedLayer`, what all layers of a quantize-aware model share, and the operators' layer.

Tensors between these layers hold real values that lie on a grid: float32 (q - z) * s, exact, as
scales are short (see `grids`). So every other Keras layer can stand between them, what only moves
values (pooling by maximum, padding, reshaping) needs no layer of its own, and a layer finds the
stored integers of its input again by one division.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.conversion.rewriting import BOUNDARY, REQUANTIZE
from tfcompress.quantization import exact, modes
from tfcompress.quantization.grids import Grid, choose_grid, fake_quant_range
from tfcompress.quantization.primitives import PRIMITIVES, Primitive
from tfcompress.quantization.ranges import RANGES, GridSource
from tfcompress.quantization.rounding import on_grid
from tfcompress.transforms.base import WeightTransform


class QuantizedLayer(keras.Layer):
    """A layer whose inputs and output lie on grids.

    Args:
        inputs: for each input where its grid comes from; None where it has none.
        output: where the output's grid comes from.
        owns_range: it holds a range, which follows its output.
        range_method: a row of `RANGES`.
        weights_of: name of the layer whose weights it uses; "" for its own.
        transforms: what its kernel goes through before it is quantized.
        frozen: names of its weights that do not train, see `adapt`.
    """

    def __init__(
        self,
        inputs: Sequence[Any],
        output: Any,
        owns_range: bool,
        range_method: str = "moving_average",
        weights_of: str = "",
        transforms: Sequence[Any] = (),
        frozen: Sequence[str] = (),
        *,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        # Integers in float32, whatever the model's policy is.
        super().__init__(dtype="float32", **options)
        self.supports_masking = True
        # Past Keras's tracking: they point at other layers' variables.
        object.__setattr__(self, "input_sources", [_source(item) for item in inputs])
        object.__setattr__(self, "output_source", _source(output))
        self.owns_range = owns_range
        self.range_method = range_method
        self.weights_of = weights_of
        self._link = _Link(self)
        self.ranges: Any = None
        given = [_transform(item) for item in transforms]
        object.__setattr__(self, "transforms", given)
        self.transform_variables: list[Any] = []
        self.frozen = tuple(frozen)

    def bind(self, layers: Mapping[str, Any]) -> None:
        """Finds the layers that it needs; its model calls this."""
        for source in [*self.input_sources, self.output_source]:
            if source is not None:
                source.bind(layers)
        if self.weights_of:
            self.share(layers[self.weights_of])

    def share(self, other: Any) -> None:
        """Uses the other layer's weights from now on."""
        self._link = _Link(other)

    def _source(self) -> Any:
        """The layer whose weights it uses. No property: Keras would save what it leads to."""
        return self._link.layer

    def build(self, *shapes: Any) -> None:
        """Makes the range."""
        if self.owns_range:
            object.__setattr__(self, "ranges", RANGES[self.range_method](self))
        self.freeze(self.frozen)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        config = super().get_config()
        config.pop("dtype")
        return {
            **config,
            "inputs": [source and source.get_config() for source in self.input_sources],
            "output": self.output_source and self.output_source.get_config(),
            "owns_range": self.owns_range,
            "range_method": self.range_method,
            "weights_of": self.weights_of,
            "transforms": [keras.saving.serialize_keras_object(t) for t in self.transforms],
            "frozen": list(self.frozen),
        }

    def add_kernel(self, name: str, shape: Sequence[int], trainable: bool = True) -> Any:
        """Makes the variable that `transforms` are for, and theirs."""
        kernel = self.add_weight(name=name, shape=shape, trainable=trainable)
        for transform in self.transforms:
            transform.build(kernel)
            transform.settle(kernel)
        self.transform_variables = [v for t in self.transforms for v in t.variables]
        return kernel

    def freeze(self, names: Sequence[str]) -> None:
        """Makes weights of these names train no longer."""
        self.frozen = tuple(names)
        for weight in self.weights:
            if weight.name in self.frozen:
                weight.trainable = False

    def remade(self, transforms: Sequence[WeightTransform], frozen: Sequence[str]) -> Any:
        """A layer like this, not built, with other transforms; `take` gives it its weights."""
        config = {**self.get_config(), "transforms": transforms, "frozen": frozen}
        return type(self).from_config(config)

    def take(self, other: Any) -> None:
        """Takes all weights over that a layer like this has, by their names."""
        rest = list(other.variables)
        for variable in self.variables:
            found = next((i for i, own in enumerate(rest) if own.name == variable.name), None)
            if found is not None:
                variable.assign(rest.pop(found))

    @property
    def adapted(self) -> bool:
        """Whether something adapts its kernel, or keeps weights of it from training."""
        return bool(self.frozen) or any(t.ends for t in self.transforms)

    @property
    def transformed(self) -> Any:
        """The variable that `transforms` are for; None where there is none."""
        return None

    def observe(self, low: tf.Tensor, high: tf.Tensor, training: Any) -> None:
        """Lets the range follow what is about to be rounded, in training."""
        if training and self.ranges is not None:
            self.ranges.update(low, high)


class _Link:
    """Hides a layer from Keras's tracking and saving, which would walk in circles."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer


def _source(item: Any) -> GridSource | None:
    if item is None or isinstance(item, GridSource):
        return item
    return GridSource.from_config(item)


def _transform(item: Any) -> WeightTransform:
    if isinstance(item, WeightTransform):
        return item
    made: WeightTransform = keras.saving.deserialize_keras_object(item)
    return made


def fake_quant(x: Any, grid: Grid, layer: str = "") -> tf.Tensor:
    """The operator that tells the converter an activation's grid, whose values are known here.

    Args:
        x: float32 tensor.
        grid: its grid.
        layer: name of the layer whose output it is, for ONNX: the operator is named after it.
    """
    low, high = fake_quant_range(grid, bits=grid.bits, narrow=grid.wide)
    return tf.quantization.fake_quant_with_min_max_vars(
        x,
        float(low),
        float(high),
        num_bits=grid.bits,
        narrow_range=grid.wide,
        name=grid_name(layer) if layer and modes.for_onnx() else None,
    )


def grid_name(layer: str) -> str:
    """What the operators are named that put a layer's output on its grid, in ONNX."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", f"grid.{layer}.of")


def constant_quant(values: Any, grid: Grid, *, narrow: bool = True) -> tf.Tensor:
    """A constant's grid, for the converter to ONNX, which computes other operators ahead.

    Args:
        values: float32 array on the grid.
        grid: symmetric; one scale, or one for each index of the last axis.
        narrow: the smallest integer is not used.
    """
    low, high = fake_quant_range(grid, narrow=narrow)
    axis = values.ndim - 1 if np.ndim(high) else None
    return tf.quantization.quantize_and_dequantize_v2(
        values, low, high, range_given=True, narrow_range=narrow, axis=axis
    )


def known(source: GridSource) -> Grid:
    """A grid's values, now, also while a graph is traced."""
    with tf.init_scope():
        grid = source.grid()
        scale, zero_point = (tf.constant(t.numpy()) for t in (grid.scale, grid.zero_point))
        return Grid(scale, zero_point, grid.bits)


def steps(x: Any, grid: Grid) -> tf.Tensor:
    """The integers q - z of real values on a grid; the gradient passes straight through."""
    return modes.rounded(x / tf.stop_gradient(grid.scale))


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedOperation(QuantizedLayer):
    """An operator without weights, on integers.

    Args:
        kind: a row of `PRIMITIVES`.
        arguments: the row's options.
        constants: position among the operands -> value that is a constant there.
        shape: of the output, without the batch axis.
        inputs: see `QuantizedLayer`.
        output: likewise.
        owns_range: likewise.
        range_method: likewise.
    """

    def __init__(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        shape: Sequence[int | None],
        *,
        constants: Mapping[Any, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.kind = kind
        self.arguments = dict(arguments)
        self.constants = {int(k): v for k, v in (constants or {}).items()}
        self.out_shape = tuple(shape)

    @property
    def primitive(self) -> Primitive:
        """Its row."""
        return PRIMITIVES[self.kind]

    def compute_output_spec(self, inputs: Any, training: Any = None) -> Any:
        """The output's shape and dtype."""
        batch = keras.tree.flatten(inputs)[0].shape[0]
        return keras.KerasTensor((batch, *self.out_shape), "float32")

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {
            **super().get_config(),
            "kind": self.kind,
            "arguments": self.arguments,
            "constants": {str(k): np.asarray(v).tolist() for k, v in self.constants.items()},
            "shape": list(self.out_shape),
        }

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The output's real values."""
        xs = [tf.convert_to_tensor(x) for x in keras.tree.flatten(inputs)]
        if modes.export_bits():
            return self._express(xs)
        for position, value in sorted(self.constants.items()):
            xs.insert(position, tf.constant(value, tf.float32))
        real = self.primitive.real(xs, **self.arguments)
        collect = modes.observer()
        if collect is not None:
            if self.owns_range:
                collect(self, real)
            return real
        if self.output_source is None:
            return real
        if self.owns_range and training:
            self.observe(tf.reduce_min(real), tf.reduce_max(real), training)
        grids = self._grids()
        out = self.output_source.grid()
        if self.primitive.float_input:
            qs = xs
        else:
            qs = [steps(x, grid) + grid.zero_point for x, grid in zip(xs, grids, strict=True)]
        compute = self.primitive.integers(out.bits)
        assert compute is not None  # Planned so.
        result = compute(qs, grids, out, **self.arguments)
        value = exact.product(result - out.zero_point, out.scale)
        value.set_shape(real.shape)
        if self.primitive.output != "own":  # Its values cannot leave the grid.
            return modes.through(value, real)
        return on_grid(value, real, self.output_source)

    def _grids(self) -> list[Any]:
        grids = [None if source is None else source.grid() for source in self.input_sources]
        for position, value in sorted(self.constants.items()):
            grids.insert(position, constant_grid(value, self.output_source.bits))
        return grids

    def _express(self, xs: list[tf.Tensor]) -> tf.Tensor:
        """The form that the converter reads."""
        for position, value in sorted(self.constants.items()):
            constant = tf.constant(value, tf.float32)
            if self.output_source is not None:
                constant = fake_quant(constant, constant_grid(value, self.output_source.bits))
            xs.insert(position, constant)
        real = self.primitive.real(xs, **self.arguments)
        if modes.for_onnx():
            only_moves = self.output_source is None or self.kind in ("dequantize", "transpose")
            return real if only_moves else fake_quant(real, known(self.output_source), self.name)
        if self.kind == "requantize":
            real = _marked(fake_quant(real, known(self.input_sources[0])), REQUANTIZE)
        if self.kind == "dequantize":
            return _marked(real, BOUNDARY)
        if self.output_source is None or self.primitive.output == "same":
            return real  # The converter carries the input's grid on.
        return fake_quant(real, known(self.output_source))


def _marked(x: tf.Tensor, marker: str) -> tf.Tensor:
    """See `tfcompress.conversion.rewriting`, which takes this out of the file."""
    return tf.math.ceil(tf.floor(x, name=marker))


def constant_grid(value: Any, bits: int = 8) -> Grid:
    """The grid of a constant operand."""
    with tf.init_scope():
        array = np.asarray(value, np.float32)
        return choose_grid(array.min(), array.max(), bits=bits)
