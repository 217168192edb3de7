"""A decoder as a function of a few new tokens and what is remembered of those before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfcompress.generation.plan import CONSTANT, SOURCE, TOKENS, Plan, Step, run_call
from tfcompress.graph.flow import Value

CACHE, NEW = "cache", "new"


def advance(
    plan: Plan,
    tokens: tf.Tensor,
    position: tf.Tensor,
    caches: Sequence[tf.Tensor],
    memories: Sequence[tf.Tensor] = (),
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Computes the places of some new tokens.

    What is looked at is kept in two parts all the way, the cache and the new tokens: only scores
    are joined, for the softmax over them. For one token, products are multiplications and sums,
    which are faster than a product of matrices of one row.

    Args:
        plan: of the model.
        tokens: int32 (1, n).
        position: int32 (1,), the first one's place in the text.
        caches: for each of the plan's, what is remembered; rows from `position` on are not read.
        memories: for each of the plan's, what `remember` gives of the other inputs.

    Returns:
        What the model gives for the new tokens, (1, n, ...), and new rows for each cache.
    """
    return _Pass(plan, tokens, position, caches, memories).run()


def remember(plan: Plan, sources: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """What the steps of a plan read of the inputs that are known from the start."""
    held = {id(value): tensor for value, tensor in zip(plan.sources, sources, strict=True)}
    for step in plan.steps:  # constants, which any call may read
        if all(plan.info(value).kind == CONSTANT for value in step.call.results):
            held |= _results(step, held)
    for step in plan.source_steps:
        held |= _results(step, held)
    return [held[id(value)] for value in plan.memories]


def _results(step: Step, held: dict[int, Any]) -> dict[int, Any]:
    return dict(zip(map(id, step.call.results), run_call(step.call, held), strict=True))


class _Pass:
    def __init__(
        self,
        plan: Plan,
        tokens: Any,
        position: Any,
        caches: Sequence[Any],
        memories: Sequence[Any],
    ) -> None:
        self.plan, self.caches = plan, caches
        self.count = tokens.shape[1]
        self.new: dict[int, Any] = {}
        self.tensors: dict[tuple[int, str], Any] = {}
        self.tensors[id(plan.target), NEW] = tokens
        for value, memory in zip(plan.memories, memories, strict=True):
            self.tensors[id(value), NEW] = memory
        self.places = {NEW: position + tf.range(self.count)}
        # No text reads a place behind its end, so the table of positions need not have one.
        self.places[NEW] = tf.minimum(self.places[NEW], plan.length - 1)
        if caches:
            rows = tf.range(caches[0].shape[plan.caches[0].axis])
            # Rows that hold nothing yet stand far ahead, where the model's own mask hides them.
            empty = tf.clip_by_value(rows - position + 1, 0, 1)
            self.places[CACHE] = rows + empty * (2 * plan.length)
        self.parts = tuple(self.places)

    def run(self) -> tuple[Any, list[Any]]:
        for step in self.plan.steps:
            self._step(step)
        output = self.tensors[id(self.plan.output), NEW]
        return output, [self.new[number] for number in range(len(self.plan.caches))]

    def _parts(self, value: Value) -> tuple[str, ...]:
        """The parts in which a tensor is held."""
        return self.parts if self.plan.in_parts(value) else (NEW,)

    def _held(self, value: Value, part: str) -> Any:
        return self.tensors.get((id(value), part), self.tensors.get((id(value), NEW)))

    def _step(self, step: Step) -> None:
        call = step.call
        if step.how in ("scores", "mix"):
            getattr(self, f"_{step.how}")(step)
            return
        if step.how == "joined":
            self._joined(step)
            return
        for part in self._parts(call.results[0]):
            for value, tensor in zip(call.results, self._computed(step, part), strict=True):
                self.tensors[id(value), part] = tensor

    def _computed(self, step: Step, part: str) -> list[Any]:
        call = step.call
        (info, *_) = [self.plan.info(value) for value in call.results]
        if step.how in ("ones", "count"):
            (value,) = call.results
            assert info.query is not None
            sizes = [1] * len(value.shape)
            sizes[info.query] = -1
            places = self.places[part]
            row = tf.ones_like(places) if step.how == "ones" else places + 1
            return [tf.cast(tf.reshape(row, sizes), value.dtype)]
        along = step.alongside or (info.kind != CONSTANT and not info.paired,) * len(call.inputs)
        held = {}
        numbers = step.remembered or (-1,) * len(call.inputs)
        for value, is_key, number in zip(call.inputs, along, numbers, strict=True):
            mine = self.plan.info(value)
            if number >= 0:
                self.new[number] = self._held(value, NEW)
                if part == CACHE:
                    held[id(value)] = self.caches[number]
                    continue
            # Of places alone, the part that is asked for; tokens are always new.
            own = part if mine.paired or is_key or not info.paired else NEW
            held[id(value)] = self._held(value, own)
        if step.moved:
            (value,), (result,) = call.inputs, call.results
            x = held[id(value)]
            before = self.plan.info(value)
            sizes = [1 if n == 0 or size is None else size for n, size in enumerate(result.shape)]
            for old, fresh in zip((before.query, before.key), step.moved, strict=False):
                assert old is not None
                sizes[fresh] = x.shape[old]
            return [tf.reshape(x, sizes)]
        if type(call.operation).__name__ == "Matmul" and info.kind == TOKENS:
            left, right = call.inputs
            if self.plan.info(right).kind == SOURCE and held[id(left)].shape[-2] == 1:
                return [self._product(held[id(left)], held[id(right)])]  # attention to the source
        return run_call(call, held)

    def _joined(self, step: Step) -> None:
        """A softmax and the like: over the cache and the new tokens at once."""
        (value,), (result,) = step.call.inputs, step.call.results
        axis = self.plan.info(value).key
        tensors = [self._held(value, part) for part in self.parts[::-1]]  # the cache first
        (whole,) = run_call(step.call, {id(value): tf.concat(tensors, axis)})
        start = 0
        for part, tensor in zip(self.parts[::-1], tensors, strict=True):
            # Not a split into unequal parts, which leaves XNNPACK.
            begin = [start if n == axis else 0 for n in range(len(tensor.shape))]
            self.tensors[id(result), part] = tf.slice(whole, begin, tensor.shape)
            start += tensor.shape[axis]

    def _scores(self, step: Step) -> None:
        left, right = step.call.inputs
        query, key = self._held(left, NEW), self._held(right, NEW)
        self.new[step.cache] = key
        for part in self.parts:
            looked_at = key if part == NEW else self.caches[step.cache]
            self.tensors[id(step.call.results[0]), part] = self._product(query, looked_at)

    def _mix(self, step: Step) -> None:
        left, right = step.call.inputs
        value = self._held(right, NEW)
        self.new[step.cache] = value
        total = self._product(self._held(left, NEW), value)
        if CACHE in self.parts:
            total += self._product(self._held(left, CACHE), self.caches[step.cache])
        self.tensors[id(step.call.results[0]), NEW] = total

    def _product(self, one: Any, other: Any) -> Any:
        """(..., n, a) and (..., a, b) to (..., n, b)."""
        if self.count > 1:
            return tf.matmul(one, other)
        column = tf.reshape(one, (*one.shape[:-2], one.shape[-1], 1))
        return tf.reduce_sum(column * other, -2, keepdims=True)
