"""The operators that a quantize-aware graph is made of, one row each.

A row says what an operator computes on real values (for gradients, observers and the converter)
and on stored integers (what the runtime computes), and on which grid its output is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfcompress.quantization import grids
from tfcompress.quantization.arithmetic import elementwise, linear, reductions, resize, tables, wide
from tfcompress.quantization.arithmetic.output import Activation, bounds
from tfcompress.quantization.grids import Grid

Tensors = Sequence[tf.Tensor]


@dataclass(frozen=True)
class Primitive:
    """One operator.

    Attributes:
        real: (float tensors, **options) -> float tensor.
        exact: (integers, their grids, output grid, **options) -> integers.
        output: "own" (a range of its own), "same" (as its first input), or a function that gives
            the fixed grid.
        fuses: takes a fused activation, option `activation`.
        float_input: its input is not on a grid.
        takes: "grids" (it is quantized where all its inputs are), "anything" (its inputs are put
            on grids), or "floats": its int8 form would leave XNNPACK or is not known.
        symmetric: the operand whose grid must have zero point 0 for XNNPACK to take it.
        wide: as `exact`, for grids of 16 bits; None where the operator stays float beside them.
    """

    real: Callable[..., tf.Tensor]
    exact: Callable[..., tf.Tensor]
    output: str | Callable[[], Grid] = "own"
    fuses: bool = False
    float_input: bool = False
    takes: str = "grids"
    symmetric: int | None = None
    wide: Callable[..., tf.Tensor] | None = None

    def integers(self, bits: int) -> Callable[..., tf.Tensor] | None:
        """What it computes on integers of so many bits; None where it has no such form."""
        return self.wide if bits == 16 else self.exact


def activate(x: tf.Tensor, activation: Activation) -> tf.Tensor:
    """The activation on real values, in the form that the converter fuses."""
    if activation == "relu":
        return tf.nn.relu(x)
    if activation == "relu6":
        return tf.nn.relu6(x)
    return x


def _binary(real: Any, exact: Any, wide: Any) -> Primitive:
    def on_reals(xs: Tensors, activation: Activation = None) -> tf.Tensor:
        return activate(real(xs[0], xs[1]), activation)

    def by(kernel: Any) -> Any:
        def on_integers(
            qs: Tensors, given: Sequence[Grid], out: Grid, activation: Activation = None
        ) -> tf.Tensor:
            return kernel(qs[0], qs[1], given[0], given[1], out, activation=activation)

        return on_integers

    return Primitive(on_reals, by(exact), fuses=True, wide=by(wide))


def _unary(real: Any, exact: Any, output: Any = "own", wide: Any = None) -> Primitive:
    """`exact` takes the output grid only where that is not fixed."""

    def by(kernel: Any) -> Any:
        def on_integers(qs: Tensors, given: Sequence[Grid], out: Grid, **options: Any) -> tf.Tensor:
            outs = [out] if output == "own" else []
            return kernel(qs[0], given[0], *outs, **options)

        return on_integers

    return Primitive(
        lambda xs, **options: real(xs[0], **options), by(exact), output, wide=wide and by(wide)
    )


def _same(real: Any, exact: Any, wide: Any = None) -> Primitive:
    return Primitive(
        lambda xs, **options: real(xs[0], **options),
        lambda qs, given, out, **options: exact(qs[0], **options),
        "same",
        wide=wide and (lambda qs, given, out, **options: wide(qs[0], **options)),
    )


def _mean(x: tf.Tensor, axes: Sequence[int], keepdims: bool) -> tf.Tensor:
    return tf.reduce_mean(x, axes, keepdims=keepdims)


def _sum(x: tf.Tensor, axes: Sequence[int], keepdims: bool) -> tf.Tensor:
    return tf.reduce_sum(x, axes, keepdims=keepdims)


def _reduction(real: Any, exact: Any, wide: Any = None) -> Primitive:
    def by(kernel: Any) -> Any:
        return lambda qs, given, out, axes, keepdims: kernel(
            qs[0], axes, given[0], out, keepdims=keepdims
        )

    return Primitive(
        lambda xs, axes, keepdims: real(xs[0], axes, keepdims), by(exact), wide=wide and by(wide)
    )


def _hard_swish(x: tf.Tensor) -> tf.Tensor:
    # The form that the converter makes HARD_SWISH of.
    return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def _gelu(x: tf.Tensor, approximate: bool) -> tf.Tensor:
    return tf.nn.gelu(x, approximate)


def _resize_bilinear(x: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    return tf.raw_ops.ResizeBilinear(images=x, size=size, half_pixel_centers=True)


def _matmul(xs: Tensors, adjoint_b: bool) -> tf.Tensor:
    return tf.matmul(xs[0], xs[1], transpose_b=adjoint_b)


def _clip(q: tf.Tensor, grid: Grid, activation: Activation) -> tf.Tensor:
    lowest, highest = bounds(grid, activation)
    return tf.clip_by_value(q, lowest, highest)


def _no_integers(*args: Any, **options: Any) -> tf.Tensor:
    raise AssertionError("an operator that is computed in float only")


PRIMITIVES: dict[str, Primitive] = {
    "add": _binary(tf.add, elementwise.add, wide.add),
    "subtract": _binary(tf.subtract, elementwise.subtract, wide.subtract),
    "multiply": _binary(tf.multiply, elementwise.multiply, wide.multiply),
    "mean": _reduction(_mean, reductions.mean, wide.mean),
    "sum": _reduction(_sum, reductions.sum),
    "average_pool": _same(
        lambda x, size, strides, padding: tf.nn.avg_pool2d(x, size, strides, padding),
        reductions.average_pool2d,
        wide.average_pool,
    ),
    "resize_bilinear": _same(
        _resize_bilinear,
        lambda q, size: resize.resize_bilinear(q, size, half_pixel_centers=True),
    ),
    "softmax": _unary(tf.nn.softmax, reductions.softmax, grids.softmax_grid),
    "sigmoid": _unary(tf.sigmoid, tables.logistic, grids.softmax_grid),
    "tanh": _unary(tf.tanh, tables.tanh, grids.tanh_grid),
    "relu": _unary(tf.nn.relu, tables.relu),
    "relu6": _unary(tf.nn.relu6, lambda q, x, out: tables.relu(q, x, out, "relu6")),
    "pool_activation": Primitive(
        lambda xs, activation: activate(xs[0], activation),
        lambda qs, given, out, activation: _clip(qs[0], out, activation),
        "same",
        wide=lambda qs, given, out, activation: wide.clipped(qs[0], out, activation),
    ),
    "leaky_relu": _unary(
        lambda x, alpha: tf.nn.leaky_relu(x, alpha),
        lambda q, x, out, alpha: tables.leaky_relu(q, alpha, x, out),
    ),
    "hard_swish": _unary(_hard_swish, tables.hard_swish),
    "gelu": _unary(_gelu, tables.gelu),
    "matmul": Primitive(
        _matmul,
        lambda qs, given, out, adjoint_b: linear.batch_matmul(
            qs[0], qs[1], given[0], given[1], out, adjoint_b=adjoint_b
        ),
        takes="anything",
        symmetric=1,
    ),
    "attention_weights": Primitive(
        lambda xs, factor: tf.nn.softmax(xs[0] * factor),
        _no_integers,
        takes="floats",
    ),
    "transpose": _same(
        lambda x, perm: tf.transpose(x, perm),
        lambda q, perm: tf.transpose(q, perm),
        lambda q, perm: tf.transpose(q, perm),
    ),
    "requantize": _unary(tf.identity, tables.requantize_grid, wide=wide.requantize_grid),
    "dequantize": _unary(tf.identity, elementwise.dequantize, wide=elementwise.dequantize),
    "quantize": Primitive(
        lambda xs: tf.identity(xs[0]),
        lambda qs, given, out: elementwise.quantize(qs[0], out),
        float_input=True,
        wide=lambda qs, given, out: wide.quantize(qs[0], out),
    ),
}
