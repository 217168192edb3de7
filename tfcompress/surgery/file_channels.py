"""The channels of a `.tflite`: which hang together, which are dead, and the sizes without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.schema import Operator, Tensor
from tfcompress.surgery.channels.atoms import Atoms, Axis, Kept

_ONE_BY_ONE = (
    "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "ELU", "HARD_SWISH", "LOGISTIC",
    "TANH", "GELU", "EXP", "SQRT", "RSQRT", "SQUARE", "ABS", "NEG", "LOG", "QUANTIZE", "DEQUANTIZE",
    "CAST", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
)  # fmt: skip
_TWO = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")
_MAKERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_INT32 = 2**31 - 1


class FileChannels:
    """The channels along the last axis of the tensors of a file's graph.

    A channel is constant if no weight but 0 brings anything else into it: this is told from the
    weights; its value is what the runtime computed. Channels of one class (see `Atoms`) are dead
    if whatever reads them has weights of 0 for them, or can take their constant into its bias.

    Args:
        tflite: the file.
        values: (channels,) of each computed tensor: its value where only one was seen, else NaN.

    Attributes:
        gone: (classes,) of bool.
    """

    def __init__(self, tflite: TFLiteModel, values: Mapping[int, np.ndarray]) -> None:
        self._parsed, self._values = tflite.parsed, values
        self._graph = tflite.parsed.subgraphs[0]
        self._atoms = Atoms()
        # Atoms along an axis of a tensor, by the tensor's index and the axis.
        self._axes: dict[tuple[int, int], np.ndarray] = {}
        self._constant: dict[int, np.ndarray] = {}
        # (operator, the axis of atoms it reads, which of them it reads, whether it can fold them)
        self._reads: list[tuple[Operator, np.ndarray, np.ndarray, np.ndarray]] = []
        self._sources: dict[int, int] = {}  # weights that DEQUANTIZE makes of stored ones
        self._users: dict[int, int] = {}
        for operator in self._graph.operators:
            for index in operator.inputs:
                self._users[index] = self._users.get(index, 0) + 1
        for operator in self._graph.operators:
            handler = self._handler(operator)
            if handler is None or not handler(operator):
                self._pin(operator)
        for index in self._graph.outputs:
            self._atoms.pin(self._last(index))
        self._classes = self._atoms.classes()
        self.gone = self._dead()
        self.kept = Kept(self._classes, self.gone)

    # -- what is asked of it

    def made(self) -> dict[int, int]:
        """How many channels each convolution and dense layer makes, by the operator's number."""
        return {
            operator.index: self._tensor(operator.outputs[0]).shape[-1]
            for operator in self._graph.operators
            if operator.name in _MAKERS and operator.name != "DEPTHWISE_CONV_2D"
        }

    def mask(self, index: int, axis: int) -> np.ndarray | None:
        """Which indices along an axis of a tensor are left; None for all."""
        atoms = self._axes.get((index, axis))
        return None if atoms is None or self.kept.whole(atoms) else self.kept.mask(atoms)

    def new_shapes(self) -> dict[int, tuple[int, ...]]:
        """The shapes of tensors that get smaller."""
        found: dict[int, tuple[int, ...]] = {}
        for index, axis in self._axes:
            mask = self.mask(index, axis)
            if mask is not None:
                shape = list(found.get(index, self._tensor(index).shape))
                shape[axis] = int(mask.sum())
                found[index] = tuple(shape)
        return found

    def new_constants(self) -> dict[int, np.ndarray]:
        """The values of constants that get smaller or change."""
        found: dict[int, np.ndarray] = {}
        for operator, atoms, _, _ in self._reads:
            added = self._added(operator, atoms)
            if added is not None:
                index = self._source(operator.inputs[2])
                bias = self._data(index)
                found[index] = (bias.astype(np.float64) + added).astype(bias.dtype)
        for index in self.new_shapes():
            if self._parsed.constant(self._tensor(index)) is None:
                continue
            values = found.get(index, self._data(index))
            for axis in range(values.ndim):
                mask = self.mask(index, axis)
                if mask is not None:
                    values = np.compress(mask, values, axis)
            found[index] = values
        for number, shape in self.new_reshapes().items():
            operator = self._graph.operators[number]
            if len(operator.inputs) > 1 and operator.inputs[1] >= 0:
                found[operator.inputs[1]] = np.array(shape, np.int32)
        return found

    def new_reshapes(self) -> dict[int, tuple[int, ...]]:
        """What RESHAPE operators are to give, where that changes."""
        shapes = self.new_shapes()
        return {
            operator.index: shapes[operator.outputs[0]]
            for operator in self._graph.operators
            if operator.name == "RESHAPE" and operator.outputs[0] in shapes
        }

    # -- the walk through the operators

    def _handler(self, operator: Operator) -> Callable[[Operator], bool] | None:
        if operator.name in _MAKERS:
            return {
                "CONV_2D": self._convolution, "DEPTHWISE_CONV_2D": self._depthwise,
                "FULLY_CONNECTED": self._dense,
            }[operator.name]  # fmt: skip
        if operator.name in _ONE_BY_ONE:
            return self._weights if self._is_weight(operator) else self._one_by_one
        if operator.name in _TWO:
            return self._two
        return {
            "PAD": self._pad, "MEAN": self._mean, "RESHAPE": self._reshape,
        }.get(operator.name)  # fmt: skip

    def _tensor(self, index: int) -> Tensor:
        return self._graph.tensors[index]

    def _source(self, index: int) -> int:
        return self._sources.get(index, index)

    def _data(self, index: int) -> Any:
        tensor = self._tensor(self._source(index))
        return self._parsed.data(tensor) if tensor.sparsity is None else None

    def _last(self, index: int) -> Axis:
        return self._axes.get((index, len(self._tensor(index).shape) - 1))

    def _carry(self, index: int, atoms: Axis, constant: np.ndarray | None) -> None:
        """An output carries these atoms along its last axis."""
        if atoms is None:
            return
        self._axes[(index, len(self._tensor(index).shape) - 1)] = atoms
        seen = self._values.get(index, np.full(len(atoms), np.nan))
        told = np.zeros(len(atoms), bool) if constant is None else constant
        self._constant[index] = told & ~np.isnan(seen)

    def _constants(self, index: int) -> np.ndarray:
        return self._constant.get(index, np.zeros(self._tensor(index).shape[-1], bool))

    def _is_zero(self, index: int) -> np.ndarray:
        """Which channels are real 0, as padding is."""
        if index not in self._values:
            return np.zeros(self._tensor(index).shape[-1], bool)
        quantization = self._tensor(index).quantization
        zero = 0 if quantization is None or not len(quantization.zero_points) else int(
            quantization.zero_points[0]
        )  # fmt: skip
        return self._constants(index) & (self._values[index] == zero)

    def _pin(self, operator: Operator) -> None:
        for index in operator.inputs:
            if index >= 0:
                for axis in range(len(self._tensor(index).shape)):
                    self._atoms.pin(self._axes.get((index, axis)))

    def _is_weight(self, operator: Operator) -> bool:
        return self._parsed.constant(self._tensor(operator.inputs[0])) is not None

    def _weights(self, operator: Operator) -> bool:
        """Weights stored in another type."""
        if operator.name == "DEQUANTIZE":
            self._sources[operator.outputs[0]] = operator.inputs[0]
        return True

    def _set(self, index: int, axis: int, atoms: np.ndarray) -> bool:
        """A constant gets smaller along an axis; whether it belongs to this operator alone."""
        for one in {index, self._source(index)}:
            if self._users.get(one, 0) > 1:
                return False
            self._axes[(one, axis)] = atoms
        return True

    def _nonzero(self, index: int) -> np.ndarray | None:
        """Where weights are not 0; None where that is not known."""
        values, tensor = self._data(index), self._tensor(self._source(index))
        if values is None or values.dtype.kind not in "iuf" or "int4" in tensor.dtype:
            return None
        quantization = tensor.quantization
        whole = values.dtype.kind in "iu"
        if whole and (quantization is None or np.any(quantization.zero_points)):
            return None
        return values.astype(np.float64) != 0

    def _makes(self, operator: Operator, axis: int, atoms: np.ndarray) -> bool:
        """Weights and bias follow the channels that they make."""
        if not self._set(operator.inputs[1], axis, atoms):
            return False
        bias = operator.inputs[2] if len(operator.inputs) > 2 else -1
        return bias < 0 or (self._data(bias) is not None and self._set(bias, 0, atoms))

    def _hybrid(self, operator: Operator) -> bool:
        """Whether activations are rounded by their own range while the file runs."""
        kinds = [self._tensor(i).dtype for i in operator.inputs[:2]]
        return kinds[0].startswith("float") and not kinds[1].startswith("float")

    def _linear(self, operator: Operator, read_axis: int, padded: bool, times: int = 1) -> bool:
        value, weight = operator.inputs[:2]
        nonzero = self._nonzero(weight)
        if nonzero is None or self._hybrid(operator):
            return False
        if not self._bias_is_fine(operator):
            return False
        count = nonzero.shape[0]
        made = self._atoms.fresh(count)
        if not self._makes(operator, 0, made):
            return False
        read = self._last(value)
        constants = self._constants(value)
        foldable = self._is_zero(value) if padded else constants.copy()
        if len(operator.inputs) < 3 or operator.inputs[2] < 0:
            foldable &= self._is_zero(value)
        if times > 1:
            foldable = np.tile(foldable, times)
        others = tuple(n for n in range(nonzero.ndim) if n != read_axis)
        if read is not None:
            atoms = np.tile(read, times) if times > 1 else read
            if not self._set(weight, read_axis, atoms):
                self._atoms.pin(read)
            reads = np.asarray(nonzero.any(others))
            self._reads.append((operator, atoms, reads, foldable))
        varying = nonzero & ~foldable.reshape(
            [-1 if n == read_axis else 1 for n in range(nonzero.ndim)]
        )
        self._carry(operator.outputs[0], made, ~varying.reshape(count, -1).any(1))
        return True

    def _bias_is_fine(self, operator: Operator) -> bool:
        bias = operator.inputs[2] if len(operator.inputs) > 2 else -1
        return bias < 0 or self._data(bias) is not None

    def _convolution(self, operator: Operator) -> bool:
        shape, channels = self._tensor(operator.inputs[1]).shape, self._tensor(operator.inputs[0])
        if shape[3] != channels.shape[-1]:
            return False  # grouped
        padded = operator.options.get("padding") == "SAME" and max(shape[1:3]) > 1
        return self._linear(operator, 3, padded)

    def _dense(self, operator: Operator) -> bool:
        value, weight = self._tensor(operator.inputs[0]), self._tensor(operator.inputs[1])
        if operator.options.get("weights_format", 0) not in (0, "DEFAULT"):
            return False
        if weight.shape[1] != value.shape[-1]:
            return False
        return self._linear(operator, 1, padded=False)

    def _depthwise(self, operator: Operator) -> bool:
        value, weight = operator.inputs[:2]
        read, nonzero = self._last(value), self._nonzero(weight)
        shape = self._tensor(weight).shape
        if nonzero is None or self._hybrid(operator) or not self._bias_is_fine(operator):
            return False
        times = shape[3] // self._tensor(value).shape[-1]
        if read is None:
            read = self._atoms.fresh(self._tensor(value).shape[-1])
            self._atoms.pin(read)
        atoms = np.repeat(read, times)
        if not self._makes(operator, 3, atoms):
            return False
        padded = operator.options.get("padding") == "SAME" and max(shape[1:3]) > 1
        steady = self._is_zero(value) if padded else self._constants(value)
        constant = ~nonzero.any((0, 1, 2)) | np.repeat(steady, times)
        self._carry(operator.outputs[0], atoms, constant)
        return True

    def _one_by_one(self, operator: Operator) -> bool:
        index, result = operator.inputs[0], operator.outputs[0]
        for other in operator.inputs[1:]:
            if other >= 0 and self._parsed.constant(self._tensor(other)) is None:
                return False
        self._carry(result, self._last(index), self._constants(index))
        return True

    def _pad(self, operator: Operator) -> bool:
        index, amounts = operator.inputs[0], self._data(operator.inputs[1])
        if amounts is None or np.any(amounts[-1]):
            return False
        if self._last(index) is not None:
            self._carry(operator.outputs[0], self._last(index), self._is_zero(index))
        return True

    def _mean(self, operator: Operator) -> bool:
        index, axes = operator.inputs[0], self._data(operator.inputs[1])
        rank = len(self._tensor(index).shape)
        if axes is None or any(int(a) % rank == rank - 1 for a in np.ravel(axes)):
            return False
        self._carry(operator.outputs[0], self._last(index), self._constants(index))
        return True

    def _reshape(self, operator: Operator) -> bool:
        index, result = operator.inputs[0], operator.outputs[0]
        before, after = self._tensor(index).shape, self._tensor(result).shape
        read = self._last(index)
        if read is None:
            return True
        shape = operator.inputs[1] if len(operator.inputs) > 1 else -1
        if shape >= 0 and (self._data(shape) is None or self._users[shape] > 1):
            return False
        if not after or not before or after[-1] % before[-1]:
            return False
        # The last axis stays, or takes in whole axes before it.
        times = after[-1] // before[-1]
        inner = 1
        for size in reversed(before[:-1]):
            if inner == times:
                break
            inner *= size
        if inner != times:
            return False
        self._carry(result, np.tile(read, times), np.tile(self._constants(index), times))
        return True

    def _two(self, operator: Operator) -> bool:
        one, two = operator.inputs
        result = operator.outputs[0]
        size = self._tensor(result).shape[-1] if self._tensor(result).shape else 0
        found: list[np.ndarray] = []
        steady = np.ones(size, bool)
        for index in (one, two):
            tensor = self._tensor(index)
            stored = self._parsed.constant(tensor) is not None or index in self._sources
            if stored:
                continue
            if not tensor.shape or tensor.shape[-1] != size:
                return False
            atoms = self._last(index)
            if atoms is None:
                atoms = self._atoms.fresh(size)
                self._atoms.pin(atoms)
            found.append(atoms)
            steady &= self._constants(index)
        if not found:
            return True
        for atoms in found[1:]:
            self._atoms.unite(found[0], atoms)
        for index in (one, two):
            tensor = self._tensor(index)
            stored = self._parsed.constant(tensor) is not None or index in self._sources
            if not stored or not tensor.shape or tensor.shape[-1] != size or size == 1:
                continue
            last = len(tensor.shape) - 1
            if self._data(index) is None or not self._set(index, last, found[0]):
                return False
        self._carry(result, found[0], steady)
        return True

    # -- what is dead

    def _dead(self) -> np.ndarray:
        count = int(self._classes.max()) + 1
        alive = np.zeros(count, bool)
        alive[0] = True
        for operator, atoms, reads, foldable in self._reads:
            blocked = reads & ~(foldable & self._fits(operator, atoms, foldable))
            alive[self._classes[atoms[blocked]]] = True
        known = np.zeros(count, bool)
        for atoms in self._axes.values():
            known[self._classes[atoms]] = True
        gone = known & ~alive
        # Something is to be left of every axis.
        for atoms in self._axes.values():
            own = self._classes[atoms]
            if gone[own].all():
                gone[own[0]] = False
        return gone

    def _folded(self, operator: Operator, atoms: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(outputs, channels): what constant channels add to each sum, in steps of the bias."""
        value, weight = operator.inputs[:2]
        weights = self._data(weight).astype(np.float64)
        axis = 3 if operator.name == "CONV_2D" else 1
        sums = np.moveaxis(weights, axis, -1).reshape(len(weights), -1, len(atoms)).sum(1)
        quantization = self._tensor(value).quantization
        zero = int(quantization.zero_points[0]) if quantization is not None and len(
            quantization.zero_points
        ) else 0  # fmt: skip
        constants = np.nan_to_num(self._values.get(value, np.zeros(len(atoms)))) - zero
        return np.asarray(sums * np.where(chosen, constants, 0.0))

    def _fits(self, operator: Operator, atoms: np.ndarray, foldable: np.ndarray) -> np.ndarray:
        """Which channels' constants the bias can take without overflow."""
        if len(operator.inputs) < 3 or operator.inputs[2] < 0:
            return np.ones(len(atoms), bool)
        bias = self._data(operator.inputs[2])
        if bias.dtype.kind == "f":
            return np.ones(len(atoms), bool)
        added = np.abs(self._folded(operator, atoms, foldable)).sum(1) + np.abs(
            bias.astype(np.float64)
        )
        return np.full(len(atoms), bool(added.max(initial=0) <= _INT32))

    def _added(self, operator: Operator, atoms: np.ndarray) -> np.ndarray | None:
        if len(operator.inputs) < 3 or operator.inputs[2] < 0:
            return None
        gone = ~self.kept.mask(atoms)
        if not gone.any():
            return None
        added = self._folded(operator, atoms, gone).sum(1)
        return added if added.any() else None
