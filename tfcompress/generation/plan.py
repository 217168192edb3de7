"""Which axis of each tensor of a decoder is time, and what has to be remembered between tokens.

Nothing is known of single layers. A call is tried on a whole text and on one place of it: where
both give the same at that place, and an axis of the result has shrunk to one, that axis is time and
the call can be given a few tokens at a time. What fails is looked at once more: products of two
tensors with time are attention, whose second operand is remembered.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.graph.flow import Call, Flow, Value

CONSTANT, SOURCE, PLACES, TOKENS = "constant", "source", "places", "tokens"


@dataclass(frozen=True)
class Info:
    """What a tensor depends on, and its axes of time.

    Attributes:
        kind: `"constant"`, `"source"` (made of another text, which is known from the start),
            `"places"` (the same for every text: positions, masks) or `"tokens"`.
        query: the axis of the tokens that are computed; None where there is none.
        key: the axis of the tokens that these look at, of scores and masks; else None.
    """

    kind: str
    query: int | None = None
    key: int | None = None

    @property
    def paired(self) -> bool:
        """Whether it has a number for each two places."""
        return self.key is not None


@dataclass(frozen=True)
class Step:
    """How a call is computed for a few tokens.

    Attributes:
        call: the call.
        how: `"apply"`: as it is. `"joined"`: on all that is looked at at once. `"ones"`,
            `"count"`: positions. `"scores"`, `"mix"`: the products of attention.
        alongside: of each input, whether its one axis of time is that of what is looked at.
        moved: for reshapes, the axes of time of the result.
        cache: for products, the number of the cache.
        remembered: of each input that is alongside and made of tokens, its number; else -1.
    """

    call: Call
    how: str
    alongside: tuple[bool, ...] = ()
    moved: tuple[int, ...] = ()
    cache: int = -1
    remembered: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cache:
    """What is remembered of every token.

    Attributes:
        shape: with one row in the axis of time, batch 1 first.
        axis: the axis of time.
    """

    shape: tuple[int, ...]
    axis: int

    def sized(self, length: int) -> tuple[int, ...]:
        """The shape for that many tokens."""
        return (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])


class Plan:
    """How a decoder is computed a few tokens at a time.

    Args:
        flow: its calls.
        target: which of its inputs are the token ids (batch, length) that go on; the others are
            known from the start.
        length: tokens of a text.
        name: of the model, for errors.

    Attributes:
        steps: how each call that depends on the target is computed.
        source_steps: the calls that depend on the other inputs alone.
        caches: what is remembered of each token.
        memories: what the steps read of the other inputs.

    Raises:
        ModelTypeError: a layer mixes places in a way that is not understood.
    """

    def __init__(self, flow: Flow, target: int, length: int, name: str) -> None:
        self.flow, self.length, self.name = flow, length, name
        self.target = flow.input_values[target]
        self.sources = [value for value in flow.input_values if value is not self.target]
        self._infos: dict[int, Info] = {id(value): Info(SOURCE) for value in self.sources}
        self._infos[id(self.target)] = Info(TOKENS, 1)
        self.steps: list[Step] = []
        self.source_steps: list[Step] = []
        self.memories: list[Value] = []
        self.caches: list[Cache] = []
        self._cached: dict[int, int] = {}
        for call in flow.calls:
            step = self._planned(call)
            of_source = self.info(call.results[0]).kind == SOURCE
            (self.source_steps if of_source else self.steps).append(step)
            for value in () if of_source else call.inputs:
                if self.info(value).kind == SOURCE and not any(value is m for m in self.memories):
                    self.memories.append(value)
        outputs = keras.tree.flatten(flow.outputs)
        if len(outputs) != 1 or self.info(outputs[0]).query != 1:
            raise self._refusal("it does not give scores for every place")
        self.output: Value = outputs[0]
        self._looked_at = self._find_looked_at()

    def _find_looked_at(self) -> set[int]:
        """Tensors of places that are wanted of the cached tokens too, not of the new ones alone."""
        found: set[int] = set()
        for step in reversed(self.steps):
            asked = any(id(result) in found for result in step.call.results)
            for value, is_key in zip(step.call.inputs, step.alongside, strict=False):
                if is_key and self.info(value).kind == PLACES:
                    found.add(id(value))
            if asked:
                found |= {id(v) for v in step.call.inputs if self.info(v).kind == PLACES}
        return found

    def in_parts(self, value: Value) -> bool:
        """Whether a tensor is held apart for what is cached and for the new tokens."""
        return self.info(value).paired or id(value) in self._looked_at

    @property
    def ends_in_softmax(self) -> bool:
        """Whether it gives probabilities."""
        (operation,) = (
            step.call.operation
            for step in self.steps
            if any(result is self.output for result in step.call.results)
        )
        function = getattr(operation, "activation", None)
        return type(operation).__name__ == "Softmax" or function is keras.activations.softmax

    def info(self, value: Value) -> Info:
        """What is known of a tensor."""
        return self._infos[id(value)]

    def _refusal(self, why: str) -> ModelTypeError:
        return ModelTypeError(
            f"The model {self.name!r} cannot be computed token by token: {why}. It needs to be a "
            "Functional decoder of token ids, in which attention alone looks at other places, as "
            "tfc.models.gpt_decoder builds it."
        )

    def _planned(self, call: Call) -> Step:
        kind, cls = self._kind(call), type(call.operation)
        name = cls.__name__ if cls.__module__.startswith("keras.") else ""
        if kind in (CONSTANT, SOURCE):
            return self._settled(call, Step(call, "apply"), Info(kind))
        if name in ("OnesLike", "ZerosLike"):
            (value,) = call.inputs
            how = "ones" if name == "OnesLike" else "apply"
            return self._settled(call, Step(call, how), replace(self.info(value), kind=PLACES))
        if name == "Cumsum" and kind == PLACES:
            return self._counted(call)
        if name == "Matmul" and all(self.info(v).kind == TOKENS for v in call.inputs):
            return self._product(call)
        if name in ("Reshape", "Flatten"):
            return self._reshaped(call, kind)
        return self._applied(call, kind)

    def _kind(self, call: Call) -> str:
        kinds = {self.info(value).kind for value in call.inputs}
        if {SOURCE, PLACES} <= kinds and TOKENS not in kinds:
            raise self._refusal(f"{call.path!r} joins positions with another text")
        return next((kind for kind in (TOKENS, PLACES, SOURCE) if kind in kinds), CONSTANT)

    def _settled(self, call: Call, step: Step, *infos: Info) -> Step:
        results = call.results
        for value, info in zip(results, infos * len(results) if len(infos) == 1 else infos,
                               strict=True):  # fmt: skip
            self._infos[id(value)] = info
        return step

    def _counted(self, call: Call) -> Step:
        """A running sum of ones: positions."""
        value = call.inputs[0]
        info = self.info(value)
        axis = call.operation.axis
        uniform = self._of_ones(value)
        if axis is None or axis % len(value.shape) != info.query or not uniform:
            raise self._refusal(f"{call.path!r} sums up over places")
        return self._settled(call, Step(call, "count"), info)

    def _of_ones(self, value: Value) -> bool:
        """Whether it holds nothing but ones."""
        for step in self.steps:
            if any(result is value for result in step.call.results):
                moving = type(step.call.operation).__name__ in ("Max", "Min", "Amax", "Reshape")
                return step.how == "ones" or (moving and self._of_ones(step.call.inputs[0]))
        return False

    def _product(self, call: Call) -> Step:
        """The two products of attention."""
        left, right = call.inputs
        one, other = self.info(left), self.info(right)
        rank = len(call.results[0].shape)
        last, before = len(right.shape) - 1, len(right.shape) - 2
        if not one.paired and one.query == len(left.shape) - 2 and other.query == last:
            step = Step(call, "scores", cache=self._remembered(right))
            return self._settled(call, step, Info(TOKENS, rank - 2, rank - 1))
        if one.paired and one.key == len(left.shape) - 1 and other.query == before:
            step = Step(call, "mix", cache=self._remembered(right))
            return self._settled(call, step, Info(TOKENS, rank - 2))
        return self._applied(call, TOKENS)

    def _remembered(self, value: Value) -> int:
        if id(value) not in self._cached:
            self._cached[id(value)] = len(self.caches)
            axis = self.info(value).query
            assert axis is not None
            sizes = [1 if size is None or n in (0, axis) else size
                     for n, size in enumerate(value.shape)]  # fmt: skip
            self.caches.append(Cache(tuple(sizes), axis))
        return self._cached[id(value)]

    def _reshaped(self, call: Call, kind: str) -> Step:
        """A reshape that leaves the axes of time whole, whatever sizes it spells out."""
        (value,), (result,) = call.inputs, call.results
        info, moved = self.info(value), []
        for axis in (info.query, info.key):
            if axis is None:
                continue
            before = _product_of(value.shape[1:axis])
            places = [n for n in range(1, len(result.shape))
                      if result.shape[n] == self.length
                      and _product_of(result.shape[1:n]) == before]  # fmt: skip
            if not places:
                raise self._refusal(f"{call.path!r} joins places with channels")
            moved.append(places[0])
        step = Step(call, "apply", moved=tuple(moved))
        return self._settled(call, step, Info(kind, *moved))

    def _applied(self, call: Call, kind: str) -> Step:
        """A call that treats every place alone, or every place that looks."""
        infos = [self.info(value) for value in call.inputs]
        # Counted from the last axis, as broadcasting has it.
        back = [None if i.query is None else i.query - len(v.shape)
                for i, v in zip(infos, call.inputs, strict=True)]  # fmt: skip
        single = {b for b, i in zip(back, infos, strict=True) if b is not None and not i.paired}
        keys = {i.key - len(v.shape) for i, v in zip(infos, call.inputs, strict=True)
                if i.key is not None}  # fmt: skip
        if not keys and len(single) > 1:
            keys = {max(single)}  # here beside there: a number for each two
        along = tuple(b in keys and not i.paired for b, i in zip(back, infos, strict=True))
        paired = bool(keys)
        found = self._tried(call, along, both=True)
        if found is not None and all(len(axes) == 1 + paired for axes in found):
            remembered = tuple(
                self._remembered(v) if is_key and self.info(v).kind == TOKENS else -1
                for v, is_key in zip(call.inputs, along, strict=True)
            )
            infos = [Info(kind, *axes) for axes in found]
            return self._settled(call, Step(call, "apply", along, remembered=remembered), *infos)
        if paired and len(call.inputs) == 1:
            found = self._tried(call, along, both=False)
            if found is not None and all(len(axes) == 1 for axes in found):
                return self._settled(call, Step(call, "joined"), replace(infos[0], kind=kind))
        operation = type(call.operation).__name__
        raise self._refusal(f"{call.path!r} ({operation}) looks at other places")

    def _tried(
        self, call: Call, along: tuple[bool, ...], *, both: bool
    ) -> list[tuple[int, ...]] | None:
        """The axes of time of each result; None where what comes at a place depends on others."""
        here, there = self.length // 2, self.length // 2 - 1
        rng = np.random.default_rng(0)
        whole, part = {}, {}
        for value, is_key in zip(call.inputs, along, strict=True):
            if id(value) in whole:
                continue
            info, array = self.info(value), _sample(value, rng)
            whole[id(value)] = array
            if info.query is not None:
                array = np.take(array, [there if is_key else here], info.query)
            if info.key is not None and both:
                array = np.take(array, [there], info.key)
            part[id(value)] = array
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a softmax over one place
                full, cut = computed(call, whole), computed(call, part)
        except Exception:  # a layer may refuse another length with any error
            return None
        found = []
        for one, other in zip(full, cut, strict=True):
            if one.ndim != other.ndim:
                return None
            axes = tuple(n for n in range(one.ndim) if one.shape[n] != other.shape[n])
            for axis, place in zip(axes, (here, there), strict=False):
                one = np.take(one, [place], axis)
            size = max(float(np.abs(one).max(initial=0)), 1e-6)
            if one.shape != other.shape or np.abs(one - other).max(initial=0) > 1e-4 * size:
                return None
            found.append(axes)
        return found


def _product_of(sizes: Iterable[int | None]) -> int:
    return int(np.prod([1 if size is None else size for size in sizes]))


def _sample(value: Value, rng: np.random.Generator) -> np.ndarray:
    shape = [1 if size is None else size for size in value.shape]
    if value.dtype.startswith(("float", "bfloat")):
        return rng.standard_normal(shape).astype("float32")
    return rng.integers(0, 2, shape).astype(value.dtype)


def computed(call: Call, tensors: Mapping[int, Any]) -> list[np.ndarray]:
    """What a call gives for arrays in place of its Values."""
    return [np.asarray(keras.ops.convert_to_numpy(r)).astype("float64") for r in
            run_call(call, tensors)]  # fmt: skip


def run_call(call: Call, tensors: Mapping[int, Any]) -> list[Any]:
    """The results of a call in inference mode; `tensors` by the `id` of its Values."""

    def given(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        return keras.ops.convert_to_tensor(tensors[id(item)])

    args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
    if getattr(call.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    results: list[Any] = keras.tree.flatten(call.operation(*args, **kwargs))
    return results


def check_decoder(model: Any, target: str | None) -> int:
    """Checks that a model may be a decoder.

    Args:
        model: the model.
        target: name of the input that goes on; None for the last.

    Returns:
        Which of its inputs that is.

    Raises:
        ModelTypeError: it is no Functional model of token ids of fixed lengths.
        ConfigError: it has no input of that name.
    """
    inputs = getattr(model, "inputs", None) or []
    names = [str(tensor.name) for tensor in inputs]
    if target is not None and target not in names:
        raise ConfigError(f"`target` is one of the inputs {names}. Received: {target!r}")
    number = names.index(target) if target is not None else len(names) - 1
    fit = [
        len(tensor.shape) == 2
        and str(tensor.dtype).startswith("int")
        and tensor.shape[1] is not None
        and tensor.shape[1] >= 2
        for tensor in inputs
    ]
    if not 1 <= len(fit) <= 2 or not all(fit):
        shown = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in inputs]
        raise ModelTypeError(
            "A decoder is a Functional model of one or two inputs of integer token ids (batch, "
            "length), lengths fixed and at least 2. Received: "
            f"{getattr(model, 'name', model)!r} with inputs {shown or 'that are not known'}"
        )
    return number
