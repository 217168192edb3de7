"""`Pipeline`: verbs, and training between them, as one recipe that can be killed at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError
from tfcompress.files import write_bytes
from tfcompress.pipeline import recipe
from tfcompress.pipeline.steps import Step, parse

MOST_TIMES = 1000  # the epochs of a recipe

if TYPE_CHECKING:
    from tfcompress.pipeline.run import PipelineResult


class Pipeline:
    """A recipe of steps that make a model small: each a verb, and perhaps training.

    Args:
        steps: a list. Each step is a verb's name, or a mapping of one verb to its arguments:
            `{"prune": {"sparsity": 0.8, "train": {"epochs": 3}}}`. Verbs: `shrink`, `separate`,
            `factorize`, `drop_layers`, `remove_dead`, `fold_batchnorm`, `sparse_friendly`,
            `prune`, `cluster`, `train`, `distill`, `quantize`, `convert`, `pack`; arguments are
            those of the verb of that name (`tfc.quantize_aware` for `quantize`). `train` says how
            the model is trained after it: `epochs`, `learning_rate`, `decay`, `final_rate`,
            `warmup`, `batch_size`, `optimizer`, `momentum`, `weight_decay`, `loss`,
            `label_smoothing`, `augment` and `distill`.
        seed: of everything that is drawn at random.

    Attributes:
        steps: as checked values.
        seed: as given.

    Raises:
        ConfigError: an unknown verb or argument, a value that cannot be, or an order of steps
            that cannot be; it names the step.

    Example:
        >>> pipeline = tfc.Pipeline([
        ...     {"prune": {"sparsity": 0.8, "pooling": "global", "train": {"epochs": 3}}},
        ...     {"quantize": {"train": {"epochs": 1, "learning_rate": 3e-4}}},
        ...     {"convert": {"precision": "int8"}},
        ... ])
        >>> result = pipeline.run(model, (x, y), "small")
        >>> print(result.report)
    """

    def __init__(self, steps: Iterable[Any], *, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise ConfigError(
                f"`seed` must be a whole number from 0 to 2**31 - 1. Received: {seed!r:.80}"
            )
        self.seed = seed
        self.steps: tuple[Step, ...] = parse(steps)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Pipeline:
        """The pipeline of a recipe.

        Args:
            source: path of a `.yaml` or `.json` file; or `"small"`, `"fast"` or `"balanced"`, the
                recipes that come with tfcompress.

        Returns:
            A pipeline equal to the one that was saved.

        Raises:
            ConfigError: no such recipe, or one that says what cannot be.

        Example:
            >>> tfc.Pipeline.load("balanced").scaled(0.5).run(model, (x, y), "out")
        """
        told = recipe.read(source)
        return cls(told["steps"], seed=told["seed"])

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the recipe, as JSON where the path ends in `.json`, else as YAML.

        Args:
            path: of a `.yaml`, `.yml` or `.json` file.
            overwrite: whether it may exist.

        Returns:
            The path written.

        Raises:
            ConfigError: the path exists and `overwrite` is False, has another ending, or cannot
                be written.
        """
        target = Path(path)
        if target.suffix not in (".yaml", ".yml", ".json"):
            raise ConfigError(
                f"A recipe's file must end in .yaml, .yml or .json. Received: {os.fspath(path)!r}"
            )
        text = self.text(as_json=target.suffix == ".json")
        return write_bytes(target, text.encode(), overwrite=overwrite)

    def text(self, *, as_json: bool = False) -> str:
        """The recipe as `save` writes it.

        Args:
            as_json: JSON in place of YAML.
        """
        return recipe.dump(self.seed, self.to_plain(), as_json=as_json)

    def to_plain(self) -> list[Any]:
        """The steps as plain values: names, and mappings of a name to arguments."""
        return [step.to_plain() for step in self.steps]

    def scaled(self, epochs: float) -> Pipeline:
        """The same recipe with so many times the epochs, at least 1 in each training.

        Args:
            epochs: a factor, above 0.

        Returns:
            A new pipeline.

        Raises:
            ConfigError: no positive number.
        """
        number = isinstance(epochs, (int, float)) and not isinstance(epochs, bool)
        if not number or not 0 < epochs <= MOST_TIMES:
            raise ConfigError(
                f"`epochs` must be a factor above 0, and at most {MOST_TIMES:,}. "
                f"Received: {epochs!r:.80}"
            )
        steps = self.to_plain()
        for step in steps:
            for arguments in step.values() if isinstance(step, dict) else ():
                if "train" in arguments:
                    own = arguments["train"]
                    own["epochs"] = max(1, round(own["epochs"] * epochs))
        return Pipeline(steps, seed=self.seed)

    def run(
        self,
        model: Any,
        data: Any,
        out: str | os.PathLike[str],
        *,
        validation_data: Any = None,
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        overwrite: bool = False,
        progress: bool = True,
        save_freq: str | int = "epoch",
        deterministic: bool = True,
    ) -> PipelineResult:
        """Runs the steps one after the other, or goes on where an earlier run was killed.

        Call it again with the same model, data and folder after a crash, a kill or a power cut: it
        ends with the same files, byte for byte, as if nothing had happened. A step that has failed
        may be mended in the recipe before: what came before it is kept. Each step begins from
        the file that the step before has written, with seeds of its own, whether or not it ran in
        the same process; within a step, training goes on from its last save (`tfc.Resume`).

        Args:
            model: a built Keras 3 model, which does not change; one that Keras can save and load.
            data: examples to train on: (x, y); or a mapping with x_train and y_train, and perhaps
                x_test and y_test, such as an opened `.npz`. x: an array (n, ...), or a dict or
                list of them, as the model takes them; y: an array, or for several outputs a dict
                by output name or a list.
            out: folder for what is made: the recipe, a `.keras` file of each step in `stages/`,
                the last one as `model.keras`, the files that `convert` and `pack` make,
                `report.json` and `report.html`. Made if it does not exist; it must be empty, or of
                an earlier run.
            validation_data: (x, y) that every step's model and every file is measured on; by
                default x_test and y_test, or else one fifth of the data, which is then not
                trained on.
            loss: as `compile` takes it. By default the model's own, or one that fits the outputs
                and labels; the report says which.
            metrics: likewise; by default accuracy, or the mean absolute error.
            loss_weights: as `compile` takes them.
            overwrite: remove the files of an earlier run, and start anew.
            progress: show a bar on a terminal.
            save_freq: how often trainings are saved: `"epoch"`, or a number of batches.
            deterministic: TensorFlow uses kernels that give the same bits every time. Switch it
                off where an operator has none (an error says so): on a CPU most runs end the same.

        Returns:
            The report, the last model and the paths of all files.

        Raises:
            ConfigError: the folder holds something else, or a run of another recipe, model or
                data; another process works in it; it cannot be written; a step's arguments do not
                fit the model (a scope that matches nothing, and the like).
            ModelTypeError: no built Keras 3 model, or one that Keras cannot save and load.
            DataError: data that does not fit the model.
            TrainingError: the loss is NaN or infinite.
            ConversionError, VerificationError: as `tfc.convert` raises them.
            CorruptFileError: a file of an earlier run is not what it was.

        Example:
            >>> result = tfc.Pipeline.load("small").run(model, (x, y), "out")
            >>> result.files
        """
        from tfcompress.pipeline.run import Run

        options = {"loss": loss, "metrics": metrics, "loss_weights": loss_weights}
        return Run(self, Path(out), save_freq=save_freq, deterministic=deterministic).run(
            model, data, validation_data, options, overwrite=overwrite, progress=progress
        )

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return (self.seed, self.steps) == (other.seed, other.steps)

    def __hash__(self) -> int:
        return hash(self.text())

    def __repr__(self) -> str:
        return f"Pipeline({[step.verb for step in self.steps]}, seed={self.seed})"
