"""The pruning engine: computes masks by a schedule and holds the zeros through every update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import registry, scope
from tfcompress.errors import ConfigError, DataError, ModelTypeError, ScopeError
from tfcompress.keras3 import check_keras3
from tfcompress.pruning.masks import lowest_mask, zeros_for
from tfcompress.report import CompressionReport
from tfcompress.schedules import as_schedule


@dataclass
class _Target:
    path: str
    variable: Any
    mask: Any
    own_constraint: Any


class _Masked(keras.constraints.Constraint):
    """A variable's constraint: the user's own first, then the mask."""

    def __init__(self, mask: Any, inner: Callable[[Any], Any] | None) -> None:
        self.mask = mask
        self.inner = inner

    def __call__(self, value: Any) -> Any:
        if self.inner is not None:
            value = self.inner(value)
        return value * keras.ops.cast(self.mask, value.dtype)


class Pruner:
    """Prunes a model's kernels by magnitude, layer by layer, for any training loop.

    The masks are constraints of the variables, which the optimizer applies inside its update:
    they hold between two calls, within `steps_per_execution` and under XLA.

    Args:
        model: a built Keras 3 model; its weights are changed in place, as training does.
        schedule: a schedule such as `PolynomialDecay`, or a function `step -> sparsity`.
        include: layers to prune (names, globs, classes, functions, or a list); None for every
            layer with a kernel except depthwise ones.
        exclude: layers to leave alone.

    Attributes:
        report: what is pruned and what is left, with reasons.
        held: whether the masks are in the optimizer's update now.

    Raises:
        ModelTypeError: no built Keras 3 model.
        ScopeError: a pattern matches nothing.
        ConfigError: no layer of the model can be pruned.

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
        schedule: Any,
        *,
        include: scope.ScopeLike = None,
        exclude: scope.ScopeLike = None,
    ) -> None:
        check_keras3(model)
        if not model.built:
            raise ModelTypeError(
                f"The model {model.name!r} is not built, so it has no weights to prune. Call it "
                "on data once, or build it, before training with pruning."
            )
        self.model = model
        self.schedule = as_schedule(schedule)
        self.report = CompressionReport("prune", {"schedule": repr(self.schedule)})
        self._targets = self._choose(include, exclude)
        self._last: int | None = None
        self.held = False
        self.hold()

    def _choose(self, include: scope.ScopeLike, exclude: scope.ScopeLike) -> list[_Target]:
        layers = registry.walk(self.model)
        included = scope.resolve(include, layers, "include")
        excluded = scope.resolve(exclude, layers, "exclude")
        targets: list[_Target] = []
        seen: set[int] = set()
        for path, layer in layers:
            kernels = registry.kernels(layer)
            if not kernels:
                if layer.weights and not layer._layers:
                    self.report.add(path, type(layer).__name__, "left", "it has no kernel")
                continue
            reason = self._why_left(layer, bool(include is not None), included, excluded)
            if reason:
                self.report.add(path, type(layer).__name__, "left", reason)
                continue
            self.report.add(path, type(layer).__name__, "pruned")
            for variable in kernels:
                if id(variable) not in seen:
                    seen.add(id(variable))
                    mask = keras.Variable(
                        np.ones(variable.shape, "float32"), trainable=False, name="pruning_mask"
                    )
                    targets.append(_Target(path, variable, mask, None))
        if not targets and include is not None:
            raise ScopeError(
                "`include` must match at least one layer with a kernel. The layers that have one: "
                f"{[path for path, layer in layers if registry.kernels(layer)]}"
            )
        if not targets:
            raise ConfigError(
                f"The model {self.model.name!r} has no layer to prune:\n{self.report}\n"
                "Name layers in `include`, or tell tfcompress of your own layer classes with "
                "tfc.register_layer."
            )
        return targets

    @staticmethod
    def _why_left(layer: Any, named: bool, included: set[int], excluded: set[int]) -> str:
        if id(layer) in excluded:
            return "excluded"
        if named:
            return "" if id(layer) in included else "not included"
        row = registry.lookup(layer)
        if row is not None and not row.default:
            return row.reason
        return "" if layer.trainable else "not trainable"

    def hold(self) -> None:
        """Makes the optimizer keep the masked weights at zero."""
        if not self.held:
            for target in self._targets:
                own = target.variable.constraint
                if isinstance(own, _Masked):  # left behind by a `fit` that was interrupted
                    own = own.inner
                target.own_constraint = own
                target.variable.constraint = _Masked(target.mask, target.own_constraint)
            self.held = True

    def release(self) -> None:
        """Gives the variables their own constraints back."""
        if self.held:
            for target in self._targets:
                target.variable.constraint = target.own_constraint
            self.held = False

    def step(self, step: Any) -> bool:
        """Updates the masks if the schedule says so.

        Args:
            step: optimizer updates done so far (`optimizer.iterations`).

        Returns:
            Whether masks were computed anew.
        """
        now = int(step)
        if not self.schedule.due(now, self._last):
            return False
        self._last = now
        sparsity = self.schedule(now)
        for target in self._targets:
            weights = keras.ops.convert_to_numpy(target.variable)
            scores = np.abs(weights.astype(np.float32))
            if not np.isfinite(scores).all():
                raise DataError(
                    f"Weights must be finite to be pruned. Received: NaN or infinite values in "
                    f"{target.variable.path!r}. Training has diverged: lower the learning rate."
                )
            mask = lowest_mask(scores, zeros_for(sparsity, weights.size))
            target.mask.assign(mask.astype("float32"))
        self.apply()
        return True

    def apply(self) -> None:
        """Sets the masked weights to zero now."""
        for target in self._targets:
            weights = keras.ops.convert_to_numpy(target.variable)
            mask = keras.ops.convert_to_numpy(target.mask).astype(bool)
            target.variable.assign(np.where(mask, weights, np.zeros((), weights.dtype)))

    def finish(self) -> None:
        """Ends pruning: zeros are in the weights, constraints are the user's own again."""
        self.apply()
        self.release()
        measured = sparsity(self.model)
        for entry in self.report.changed:
            entry.details["sparsity"] = measured[entry.name]
        self.report.settings["sparsity"] = self.sparsity

    @property
    def sparsity(self) -> float:
        """Share of zeros in the pruned kernels together."""
        zeros = size = 0
        for target in self._targets:
            weights = keras.ops.convert_to_numpy(target.variable)
            zeros += int((weights == 0).sum())
            size += weights.size
        return zeros / size


def sparsity(model: keras.Model) -> dict[str, float]:
    """Share of zeros in the kernels of each layer.

    Args:
        model: a built Keras 3 model.

    Returns:
        Layer path (its name, for a layer that is not nested) to the share of zeros in its
        kernels, 0 to 1; and `"total"`, over all kernels.

    Raises:
        ModelTypeError: no Keras 3 model.

    Example:
        >>> tfc.sparsity(model)["total"]
        0.8
    """
    check_keras3(model)
    result: dict[str, float] = {}
    zeros = size = 0
    for path, layer in registry.walk(model):
        kernels = [keras.ops.convert_to_numpy(kernel) for kernel in registry.kernels(layer)]
        if kernels:
            own = sum(int((kernel == 0).sum()) for kernel in kernels)
            count = sum(kernel.size for kernel in kernels)
            result[path] = own / count
            zeros, size = zeros + own, size + count
    result["total"] = zeros / size if size else 0.0
    return result
