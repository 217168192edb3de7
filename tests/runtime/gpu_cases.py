"""Files of one operator for the GPU's rows of the capability table, beside operator_cases.

What is expected of them is asked of the accelerator itself (test_gpu_capabilities).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from one_operator import Graph, Op, T
from operator_cases import (
    FLOAT,
    HALF,
    INT8,
    UINT8,
    act,
    computed,
    concat,
    const,
    conv,
    depth,
    full,
    ints,
    moved,
    one,
    pair,
    pool,
    product,
    resize,
    single,
    split,
    stored,
    strided,
    transposed_conv,
)

TYPES = (FLOAT, HALF, INT8, UINT8, "int16", "int32", "bool", "int64")
SHAPE = [1, 4, 4, 3]
COMPARISONS = {
    name: f"{''.join(word.title() for word in name.split('_'))}Options"
    for name in ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
}
PADS = {"p": ints([[0, 0], [1, 1], [1, 1], [0, 0]])}


def scalar(value: int) -> T:
    return T([], "int32", value)


def typed(form: str) -> Iterator[tuple[str, Graph]]:
    """Operators in one type."""
    for name in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
        yield name, pair(name, act(SHAPE, form), act(SHAPE, form))
    for name in ("CEIL", "COS", "FLOOR", "NEG", "ROUND", "SIN", "SQUARE", "ABS", "EXP", "GELU"):
        yield name, single(name, form)
    for name in ("HARD_SWISH", "LOG", "RELU", "RELU6", "RELU_N1_TO_1", "RSQRT", "SQRT", "ELU"):
        yield name, single(name, form)
    for name in ("SOFTMAX", "LEAKY_RELU", "LOGISTIC", "TANH"):
        yield name, single(name, form)
    flat = ("ReshapeOptions", {"newShape": [1, 128]})
    yield "RESHAPE", moved("RESHAPE", form, {"s": ints(1, 128)}, [1, 128], flat, 1)
    yield "TRANSPOSE", moved("TRANSPOSE", form, {"s": ints(0, 3, 1, 2)}, [1, 8, 4, 4], None, 1)
    yield "CONCATENATION", concat(2, form)
    yield "SPLIT", split(3, form)
    bounds = {"b": ints(0, 1, 0, 0), "s": ints(1, 2, 4, 8)}
    yield "SLICE", moved("SLICE", form, bounds, [1, 2, 4, 8], None, 1)
    yield "STRIDED_SLICE", strided(form)
    yield "PAD", moved("PAD", form, PADS, [1, 6, 6, 8], None, 1)
    yield "MIRROR_PAD", moved("MIRROR_PAD", form, PADS, [1, 6, 6, 8], ("MirrorPadOptions", {}), 1)
    if form != "int32":  # the accelerator dies of it
        value = {"v": T([], form, 0, 0.1 if form in (INT8, UINT8, "int16") else None)}
        yield "PADV2", moved("PADV2", form, PADS | value, [1, 6, 6, 8], ("PadV2Options", {}), 1)
    for name, shape in (("DEPTH_TO_SPACE", [1, 8, 8, 2]), ("SPACE_TO_DEPTH", [1, 2, 2, 32])):
        table = "DepthToSpaceOptions" if name[0] == "D" else "SpaceToDepthOptions"
        yield name, moved(name, form, {}, shape, (table, {"blockSize": 2}), 1)
    axes = {"x": act(SHAPE, form), "a": ints(1, 2)}
    for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY"):
        yield name, one(name, axes, act([1, 1, 1, 3], form), ("ReducerOptions", {"keepDims": True}))
    yield "REDUCE_ALL", one("REDUCE_ALL", axes, act([1, 3], form), ("ReducerOptions", {}))
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        yield name, pool(name, form)
    for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        yield name, resize(name, form)
    two = {"x": act(SHAPE, form), "w": act(SHAPE, form)}
    for name, table in COMPARISONS.items():
        yield name, one(name, two, act(SHAPE, "bool"), (table, {}))
    for name, table in (("SELECT", "SelectOptions"), ("SELECT_V2", "SelectV2Options")):
        yield name, one(name, {"c": act(SHAPE, "bool")} | two, act(SHAPE, form), (table, {}))
    rows = {"x": act([1, 4], form), "w": act([1, 4], form)}
    yield "PACK", one("PACK", rows, act([2, 1, 4], form), ("PackOptions", {"valuesCount": 2}))
    halves = {"a": act([1, 4], form), "b": act([1, 4], form)}
    options = ("UnpackOptions", {"num": 2, "axis": 1})
    yield "UNPACK", one("UNPACK", {"x": act([1, 2, 4], form)}, halves, options)
    twice = {"x": act(SHAPE, form), "m": ints(1, 2, 2, 1)}
    yield "TILE", one("TILE", twice, act([1, 8, 8, 3], form), ("TileOptions", {}))
    line = {"x": act([1, 4], form), "a": scalar(1)}
    yield "CUMSUM", one("CUMSUM", line, act([1, 4], form), ("CumsumOptions", {}))
    turned = {"x": act(SHAPE, form), "a": ints([1])}
    yield "REVERSE_V2", one("REVERSE_V2", turned, act(SHAPE, form), ("ReverseV2Options", {}))
    yield "ARG_MAX", one("ARG_MAX", line, T([1], "int32"), ("ArgMaxOptions", {"outputType": 2}))
    for name, table in (("POW", "Pow"), ("FLOOR_DIV", "FloorDiv"), ("FLOOR_MOD", "FloorMod")):
        yield name, one(name, two, act(SHAPE, form), (f"{table}Options", {}))
    yield "SIGN", one("SIGN", {"x": act(SHAPE, form)}, act(SHAPE, form), ("SignOptions", {}))
    for shape in ([3], [1, 3]):
        if form != "int16":  # the accelerator dies of a constant table of it
            table = {"t": act([5, 4], form), "i": T(shape, "int32")}
            yield f"GATHER {shape}", one("GATHER", table, act([*shape, 4], form), None)
    for other in TYPES:
        change = {"x": act(SHAPE, form)}
        if other != form:
            yield f"CAST to {other}", one("CAST", change, act(SHAPE, other), ("CastOptions", {}))
        if other in (INT8, UINT8, "int16"):
            table = ("QuantizeOptions", {})
            yield f"QUANTIZE to {other}", one("QUANTIZE", change, act(SHAPE, other), table)
    if form != FLOAT:
        back = one("DEQUANTIZE", {"x": act(SHAPE, form)}, act(SHAPE), ("DequantizeOptions", {}))
        yield "DEQUANTIZE", back


def shaped() -> Iterator[tuple[str, Graph]]:
    """Operators in tensors of 1 to 6 dimensions, and broadcast."""
    for shape in ([4], [2, 4], [2, 3, 4], [2, 3, 4, 4], [1, 2, 3, 4, 4], [1, 1, 2, 3, 4, 4]):
        rank, size = len(shape), int(np.prod(shape))
        at = f"of {rank} dimensions"
        yield f"GELU {at}", single("GELU", shape=shape)
        yield f"ADD int8 {at}", pair("ADD", act(shape, INT8), act(shape, INT8))
        yield f"MUL by a row {at}", pair("MUL", act(shape), const([4]))
        flat = ("ReshapeOptions", {"newShape": [1, size]})
        yield (
            f"RESHAPE {at}",
            one("RESHAPE", {"x": act(shape), "s": ints(1, size)}, act([1, size]), flat),
        )
        order = {"x": act(shape), "p": ints(list(range(rank))[::-1])}
        yield f"TRANSPOSE {at}", one("TRANSPOSE", order, act(shape[::-1]))
        for axis in range(rank):
            left = [n for i, n in enumerate(shape) if i != axis]
            over = {"x": act(shape), "a": ints([axis])}
            yield f"MEAN of axis {axis} {at}", one("MEAN", over, act(left), ("ReducerOptions", {}))
        if rank < 6:  # the runtime itself takes no more
            pads = {"x": act(shape), "p": ints([[0, 0]] * (rank - 1) + [[1, 1]])}
            yield f"PAD {at}", one("PAD", pads, act([*shape[:-1], 6]))
        options = ("FullyConnectedOptions", {"keepNumDims": True})
        kernel = {"x": act(shape), "w": const([5, 4])}
        if rank > 1:
            yield f"dense {at}", one("FULLY_CONNECTED", kernel, act([*shape[:-1], 5]), options)
    for shape in ([1], [3], [4, 3], [1, 1, 3], [1, 1, 1, 3], [1, 4, 4, 1], [1, 4, 1, 3], []):
        yield f"ADD const {shape}", pair("ADD", act(SHAPE), const(shape))
        yield f"ADD computed {shape}", pair("ADD", act(SHAPE), act(shape))
        yield f"PRELU {shape}", pair("PRELU", act(SHAPE), const(shape))
        table = ("SelectV2Options", {})
        if shape not in ([3], [4, 3]):  # no program is found for these, and nothing loads
            choice = {"c": act(shape, "bool"), "x": act(SHAPE), "w": act(SHAPE)}
            yield f"SELECT_V2 by {shape}", one("SELECT_V2", choice, act(SHAPE), table)
        choice = {"c": act(SHAPE, "bool"), "x": act(SHAPE), "w": const(shape)}
        yield f"SELECT_V2 of {shape}", one("SELECT_V2", choice, act(SHAPE), table)
    yield "PRELU float16", stored(pair("PRELU", act(SHAPE), const([1, 1, 3])), HALF, "w")


def optional() -> Iterator[tuple[str, Graph]]:
    """Settings that the accelerator asks for."""
    for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        graph = resize(name)
        graph.operators[0].options[1]["halfPixelCenters"] = True
        graph.operators[0].version = 3
        yield f"{name} half pixels", graph
    for mode in (0, 1):
        yield (
            f"MIRROR_PAD {mode}",
            moved("MIRROR_PAD", FLOAT, PADS, [1, 6, 6, 8], ("MirrorPadOptions", {"mode": mode}), 1),
        )
    for mask, out in (("ellipsisMask", (1, 3)), ("newAxisMask", (1, 1, 6))):
        yield f"strided slice {mask}", strided(out=out, **{mask: 1})
    back = {"x": act([1, 6]), "b": ints(0, 5), "e": ints(1, 0), "s": ints(1, -1)}
    yield "strided slice back", one("STRIDED_SLICE", back, act([1, 5]), ("StridedSliceOptions", {}))
    yield "conv of the sign", conv(activation=5)
    yield "depthwise of the sign", depth(activation=5)
    yield "pool of the sign", pool("MAX_POOL_2D", act_=5)
    for name in ("ADD", "SUB", "MUL", "DIV"):
        yield f"{name} of the sign", pair(name, act(SHAPE), act(SHAPE), activation=5)
    four = {"x": act(SHAPE), "w": act(SHAPE)}
    yield (
        "PACK of 4 dimensions",
        one("PACK", four, act([2, *SHAPE]), ("PackOptions", {"valuesCount": 2})),
    )
    dies = {"x": act([2, 3]), "k": scalar(2)}
    made = {"v": act([2, 2]), "i": T([2, 2], "int32")}
    yield "TOPK_V2 of 3", one("TOPK_V2", dies, made, ("TopKV2Options", {}))
    line = {"x": act([2, 4, 4, 3]), "a": scalar(-1)}
    yield "CUMSUM from the end", one("CUMSUM", line, act([2, 4, 4, 3]), ("CumsumOptions", {}))
    twice = {"x": act(SHAPE), "m": ints(1, 2, 2, 1)}
    tile = one("TILE", twice, act([1, 8, 8, 3]), ("TileOptions", {}))
    yield "TILE computed", computed(tile, "m")
    parts = {"x": act([1, 4]), "n": ints(1, 3), "a": scalar(1)}
    made = {"v": act([1, 1]), "w": act([1, 3])}
    parted = one("SPLIT_V", parts, made, ("SplitVOptions", {"numSplits": 2}))
    yield "SPLIT_V computed", computed(parted, "n")
    yield "dense expanded", stored(full(), INT8, "w")
    wide = {"x": act([2, 8]), "k": scalar(2)}
    made = {"v": act([2, 2]), "i": T([2, 2], "int32")}
    yield "TOPK_V2", one("TOPK_V2", wide, made, ("TopKV2Options", {}))
    for name, graph in (
        ("conv", conv()),
        ("pool", pool("MAX_POOL_2D")),
        ("softmax", single("TANH")),
    ):
        graph.operators[-1].version = 3
        yield f"{name} version 3", graph


def hazards() -> Iterator[tuple[str, Graph, Graph]]:
    """For each hazard a graph that comes out wrong on the GPU, and one like it that does not."""

    def pointwise(form: str, stride: int) -> Graph:
        kernel = const([8, 1, 1, 8], INT8 if form == INT8 else FLOAT)
        kernel.scale = np.full(8, 0.02) if form == INT8 else None
        bias = const([8], "int32" if form == INT8 else FLOAT)
        bias.scale = np.full(8, 0.002) if form == INT8 else None
        side = -(-8 // stride)
        options = ("Conv2DOptions", {"strideH": stride, "strideW": stride})
        tensors = {"x": act([1, 8, 8, 8], form), "w": kernel, "b": bias}
        version = 3 if form == INT8 else 1
        return one("CONV_2D", tensors, act([1, side, side, 8], form), options, version)

    yield "strided-pointwise", pointwise(INT8, 2), pointwise(FLOAT, 2)
    yield "strided-pointwise", pointwise(INT8, 2), pointwise(INT8, 1)

    def grouped(groups: int, channels: int, out: int) -> Graph:
        kernel = {"w": const([out, 3, 3, channels // groups]), "b": const([out])}
        options = ("Conv2DOptions", {"strideH": 1, "strideW": 1})
        return one(
            "CONV_2D", {"x": act([1, 8, 8, channels])} | kernel, act([1, 8, 8, out]), options
        )

    yield "group-width", grouped(2, 4, 4), grouped(2, 8, 8)
    yield "group-width", grouped(2, 8, 12), grouped(2, 24, 24)
    dense = ("FullyConnectedOptions", {})
    two = {"x": act([1, 8]), "w": act([4, 8])}
    biased = one("FULLY_CONNECTED", two | {"b": const([4])}, act([1, 4]), dense)
    yield "computed-weights", biased, one("FULLY_CONNECTED", two, act([1, 4]), dense)
    square = {"x": act([1, 2, 2, 2]), "w": const([5, 8])}
    yield "flattening", one("FULLY_CONNECTED", square, act([1, 5]), dense), full()
    relu, plain = transposed_conv(), transposed_conv()
    relu.operators[0].options[1]["fusedActivationFunction"] = 1
    yield "transposed-activation", relu, plain
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        yield "padded-pool", padded_pool(name, 2), padded_pool(name, 2, between=True)
    rows = pair("ADD", act([3, 4]), const([3, 4]))
    yield "batch-constant", rows, pair("ADD", act([1, 3, 4]), const([1, 3, 4]))
    left = act([2, 4, 3])
    repeated, whole = const([1, 3, 5]), const([2, 3, 5])
    options = ("BatchMatMulOptions", {})
    wrong = one("BATCH_MATMUL", {"x": left, "w": repeated}, act([2, 4, 5]), options, 3)
    right = one("BATCH_MATMUL", {"x": left, "w": whole}, act([2, 4, 5]), options, 3)
    yield "product-batches", wrong, right
    turned = {"x": act([4, 3]), "w": const([5, 3])}
    wrong = one("BATCH_MATMUL", turned, act([4, 5]), ("BatchMatMulOptions", {"adjY": True}), 3)
    yield "product-batches", wrong, product(act([1, 2, 4, 3]), act([1, 2, 3, 5]))

    def padded(shape: list[int], axis: int) -> Graph:
        pads = [[1, 2] if i == axis else [0, 0] for i in range(len(shape))]
        out = [n + 3 if i == axis else n for i, n in enumerate(shape)]
        return one("PAD", {"x": act(shape), "p": ints(pads)}, act(out))

    yield "padded-batch", padded([2, 5, 4], 1), padded([1, 5, 4], 1)
    yield "one-part", concat(1), concat(2)
    yield "vector", single("SOFTMAX", shape=[4]), single("SOFTMAX", shape=[1, 4])

    def sums(axis: int) -> Graph:
        line = {"x": act([2, 4, 3]), "a": scalar(axis)}
        return one("CUMSUM", line, act([2, 4, 3]), ("CumsumOptions", {}))

    yield "summed-axis", sums(-1), sums(1)

    def search(channels: int) -> Graph:
        # All below 0, so that what lies beyond the channels is the largest.
        tensors = {"x": act([2, 4, channels]), "n": act([2, 4, channels]), "a": scalar(2)}
        tensors |= {"m": act([2, 4, channels]), "k": const([1, 1, 1]), "y": T([2, 4], "int32")}
        operators = [
            Op("ABS", ["x"], ["m"]),
            Op("NEG", ["m"], ["n"]),
            Op("ARG_MAX", ["n", "a"], ["y"], ("ArgMaxOptions", {"outputType": 2})),
        ]
        del tensors["k"]
        return Graph(tensors, operators)

    yield "searched-channels", search(3), search(4)
    cast = ("CastOptions", {})
    whole_numbers = one("CAST", {"x": T([1, 8], "int32")}, T([1, 8]), cast)
    yield "quantized-cast", one("CAST", {"x": act([1, 8], INT8)}, act([1, 8]), cast), whole_numbers
    skewed = const((1, 3, 3, 4), INT8, scale=np.full(4, 0.02), axis=3, zero=2)
    yield "weight-zero-point", depth("int8", w=skewed), depth("int8")

    most = 524_280

    def rows(name: str, count: int) -> Graph:
        tensors = {"x": act([count, 2]), "w": const([2, 2])}
        made = act([count, 2])
        if name == "BATCH_MATMUL":
            return one(name, tensors, made, ("BatchMatMulOptions", {}), 3)
        return one(name, tensors, made, ("FullyConnectedOptions", {}))

    def image(name: str, shape: list[int]) -> Graph:
        kernel = [2, 3, 3, 2] if name == "CONV_2D" else [1, 3, 3, 2]
        tensors = {"x": act(shape), "w": const(kernel), "b": const([2])}
        options: Any = ("Conv2DOptions", {"strideH": 1, "strideW": 1})
        if name != "CONV_2D":
            options = ("DepthwiseConv2DOptions", options[1] | {"depthMultiplier": 1})
        return one(name, tensors, act(shape), options)

    for name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        yield "batch-rows", rows(name, most + 1), rows(name, most)
    conv, deep = "CONV_2D", "DEPTHWISE_CONV_2D"
    yield "image-rows", image(conv, [most + 1, 1, 1, 2]), image(conv, [most, 1, 1, 2])
    yield "image-rows", image(conv, [1, most + 1, 1, 2]), image(conv, [1, 1, most + 1, 2])
    yield "image-rows", image(deep, [1, most + 1, 1, 2]), image(deep, [most + 1, 1, 1, 2])


def padded_pool(name: str, window: int, *, between: bool = False) -> Graph:
    tensors: dict[str, T] = {"x": act([1, 7, 7, 4]), "m": act([1, 9, 9, 4]), "y": act([1, 8, 8, 4])}
    tensors |= PADS | {"n": act([1, 9, 9, 4])}
    options: Any = ("Pool2DOptions", {"strideH": 1, "strideW": 1, "padding": 1})
    options[1].update(filterHeight=window, filterWidth=window)
    last = Op(name, ["n" if between else "m"], ["y"], options)
    middle = [Op("TANH", ["m"], ["n"])] if between else []
    if not between:
        del tensors["n"]
    return Graph(tensors, [Op("PAD", ["x", "p"], ["m"]), *middle, last])
