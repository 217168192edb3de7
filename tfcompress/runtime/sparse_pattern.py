"""The pattern of operators that XNNPACK's sparse kernels are proven to compute rightly.

The image comes in, a first convolution makes it channels first, depthwise and 1x1 convolutions
follow, a mean over rows and columns ends it, and Dense layers may stand behind. `Walk` follows the
image through a file and says of each operator what is wrong with it and what would put it right.

Source: Elsen et al. 2020, "Fast Sparse ConvNets", https://arxiv.org/abs/1911.09723; src/subgraph.c
of google/XNNPACK (`xnn_check_nchw_compatibility`, `xnn_subgraph_rewrite_for_nchw`). Each pattern
accepted here was compared with the dense file on the aarch64 runtime, and so were those refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.schema import Model, Operator, Tensor
from tfcompress.runtime.surroundings import Surroundings

_IMAGE, _BODY, _AFTER = "image", "body", "after"
"""Where a tensor stands: before the first convolution, in the sparse part, behind its mean."""

_KERNELS: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_WEIGHT_TYPES: Final = ("float32", "float16")


class Wrong(NamedTuple):
    """A rule that is broken.

    Attributes:
        rule: the rule's name, such as `"padding"`.
        reason: what the rule asks for and what is there.
        remedy: the change that satisfies it, as sentences; "'{layer}'" stands for the layer's
            name.
    """

    rule: str
    reason: str
    remedy: str


class Walk:
    """Follows the image through a graph.

    Args:
        model: a model with one subgraph.

    Attributes:
        model: that model.
        graph: its subgraph.
        surroundings: who writes and reads each tensor.
        names: the layer that each operator comes from.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.surroundings = Surroundings(model, self.graph)
        self.names = LayerNames(model, self.graph, self.surroundings)
        self._stages = dict.fromkeys(self.graph.inputs, _IMAGE)

    def broken(self) -> list[tuple[Operator, Wrong]]:
        """Returns the operators that leave the pattern, each with what is wrong."""
        found: list[tuple[Operator, Wrong]] = []
        for operator in self.graph.operators:
            if self.surroundings.unpacks(operator):
                continue
            stage = self._stage(operator)
            wrong = self._judge(operator, stage)
            if wrong is not None:
                found.append((operator, wrong))
            for output in operator.outputs:
                self._stages[output] = _next_stage(self, operator, stage)
        if len(self.graph.inputs) != 1:
            found += [(operator, _SEVERAL_INPUTS) for operator in self._first_readers()]
        for index in self.graph.outputs:
            producer = self.surroundings.producers.get(index)
            if self.stage(index) != _AFTER and producer is not None:
                found.append((producer, _ENDS_AS_IMAGE))
        return found

    def _first_readers(self) -> list[Operator]:
        readers = [o for i in self.graph.inputs for o in self.surroundings.consumers[i]]
        return readers or list(self.graph.operators[:1])

    def _stage(self, operator: Operator) -> str:
        """The earliest stage of what an operator computes with."""
        stages = {self.stage(i) for i in operator.inputs if i >= 0}
        return next((stage for stage in (_IMAGE, _BODY, _AFTER) if stage in stages), "")

    def _judge(self, operator: Operator, stage: str) -> Wrong | None:
        computed = [i for i in operator.inputs if i >= 0 and not self.surroundings.is_fixed(i)]
        types = {self.tensor(i).dtype for i in (*computed, *operator.outputs)} - {"float32"}
        if types:
            here = " and ".join(sorted(types))
            return Wrong("float32", f"sparse kernels compute in float32; here it is {here}", _FLOAT)
        rule = _RULES.get((stage, operator.name))
        if rule is None:
            return _UNPROVEN.get((stage, operator.name)) or _unproven(stage, operator.name)
        if any(self.stage(i) != stage for i in computed):
            return Wrong("operator", f"{operator.name} {_JOINS}", _REBUILD)
        if stage == _IMAGE and any(len(self.readers(i)) != 1 for i in computed):
            return Wrong(
                "first convolution",
                "the image must go into one first convolution, and nowhere else",
                "Let one convolution read the image, and branch behind it.",
            )
        if stage == _AFTER and any(len(self.tensor(i).shape) != 2 for i in operator.outputs):
            return Wrong(
                "head",
                f"{operator.name} behind the mean must give (batch, features): use Flatten",
                "Put Flatten in front of '{layer}', or give GlobalAveragePooling2D keepdims=False: "
                f"{_EXACT_HEAD}.",
            )
        activation = operator.options.get("fused_activation", "NONE")
        if activation not in ("NONE", "RELU", "RELU6"):
            return Wrong(
                "activation",
                f"the activation {activation} has no sparse kernel",
                "Use ReLU, ReLU6, hard-swish, swish or none in '{layer}'.",
            )
        if operator.name in _KERNELS:
            stored = self.surroundings.stored_dtype(operator.inputs[1])
            if stored not in _WEIGHT_TYPES:
                return Wrong(
                    "float32",
                    f"weights must be stored as float32 or float16; here they are {stored}",
                    _FLOAT,
                )
        return rule(self, operator)

    def stage(self, index: int) -> str:
        """Where a tensor stands; "" for a constant."""
        return self._stages.get(index, "")

    def tensor(self, index: int) -> Tensor:
        """A tensor by its index."""
        return self.graph.tensors[index]

    def packed(self, index: int) -> Tensor:
        """The constant that a tensor is expanded from, or the tensor itself."""
        while self.surroundings.is_unpacked(index):
            index = self.surroundings.producers[index].inputs[0]
        return self.tensor(index)

    def values(self, index: int) -> np.ndarray | None:
        """What the file stores for a tensor, directly or packed; None if it is computed."""
        return self.model.data(self.packed(index))

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
            if operator.name in _KERNELS:
                values = self.values(operator.inputs[1])
                if values is not None:
                    found.setdefault(operator.inputs[1], (operator, values))
        return list(found.values())

    def pointwise(self) -> list[tuple[Operator, np.ndarray]]:
        """The 1x1 convolutions and their kernels (filters, 1, 1, channels), each kernel once."""
        return [
            (operator, values)
            for operator, values in self.weights()
            if operator.name == "CONV_2D" and values.shape[1:3] == (1, 1)
        ]


def _next_stage(walk: Walk, operator: Operator, stage: str) -> str:
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


# -- rules ----------------------------------------------------------------------------------------


def _proven(walk: Walk, operator: Operator) -> Wrong | None:
    return None


def _arithmetic_on_the_image(walk: Walk, operator: Operator) -> Wrong | None:
    fixed = [walk.surroundings.is_fixed(i) for i in operator.inputs]
    return None if any(fixed) else _unproven(_IMAGE, operator.name)


def _first_convolution(walk: Walk, operator: Operator) -> Wrong | None:
    kernel = walk.values(operator.inputs[1])
    kind = kernel is not None and (
        kernel.shape[1:] == (3, 3, 3)
        and _strides(operator) == (2, 2)
        and _dilation(operator) == (1, 1)
    )
    zeros = walk.padding(operator.inputs[0])
    if kind and operator.options["padding"] == "VALID" and zeros == _around(1):
        return None
    if kind:
        remedy = (
            "Put ZeroPadding2D(1) in front of '{layer}', give it padding='valid' in place of what "
            "pads it now, and train or fine-tune it so: that moves its window by a pixel, and no "
            "rewrite that keeps the outputs exists."
        )
    else:
        remedy = (
            "Make '{layer}' Conv2D(filters, 3, strides=2, padding='valid') behind ZeroPadding2D(1) "
            "on an image of 3 channels (repeat a gray one), as "
            "tfc.models.mobilenet(sparse_friendly=True) begins, and train it so."
        )
    if _is_odd(walk, operator):
        remedy = _ODD_IMAGE_REMEDY if kind else f"{remedy} {_ODD_REMEDY}"
    return Wrong(
        "first convolution",
        "the first convolution must be 3x3 with stride 2 on 3 channels, as ZeroPadding2D(1) and "
        f"Conv2D(padding='valid'); here it is {_described(walk, operator, kernel)}"
        f"{_odd(walk, operator)}",
        remedy,
    )


def _convolution(walk: Walk, operator: Operator) -> Wrong | None:
    kernel = walk.values(operator.inputs[1])
    channels = walk.tensor(operator.inputs[0]).shape[-1]
    if (
        kernel is not None
        and kernel.shape[1:] == (1, 1, channels)
        and _strides(operator) == (1, 1)
        and walk.padding(operator.inputs[0]) is None
    ):
        return None
    return Wrong(
        "convolution",
        "behind the first convolution only 1x1 ones with stride 1 and groups 1 have a kernel; here "
        f"it is {_described(walk, operator, kernel)}",
        "Replace '{layer}' by a depthwise convolution, which takes over its window and stride, and "
        "a 1x1 one (tfc.models.separable_block(sparse_friendly=True)), and train it so.",
    )


def _depthwise(walk: Walk, operator: Operator) -> Wrong | None:
    kernel = walk.values(operator.inputs[1])
    channels = walk.tensor(operator.inputs[0]).shape[-1]
    here = f"; here it is {_described(walk, operator, kernel)}"
    if kernel is None or kernel.shape not in ((1, 3, 3, channels), (1, 5, 5, channels)):
        return Wrong(
            "depthwise convolution",
            f"a depthwise convolution must be 3x3 or 5x5, with depth_multiplier=1{here}",
            "Give '{layer}' a kernel of 3x3 or 5x5 and depth_multiplier=1, and train it so.",
        )
    if _dilation(operator) != (1, 1):
        return Wrong(
            "depthwise convolution",
            f"a depthwise convolution must have dilation_rate=1{here}",
            "Give '{layer}' dilation_rate=1 and, for as wide a view, a kernel of 5x5; train it so.",
        )
    same = operator.options["padding"] == "SAME"
    zeros = walk.padding(operator.inputs[0])
    if _strides(operator) == (1, 1) and same and zeros is None:
        return None
    side = kernel.shape[1]
    if _strides(operator) == (2, 2) and not same and zeros == _around(side // 2):
        return None
    if _is_odd(walk, operator):
        remedy = _ODD_REMEDY
    elif _strides(operator) == (2, 2) and same and side == 3:
        remedy = "tfc.sparse_friendly(model) rewrites '{layer}' so that every output stays."
    else:
        remedy = (
            f"Put ZeroPadding2D({side // 2}) in front of '{{layer}}' and give it stride 2 and "
            "padding='valid', or stride 1 and padding='same', in place of what pads it now; "
            "tfc.sparse_friendly(model) does so where no output changes, else train it so."
        )
    return Wrong(
        "padding",
        "a depthwise convolution must have stride 1 and padding 'same', or stride 2 and as many "
        f"zeros on every side: ZeroPadding2D({side // 2}) and padding='valid'{here}"
        f"{_odd(walk, operator)}",
        remedy,
    )


def _padding(walk: Walk, operator: Operator) -> Wrong | None:
    readers = walk.readers(operator.outputs[0])
    if len(readers) == 1 and readers[0] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return None  # judged with the convolution
    return Wrong(
        "padding",
        "zero padding must stand in front of one strided convolution",
        "Take '{layer}' out, or give each strided convolution behind it a ZeroPadding2D of its "
        "own.",
    )


def _operands(walk: Walk, operator: Operator) -> Wrong | None:
    if any(walk.surroundings.is_fixed(i) for i in operator.inputs):
        return _CONSTANT
    if len(set(operator.inputs)) < 2:
        return Wrong(
            "operator",
            f"{operator.name} of an image with itself switches the sparse kernels off",
            "Fold '{layer}' into the convolution before it: scale its kernel instead.",
        )
    return None


def _sum(walk: Walk, operator: Operator) -> Wrong | None:
    if wrong := _operands(walk, operator):
        return wrong
    first, second = (walk.tensor(i).shape for i in operator.inputs)
    if first == second:
        return None
    return Wrong(
        "operator",
        "ADD must have two images of one shape",
        "Bring both inputs of '{layer}' to one shape by a 1x1 convolution.",
    )


def _product(walk: Walk, operator: Operator) -> Wrong | None:
    if wrong := _operands(walk, operator):
        return wrong
    first, second = sorted(walk.tensor(i).shape for i in operator.inputs)
    if first == second or (len(first) == 4 and first == (second[0], 1, 1, second[-1])):
        return None
    return Wrong(
        "operator",
        "MUL must have two images of one shape, or an image and one factor for each channel",
        "Give '{layer}' factors of shape (batch, 1, 1, channels), as squeeze-and-excite has them.",
    )


def _mean(walk: Walk, operator: Operator) -> Wrong | None:
    axes = walk.values(operator.inputs[1])
    if axes is None or sorted(int(axis) % 4 for axis in axes.ravel()) != [1, 2]:
        return Wrong(
            "mean",
            "a mean must be over rows and columns, as GlobalAveragePooling2D takes it",
            "Use GlobalAveragePooling2D in place of '{layer}'.",
        )
    if not operator.options.get("keep_dims"):
        return None
    result = operator.outputs[0]
    readers = walk.readers(result)
    if result not in walk.graph.outputs and (
        set(readers) == {"CONV_2D"} or (readers and set(readers) <= set(_FLATTENS))
    ):
        return None
    # On ARM its output has the shape (batch, 1, 1, rows) there, which only convolutions overlook.
    return Wrong(
        "mean",
        "a mean with keepdims=True must be read by 1x1 convolutions (squeeze-and-excite), or by "
        "Flatten and Dense, and by nothing else",
        "Give '{layer}' keepdims=False and Dense layers behind it, or a 1x1 convolution as its "
        "only reader.",
    )


def _flatten(walk: Walk, operator: Operator) -> Wrong | None:
    producer = walk.surroundings.producers.get(operator.inputs[0])
    before, after = (walk.tensor(i).shape for i in (operator.inputs[0], operator.outputs[0]))
    if producer is None or producer.name != "MEAN" or after != (before[0], before[-1]):
        return _unproven(_AFTER, "RESHAPE")
    return None


def _dense(walk: Walk, operator: Operator) -> Wrong | None:
    if walk.values(operator.inputs[1]) is not None:
        return None
    return Wrong("head", "Dense must have fixed weights", _REBUILD)


# -- what the rules say ---------------------------------------------------------------------------

_FLATTENS: Final = ("RESHAPE", "FULLY_CONNECTED")  # the converter drops a RESHAPE before a Dense
_FLOAT: Final = "Convert with precision 'fp32' or 'fp16'."
_REBUILD: Final = (
    "Build the model without '{layer}', of what is proven, or keep the file dense: pruned, it zips "
    "as small."
)
_EXACT_HEAD: Final = "tfc.sparse_friendly(model) does so where no output changes"
_JOINS: Final = "joins the image with what follows its mean"
_ODD_REMEDY: Final = (
    "Choose an input size that leaves an even side in front of '{layer}': a multiple of 32 on one "
    "side is right for five strides."
)
_ODD_IMAGE_REMEDY: Final = (
    "Build the model for an image of one row more, put ZeroPadding2D(1) in front of '{layer}', "
    "give it padding='valid', and fill that last row with the zeros that '{layer}' would add: the "
    "weights and its outputs stay the same."
)
_CONSTANT: Final = Wrong(
    "operator",
    "arithmetic with a constant in the middle has no sparse kernel; a BatchNormalization is folded "
    "away only directly behind a convolution",
    "Move '{layer}' directly behind a convolution, in front of its activation, or leave it out.",
)
_SEVERAL_INPUTS: Final = Wrong(
    "inputs",
    "the model has several inputs; the sparse pattern has one image",
    "Give the network of the image a file of its own.",
)
_ENDS_AS_IMAGE: Final = Wrong(
    "head",
    "this output is an image; sparse kernels need an end in "
    "GlobalAveragePooling2D(keepdims=False), with Dense layers behind it if any",
    "Put GlobalAveragePooling2D() behind '{layer}', and Dense layers if any behind that.",
)
_HEAD: Final = Wrong(
    "head",
    "a model must end in GlobalAveragePooling2D(keepdims=False) and Dense; with a 1x1 convolution "
    "behind the mean the file does not load on ARM, and without a mean the kernels are not used",
    "End the model in GlobalAveragePooling2D() and Dense in place of what leads to '{layer}': "
    f"{_EXACT_HEAD}.",
)
_NOT_PROVEN: Final = {
    "": "on constants is not proven to be right on ARM",
    _IMAGE: "ahead of the first convolution is not proven to be right on ARM",
    _BODY: "among the convolutions gives wrong outputs on ARM or is not proven to be right; "
    "proven are 1x1 and depthwise convolutions, ReLU, ReLU6, hard-swish, swish, sigmoid, residual "
    "Add and squeeze-and-excite",
    _AFTER: "behind the mean is not proven to be right on ARM; Dense layers and Softmax are",
}
_POOLING: Final = (
    "Replace '{layer}' by a depthwise convolution of stride 2 behind ZeroPadding2D(1), and train "
    "it so; over the whole image, use GlobalAveragePooling2D."
)
_OPERATOR_REMEDIES: Final = {
    (_BODY, "MAX_POOL_2D"): _POOLING,
    (_BODY, "AVERAGE_POOL_2D"): f"{_POOLING[:-1]} ({_EXACT_HEAD}).",
    (_BODY, "CONCATENATION"): "Replace '{layer}' by a residual Add, and train it so.",
    (_BODY, "TANH"): "Use ReLU, ReLU6, hard-swish or swish in place of '{layer}'.",
}
_UNPROVEN: Final = {
    (_IMAGE, "FULLY_CONNECTED"): Wrong(
        "operator",
        "XNNPACK's sparse kernels are for convolutional networks; stored dense, zeros compress as "
        "well in an archive or an app package",
        "Keep the file dense.",
    ),
    (_IMAGE, "DEPTHWISE_CONV_2D"): Wrong(
        "first convolution",
        "the first convolution must be a Conv2D: 3x3, stride 2, on 3 channels, as ZeroPadding2D(1) "
        "and padding='valid'",
        "Put such a Conv2D in front of '{layer}', and train it so.",
    ),
    **dict.fromkeys(((_BODY, "RESHAPE"), (_BODY, "FULLY_CONNECTED"), (_BODY, "SOFTMAX")), _HEAD),
}


def _unproven(stage: str, name: str) -> Wrong:
    remedy = _OPERATOR_REMEDIES.get((stage, name), _REBUILD)
    return Wrong("operator", f"{name} {_NOT_PROVEN[stage]}", remedy)


_Rule = Callable[[Walk, Operator], Wrong | None]
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
"""What is proven, by where it stands; each rule returns what is wrong, None where nothing is."""


# -- how an operator is described -----------------------------------------------------------------


def _strides(operator: Operator) -> tuple[int, int]:
    return operator.options["stride_h"], operator.options["stride_w"]


def _dilation(operator: Operator) -> tuple[int, int]:
    return operator.options["dilation_h"], operator.options["dilation_w"]


def _described(walk: Walk, operator: Operator, kernel: np.ndarray | None) -> str:
    """Kernel, stride, channels and zeros of a convolution, in words."""
    if kernel is None:
        return "a convolution whose kernel is computed"
    rows, columns = kernel.shape[1:3]
    vertical, horizontal = _strides(operator)
    channels = walk.tensor(operator.inputs[0]).shape[-1]
    parts = [f"{rows}x{columns}"]
    parts.append(f"stride {vertical if vertical == horizontal else (vertical, horizontal)}")
    if _dilation(operator) != (1, 1):
        parts.append(f"dilation {_dilation(operator)}")
    if operator.name == "CONV_2D":
        groups = channels // kernel.shape[-1] if kernel.shape[-1] else 1
        parts.append(f"{channels} channels" + (f" in {groups} groups" if groups > 1 else ""))
    elif kernel.shape[-1] != channels:
        parts.append(f"depth_multiplier {kernel.shape[-1] // max(channels, 1)}")
    zeros = _effective_zeros(walk, operator, (rows, columns))
    shown = " and ".join(
        dict.fromkeys(f"{before} before, {after} after" for before, after in zeros)
    )
    return f"{', '.join(parts)}, zeros {shown}"


def _effective_zeros(
    walk: Walk, operator: Operator, kernel: tuple[int, int]
) -> list[tuple[int, int]]:
    """The zeros (before, after) of rows and columns, whether PAD or "same" adds them."""
    added = walk.padding(operator.inputs[0]) or [[0, 0]] * 4
    zeros = [(before, after) for before, after in added[1:3]]
    if operator.options["padding"] == "VALID":
        return zeros
    sizes = walk.tensor(operator.inputs[0]).shape[1:3]
    settings = zip(sizes, kernel, _strides(operator), _dilation(operator), zeros, strict=True)
    found = []
    for size, side, stride, dilation, (before, after) in settings:
        total = (-(-size // stride) - 1) * stride + (side - 1) * dilation + 1 - size
        found.append((before + max(total, 0) // 2, after + -(-max(total, 0) // 2)))
    return found


def _is_odd(walk: Walk, operator: Operator) -> bool:
    """Whether symmetric zeros would become "same" in the converter, which is not accepted."""
    rows, columns = walk.tensor(operator.inputs[0]).shape[1:3]
    odd = rows % 2 == 1 and columns % 2 == 1
    return operator.options["padding"] != "VALID" and odd and _strides(operator) != (1, 1)


def _odd(walk: Walk, operator: Operator) -> str:
    """What to say of symmetric zeros that the converter has made "same", which means no less."""
    if not _is_odd(walk, operator):
        return ""
    rows, columns = walk.tensor(operator.inputs[0]).shape[1:3]
    return (
        f" (on an image of {rows}x{columns} the converter makes that padding 'same': choose an "
        "input size that leaves a side even there)"
    )


def _around(count: int) -> list[list[int]]:
    """As many zeros on every side of an image."""
    return [[0, 0], [count, count], [count, count], [0, 0]]
