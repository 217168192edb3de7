"""`PruningCallback`: pruning as one line in `model.fit`."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from tfcompress.keras3 import check_keras3
from tfcompress.pruning.pruner import Pruner
from tfcompress.report import CompressionReport
from tfcompress.schedules import as_schedule
from tfcompress.scope import ScopeLike


class PruningCallback(keras.callbacks.Callback):
    """Prunes a model's kernels by magnitude while it trains.

    After `fit` the zeros are in the model's own weights: nothing to strip. The target sparsity is
    exact in every layer from the schedule's end step on, and is kept to the end of `fit`.

    Args:
        schedule: a schedule such as `PolynomialDecay`, or a function `step -> sparsity`. Steps
            are updates of the optimizer, so they count on over several calls of `fit`.
        include: layers to prune (names, globs, classes, functions, or a list); None for every
            layer with a kernel except depthwise ones.
        exclude: layers to leave alone.

    Callbacks that put other weights back at the end of `fit`, such as
    `EarlyStopping(restore_best_weights=True)`, go before it in the list: it then masks those too.
    A `fit` that ends in an exception leaves the masks in place: call `finish()`, or `fit` again
    with a PruningCallback.

    Attributes:
        report: after `fit`, what was pruned and what was left, with reasons.

    Raises:
        ConfigError: a schedule that is none; at the start of `fit`, a model without a layer to
            prune.
        ScopeError: at the start of `fit`, a pattern that matches no layer.

    Example:
        >>> steps = epochs * math.ceil(len(x) / batch_size)
        >>> schedule = tfc.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=steps // 2)
        >>> model.fit(x, y, epochs=epochs, callbacks=[tfc.PruningCallback(schedule)])

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878).
    """

    def __init__(
        self, schedule: Any, *, include: ScopeLike = None, exclude: ScopeLike = None
    ) -> None:
        super().__init__()
        self.schedule = as_schedule(schedule)
        self._scope = {"include": include, "exclude": exclude}
        self._pruner: Pruner | None = None

    @property
    def report(self) -> CompressionReport | None:
        """What was pruned and what was left; None before the first `fit`."""
        return self._pruner.report if self._pruner else None

    def set_model(self, model: Any) -> None:
        """Keras's hook: takes the model that `fit` trains."""
        check_keras3(model)
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: puts the masks into the optimizer's update."""
        # `fit` builds a deferred model in its first batch: then we begin after that batch.
        if self.model.built:
            self._begin()

    def _begin(self) -> None:
        if self._pruner is None or self._pruner.model is not self.model:
            self._pruner = Pruner(self.model, self.schedule, **self._scope)
        self._pruner.hold()
        # A train function traced before would go on without the constraints, silently.
        self.model.make_train_function(force=True)
        self._step()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: updates the masks when the schedule says so."""
        if self._pruner is None or not self._pruner.held:
            self._begin()
        else:
            self._step()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: adds `sparsity` to the logs."""
        if logs is not None and self._pruner is not None:
            logs["sparsity"] = self._pruner.sparsity

    def finish(self) -> None:
        """Leaves the zeros in the weights and everything else as it was before `fit`."""
        if self._pruner is not None:
            self._pruner.finish()
            self.model.train_function = None

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: ends pruning, and warns if training was too short for the schedule."""
        if self._pruner is None:
            return
        self.finish()
        steps, end = int(self.model.optimizer.iterations), self.schedule.end_step
        if end > steps:
            warnings.warn(
                f"Training ended at step {steps}, before the pruning schedule's end_step {end}: "
                f"the pruned layers are {self._pruner.sparsity:.1%} sparse instead of "
                f"{self.schedule(end):.1%}. Train longer, or set end_step to {steps} or less.",
                stacklevel=2,
            )

    def _step(self) -> None:
        assert self._pruner is not None
        self._pruner.step(self.model.optimizer.iterations)
