"""From Keras layers to the few kinds of nodes that can be quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Flow, Value
from tfcompress.quantization.nodes import Affine, Kept, Linear, Node, Operator, Table


class Unsupported(Exception):
    """This call stays float; the text says why."""


class Lowering:
    """Turns calls into nodes.

    Args:
        flow: the model's calls.
        excluded: `id` of each layer that is to stay float, to the reason.

    Attributes:
        nodes: in order.
    """

    def __init__(self, flow: Flow, excluded: dict[int, str]) -> None:
        self.nodes: list[Node] = []
        self._now: dict[int, Value] = {}
        self._call: Any = None
        for call in flow.calls:
            self._lower(call, excluded)
        self.outputs = keras.tree.map_structure(self.now, flow.outputs)

    def now(self, value: Any) -> Any:
        """What stands for a tensor of the model in the nodes."""
        while isinstance(value, Value) and id(value) in self._now:
            value = self._now[id(value)]
        return value

    def _lower(self, call: Call, excluded: dict[int, str]) -> None:
        call.args = keras.tree.map_structure(self.now, call.args)
        call.kwargs = keras.tree.map_structure(self.now, call.kwargs)
        self._call = call
        before = len(self.nodes)
        reason = excluded.get(id(call.operation), "")
        if not reason:
            lower = _find(call.operation)
            if lower is None:
                reason = f"no int8 form of {type(call.operation).__name__} is known"
            else:
                try:
                    result = lower(self, call)
                    if isinstance(result, Value) and result is not call.outputs:
                        self._now[id(call.outputs)] = result
                    return
                except Unsupported as why:
                    reason = str(why)
                    del self.nodes[before:]
        self.keep(reason=reason)

    # -- what the functions below make nodes with

    def keep(self, *, moves: bool = False, joins: bool = False, reason: str = "") -> Value:
        """The call as it is."""
        call = self._call
        node = Kept(call, call.inputs, call.results, [call.path], moves, joins, reason)
        self.nodes.append(node)
        return call.outputs

    def linear(
        self,
        x: Value,
        kind: str,
        kernel: Any,
        bias: Any,
        shape: Sequence[int | None],
        **options: Any,
    ) -> Value:
        """A node with a kernel; `shape` is the output's, with the batch axis."""
        out = Value(tuple(shape), "float32")
        bias = None if bias is None else np.asarray(bias, np.float32)
        activation = options.pop("activation", None)
        affine = options.pop("affine", None)
        owner, norm = options.pop("owner", None), options.pop("norm", None)
        trainable = options.pop("trainable", True)
        kernel = np.asarray(kernel, np.float32)
        node = Linear(
            self._call, [x], [out], [self._call.path], kind, kernel, bias, options, activation,
            affine, owner, norm, trainable=trainable,
        )  # fmt: skip
        self.nodes.append(node)
        return out

    def op(
        self,
        kind: str,
        xs: Sequence[Value],
        shape: Sequence[int | None],
        constants: dict[int, Any] | None = None,
        **arguments: Any,
    ) -> Value:
        """A node without weights."""
        out = Value(tuple(shape), "float32")
        node = Operator(
            self._call, list(xs), [out], [self._call.path], kind, arguments, constants or {}
        )
        self.nodes.append(node)
        return out

    def kept(self, layer: Any, x: Value) -> Value:
        """Another layer that only moves values, as it is."""
        call = Call(layer, (x,), {}, Value(x.shape, x.dtype), f"{self._call.path}/{layer.name}")
        self.nodes.append(Kept(call, [x], [call.outputs], [], moves=True))
        return call.outputs

    def table(self, x: Value, rows: Any, shape: Sequence[int | None], owner: Any) -> Value:
        """Rows of a table by their numbers."""
        out = Value(tuple(shape), "float32")
        self.nodes.append(Table(self._call, [x], [out], [self._call.path], rows, owner))
        return out

    def affine(self, x: Value, scale: Any, shift: Any, norm: Any = None) -> Value:
        """X * scale + shift on the last axis; `norm` where that is what a BatchNormalization does.

        A depthwise convolution of 1x1, whose channels have a scale each.
        """
        channels = x.shape[-1]
        if channels is None:
            raise Unsupported("its number of channels is not known")
        scale = np.broadcast_to(np.asarray(scale, np.float64).reshape(-1), (channels,))
        shift = np.broadcast_to(np.asarray(shift, np.float64).reshape(-1), (channels,))
        folded = Affine(scale, shift)
        options: dict[str, Any] = {} if len(x.shape) == 4 else {"tail": (channels,)}
        kernel = np.ones(channels) if norm is not None else scale
        bias = None if norm is not None or not shift.any() else shift
        return self.linear(
            x, "depthwise", kernel.reshape(1, 1, channels, 1), bias, x.shape, affine=folded,
            norm=norm, trainable=False, **options,
        )  # fmt: skip

    def activation(self, x: Value, function: Any) -> Value:
        """A Keras activation: a function, a layer, or None."""
        if function is None:
            return x
        if isinstance(function, keras.Layer):
            lower = _find(function)
            if lower is None:
                raise Unsupported(f"no int8 form of its activation {function.name!r} is known")
            call = self._call
            out = Value(x.shape, "float32")
            self._call = Call(function, (x,), {}, out, call.path)
            try:
                return lower(self, self._call)
            finally:
                self._call = call
        name = getattr(function, "__name__", "")
        if function is not getattr(keras.activations, name, None) or name not in _ACTIVATIONS:
            raise Unsupported(f"no int8 form of its activation {name or function!r} is known")
        return _ACTIVATIONS[name](self, x)


Lower = Callable[[Lowering, Any], Any]
_layers: dict[type, Lower] = {}
_operations: dict[str, Lower] = {}


def _find(operation: Any) -> Lower | None:
    cls = type(operation)
    if not isinstance(operation, keras.Layer):
        own = cls.__module__.startswith("keras.src.ops.")
        return _operations.get(cls.__name__) if own else None
    if cls.__module__.startswith("keras.src.applications.") and cls.__name__ in _operations:
        return _operations[cls.__name__]
    for base in cls.__mro__:
        if base in _layers:
            # A subclass that computes something else is another layer.
            same = cls.call is base.call  # type: ignore[attr-defined]
            return _layers[base] if same else None
    return None


def _layer(*classes: Any) -> Callable[[Lower], Lower]:
    def register(function: Lower) -> Lower:
        _layers.update(dict.fromkeys(classes, function))
        return function

    return register


def _operation(*names: str) -> Callable[[Lower], Lower]:
    def register(function: Lower) -> Lower:
        _operations.update(dict.fromkeys(names, function))
        return function

    return register


def _one(call: Call) -> Value:
    values = call.inputs
    if len(values) != 1 or not values[0].dtype.startswith(("float", "bfloat")):
        raise Unsupported("it takes several inputs, or no floating-point one")
    return values[0]


def _array(variable: Any) -> Any:
    return None if variable is None else keras.ops.convert_to_numpy(variable).astype(np.float32)


def _last(layer: Any) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise Unsupported("data_format channels_first does not convert")


layers = keras.layers

# -- layers with kernels


@_layer(layers.Dense)
def _dense(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    kernel = _array(layer.kernel)
    y = b.linear(
        x, "conv", kernel[None, None], _array(layer.bias), (*x.shape[:-1], layer.units),
        tail=(layer.units,), owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@_layer(layers.EinsumDense)
def _einsum_dense(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    equation = layer.equation.replace(" ", "")
    operands, output = equation.split("->")
    source, weights = operands.split(",")
    summed = [axis for axis in weights if axis not in output]
    made = [axis for axis in weights if axis in output]
    count = len(summed)
    fits = (
        count
        and source.endswith("".join(summed))
        and weights == "".join(summed + made)
        and output == source[:-count] + "".join(made)
    )
    if not fits:
        raise Unsupported(f"its equation {layer.equation!r} is no dense layer on the last axes")
    kernel = _array(layer.kernel)
    tail = kernel.shape[count:]
    kernel = kernel.reshape(int(np.prod(kernel.shape[:count])), -1)
    bias = _array(layer.bias)
    if bias is not None:
        bias = np.broadcast_to(bias, tail).reshape(-1)
    y = b.linear(
        x, "conv", kernel[None, None], bias, (*x.shape[:-count], *tail),
        tail=tail, contracted=count, owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@_layer(layers.Conv2D)
def _conv2d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    kind, kernel = "conv", _array(layer.kernel)
    if (
        layer.groups > 1 and layer.groups == x.shape[-1]
    ):  # What ConvNeXt calls a depthwise convolution.
        _equal_strides(layer.strides)
        kind, kernel = "depthwise", kernel.reshape(*kernel.shape[:2], layer.groups, -1)
    elif layer.groups != 1:
        raise Unsupported("grouped convolutions have no gradient on TensorFlow's CPU")
    y = b.linear(
        x, kind, kernel, _array(layer.bias), call.outputs.shape,
        strides=layer.strides, padding=layer.padding.upper(), dilations=layer.dilation_rate,
        owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@_layer(layers.Conv1D)
def _conv1d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    if layer.groups != 1 or layer.padding == "causal":
        raise Unsupported("grouped and causal convolutions of sequences are not known in int8")
    y = b.linear(
        x, "conv", _array(layer.kernel)[None], _array(layer.bias), call.outputs.shape,
        strides=(1, *layer.strides), padding=layer.padding.upper(),
        dilations=(1, *layer.dilation_rate), lifted=True, owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


def _equal_strides(strides: Sequence[int]) -> None:
    if len(set(strides)) > 1:
        raise Unsupported("depthwise kernels need equal strides")


@_layer(layers.DepthwiseConv2D)
def _depthwise2d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    _equal_strides(layer.strides)
    y = b.linear(
        x, "depthwise", _array(layer.kernel), _array(layer.bias), call.outputs.shape,
        strides=layer.strides, padding=layer.padding.upper(), dilations=layer.dilation_rate,
        owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@_layer(layers.DepthwiseConv1D)
def _depthwise1d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    stride = layer.strides[0]
    y = b.linear(
        x, "depthwise", _array(layer.kernel)[None], _array(layer.bias), call.outputs.shape,
        strides=(stride, stride), padding=layer.padding.upper(),
        dilations=(1, *layer.dilation_rate), lifted=True, owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@_layer(layers.SeparableConv2D, layers.SeparableConv1D)
def _separable(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    _equal_strides(layer.strides)
    depthwise, pointwise = _array(layer.depthwise_kernel), _array(layer.pointwise_kernel)
    strides, rates = layer.strides, layer.dilation_rate
    options: dict[str, Any] = {}
    if depthwise.ndim == 3:
        depthwise, pointwise = depthwise[None], pointwise[None]
        strides, rates = (strides[0], strides[0]), (1, *rates)
        options = {"lifted": True}
    middle = (*call.outputs.shape[:-1], pointwise.shape[2])
    x = b.linear(
        x, "depthwise", depthwise, None, middle, strides=strides,
        padding=layer.padding.upper(), dilations=rates, owner=layer, **options,
    )  # fmt: skip
    y = b.linear(
        x, "conv", pointwise, _array(layer.bias), call.outputs.shape, owner=layer, **options
    )
    return b.activation(y, layer.activation)


@_layer(layers.Conv2DTranspose)
def _transposed(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    if layer.output_padding is not None or set(layer.dilation_rate) != {1}:
        raise Unsupported("output_padding and dilation of a transposed convolution do not convert")
    y = b.linear(
        x, "transpose", _array(layer.kernel), _array(layer.bias), call.outputs.shape,
        strides=layer.strides, padding=layer.padding.upper(), owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


# -- a factor and a shift for each channel


@_layer(layers.BatchNormalization)
def _batchnorm(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, len(x.shape) - 1):
        raise Unsupported("a BatchNormalization on another axis than the last")
    mean, variance = (
        keras.ops.convert_to_numpy(v).astype(np.float64)
        for v in (layer.moving_mean, layer.moving_variance)
    )
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * keras.ops.convert_to_numpy(layer.gamma)
    shift = -mean * scale
    if layer.center:
        shift = shift + keras.ops.convert_to_numpy(layer.beta)
    return b.affine(x, scale, shift, layer)


@_layer(layers.Rescaling)
def _rescaling(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    return b.affine(x, layer.scale, layer.offset)


@_layer(layers.Normalization)
def _normalization(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
    if layer.invert or any(np.size(v) not in (1, x.shape[-1]) for v in (mean, variance)):
        raise Unsupported("a Normalization of other axes than the last, or an inverted one")
    scale = 1 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
    return b.affine(x, scale, -mean * scale)


# -- activations


def _relu_of(b: Lowering, x: Value, kind: str) -> Value:
    return b.op(kind, [x], x.shape)


def _silu(b: Lowering, x: Value) -> Value:
    gate = b.op("sigmoid", [x], x.shape)
    return b.op("multiply", [x, gate], x.shape)


def _hard_sigmoid(b: Lowering, x: Value) -> Value:
    raised = b.op("add", [x], x.shape, {1: 3.0})
    return b.op("multiply", [_relu_of(b, raised, "relu6")], x.shape, {1: 1 / 6})


_ACTIVATIONS: dict[str, Callable[[Lowering, Value], Value]] = {
    "linear": lambda b, x: x,
    "relu": lambda b, x: _relu_of(b, x, "relu"),
    "relu6": lambda b, x: _relu_of(b, x, "relu6"),
    "leaky_relu": lambda b, x: b.op("leaky_relu", [x], x.shape, alpha=0.2),
    "sigmoid": lambda b, x: b.op("sigmoid", [x], x.shape),
    "tanh": lambda b, x: b.op("tanh", [x], x.shape),
    "softmax": lambda b, x: b.op("softmax", [x], x.shape),
    "silu": _silu,
    "hard_silu": lambda b, x: b.op("hard_swish", [x], x.shape),
    "hard_sigmoid": _hard_sigmoid,
    "gelu": lambda b, x: b.op("gelu", [x], x.shape, approximate=False),
}


@_layer(layers.Activation)
def _activation(b: Lowering, call: Call) -> Value:
    return b.activation(_one(call), call.operation.activation)


@_layer(layers.ReLU)
def _relu(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    if layer.threshold or layer.max_value not in (None, 6):
        raise Unsupported("a ReLU with another threshold than 0 or another maximum than 6")
    if layer.negative_slope:
        if layer.max_value is not None:
            raise Unsupported("a ReLU with a slope and a maximum")
        return b.op("leaky_relu", [x], x.shape, alpha=float(layer.negative_slope))
    return _relu_of(b, x, "relu" if layer.max_value is None else "relu6")


@_layer(layers.LeakyReLU)
def _leaky(b: Lowering, call: Call) -> Value:
    x = _one(call)
    return b.op("leaky_relu", [x], x.shape, alpha=float(call.operation.negative_slope))


@_layer(layers.Softmax)
def _softmax(b: Lowering, call: Call) -> Value:
    x = _one(call)
    if call.operation.axis not in (-1, len(x.shape) - 1):
        raise Unsupported("a softmax on another axis than the last")
    return b.op("softmax", [x], x.shape)


@_operation("Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "HardSilu", "HardSigmoid")
def _plain_function(b: Lowering, call: Call) -> Value:
    names = {"Silu": "silu", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid"}
    kind = type(call.operation).__name__
    return _ACTIVATIONS[names.get(kind, kind.lower())](b, _one(call))


@_operation("Softmax")
def _softmax_function(b: Lowering, call: Call) -> Value:
    return _softmax(b, call)


@_operation("LeakyRelu")
def _leaky_function(b: Lowering, call: Call) -> Value:
    return _leaky(b, call)


@_operation("Gelu")
def _gelu(b: Lowering, call: Call) -> Value:
    x = _one(call)
    return b.op("gelu", [x], x.shape, approximate=bool(call.operation.approximate))


# -- attention and embeddings


@_layer(layers.MultiHeadAttention)
def _attention(b: Lowering, call: Call) -> Value:
    """Projections and both products in int8, the softmax between them in float."""
    layer = call.operation
    values = call.inputs
    asked = {k: v for k, v in call.kwargs.items() if k not in ("training", "query", "value", "key")}
    if any(v is not None and v is not False for v in asked.values()):
        raise Unsupported(f"attention with {sorted(k for k, v in asked.items() if v)}")
    if any(v.masked for v in values):
        raise Unsupported("attention under a Keras mask")
    if len(call.args) > 3 or any(not v.dtype.startswith("float") for v in values):
        raise Unsupported("attention with a mask")
    if layer._attention_axes not in (None, (1,), [1]) or len(values[0].shape) != 3:
        raise Unsupported("attention over other axes than that of a sequence")
    query = _named(call, 0, "query")
    value = _named(call, 1, "value")
    key = _named(call, 2, "key") or value
    heads, size = layer.num_heads, layer.key_dim
    projected = []
    for x, dense, width in (
        (query, layer._query_dense, size),
        (key, layer._key_dense, size),
        (value, layer._value_dense, layer.value_dim),
    ):
        y = _projected(b, x, dense, (heads, width))
        shape = (y.shape[0], heads, y.shape[1], width)
        projected.append(b.op("transpose", [y], shape, perm=[0, 2, 1, 3]))
    q, k, v = projected
    weights_shape = (q.shape[0], heads, q.shape[2], k.shape[2])
    scores = b.op("matmul", [q, k], weights_shape, adjoint_b=True)
    weights = b.op("attention_weights", [scores], weights_shape, factor=float(size**-0.5))
    if layer.dropout:
        weights = b.kept(layer._dropout_layer, weights)
    mixed = b.op("matmul", [weights, v], (*q.shape[:3], layer.value_dim), adjoint_b=False)
    back = (q.shape[0], q.shape[2], heads, layer.value_dim)
    mixed = b.op("transpose", [mixed], back, perm=[0, 2, 1, 3])
    kernel = _array(layer._output_dense.kernel)
    if kernel.ndim != 3:
        raise Unsupported("attention with an output of several axes")
    return _projected(b, mixed, layer._output_dense, (kernel.shape[-1],), contracted=2)


def _named(call: Call, position: int, name: str) -> Any:
    if len(call.args) > position:
        return call.args[position]
    return call.kwargs.get(name)


def _projected(
    b: Lowering, x: Value, dense: Any, tail: Sequence[int], contracted: int = 1
) -> Value:
    kernel, bias = _array(dense.kernel), _array(dense.bias)
    kernel = kernel.reshape(int(np.prod(kernel.shape[:contracted])), -1)
    shape = (*x.shape[:-contracted], *tail)
    return b.linear(
        x, "conv", kernel[None, None], None if bias is None else bias.reshape(-1), shape,
        tail=tuple(tail), contracted=contracted, owner=dense,
    )  # fmt: skip


@_layer(layers.Embedding)
def _embedding(b: Lowering, call: Call) -> Value:
    (tokens,) = call.inputs
    if call.operation.mask_zero:
        raise Unsupported("an embedding that makes a mask")
    return b.table(tokens, _array(call.operation.embeddings), call.outputs.shape, call.operation)


# -- several inputs


def _pair(b: Lowering, call: Call, kind: str) -> Value:
    """Two operands, of which one may be a constant."""
    given = [*call.args, *call.kwargs.values()]
    if len(given) == 1 and isinstance(given[0], (list, tuple)):
        given = list(given[0])
    xs = [item for item in given if isinstance(item, Value)]
    constants = {
        i: np.asarray(item, np.float32)
        for i, item in enumerate(given)
        if not isinstance(item, Value)
    }
    if any(not x.dtype.startswith(("float", "bfloat")) for x in xs):
        raise Unsupported("it computes on whole numbers")
    if len(given) != 2 or any(not np.isfinite(c).all() for c in constants.values()):
        raise Unsupported("it does not have two operands")
    if len(xs) == 2 and (xs[0] is xs[1]):
        raise Unsupported("both operands are one tensor")
    return b.op(kind, xs, call.outputs.shape, constants)


def _chained(b: Lowering, call: Call, kind: str) -> Value:
    values = call.inputs
    if len({id(v) for v in values}) < len(values):
        raise Unsupported("it takes one tensor twice")
    total = values[0]
    for value in values[1:]:
        shape = np.broadcast_shapes(
            *(tuple(1 if s is None else s for s in v.shape) for v in (total, value))
        )
        total = b.op(kind, [total, value], (call.outputs.shape[0], *shape[1:]))
    return total


@_layer(layers.Add)
def _add(b: Lowering, call: Call) -> Value:
    return _chained(b, call, "add")


@_layer(layers.Multiply)
def _multiply(b: Lowering, call: Call) -> Value:
    return _chained(b, call, "multiply")


@_layer(layers.Subtract)
def _subtract(b: Lowering, call: Call) -> Value:
    return _chained(b, call, "subtract")


@_layer(layers.Average)
def _average(b: Lowering, call: Call) -> Value:
    total = _chained(b, call, "add")
    return b.op("multiply", [total], total.shape, {1: 1 / len(call.inputs)})


@_operation("CustomScaleLayer")
def _scaled_sum(b: Lowering, call: Call) -> Value:
    """A layer of keras.applications.InceptionResNetV2: inputs[0] + scale * inputs[1]."""
    straight, scaled = call.inputs
    scaled = b.affine(scaled, call.operation.scale, 0.0)
    return b.op("add", [straight, scaled], call.outputs.shape)


@_operation("LayerScale")
def _layer_scale(b: Lowering, call: Call) -> Value:
    """A layer of keras.applications' ConvNeXt: a factor for each channel."""
    return b.affine(_one(call), keras.ops.convert_to_numpy(call.operation.gamma), 0.0)


@_operation("Add", "Subtract", "Multiply")
def _arithmetic(b: Lowering, call: Call) -> Value:
    return _pair(b, call, type(call.operation).__name__.lower())


@_operation("TrueDivide", "Divide")
def _divide(b: Lowering, call: Call) -> Value:
    given = [*call.args, *call.kwargs.values()]
    if len(given) != 2 or not isinstance(given[0], Value) or isinstance(given[1], Value):
        raise Unsupported("the runtime's int8 division overflows: only a constant divisor is taken")
    divisor = np.asarray(given[1], np.float64)
    if not np.isfinite(1 / divisor).all():
        raise Unsupported("it divides by zero")
    return b.op("multiply", [_one(call)], call.outputs.shape, {1: (1 / divisor).astype("f4")})


@_layer(layers.Concatenate, layers.Maximum, layers.Minimum)
@_operation("Concatenate", "Maximum", "Minimum", "Stack")
def _join(b: Lowering, call: Call) -> Value:
    given = keras.tree.flatten((call.args, call.kwargs))
    tensors = [item for item in given if isinstance(item, Value)]
    named = type(call.operation).__name__ in ("Maximum", "Minimum")
    if named and len(tensors) != len(given):
        raise Unsupported("one of its operands is a constant")
    if any(not v.dtype.startswith(("float", "bfloat")) for v in tensors):
        raise Unsupported("it computes on whole numbers")
    return b.keep(joins=True)


# -- pools and reductions


def _mean_of(b: Lowering, call: Call, axes: Sequence[int], keepdims: bool) -> Value:
    x = _one(call)
    if any(x.shape[axis] is None for axis in axes):
        raise Unsupported("it averages over an axis of unknown size")
    return b.op("mean", [x], call.outputs.shape, axes=list(axes), keepdims=bool(keepdims))


@_layer(layers.GlobalAveragePooling2D)
def _global_average(b: Lowering, call: Call) -> Value:
    _last(call.operation)
    return _mean_of(b, call, (1, 2), call.operation.keepdims)


@_layer(layers.GlobalAveragePooling1D)
def _global_average_1d(b: Lowering, call: Call) -> Value:
    _last(call.operation)
    if call.kwargs.get("mask") is not None or call.inputs[0].masked:
        raise Unsupported("an average over a mask")
    return _mean_of(b, call, (1,), call.operation.keepdims)


@_operation("Mean")
def _mean(b: Lowering, call: Call) -> Value:
    operation, x = call.operation, _one(call)
    axis = operation.axis
    given = range(len(x.shape)) if axis is None else [int(a) for a in np.atleast_1d(axis)]
    axes = sorted(a % len(x.shape) for a in given)
    if 0 in axes:
        raise Unsupported("a mean over the batch")
    return _mean_of(b, call, axes, operation.keepdims)


@_layer(layers.AveragePooling2D)
def _average_pool(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    if None in x.shape[1:3]:
        raise Unsupported("an average pool of images of unknown size")
    return b.op(
        "average_pool", [x], call.outputs.shape, size=list(layer.pool_size),
        strides=list(layer.strides), padding=layer.padding.upper(),
    )  # fmt: skip


@_layer(layers.MaxPooling1D, layers.MaxPooling2D)
@_layer(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)
@_layer(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D, layers.Cropping2D)
@_layer(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector)
@_layer(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D)
@_layer(layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout)
@_layer(layers.Identity, layers.ActivityRegularization, layers.UpSampling1D)
@_operation("Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Max", "Flip", "Repeat")
@_operation("Split", "StochasticDepth", "Identity", "Ravel", "Swapaxes", "Moveaxis", "MaxPool")
def _move(b: Lowering, call: Call) -> Value:
    _one(call)
    return b.keep(moves=True)


@_layer(layers.UpSampling2D)
def _upsample(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, _one(call)
    _last(layer)
    if layer.interpolation == "nearest":
        return b.keep(moves=True)
    if layer.interpolation != "bilinear" or None in call.outputs.shape[1:3]:
        raise Unsupported(f"{layer.interpolation} upsampling")
    return b.op("resize_bilinear", [x], call.outputs.shape, size=list(call.outputs.shape[1:3]))
