"""What LiteRT's GPU accelerator takes and computes wrongly, without a word.

Each hazard is a condition of a row of the capability table: where it does not hold, the operator
is placed, and its numbers are not the CPU's.

Source: measured on LiteRT 2.3.0, each beside the reference kernels; the tests do it again. A real
GPU (NVIDIA H100, Vulkan) gave the same, but for `_ROWS`, which is a limit of the driver; images of
so many rows were not tried on it.
"""

from __future__ import annotations

import math
from typing import Final

from tfcompress.runtime.conditions import Condition
from tfcompress.runtime.gpu_conditions import known
from tfcompress.runtime.surroundings import Case

_GROUP: Final = 4
_ROWS: Final = 524_280
"""65,535 groups of 8 rows, which is all that WebGPU promises: where a driver takes no more, kernels
that divide an axis so leave out the rest. An NVIDIA H100 got a product of more rows right."""


def _strided_pointwise(case: Case) -> str:
    weights = case.input(1)
    if weights is None or weights.dtype not in ("int8", "uint8", "int4"):
        return ""
    if tuple(weights.shape[1:3]) != (1, 1):
        return ""
    if case.option("stride_h", 1) == 1 and case.option("stride_w", 1) == 1:
        return ""
    return "a strided 1x1 convolution with integer weights comes out wrong on the GPU"


STRIDED_POINTWISE: Final = Condition(
    "strided-pointwise", _strided_pointwise, "Use fp16 or fp32 weights, or a 3x3 kernel."
)


def _groups(case: Case) -> str:
    data, weights = case.input(0), case.input(1)
    if data is None or weights is None or len(weights.shape) != 4 or len(data.shape) != 4:
        return ""
    groups = data.shape[3] // max(weights.shape[3], 1)
    widths = weights.shape[3], weights.shape[0] // max(groups, 1)
    if groups <= 1 or widths == (1, 1) or not any(width % _GROUP for width in widths):
        return ""
    return f"groups of channels that are no multiple of {_GROUP} come out wrong on the GPU"


GROUPS: Final = Condition(
    "group-width", _groups, f"Make the inputs and outputs of each group a multiple of {_GROUP}."
)


def _computed_weights(case: Case) -> str:
    weights, bias = case.input(1), case.input(2)
    if weights is None or known(case, weights) or bias is None:
        return ""
    return "its bias is left out on the GPU, as its weights are computed"


COMPUTED_WEIGHTS: Final = Condition(
    "computed-weights", _computed_weights, "Multiply without a bias and ADD it."
)


def _flattening(case: Case) -> str:
    data, weights = case.input(0), case.input(1)
    if data is None or weights is None or not data.shape or not weights.shape:
        return ""
    if len(data.shape) > 1 and data.shape[-1] == weights.shape[-1]:
        return ""
    return f"an input of the shape {data.shape} is not flattened rightly on the GPU"


FLATTENING: Final = Condition("flattening", _flattening, "Put a Flatten (RESHAPE) before it.")


def _transposed_activation(case: Case) -> str:
    name = case.option("fused_activation", "NONE")
    return "" if name in ("NONE", 0) else f"its fused {name} is left out on the GPU"


TRANSPOSED_ACTIVATION: Final = Condition(
    "transposed-activation", _transposed_activation, "Make the activation an operator of its own."
)


def _padded_pool(case: Case) -> str:
    data = case.input(0)
    producer = None if data is None else case.surroundings.producers.get(data.index)
    if producer is None or producer.name not in ("PAD", "PADV2"):
        return ""
    if data is None or data.dtype not in ("float32", "float16"):
        return ""
    if len(case.surroundings.consumers[data.index]) > 1:
        return ""
    return "the GPU takes the zeros padded before it for padding of its own, which do not count"


PADDED_POOL: Final = Condition(
    "padded-pool",
    _padded_pool,
    "Pool with padding='same', or let a convolution or an activation come between.",
)


def _batch_constant(case: Case) -> str:
    """A constant operand that has a batch axis, in tensors of fewer than 4 dimensions."""
    shapes = [len(tensor.shape) for tensor in case.inputs]
    for place in (0, 1):
        tensor, other = case.input(place), case.input(1 - place)
        if tensor is None or other is None or not known(case, tensor) or not tensor.shape:
            continue
        if len(tensor.shape) > len(other.shape):
            return "its constant has more dimensions than its input, which the GPU mistakes"
        if max(shapes) < 4 and len(tensor.shape) == max(shapes) and tensor.shape[0] > 1:
            return f"its constant of the shape {tensor.shape} is read without its first axis"
    return ""


BATCH_CONSTANT: Final = Condition(
    "batch-constant", _batch_constant, "Give both operands a first axis of 1."
)


def _product_batches(case: Case) -> str:
    left, right = case.input(0), case.input(1)
    if left is None or right is None:
        return ""
    turned = case.option("adj_x", False) or case.option("adj_y", False)
    if len(right.shape) == 2 and known(case, right):
        return "a constant matrix is not turned on the GPU" if turned else ""
    batches = math.prod(left.shape[:-2])
    if batches > 1 and math.prod(right.shape[:-2]) != batches:
        return "a second operand that is repeated for each batch comes out wrong on the GPU"
    return ""


PRODUCT_BATCHES: Final = Condition(
    "product-batches", _product_batches, "Use Dense, or operands of the same batch axes."
)


def _padded_batch(case: Case) -> str:
    data, paddings = case.input(0), case.values(1)
    if data is None:
        return ""
    if data.dtype in ("int32", "int16", "bool"):
        return f"padding of {data.dtype} holds random values on the GPU"
    if len(data.shape) == 3 and (
        data.shape[0] > 1 or (paddings is not None and paddings[:2].any())
    ):
        return "the axes of 3 dimensions are mistaken where the first is more than 1 or padded"
    return ""


PADDED_BATCH: Final = Condition(
    "padded-batch", _padded_batch, "Pad float tensors of 4 dimensions, with a batch of 1."
)


def _one_part(case: Case) -> str:
    return "" if len(case.operator.inputs) > 1 else "one input alone comes out as zeros on the GPU"


ONE_PART: Final = Condition("one-part", _one_part, "Leave it out: it changes nothing.")


def _vector(case: Case) -> str:
    data = case.input(0)
    return (
        "a tensor of one dimension is a batch on the GPU"
        if data is not None and len(data.shape) == 1
        else ""
    )


VECTOR: Final = Condition("vector", _vector, "Give it a batch axis.")


def _axis(case: Case) -> int | None:
    values, data = case.values(1), case.input(0)
    if values is None or data is None or len(values) != 1:
        return None
    return int(values[0])


def _searched_axis(case: Case) -> str:
    axis, data = _axis(case), case.input(0)
    if axis is None or data is None or not data.shape:
        return ""
    last = axis in (-1, len(data.shape) - 1)
    if last and data.shape[-1] % _GROUP:
        return f"channels that are no multiple of {_GROUP} are searched beyond their end on the GPU"
    return ""


SEARCHED_AXIS: Final = Condition(
    "searched-channels", _searched_axis, "Return the scores and search outside."
)


def _summed_axis(case: Case) -> str:
    axis = _axis(case)
    if axis is not None and axis <= 0:
        return "the GPU does not count an axis from the end, nor sums along the first"
    return ""


SUMMED_AXIS: Final = Condition("summed-axis", _summed_axis, "Write the axis as a number above 0.")


def _cast(case: Case) -> str:
    tensors = [*case.inputs, *case.outputs]
    if any(t.dtype in ("int8", "uint8") and t.quantization is not None for t in tensors):
        return "the GPU casts quantized values as the real ones that they stand for"
    return ""


CAST: Final = Condition("quantized-cast", _cast, "Use QUANTIZE and DEQUANTIZE.")


def _zero_point(case: Case) -> str:
    weights = case.input(1)
    found = None if weights is None or weights.dtype != "int8" else weights.quantization
    if found is None or not found.zero_points.any():
        return ""
    return "the zero points of its weights are taken for 0 on the GPU"


ZERO_POINT: Final = Condition(
    "weight-zero-point", _zero_point, "Quantize the weights symmetrically."
)


def _row_count(name: str, size: int) -> str:
    if size <= _ROWS:
        return ""
    return (
        f"its {name} has {size:,} rows: above {_ROWS:,} all comes out wrong on GPUs that take no "
        "more groups than WebGPU promises"
    )


def _batch_rows(case: Case) -> str:
    """The batch of a product with a matrix."""
    data, weights = case.input(0), case.input(1)
    if data is None or weights is None or not data.shape:
        return ""
    if case.operator.name == "BATCH_MATMUL" and len(data.shape) != 2:
        return ""
    return _row_count("batch", data.shape[0])


BATCH_ROWS: Final = Condition("batch-rows", _batch_rows, "Run it in smaller batches.")


def _image_rows(case: Case) -> str:
    """Batch and height of a convolution's output; of a depthwise one the height alone."""
    out = case.output()
    if out is None or len(out.shape) != 4:
        return ""
    deep = case.operator.name == "DEPTHWISE_CONV_2D"
    return _row_count("height", out.shape[1]) or _row_count("batch", 0 if deep else out.shape[0])


IMAGE_ROWS: Final = Condition("image-rows", _image_rows, "Cut it in parts, or turn the image.")
