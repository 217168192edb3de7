"""The pruning engine: computes masks by a schedule and holds the zeros through every update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress import scope
from tfcompress.errors import ConfigError, DataError
from tfcompress.keras3 import check_built
from tfcompress.pruning.criteria import Evidence
from tfcompress.pruning.masks import lowest_mask
from tfcompress.pruning.patterns import from_matrix, to_matrix
from tfcompress.pruning.pooling import POOLINGS
from tfcompress.pruning.regrowth import moved
from tfcompress.pruning.state import PruningState
from tfcompress.pruning.targets import Group, Target, choose, from_wrappers
from tfcompress.pruning.watcher import UpdateWatcher, masked
from tfcompress.report import CompressionReport
from tfcompress.variables import value_of


class _Masked(keras.constraints.Constraint):
    """A variable's constraint: the user's own first, then the mask."""

    transient = True  # not for a copy of the model

    def __init__(self, mask: Any, inner: Callable[[Any], Any] | None) -> None:
        self.mask = mask
        self.inner = inner

    def __call__(self, value: Any) -> Any:
        if self.inner is not None:
            value = self.inner(value)
        return masked(value, self.mask)


class Pruner:
    """Prunes a model's kernels while it trains, for any training loop.

    The masks are constraints of the variables, which the optimizer applies inside its update:
    they hold between two calls, within `steps_per_execution`, under XLA and in every replica of a
    `tf.distribute` strategy. Make the Pruner before the training step is traced (`tf.function`).

    Args:
        model: a built Keras 3 model; its weights are changed in place, as training does.
        schedule: a schedule such as `PolynomialDecay`, a function `step -> sparsity`, or a dict
            scope -> schedule or None, such as `{"conv_*": PolynomialDecay(...), "head": None}`,
            whose first matching entry counts for a layer. None for a model that `tfc.prune` made:
            then all of this is as it was told there.
        pattern: `"unstructured"`; `"block:RxC"`, blocks of R inputs by C outputs, their scores
            pooled by the mean (`"block:RxC:max"` by the maximum); or `"N:M"`, at most N of M
            neighbouring inputs kept, in the layout that TFLite stores.
        criterion: which weights go first: `"magnitude"`, `"taylor"` (|weight x gradient|, mean
            over the steps since the last update), `"snip"` (the same, once, at the start),
            `"movement"` (what training moves towards zero), or a function (weights, gradients)
            -> scores of NumPy arrays, lowest first.
        pooling: `"layer"`, the same sparsity in each; `"global"`, the lowest LAMP scores of the
            whole model; `"global-raw"`, the lowest scores as they are; `"erk"`, by the
            Erdos-Renyi-kernel rule.
        floor: smallest sparsity of a layer under global pooling and "erk".
        cap: largest one.
        include: layers to prune (names, globs, classes, functions, layers, or a list); None for
            every layer with a kernel except depthwise ones.
        exclude: layers to leave alone.
        optimizer: the optimizer that trains the model, where it is not `model.optimizer`; needed
            for criteria that look at gradients.

    Attributes:
        report: what is pruned and what is left, with reasons.
        held: whether the masks are in the optimizer's update now.

    Raises:
        ModelTypeError: no built Keras 3 model.
        ScopeError: a pattern matches nothing.
        ConfigError: an argument that cannot be; no layer of the model can be pruned.

    Example:
        >>> pruner = tfc.Pruner(model, tfc.PolynomialDecay(0.0, 0.8, 0, 1000))
        >>> for x, y in batches:
        ...     train_step(x, y)
        ...     pruner.step(optimizer.iterations)
        >>> pruner.finish()

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878).
    """

    def __init__(
        self,
        model: keras.Model,
        schedule: Any = None,
        *,
        pattern: Any = "unstructured",
        criterion: Any = "magnitude",
        pooling: str = "layer",
        floor: float = 0.0,
        cap: float = 1.0,
        include: scope.ScopeLike = None,
        exclude: scope.ScopeLike = None,
        optimizer: Any = None,
    ) -> None:
        check_built(model, "pruning")
        self.model = model
        self.report = CompressionReport("prune")
        options = {
            "pattern": pattern,
            "criterion": criterion,
            "pooling": pooling,
            "floor": floor,
            "cap": cap,
        }
        # Variables made here follow the model's own onto every replica.
        with model.distribute_strategy.scope():
            if schedule is None:
                check_nothing_given(**options, include=include, exclude=exclude)
                self.groups = from_wrappers(model, self.report)
            else:
                self.groups = choose(model, schedule, options, include, exclude, self.report)
        self.report.settings.update(_described(self.groups))
        self._targets = [target for group in self.groups for target in group.targets]
        self._state = PruningState([v for group in self.groups for v in group.variables])
        self._optimizer = optimizer
        self._watcher: UpdateWatcher | None = None
        self._warned = False
        self.held = False
        self.hold()

    @property
    def begin_step(self) -> int:
        """The first step at which there may be masks."""
        return min(group.settings.schedule.begin_step for group in self.groups)

    @property
    def end_step(self) -> int:
        """The step from which on nothing changes; -1 if there is none."""
        ends = [group.settings.schedule.end_step for group in self.groups]
        return -1 if -1 in ends else max(ends)

    def hold(self) -> None:
        """Makes the optimizer keep the masked weights at zero."""
        if self.held and not self._lost():
            return
        self._watch()
        for target in self._targets:
            own = target.variable.constraint
            if isinstance(own, _Masked):  # left behind by a `fit` that was interrupted
                own = own.inner
            target.own_constraint = own
            target.variable.constraint = _Masked(target.mask, target.own_constraint)
            if target.wrapped is not None:
                target.wrapped.driven = True
        self._state.attach(self.model)
        self.held = True

    def _lost(self) -> list[str]:
        """Paths of the layers whose masks have been taken out of the update by someone else."""
        paths = [
            target.path
            for target in self._targets
            if getattr(target.variable.constraint, "mask", None) is not target.mask
        ]
        return list(dict.fromkeys(paths))

    def _watch(self) -> None:
        if self._watcher is not None:
            self._watcher.detach()
        optimizer = self._optimizer or getattr(self.model, "optimizer", None)
        if optimizer is None and any(group.settings.watches for group in self.groups):
            raise ConfigError(
                "The optimizer must be known for criteria that look at gradients, and the model is "
                "not compiled. Compile it, or pass `optimizer=` to Pruner."
            )
        if optimizer is not None and hasattr(optimizer, "use_ema"):
            self._watcher = UpdateWatcher(optimizer, self.groups)
            self._watcher.attach()

    def release(self) -> None:
        """Gives the variables their own constraints back."""
        if not self.held:
            return
        for target in self._targets:
            if getattr(target.variable.constraint, "mask", None) is target.mask:
                target.variable.constraint = target.own_constraint
            if target.wrapped is not None:
                target.wrapped.driven = False
        if self._watcher is not None:
            self._watcher.detach()
        self._state.detach(self.model)
        self.held = False

    def step(self, step: Any) -> bool:
        """Updates the masks if the schedule says so.

        Args:
            step: optimizer updates done so far (`optimizer.iterations`).

        Returns:
            Whether masks were computed anew.
        """
        now = int(value_of(step))
        changed = False
        for group in self.groups:
            last = int(value_of(group.last))
            if group.settings.schedule.due(now, None if last < 0 else last):
                changed = self._update(group, now, last) or changed
        if changed:
            self.apply()
        return changed

    def _update(self, group: Group, now: int, last: int) -> bool:
        lost = self._lost() if self.held else []
        if lost:
            raise ConfigError(
                "A layer can be pruned by one PruningCallback or Pruner at a time. Received: "
                f"another one for {lost}. Give each its own layers by include and exclude, or "
                "write one with a dict of schedules."
            )
        seen = 1.0
        if group.settings.watches:
            seen = float(value_of(group.seen))
            first = last < 0 and not group.settings.criterion.watches
            if seen == 0.0 and not first:
                return False  # no gradient yet: at the next step, then
            # Every replica counts, and the gradients of all add up to that of the mean loss.
            seen = max(1.0, seen) / self.model.distribute_strategy.num_replicas_in_sync
        evidence = [self._evidence(target, seen, last >= 0) for target in group.targets]
        masks = self._masks(group, evidence, now, last)
        for target, mask, known in zip(group.targets, masks, evidence, strict=True):
            self._assign(target, mask, known.weights)
        group.updated(now)
        if group.settings.watches:
            self._forget(group)
        return True

    def _evidence(self, target: Target, seen: float, masked_before: bool) -> Evidence:
        weights = value_of(target.variable).astype(np.float32)
        if not np.isfinite(weights).all():
            raise DataError(
                f"Weights must be finite to be pruned. Received: NaN or infinite values in "
                f"{target.variable.path!r}. Training has diverged: lower the learning rate."
            )
        mask = value_of(target.mask)
        if masked_before and weights[~mask].any():
            self._warn_unheld(target)
            weights = np.where(mask, weights, np.float32(0))
        gradients, products = target.gradients, target.products
        return Evidence(
            weights,
            None if gradients is None else value_of(gradients) / seen,
            None if products is None else value_of(products) / seen,
        )

    def _warn_unheld(self, target: Target) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Masked weights of {target.path!r} changed between two steps of the pruning: "
                "the training step was traced before the Pruner was made, or weights were put "
                "back from elsewhere. They are masked again; make the Pruner first.",
                stacklevel=4,
            )

    def _masks(
        self, group: Group, evidence: list[Evidence], now: int, last: int
    ) -> list[np.ndarray]:
        settings, targets = group.settings, group.targets
        sparsity = settings.sparsity(now)
        matrices = [
            to_matrix(settings.criterion.score(known), target.axes)
            for known, target in zip(evidence, targets, strict=True)
        ]
        before = [to_matrix(value_of(target.mask), target.axes) for target in targets]
        units = [
            settings.pattern.units(matrix, mask)
            for matrix, mask in zip(matrices, before, strict=True)
        ]
        if settings.regrows and last >= 0:
            kept = [
                moved(
                    own,
                    settings.pattern.pooled(to_matrix(np.abs(_gradients(known)), target.axes)),
                    settings.schedule.regrowth(now),
                )
                for own, target, known in zip(units, targets, evidence, strict=True)
            ]
        else:
            share = POOLINGS[settings.pooling]
            counts = share(
                units, [target.dims for target in targets], sparsity, settings.floor, settings.cap
            )
            kept = [
                lowest_mask(own.scores, n, own.gone) for own, n in zip(units, counts, strict=True)
            ]
        return [
            from_matrix(
                settings.pattern.expand(units_kept, matrix.shape),
                target.variable.shape,
                target.axes,
            )
            for units_kept, matrix, target in zip(kept, matrices, targets, strict=True)
        ]

    @staticmethod
    def _assign(target: Target, mask: np.ndarray, weights: np.ndarray) -> None:
        if target.aside is not None:
            before = value_of(target.mask)
            aside = value_of(target.aside)
            current = np.where(before, weights, aside)
            target.aside.assign(current)
            target.variable.assign(np.where(mask, current, np.float32(0)))
        target.mask.assign(mask)

    @staticmethod
    def _forget(group: Group) -> None:
        criterion = group.settings.criterion
        if criterion.once:
            group.open.assign(False)
        for target in group.targets:
            if target.gradients is not None:
                target.gradients.assign(np.zeros(target.variable.shape, "float32"))
            if target.products is not None and criterion.forgets:
                target.products.assign(np.zeros(target.variable.shape, "float32"))
        if criterion.forgets:
            group.seen.assign(np.zeros((), "float32"))

    def apply(self) -> None:
        """Sets the masked weights to zero now, and those of the optimizer's moving averages."""
        for target in self._targets:
            mask = value_of(target.mask)
            averages = [self._watcher.average(target.variable)] if self._watcher else []
            for variable in [target.variable, *averages]:
                if variable is not None:
                    value = value_of(variable)
                    variable.assign(np.where(mask, value, np.zeros((), value.dtype)))

    def finish(self) -> None:
        """Ends pruning: zeros are in the weights, constraints are the user's own again."""
        self.apply()
        self.release()
        measured = self.layer_sparsity
        for entry in self.report.changed:
            entry.details["sparsity"] = measured[entry.name]
        self.report.settings["sparsity"] = self.sparsity

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of zeros in the pruned kernels of each layer, by its path."""
        counts: dict[str, list[int]] = {}
        for target in self._targets:
            value = value_of(target.variable)
            zeros, size = counts.setdefault(target.path, [0, 0])
            counts[target.path] = [zeros + int((value == 0).sum()), size + value.size]
        return {path: zeros / size for path, (zeros, size) in counts.items()}

    @property
    def sparsity(self) -> float:
        """Share of zeros in the pruned kernels together."""
        zeros = size = 0
        for target in self._targets:
            value = value_of(target.variable)
            zeros += int((value == 0).sum())
            size += value.size
        return zeros / size

    @property
    def final_sparsity(self) -> float | None:
        """What the schedules end at, over the pruned kernels together; None if not known."""
        zeros = size = 0.0
        for group in self.groups:
            final = group.settings.schedule.final
            if final is None:
                return None
            own = sum(int(np.prod(t.variable.shape)) for t in group.targets)
            zeros, size = zeros + final * own, size + own
        return zeros / size


def check_nothing_given(**options: Any) -> None:
    """Checks that nothing is given beside `schedule=None`.

    Raises:
        ConfigError: something is, and would be of no effect.
    """
    given = [name for name, value in options.items() if value != _DEFAULTS.get(name)]
    if given:
        raise ConfigError(
            "With schedule=None all is as tfc.prune was told, so nothing else can be given. "
            f"Received: {', '.join(f'{name}={options[name]!r}' for name in given)}. Give it to "
            "tfc.prune, or give a schedule too."
        )


_DEFAULTS = {
    "pattern": "unstructured",
    "criterion": "magnitude",
    "pooling": "layer",
    "floor": 0.0,
    "cap": 1.0,
}


def _gradients(known: Evidence) -> np.ndarray:
    assert known.gradients is not None
    return known.gradients


def _described(groups: list[Group]) -> dict[str, Any]:
    if len(groups) == 1:
        return groups[0].settings.describe()
    shared = groups[0].settings.describe()
    shared["schedule"] = " | ".join(repr(group.settings.schedule) for group in groups)
    return shared
