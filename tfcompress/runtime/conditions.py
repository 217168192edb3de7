"""The conditions that rows of the capability table name: what a delegate asks of an operator.

A check looks at a `Case`, an operator with what surrounds it, and returns what is wrong, "" where
nothing is. The limits are those of XNNPACK's delegate.

Source: tflite/delegates/xnnpack/xnnpack_delegate.cc of google-ai-edge/LiteRT of August 2026; every
condition is measured on LiteRT 2.3.0 by the tests, on both sides of its limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.runtime.schema import Operator, Tensor
from tfcompress.runtime.surroundings import Case, is_affine

MAX_RANK: Final = 6
"""The most dimensions of a tensor in XNNPACK."""

_QUANTIZED: Final = ("int8", "uint8")
_SMALLEST_NORMAL: Final = float(np.finfo(np.float32).tiny)


Check = Callable[[Case], str]


@dataclass(frozen=True)
class Condition:
    """Something that must hold for an operator to be placed.

    Attributes:
        name: short and unique, such as `"at-most-5-inputs"`.
        check: returns what is wrong, "" where the condition holds.
        remedy: what to do about it.
    """

    name: str
    check: Check
    remedy: str


def _scale(tensor: Tensor) -> np.float32 | None:
    quantization = tensor.quantization
    if quantization is None or len(quantization.scales) != 1:
        return None
    return np.float32(quantization.scales[0])


def _zero_point(tensor: Tensor) -> int:
    quantization = tensor.quantization
    return int(quantization.zero_points[0]) if quantization and len(quantization.zero_points) else 0


def _ratio(scale: np.float32, out_scale: np.float32) -> np.float32:
    """The quotient in float32, as the delegate computes it; infinity where it is too large."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.float32(scale / out_scale)


def _is_normal(value: float) -> bool:
    return bool(np.isfinite(value)) and abs(value) >= _SMALLEST_NORMAL


_BREAKS: Final = ": loading fails, and the runtime refuses the file while XNNPACK is on"


# -- of any operator ----------------------------------------------------------------------------


def one_scale(tensor: Tensor) -> str:
    """What is wrong with the quantization of an activation."""
    if tensor.dtype not in _QUANTIZED:
        return ""
    quantization = tensor.quantization
    if quantization is None or len(quantization.scales) != 1 or quantization.axis != 0:
        return f"{tensor.name!r} is {tensor.dtype} without one scale for the whole tensor"
    return ""


def rank(place: int, *, breaks: bool = False) -> Condition:
    """That an input has at most `MAX_RANK` dimensions and no size of 0.

    Args:
        place: of the input.
        breaks: XNNPACK does not ask for it and then fails: the runtime refuses the file.
    """

    def check(case: Case) -> str:
        tensor = case.input(place)
        if tensor is None:
            return ""
        if len(tensor.shape) > MAX_RANK:
            return (
                f"{tensor.name!r} has {len(tensor.shape)} dimensions, more than {MAX_RANK}"
                f"{_BREAKS if breaks else ''}"
            )
        return f"{tensor.name!r} has a size of 0" if 0 in tensor.shape and not breaks else ""

    return Condition(f"rank-{place}", check, f"Reshape to at most {MAX_RANK} dimensions before it.")


def fixed(place: int, what: str, *, integers: bool = False) -> Condition:
    """That an input's values are in the file: what shapes a graph must be known beforehand.

    Args:
        place: of the input.
        what: what it means, such as `"padding"`.
        integers: must be int32, and stand in the file as such.
    """

    def check(case: Case) -> str:
        tensor = case.input(place)
        if tensor is None:
            return ""
        surroundings = case.surroundings
        known = surroundings.is_constant if integers else surroundings.is_fixed
        if not known(tensor.index):
            return f"its {what} {tensor.name!r} is computed at run time"
        if integers and tensor.dtype != "int32":
            return f"its {what} {tensor.name!r} is {tensor.dtype}, not int32"
        return ""

    return Condition(
        f"fixed-{what.replace(' ', '-')}",
        check,
        "Convert with a fixed batch size and fixed input shapes, so that it becomes a constant."
        if integers
        else "Store it as a constant; a product of two activations is BATCH_MATMUL's work.",
    )


def _plain_activation(case: Case) -> str:
    name = case.option("fused_activation", "NONE")
    return f"the activation {name} is fused into it" if name in ("TANH", "SIGN_BIT") else ""


CLAMPING_ACTIVATION: Final = Condition(
    "clamping-activation",
    _plain_activation,
    "Make the activation an operator of its own; only ReLU, ReLU6 and clip to [-1, 1] fuse.",
)


def scale_ratio(least: float, most: float) -> Condition:
    """For quantized operands, input scale / output scale in [least, most)."""

    def check(case: Case) -> str:
        out = case.output()
        for tensor in case.inputs:
            if out is None or tensor.dtype != out.dtype or out.dtype not in _QUANTIZED:
                continue
            scale, out_scale = _scale(tensor), _scale(out)
            if scale is None or out_scale is None:
                continue
            ratio = _ratio(scale, out_scale)
            if not least <= ratio < most:
                return (
                    f"the scale of {tensor.name!r} is {ratio:.3g} of its output's, outside "
                    f"[{least:.3g}, {most:.3g})"
                )
        return ""

    return Condition(
        "scale-ratio",
        check,
        "Bring the operands to a like range before it (an epsilon beside large values is the "
        "usual cause), or keep this operator in float.",
    )


def _product_scale(case: Case) -> str:
    scales = [_scale(tensor) for tensor in (*case.inputs, *case.outputs)]
    dtypes = {tensor.dtype for tensor in (*case.inputs, *case.outputs)}
    if len(dtypes) != 1 or dtypes.isdisjoint(_QUANTIZED) or None in scales or len(scales) != 3:
        return ""
    first, second, out = (np.float32(scale) for scale in scales if scale is not None)
    with np.errstate(over="ignore"):
        product = np.float32(first * second)
    ratio = _ratio(product, out)
    if 2.0**-16 <= ratio < 256:
        return ""
    return f"the product of its scales is {ratio:.3g} of its output's, outside [1/65536, 256)"


PRODUCT_SCALE: Final = Condition(
    "product-scale",
    _product_scale,
    "Bring the operands to a like range before it, or keep this operator in float.",
)


# -- matrix kernels -----------------------------------------------------------------------------


def weight_axis(place: int, axis: int) -> Condition:
    """That int8 weights have one scale, or one for each output channel."""

    def check(case: Case) -> str:
        tensor = case.input(place)
        if tensor is None or not tensor.dtype.startswith(("int", "uint")):
            return ""
        quantization = tensor.quantization
        if quantization is None or not len(quantization.scales):
            return f"its weights {tensor.name!r} have no scale"
        count, dimension = len(quantization.scales), axis
        if tensor.dtype == "uint8":
            return "" if count == 1 else "uint8 weights have one scale each channel"
        if count > 1 and quantization.axis != dimension:
            return f"its weights have a scale for each index of axis {quantization.axis}"
        if count > 1 and any(quantization.zero_points.tolist()):
            return "its weights have a zero point in each channel"
        return ""

    return Condition(
        "weight-scales", check, "Quantize the weights symmetrically, per output channel."
    )


def bias(place: int) -> Condition:
    """That the bias, where there is one, is a constant of a type that fits the weights."""

    def check(case: Case) -> str:
        tensor, weights = case.input(place), case.input(1)
        if tensor is None:
            return ""
        if not case.surroundings.is_fixed(tensor.index):
            return f"its bias {tensor.name!r} is computed at run time"
        if tensor.dtype == "int32":
            if not is_affine(tensor) or tensor.quantization is None or tensor.quantization.axis:
                return "its int32 bias has no scale"
            return ""
        if tensor.dtype not in ("float32", "float16"):
            return f"its bias is {tensor.dtype}"
        if case.operator.name == "TRANSPOSE_CONV" or weights is None:
            return ""
        kinds = [case.surroundings.computed_dtype(t.index) for t in (weights, tensor)]
        if kinds[0] == "float32" and kinds[1] == "float16":
            return (
                "its bias is stored as float16 but its weights are expanded to float32, for "
                "another operator reads them too"
            )
        return ""

    return Condition(
        "bias",
        check,
        "Give it a constant bias (zeros will do) in the type of its weights.",
    )


def _dense_weights(case: Case) -> str:
    return (
        "version 8 stands for weights that are stored sparse" if case.operator.version == 8 else ""
    )


DENSE_WEIGHTS: Final = Condition("dense-weights", _dense_weights, "Store its weights dense.")


def _symmetric_weights(case: Case) -> str:
    weights, data = case.input(1), case.input(0)
    if weights is None or data is None or weights.dtype != "int8":
        return ""
    dense = case.operator.name == "FULLY_CONNECTED"
    if _zero_point(weights) == 0 or (data.dtype != "int8" and not dense):
        return ""
    refused = dense and data.dtype == "int8"
    return f"the zero point of its weights is not 0{'' if refused else _BREAKS}"


SYMMETRIC_WEIGHTS: Final = Condition(
    "symmetric-weights", _symmetric_weights, "Quantize the weights symmetrically."
)


def _even_rows(case: Case) -> str:
    weights = case.input(1)
    if weights is None or weights.dtype != "int4" or len(weights.shape) != 2:
        return ""
    return f"an odd number of inputs, {weights.shape[1]}, in 4 bits" if weights.shape[1] % 2 else ""


EVEN_ROWS: Final = Condition(
    "even-rows", _even_rows, "Give the layer an even number of inputs, or 8-bit weights."
)


def _matmul_operand(case: Case) -> str:
    left, right = case.input(0), case.input(1)
    if left is None or right is None or right.dtype != "int8":
        return ""
    quantization = right.quantization
    if quantization is None or not len(quantization.scales):
        return "its second operand has no scale"
    count = len(quantization.scales)
    channel = len(right.shape) - (2 if case.option("adj_y", False) else 1)
    if count > 1 and quantization.axis != channel:
        return f"its second operand has a scale for each index of axis {quantization.axis}"
    if left.dtype == "float32":
        return ""
    if count > 1:
        return "its second operand has a scale for each channel"
    zero = _zero_point(right)
    return f"the zero point of its second operand is {zero}, not 0" if zero else ""


MATMUL_OPERAND: Final = Condition(
    "symmetric-second-operand",
    _matmul_operand,
    "Quantize the second operand symmetrically, or keep the product in float or dynamic.",
)


def _transposed_size(case: Case) -> str:
    weights, size = case.input(1), case.values(0)
    if weights is None or size is None or len(weights.shape) != 4 or len(size) != 4:
        return ""
    strides, kernel = (case.option("stride_h"), case.option("stride_w")), weights.shape[1:3]
    if case.option("padding") == "VALID":
        if any(k > o for k, o in zip(kernel, size[1:3].tolist(), strict=True)):
            return "its output is smaller than its kernel"
    elif any(k < s for k, s in zip(kernel, strides, strict=True)):
        return f"its strides {strides} exceed its kernel {tuple(kernel)}"
    return ""


TRANSPOSED_SIZE: Final = Condition(
    "kernel-covers-stride", _transposed_size, "Use a kernel at least as large as the stride."
)


# -- pooling, resizing and layout ---------------------------------------------------------------


def _window(case: Case) -> str:
    strides = (case.option("stride_h"), case.option("stride_w"))
    window = (case.option("filter_height"), case.option("filter_width"))
    if any(s > w for s, w in zip(strides, window, strict=True)):
        return f"its strides {strides} exceed its window {window}"
    return ""


WINDOW: Final = Condition(
    "window-covers-stride", _window, "Use a window at least as large as the stride."
)


def _block(case: Case) -> str:
    block = case.option("block_size")
    return "" if block > 1 else f"its block size is {block}"


BLOCK: Final = Condition("block-size", _block, "Leave it out: blocks of 1 change nothing.")


def _few_inputs(case: Case) -> str:
    count = len(case.operator.inputs)
    return "" if 2 <= count <= 5 else f"it has {count} inputs, not 2 to 5"


FEW_INPUTS: Final = Condition("2-to-5-inputs", _few_inputs, "Concatenate in two steps.")


def _same_uint8_scale(case: Case) -> str:
    out = case.output()
    if out is None or out.dtype != "uint8":
        return ""
    for tensor in case.inputs:
        if _scale(tensor) != _scale(out) or _zero_point(tensor) != _zero_point(out):
            return f"{tensor.name!r} has another scale or zero point than the output"
    return ""


SAME_UINT8_SCALE: Final = Condition(
    "same-uint8-scale", _same_uint8_scale, "Give all inputs the output's scale, or use int8."
)


def _same_scale(case: Case) -> str:
    data, out = case.input(0), case.output()
    if data is None or out is None or out.dtype not in _QUANTIZED:
        return ""
    if _scale(data) != _scale(out) or _zero_point(data) != _zero_point(out):
        return "its input and its output have different scales or zero points"
    return ""


SAME_SCALE: Final = Condition("same-scale", _same_scale, "Give both the same scale.")


def _reshape_target(case: Case) -> str:
    out, shape = case.output(), case.input(1)
    if out is not None and (len(out.shape) > MAX_RANK or 0 in out.shape):
        return f"its output has {len(out.shape)} dimensions or a size of 0"
    sizes = case.option("new_shape", ()) if shape is None else case.values(1)
    if sizes is not None and len(sizes) == 1 and sizes[0] in (0, -1):
        return "its shape of one open size stands for a scalar in old files"
    return ""


RESHAPE_TARGET: Final = Condition(
    "reshape-target",
    _reshape_target,
    f"Reshape to at most {MAX_RANK} dimensions, naming at least one size.",
)


def _slice_sizes(case: Case) -> str:
    begin, size = case.input(1), case.input(2)
    for tensor in (begin, size):
        if tensor is None or tensor.dtype not in ("int32", "int64"):
            return "its bounds are neither int32 nor int64"
        if len(tensor.shape) != 1 or not case.surroundings.is_constant(tensor.index):
            return f"its bounds {tensor.name!r} are computed at run time"
    sizes = case.values(2)
    if sizes is not None and (sizes <= 0).any():
        return "it leaves a size open (-1 means up to the end)"
    return ""


SLICE_SIZES: Final = Condition(
    "slice-sizes", _slice_sizes, "Write the sizes out, or index with constant bounds (x[:, a:b])."
)


def _slice_masks(case: Case) -> str:
    names = ("shrink_axis_mask", "new_axis_mask", "ellipsis_mask")
    used = [name for name in names if case.option(name)]
    return f"it uses {' and '.join(used)}" if used else ""


SLICE_MASKS: Final = Condition(
    "slice-masks", _slice_masks, "Keep the axis and reshape: reshape(x[:, 0:1], ...) for x[:, 0]."
)


def _slice_strides(case: Case) -> str:
    data, strides = case.input(0), case.values(3)
    if strides is not None and (strides != 1).any():
        return f"its strides are {strides.tolist()}, not all 1"
    for place in (1, 2, 3):
        bounds = case.input(place)
        if data is None or bounds is None or bounds.shape != (len(data.shape),):
            return "its bounds do not name every dimension"
    return ""


SLICE_STRIDES: Final = Condition(
    "slice-strides",
    _slice_strides,
    "Slice without a step (x[a:b], not x[a:b:2]); give the stride to the convolution before it.",
)


def _pieces(case: Case) -> str:
    count = len(case.operator.outputs)
    return "" if 2 <= count <= 4 else f"it has {count} outputs, not 2 to 4"


PIECES: Final = Condition("pieces", _pieces, "Split in two steps, or slice.")


def _axes(case: Case) -> str:
    axes = case.values(1)
    if axes is not None and not 0 < len(axes) <= MAX_RANK:
        return f"it reduces {len(axes)} axes"
    return ""


AXES: Final = Condition("axes", _axes, "Name the axes to reduce.")


# -- element by element -------------------------------------------------------------------------


def _beta(case: Case) -> str:
    beta = case.option("beta", 1.0)
    return "" if beta == 1.0 else f"its beta is {beta:g}, not 1"


BETA: Final = Condition("beta", _beta, "Scale the logits with MUL before it.")


def _slope(case: Case) -> str:
    alpha = float(np.float32(case.option("alpha", 0.0)))
    if not _is_normal(alpha):
        return f"its slope is {alpha:g}"
    data, out = case.input(0), case.output()
    if data is None or out is None or data.dtype not in _QUANTIZED:
        return ""
    scale, out_scale = _scale(data), _scale(out)
    if scale is None or out_scale is None:
        return ""
    ratio = _ratio(scale, out_scale)
    slope = float(ratio) * alpha
    if not 2.0**-8 <= ratio <= 128:
        return f"its input scale is {ratio:.3g} of its output's, outside [1/256, 128]"
    if not -127.99609375 <= slope <= 128 or abs(slope) < 2.0**-8:
        return f"its slope times its scales' ratio is {slope:.3g}: too small or too large for int8"
    return ""


SLOPE: Final = Condition(
    "slope", _slope, "Use ReLU for a slope of 0; keep the operator in float otherwise."
)


def _requantization(case: Case) -> str:
    data, out = case.input(0), case.output()
    if data is None or out is None or data.dtype not in _QUANTIZED or data.dtype != out.dtype:
        return ""
    scale, out_scale = _scale(data), _scale(out)
    if scale is None or out_scale is None:
        return ""
    ratio = _ratio(scale, out_scale)
    if 2.0**-8 <= ratio <= 128:
        return ""
    return f"its input scale is {ratio:.3g} of its output's, outside [1/256, 128]"


REQUANTIZATION: Final = Condition(
    "requantization", _requantization, "Give neighbouring operators scales of a like size."
)


# -- variables ----------------------------------------------------------------------------------


def _variable_ends(operator: Operator) -> tuple[int, int]:
    """The tensors that a variable's operator names it by and holds its value in; -1 for none."""
    inputs, outputs = (*operator.inputs, -1, -1), (*operator.outputs, -1)
    if operator.name == "VAR_HANDLE":
        return outputs[0], -1
    return inputs[0], outputs[0] if operator.name == "READ_VARIABLE" else inputs[1]


def _variable(case: Case) -> str:
    """A variable is taken where all who read or write it agree on its type and shape."""
    operator, surroundings = case.operator, case.surroundings
    resource, _ = _variable_ends(operator)
    handle = surroundings.producers.get(resource)
    if handle is None or handle.name != "VAR_HANDLE":
        return "the variable is handed over by another graph"
    agreed: Tensor | None = None
    for user in surroundings.consumers[resource]:
        if user.index < handle.index or user.name not in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
            continue
        _, held = _variable_ends(user)
        if held < 0:
            continue
        value = surroundings.graph.tensors[held]
        wrong = ""
        if value.dtype not in ("float32", "float16", *_QUANTIZED):
            wrong = f"the variable is {value.dtype}"
        elif one_scale(value):
            wrong = one_scale(value)
        elif user.name == "READ_VARIABLE" and not value.shape:
            wrong = "the variable is a scalar"
        elif agreed is not None and (agreed.dtype, agreed.shape) != (value.dtype, value.shape):
            wrong = "the variable is used with two types or shapes"
        elif agreed is None:
            agreed = value
        if user.index == operator.index:
            return wrong
    return "" if agreed is not None else "nothing that XNNPACK takes uses the variable"


VARIABLE: Final = Condition(
    "variable", _variable, "Return the state as an output and feed it back as an input."
)
