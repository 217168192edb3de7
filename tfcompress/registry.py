"""What tfcompress knows of each layer class: one row per class, found along the class's MRO."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class LayerRow:
    """What is known of a layer class.

    Attributes:
        kernels: attributes that hold its kernel variables.
        axes: the role of the kernels' last axes, one letter each: "i" an input axis (summed over),
            "o" an output axis. Axes before them are spatial ones ("s"). Or a function
            (layer, variable) -> one letter for every axis.
        default: whether verbs take it unless told otherwise. Depthwise kernels are left out:
            they hold few weights, and pruning or clustering them costs accuracy.
        reason: why not, where `default` is False.
    """

    kernels: tuple[str, ...]
    default: bool = True
    reason: str = ""
    axes: str | Callable[[Any, Any], str] = "io"


_DEPTHWISE = (
    "a depthwise kernel holds few weights and changing it costs accuracy: name it in `include`"
)
_rows: dict[type, LayerRow] = {}
_see_through: set[type] = set()


@functools.cache
def _builtin() -> dict[type, LayerRow]:
    from keras import layers

    kernel = LayerRow(("kernel",))
    # Each output of a depthwise kernel has one input: its channels count as outputs.
    depthwise = LayerRow(("kernel",), default=False, reason=_DEPTHWISE, axes="oo")
    transposed = LayerRow(("kernel",), axes="oi")
    recurrent = LayerRow(("kernel", "recurrent_kernel"))
    rows: dict[type, LayerRow] = dict.fromkeys(
        (
            layers.Dense,
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
        ),
        kernel,
    )
    for cls in (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose):
        rows[cls] = transposed
    rows[layers.EinsumDense] = LayerRow(("kernel",), axes=_einsum_axes)
    rows.update({layers.DepthwiseConv1D: depthwise, layers.DepthwiseConv2D: depthwise})
    for cls in (layers.SeparableConv1D, layers.SeparableConv2D):
        rows[cls] = LayerRow(("pointwise_kernel",))
    for cls in (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell):
        rows[cls] = recurrent
    # A row of the table is what the file stores side by side, as the inputs of a Dense layer are.
    rows[layers.Embedding] = LayerRow(("embeddings",), axes="oi")
    return rows


def _einsum_axes(layer: Any, variable: Any) -> str:
    """The axes that the equation sums over are inputs: `"abc,cde->abde"` gives "ioo"."""
    operands, output = layer.equation.replace(" ", "").split("->")
    kernel = operands.split(",")[1].replace(".", "")
    return "".join("o" if axis in output else "i" for axis in kernel)


def register_layer(
    cls: type, *, kernels: tuple[str, ...], default: bool = True, axes: str = "io"
) -> type:
    """Tells tfcompress about a layer class of your own; its subclasses are covered too.

    Args:
        cls: a `keras.Layer` subclass.
        kernels: names of the attributes that hold its kernel variables.
        default: False to leave it alone unless `include` names it.
        axes: the role of the kernels' last axes, "i" for an input axis (summed over) and "o" for
            an output axis; axes before these are spatial. `"io"` is Keras's order, for Dense and
            convolutions.

    Returns:
        `cls`.

    Raises:
        ConfigError: `cls` is no layer class, or `kernels` is empty.

    Example:
        >>> tfc.register_layer(MyDense, kernels=("weight",))
    """
    import keras

    if not (isinstance(cls, type) and issubclass(cls, keras.Layer)):
        raise ConfigError(f"`cls` must be a subclass of keras.Layer. Received: {cls!r}")
    if isinstance(kernels, str) or not kernels or not all(isinstance(k, str) for k in kernels):
        raise ConfigError(f"`kernels` must be a tuple of attribute names. Received: {kernels!r}")
    if not isinstance(axes, str) or not axes or set(axes) - set("iso"):
        raise ConfigError(
            '`axes` must name the kernel\'s last axes by the letters "i" (input), "o" (output) and '
            f'"s" (spatial), such as "io". Received: {axes!r}'
        )
    reason = "" if default else "left alone by default: name it in `include`"
    _rows[cls] = LayerRow(tuple(kernels), default, reason, axes)
    return cls


def lookup(layer: keras.Layer) -> LayerRow | None:
    """The row of the layer's class or of its nearest registered base; None for unknown layers."""
    builtin = _builtin()
    for cls in type(layer).__mro__:
        row = _rows.get(cls) or builtin.get(cls)
        if row is not None:
            return row
    return None


def kernels(layer: keras.Layer) -> list[Any]:
    """The kernel variables of a built layer ([] where there are none)."""
    row = lookup(layer)
    if row is None:
        return []
    found = []
    for name in row.kernels:
        # `_kernel` comes first: under LoRA `kernel` is a sum, not the variable.
        variable = getattr(layer, f"_{name}", None)
        if variable is None:
            variable = getattr(layer, name, None)
        if variable is None and layer.built and row in _rows.values() and not hasattr(layer, name):
            raise ConfigError(
                f"{type(layer).__name__} is registered with kernels={row.kernels}, and its layer "
                f"{layer.name!r} has no attribute {name!r} once it is built. Register the names "
                "of the attributes that hold its kernels."
            )
        if variable is not None and hasattr(variable, "assign"):
            found.append(variable)
    return found


def axes(layer: keras.Layer, variable: Any) -> str:
    """The role of each axis of one of the layer's kernels: "i" input, "o" output, "s" spatial."""
    row = lookup(layer)
    assert row is not None
    if callable(row.axes):
        return row.axes(layer, variable)
    rank = len(variable.shape)
    return row.axes[-rank:].rjust(rank, "s") if rank else ""


def see_through(cls: type) -> type:
    """Class decorator for wrappers that `walk` leaves away: it gives their `layer` instead."""
    _see_through.add(cls)
    return cls


def student_of(model: Any) -> Any:
    """The model that ships, of one that may stand around it while it trains.

    Of a distiller, Keras's, `tfc.distill`'s or your own (a model with a `student` and a `teacher`
    that are models), it is the student: callbacks and verbs see its layers alone, under the same
    paths as without the distiller. Any other model is itself what ships.
    """
    from keras import Model

    while all(isinstance(getattr(model, name, None), Model) for name in ("student", "teacher")):
        model = model.student
    return model


def walk(model: keras.Model) -> list[tuple[str, keras.Layer]]:
    """Every layer that the model holds, nested ones included, each once, with its path.

    A path joins the names of the models and layers on the way with "/", as in
    `"encoder/attention/query"`. A layer that a verb has wrapped comes under the wrapper's path,
    so that reports and scopes say the same of a model before and after.
    """
    seen: set[int] = {id(model)}
    found: list[tuple[str, Any]] = []

    def visit(holder: Any, prefix: str) -> None:
        for layer in holder._flatten_layers(include_self=False, recursive=False):
            path = f"{prefix}{layer.name}"
            if type(layer) in _see_through:
                layer = layer.layer
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            found.append((path, layer))
            visit(layer, f"{path}/")

    visit(model, "")
    return found
