"""`PruningCallback`: pruning as one line in `model.fit`."""

from __future__ import annotations

import os
import warnings
from typing import Any

from tfcompress import registry
from tfcompress.first_step import FirstStep
from tfcompress.keras3 import check_keras3
from tfcompress.pruning.pruner import Pruner, check_nothing_given
from tfcompress.pruning.settings import PruningSettings
from tfcompress.pruning.tensorboard import SparsityWriter
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike
from tfcompress.variables import value_of


class PruningCallback(FirstStep):
    """Prunes a model's kernels while it trains.

    After `fit` the zeros are in the model's own weights: nothing to strip. The target sparsity is
    met to the weight from the schedule's end step on, and is kept to the end of `fit`.

    Works on any Keras 3 model, under `tf.distribute` strategies, mixed precision, XLA,
    `steps_per_execution` and gradient accumulation. The masks are part of what `ModelCheckpoint`
    and `BackupAndRestore` save, so a training goes on from there as if it had not stopped.

    Args:
        schedule: a schedule such as `PolynomialDecay`, a function `step -> sparsity`, or a dict
            scope -> schedule or None, such as `{"conv_*": PolynomialDecay(...), "head": None}`,
            whose first matching entry counts for a layer. Steps are updates of the optimizer, so
            they count on over several calls of `fit`. None for a model that `tfc.prune` made:
            then all of this is as it was told there.
        pattern: `"unstructured"`; `"block:RxC"`, blocks of R inputs by C outputs, their scores
            pooled by the mean (`"block:RxC:max"` by the maximum); or `"N:M"` such as `"2:4"`, at
            most N of M neighbouring inputs kept, in the layout that TFLite stores.
        criterion: which weights go first: `"magnitude"`, `"taylor"` (|weight x gradient|, mean
            over the steps since the last update), `"snip"` (the same, once, at the start),
            `"movement"` (what training moves towards zero), or a function (weights, gradients)
            -> scores of NumPy arrays, lowest first.
        pooling: how zeros are shared out: `"layer"`, the same sparsity in each layer; `"global"`,
            the lowest LAMP scores of the whole model, which keeps most accuracy; `"global-raw"`,
            the lowest scores as they are; `"erk"`, by the Erdos-Renyi-kernel rule.
        floor: smallest sparsity of a layer under global pooling and "erk".
        cap: largest one.
        include: layers to prune (names, globs, classes, functions, layers, or a list); None for
            every layer with a kernel except depthwise ones.
        exclude: layers to leave alone.
        log_dir: folder for TensorBoard: sparsity in total and of each layer.

    `fit`'s logs get `sparsity`, its history also `sparsity/<layer>`.

    Callbacks that put other weights back at the end of `fit`, such as
    `EarlyStopping(restore_best_weights=True)`, go before it in the list: it then masks those too.
    A `fit` that ends in an exception leaves the masks in place: call `finish()`, or `fit` again
    with a PruningCallback.

    Attributes:
        report: after `fit`, what was pruned and what was left, with reasons.

    Raises:
        ConfigError: an argument that cannot be; at the start of `fit`, a model without a layer to
            prune.
        ScopeError: at the start of `fit`, a pattern that matches no layer.

    Example:
        >>> steps = epochs * math.ceil(len(x) / batch_size)
        >>> schedule = tfc.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=steps // 2)
        >>> pruning = tfc.PruningCallback(schedule, pooling="global")
        >>> model.fit(x, y, epochs=epochs, callbacks=[pruning])

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878).
    """

    def __init__(
        self,
        schedule: Any = None,
        *,
        pattern: Any = "unstructured",
        criterion: Any = "magnitude",
        pooling: str = "layer",
        floor: float = 0.0,
        cap: float = 1.0,
        include: ScopeLike = None,
        exclude: ScopeLike = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self._options: dict[str, Any] = {
            "pattern": pattern,
            "criterion": criterion,
            "pooling": pooling,
            "floor": floor,
            "cap": cap,
        }
        # Wrong arguments are told here, not in the middle of a script at `fit`.
        if schedule is None:
            check_nothing_given(**self._options, include=include, exclude=exclude)
            schedule = {}
        for own in schedule.values() if isinstance(schedule, dict) else [schedule]:
            if own is not None or not isinstance(schedule, dict):
                PruningSettings(own, **self._options)
        self._scope: dict[str, Any] = {"include": include, "exclude": exclude}
        self._writer = SparsityWriter(log_dir) if log_dir is not None else None
        self._pruner: Pruner | None = None
        self._points: list[tuple[int, float]] = []
        self._batches = self._first = 0

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which begin anew: no model, masks or files go with them."""
        fresh: dict[str, Any] = {"_pruner": None, "_points": [], "_model": None, "params": None}
        return {**vars(self), **fresh}

    @property
    def report(self) -> CompressionReport | None:
        """What was pruned and what was left; None before the first `fit`."""
        return self._pruner.report if self._pruner else None

    def set_model(self, model: Any) -> None:
        """Keras's hook: takes the model that `fit` trains."""
        check_keras3(model)
        super().set_model(model)
        # Before any callback's on_train_begin, which may load a checkpoint with the masks in it.
        if model.built and model.optimizer is not None:
            self._hold()

    def _hold(self) -> None:
        inside = registry.student_of(self.model)
        if self._pruner is None or self._pruner.model is not inside:
            given = {**self._options, **self._scope}
            self._pruner = Pruner(inside, self.schedule, **given, optimizer=self.model.optimizer)
        self._pruner.hold()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: puts the masks into the optimizer's update."""
        # `fit` builds a deferred model in its first batch: then we begin after that batch.
        if self.model.built:
            self._begin()

    def _begin(self) -> None:
        if self._pruner is None or not self._pruner.held:
            self._hold()
        self._batches, self._first = 0, int(value_of(self.model.optimizer.iterations))
        # A train function traced before would go on without the constraints, silently.
        self.model.make_train_function(force=True)
        self._step()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: updates the masks when the schedule says so."""
        if self._pruner is None or not self._pruner.held:
            self._begin()
        else:
            self._batches += 1
            self._step()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: adds `sparsity` to the logs, and that of each layer to the history."""
        if self._pruner is None:
            return
        if logs is not None:
            logs["sparsity"] = self._pruner.sparsity
        # Not into the logs: the progress bar would print a line as long as the model.
        history = getattr(getattr(self.model, "history", None), "history", None)
        if isinstance(history, dict):
            for path, share in self._pruner.layer_sparsity.items():
                history.setdefault(f"sparsity/{path}", []).append(share)
        self._log()

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
        self._log()
        steps, end = int(value_of(self.model.optimizer.iterations)), self._pruner.end_step
        if self._batches == 0:
            return  # nothing was trained, or one batch that built the model
        begin = self._pruner.begin_step
        if steps == self._first and not self.model.optimizer.gradient_accumulation_steps:
            warnings.warn(
                "The optimizer made no update, although batches were trained, so the pruning "
                "schedule, which counts its updates, did not go on. In a train_step of your own "
                "call optimizer.apply_gradients, or step tfc.Pruner by a count of your own.",
                stacklevel=2,
            )
        elif begin > steps:
            warnings.warn(
                f"Training ended at step {steps}, before the pruning schedule's begin_step "
                f"{begin}: nothing was pruned. Train longer, or begin earlier.",
                stacklevel=2,
            )
        elif end > steps:
            final = self._pruner.final_sparsity
            wanted = "the final sparsity" if final is None else f"{final:.1%}"
            warnings.warn(
                f"Training ended at step {steps}, before the pruning schedule's end_step {end}: "
                f"the pruned layers are {self._pruner.sparsity:.1%} sparse instead of {wanted}. "
                f"Train longer, or set end_step to {steps} or less.",
                stacklevel=2,
            )

    def _step(self) -> None:
        assert self._pruner is not None
        if self._pruner.step(self.model.optimizer.iterations):
            step = int(value_of(self.model.optimizer.iterations))
            self._points.append((step, self._pruner.sparsity))
            self._log()

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the schedule and what was measured at each update of the masks.

        Args:
            path: where to write the figure; None to only return it.

        Returns:
            The matplotlib figure.
        """
        from tfcompress.plots import plot_schedule

        measured = {"pruned layers together": self._points} if self._points else None
        last = self._points[-1][0] if self._points else 0
        end = self._pruner.end_step if self._pruner is not None else -1
        return plot_schedule(self.schedule, path, measured=measured, steps=max(last, end) or None)

    def _log(self) -> None:
        if self._writer is not None and self._pruner is not None:
            self._writer.write(
                int(value_of(self.model.optimizer.iterations)),
                self._pruner.sparsity,
                self._pruner.layer_sparsity,
            )
