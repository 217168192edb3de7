"""Single int8 operators: the file that the runtime runs, and the function that must equal it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from one_operator import Graph, Op, T

from tfcompress.quantization.arithmetic import elementwise, linear, reductions, resize, tables
from tfcompress.quantization.grids import Grid

RANDOM = np.random.default_rng(4)
ACTIVATIONS = {None: 0, "relu": 1, "relu_n1_to_1": 2, "relu6": 3}
ALL = np.arange(-128, 128, dtype=np.int8)
PAIRS = [np.repeat(ALL, 256).reshape(1, 256, 256), np.tile(ALL, 256).reshape(1, 256, 256)]

Settings = tuple[float, int]
"""Scale and zero point."""


@dataclass
class Example:
    """One operator.

    Attributes:
        name: of the test.
        graph: the file.
        inputs: what it is run on.
        compute: the same from (inputs as float32 tensors, grids).
        grids: scales (arrays for kernels) and zero points, in the order that `compute` expects.
        placed: XNNPACK takes the operator; otherwise TFLite's own kernel runs.
    """

    name: str
    graph: Graph
    inputs: list[np.ndarray]
    compute: Callable[[list[tf.Tensor], list[Grid]], tf.Tensor]
    grids: list[tuple[Any, int]]
    placed: bool = True


def operator(
    name: str,
    kind: str,
    inputs: Sequence[np.ndarray],
    out: Sequence[int],
    compute: Callable[[list[tf.Tensor], list[Grid]], tf.Tensor],
    grids: Sequence[tuple[Any, int]],
    *,
    constants: dict[str, T] | None = None,
    order: Sequence[str] | None = None,
    options: tuple[str, dict[str, Any]] | None = None,
    version: int = 2,
    placed: bool = True,
    requantized: bool = False,
) -> Example:
    """An example; the first grids are the inputs', the last the output's.

    `requantized`: as the converter writes it where the runtime wants one grid on all tensors, a
    QUANTIZE stands before each input.
    """
    tensors = {f"x{i}": T(x.shape, "int8", None, *grids[i]) for i, x in enumerate(inputs)} | (
        constants or {}
    )
    names = list(order or tensors)
    tensors["y"] = T(out, "int8", None, *grids[-1])
    before = []
    if requantized:
        for i, x in enumerate(inputs):
            tensors[f"m{i}"] = T(x.shape, "int8", None, *grids[-1])
            before.append(Op("QUANTIZE", [f"x{i}"], [f"m{i}"], ("QuantizeOptions", {}), 2))
        names = [f"m{i}" for i in range(len(inputs))]
    graph = Graph(tensors, [*before, Op(kind, names, ["y"], options, version)])
    return Example(f"{kind} {name}", graph, list(inputs), compute, list(grids), placed)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def ints(values: Any) -> T:
    array = np.array(values, np.int32)
    return T(array.shape, "int32", array)


def examples() -> list[Example]:
    made = [
        *convolutions(),
        *depthwise(),
        *dense(),
        *transposed(),
        *matmuls(),
        *binary(),
        *moves(),
        *unary(),
        *floated(),
        *reduced(),
        *resized(),
    ]
    assert len({example.name for example in made}) == len(made)
    return made


# -- kernels


def channel_scales(count: int, size: float) -> np.ndarray:
    return (size * RANDOM.uniform(0.3, 1.7, count)).astype(np.float32)


def kernel_constants(
    stored: np.ndarray, axis: int, scales: np.ndarray, bias: np.ndarray | None, x: Settings
) -> dict[str, T]:
    found = {"w": T(stored.shape, "int8", stored, scales, 0, axis)}
    if bias is not None:
        bias_scales = (np.float64(np.float32(x[0])) * scales).astype(np.float32)
        found["b"] = T(bias.shape, "int32", bias, bias_scales)
    return found


def biases(count: int, size: int = 3000) -> np.ndarray:
    return RANDOM.integers(-size, size, count).astype(np.int32)


def floats(array: np.ndarray | None) -> Any:
    return None if array is None else array.astype(np.float32)


def convolutions() -> Iterator[Example]:
    def conv(
        name: str,
        shape: tuple[int, ...],
        kernel: tuple[int, ...],
        x: Settings,
        out: Settings,
        *,
        stride: int = 1,
        padding: str = "SAME",
        rate: int = 1,
        activation: Any = None,
        bias: bool = True,
        per_tensor: bool = False,
        extreme: bool = False,
        pieces: int | None = None,
    ) -> Example:
        channels = kernel[-1]
        q = np.full(shape, 127, np.int8) if extreme else numbers(*shape)
        w = np.full(kernel, 127) if extreme else RANDOM.integers(-127, 128, kernel)
        if extreme:
            q.reshape(-1)[:: q.size // 7] = 0
            w[..., ::2] *= -1
            w[..., 0] += RANDOM.integers(0, 9, kernel[:-1])
        b = biases(channels) if bias else np.zeros(channels, np.int32)
        s = channel_scales(1 if per_tensor else channels, 0.02)
        made = tf.nn.conv2d(tf.zeros(shape), tf.zeros(kernel), stride, padding, dilations=rate)
        stored = w.transpose(3, 0, 1, 2).astype(np.int8)
        return operator(
            name,
            "CONV_2D",
            [q],
            made.shape,
            lambda t, g: linear.conv2d(
                t[0],
                tf.constant(floats(w)),
                floats(b),
                *g,
                strides=stride,
                padding=padding,
                dilations=rate,
                activation=activation,
                pieces=pieces,
            ),
            [x, (s, 0), out],
            constants=kernel_constants(stored, 0, s, b, x),
            options=(
                "Conv2DOptions",
                {
                    "strideH": stride,
                    "strideW": stride,
                    "dilationHFactor": rate,
                    "dilationWFactor": rate,
                    "padding": int(padding == "VALID"),
                    "fusedActivationFunction": ACTIVATIONS[activation],
                },
            ),
            version=3,
        )

    yield conv("same", (2, 9, 8, 5), (3, 3, 5, 6), (0.031, -7), (0.9, 12))
    yield conv(
        "relu6", (2, 9, 8, 5), (3, 3, 5, 6), (0.017, 31), (6 / 255, -128), activation="relu6"
    )
    yield conv("relu", (2, 9, 8, 5), (3, 2, 5, 6), (0.02, 127), (0.4, -100), activation="relu")
    yield conv(
        "stride", (1, 11, 11, 7), (3, 3, 7, 4), (1 / 255, -128), (0.05, 3), stride=2,
        padding="VALID", per_tensor=True, bias=False,
    )  # fmt: skip
    yield conv("dilated", (1, 11, 11, 7), (3, 3, 7, 4), (0.5, 0), (7.3, 127), rate=2)
    yield conv("saturating", (1, 6, 6, 3), (1, 1, 3, 9), (0.5, 5), (0.001, 5))
    yield conv("of ties", (1, 64, 64, 1), (1, 1, 1, 1), (0.5, 0), (0.5 * 2**9, 0), extreme=True)
    yield conv(
        "beyond 2^24", (1, 4, 4, 1500), (1, 1, 1500, 6), (0.02, -128), (100.0, 0), extreme=True
    )
    yield conv("one piece", (1, 4, 4, 600), (1, 1, 600, 6), (0.02, -12), (2.0, 0), pieces=1)
    yield conv("wide window", (1, 30, 30, 2), (25, 25, 2, 3), (0.02, -128), (60.0, 0), extreme=True)


def depthwise() -> Iterator[Example]:
    for name, size, multiplier, stride, padding, x, out, activation in (
        ("same", 3, 1, 1, "SAME", (0.02, -128), (0.11, 4), None),
        ("stride 2", 3, 1, 2, "SAME", (6 / 255, -128), (6 / 255, -128), "relu6"),
        ("valid 5x5", 5, 1, 1, "VALID", (0.04, 55), (0.7, -9), None),
        ("multiplier 2", 3, 2, 1, "SAME", (0.5, 1), (1.9, 0), "relu"),
    ):
        shape, channels = (2, 9, 9, 5), 5 * multiplier
        q, w, b = numbers(*shape), RANDOM.integers(-127, 128, (size, size, 5, multiplier)), None
        b, s = biases(channels), channel_scales(channels, 0.01)
        side = {"SAME": -(-9 // stride), "VALID": 9 - size + 1}[padding]

        def compute(t: Any, g: Any, w: Any = w, b: Any = b, o: Any = None) -> tf.Tensor:
            return linear.depthwise_conv2d(t[0], tf.constant(floats(w)), floats(b), *g, **o)

        arguments = {"strides": stride, "padding": padding, "activation": activation}
        yield operator(
            name,
            "DEPTHWISE_CONV_2D",
            [q],
            (2, side, side, channels),
            lambda t, g, f=compute, o=arguments: f(t, g, o=o),
            [x, (s, 0), out],
            constants=kernel_constants(
                w.reshape(1, size, size, channels).astype(np.int8), 3, s, b, x
            ),
            options=(
                "DepthwiseConv2DOptions",
                {
                    "strideH": stride,
                    "strideW": stride,
                    "depthMultiplier": multiplier,
                    "padding": int(padding == "VALID"),
                    "fusedActivationFunction": ACTIVATIONS[activation],
                },
            ),
            version=3,
        )


def dense() -> Iterator[Example]:
    for name, size, out_size, x, out, activation, extreme in (
        ("small", 20, 9, (0.03, -4), (0.3, 8), None, False),
        ("relu6", 64, 9, (1 / 256, -128), (6 / 255, -128), "relu6", False),
        ("per tensor", 64, 9, (0.7, 127), (9.0, 0), "relu", False),
        ("beyond 2^24", 2000, 6, (0.05, -128), (300.0, -3), None, True),
    ):
        q = np.full((3, size), 127, np.int8) if extreme else numbers(50, size)
        w = RANDOM.integers(120 if extreme else -127, 128, (size, out_size))
        b = biases(out_size)
        s = channel_scales(1 if name == "per tensor" else out_size, 0.02)
        yield operator(
            name,
            "FULLY_CONNECTED",
            [q],
            (len(q), out_size),
            lambda t, g, w=w, b=b, a=activation: linear.dense(
                t[0], tf.constant(floats(w)), floats(b), *g, activation=a
            ),
            [x, (s, 0), out],
            constants=kernel_constants(w.T.astype(np.int8).copy(), 0, s, b, x),
            options=(
                "FullyConnectedOptions",
                {"fusedActivationFunction": ACTIVATIONS[activation]},
            ),
            version=4,
        )


def transposed() -> Iterator[Example]:
    for name, stride, padding, x, out, with_bias in (
        ("same", 2, "SAME", (0.02, -128), (0.2, 7), False),
        ("valid", 2, "VALID", (0.5, 13), (3.0, -100), True),
        ("stride 1", 1, "SAME", (0.07, 0), (0.9, 127), True),
    ):
        q, w = numbers(1, 5, 6, 7), RANDOM.integers(-127, 128, (3, 3, 4, 7))
        b, s = biases(4) if with_bias else None, channel_scales(4, 0.02)
        shape = (1, 5 * stride, 6 * stride, 4)
        if padding == "VALID":
            shape = (1, 4 * stride + 3, 5 * stride + 3, 4)
        constants = kernel_constants(w.transpose(2, 0, 1, 3).astype(np.int8), 0, s, b, x)
        yield operator(
            name,
            "TRANSPOSE_CONV",
            [q],
            shape,
            lambda t, g, w=w, b=b, shape=shape, stride=stride, p=padding: linear.conv2d_transpose(
                t[0],
                tf.constant(floats(w)),
                floats(b),
                *g,
                output_shape=shape,
                strides=stride,
                padding=p,
            ),
            [x, (s, 0), out],
            constants={"shape": ints(shape)} | constants,
            order=["shape", "w", "x0", *(["b"] if with_bias else [])],
            options=(
                "TransposeConvOptions",
                {"strideH": stride, "strideW": stride, "padding": int(padding == "VALID")},
            ),
            version=3 if with_bias else 2,
        )


def matmuls() -> Iterator[Example]:
    for name, k, grids, adjoint in (
        ("symmetric", 33, [(0.02, -5), (0.013, 0), (0.11, 9)], False),
        ("adjoint", 64, [(1 / 256, -128), (0.1, 0), (0.03, 0)], True),
        ("asymmetric", 33, [(0.02, -5), (0.013, 77), (0.11, 9)], False),
        ("asymmetric, long", 700, [(0.02, -128), (0.7, -128), (4.0, -12)], False),
        ("symmetric, long", 1200, [(0.02, -128), (0.7, 0), (44.0, -12)], True),
    ):
        a, b = numbers(2, 7, k), numbers(2, k, 6)
        if "long" in name:
            a[0], b[0] = 127, 127
        if adjoint:
            b = b.transpose(0, 2, 1).copy()
        yield operator(
            name,
            "BATCH_MATMUL",
            [a, b],
            (2, 7, 6),
            lambda t, g, adjoint=adjoint: linear.batch_matmul(*t, *g, adjoint_b=adjoint),
            grids,
            options=("BatchMatMulOptions", {"adjX": False, "adjY": adjoint}),
            placed=grids[1][1] == 0,
        )


# -- two inputs


def binary() -> Iterator[Example]:
    plain = [
        [(0.0237, -3), (0.0511, 17), (0.0613, 5)],
        [(6 / 255, -128), (0.19, 127), (0.203, -28)],
        [(0.7, 0), (0.011, -90), (0.031, 0)],
        [(0.5, 0), (0.25, 0), (1.0, 0)],
    ]
    functions = {"ADD": elementwise.add, "SUB": elementwise.subtract, "MUL": elementwise.multiply}
    for kind, function in functions.items():
        table = f"{kind.title()}Options"
        settings: list[tuple[str, Any, Any, bool]] = [
            (f"grids {i}", grids, None, True) for i, grids in enumerate(plain)
        ]
        settings.append(("relu6", [(0.04, 5), (0.03, 20), (6 / 255, -128)], "relu6", True))
        if kind == "MUL":
            settings.append(("of a small product", [(1e-4, 3), (2e-4, 9), (0.01, 5)], None, False))
        else:
            settings.append(("of a small ratio", [(1e-5, 3), (0.2, 9), (0.3, 5)], None, False))
            settings.append(("small, relu6", [(2e-5, 3), (0.07, 9), (0.05, -12)], "relu6", False))
        for name, grids, activation, placed in settings:
            yield operator(
                name,
                kind,
                PAIRS,
                (1, 256, 256),
                lambda t, g, f=function, a=activation: f(*t, *g, activation=a),
                grids,
                options=(table, {"fusedActivationFunction": ACTIVATIONS[activation]}),
                placed=placed,
            )
    for i, grids in enumerate(plain):
        for kind, other, options in (
            ("MAXIMUM", elementwise.maximum, "MaximumMinimumOptions"),
            ("MINIMUM", elementwise.minimum, "MaximumMinimumOptions"),
            ("SQUARED_DIFFERENCE", elementwise.squared_difference, "SquaredDifferenceOptions"),
            ("PRELU", elementwise.prelu, None),
        ):
            yield operator(
                f"grids {i}",
                kind,
                PAIRS,
                (1, 256, 256),
                lambda t, g, f=other: f(*t, *g),
                grids,
                options=(options, {}) if options else None,
                version=1 if kind == "PRELU" else 2,
                # The QUANTIZE before them is XNNPACK's.
                placed=kind in ("MAXIMUM", "MINIMUM"),
                requantized=kind in ("MAXIMUM", "MINIMUM"),
            )


def moves() -> Iterator[Example]:
    for i, (x, out) in enumerate(UNARY_GRIDS):
        yield operator(
            f"grids {i}",
            "QUANTIZE",
            [ALL.reshape(1, 256)],
            (1, 256),
            lambda t, g: tables.requantize_grid(*t, *g),
            [x, out],
            options=("QuantizeOptions", {}),
        )
    for ratio in (1 / 300, 129.3, 200.0):
        yield operator(
            f"ratio {ratio:.3g}",
            "QUANTIZE",
            [ALL.reshape(1, 256)],
            (1, 256),
            lambda t, g: tables.requantize_grid(*t, *g),
            [(0.1 * ratio, 3), (0.1, -7)],
            options=("QuantizeOptions", {}),
            placed=False,
        )
    grids = [(0.05, 3), (0.1, -20), (0.02, 127), (0.1, -20)]
    yield operator(
        "of three",
        "CONCATENATION",
        [ALL.reshape(1, 4, 64)] * 3,
        (1, 4, 192),
        lambda t, g: elementwise.concatenate(t, g[:3], g[3]),
        grids,
        options=("ConcatenationOptions", {"axis": -1}),
        requantized=True,
    )
    yield operator(
        "4-D",
        "PAD",
        [numbers(1, 3, 4, 5)],
        (1, 5, 7, 5),
        lambda t, g: reductions.pad(t[0], [[0, 0], [1, 1], [2, 1], [0, 0]], g[0]),
        [(0.1, -77), (0.1, -77)],
        constants={"p": ints([[0, 0], [1, 1], [2, 1], [0, 0]])},
    )


# -- one input


UNARY_GRIDS: list[tuple[Settings, Settings]] = [
    ((0.0431, -3), (0.0337, 11)),
    ((6 / 255, -128), (0.01, -128)),
    ((0.11, 127), (0.17, 100)),
    ((0.0625, 0), (0.125, 0)),
    ((1.0, 20), (0.5, -20)),
]


def unary() -> Iterator[Example]:
    kinds: dict[str, Any] = {
        "RELU": (lambda t, g: tables.relu(t, *g), None, False),
        "RELU6": (lambda t, g: tables.relu(t, *g, "relu6"), None, False),
        "ABS": (lambda t, g: tables.absolute(t, *g), None, False),
        "HARD_SWISH": (lambda t, g: tables.hard_swish(t, *g), None, False),
        "GELU": (
            lambda t, g: tables.gelu(t, *g),
            ("GeluOptions", {"approximate": False}),
            False,
        ),
        "EXP": (lambda t, g: tables.exp(t, *g), None, False),
        "LOGISTIC": (lambda t, g: tables.logistic(t, g[0]), None, True),
        "TANH": (lambda t, g: tables.tanh(t, g[0]), None, True),
    }
    fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
    for kind, (function, options, placed) in kinds.items():
        for i, (x, out) in enumerate(UNARY_GRIDS):
            yield operator(
                f"grids {i}",
                kind,
                [ALL.reshape(1, 4, 64)],
                (1, 4, 64),
                lambda t, g, f=function: f(t[0], g),
                [x, fixed.get(kind, out)],
                options=options,
                version=1 if kind in ("HARD_SWISH",) else 2,
                placed=placed,
            )
    yield operator(
        "approximate",
        "GELU",
        [ALL.reshape(1, 256)],
        (1, 256),
        lambda t, g: tables.gelu(t[0], *g, approximate=True),
        list(UNARY_GRIDS[0]),
        options=("GeluOptions", {"approximate": True}),
        placed=False,
    )
    yield operator(
        "positive",
        "LOG",
        [ALL[1:].reshape(1, 255)],
        (1, 255),
        lambda t, g: tables.log(t[0], *g),
        [(0.05, -128), (0.04, 40)],
        placed=False,
    )
    slopes = [(0.2, True), (0.01, True), (0.0001, False), (-0.3, True), (0.3, True)]
    for (x, out), (alpha, placed) in zip(UNARY_GRIDS, slopes, strict=True):
        yield operator(
            f"slope {alpha}",
            "LEAKY_RELU",
            [ALL.reshape(1, 256)],
            (1, 256),
            lambda t, g, alpha=alpha: tables.leaky_relu(t[0], alpha, *g),
            [x, out],
            options=("LeakyReluOptions", {"alpha": alpha}),
            placed=placed,
        )
    for i, (count, x) in enumerate(
        ((10, (0.11, 4)), (3, (0.04, -128)), (40, (1.3, 0)), (1001, (0.07, -30)), (64, (0.02, 9)))
    ):
        yield operator(
            f"grids {i}",
            "SOFTMAX",
            [numbers(300 if count < 100 else 40, count)],
            (300 if count < 100 else 40, count),
            lambda t, g: reductions.softmax(t[0], g[0]),
            [x, (1 / 256, -128)],
            options=("SoftmaxOptions", {"beta": 1.0}),
            placed=False,
        )


def floated() -> Iterator[Example]:
    """Operators that the converter leaves in float, between a DEQUANTIZE and a QUANTIZE."""
    kinds: dict[str, Any] = {
        "ELU": tables.elu,
        "SQRT": tables.sqrt,
        "RSQRT": tables.rsqrt,
        "SQUARE": tables.square,
    }
    for kind, function in kinds.items():
        for i, (x, out) in enumerate(UNARY_GRIDS):
            if kind in ("SQRT", "RSQRT"):
                x = (x[0], -128)
            q = (ALL[1:] if kind == "RSQRT" else ALL)[None]
            tensors = {
                "x0": T(q.shape, "int8", None, *x),
                "a": T(q.shape),
                "b": T(q.shape),
                "y": T(q.shape, "int8", None, *out),
            }
            operators = [
                Op("DEQUANTIZE", ["x0"], ["a"], ("DequantizeOptions", {}), 2),
                Op(kind, ["a"], ["b"]),
                Op("QUANTIZE", ["b"], ["y"], ("QuantizeOptions", {})),
            ]
            yield Example(
                f"{kind} grids {i}",
                Graph(tensors, operators),
                [q],
                lambda t, g, f=function: f(t[0], *g),
                [x, out],
            )


# -- many values of one tensor


def reduced() -> Iterator[Example]:
    for kind, function in (("MEAN", reductions.mean), ("SUM", reductions.sum)):
        for name, shape, axes, grids, keep in (
            ("hw", (2, 7, 7, 200), [1, 2], [(0.0235, -128), (0.0117, -128)], False),
            ("hw, keepdims", (1, 5, 9, 99), [1, 2], [(0.11, 17), (0.35, 3)], True),
            ("channels", (3, 8, 8, 48), [3], [(0.031, -9), (0.027, 60)], True),
            ("all but batch", (30, 6, 5, 4), [1, 2, 3], [(0.5, 0), (0.25, 1)], False),
            ("sequence", (4, 64, 80), [1], [(0.04, 127), (0.003, 127)], False),
            ("65,536 values", (1, 256, 256, 8), [1, 2], [(0.04, -128), (0.04, -128)], False),
        ):
            spread = (grids[0], (grids[1][0] * (1 if kind == "MEAN" else 15), grids[1][1]))
            kept = tuple(
                1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes
            )
            yield operator(
                name,
                kind,
                [numbers(*shape)],
                kept,
                lambda t, g, f=function, axes=axes, keep=keep: f(t[0], axes, *g, keepdims=keep),
                spread,
                constants={"axes": ints(axes)},
                options=("ReducerOptions", {"keepDims": keep}),
            )
    for size, stride, padding, out in (
        (2, 2, "VALID", (4, 4)),
        (3, 1, "SAME", (9, 8)),
        (3, 2, "SAME", (5, 4)),
        (7, 7, "VALID", (1, 1)),
    ):
        for kind, pool in (
            ("AVERAGE_POOL_2D", reductions.average_pool2d),
            ("MAX_POOL_2D", reductions.max_pool2d),
        ):
            yield operator(
                f"{size}x{size} by {stride} {padding}",
                kind,
                [numbers(3, 9, 8, 50)],
                (3, *out, 50),
                lambda t, g, f=pool, size=size, stride=stride, p=padding: f(t[0], size, stride, p),
                [(0.1, 5)] * 2,
                options=(
                    "Pool2DOptions",
                    {
                        "strideH": stride,
                        "strideW": stride,
                        "filterHeight": size,
                        "filterWidth": size,
                        "padding": int(padding == "VALID"),
                    },
                ),
                placed=kind == "MAX_POOL_2D",
            )


def resized() -> Iterator[Example]:
    for kind, function in (
        ("RESIZE_BILINEAR", resize.resize_bilinear),
        ("RESIZE_NEAREST_NEIGHBOR", resize.resize_nearest),
    ):
        table = kind.title().replace("_", "")
        for source, size in (((8, 8), (16, 16)), ((5, 7), (13, 11)), ((13, 9), (6, 4))):
            for half, align in ((True, False), (False, True), (False, False)):
                yield operator(
                    f"{source} {size} {half:d}{align:d}",
                    kind,
                    [numbers(2, *source, 9)],
                    (2, *size, 9),
                    lambda t, g, f=function, size=size, half=half, align=align: f(
                        t[0], size, half_pixel_centers=half, align_corners=align
                    ),
                    [(0.1, 5)] * 2,
                    constants={"size": ints(size)},
                    options=(f"{table}Options", {"halfPixelCenters": half, "alignCorners": align}),
                    placed=kind == "RESIZE_BILINEAR",
                )
