"""The conditions that the GPU's rows of the capability table name.

What must hold for an operator to be taken, and `hazards`: what the accelerator takes and computes
wrongly.

Source: measured on the WebGPU accelerator of LiteRT 2.3.0 by the tests, which load each case there
and compare its numbers with the CPU's.
"""

from __future__ import annotations

import math
from typing import Final

from tfcompress.runtime.conditions import Condition
from tfcompress.runtime.schema import Tensor
from tfcompress.runtime.surroundings import Case, is_half_constant

MAX_RANK: Final = 4
"""The most dimensions of a tensor on the GPU: batch, height, width, channels."""

_DIES: Final = ": the accelerator ends the process while it loads the file"


def known(case: Case, tensor: Tensor) -> bool:
    """Whether the GPU knows a tensor's values when it loads a model."""
    if case.surroundings.is_constant(tensor.index):
        return True
    producer = case.surroundings.producers.get(tensor.index)
    if producer is None or producer.name != "DEQUANTIZE":
        return False
    return is_half_constant(case, case.surroundings.graph.tensors[producer.inputs[0]])


def _ranks(case: Case) -> str:
    for tensor in (*case.inputs, *case.outputs):
        if len(tensor.shape) > MAX_RANK:
            return f"{tensor.name!r} has {len(tensor.shape)} dimensions, more than {MAX_RANK}"
        if 0 in tensor.shape and not case.surroundings.is_constant(tensor.index):
            return f"{tensor.name!r} has a size of 0{_DIES}"
    return ""


RANKS: Final = Condition("gpu-rank", _ranks, f"Reshape to at most {MAX_RANK} dimensions.")


def _static(case: Case) -> str:
    name = case.surroundings.sized_at_run_time
    return f"the sizes of {name!r} are computed at run time: the file does not load" if name else ""


STATIC: Final = Condition("static-shapes", _static, "Use fixed shapes, such as Reshape((-1, 8)).")


def constant(place: int, what: str, *, dies: bool = False) -> Condition:
    """That an input's values are known when the model is loaded.

    Args:
        place: of the input.
        what: what it means, such as `"bias"`.
        dies: LiteRT does not ask for it and ends the process.
    """

    def check(case: Case) -> str:
        tensor = case.input(place)
        if tensor is None or known(case, tensor):
            return ""
        return f"its {what} {tensor.name!r} is computed{_DIES if dies else ''}"

    return Condition(
        f"constant-{what.replace(' ', '-')}", check, "Convert it so that it is a constant."
    )


def _scalars(case: Case) -> str:
    out = case.output()
    for tensor in case.inputs if out is not None and out.shape else ():
        if not tensor.shape and not known(case, tensor):
            return f"{tensor.name!r} is a scalar that is computed"
    return ""


NO_SCALARS: Final = Condition("no-scalars", _scalars, "Keep its axes, of size 1 (keepdims=True).")


def _sign_bit(case: Case) -> str:
    name = case.option("fused_activation", "NONE")
    return f"the activation {name} is fused into it" if name == "SIGN_BIT" else ""


ACTIVATION: Final = Condition(
    "gpu-activation", _sign_bit, "Make the activation an operator of its own."
)


def _scaled_bias(case: Case) -> str:
    bias = case.input(2)
    if bias is None or bias.dtype != "int32":
        return ""
    if bias.quantization is None or not len(bias.quantization.scales):
        return f"its int32 bias has no scale{_DIES}"
    return ""


SCALED_BIAS: Final = Condition("gpu-bias-scale", _scaled_bias, "Convert the model again.")


def _symmetric(case: Case) -> str:
    data, weights = case.input(0), case.input(1)
    found = None if weights is None else weights.quantization
    if data is None or data.dtype != "int8" or found is None or not found.zero_points.any():
        return ""
    return "the zero point of its weights is not 0: no runtime loads it"


SYMMETRIC: Final = Condition("gpu-symmetric", _symmetric, "Quantize the weights symmetrically.")


def weight_axis(place: int) -> Condition:
    """That int8 weights have one scale, or one for each index of their first axis."""

    def check(case: Case) -> str:
        weights = case.input(place)
        found = None if weights is None else weights.quantization
        if found is None or len(found.scales) < 2 or found.axis == 0:
            return ""
        return f"its weights have a scale for each index of axis {found.axis}{_DIES}"

    return Condition("gpu-weight-axis", check, "Quantize the weights per output channel.")


def _linear_alpha(case: Case) -> str:
    data, slopes = case.input(0), case.input(1)
    if data is None or slopes is None:
        return ""
    if not case.surroundings.is_constant(slopes.index) and not known(case, slopes):
        return f"its slopes {slopes.name!r} are computed"
    shape = slopes.shape[1:] if len(slopes.shape) == 4 and slopes.shape[0] == 1 else slopes.shape
    linear = bool(shape) and math.prod(shape) == shape[-1] == data.shape[-1]
    return "" if linear or shape == data.shape[1:] else f"its slopes have the shape {slopes.shape}"


SLOPES: Final = Condition("gpu-slopes", _linear_alpha, "Give it one slope a channel.")


def _paddings(case: Case) -> str:
    data = case.input(0)
    return "" if data is None or len(data.shape) in (3, 4) else f"it pads {len(data.shape)} axes"


PADDINGS: Final = Condition("gpu-padding", _paddings, "Pad tensors of 4 dimensions.")


def _reflects(case: Case) -> str:
    mode = case.option("mode", "REFLECT")
    return "" if mode in ("REFLECT", 0) else "it pads symmetrically"


REFLECTS: Final = Condition("reflective", _reflects, "Pad with zeros or by reflection.")


def _masks(case: Case) -> str:
    names = ("shrink_axis_mask", "new_axis_mask", "ellipsis_mask")
    used = [name for name in names if case.option(name)]
    if used:
        return f"it uses {' and '.join(used)}"
    strides, data, begin = case.values(3), case.input(0), case.input(1)
    if strides is not None and (strides < 0).any():
        return f"its strides are {strides.tolist()}"
    if data is not None and begin is not None and begin.shape != (len(data.shape),):
        return "its bounds do not name every dimension"
    return ""


SLICE_FORM: Final = Condition(
    "gpu-slice",
    _masks,
    "Keep the axis and reshape (x[:, 0:1] for x[:, 0]); use steps above 0.",
)


def _block(case: Case) -> str:
    return "its block is 1" if case.option("block_size") == 1 else ""


BLOCK: Final = Condition("gpu-block", _block, "Leave it out: it changes nothing.")


def _beta(case: Case) -> str:
    beta = case.option("beta", 1.0)
    return "" if beta == 1.0 else f"its beta is {beta:g}, not 1"


BETA: Final = Condition("gpu-beta", _beta, "Scale the logits with MUL before it.")


def _indices(case: Case) -> str:
    indices = case.input(1)
    if indices is None:
        return ""
    if indices.dtype != "int32":
        return f"its indices are {indices.dtype}, not int32"
    if len(indices.shape) != 1:
        return f"its indices have {len(indices.shape)} dimensions, not 1"
    return ""


INDICES: Final = Condition(
    "gpu-indices",
    _indices,
    "Look up outside the GPU's part, at the head of the graph, where it does no harm; or take "
    "indices of one dimension.",
)


def _choices(case: Case) -> str:
    condition, out = case.input(0), case.output()
    if condition is None or out is None:
        return ""
    for branch in (case.input(1), case.input(2)):
        if branch is not None and branch.shape not in (out.shape, (), (1,)):
            return f"{branch.name!r} of the shape {branch.shape} is repeated"
    fewer = len(condition.shape) < len(out.shape)
    if fewer and condition.shape and condition.shape[0] != 1:
        return f"its condition has the shape {condition.shape}"
    return ""


CHOICES: Final = Condition(
    "gpu-select", _choices, "Give condition and branches the output's dimensions."
)


def _pieces(case: Case) -> str:
    return "" if len(case.operator.outputs) > 1 else f"it has one output{_DIES}"


PIECES: Final = Condition("gpu-pieces", _pieces, "Leave it out: it changes nothing.")


def _packed(case: Case) -> str:
    data = case.input(0)
    return "" if data is None or len(data.shape) < 4 else "it packs tensors of 4 dimensions"


PACKED: Final = Condition("gpu-pack", _packed, "Use RESHAPE and CONCATENATION.")


def _order(case: Case) -> str:
    data = case.input(0)
    return "its input has one dimension" if data is not None and len(data.shape) < 2 else ""


ORDER: Final = Condition("gpu-order", _order, "Leave it out: it changes nothing.")


def _axis(case: Case) -> str:
    data, values = case.input(0), case.values(1)
    if data is None or values is None or len(data.shape) < MAX_RANK:
        return ""
    return f"its axis is counted from the end{_DIES}" if (values < 0).any() else ""


AXIS: Final = Condition("gpu-axis", _axis, "Write the axis as a number above 0.")


def _candidates(case: Case) -> str:
    data = case.input(0)
    if data is None or not data.shape or data.shape[-1] >= 4:
        return ""
    return f"it looks among {data.shape[-1]} values, fewer than 4{_DIES}"


CANDIDATES: Final = Condition(
    "gpu-candidates", _candidates, "Return the scores and search outside."
)
