"""Attention of low rank: in every head the narrower queries, keys and values that come closest.

What a head computes depends on products alone: its scores on that of the kernels of queries and
keys, what it gives on that of its values' and its share of the output projection. The closest
narrower head is the truncated singular value decomposition of both, in a layer of the same class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph.copying import Replacement
from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.linear import from_config
from tfcompress.surgery.decompositions import Spectrum
from tfcompress.surgery.low_rank_plans import MULTIPLY_ADDS, Namer, NoForm, Plan
from tfcompress.surgery.multiply_adds import attention_multiply_adds, operands, shape_of

ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)


class AttentionForm:
    """The heads of an attention layer, narrower.

    Queries that look at the same keys are one product with them; of grouped queries, keys and
    values have one width. The bias of the keys adds the same to all scores of a query, which a
    softmax does not see: it becomes zero. The other biases are rows of their kernels.

    Args:
        layer: the layer.
        calls: its calls.

    Attributes:
        layer: likewise.
        unit: of costs.
        before: its multiply-adds over all calls.
        full: the widths of keys and of values at which nothing is lost.

    Raises:
        NoForm: its heads are no plain products.
    """

    unit = MULTIPLY_ADDS

    def __init__(self, layer: Any, calls: Sequence[Call]) -> None:
        self.layer, self._calls = layer, calls
        self._parts = query, key, value, output = (
            layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense,
        )  # fmt: skip
        if any(type(part) is not layers.EinsumDense for part in self._parts):
            raise NoForm("its projections are no plain EinsumDense layers")
        if getattr(layer, "_use_gate", False) or getattr(layer, "_gate_dense", None) is not None:
            raise NoForm("its output is gated")
        queries, values = _with_bias(query), _with_bias(value)
        keys, outputs = (np.asarray(one.kernel, np.float64) for one in (key, output))
        outputs = outputs.reshape(*outputs.shape[:2], -1)
        each = queries.shape[1] // keys.shape[1]
        self._scores, self._outputs = [], []
        for group in range(keys.shape[1]):
            heads = slice(group * each, (group + 1) * each)
            asked = np.moveaxis(queries[:, heads], 1, 0).reshape(-1, queries.shape[2])
            self._scores.append(_Product(asked, keys[:, group].T))
            given = np.moveaxis(outputs[heads], 0, 1).reshape(outputs.shape[1], -1)
            self._outputs.append(_Product(values[:, group], given))
        self._spectra = [_together(self._scores), _together(self._outputs)]
        self._own = queries.shape[2], values.shape[2]
        self._alike = type(layer) is layers.GroupQueryAttention
        widths = [len(spectrum.values) for spectrum in self._spectra]
        self.full = (max(widths),) * 2 if self._alike else tuple(widths)
        self.before = self._cost(*self._own)

    def keeping(self, energy: float) -> Plan:
        """The smallest widths that keep that share of the squared norms, of both products."""
        return self._plan(*(spectrum.rank(energy) for spectrum in self._spectra))

    def of_rank(self, rank: int) -> Plan:
        """A plan of that width at most."""
        return self._plan(rank, rank)

    def _plan(self, width: int, depth: int) -> Plan:
        if self._alike:
            width = depth = max(width, depth)
        width, depth = min(width, self.full[0]), min(depth, self.full[1])
        return Plan((width, depth), self._cost(width, depth))

    def _cost(self, width: int, depth: int) -> int:
        total = 0
        for call in self._calls:
            shapes = [shape_of(one) for one in operands(self.layer, call.args, call.kwargs)]
            cost = attention_multiply_adds(self.layer, shapes, (width, depth))
            total += cost * call.results[0].rows
        return total

    def build(self, plan: Plan, name: Namer) -> tuple[Replacement, float]:
        """The layer, and the error of its products, of that which is further off."""
        width, depth = plan.ranks
        sizes = {"head_dim": width} if self._alike else {"key_dim": width, "value_dim": depth}
        free = {"kernel_constraint": None, "bias_constraint": None}
        new = from_config(self.layer, **sizes, **free)
        query, key, value, output = self._parts
        each = query.kernel.shape[1] // key.kernel.shape[1]
        changed: dict[int, np.ndarray] = {}
        asked, keys = zip(*(product.of_rank(width) for product in self._scores), strict=True)
        # The layer divides scores by the root of its keys' width, which is smaller now.
        scale = math.sqrt(width / self._own[0])
        rows = np.concatenate([one.reshape(each, -1, width) for one in asked]) * scale
        _set(changed, query, np.moveaxis(rows, 0, 1))
        changed[id(key.kernel)] = np.stack([one.T for one in keys], 1)
        if key.bias is not None:
            changed[id(key.bias)] = np.zeros((len(keys), width))
        values, given = zip(*(product.of_rank(depth) for product in self._outputs), strict=True)
        _set(changed, value, np.stack(values, 1))
        shares = [np.moveaxis(one.reshape(depth, each, -1), 1, 0) for one in given]
        tail = output.kernel.shape[2:]
        changed[id(output.kernel)] = np.concatenate(shares).reshape(-1, depth, *tail)
        weights = [
            changed[id(weight)].astype(kept.dtype) if id(weight) in changed else kept
            for weight, kept in zip(self.layer.weights, self.layer.get_weights(), strict=True)
        ]
        shown = "keys of {} and values of {} in each head, of {} and {}"
        why = shown.format(*plan.ranks, *self._own)
        if any(getattr(self.layer, f"_{name}", None) is not None for name in free):
            why += "; without the constraints that were on kernels and biases"
        lost = [s.lost(r) for s, r in zip(self._spectra, plan.ranks, strict=True)]
        return Replacement([new], weights, why, alike=True), math.sqrt(max(lost))


class _Product:
    """left @ right, (rows, width) and (width, columns), as a narrower one.

    Both are large beside the width, so that what is decomposed is the product of their triangles.
    """

    def __init__(self, left: np.ndarray, right: np.ndarray) -> None:
        (self._left, left), (self._right, right) = np.linalg.qr(left), np.linalg.qr(right.T)
        inner, self.values, outer = np.linalg.svd(left @ right.T, full_matrices=False)
        self._left, self._right = self._left @ inner, self._right @ outer.T

    def of_rank(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, rank) and (rank, columns), alike in norm; zeros behind the full rank."""
        root = np.sqrt(self.values[:rank])
        more = [(0, 0), (0, rank - len(root))]
        left, right = (side[:, :rank] * root for side in (self._left, self._right))
        return np.pad(left, more), np.pad(right, more).T


def _together(products: Sequence[_Product]) -> Spectrum:
    """The spectrum of products that are cut to one rank."""
    return Spectrum(np.sqrt(sum(product.values**2 for product in products)))


def _with_bias(dense: Any) -> np.ndarray:
    """(inputs, heads, width), the bias as a last row where there is one."""
    kernel = np.asarray(dense.kernel, np.float64)
    if dense.bias is None:
        return kernel
    return np.concatenate([kernel, np.asarray(dense.bias, np.float64)[None]])


def _set(changed: dict[int, np.ndarray], dense: Any, rows: np.ndarray) -> None:
    """The inverse of `_with_bias`."""
    if dense.bias is not None:
        rows, changed[id(dense.bias)] = rows[:-1], rows[-1]
    changed[id(dense.kernel)] = rows
