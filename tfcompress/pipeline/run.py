"""A pipeline at work in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfcompress.errors import CompressError, ConfigError, DataError, in_brief
from tfcompress.files import read_bytes
from tfcompress.pipeline import archive, fitting
from tfcompress.pipeline import data as examples
from tfcompress.pipeline.actions import Acted, Work
from tfcompress.pipeline.isolated import alone
from tfcompress.pipeline.journal import STAGES, Journal, sha256, versions
from tfcompress.pipeline.locking import locked
from tfcompress.pipeline.measuring import Measuring
from tfcompress.pipeline.objective import Objective, choose
from tfcompress.pipeline.report import PipelineReport, StepRow
from tfcompress.pipeline.steps import Step, kept_before
from tfcompress.progress import Progress, shown
from tfcompress.quiet import quiet_tensorflow
from tfcompress.report import CompressionReport
from tfcompress.resume.callback import check_save_freq

if TYPE_CHECKING:
    from tfcompress.pipeline.pipeline import Pipeline

ORIGINAL = "0_original"


@dataclass
class PipelineResult:
    """What a run has made.

    Attributes:
        report: what each step did and what came out.
        out: the folder.
        files: the files that `convert` and `pack` made, in order.
    """

    report: PipelineReport
    out: Path
    files: list[Path]
    _like: Any = None

    @property
    def model(self) -> Any:
        """The last step's Keras model, plain, not compiled; loaded anew each time."""
        return archive.load(self.out / "model.keras", self._like)


class Run:
    """One run.

    Args:
        pipeline: what is run.
        out: the folder.
        save_freq: as `tfc.Resume` takes it.
        deterministic: as `Pipeline.run` takes it.
    """

    def __init__(
        self, pipeline: Pipeline, out: Path, *, save_freq: str | int, deterministic: bool
    ) -> None:
        self.pipeline, self.out = pipeline, out
        self.save_freq, self.deterministic = save_freq, deterministic
        self._journal: Journal
        self._data: examples.Data
        self._objective: Objective
        self._measuring: Measuring
        self._like: Any = None
        self._progress = Progress(None)

    def run(
        self,
        model: Any,
        data: Any,
        validation: Any,
        options: dict[str, Any],
        *,
        overwrite: bool,
        progress: bool,
    ) -> PipelineResult:
        """Runs what is not done yet."""
        from tfcompress import registry
        from tfcompress.conversion.export import check_model

        model = registry.student_of(model)
        check_model(model)
        check_save_freq(self.save_freq)
        with locked(self.out), shown(progress) as self._progress, quiet_tensorflow():
            self._progress.start("reading model and data")
            self._journal = Journal(self.out, anew=overwrite)
            self._like = model
            with alone(self.pipeline.seed, deterministic=self.deterministic):
                self._data = examples.gather(data, validation, model)
                self._objective = choose(model, self._data, **options)
                self._measuring = Measuring(self._objective, self._data, model)
                original = archive.dump(model)
                self._check_teachers()
            self._journal.begin(self._begun(archive.identity(original, model)), overwrite=overwrite)
            self._journal.tidy()
            if not self._journal.complete():
                self._run_all(original)
            self._journal.forget_training()  # of the last step, where a kill has left it
            report = PipelineReport.from_dict(json.loads((self.out / "report.json").read_text()))
        files = [self.out / row.name for row in report.files]
        return PipelineResult(report, self.out, files, self._like)

    def _begun(self, identity: str) -> dict[str, Any]:
        """What tells this run from others."""
        told = {
            "recipe": {"seed": self.pipeline.seed, "steps": self.pipeline.to_plain()},
            "model": identity,
            "data": self._data.fingerprint(),
            "objective": self._objective.identity(),
            "deterministic": self.deterministic,
            "teachers": {path: sha256(read_bytes(path)) for path in self._teachers()},
            "versions": versions(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain

    def _teachers(self) -> list[str]:
        named = [step.training.distill.teacher for step in self.pipeline.steps
                 if step.training is not None and step.training.distill is not None]  # fmt: skip
        paths = sorted({name for name in named if name != "original"})
        for path in paths:
            if not Path(path).is_file():
                raise ConfigError(
                    f"A teacher must be original, or a .keras file. Received: {path!r}"
                )
        return paths

    def _check_teachers(self) -> None:
        """Before anything trains: teachers that cannot be loaded, or teach something else."""
        from tfcompress.distillation.distill import check_teachers

        for path in self._teachers():
            teacher = archive.load(Path(path), self._like, "its teacher's .keras file")
            check_teachers(self._like, [teacher])

    def _run_all(self, original: bytes) -> None:
        steps = self.pipeline.steps
        place = 0  # the original, then the steps
        while place <= len(steps) and self._journal.intact(place):
            place += 1
        if place == 0:
            self._begin(original)
            place = 1
        for step in steps[place - 1 :]:
            self._step(step)
        self._progress.start("writing the report")
        with self._alone(len(steps) + 1):
            self._journal.finish(self._last_files())

    def _alone(self, number: int) -> Any:
        seed = (self.pipeline.seed + 1000003 * number) % 2**31
        return alone(seed, deterministic=self.deterministic)

    def _begin(self, original: bytes) -> None:
        """The original as the first stage."""
        self._progress.start("measuring the original")
        files = {f"{STAGES}/{ORIGINAL}.keras": original}
        self._journal.write(files)
        with self._alone(0):
            model = archive.load(self.out / next(iter(files)), self._like)
            try:
                rows = [self._measuring.model(ORIGINAL, 0, model)]
            except (ValueError, TypeError, tf.errors.OpError) as error:
                if isinstance(error, CompressError):
                    raise
                raise DataError(
                    f"Labels, losses and metrics must fit the model's outputs "
                    f"{self._objective.outputs.names}. Received: {self._objective.describe()}, "
                    f"with which Keras raises {type(error).__name__}: {in_brief(error)}"
                ) from error
        self._journal.add(0, files, _record(rows, None, {}))

    def _stage(self, place: int) -> Any:
        """The model after a step, from its file."""
        while True:
            for name in self._journal.steps[place]["files"]:
                if name.startswith(STAGES):
                    return archive.load(self.out / name, self._like)
            place -= 1  # a step that made files of the model of a step before

    def _step(self, step: Step) -> None:
        self._progress.start(f"{step.number}/{len(self.pipeline.steps)} {step.verb}")
        with self._alone(step.number):
            try:
                files, record = self._done(step)
            except CompressError as error:
                raise _placed(error, step) from error
            except tf.errors.UnimplementedError as error:
                if "determinis" not in str(error).lower():
                    raise
                raise ConfigError(
                    f"{step.where}: an operator of the model gives other bits each time, so the "
                    "run could not be resumed exactly. Pass deterministic=False "
                    f"(--not-deterministic) to do without. Received: {error!s:.200}"
                ) from error
        self._journal.add(step.number, files, record)
        self._journal.forget_training()

    def _done(self, step: Step) -> tuple[dict[str, bytes], dict[str, Any]]:
        kept = kept_before(self.pipeline.steps, step)
        work = Work(
            self._data,
            self._objective,
            kept,
            fitting.updates(step.training, self._data.count),
            "model",
            {name: self.out / name for done in self._journal.steps for name in done["files"]},
            (self.pipeline.seed + step.number) % 2**31,
        )
        acted: Acted = step.row.act(work, self._stage(step.number - 1), step)
        history: dict[str, list[float | None]] = {}
        if step.training is not None:
            history = self._trained(step, acted, kept)
        rows, files = [], dict(acted.files)
        if step.row.files:
            rows = [
                self._measuring.file(name, step.number, content) for name, content in files.items()
            ]
        else:
            name = f"{STAGES}/{step.name}.keras"
            files[name] = archive.dump(acted.model)
            rows.append(self._measuring.model(step.name, step.number, acted.model))
        return files, _record(rows, acted.report, history)

    def _trained(
        self, step: Step, acted: Acted, kept: tuple[str, ...]
    ) -> dict[str, list[float | None]]:
        from tfcompress.pipeline.holding import held
        from tfcompress.pipeline.teaching import taught

        assert step.training is not None
        trainee = taught(acted.model, step, self._teacher)
        with held(acted.model, kept):
            history = fitting.fit(
                trainee,
                step.training,
                self._data,
                self._objective,
                acted.callbacks,
                self._journal.training(step.name),
                self.save_freq,
                self._progress.update,
                step.where,
            )
        for callback in acted.callbacks:
            acted.report = getattr(callback, "report", None) or acted.report
        if trainee is not acted.model:
            acted.report = _with_teacher(acted.report, trainee.compression_report)
        return history

    def _teacher(self, name: str) -> Any:
        if name == "original":
            return self._stage(0)
        return archive.load(Path(name), self._like, "its teacher's .keras file")

    def _last_files(self) -> dict[str, bytes]:
        import tfcompress as tfc
        from tfcompress.pipeline.page import page
        from tfcompress.transforms.wrapper import wrappers

        model = self._stage(len(self.pipeline.steps))
        model = tfc.strip(model) if wrappers(model) else model
        report = self._report()
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n"
        return {
            "recipe.yaml": self.pipeline.text().encode(),
            "model.keras": archive.dump(model),
            "report.json": text.encode(),
            "report.html": page(report).encode(),
        }

    def _report(self) -> PipelineReport:
        records = [done["record"] for done in self._journal.steps]
        notes = [*self._objective.notes, *self._data.notes]
        if not self.deterministic:
            notes.append("Not deterministic: a run that is resumed may end with other bits.")
        reports = [record["report"] for record in records[1:]]
        return PipelineReport(
            self._journal.begun["recipe"],
            self._objective.describe(),
            {"training": self._data.count, "validation": len(self._data.y_val[0])},
            [StepRow(**row) for record in records for row in record["rows"]],
            [own and CompressionReport.from_dict(own) for own in reports],
            [record["history"] for record in records[1:]],
            notes,
            self._journal.begun["versions"],
        )


def _record(
    rows: list[StepRow], report: CompressionReport | None, history: dict[str, list[float | None]]
) -> dict[str, Any]:
    from tfcompress.files import plain

    told = {
        "rows": [asdict(row) for row in rows],
        "report": None if report is None else report.to_dict(),
        "history": history,
    }
    # As it is read back, so that a run that was resumed has the same values.
    read: dict[str, Any] = json.loads(json.dumps(told, default=plain))
    return read


def _with_teacher(report: CompressionReport | None, taught: CompressionReport) -> CompressionReport:
    """One report of what the verb did and what the teacher taught."""
    if report is None:
        return taught
    said = ", ".join(f"{name}={value}" for name, value in taught.settings.items())
    return replace(report, notes=[*report.notes, f"distill: {said}", *taught.notes])


def _placed(error: CompressError, step: Step) -> CompressError:
    """The error, with the step in its message."""
    said = str(error)
    if said.startswith("step "):
        return error
    error.args = (f"{step.where}: {said}", *error.args[1:])
    return error
