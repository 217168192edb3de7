"""The kernels that are pruned, what is kept beside each, and how they are chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress import registry, scope
from tfcompress.errors import ConfigError, ScopeError
from tfcompress.pruning.patterns import to_matrix
from tfcompress.pruning.settings import PruningSettings
from tfcompress.report import CompressionReport

Layers = list[tuple[str, Any]]


@dataclass
class Target:
    """One kernel that is pruned.

    Attributes:
        path: its layer's path.
        variable: the kernel.
        axes: the role of each of its axes, as `registry.axes` gives them.
        mask: bool variable of the kernel's shape, False where masked.
        products: sum of weight x gradient over the steps, if the criterion asks for it.
        gradients: sum of the gradients since the last mask update, likewise.
        aside: values of the masked weights, for a criterion that revives them.
        own_constraint: the user's constraint of the kernel.
    """

    path: str
    variable: Any
    axes: str
    mask: Any
    products: Any = None
    gradients: Any = None
    aside: Any = None
    own_constraint: Any = None

    @property
    def dims(self) -> tuple[int, ...]:
        """(*spatial, inputs, outputs)."""
        shape = self.variable.shape
        spatial = [n for n, role in zip(shape, self.axes, strict=True) if role == "s"]
        return (*spatial, *self.matrix_shape[1:])

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """(spatial, inputs, outputs)."""
        return to_matrix(np.broadcast_to(0, self.variable.shape), self.axes).shape

    @property
    def variables(self) -> list[Any]:
        """All that is kept beside the kernel."""
        kept = (self.mask, self.products, self.gradients, self.aside)
        return [variable for variable in kept if variable is not None]


@dataclass
class Group:
    """Kernels that are pruned together, by one schedule.

    Attributes:
        settings: how.
        targets: which.
        last: int64 variable, the step of the last mask update; -1 before the first.
        seen: float32 variable, gradients summed since the last mask update.
        open: bool variable, whether sums still grow.
    """

    settings: PruningSettings
    targets: list[Target] = field(default_factory=list)
    last: Any = None
    seen: Any = None
    open: Any = None

    def create(self, targets: Iterable[Target]) -> None:
        """Takes the targets and makes the variables that its settings ask for."""
        self.targets = list(targets)
        self.last = _state(np.array(-1, "int64"), "last_update")
        if self.settings.watches:
            self.open = _state(np.array(True), "open")
            self.seen = _summed(np.zeros((), "float32"), "seen")
        criterion = self.settings.criterion
        for target in self.targets:
            zeros = np.zeros(target.variable.shape, "float32")
            if criterion.products:
                target.products = _summed(zeros, "products")
            if criterion.gradients or self.settings.regrows:
                target.gradients = _summed(zeros, "gradients")
            if criterion.revives:
                target.aside = _state(zeros, "aside")

    @property
    def variables(self) -> list[Any]:
        """Everything that a resumed training needs."""
        own = [variable for variable in (self.last, self.seen, self.open) if variable is not None]
        return own + [variable for target in self.targets for variable in target.variables]


def new_mask(kernel: Any) -> Any:
    """A mask that keeps everything."""
    return _state(np.ones(kernel.shape, bool), "pruning_mask")


def _state(value: np.ndarray, name: str) -> Any:
    return keras.Variable(value, dtype=str(value.dtype), trainable=False, name=name)


def _summed(value: np.ndarray, name: str) -> Any:
    """A variable that each replica adds its own share to."""
    return keras.Variable(
        value,
        dtype=str(value.dtype),
        trainable=False,
        name=name,
        synchronization="on_read",
        aggregation="sum",
    )


def choose(
    model: Any,
    schedule: Any,
    options: dict[str, Any],
    include: scope.ScopeLike,
    exclude: scope.ScopeLike,
    report: CompressionReport,
) -> list[Group]:
    """Groups of the kernels to prune; what is left is said in the report.

    Args:
        model: a built model.
        schedule: one schedule, or a dict scope -> schedule or None; the first match counts.
        options: further arguments of `PruningSettings`.
        include: layers to prune, None for all that are by default.
        exclude: layers to leave alone.
        report: gets an entry for each layer with weights.
    """
    layers = registry.walk(model)
    by_schedule = _schedules(schedule, options, layers)
    included = scope.resolve(include, layers, "include")
    excluded = scope.resolve(exclude, layers, "exclude")
    named = include is not None
    chosen: list[list[Target]] = [[] for _ in by_schedule]
    seen: set[int] = set()
    for path, layer in layers:
        kind = type(layer).__name__
        kernels = registry.kernels(layer)
        if not kernels:
            if layer.weights and not layer._layers:
                report.add(path, kind, "left", "it has no kernel")
            continue
        index, reason = _schedule_of(layer, by_schedule)
        reason = reason or _why_left(layer, named or isinstance(schedule, dict), excluded)
        if named and id(layer) not in included:
            reason = "not included"
        if reason:
            report.add(path, kind, "left", reason)
            continue
        settings = by_schedule[index][0]
        assert settings is not None
        fresh = []
        for variable in kernels:
            target = Target(path, variable, registry.axes(layer, variable), None)
            reason = _refusal(target, settings) or reason
            if not _refusal(target, settings) and id(variable) not in seen:
                seen.add(id(variable))
                target.mask = new_mask(variable)
                fresh.append(target)
        if fresh or not reason:
            report.add(path, kind, "pruned")
        else:
            report.add(path, kind, "left", reason)
        chosen[index] += fresh
    _check_any(model, chosen, include, layers, report)
    groups = []
    for (settings, _), targets in zip(by_schedule, chosen, strict=True):
        if settings is not None and targets:
            group = Group(settings)
            group.create(targets)
            groups.append(group)
    return groups


# (settings or None, ids of the layers; None for all)
_BySchedule = list[tuple[PruningSettings | None, "set[int] | None"]]


def _schedules(schedule: Any, options: dict[str, Any], layers: Layers) -> _BySchedule:
    if not isinstance(schedule, dict):
        return [(PruningSettings(schedule, **options), None)]
    if not schedule:
        raise ConfigError("`schedule` must name at least one layer. Received: {}")
    return [
        (
            None if own is None else PruningSettings(own, **options),
            scope.resolve(part, layers, "schedule"),
        )
        for part, own in schedule.items()
    ]


def _schedule_of(layer: Any, by_schedule: _BySchedule) -> tuple[int, str]:
    for index, (settings, ids) in enumerate(by_schedule):
        if ids is None or id(layer) in ids:
            return index, "" if settings is not None else "its schedule is None"
    return 0, "no schedule names it"


def _why_left(layer: Any, named: bool, excluded: set[int]) -> str:
    if id(layer) in excluded:
        return "excluded"
    if named:
        return ""
    row = registry.lookup(layer)
    if row is not None and not row.default:
        return row.reason
    return "" if layer.trainable else "not trainable"


def _refusal(target: Target, settings: PruningSettings) -> str:
    if settings.watches and not target.variable.trainable:
        return "not trainable, so it has no gradient to be judged by"
    return settings.pattern.refuses(target.matrix_shape)


def _check_any(
    model: Any,
    chosen: list[list[Target]],
    include: scope.ScopeLike,
    layers: Layers,
    report: CompressionReport,
) -> None:
    if any(chosen):
        return
    with_kernel = [path for path, layer in layers if registry.kernels(layer)]
    refused = [entry for entry in report.left if entry.name in with_kernel]
    if include is not None and all(e.reason == "not included" for e in refused):
        raise ScopeError(
            "`include` must match at least one layer with a kernel. The layers that have one: "
            f"{with_kernel}"
        )
    raise ConfigError(
        f"The model {model.name!r} has no layer to prune:\n{report}\n"
        "Name layers in `include`, or tell tfcompress of your own layer classes with "
        "tfc.register_layer."
    )
