"""The kernels that are pruned, what is kept beside each, and how they are chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcompress import registry, scope
from tfcompress.errors import ConfigError, ScopeError
from tfcompress.pruning.kept import beside_kernel, for_group, new_mask
from tfcompress.pruning.patterns import to_matrix
from tfcompress.pruning.settings import PruningSettings
from tfcompress.pruning.wrapped import PruningMask
from tfcompress.report import CompressionReport
from tfcompress.transforms.centroids import Centroids
from tfcompress.transforms.choosing import why_kernel_left, why_left
from tfcompress.transforms.wrapper import transforms_of

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
        wrapped: what `tfc.prune` has put into the layer's wrapper; None in a plain layer.
        shared: `tfc.cluster` has put centroids in its place.
    """

    path: str
    variable: Any
    axes: str
    mask: Any = None
    products: Any = None
    gradients: Any = None
    aside: Any = None
    own_constraint: Any = None
    wrapped: PruningMask | None = None
    shared: bool = False

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
        """All that is kept beside the kernel and is not saved with the layer itself."""
        held = self.wrapped.variables if self.wrapped is not None else []
        kept = (self.mask, self.products, self.gradients, self.aside)
        return [
            variable
            for variable in kept
            if variable is not None and not any(variable is own for own in held)
        ]


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
    _own: list[Any] = field(default_factory=list)

    def create(self, targets: Iterable[Target]) -> None:
        """Takes the targets and makes the variables that its settings ask for."""
        self.targets = list(targets)
        together = for_group(self.settings)
        self._own = list(together.values())
        _take(self, together)
        for target in self.targets:
            shape = tuple(target.variable.shape)
            target.mask = target.wrapped.mask if target.wrapped else new_mask(shape)
            _take(target, beside_kernel(self.settings, shape))

    def adopt(self, targets: Iterable[Target]) -> None:
        """Takes targets in wrapped layers, with the variables that these hold."""
        self.targets = list(targets)
        for target in self.targets:
            assert target.wrapped is not None
            target.mask = target.wrapped.mask
            _take(target, target.wrapped.beside)
        assert self.targets[0].wrapped is not None
        _take(self, self.targets[0].wrapped.together)

    def updated(self, step: int) -> None:
        """Notes the step of a mask update."""
        self.last.assign(step)
        for target in self.targets:
            if target.wrapped is not None and not self._own:
                target.wrapped.together["last"].assign(step)

    @property
    def variables(self) -> list[Any]:
        """Everything that a resumed training needs and is not saved with the layers."""
        return self._own + [variable for target in self.targets for variable in target.variables]


def _take(holder: Any, variables: dict[str, Any]) -> None:
    for name, variable in variables.items():
        setattr(holder, name, variable)


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
    groups = []
    for settings, targets in select(model, schedule, options, include, exclude, report):
        group = Group(settings)
        group.create(targets)
        groups.append(group)
    return groups


def select(
    model: Any,
    schedule: Any,
    options: dict[str, Any],
    include: scope.ScopeLike,
    exclude: scope.ScopeLike,
    report: CompressionReport,
) -> list[tuple[PruningSettings, list[Target]]]:
    """What `choose` makes groups of: kernels and their settings, without new variables."""
    layers = registry.walk(model)
    held = transforms_of(model, PruningMask)
    shared = transforms_of(model, Centroids)
    by_schedule = _schedules(schedule, options, layers)
    included = scope.resolve(include, layers, "include")
    excluded = scope.resolve(exclude, layers, "exclude")
    named = include is not None
    by_name = set(included)
    if isinstance(schedule, dict):
        # A glob such as "conv_*" sets the schedule of what is pruned; it does not ask for what is
        # left alone by default, as depthwise layers. A name or a class does.
        for part, (_, ids) in zip(schedule, by_schedule, strict=True):
            if ids is not None and not (isinstance(part, str) and set(part) & set("*?[")):
                by_name |= ids
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
        reason = reason or why_left(layer, id(layer) in by_name, excluded)
        if named and id(layer) not in included:
            reason = "not included"
        if reason:
            report.add(path, kind, "left", reason)
            continue
        settings = by_schedule[index][0]
        assert settings is not None
        fresh, refused = [], []
        for variable in kernels:
            axes = registry.axes(layer, variable)
            mask = held.get(id(variable))
            target = Target(path, variable, axes, wrapped=mask, shared=id(variable) in shared)
            refusal = _refusal(layer, target, settings, id(layer) in by_name)
            if refusal:
                refused.append(f"{variable.name}: {refusal}" if len(kernels) > 1 else refusal)
            if not refusal and id(variable) not in seen:
                seen.add(id(variable))
                fresh.append(target)
        reason = "; ".join(refused)
        report.add(path, kind, "pruned" if fresh or not reason else "left", reason)
        chosen[index] += fresh
    _check_any(model, chosen, include, layers, report)
    return [
        (settings, targets)
        for (settings, _), targets in zip(by_schedule, chosen, strict=True)
        if settings is not None and targets
    ]


def from_wrappers(model: Any, report: CompressionReport) -> list[Group]:
    """The groups that `tfc.prune` has made, with the settings and variables they were made with.

    Raises:
        ConfigError: the model has no layer that it wrapped.
    """
    held = transforms_of(model, PruningMask)
    if not held:
        raise ConfigError(
            f"`schedule` must be given for the model {model.name!r}: no layer of it was wrapped by "
            "tfc.prune, whose schedule could be taken. Received: schedule=None"
        )
    members: dict[str, list[Target]] = {}
    for path, layer in registry.walk(model):
        kind = type(layer).__name__
        kernels = registry.kernels(layer)
        own = [variable for variable in kernels if id(variable) in held]
        for variable in own:
            mask = held.pop(id(variable))
            target = Target(path, variable, registry.axes(layer, variable), wrapped=mask)
            members.setdefault(mask.identity, []).append(target)
        if own:
            report.add(path, kind, "pruned")
        elif kernels:
            report.add(path, kind, "left", "not wrapped by tfc.prune")
    if held:
        raise ConfigError(
            f"The model {model.name!r} has {len(held)} pruned kernels in layers of classes that "
            "tfcompress was not told of. Call tfc.register_layer for them, as when tfc.prune was "
            "called."
        )
    groups = []
    for targets in members.values():
        assert targets[0].wrapped is not None
        group = Group(targets[0].wrapped.settings)
        group.adopt(targets)
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


def _refusal(layer: Any, target: Target, settings: PruningSettings, named: bool) -> str:
    variable = target.variable
    reason = why_kernel_left(layer, variable, named, "fill the zeros")
    if reason:
        return reason
    if target.shared:
        return "its weights are shared: prune a model before tfc.cluster"
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
