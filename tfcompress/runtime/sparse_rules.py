"""Which models may be stored with sparse weights: a pattern that is right on every processor.

In a sparse file weights are stored without their zeros, and DENSIFY expands them. It makes XNNPACK
look for a part of the graph to compute with its sparse kernels, channels first, on the processors
that have them (ARM above all). That search trusts the model to be of the kind that the kernels were
made for: of other models it computes wrong outputs without a word, or refuses the file, on a phone
and never on the machine that converted it. So here is a list of what is proven; all else is
refused.

Source: Elsen et al. 2020, "Fast Sparse ConvNets", https://arxiv.org/abs/1911.09723; src/subgraph.c
of google/XNNPACK (`xnn_check_nchw_compatibility`, `xnn_subgraph_rewrite_for_nchw`), and
dense_to_sparse_pass.cc of tensorflow/tensorflow for what the converter stores sparse. Each pattern
accepted here was compared with the dense file on the aarch64 runtime, and so were those refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from tfcompress.runtime.conditions import Surroundings
from tfcompress.runtime.schema import Model, Operator, Tensor

_REFUSED_PRECISIONS: Final = {
    "dynamic": "a sparse file of precision 'dynamic' does not load anywhere",
    "int8": "int8 weights stored sparse are expanded when the file is loaded, which brings no "
    "speed, and a Dense layer of that kind makes the interpreter fail",
    "int16x8": "XNNPACK has no sparse kernels for int16 activations",
    "weight-int8": "XNNPACK has no sparse kernels for int8 weights",
}
_ACCEPTED_PRECISIONS: Final = ("fp32", "fp16")

_ENCODED_FROM: Final = 0.3
"""The share of zeros from which the converter stores a weight sparse."""

_BLOCK: Final = 4
_BLOCK_RATIO: Final = 0.9
"""The converter stores a Dense kernel in blocks of 1x4 where they hold this share of its zeros."""

_BYTES_PER_WEIGHT: Final = 700
"""The most that a sparse tensor and its DENSIFY add to a file, besides values and indices."""

_SHOWN: Final = 3  # of the operators that one reason concerns

_IMAGE, _BODY, _AFTER = "image", "body", "after"
"""Where a tensor stands: before the first convolution, in the sparse part, behind its mean."""


def refusals(model: Model, precision: str) -> list[str]:
    """Says why a model's weights must be stored dense.

    Args:
        model: the converted file with dense weights.
        precision: how it was converted, as `tfc.convert` names it.

    Returns:
        One reason each; empty where the sparse encoding is right on every processor, smaller, and
        computed by sparse kernels where a processor has them.

    Example:
        >>> refusals(schema.parse(content), "int8")  # doctest: +SKIP
        ["int8 weights stored sparse are expanded when the file is loaded, ..."]
    """
    if precision not in _ACCEPTED_PRECISIONS:
        refused = _REFUSED_PRECISIONS.get(precision, f"precision {precision!r} is not proven")
        return [f"{refused}; sparse weights need precision 'fp32' or 'fp16'"]
    if len(model.subgraphs) != 1:
        return ["the model has loops or branches, and XNNPACK's sparse kernels take none"]
    walk = _Walk(model)
    return [*walk.reasons(), *_not_worth_it(walk), *_encoded_wrongly(walk)]


# -- the pattern --------------------------------------------------------------------------------


class _Walk:
    """Follows the image through a graph and notes which operators leave the pattern.

    Args:
        model: a model with one subgraph.

    Attributes:
        model: that model.
        graph: its subgraph.
        surroundings: who writes and reads each tensor.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.surroundings = Surroundings(model, self.graph)
        self._stages = dict.fromkeys(self.graph.inputs, _IMAGE)

    def reasons(self) -> list[str]:
        """Returns the reasons, each with the operators that it concerns."""
        found: dict[str, list[str]] = {}
        for operator in self.graph.operators:
            if self.surroundings.unpacks(operator):
                continue
            stage = self._stage(operator)
            wrong = self._judge(operator, stage)
            if wrong:
                found.setdefault(wrong, []).append(_label(self.tensor(operator.outputs[0])))
            for output in operator.outputs:
                self._stages[output] = _next_stage(self, operator, stage)
        reasons = [f"{_listed(names)}: {wrong}" for wrong, names in found.items()]
        if len(self.graph.inputs) != 1:
            reasons.append("the model has several inputs; the sparse pattern has one image")
        ends = [_label(self.tensor(i)) for i in self.graph.outputs if self.stage(i) != _AFTER]
        if ends:
            reasons.append(
                f"{_listed(ends)}: this output is an image; sparse kernels need an end in "
                "GlobalAveragePooling2D(keepdims=False), with Dense layers behind it if any"
            )
        return reasons

    def _stage(self, operator: Operator) -> str:
        """The earliest stage of what an operator computes with."""
        stages = {self.stage(i) for i in operator.inputs if i >= 0}
        return next((stage for stage in (_IMAGE, _BODY, _AFTER) if stage in stages), "")

    def _judge(self, operator: Operator, stage: str) -> str:
        rule = _RULES.get((stage, operator.name))
        if rule is None:
            return _UNPROVEN.get((stage, operator.name), f"{operator.name} {_NOT_PROVEN[stage]}")
        computed = [i for i in operator.inputs if i >= 0 and not self.surroundings.is_fixed(i)]
        if any(self.stage(i) != stage for i in computed):
            return f"{operator.name} joins the image with what follows its mean"
        if stage == _IMAGE and any(len(self.readers(i)) != 1 for i in computed):
            return "the image must go into one first convolution, and nowhere else"
        if stage == _AFTER and any(len(self.tensor(i).shape) != 2 for i in operator.outputs):
            return f"{operator.name} behind the mean must give (batch, features): use Flatten"
        if operator.options.get("fused_activation", "NONE") not in ("NONE", "RELU", "RELU6"):
            return f"the activation {operator.options['fused_activation']} has no sparse kernel"
        if any(self.tensor(i).dtype != "float32" for i in (*computed, *operator.outputs)):
            return f"{operator.name} must compute in float32"
        return rule(self, operator)

    def stage(self, index: int) -> str:
        """Where a tensor stands; "" for a constant."""
        return self._stages.get(index, "")

    def tensor(self, index: int) -> Tensor:
        """A tensor by its index."""
        return self.graph.tensors[index]

    def values(self, index: int) -> np.ndarray | None:
        """What the file stores for a tensor, directly or as float16; None if it is computed."""
        while self.surroundings.is_unpacked(index):
            index = self.surroundings.producers[index].inputs[0]
        return self.model.data(self.tensor(index))

    def readers(self, index: int) -> list[str]:
        """Names of the operators that read a tensor."""
        return [operator.name for operator in self.surroundings.consumers[index]]

    def padding(self, index: int) -> list[list[int]] | None:
        """The zeros (before, after) per axis that make a tensor and serve nothing else."""
        producer = self.surroundings.producers.get(index)
        if producer is None or producer.name != "PAD" or len(self.readers(index)) != 1:
            return None
        zeros = self.values(producer.inputs[1])
        return None if zeros is None else [[int(n) for n in row] for row in zeros.reshape(-1, 2)]

    def weights(self) -> list[tuple[Operator, np.ndarray]]:
        """The kernels of convolutions and Dense layers that are in the file, each once."""
        found: dict[int, tuple[Operator, np.ndarray]] = {}
        for operator in self.graph.operators:
            if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                values = self.values(operator.inputs[1])
                if values is not None:
                    found.setdefault(operator.inputs[1], (operator, values))
        return list(found.values())


def _next_stage(walk: _Walk, operator: Operator, stage: str) -> str:
    """The stage of an operator's results; a guess where it has left the pattern."""
    if stage == _IMAGE:
        convolution = operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D")
        return _BODY if convolution else _AFTER if operator.name in _FLATTENS else _IMAGE
    if stage != _BODY:
        return stage
    if operator.name == "MEAN":
        readers = walk.readers(operator.outputs[0])
        gate = operator.options.get("keep_dims") and set(readers).isdisjoint(_FLATTENS)
        return _BODY if gate else _AFTER
    flat = operator.name in _FLATTENS and len(walk.tensor(operator.outputs[0]).shape) < 4
    return _AFTER if flat else _BODY


def _proven(walk: _Walk, operator: Operator) -> str:
    return ""


def _arithmetic_on_the_image(walk: _Walk, operator: Operator) -> str:
    fixed = [walk.surroundings.is_fixed(i) for i in operator.inputs]
    return "" if any(fixed) else f"{operator.name} {_NOT_PROVEN[_IMAGE]}"


def _first_convolution(walk: _Walk, operator: Operator) -> str:
    kernel = walk.values(operator.inputs[1])
    if (
        kernel is not None
        and kernel.shape[1:] == (3, 3, 3)
        and _strides(operator) == (2, 2)
        and _dilation(operator) == (1, 1)
        and operator.options["padding"] == "VALID"
        and walk.padding(operator.inputs[0]) == _zeros(1)
    ):
        return ""
    return (
        "the first convolution must be 3x3 with stride 2 on 3 channels, as ZeroPadding2D(1) and "
        f"Conv2D(padding='valid'){_odd(walk, operator)}"
    )


def _convolution(walk: _Walk, operator: Operator) -> str:
    kernel = walk.values(operator.inputs[1])
    channels = walk.tensor(operator.inputs[0]).shape[-1]
    if (
        kernel is not None
        and kernel.shape[1:] == (1, 1, channels)
        and _strides(operator) == (1, 1)
        and walk.padding(operator.inputs[0]) is None
    ):
        return ""
    return "behind the first convolution only 1x1 ones with stride 1 and groups 1 have a kernel"


def _depthwise(walk: _Walk, operator: Operator) -> str:
    kernel = walk.values(operator.inputs[1])
    channels = walk.tensor(operator.inputs[0]).shape[-1]
    if kernel is None or kernel.shape not in ((1, 3, 3, channels), (1, 5, 5, channels)):
        return "a depthwise convolution must be 3x3 or 5x5, with depth_multiplier=1"
    if _dilation(operator) != (1, 1):
        return "a depthwise convolution must have dilation_rate=1"
    same = operator.options["padding"] == "SAME"
    zeros = walk.padding(operator.inputs[0])
    if _strides(operator) == (1, 1) and same and zeros is None:
        return ""
    if _strides(operator) == (2, 2) and not same and zeros == _zeros(kernel.shape[1] // 2):
        return ""
    return (
        "a depthwise convolution must have stride 1 and padding 'same', or stride 2 and as many "
        "zeros on every side: ZeroPadding2D(kernel_size // 2) and padding='valid'"
        f"{_odd(walk, operator)}"
    )


def _padding(walk: _Walk, operator: Operator) -> str:
    readers = walk.readers(operator.outputs[0])
    if len(readers) == 1 and readers[0] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return ""  # judged with the convolution
    return "zero padding must stand in front of one strided convolution"


def _operands(walk: _Walk, operator: Operator) -> str:
    if any(walk.surroundings.is_fixed(i) for i in operator.inputs):
        return _CONSTANT
    if len(set(operator.inputs)) < 2:
        return f"{operator.name} of an image with itself switches the sparse kernels off"
    return ""


def _sum(walk: _Walk, operator: Operator) -> str:
    if wrong := _operands(walk, operator):
        return wrong
    first, second = (walk.tensor(i).shape for i in operator.inputs)
    return "" if first == second else "ADD must have two images of one shape"


def _product(walk: _Walk, operator: Operator) -> str:
    if wrong := _operands(walk, operator):
        return wrong
    first, second = sorted(walk.tensor(i).shape for i in operator.inputs)
    if first == second or (len(first) == 4 and first == (second[0], 1, 1, second[-1])):
        return ""
    return "MUL must have two images of one shape, or an image and one factor for each channel"


def _mean(walk: _Walk, operator: Operator) -> str:
    axes = walk.values(operator.inputs[1])
    if axes is None or sorted(int(axis) % 4 for axis in axes.ravel()) != [1, 2]:
        return "a mean must be over rows and columns, as GlobalAveragePooling2D takes it"
    if not operator.options.get("keep_dims"):
        return ""
    result = operator.outputs[0]
    readers = walk.readers(result)
    if result not in walk.graph.outputs and (
        set(readers) == {"CONV_2D"} or (readers and set(readers) <= set(_FLATTENS))
    ):
        return ""
    # On ARM its output has the shape (batch, 1, 1, rows) there, which only convolutions overlook.
    return (
        "a mean with keepdims=True must be read by 1x1 convolutions (squeeze-and-excite), or by "
        "Flatten and Dense, and by nothing else"
    )


def _flatten(walk: _Walk, operator: Operator) -> str:
    producer = walk.surroundings.producers.get(operator.inputs[0])
    before, after = (walk.tensor(i).shape for i in (operator.inputs[0], operator.outputs[0]))
    if producer is None or producer.name != "MEAN" or after != (before[0], before[-1]):
        return f"RESHAPE {_NOT_PROVEN[_AFTER]}"
    return ""


def _dense(walk: _Walk, operator: Operator) -> str:
    return "" if walk.values(operator.inputs[1]) is not None else "Dense must have fixed weights"


_FLATTENS: Final = ("RESHAPE", "FULLY_CONNECTED")  # the converter drops a RESHAPE before a Dense
_CONSTANT: Final = (
    "arithmetic with a constant in the middle has no sparse kernel; a BatchNormalization is folded "
    "away only directly behind a convolution"
)
_NOT_PROVEN: Final = {
    "": "on constants is not proven to be right on ARM",
    _IMAGE: "ahead of the first convolution is not proven to be right on ARM",
    _BODY: "among the convolutions gives wrong outputs on ARM or is not proven to be right; "
    "proven are 1x1 and depthwise convolutions, ReLU, ReLU6, hard-swish, swish, sigmoid, residual "
    "Add and squeeze-and-excite",
    _AFTER: "behind the mean is not proven to be right on ARM; Dense layers and Softmax are",
}

_HEAD: Final = (
    "a model must end in GlobalAveragePooling2D(keepdims=False) and Dense; with a 1x1 convolution "
    "behind the mean the file does not load on ARM, and without a mean the kernels are not used"
)
_UNPROVEN: Final = {
    (_IMAGE, "FULLY_CONNECTED"): "XNNPACK's sparse kernels are for convolutional networks; stored "
    "dense, zeros compress as well in an archive or an app package",
    (_IMAGE, "DEPTHWISE_CONV_2D"): "the first convolution must be a Conv2D: 3x3, stride 2, on 3 "
    "channels, as ZeroPadding2D(1) and padding='valid'",
    **dict.fromkeys(((_BODY, "RESHAPE"), (_BODY, "FULLY_CONNECTED"), (_BODY, "SOFTMAX")), _HEAD),
}

_Rule = Callable[[_Walk, Operator], str]
_RULES: Final[dict[tuple[str, str], _Rule]] = {
    **dict.fromkeys(((_IMAGE, n) for n in ("ADD", "SUB", "MUL")), _arithmetic_on_the_image),
    (_IMAGE, "PAD"): _padding,
    (_IMAGE, "CONV_2D"): _first_convolution,
    **dict.fromkeys(((_BODY, n) for n in ("RELU", "RELU6", "HARD_SWISH", "LOGISTIC")), _proven),
    (_BODY, "CONV_2D"): _convolution,
    (_BODY, "DEPTHWISE_CONV_2D"): _depthwise,
    (_BODY, "PAD"): _padding,
    (_BODY, "ADD"): _sum,
    (_BODY, "MUL"): _product,
    (_BODY, "MEAN"): _mean,
    **dict.fromkeys(
        (
            (_AFTER, name)
            for name in ("SOFTMAX", "RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH", "MUL")
        ),
        _proven,
    ),
    (_AFTER, "RESHAPE"): _flatten,
    (_AFTER, "FULLY_CONNECTED"): _dense,
}
"""What is proven, by where it stands; each rule returns what is wrong, "" where nothing is."""


def _strides(operator: Operator) -> tuple[int, int]:
    return operator.options["stride_h"], operator.options["stride_w"]


def _dilation(operator: Operator) -> tuple[int, int]:
    return operator.options["dilation_h"], operator.options["dilation_w"]


def _odd(walk: _Walk, operator: Operator) -> str:
    """What to say of symmetric zeros that the converter has made "same", which means no less."""
    rows, columns = walk.tensor(operator.inputs[0]).shape[1:3]
    if operator.options["padding"] == "VALID" or rows % 2 == 0 or columns % 2 == 0:
        return ""
    return (
        f" (on an image of {rows}x{columns} the converter makes that padding 'same': choose an "
        "input size that leaves a side even there)"
    )


def _zeros(count: int) -> list[list[int]]:
    """As many zeros on every side of an image."""
    return [[0, 0], [count, count], [count, count], [0, 0]]


def _label(tensor: Tensor) -> str:
    """What is left of a tensor's name without the model's and without what was fused into it."""
    return f"'{tensor.name.split(';')[0].partition('/')[2] or tensor.name}'"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


# -- the weights --------------------------------------------------------------------------------


def _not_worth_it(walk: _Walk) -> list[str]:
    """Reasons why sparse kernels would not start, or the file would not shrink."""
    pointwise = [
        values
        for operator, values in walk.weights()
        if operator.name == "CONV_2D" and values.shape[1:3] == (1, 1)
    ]
    count = sum(values.size for values in pointwise)
    zeros = sum(values.size - np.count_nonzero(values) for values in pointwise)
    if 3 * zeros <= 2 * count:
        share = f"only {zeros / count:.0%} of their weights are" if count else "there are none"
        return [
            "XNNPACK's sparse kernels start where more than 2/3 of the weights of the 1x1 "
            f"convolutions are zero; {share}: prune them to a sparsity of 0.7 or more"
        ]
    change = sum(_change(values) for _, values in walk.weights())
    return [f"the file would grow by about {change:,} bytes"] if change >= 0 else []


def _change(weights: np.ndarray) -> int:
    """Bytes that the sparse encoding of one tensor adds; negative where it saves some."""
    kept = int(np.count_nonzero(weights))
    if kept > (1 - _ENCODED_FROM) * weights.size:
        return 0
    rows, columns = weights.size // weights.shape[-1], weights.shape[-1]
    index, segment = (next(n for n in (1, 2, 4) if top < 256**n) for top in (columns - 1, kept))
    stored = kept * (weights.itemsize + index) + (rows + 1) * segment
    return stored + _BYTES_PER_WEIGHT - weights.nbytes


def _encoded_wrongly(walk: _Walk) -> list[str]:
    """Reasons that lie in how the converter encodes certain weights."""
    empty, blocks = [], []
    for operator, values in walk.weights():
        label = _label(walk.tensor(operator.outputs[0]))
        if not values.any():
            empty.append(label)
        elif operator.name == "FULLY_CONNECTED" and _in_blocks(values):
            blocks.append(label)
    reasons = []
    if empty:
        reasons.append(
            f"{_listed(empty)}: all weights are zero, for which the converter writes a damaged "
            "file: prune this layer less, or remove it"
        )
    if blocks:
        reasons.append(
            f"{_listed(blocks)}: the zeros of this Dense layer lie in blocks of {_BLOCK}, and the "
            "file that the converter writes then is not right everywhere: prune it without a "
            "block pattern, or not at all"
        )
    return reasons


def _in_blocks(weights: np.ndarray) -> bool:
    zeros = weights.size - np.count_nonzero(weights)
    if zeros < _ENCODED_FROM * weights.size:
        return False
    whole = weights.shape[1] // _BLOCK * _BLOCK  # the converter overlooks the columns behind
    blocks = weights[:, :whole].reshape(len(weights), -1, _BLOCK)
    stored = _BLOCK * np.count_nonzero(blocks.any(axis=2))
    return bool(weights.size - stored > _BLOCK_RATIO * zeros)
