"""Files of one operator for every row, form and condition of the capability table.

Each case says which rule the table must answer with: "" where the operator is placed, else the
name of what refuses it. The runtime has the last word (test_capabilities).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from one_operator import Graph, Op, T

FLOAT, HALF, INT8, UINT8 = "float32", "float16", "int8", "uint8"
RANDOM = np.random.default_rng(0)


@dataclass
class Case:
    """One file: its last operator is the one in question."""

    name: str
    graph: Graph
    rule: str = ""
    """What refuses it; "" where it is placed."""
    loads: bool = True
    """False where XNNPACK takes the operator and then breaks, so that nothing loads the file."""

    @property
    def operator(self) -> str:
        return self.graph.operators[-1].name


def act(shape: Any, dtype: str = FLOAT, scale: Any = None, zero: int | None = None) -> T:
    """An activation; quantized with a plain scale where its type is."""
    if dtype in (INT8, UINT8, "int16"):
        return T(shape, dtype, None, scale or 0.1, zero or (128 if dtype == UINT8 else 0))
    return T(shape, dtype)


def const(shape: Any, dtype: str = FLOAT, **quantization: Any) -> T:
    """A constant with values from 1 to 3."""
    return T(shape, dtype, RANDOM.integers(1, 4, shape), **quantization)


def ints(*values: Any, dtype: str = "int32") -> T:
    """A constant of integers."""
    array = np.array(values if len(values) != 1 else values[0], dtype)
    return T(array.shape, dtype, array)


def one(
    name: str,
    inputs: dict[str, T],
    outputs: dict[str, T] | T,
    options: tuple[str, dict[str, Any]] | None = None,
    version: int = 1,
) -> Graph:
    """A graph of one operator; an input named "none" is left out."""
    made = outputs if isinstance(outputs, dict) else {"y": outputs}
    names = ["" if key == "none" else key for key in inputs]
    tensors = {key: tensor for key, tensor in inputs.items() if key != "none"} | made
    return Graph(tensors, [Op(name, names, list(made), options, version)])


def unpacked(graph: Graph, name: str) -> Graph:
    """The graph with a constant stored in another type and expanded by a DEQUANTIZE."""
    tensor = graph.tensors[name]
    graph.tensors[f"{name}_packed"] = tensor
    graph.tensors[name] = T(tensor.shape)
    graph.operators.insert(0, Op("DEQUANTIZE", [f"{name}_packed"], [name], None, 3))
    return graph


def computed(graph: Graph, name: str) -> Graph:
    """The graph with an integer constant computed at run time: constant + 0."""
    tensor = graph.tensors[name]
    graph.tensors |= {f"{name}_a": tensor, f"{name}_b": T(tensor.shape, "int32", 0)}
    graph.tensors[name] = T(tensor.shape, "int32")
    graph.operators.insert(0, Op("ADD", [f"{name}_a", f"{name}_b"], [name], ("AddOptions", {})))
    return graph


def cases() -> list[Case]:
    """All cases."""
    found = [
        *convolutions(),
        *depthwise(),
        *dense(),
        *transposed(),
        *products(),
        *binary(),
        *unary(),
        *pools(),
        *layout(),
        *reductions(),
        *variables(),
        *refused(),
    ]
    names = [case.name for case in found]
    assert len(names) == len(set(names)), [n for n in names if names.count(n) > 1]
    return found


# -- matrix kernels


FORMS = {
    "float": (FLOAT, FLOAT, FLOAT),
    "half": (HALF, HALF, HALF),
    "int8": (INT8, INT8, "int32"),
    "uint8": (UINT8, UINT8, "int32"),
    "dynamic": (FLOAT, INT8, FLOAT),
    "int4": (FLOAT, "int4", FLOAT),
    "int8 int4": (INT8, "int4", "int32"),
    "int16": ("int16", INT8, "int64"),
}


def matrix_tensors(form: str, weights: Any, channel: int) -> tuple[str, T, T]:
    """The type of activations, and weights and bias in a form; one scale a channel for int8."""
    data, kind, bias_kind = FORMS[form]
    size = weights[channel]
    if kind == "int4":
        packed = bytes(np.full((int(np.prod(weights)) + 1) // 2, 0x12, np.uint8))
        tensor = T(weights, "int4", None, np.full(size, 0.1), 0, channel, packed)
    elif kind == INT8:
        tensor = const(weights, INT8, scale=np.full(size, 0.1), axis=channel)
    elif kind == UINT8:
        tensor = const(weights, UINT8, scale=0.1, zero=128)
    else:
        tensor = const(weights, kind)
    bias = const([size], bias_kind)
    if bias_kind in ("int32", "int64"):
        bias.scale = np.full(size, 0.01) if kind in (INT8, "int4") else 0.01
    return data, tensor, bias


def conv(form: str = "float", activation: int = 0, **changed: T) -> Graph:
    data, weights, bias = matrix_tensors(form, (4, 3, 3, 2), 0)
    tensors = {"x": act([1, 8, 8, 2], data), "w": weights, "b": bias} | changed
    if "none" in changed:
        del tensors["b"], tensors["none"]
    options = {"strideH": 1, "strideW": 1, "fusedActivationFunction": activation}
    out = act([1, 8, 8, 4], data)
    return one("CONV_2D", tensors, out, ("Conv2DOptions", options), 3 if data == INT8 else 1)


def stored(graph: Graph, dtype: str, *names: str) -> Graph:
    """Stores constants in another type, expanded by DEQUANTIZE operators."""
    for name in names:
        tensor = graph.tensors[name]
        quantization = {"scale": 0.1} if dtype == INT8 else {}
        graph.tensors[name] = const(tensor.shape, dtype, **quantization)
        unpacked(graph, name)
    return graph


def convolutions() -> Iterator[Case]:
    for form in ("float", "half", "int8", "uint8", "dynamic"):
        yield Case(f"conv {form}", conv(form))
    yield Case("conv int16", conv("int16"), "form")
    yield Case("conv int4", conv("int4"), "form")
    yield Case("conv float16 weights", stored(conv(), HALF, "w", "b"))
    yield Case("conv float16 weights, float bias", stored(conv(), HALF, "w"))
    yield Case("conv float weights, float16 bias", stored(conv(), HALF, "b"), "bias")
    yield Case("conv stored int8 weights", stored(conv(), INT8, "w"))
    yield Case("conv relu6", conv(activation=3))
    yield Case("conv tanh", conv(activation=4), "clamping-activation")
    yield Case("conv computed bias", conv(b=T([4])), "bias")
    yield Case("conv computed weights", conv(w=T([4, 3, 3, 2])), "fixed-weights")
    per_tensor = const((4, 3, 3, 2), INT8, scale=0.1)
    bias = const((4,), "int32", scale=0.01)
    yield Case("conv int8 per tensor", conv("int8", w=per_tensor, b=bias))
    yield Case("conv dynamic per tensor", conv("dynamic", w=per_tensor))
    yield from skewed("conv", conv, (4, 3, 3, 2), 3, 0, static_loads=False)
    yield Case("conv unscaled bias", conv("int8", b=const((4,), "int32")), "bias")
    grouped = conv(x=act([1, 8, 8, 4]))
    yield Case("conv of two groups", grouped)


def skewed(
    name: str, make: Any, shape: Any, wrong: int, axis: int, *, static_loads: bool
) -> Iterator[Case]:
    """Weights of a form that no converter writes: zero points, scales along another axis."""
    zeros = const(shape, INT8, scale=np.full(shape[axis], 0.1), axis=axis, zero=2)
    if name == "depthwise":
        yield Case(f"{name} zero points", make("int8", w=zeros), "weight-scales")
    else:
        astray = const(shape, INT8, scale=np.full(shape[wrong], 0.1), axis=wrong)
        yield Case(f"{name} scales astray", make("dynamic", w=astray), "weight-scales")
    zero = const(shape, INT8, scale=0.1, zero=2)
    bias = const((4,), "int32", scale=0.01)
    rule = "" if name == "transposed" else "symmetric-weights"
    yield Case(f"{name} one zero point", make("int8", w=zero, b=bias), rule, static_loads)
    if name == "dense":
        yield Case("dense dynamic zero point", make("dynamic", w=zero), "symmetric-weights", False)


def depth(form: str = "float", activation: int = 0, multiplier: int = 1, **changed: T) -> Graph:
    channels = 4 * multiplier
    data, weights, bias = matrix_tensors(form, (1, 3, 3, channels), 3)
    tensors = {"x": act([1, 8, 8, 4], data), "w": weights, "b": bias} | changed
    options = {
        "strideH": 1,
        "strideW": 1,
        "depthMultiplier": multiplier,
        "fusedActivationFunction": activation,
    }
    out = act([1, 8, 8, channels], data)
    table = ("DepthwiseConv2DOptions", options)
    return one("DEPTHWISE_CONV_2D", tensors, out, table, 3 if data == INT8 else 1)


def depthwise() -> Iterator[Case]:
    for form in ("float", "half", "int8", "uint8"):
        yield Case(f"depthwise {form}", depth(form))
    for form in ("dynamic", "int16"):
        yield Case(f"depthwise {form}", depth(form), "form")
    yield from skewed("depthwise", depth, (1, 3, 3, 4), 0, 3, static_loads=False)
    yield Case("depthwise multiplier 2", depth(multiplier=2))
    yield Case("depthwise int8 multiplier 2", depth("int8", multiplier=2))
    yield Case("depthwise float16 weights", stored(depth(), HALF, "w", "b"))
    yield Case("depthwise stored int8 weights", stored(depth(), INT8, "w"))
    yield Case("depthwise relu", depth(activation=1))
    yield Case("depthwise tanh", depth(activation=4), "clamping-activation")
    yield Case("depthwise computed weights", depth(w=T([1, 3, 3, 4])), "fixed-weights")
    yield Case("depthwise computed bias", depth(b=T([4])), "bias")


def full(
    form: str = "float", activation: int = 0, size: int = 8, version: int = 1, **changed: T
) -> Graph:
    data, weights, bias = matrix_tensors(form, (4, size), 0)
    tensors = {"x": act([1, size], data), "w": weights, "b": bias} | changed
    if "none" in changed:
        del tensors["b"]
    options = {"fusedActivationFunction": activation}
    out = act([1, 4], data)
    version = max(version, {"int8": 4, "int4": 13, "int8 int4": 12, "dynamic": 9}.get(form, 1))
    return one("FULLY_CONNECTED", tensors, out, ("FullyConnectedOptions", options), version)


def dense() -> Iterator[Case]:
    for form in ("float", "half", "int8", "uint8", "dynamic", "int4", "int8 int4"):
        yield Case(f"dense {form}", full(form))
    yield Case("dense int16", full("int16"), "form")
    yield Case("dense float16 weights", stored(full(), HALF, "w", "b"))
    yield Case("dense float weights, float16 bias", stored(full(), HALF, "b"), "bias")
    yield Case("dense stored int8 weights", stored(full(), INT8, "w"))
    yield Case("dense without bias", full(none=T([])))
    yield Case(
        "dense with two inputs",
        one(
            "FULLY_CONNECTED",
            {"x": act([1, 8]), "w": const([4, 8])},
            act([1, 4]),
            ("FullyConnectedOptions", {}),
            1,
        ),
    )
    yield Case("dense computed weights", full(w=T([4, 8])), "fixed-weights")
    yield Case("dense computed bias", full(b=T([4])), "bias")
    yield Case("dense relu", full(activation=1))
    yield Case("dense odd int4", full("int4", size=7), "even-rows")
    per_tensor = const((4, 8), INT8, scale=0.1)
    bias = const((4,), "int32", scale=0.01)
    yield Case("dense int8 per tensor", full("int8", w=per_tensor, b=bias))
    yield Case("dense dynamic per tensor", full("dynamic", w=per_tensor))
    yield from skewed("dense", full, (4, 8), 1, 0, static_loads=True)
    yield Case("dense version 8", full(version=8), "dense-weights")
    for kind in ("dynamic", "int4"):
        graph = full(kind, x=act([1, 8], HALF))
        graph.tensors["y"].dtype = HALF
        yield Case(f"dense half {kind}", graph)


def transposed_conv(form: str = "float", kernel: int = 3, **changed: T) -> Graph:
    data, weights, bias = matrix_tensors(form, (4, kernel, kernel, 2), 0)
    tensors = {
        "size": ints(1, 16, 16, 4),
        "w": weights,
        "x": act([1, 8, 8, 2], data),
        "b": bias,
    } | changed
    out = act([1, 16, 16, 4], data)
    options = {"strideH": 2, "strideW": 2}
    return one("TRANSPOSE_CONV", tensors, out, ("TransposeConvOptions", options), 3)


def transposed() -> Iterator[Case]:
    for form in ("float", "int8", "uint8", "dynamic"):
        yield Case(f"transposed {form}", transposed_conv(form))
    yield Case("transposed int16", transposed_conv("int16"), "form")
    yield Case("transposed float16 weights", stored(transposed_conv(), HALF, "w", "b"))
    yield Case("transposed stored int8 weights", stored(transposed_conv(), INT8, "w"))
    yield Case("transposed small kernel", transposed_conv(kernel=1), "kernel-covers-stride")
    yield from skewed("transposed", transposed_conv, (4, 3, 3, 2), 3, 0, static_loads=True)
    yield Case("transposed computed weights", transposed_conv(w=T([4, 3, 3, 2])), "fixed-weights")
    yield Case("transposed computed bias", transposed_conv(b=T([4])), "bias")
    for activation, rule in ((1, ""), (4, "clamping-activation")):
        graph = transposed_conv()
        graph.operators[0].options[1]["fusedActivationFunction"] = activation
        yield Case(f"transposed activation {activation}", graph, rule)
    yield Case(
        "transposed computed size", computed(transposed_conv(), "size"), "fixed-output-shape"
    )
    without = transposed_conv()
    del without.tensors["b"]
    without.operators[0].inputs = ["size", "w", "x"]
    yield Case("transposed without bias", without)


def product(left: T, right: T, **options: Any) -> Graph:
    table = ("BatchMatMulOptions", options)
    out = act([1, 2, 4, 5], left.dtype)
    return one("BATCH_MATMUL", {"x": left, "w": right}, out, table, 3)


def products() -> Iterator[Case]:
    a, b = [1, 2, 4, 3], [1, 2, 3, 5]
    for form in (FLOAT, HALF, INT8):
        yield Case(f"matmul {form}", product(act(a, form), act(b, form)))
    yield Case(
        "matmul int8 skewed right",
        product(act(a, INT8), act(b, INT8, zero=5)),
        "symmetric-second-operand",
    )
    yield Case("matmul int8 skewed left", product(act(a, INT8, zero=5), act(b, INT8)))
    yield Case("matmul dynamic", product(act(a), const(b, INT8, scale=0.1)))
    yield Case("matmul of float constant", product(act(a), const(b)))
    yield Case("matmul float16 weights", stored(product(act(a), const(b)), HALF, "w"))
    yield Case("matmul stored int8 weights", stored(product(act(a), const(b)), INT8, "w"))
    yield Case("matmul int16", product(act(a, "int16"), act(b, "int16")), "form")
    yield Case("matmul uint8", product(act(a, UINT8), act(b, UINT8)), "form", loads=False)
    many = [1] * 5 + [2, 2]
    flat = {"x": act(many), "w": act([2, 2])}
    for name, inputs in (("rank-0", flat), ("rank-1", {"x": flat["w"], "w": flat["x"]})):
        graph = one("BATCH_MATMUL", inputs, act(many), ("BatchMatMulOptions", {}))
        yield Case(f"matmul {name}", graph, name, loads=False)
    turned = product(act(a), act([1, 2, 5, 3]), adjY=True)
    yield Case("matmul transposed right", turned)
    per_channel = const([5, 3], INT8, scale=np.full(5, 0.1), axis=0)
    yield Case("matmul dynamic per channel", product(act([4, 3]), per_channel, adjY=True))


# -- element by element


BINARY_OPTIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "ADD": ("AddOptions", {}),
    "SUB": ("SubOptions", {}),
    "MUL": ("MulOptions", {}),
    "DIV": ("DivOptions", {}),
    "MAXIMUM": ("MaximumMinimumOptions", {}),
    "MINIMUM": ("MaximumMinimumOptions", {}),
    "SQUARED_DIFFERENCE": ("SquaredDifferenceOptions", {}),
    "PRELU": None,
}


def pair(name: str, left: T, right: T, out: T | None = None, activation: int = 0) -> Graph:
    options = BINARY_OPTIONS[name]
    if options is not None and activation:
        options = (options[0], {"fusedActivationFunction": activation})
    version = 2 if left.dtype == INT8 and name != "PRELU" else 1
    inputs = {"x": left, "w": right}
    return one(name, inputs, out or act(left.shape, left.dtype), options, version)


def binary() -> Iterator[Case]:
    shape = [1, 4, 4, 3]
    for name in ("ADD", "SUB", "MUL"):
        for form in (FLOAT, HALF, INT8, UINT8):
            yield Case(f"{name} {form}", pair(name, act(shape, form), act(shape, form)))
        yield Case(f"{name} int32", pair(name, act(shape, "int32"), act(shape, "int32")), "form")
        yield Case(f"{name} of a scalar", pair(name, act(shape), const([])))
        relu = pair(name, act(shape), act(shape), activation=1)
        yield Case(f"{name} relu", relu)
    for name in ("ADD", "SUB"):
        for ratio, rule in (
            (255.0, ""),
            (256.0, "scale-ratio"),
            (2.0**-10, ""),
            (0.99 * 2.0**-10, "scale-ratio"),
        ):
            graph = pair(
                name, act(shape, INT8, 0.5 * ratio), act(shape, INT8, 0.5), act(shape, INT8, 0.5)
            )
            yield Case(f"{name} scale ratio {ratio:g}", graph, rule)
    for ratio, rule in (
        (255.0, ""),
        (256.0, "product-scale"),
        (2.0**-16, ""),
        (0.99 * 2.0**-16, "product-scale"),
    ):
        graph = pair("MUL", act(shape, INT8, ratio), act(shape, INT8, 0.5), act(shape, INT8, 0.5))
        yield Case(f"MUL product scale {ratio:g}", graph, rule)
    for name in ("DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
        for form in (FLOAT, HALF):
            yield Case(f"{name} {form}", pair(name, act(shape, form), act(shape, form)))
        if name != "DIV":
            form = INT8
            yield Case(f"{name} int8", pair(name, act(shape, form), act(shape, form)), "form")
    yield Case("DIV int32", pair("DIV", act(shape, "int32"), const(shape, "int32")), "form")
    for name in BINARY_OPTIONS:
        wide, right = act([1] * 7), const([1] * 7)
        yield Case(f"{name} of 7 dimensions", pair(name, wide, right), "rank-0")
        if name != "PRELU":
            yield Case(f"{name} by 7 dimensions", pair(name, act([1]), right, wide), "rank-1")
    for name in ("ADD", "SUB", "MUL", "DIV"):
        graph = pair(name, act(shape), act(shape), activation=4)
        yield Case(f"{name} tanh", graph, "clamping-activation")
    slopes = const([1, 1, 3])
    yield Case("PRELU", pair("PRELU", act(shape), slopes))
    yield Case("PRELU half", pair("PRELU", act(shape, HALF), const([1, 1, 3], HALF)))
    yield Case("PRELU float16 slopes", stored(pair("PRELU", act(shape), slopes), HALF, "w"))
    yield Case("PRELU stored int8", stored(pair("PRELU", act(shape), const([1, 1, 3])), INT8, "w"))
    yield Case(
        "PRELU int8", pair("PRELU", act(shape, INT8), const([1, 1, 3], INT8, scale=0.1)), "form"
    )
    yield Case("PRELU computed slopes", pair("PRELU", act(shape), act([1, 1, 3])), "fixed-slopes")


UNARY_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "GELU": ("GeluOptions", {}),
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
    "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.25}),
}
INT8_OUTPUTS = {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
FLOAT_KERNELS = ("CEIL", "COS", "FLOOR", "NEG", "ROUND", "SIN", "SQUARE")
INT8_KERNELS = ("ABS", "EXP", "GELU", "HARD_SWISH", "LOG", "RELU", "RELU6", "RELU_N1_TO_1")
INT8_KERNELS += ("RSQRT", "SOFTMAX", "SQRT")
"""Operators with an int8 kernel in the runtime, but none in XNNPACK."""
INT16_KERNELS = ("ABS", "EXP", "GELU", "LEAKY_RELU", "LOG", "LOGISTIC", "NEG", "RELU", "RELU6")
INT16_KERNELS += ("RSQRT", "SQRT", "TANH")


def single(name: str, form: str = FLOAT, shape: Any = (1, 4, 4, 3), **options: Any) -> Graph:
    table = UNARY_OPTIONS.get(name)
    if options and table:
        table = (table[0], options)
    out = act(shape, form)
    if form == INT8 and name in INT8_OUTPUTS:
        out.scale, out.zero = INT8_OUTPUTS[name]
    if form == UINT8 and name in INT8_OUTPUTS:
        out.scale, out.zero = 1 / 256, 0
    version = 2 if form == INT8 and name not in ("ELU", "HARD_SWISH", "RELU_N1_TO_1") else 1
    if form == "int16" and name in INT8_OUTPUTS:
        out.scale, out.zero = 1 / 32768, 0
    if name == "TANH" and form == UINT8:
        out.scale, out.zero = 1 / 128, 128
    return one(name, {"x": act(shape, form)}, out, table, version)


def unary() -> Iterator[Case]:
    for name in (*FLOAT_KERNELS, *INT8_KERNELS, "ELU", "LEAKY_RELU", "LOGISTIC", "TANH"):
        yield Case(f"{name} float", single(name))
        yield Case(f"{name} half", single(name, HALF))
        if name in INT8_KERNELS:
            yield Case(f"{name} int8", single(name, INT8), "form")
        yield Case(
            f"{name} of 7 dimensions",
            single(name, shape=[1] * 7),
            "rank-0",
            loads=name != "SOFTMAX",
        )
    for name in ("ELU", "LEAKY_RELU", "LOGISTIC", "TANH"):
        yield Case(f"{name} int8", single(name, INT8))
    for name in ("LEAKY_RELU", "LOGISTIC", "TANH"):
        yield Case(f"{name} uint8", single(name, UINT8))
    for name in INT16_KERNELS:
        yield Case(f"{name} int16", single(name, "int16"), "form")
    yield Case("TANH of a scalar", single("TANH", shape=[]))
    yield Case("TANH of nothing", single("TANH", shape=[0, 3]), "rank-0")
    yield Case("SOFTMAX beta", single("SOFTMAX", beta=0.5), "beta")
    yield Case("LEAKY_RELU of 0", single("LEAKY_RELU", alpha=0.0), "slope")
    yield Case("LEAKY_RELU int8 of little", single("LEAKY_RELU", INT8, alpha=0.001), "slope")
    shape = [1, 4]
    for kind in (INT8, UINT8):
        quantize = one("QUANTIZE", {"x": act(shape)}, act(shape, kind), ("QuantizeOptions", {}))
        yield Case(f"QUANTIZE to {kind}", quantize)
        back = one("DEQUANTIZE", {"x": act(shape, kind)}, act(shape), ("DequantizeOptions", {}), 2)
        yield Case(f"DEQUANTIZE {kind}", back)
        for ratio, rule in ((128.0, ""), (129.0, "requantization"), (2.0**-8, "")):
            graph = one(
                "QUANTIZE",
                {"x": act(shape, kind, 0.1 * ratio)},
                act(shape, kind, 0.1),
                ("QuantizeOptions", {}),
                2,
            )
            yield Case(f"QUANTIZE {kind} by {ratio:g}", graph, rule)
    wide = act([1] * 7)
    graph = one("QUANTIZE", {"x": wide}, act([1] * 7, INT8), ("QuantizeOptions", {}))
    yield Case("QUANTIZE of 7 dimensions", graph, "rank-0")
    graph = one("DEQUANTIZE", {"x": act([1] * 7, INT8)}, wide, ("DequantizeOptions", {}), 2)
    yield Case("DEQUANTIZE of 7 dimensions", graph, "rank-0")
    change = one("QUANTIZE", {"x": act(shape, INT8)}, act(shape, UINT8), ("QuantizeOptions", {}), 2)
    yield Case("QUANTIZE int8 to uint8", change, "form")
    halves = one("DEQUANTIZE", {"x": act(shape, HALF)}, act(shape), ("DequantizeOptions", {}), 3)
    yield Case("DEQUANTIZE float16", halves, "form")


# -- pooling, layout, reductions


def pool(name: str, form: str = FLOAT, window: int = 2, stride: int = 2, act_: int = 0) -> Graph:
    options = {
        "strideH": stride,
        "strideW": stride,
        "filterHeight": window,
        "filterWidth": window,
        "fusedActivationFunction": act_,
    }
    side = -(-8 // stride)
    out = act([1, side, side, 4], form)
    table = ("Pool2DOptions", options)
    return one(name, {"x": act([1, 8, 8, 4], form)}, out, table, 2 if form == INT8 else 1)


def resize(name: str, form: str = FLOAT, **changed: T) -> Graph:
    inputs = {"x": act([1, 4, 4, 2], form), "size": ints(8, 8)} | changed
    table = "ResizeBilinearOptions" if "BILINEAR" in name else "ResizeNearestNeighborOptions"
    return one(name, inputs, act([1, 8, 8, 2], form), (table, {}), 2 if form == INT8 else 1)


def pools() -> Iterator[Case]:
    for form in (FLOAT, HALF):
        yield Case(f"average pool {form}", pool("AVERAGE_POOL_2D", form))
    yield Case("average pool int8", pool("AVERAGE_POOL_2D", INT8), "form")
    for form in (FLOAT, INT8, UINT8):
        yield Case(f"max pool {form}", pool("MAX_POOL_2D", form))
        yield Case(f"resize {form}", resize("RESIZE_BILINEAR", form))
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        yield Case(f"{name} 1x1 stride 2", pool(name, window=1), "window-covers-stride")
        yield Case(f"{name} stride 3", pool(name, stride=3), "window-covers-stride")
        yield Case(f"{name} 3x3 stride 1", pool(name, window=3, stride=1))
        yield Case(f"{name} relu", pool(name, act_=1))
        yield Case(f"{name} tanh", pool(name, act_=4), "clamping-activation")
        graph = pool(name, "int16")
        graph.operators[0].version = 3
        yield Case(f"{name} int16", graph, "form")
    yield Case("resize computed size", computed(resize("RESIZE_BILINEAR"), "size"), "fixed-size")
    yield Case("resize half", resize("RESIZE_BILINEAR", "int16"), "form")


def moved(name: str, form: str, inputs: dict[str, T], out: Any, table: Any, version: int) -> Graph:
    return one(name, {"x": act([1, 4, 4, 8], form)} | inputs, act(out, form), table, version)


def concat(count: int, form: str = FLOAT, axis: int = -1, scale: float = 0.1) -> Graph:
    inputs = {f"x{i}": act([1, 2, 3], form, 0.1 if i else scale) for i in range(count)}
    out = act([1, 2, 3 * count], form)
    options = ("ConcatenationOptions", {"axis": axis})
    return one("CONCATENATION", inputs, out, options, 2 if form == INT8 else 1)


def split(count: int, form: str = FLOAT) -> Graph:
    inputs = {"axis": ints(1), "x": act([1, 60], form)}
    inputs["axis"].shape = []
    outputs = {f"y{i}": act([1, 60 // count], form) for i in range(count)}
    options = ("SplitOptions", {"numSplits": count})
    return one("SPLIT", inputs, outputs, options, 2 if form == INT8 else 1)


def strided(form: str = FLOAT, strides: Any = (1, 1), out: Any = (1, 3), **masks: int) -> Graph:
    inputs = {
        "x": act([1, 6], form),
        "begin": ints(0, 1),
        "end": ints(1, 4),
        "strides": ints(*strides),
    }
    table = ("StridedSliceOptions", masks)
    return one("STRIDED_SLICE", inputs, act(out, form), table, 2 if form == INT8 else 1)


def layout() -> Iterator[Case]:
    for form in (FLOAT, HALF, INT8, UINT8):
        version = 2 if form == INT8 else 1
        table: Any = ("ReshapeOptions", {"newShape": [1, 128]})
        yield Case(
            f"reshape {form}", moved("RESHAPE", form, {"s": ints(1, 128)}, [1, 128], table, 1)
        )
        yield Case(
            f"transpose {form}",
            moved("TRANSPOSE", form, {"s": ints(0, 3, 1, 2)}, [1, 8, 4, 4], None, version),
        )
        yield Case(f"concat {form}", concat(2, form))
        yield Case(f"split {form}", split(3, form))
        bounds = {"b": ints(0, 1, 0, 0), "s": ints(1, 2, 4, 8)}
        yield Case(f"slice {form}", moved("SLICE", form, bounds, [1, 2, 4, 8], None, version))
        yield Case(f"strided slice {form}", strided(form))
        pads = {"p": ints([[0, 0], [1, 1], [1, 1], [0, 0]])}
        yield Case(f"pad {form}", moved("PAD", form, pads, [1, 6, 6, 8], None, version))
        yield Case(
            f"depth to space {form}",
            moved(
                "DEPTH_TO_SPACE",
                form,
                {},
                [1, 8, 8, 2],
                ("DepthToSpaceOptions", {"blockSize": 2}),
                version,
            ),
        )
        if form != HALF:
            yield Case(
                f"space to depth {form}",
                moved(
                    "SPACE_TO_DEPTH",
                    form,
                    {},
                    [1, 2, 2, 32],
                    ("SpaceToDepthOptions", {"blockSize": 2}),
                    version,
                ),
            )
    unscaled = one("TRANSPOSE", {"x": T([1, 4], INT8), "s": ints(1, 0)}, T([4, 1], INT8), None, 2)
    yield Case("transpose without a scale", unscaled, "quantization")
    numbers = "int32"
    yield Case(
        "reshape int32", moved("RESHAPE", numbers, {"s": ints(1, 128)}, [1, 128], None, 1), "form"
    )
    for flat, rule in (([-1], "reshape-target"), ([128], ""), ([-1, 128], "")):
        graph = moved(
            "RESHAPE", FLOAT, {"s": ints(flat)}, [1, 128] if len(flat) == 2 else [128], None, 1
        )
        yield Case(f"reshape to {flat}", graph, rule)
    scalar = one("RESHAPE", {"x": act([1, 1]), "s": T([0], "int32", [])}, act([]), None)
    yield Case("reshape to a scalar", scalar)
    by_option = one(
        "RESHAPE", {"x": act([1, 4])}, act([4, 1]), ("ReshapeOptions", {"newShape": [4, 1]})
    )
    yield Case("reshape by option", by_option)
    deep = one("RESHAPE", {"x": act([4]), "s": ints(1, 1, 1, 1, 1, 1, 4)}, act([1] * 6 + [4]), None)
    yield Case("reshape to 7 dimensions", deep, "reshape-target")
    flat_again = one("RESHAPE", {"x": act([1] * 6 + [4]), "s": ints(2, 2)}, act([2, 2]), None)
    yield Case("reshape of 7 dimensions", flat_again, "rank-0")
    late = moved("RESHAPE", FLOAT, {"s": ints(1, 128)}, [1, 128], None, 1)
    yield Case("reshape computed", computed(late, "s"), "fixed-shape")
    rescaled = one(
        "RESHAPE", {"x": act([1, 4], INT8, 0.2), "s": ints(4, 1)}, act([4, 1], INT8), None
    )
    yield Case("reshape rescaled", rescaled, "same-scale")
    yield Case(
        "transpose int32",
        moved("TRANSPOSE", numbers, {"s": ints(0, 3, 1, 2)}, [1, 8, 4, 4], None, 1),
        "form",
    )
    yield Case(
        "transpose computed",
        computed(moved("TRANSPOSE", FLOAT, {"s": ints(0, 3, 1, 2)}, [1, 8, 4, 4], None, 1), "s"),
        "fixed-order",
    )
    for count in (1, 5, 6):
        yield Case(f"concat of {count}", concat(count), "" if count == 5 else "2-to-5-inputs")
    yield Case("concat int32", concat(2, "int32"), "form")
    yield Case("concat uint8 rescaled", concat(2, UINT8, scale=0.2), "same-uint8-scale")
    yield Case("split computed", computed(split(2), "axis"), "fixed-axis")
    for name in ("begin", "end", "strides"):
        yield Case(f"strided slice computed {name}", computed(strided(), name), f"fixed-{name}")
    wide = act([2] + [1] * 6)
    whole = one("TRANSPOSE", {"x": wide, "s": ints(*range(7))}, wide)
    yield Case("transpose of 7 dimensions", whole, "rank-0")
    bounds = {"b": ints([0] * 7), "s": ints([1] * 7)}
    yield Case("slice of 7 dimensions", one("SLICE", {"x": wide} | bounds, act([1] * 7)), "rank-0")
    pair_ = {"x": wide, "w": wide}
    graph = one("CONCATENATION", pair_, act([4] + [1] * 6), ("ConcatenationOptions", {"axis": 0}))
    yield Case("concat of 7 dimensions", graph, "rank-0", loads=False)
    halves = {"a": act([1] * 7), "b": act([1] * 7)}
    graph = one("SPLIT", {"axis": ints([0]), "x": wide}, halves, ("SplitOptions", {"numSplits": 2}))
    yield Case("split of 7 dimensions", graph, "rank-1", loads=False)
    yield Case(
        "space to depth int32",
        moved(
            "SPACE_TO_DEPTH",
            "int32",
            {},
            [1, 2, 2, 32],
            ("SpaceToDepthOptions", {"blockSize": 2}),
            1,
        ),
        "form",
    )
    yield Case(
        "space to depth of 1",
        moved(
            "SPACE_TO_DEPTH", FLOAT, {}, [1, 4, 4, 8], ("SpaceToDepthOptions", {"blockSize": 1}), 1
        ),
        "block-size",
    )
    yield Case("split into 1", split(1), "pieces")
    yield Case("split into 4", split(4))
    yield Case("split into 5", split(5), "pieces")
    yield Case("split int32", split(2, "int32"), "form")
    bounds = {"b": ints(0, 1, 0, 0), "s": ints(1, -1, 4, 8)}
    yield Case(
        "slice to the end", moved("SLICE", FLOAT, bounds, [1, 3, 4, 8], None, 1), "slice-sizes"
    )
    bounds = {"b": ints(0, 1, 0, 0), "s": ints(1, 2, 4, 8)}
    late = moved("SLICE", FLOAT, bounds, [1, 2, 4, 8], None, 1)
    yield Case("slice computed", computed(late, "b"), "slice-sizes")
    yield Case(
        "slice int32",
        moved(
            "SLICE", numbers, {"b": ints(0, 1, 0, 0), "s": ints(1, 2, 4, 8)}, [1, 2, 4, 8], None, 1
        ),
        "form",
    )
    yield Case("strided slice int32", strided("int32"), "form")
    yield Case("strided slice step 2", strided(strides=(1, 2), out=(1, 2)), "slice-strides")
    yield Case("strided slice shrink", strided(out=(3,), shrinkAxisMask=1), "slice-masks")
    yield Case("strided slice begin mask", strided(out=(1, 4), beginMask=2))
    yield Case("strided slice end mask", strided(out=(1, 5), endMask=2))
    part = strided(out=(1, 6))
    part.tensors |= {"begin": ints([0]), "end": ints([1]), "strides": ints([1])}
    yield Case("strided slice of one axis", part, "slice-strides")
    yield Case(
        "pad int32",
        moved("PAD", numbers, {"p": ints([[0, 0], [1, 1], [1, 1], [0, 0]])}, [1, 6, 6, 8], None, 1),
        "form",
    )
    late = moved("PAD", FLOAT, {"p": ints(np.zeros((4, 2)))}, [1, 4, 4, 8], None, 1)
    yield Case("pad computed", computed(late, "p"), "fixed-padding")
    yield Case(
        "depth to space int32",
        moved(
            "DEPTH_TO_SPACE",
            numbers,
            {},
            [1, 8, 8, 2],
            ("DepthToSpaceOptions", {"blockSize": 2}),
            1,
        ),
        "form",
    )
    yield Case(
        "depth to space of 1",
        moved(
            "DEPTH_TO_SPACE", FLOAT, {}, [1, 4, 4, 8], ("DepthToSpaceOptions", {"blockSize": 1}), 1
        ),
        "block-size",
    )


def reductions() -> Iterator[Case]:
    table = ("ReducerOptions", {"keepDims": True})
    for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        for form in (FLOAT, HALF, INT8, UINT8):
            graph = moved(
                name, form, {"axes": ints(1, 2)}, [1, 1, 1, 8], table, 2 if form == INT8 else 1
            )
            yield Case(f"{name} {form}", graph)
        yield Case(
            f"{name} int32",
            moved(name, "int32", {"axes": ints(1, 2)}, [1, 1, 1, 8], table, 1),
            "form",
        )
        late = moved(name, FLOAT, {"axes": ints([1])}, [1, 1, 4, 8], table, 1)
        yield Case(f"{name} computed", computed(late, "axes"), "fixed-axes")
        yield Case(
            f"{name} of no axis",
            moved(name, FLOAT, {"axes": T([0], "int32", [])}, [1, 4, 4, 8], table, 1),
            "axes",
        )
        wide = one(name, {"x": act([1] * 7), "axes": ints([0])}, act([1] * 7), table)
        yield Case(f"{name} of 7 dimensions", wide, "rank-0", loads=False)
        plain = ("ReducerOptions", {"keepDims": False})
        yield Case(
            f"{name} last axis", moved(name, FLOAT, {"axes": ints([-1])}, [1, 4, 4], plain, 1)
        )


def variables() -> Iterator[Case]:
    handle = Op("VAR_HANDLE", [], ["r"], ("VarHandleOptions", {"sharedName": "v"}))
    write = Op("ASSIGN_VARIABLE", ["r", "x"], [], ("AssignVariableOptions", {}))
    read = Op("READ_VARIABLE", ["r"], ["y"], ("ReadVariableOptions", {}))
    for dtype, rule in ((FLOAT, ""), (INT8, ""), ("int32", "variable")):
        tensors = {"r": T([], "resource"), "x": act([1, 4], dtype), "y": act([1, 4], dtype)}
        yield Case(f"variable read {dtype}", Graph(tensors, [handle, write, read]), rule)
        written = Graph(tensors, [handle, write, read, write], ["y"])
        yield Case(f"variable written {dtype}", written, rule)


# -- no kernel


def refused() -> Iterator[Case]:
    x = {"x": act([1, 4])}
    two = {"x": act([1, 4]), "w": act([1, 4])}
    flags = {"x": T([1, 4], "bool"), "w": T([1, 4], "bool")}
    truth = T([1, 4], "bool")
    graphs = [
        one(
            "GATHER",
            {"t": const([10, 4]), "i": T([1, 3], "int32")},
            act([1, 3, 4]),
            ("GatherOptions", {}),
        ),
        one("GATHER_ND", {"t": const([10, 4]), "i": T([3, 1], "int32")}, act([3, 4])),
        one("EMBEDDING_LOOKUP", {"i": T([3], "int32"), "t": const([10, 4])}, act([3, 4])),
        one(
            "CAST",
            {"x": T([1, 4], "int32")},
            act([1, 4]),
            ("CastOptions", {"inDataType": 2, "outDataType": 0}),
        ),
        one("SELECT", {"c": truth} | two, act([1, 4])),
        one("SELECT_V2", {"c": truth} | two, act([1, 4])),
        *(
            one(name, two, truth)
            for name in ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
        ),
        *(one(name, flags, truth) for name in ("LOGICAL_AND", "LOGICAL_OR")),
        one("LOGICAL_NOT", {"x": truth}, truth),
        one("PACK", two, act([2, 1, 4]), ("PackOptions", {"valuesCount": 2})),
        one(
            "UNPACK",
            {"x": act([2, 4])},
            {"a": act([4]), "b": act([4])},
            ("UnpackOptions", {"num": 2}),
        ),
        one("TILE", x | {"n": ints(1, 2)}, act([1, 8])),
        one("BROADCAST_TO", x | {"n": ints(3, 4)}, act([3, 4]), None, 2),
        one("EXPAND_DIMS", x | {"a": ints([1])}, act([1, 1, 4])),
        one("SQUEEZE", x, act([4]), ("SqueezeOptions", {"squeezeDims": [0]})),
        one("SHAPE", x, T([2], "int32"), ("ShapeOptions", {"outType": 2})),
        one("FILL", {"n": ints(1, 4), "v": T([])}, act([1, 4])),
        one(
            "RANGE",
            {"a": T([], "int32", 0), "b": T([], "int32", 4), "c": T([], "int32", 1)},
            T([4], "int32"),
        ),
        one(
            "ONE_HOT",
            {
                "i": T([4], "int32"),
                "d": T([], "int32", 3),
                "on": T([], data=1),
                "off": T([], data=0),
            },
            act([4, 3]),
            ("OneHotOptions", {"axis": -1}),
        ),
        one("CUMSUM", x | {"a": T([], "int32", 1)}, act([1, 4]), ("CumsumOptions", {})),
        one("L2_NORMALIZATION", x, act([1, 4]), ("L2NormOptions", {})),
        one("LOG_SOFTMAX", x, act([1, 4])),
        *(
            one(
                name,
                x | {"a": T([], "int32", 1)},
                T([1], "int32"),
                (f"{table}Options", {"outputType": 2}),
            )
            for name, table in (("ARG_MAX", "ArgMax"), ("ARG_MIN", "ArgMin"))
        ),
        one("TOPK_V2", x | {"k": T([], "int32", 2)}, {"v": act([1, 2]), "i": T([1, 2], "int32")}),
        one(
            "SCATTER_ND", {"i": T([2, 1], "int32"), "u": act([2, 4]), "n": ints(8, 4)}, act([8, 4])
        ),
        one(
            "DYNAMIC_UPDATE_SLICE",
            {"x": act([4, 4]), "u": act([1, 4]), "i": T([2], "int32")},
            act([4, 4]),
        ),
        one(
            "SPLIT_V",
            x | {"n": ints(1, 3), "a": T([], "int32", 1)},
            {"a_": act([1, 1]), "b": act([1, 3])},
            ("SplitVOptions", {"numSplits": 2}),
        ),
        one("PADV2", x | {"p": ints([[0, 0], [1, 1]]), "v": T([], data=1)}, act([1, 6])),
        one("MIRROR_PAD", x | {"p": ints([[0, 0], [1, 1]])}, act([1, 6]), ("MirrorPadOptions", {})),
        resize("RESIZE_NEAREST_NEIGHBOR"),
        one(
            "SPACE_TO_BATCH_ND",
            {"x": act([1, 4, 4, 2]), "b": ints(2, 2), "p": ints([[0, 0], [0, 0]])},
            act([4, 2, 2, 2]),
        ),
        one(
            "BATCH_TO_SPACE_ND",
            {"x": act([4, 2, 2, 2]), "b": ints(2, 2), "p": ints([[0, 0], [0, 0]])},
            act([1, 4, 4, 2]),
        ),
        one("POW", two, act([1, 4])),
        one("REDUCE_PROD", x | {"a": ints([1])}, act([1]), ("ReducerOptions", {})),
        *(
            one(name, {"x": truth, "a": ints([1])}, T([1], "bool"), ("ReducerOptions", {}))
            for name in ("REDUCE_ANY", "REDUCE_ALL")
        ),
        one("SIGN", x, act([1, 4])),
        *(
            one(name, {"x": act([1, 4]), "w": const([1, 4])}, act([1, 4]))
            for name in ("FLOOR_DIV", "FLOOR_MOD")
        ),
        one("REVERSE_V2", x | {"a": ints([1])}, act([1, 4])),
        one("ADD_N", two, act([1, 4])),
        one("ATAN2", two, act([1, 4])),
        one("ZEROS_LIKE", x, act([1, 4])),
    ]
    gates = {f"w{i}": const([3, 4]) for i in range(4)} | {f"r{i}": const([3, 3]) for i in range(4)}
    biases = {f"b{i}": const([3]) for i in range(4)}
    states = {"h": T([1, 3], variable=True), "c": T([1, 3], variable=True)}
    order = [*(x | gates), "", "", "", *biases, "", "", *states]
    tensors = {"x": act([1, 2, 4])} | gates | biases | states | {"y": act([1, 2, 3])}
    options = ("UnidirectionalSequenceLSTMOptions", {"fusedActivationFunction": 4})
    step = Op("UNIDIRECTIONAL_SEQUENCE_LSTM", order, ["y"], options)
    graphs.append(Graph(tensors, [step]))
    for graph in graphs:
        yield Case(graph.operators[0].name, graph, "operator")
