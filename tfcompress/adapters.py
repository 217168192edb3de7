"""`tfc.adapt`: accuracy recovered by training few weights, merged in the end."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress import registry
from tfcompress.errors import ConfigError, ScopeError
from tfcompress.graph.calls import functional
from tfcompress.graph.copying import copy_model
from tfcompress.keras3 import check_built, check_keras3
from tfcompress.quantization.model import QuantizedModel
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike, resolve
from tfcompress.transforms.base import WeightTransform
from tfcompress.transforms.choosing import why_left
from tfcompress.transforms.lora import holds_lora
from tfcompress.transforms.low_rank import Frozen, LowRank, Still
from tfcompress.transforms.mask import KeptZeros
from tfcompress.transforms.model import driven
from tfcompress.transforms.sharing import shares_values
from tfcompress.transforms.strip import strip
from tfcompress.transforms.wrapper import TransformedLayer, wrappers
from tfcompress.transforms.wrapping import wrap
from tfcompress.variables import value_of

METHODS = ("lora", "biases", "norms", "last")
_NORM_WEIGHTS = ("gamma", "beta", "scale")


def adapt(
    model: keras.Model,
    method: str | Iterable[str] = "lora",
    *,
    rank: int = 4,
    lora_alpha: float | None = None,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> Any:
    """A copy of a model of which few weights train: to win accuracy back after a compression.

    All other weights stay bit for bit, so zeros of a pruned model stay; what is added to a kernel
    leaves its zeros alone while it trains, too. A quantize-aware model goes on computing what its
    int8 file will: kernels are quantized with what is added. `tfc.strip` ends it: adapters are
    merged into the kernels, with the same outputs, and everything trains again. `tfc.convert` and
    `tfc.quantize_aware` merge on the way.

    Models whose layers had Keras's own `enable_lora` called are merged by the same verbs. Beside
    that, "lora" here works on transposed convolutions, recurrent layers and any layer with a
    registered kernel, on kernels with zeros, and under quantization.

    Args:
        model: a built Keras 3 model; it does not change. What `tfc.prune` or `tfc.cluster` wrapped
            is stripped on the way.
        method: what trains, one or several of:
            `"lora"`: a product of two small matrices added to each kernel (dense, convolutions,
            attention projections, embeddings; depthwise kernels only where `include` names them).
            `"biases"`: biases, and the shifts of normalizations.
            `"norms"`: scales and shifts of normalizations.
            `"last"`: all weights of the layers with a kernel that come last before the outputs.
            Of a subclassed model, whose calls nobody sees: the layer that it made last.
        rank: of "lora"; less where a kernel has not as many rows or columns.
        lora_alpha: the product is scaled by lora_alpha / rank; None for `rank`.
        include: layers that the methods may train; for "last" in place of the last ones.
        exclude: layers that stay as they are.

    Returns:
        The new model, not compiled, whose `compression_report` tells what trains in each layer.
        A layer of which nothing trains works as in inference, and so does such a
        BatchNormalization inside a layer of your own.

    Raises:
        ModelTypeError: no built Keras 3 model, or a subclassed one that cannot be rebuilt.
        ScopeError: a pattern matches no layer.
        ConfigError: an argument that cannot be; nothing that could train.

    Example:
        >>> adapted = tfc.adapt(pruned, "lora", rank=8)
        >>> adapted.compile("adam", "sparse_categorical_crossentropy")
        >>> adapted.fit(x, y)
        >>> model = tfc.strip(adapted)

    Source: Hu et al. 2022, LoRA (arXiv:2106.09685); Ben Zaken et al. 2022, BitFit
    (arXiv:2106.10199); Frankle et al. 2021, "Training BatchNorm and Only BatchNorm"
    (arXiv:2003.00152).
    """
    check_keras3(model)
    model = registry.student_of(model)
    check_built(model, "tfc.adapt")
    listed = isinstance(method, Iterable) and not isinstance(method, str)
    methods: list[Any] = list(method) if listed else [method]
    if not methods or any(own not in METHODS for own in methods):
        raise ConfigError(f"`method` takes some of {list(METHODS)}. Received: {method!r}")
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool) or rank < 1:
        raise ConfigError(f"`rank` must be a whole number >= 1. Received: {rank!r}")
    if lora_alpha is not None and not _is_positive(lora_alpha):
        raise ConfigError(f"`lora_alpha` must be a number above 0. Received: {lora_alpha!r}")
    if wrappers(model) or holds_lora(model):
        # Layers that the caller names by themselves are those of his model.
        _check_by_name(include, exclude)
        model = strip(model)
    layers = registry.walk(model)
    named = None if include is None else resolve(include, layers, "include")
    choice = _Choice(
        methods, int(rank), float(rank if lora_alpha is None else lora_alpha) / rank, named,
        resolve(exclude, layers, "exclude"), _last(model, layers) if named is None else named,
    )  # fmt: skip
    report = CompressionReport("adapt", {"method": " + ".join(methods)})
    if "lora" in methods:
        report.settings |= {"rank": int(rank), "lora_alpha": choice.scale * rank}
    parts = [_Part(path, layer) for path, layer in layers]
    seen: set[int] = set()
    for part in parts:
        choice.decide(part, seen)
    _report(parts, report)
    if not any(part.added or part.trained for part in parts):
        raise ConfigError(f"The model {model.name!r} has nothing that could train:\n{report}")
    made = (
        _quantized(model, parts, report)
        if _quantized_parts(parts)
        else _wrapped(model, parts, report)
    )
    trained = sum(int(np.prod(v.shape)) for v in made.trainable_variables)
    report.settings["trained"] = trained
    report.settings["of"] = sum(int(np.prod(w.shape)) for w in model.weights)
    return made


def _is_positive(number: Any) -> bool:
    real = isinstance(number, (int, float, np.integer, np.floating))
    return real and not isinstance(number, bool) and math.isfinite(number) and number > 0


@dataclass
class _Part:
    """A layer, and what becomes of its weights.

    Attributes:
        added: `id` of a weight -> makes what it goes through: what is added to it, or, where it
            trains itself, what keeps its zeros.
        trained: `id`s of the weights that train as they are.
        still: `id`s of statistics that are not to move, where nothing of the layer trains.
        frozen: `id`s of those that trained and do not now.
        weights: its own, not those of layers that it holds.
    """

    path: str
    layer: Any
    added: dict[int, Callable[[], WeightTransform]] = field(default_factory=dict)
    trained: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)
    still: set[int] = field(default_factory=set)
    reason: str = ""

    @property
    def quantized(self) -> bool:
        """Whether it is a layer of `tfc.quantize_aware`."""
        return hasattr(self.layer, "remade")

    @property
    def weights(self) -> list[Any]:
        """Those that are its own."""
        inner = {
            id(w) for own in self.layer._flatten_layers(include_self=False) for w in own.weights
        }
        return [w for w in self.layer.weights if id(w) not in inner]


@dataclass(frozen=True)
class _Choice:
    """What is to train."""

    methods: list[str]
    rank: int
    scale: float
    included: set[int] | None
    excluded: set[int]
    last: set[int]

    def decide(self, part: _Part, seen: set[int]) -> None:
        """Sorts the layer's weights, each once, into added to, trained and frozen."""
        layer = part.layer
        kernels = {id(k): k for k in _kernels(layer)}
        named = self.included is not None and id(layer) in self.included
        allowed = id(layer) not in self.excluded and (self.included is None or named)
        for weight in part.weights:
            if id(weight) in seen or not weight.trainable:
                continue
            seen.add(id(weight))
            if allowed and self._trains(part, weight, id(weight) in kernels):
                part.trained.add(id(weight))
                kept = part.quantized and part.layer.transforms  # its zeros are seen to
                values = value_of(weight) if id(weight) in kernels and not kept else 1
                if 0 < np.count_nonzero(values) < np.size(values):
                    part.added[id(weight)] = functools.partial(KeptZeros.keeping, values)
            elif allowed and "lora" in self.methods and id(weight) in kernels:
                part.reason = self._why_not(layer, weight, named)
                if part.reason:
                    part.frozen.add(id(weight))
                else:
                    part.added[id(weight)] = self._low_rank(layer, weight)
            else:
                part.frozen.add(id(weight))
        norm = isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        if norm and not layer.trainable_variables:  # (others are at rest where theirs are frozen)
            part.still |= {id(weight) for weight in part.weights} - seen
            seen |= part.still
        if id(layer) in self.excluded:
            part.reason = "excluded"
        elif not allowed:
            part.reason = "not included"

    def _trains(self, part: _Part, weight: Any, kernel: bool) -> bool:
        name = weight.name
        norm = name in _NORM_WEIGHTS and (part.quantized or not registry.kernels(part.layer))
        return (
            ("last" in self.methods and id(part.layer) in self.last)
            or ("norms" in self.methods and norm)
            or ("biases" in self.methods and not kernel and (name == "beta" or "bias" in name))
            or (part.quantized and name not in ("kernel", "bias", "gamma", "beta", "embeddings"))
        )

    def _why_not(self, layer: Any, weight: Any, named: bool) -> str:
        kind = getattr(layer, "kind", "")
        if kind == "depthwise" and not named:
            return "a depthwise kernel holds few weights: name it in `include`"
        if not kind and not hasattr(layer, "table"):
            left = why_left(layer, named, self.excluded)
            if left:
                return left
        values = value_of(weight)
        if shares_values(values, _columns(layer, weight), least=1 / 8):
            return "its weights share values, which an adapter would part"
        return "" if min(_sizes(layer, weight)) > 0 else "it is empty"

    def _low_rank(self, layer: Any, weight: Any) -> Callable[[], WeightTransform]:
        values = value_of(weight)
        zeros = bool((values == 0).any() and values.any())
        rank = min(self.rank, *_sizes(layer, weight))
        columns = _columns(layer, weight)
        return functools.partial(LowRank, rank, self.scale, columns, zeros)


def _kernels(layer: Any) -> list[Any]:
    own = getattr(layer, "transformed", None)
    return registry.kernels(layer) if own is None else [own]


def _columns(layer: Any, weight: Any) -> tuple[int, ...]:
    """Axes of the kernel that tell its output."""
    kind = getattr(layer, "kind", None)
    rank = len(weight.shape)
    if hasattr(layer, "remade"):
        return {"transpose": (2,), "depthwise": (2, 3)}.get(kind or "", (rank - 1,))
    roles = registry.axes(layer, weight)
    return tuple(axis for axis, role in enumerate(roles) if role == "o")


def _sizes(layer: Any, weight: Any) -> tuple[int, int]:
    columns = int(np.prod([weight.shape[axis] for axis in _columns(layer, weight)]))
    return int(np.prod(weight.shape)) // max(columns, 1), columns


def _last(model: Any, layers: list[tuple[str, Any]]) -> set[int]:
    """The layers with a kernel that come last before each output."""
    graph = functional(model)
    with_kernel = {id(layer) for _, layer in layers if _kernels(layer)}
    if graph is None:
        own = {id(layer) for layer in model._flatten_layers()} & with_kernel
        return set([id(layer) for _, layer in layers if id(layer) in own][-1:])
    found: set[int] = set()
    waiting = list(graph.outputs)
    while waiting:
        operation = waiting.pop()._keras_history.operation
        held: list[Any] = getattr(operation, "_flatten_layers", list)()
        inside = [layer for layer in held if id(layer) in with_kernel]
        if inside and functional(operation) is not None:
            found |= _last(operation, layers)  # each of its own outputs
        elif inside:
            found.add(id(inside[-1]))
        else:
            waiting += [t for node in operation._inbound_nodes for t in node.input_tensors]
    return found


def _check_by_name(*scopes: ScopeLike) -> None:
    flat = [part for scope in scopes for part in keras.tree.flatten(scope)]
    if any(isinstance(part, keras.Layer) for part in flat):
        raise ScopeError(
            "Layers of a wrapped model must be named, as it is stripped into a copy on the way. "
            "Received a layer itself: give its name."
        )


def _report(parts: list[_Part], report: CompressionReport) -> None:
    for part in parts:
        kind = type(part.layer).__name__
        names = {id(w): w.name for w in part.weights}
        details: dict[str, Any] = {}
        for key, make in part.added.items():
            if key not in part.trained:
                details["rank"] = make.args[0]  # type: ignore[attr-defined]
        trained = [names[key] for key in names if key in part.trained]
        if trained:
            details["trains"] = " and ".join(trained)
        if part.added or trained:
            action = "adapted" if "rank" in details else "trained"
            report.add(part.path, kind, action, part.reason, **details)
        elif part.frozen or part.still:
            report.add(part.path, kind, "left", part.reason or "frozen")


def _plan(parts: list[_Part]) -> dict[int, Callable[[], WeightTransform]]:
    plan: dict[int, Callable[[], WeightTransform]] = {}
    for part in parts:
        plan |= {**part.added, **dict.fromkeys(part.frozen, Frozen)}
        plan |= dict.fromkeys(part.still, Still)
    return plan


def _wrapped(model: Any, parts: list[_Part], report: CompressionReport) -> Any:
    plan = _plan(parts)
    # Where all that there is trains as it is, there is nothing to wrap.
    copy = wrap(model, plan, report) if plan else driven(strip(model), report)
    _rest(copy)
    return copy


def _rest(copy: Any) -> None:
    """Layers of which nothing trains work as in inference."""
    for wrapper in wrappers(copy):
        if not wrapper.trainable_variables:
            wrapper.trainable = False


def _quantized_parts(parts: list[_Part]) -> list[_Part]:
    return [part for part in parts if part.quantized]


def _quantized(model: Any, parts: list[_Part], report: CompressionReport) -> Any:
    """The same for a quantize-aware model, whose layers transform their kernels themselves."""
    plan = _plan([part for part in parts if not part.quantized])
    quantized = {id(part.layer): part for part in _quantized_parts(parts)}
    made: list[tuple[Any, Any]] = []

    def wrapped(layer: Any, copy: Any) -> Any:
        part = quantized.get(id(layer))
        if part is not None and (part.added or part.frozen):
            added = [make() for make in part.added.values()]
            frozen = [w.name for w in part.weights if id(w) in part.frozen]
            made.append((layer, layer.remade([*added, *layer.transforms], frozen)))
            return made[-1][1]
        own = {i: w for i, w in enumerate(layer.weights) if id(w) in plan}
        if not own:
            return copy
        shapes = {position: tuple(weight.shape) for position, weight in own.items()}
        return TransformedLayer(copy, {i: [plan[id(w)]()] for i, w in own.items()}, shapes)

    with model.distribute_strategy.scope():
        copy = copy_model(model, wrap=wrapped)
        for wrapper in wrappers(copy.model):
            wrapper.settle()
        for layer, fresh in made:
            fresh.take(layer)
    _rest(copy.model)
    if isinstance(copy.model, QuantizedModel):
        copy.model.compression_report = report
    return copy.model
