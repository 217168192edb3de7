"""TensorFlow functions in a tf_keras graph as operations of Keras 3, by their TensorFlow names.

Each function here has the signature of TensorFlow's own, so that arguments bind as they did there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.legacy.layers import WithoutCounterpart


def operation(layer: Any) -> Callable[..., Any]:
    """What computes as a TFOpLambda or SlicingOpLambda does.

    Raises:
        WithoutCounterpart: nothing known does.
    """
    symbol = str(getattr(layer, "symbol", None) or getattr(layer.function, "__name__", "?"))
    found = _TABLE.get(symbol) or _TABLE.get(symbol.removeprefix("compat.v1."))
    if found is None:
        raise WithoutCounterpart(f"no operation of Keras 3 is known for the function tf.{symbol}")
    return found


def _name(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else str(dtype.name)


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, name: Any = None) -> Any:
        return function(x)

    return call


def _features(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(features: Any, name: Any = None) -> Any:
        return function(features)

    return call


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, y: Any, name: Any = None) -> Any:
        return function(x, y)

    return call


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(input_tensor: Any, axis: Any = None, keepdims: bool = False, name: Any = None) -> Any:
        return function(input_tensor, axis=_axes(axis), keepdims=bool(keepdims))

    return call


def _axes(axis: Any) -> Any:
    return tuple(int(a) for a in axis) if isinstance(axis, (list, tuple, np.ndarray)) else axis


class Sizes:
    """What `tf.shape` gives where the model is built: numbers, and None for what is open."""

    def __init__(self, sizes: Any) -> None:
        self.sizes = tuple(sizes)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.sizes, dtype or "int32")

    def __getitem__(self, spec: Any) -> Any:
        found = self.sizes[spec[0] if isinstance(spec, tuple) else spec]
        return (
            Sizes(found)
            if isinstance(found, tuple)
            else Sizes((found,))
            if found is None
            else found
        )


def _shape(input: Any, out_type: Any = None, name: Any = None, name_scope: Any = None) -> Any:
    return Sizes(ops.shape(input))


def _size(value: Any) -> int:
    if isinstance(value, Sizes):
        (value,) = value.sizes
    return -1 if value is None else int(value)


def _getitem(tensor: Any, slice_spec: Any, var: Any = None) -> Any:
    spec = slice_spec if isinstance(slice_spec, (list, tuple)) else (slice_spec,)
    return tensor[tuple(_slice(part) for part in spec)]


def _slice(part: Any) -> Any:
    if isinstance(part, dict):
        return slice(part["start"], part["stop"], part["step"])
    return Ellipsis if part == "..." else part


def _cast(x: Any, dtype: Any, name: Any = None) -> Any:
    return ops.cast(x, _name(dtype))


def _reshape(tensor: Any, shape: Any, name: Any = None) -> Any:
    given = shape.sizes if isinstance(shape, Sizes) else shape
    sizes = tuple(_size(size) for size in given)
    if sizes.count(-1) < 2:
        return ops.reshape(tensor, sizes)
    if isinstance(given[0], int) or sizes[1:].count(-1) > 1:
        raise WithoutCounterpart("tf.reshape to a shape of several open sizes")
    return keras.layers.Reshape(sizes[1:])(tensor)  # it keeps the first, whatever that will be


def _broadcast(input: Any, shape: Any, name: Any = None) -> Any:
    sizes = [_size(size) for size in (shape.sizes if isinstance(shape, Sizes) else shape)]
    for _ in range(len(sizes) - len(input.shape)):
        input = ops.expand_dims(input, 0)
    pairs = list(zip(input.shape, sizes, strict=True))
    if any(size == -1 and own is not None for own, size in pairs):
        raise WithoutCounterpart("tf.broadcast_to an open size")
    return ops.tile(input, [size if own == 1 else 1 for own, size in pairs])


def _transpose(a: Any, perm: Any = None, conjugate: bool = False, name: Any = None) -> Any:
    return ops.transpose(a, None if perm is None else [int(axis) for axis in perm])


def _concat(values: Any, axis: int, name: Any = None) -> Any:
    return ops.concatenate(list(values), axis=int(axis))


def _stack(values: Any, axis: int = 0, name: Any = None) -> Any:
    if any(isinstance(value, (Sizes, int)) for value in values):
        sizes = [value.sizes[0] if isinstance(value, Sizes) else int(value) for value in values]
        return Sizes(sizes)
    return ops.stack(list(values), axis=int(axis))


def _unstack(value: Any, num: Any = None, axis: int = 0, name: Any = None) -> Any:
    return ops.unstack(value, num=num, axis=axis)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None,
           name: Any = None) -> Any:  # fmt: skip
    if isinstance(num_or_size_splits, (list, tuple, np.ndarray)):
        parts = [int(edge) for edge in np.cumsum(num_or_size_splits)[:-1]]
        return ops.split(value, parts, axis=axis)
    return ops.split(value, int(num_or_size_splits), axis=axis)


def _expand(input: Any, axis: int, name: Any = None) -> Any:
    return ops.expand_dims(input, axis)


def _squeeze(input: Any, axis: Any = None, name: Any = None, squeeze_dims: Any = None) -> Any:
    return ops.squeeze(input, _axes(axis if squeeze_dims is None else squeeze_dims))


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False,
            adjoint_a: bool = False, adjoint_b: bool = False, a_is_sparse: bool = False,
            b_is_sparse: bool = False, output_type: Any = None, grad_a: bool = False,
            grad_b: bool = False, name: Any = None) -> Any:  # fmt: skip
    a = ops.swapaxes(a, -1, -2) if transpose_a or adjoint_a else a
    b = ops.swapaxes(b, -1, -2) if transpose_b or adjoint_b else b
    return ops.matmul(a, b)


def _softmax(logits: Any, axis: Any = None, name: Any = None) -> Any:
    return ops.softmax(logits, axis=-1 if axis is None else axis)


def _log_softmax(logits: Any, axis: Any = None, name: Any = None) -> Any:
    return ops.log_softmax(logits, axis=-1 if axis is None else axis)


def _backend_softmax(x: Any, axis: int = -1) -> Any:
    return ops.softmax(x, axis=axis)


def _gelu(features: Any, approximate: bool = False, name: Any = None) -> Any:
    return ops.gelu(features, approximate=approximate)


def _swish(features: Any, beta: float = 1.0) -> Any:
    return ops.silu(features) if beta == 1.0 else features * ops.sigmoid(beta * features)


def _leaky(features: Any, alpha: float = 0.2, name: Any = None) -> Any:
    return ops.leaky_relu(features, negative_slope=float(alpha))


def _clip(t: Any, clip_value_min: Any, clip_value_max: Any, name: Any = None) -> Any:
    return ops.minimum(ops.maximum(t, clip_value_min), clip_value_max)


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0,
         name: Any = None) -> Any:  # fmt: skip
    widths = tuple(tuple(int(size) for size in pair) for pair in paddings)
    value = constant_values if mode.upper() == "CONSTANT" else None
    return ops.pad(tensor, widths, mode=mode.lower(), constant_values=value)


def _pad1(tensor: Any, paddings: Any, mode: str = "CONSTANT", name: Any = None,
          constant_values: Any = 0) -> Any:  # fmt: skip
    return _pad(tensor, paddings, mode, constant_values)


def _tile(input: Any, multiples: Any, name: Any = None) -> Any:
    return ops.tile(input, tuple(int(times) for times in multiples))


def _where(condition: Any, x: Any = None, y: Any = None, name: Any = None) -> Any:
    if x is None:
        raise WithoutCounterpart("tf.where without values gives a tensor of unknown length")
    return ops.where(condition, x, y)


def _argmax(input: Any, axis: Any = None, output_type: Any = "int64", name: Any = None) -> Any:
    return ops.cast(ops.argmax(input, axis=0 if axis is None else axis), _name(output_type))


def _argmin(input: Any, axis: Any = None, output_type: Any = "int64", name: Any = None) -> Any:
    return ops.cast(ops.argmin(input, axis=0 if axis is None else axis), _name(output_type))


def _one_hot(indices: Any, depth: int, on_value: Any = None, off_value: Any = None,
             axis: Any = None, dtype: Any = None, name: Any = None) -> Any:  # fmt: skip
    if on_value is not None or off_value is not None:
        raise WithoutCounterpart("tf.one_hot with values other than 1 and 0")
    axis = -1 if axis is None else axis
    return ops.one_hot(indices, int(depth), axis=axis, dtype=_name(dtype or "float32"))


def _gather(params: Any, indices: Any, validate_indices: Any = None, axis: Any = None,
            batch_dims: int = 0, name: Any = None) -> Any:  # fmt: skip
    if batch_dims:
        axis = batch_dims if axis is None else axis % len(params.shape)
        if len(indices.shape) == batch_dims == axis:  # one of each row
            only = _gather(params, ops.expand_dims(indices, -1), batch_dims=batch_dims)
            return ops.squeeze(only, axis)
        if axis != batch_dims or len(indices.shape) != batch_dims + 1:
            raise WithoutCounterpart("tf.gather with batch_dims of another axis than the next one")
        for _ in params.shape[axis + 1 :]:
            indices = ops.expand_dims(indices, -1)
        times = [1] * (axis + 1) + list(params.shape[axis + 1 :])
        if None in times:
            raise WithoutCounterpart("tf.gather with batch_dims and open sizes behind its axis")
        return ops.take_along_axis(params, ops.tile(indices, times), axis=axis)
    return ops.take(params, indices, axis=0 if axis is None else axis)


def _resize(images: Any, size: Any, method: str = "bilinear", preserve_aspect_ratio: bool = False,
            antialias: bool = False, name: Any = None) -> Any:  # fmt: skip
    if preserve_aspect_ratio or method not in ("bilinear", "nearest", "bicubic"):
        raise WithoutCounterpart(f"tf.image.resize by {method!r}, preserving the aspect ratio")
    resized = ops.image.resize(
        images, tuple(int(side) for side in size), interpolation=method, antialias=antialias
    )
    return resized if method == "nearest" else ops.cast(resized, "float32")


def _normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, name: Any = None) -> Any:
    squares = ops.sum(ops.square(x), axis=_axes(axis), keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, epsilon))


def _einsum(equation: str, *inputs: Any, **kwargs: Any) -> Any:
    return ops.einsum(equation, *inputs)


def _convert(value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    return value if dtype is None else ops.cast(value, _name(dtype))


def _identity(input: Any, name: Any = None) -> Any:
    return keras.layers.Identity()(input)


def _like(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(input: Any, dtype: Any = None, name: Any = None, **kwargs: Any) -> Any:
        return function(input, dtype=None if dtype is None else _name(dtype))

    return call


def _add_n(inputs: Any, name: Any = None) -> Any:
    total = inputs[0]
    for value in inputs[1:]:
        total = ops.add(total, value)
    return total


def _cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False,
            name: Any = None) -> Any:  # fmt: skip
    if exclusive or reverse:
        raise WithoutCounterpart("tf.cumsum that is exclusive or reversed")
    return ops.cumsum(x, axis=axis)


def _relu(x: Any, alpha: float = 0.0, max_value: Any = None, threshold: float = 0.0,
          negative_slope: float = 0.0) -> Any:  # fmt: skip
    layer = keras.layers.ReLU(max_value, alpha or negative_slope, threshold)
    return layer(x)


def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = None,
          name: Any = None) -> Any:  # fmt: skip
    ord = None if ord == "euclidean" else ord
    return ops.norm(tensor, ord=ord, axis=_axes(axis), keepdims=bool(keepdims))


def _top_k(input: Any, k: int = 1, sorted: bool = True, index_type: Any = "int32",
           name: Any = None) -> Any:  # fmt: skip
    values, indices = ops.top_k(input, int(k), sorted=sorted)
    return values, ops.cast(indices, _name(index_type))


def _sort(values: Any, axis: int = -1, direction: str = "ASCENDING", name: Any = None) -> Any:
    found = ops.sort(values, axis=axis)
    return found if direction == "ASCENDING" else ops.flip(found, axis=axis)


def _argsort(values: Any, axis: int = -1, direction: str = "ASCENDING", stable: bool = False,
             name: Any = None) -> Any:  # fmt: skip
    return ops.argsort(values if direction == "ASCENDING" else ops.negative(values), axis=axis)


def _reverse(tensor: Any, axis: Any, name: Any = None) -> Any:
    return ops.flip(tensor, axis=_axes(axis))


def _roll(input: Any, shift: Any, axis: Any, name: Any = None) -> Any:
    return ops.roll(input, _axes(shift), axis=_axes(axis))


def _repeat(input: Any, repeats: int, axis: Any = None, name: Any = None) -> Any:
    return ops.repeat(input, int(repeats), axis=axis)


def _matrix_transpose(a: Any, name: Any = None, conjugate: bool = False) -> Any:
    return ops.swapaxes(a, -1, -2)


def _flip(axis: int) -> Callable[..., Any]:
    def call(image: Any) -> Any:
        return ops.flip(image, axis=axis)

    return call


_TABLE: dict[str, Callable[..., Any]] = {
    "__operators__.getitem": _getitem,
    "keras.backend.softmax": _backend_softmax,
    "keras.activations.softmax": _backend_softmax,
    "keras.backend.relu": _relu,
    "keras.activations.relu": _relu,
    "cast": _cast, "reshape": _reshape, "transpose": _transpose, "concat": _concat,
    "stack": _stack, "unstack": _unstack, "split": _split, "expand_dims": _expand,
    "squeeze": _squeeze, "linalg.matmul": _matmul, "__operators__.matmul": _matmul,
    "matmul": _matmul, "nn.softmax": _softmax, "nn.log_softmax": _log_softmax, "nn.gelu": _gelu,
    "nn.silu": _swish, "nn.swish": _swish, "nn.leaky_relu": _leaky, "clip_by_value": _clip,
    "pad": _pad, "tile": _tile, "where": _where, "math.argmax": _argmax, "argmax": _argmax,
    "math.argmin": _argmin, "one_hot": _one_hot, "gather": _gather, "image.resize": _resize,
    "math.l2_normalize": _normalize, "einsum": _einsum, "linalg.einsum": _einsum,
    "convert_to_tensor": _convert, "identity": _identity, "stop_gradient": _identity,
    "zeros_like": _like(ops.zeros_like), "ones_like": _like(ops.ones_like),
    "math.add_n": _add_n, "math.cumsum": _cumsum, "shape": _shape,
    "compat.v1.pad": _pad1, "broadcast_to": _broadcast, "norm": _norm, "linalg.norm": _norm,
    "math.top_k": _top_k, "nn.top_k": _top_k, "sort": _sort, "argsort": _argsort,
    "reverse": _reverse, "roll": _roll, "repeat": _repeat,
    "linalg.matrix_transpose": _matrix_transpose,
    "image.flip_left_right": _flip(-2), "image.flip_up_down": _flip(-3),
}  # fmt: skip
_TABLE |= {
    f"{place}.{name}": _binary(function)
    for place in ("math", "__operators__")
    for name, function in {
        "add": ops.add, "subtract": ops.subtract, "sub": ops.subtract, "multiply": ops.multiply,
        "mul": ops.multiply, "divide": ops.divide, "truediv": ops.true_divide,
        "floordiv": ops.floor_divide, "div_no_nan": ops.divide_no_nan,
        "divide_no_nan": ops.divide_no_nan, "floormod": ops.mod, "mod": ops.mod, "pow": ops.power,
        "maximum": ops.maximum, "minimum": ops.minimum, "greater": ops.greater,
        "greater_equal": ops.greater_equal, "less": ops.less, "less_equal": ops.less_equal,
        "equal": ops.equal, "not_equal": ops.not_equal, "eq": ops.equal, "ne": ops.not_equal,
        "gt": ops.greater, "ge": ops.greater_equal, "lt": ops.less, "le": ops.less_equal,
        "logical_and": ops.logical_and, "logical_or": ops.logical_or, "and": ops.logical_and,
        "or": ops.logical_or, "logical_xor": ops.logical_xor, "squared_difference":
        lambda x, y: ops.square(ops.subtract(x, y)), "atan2": ops.arctan2,
    }.items()
}  # fmt: skip
_TABLE |= {
    f"{place}{name}": _unary(function)
    for place in ("math.", "__operators__.", "")
    for name, function in {
        "abs": ops.abs, "negative": ops.negative, "neg": ops.negative, "exp": ops.exp,
        "log": ops.log, "log1p": ops.log1p, "expm1": ops.expm1, "sqrt": ops.sqrt,
        "rsqrt": ops.rsqrt, "square": ops.square, "sigmoid": ops.sigmoid, "tanh": ops.tanh,
        "sin": ops.sin, "cos": ops.cos, "tan": ops.tan, "round": ops.round, "floor": ops.floor,
        "ceil": ops.ceil, "sign": ops.sign, "erf": ops.erf, "logical_not": ops.logical_not,
        "reciprocal": ops.reciprocal, "is_nan": ops.isnan, "is_finite": ops.isfinite,
        "log_sigmoid": ops.log_sigmoid, "invert": ops.logical_not,
    }.items()
}  # fmt: skip
_TABLE |= {
    f"math.reduce_{name}": _reduction(function)
    for name, function in {
        "mean": ops.mean, "sum": ops.sum, "max": ops.max, "min": ops.min, "prod": ops.prod,
        "all": ops.all, "any": ops.any, "std": ops.std, "variance": ops.var,
        "logsumexp": ops.logsumexp,
    }.items()
}  # fmt: skip
_TABLE |= {name.removeprefix("math."): function for name, function in _TABLE.items()
           if name.startswith("math.reduce_")}  # fmt: skip
_TABLE |= {
    f"nn.{name}": _features(function)
    for name, function in {
        "relu": ops.relu, "relu6": ops.relu6, "elu": ops.elu, "selu": ops.selu,
        "softplus": ops.softplus, "softsign": ops.softsign,
    }.items()
}  # fmt: skip
_TABLE["floor_div"] = _binary(ops.floor_divide)
_TABLE |= {"nn.sigmoid": _TABLE["math.sigmoid"], "nn.tanh": _TABLE["math.tanh"],
           "math.softplus": _TABLE["nn.softplus"], "math.l2_normalize": _normalize}  # fmt: skip
