"""`Resume`, the callback."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import files, registry
from tfcompress.errors import ConfigError, DataError, ModelTypeError
from tfcompress.first_step import FirstStep
from tfcompress.keras3 import check_keras3
from tfcompress.resume import replay, saves, seeds
from tfcompress.variables import value_of

_NAME = "training.save"


def check_save_freq(save_freq: Any) -> None:
    """Checks how often a training is to be saved.

    Raises:
        ConfigError: neither `"epoch"` nor a number of batches.
    """
    number = isinstance(save_freq, int) and not isinstance(save_freq, bool)
    if not (number and int(save_freq) >= 1) and save_freq != "epoch":
        raise ConfigError(
            "`save_freq` must be 'epoch' or a number of batches of at least 1. "
            f"Received: {save_freq!r:.80}"
        )


class Resume(FirstStep):
    """Saves training as it goes on, and goes on from the last save when `fit` is called again.

    Run the same script again after a crash, a kill or a power cut: `fit` continues after the last
    saved epoch or step, with the data in the same order, and ends with the same weights, bit for
    bit, as if nothing had happened. `keras.callbacks.BackupAndRestore` starts the data's order
    anew, forgets dropout's random state and can be left with a damaged file.

    A save is one file in `directory`, written aside and renamed, so that a kill at any moment
    leaves the last complete one. It holds the model's variables with dropout's seeds, the metrics,
    every optimizer of the model, the pruning masks, the history, Python's and NumPy's random
    state and the position in the data. To find that position again, the data of the epochs before
    is read once more without training on it, where its order can depend on those epochs; arrays
    and common `tf.data` pipelines (see Limits) read one batch for each such epoch.

    Args:
        directory: where the save lies; made if it does not exist. One for each `fit`.
        save_freq: `"epoch"`, or a number of batches (with `steps_per_execution`, the next
            execution's end). A save of a few megabytes takes tens of milliseconds.
        keep: leave the save in place after `fit` has ended. Then the same script run again skips
            this `fit` and goes on with its weights: for scripts that do more than one `fit`. By
            default the save is removed when `fit` ends.

    It goes last in the list of callbacks: a save must hold what the others did at the same step.

    Raises:
        ConfigError: at the start of `fit`, a save of another model, optimizer, seed or arguments
            of `fit`; a callback behind this one; a folder that cannot be written.
        CorruptFileError: at the start of `fit`, a save that is damaged or of another version.
        DataError: at the start of `fit`, data with another number of batches than at the save.
        ModelTypeError: at the start of `fit`, a model that is not built.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> model = build_and_compile()
        >>> pruning = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.8, 0, 1000))
        >>> model.fit(x, y, epochs=20, callbacks=[pruning, tfc.Resume("run1", save_freq=500)])

    Limits:
        - Call `keras.utils.set_random_seed` before the model and the data are made, and make both
          anew before `fit` is called again: a `tf.data` pipeline that was already iterated is not
          where it was. On a GPU, `tf.config.experimental.enable_op_determinism()` as well.
        - What other callbacks remember in Python (`EarlyStopping`'s patience,
          `ReduceLROnPlateau`'s counters) starts anew. What they write into the model or the
          optimizer is kept.
        - Random numbers in a layer must come from `keras.random`; the state of `tf.random` inside
          a train step is TensorFlow's own and cannot be read.
        - Data that several threads draw random numbers for (`tf.data` with `num_parallel_calls`
          and `tf.random`, a PyDataset with `workers` > 1) is another in every run, with or
          without this callback. Use `tf.random.stateless_*`, or one thread.
        - Training data in Python that draws from the global `random` or `np.random` must be alone
          in doing so; a generator of its own (`np.random.default_rng(0)`) is always exact.
        - Earlier epochs are read in full with a Python generator, a PyDataset, `steps_per_epoch`,
          an unknown number of batches, and in `tf.data` with `cache`, `repeat`, `interleave`,
          Python functions or `tf.random.Generator`.
    """

    goes_last = True  # for models whose `fit` adds callbacks of its own

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        save_freq: str | int = "epoch",
        keep: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(directory, (str, os.PathLike)) or not os.fspath(directory):
            raise ConfigError(f"`directory` must be a path. Received: {directory!r:.80}")
        check_save_freq(save_freq)
        self.directory = Path(directory)
        self.save_freq = save_freq
        self.keep = keep
        self._path = self.directory / _NAME
        self._warned = False
        self._begin()

    def _begin(self) -> None:
        self._variables: list[saves.Tracked] = []
        self._history: dict[str, list[Any]] = {}
        self._epochs: list[int] = []
        self._epoch = 0  # the epoch that runs
        self._executions = 0  # how often the train function ran in it
        self._unsaved = 0  # batches since the last save
        self._state: dict[str, Any] = {}  # what stays the same in all saves of one `fit`
        self._resumed: saves.Save | None = None  # until the resumed epoch has begun

    def set_model(self, model: Any) -> None:
        """Keras's hook: takes the model that `fit` trains."""
        check_keras3(model)
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: goes back to where the last save was made."""
        self._begin()
        fit = self._fit()
        self._check_last(fit["callbacks"].callbacks)
        if not self.model.built:
            raise ModelTypeError(
                f"The model {self.model.name!r} must be built before `fit` to be resumed: it has "
                "no variables yet. Call it on one batch, or model.build(input_shape)."
            )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Cannot make the folder {str(self.directory)!r}: {error.strerror or error}"
            ) from error
        files.check_writable(self._path, overwrite=True)
        for rest in self.directory.glob(".tfcompress-*"):  # of a write that was killed
            rest.unlink(missing_ok=True)

        data = fit["epoch_iterator"]
        self._state = {
            "initial_epoch": int(fit["initial_epoch"]),
            "batches": data.num_batches,
            "steps_per_epoch": data.steps_per_epoch,
            "steps_per_execution": data.steps_per_execution,
            "seed": seeds.seed(),
            "random": seeds.random_state(),
        }
        if self._path.exists():
            self._resume(saves.read(self._path), data, int(fit["epochs"]))
        elif self._state["seed"] is None and not self._warned and replay.may_shuffle(data):
            self._warned = True
            warnings.warn(
                "Resume cannot repeat the order of the data, because no seed was set. Call "
                "keras.utils.set_random_seed(0) before the model and the data are made.",
                stacklevel=2,
            )

    def _resume(self, save: saves.Save, data: Any, epochs: int) -> None:
        self._check_same(save)
        state = save.state
        epoch, executions = state["epoch"], state["executions"]
        rows = [row for row in state["variables"] if row[0] != "metrics"]
        global_seed = any(row[0] == "random" for row in rows)
        self._variables = self._track(global_seed)
        optimizer = self.model.optimizer
        if (
            optimizer is not None
            and not optimizer.built
            and saves.differences(rows, self._variables)
        ):
            # Keras does it in the first step (a custom train step perhaps never).
            optimizer.build(self.model.trainable_variables)
            self._variables = self._track(global_seed)
        saves.check_variables(self._path, rows, self._variables)
        if executions:
            self._build_metrics(data)
        for tracked, value in zip(self._variables, save.values, strict=False):  # metrics follow
            tracked.variable.assign(value)

        self._resumed = save
        self._state["random"] = state["random"]
        self._history, self._epochs = state["history"], state["history_epochs"]
        self._executions = executions
        self._unsaved = 0
        self._show_history()
        first = max(epoch, epochs) if state["stopped"] else epoch
        if first < epochs:
            seeds.set_random_state(state["random"])
            replay.replay(self._path, data, epoch - state["initial_epoch"], executions)
            # A generator that the data draws from is now where it was. One that the data does
            # not touch (a callback or a layer does) has its state in the save.
            seeds.set_random_state(state["random_now"], where=state["random"])
        self.model._initial_epoch = first  # `fit` begins with it; on_epoch_begin takes it back

    def _check_same(self, save: saves.Save) -> None:
        state = save.state
        advice = f"or delete {str(self._path)!r} to start anew."
        if state["seed"] != self._state["seed"]:
            raise ConfigError(
                f"Training must be resumed with the seed it began with, {state['seed']}. Received: "
                f"{self._state['seed']}. Call keras.utils.set_random_seed({state['seed']}) before "
                f"the model and the data are made, {advice}"
            )
        for name in ("initial_epoch", "steps_per_epoch", "steps_per_execution"):
            if state[name] != self._state[name]:
                raise ConfigError(
                    f"Training must be resumed with {name}={state[name]}, as it began. Received: "
                    f"{self._state[name]}. Change it back, {advice}"
                )
        if state["batches"] != self._state["batches"]:
            raise DataError(
                f"Training must be resumed with the data it began with, {state['batches']} "
                f"batches in each epoch. Received: {self._state['batches']}. Pass the same data "
                f"and batch_size, {advice}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: notes the epoch, and completes the return to the last save."""
        self._epoch = epoch
        if self._resumed is None:
            self._executions = 0
            return
        save, self._resumed = self._resumed, None
        self.model._initial_epoch = None
        self._show_history()
        if save.state["executions"]:
            # `fit` has reset the metrics by now. If the save was made after the epoch's last
            # batch, no batch follows and these are the epoch's logs.
            rows = [row for row in save.state["variables"] if row[0] == "metrics"]
            metrics = self._metrics()
            if saves.differences(rows, metrics):
                warnings.warn(
                    f"The metrics of epoch {epoch} cover only the batches after the resume, "
                    "because they are made in the train step. The weights are exact.",
                    stacklevel=2,
                )
                return
            for tracked, value in zip(metrics, save.values[-len(metrics) :], strict=True):
                tracked.variable.assign(value)
            self._fit()["logs"].update(save.state["logs"])

    def _build_metrics(self, data: Any) -> None:
        """Makes the metrics' variables, which Keras does in its first step otherwise."""
        # Where it cannot be done, on_epoch_begin tells what that costs.
        with contextlib.suppress(Exception):
            self.model._symbolic_build(data_batch=data._distributed_dataset.element_spec)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: saves every `save_freq` batches."""
        # `batch` is an execution's first step in some versions of Keras and its last in others.
        self._executions += 1
        self._unsaved += self._state["steps_per_execution"]
        if self.save_freq != "epoch" and self._unsaved >= int(self.save_freq):
            self._save(self._epoch, self._executions, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: saves after the epoch, unless `save_freq` is a number."""
        recorder = self._recorder()
        if recorder is not None:  # None: the list of callbacks was made by hand, without one
            # Callbacks may write into it, as PruningCallback does. It has yet to take the logs,
            # unless it was put in front of this callback.
            self._history = {name: list(values) for name, values in recorder.history.items()}
            self._epochs = list(recorder.epoch)
            if epoch not in self._epochs:
                self._epochs.append(epoch)
                for name, value in (logs or {}).items():
                    self._history.setdefault(name, []).append(value)
        self._epoch, self._executions = epoch + 1, 0
        if self.save_freq == "epoch":
            self._save(self._epoch, 0)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras's hook: removes the save, or with `keep` saves what `fit` ended with."""
        nothing_ran = self._resumed is not None
        self._resumed = None
        self.model._initial_epoch = None
        if nothing_ran:
            self._show_history()
        if not self.keep:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files lie in it
                self.directory.rmdir()
        elif not nothing_ran:
            # By now averaged or best weights have been put in place.
            self._save(self._epoch, 0)

    def _save(self, epoch: int, executions: int, logs: dict[str, Any] | None = None) -> None:
        # The optimizers of a custom train step make their variables in the first step. At the end
        # of `fit` pruning has taken its masks off the model, and they still belong in the save.
        self._variables = self._variables or self._track(seeds.has_global_seed_generator())
        # At the end of an epoch the metrics are done: the next one resets them.
        variables = self._variables + (self._metrics() if executions else [])
        values = [np.asarray(value_of(v.variable)) for v in variables]
        state = {
            **self._state,
            "epoch": epoch,
            "executions": executions,
            "stopped": bool(self.model.stop_training),
            "logs": {name: saves.plain(value) for name, value in (logs or {}).items()},
            "history": self._history,
            "history_epochs": self._epochs,
            "random_now": seeds.random_state(),
            "variables": [
                [v.group, v.name, list(value.shape), str(value.dtype)]
                for v, value in zip(variables, values, strict=True)
            ],
        }
        files.write_bytes(self._path, saves.pack(state, values))
        self._unsaved = 0

    def _track(self, global_seed: bool) -> list[saves.Tracked]:
        """Everything that a train step changes, in an order that is the same in every process."""
        model = self.model
        tracked: dict[int, saves.Tracked] = {}

        def track(group: str, name: str, variable: Any) -> None:
            tracked.setdefault(id(variable), saves.Tracked(group, name, variable))

        for variable in model.variables:
            track("model", variable.path, variable)
        # All of them: a GAN's train step has two. Their paths, and those of what follows, depend
        # on where they were first used; their names do not.
        optimizers = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
        for optimizer in optimizers:
            for variable in optimizer.variables:
                track("optimizer", f"{type(optimizer).__name__}/{variable.name}", variable)
        pruning = getattr(registry.student_of(model), "_pruning_state", None)
        for variable in pruning.variables if pruning is not None else []:
            track("pruning", variable.name, variable)
        if global_seed:
            track("random", "global_seed_generator", seeds.global_seed_generator().state)
        return list(tracked.values())

    def _metrics(self) -> list[saves.Tracked]:
        return [saves.Tracked("metrics", v.name, v) for v in self.model.metrics_variables]

    def _fit(self) -> dict[str, Any]:
        """The local variables of the running `Model.fit`.

        Keras hands its callbacks neither the data nor each other. Running its own iterator over
        the data again is the only way to repeat exactly what it did with every kind of data.
        """
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "fit":
                found = frame.f_locals
                needed = ("callbacks", "epoch_iterator", "epochs", "initial_epoch")
                if found.get("self") is self.model and all(name in found for name in needed):
                    return found
            frame = frame.f_back  # type: ignore[assignment]
        raise ModelTypeError(
            "Resume needs the `fit` of Keras 3 on TensorFlow, to go on at a position in the data. "
            f"{type(self.model).__name__}.fit of Keras {keras.__version__} "
            f"({keras.backend.backend()}) is another."
        )

    def _check_last(self, callbacks: list[Any]) -> None:
        own = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
        behind = [c for c in callbacks[callbacks.index(self) + 1 :] if not isinstance(c, own)]
        if behind:
            raise ConfigError(
                "Resume must be the last callback, so that a save holds what the others did at "
                f"the same step. Received behind it: {[type(c).__name__ for c in behind]}. Move "
                "it to the end of the list."
            )

    def _recorder(self) -> keras.callbacks.History | None:
        callbacks = self._fit()["callbacks"].callbacks
        return next((c for c in callbacks if isinstance(c, keras.callbacks.History)), None)

    def _show_history(self) -> None:
        recorder = self._recorder()
        if recorder is not None:
            recorder.history = {name: list(values) for name, values in self._history.items()}
            recorder.epoch = list(self._epochs)
