"""The folder of a run: what in it is done, and of what."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from tfcompress.errors import CompressError, ConfigError, CorruptFileError
from tfcompress.files import read_bytes, write_bytes, write_json
from tfcompress.pipeline.locking import LOCK

JOURNAL, STAGES, TRAININGS = "journal.json", "stages", ".training"
FORMAT = 1
_VERSIONS = ("tfcompress", "keras", "tensorflow", "numpy", "ai-edge-litert")


def sha256(content: bytes) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def versions() -> dict[str, str]:
    """Of what decides the last bit."""
    found = {}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Journal:
    """What is done in a folder, and of what: written after each step, so that a kill loses one.

    Args:
        folder: the run's.
        anew: one that cannot be read is no error, as it is replaced.

    Attributes:
        begun: what the run was begun with, by name.
        steps: of each step that is done, its files (path in the folder -> SHA-256) and record.
        finished: files of the whole run likewise; {} before it is done.
    """

    def __init__(self, folder: Path, *, anew: bool = False) -> None:
        self.folder = folder
        self.begun: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []
        self.finished: dict[str, str] = {}
        self._path = folder / JOURNAL
        if self._path.exists():
            try:
                self._read()
            except CompressError:
                if not anew:
                    raise
                self.begun, self.steps, self.finished = {}, [], {}
            return
        others = sorted(
            path.name
            for path in folder.iterdir()
            if path.name != LOCK and not path.name.startswith(".tfcompress-")
        )
        if others:
            raise ConfigError(
                f"`out` must be an empty folder, or one of an earlier run of a pipeline. Received: "
                f"{str(folder)!r}, which has {', '.join(others[:3])}"
                + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            )

    def _read(self) -> None:
        advice = "Pass overwrite=True (--overwrite) to start anew."
        try:
            told = json.loads(read_bytes(self._path))
            if told["format"] != FORMAT:
                raise ConfigError(
                    f"{str(self._path)!r} is of format {told['format']!r}, and this version of "
                    f"tfcompress reads {FORMAT}. {advice}"
                )
            self.begun, self.steps = told["begun"], told["steps"]
            self.finished = told["finished"]
            if not all(isinstance(step["files"], dict) for step in self.steps):
                raise ValueError("files")
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise CorruptFileError(
                f"{str(self._path)!r} is no journal of a pipeline: {error}. {advice}"
            ) from error

    def begin(self, begun: dict[str, Any], *, overwrite: bool) -> None:
        """Goes on with what is there, or starts anew.

        A run that is not finished may go on with another recipe whose first steps are those that
        are done: a step that failed can be mended without losing those before it.

        Args:
            begun: what the run is given: recipe, model, data and the like, as plain values.
            overwrite: remove what an earlier run has left, and start anew.

        Raises:
            ConfigError: an earlier run was begun with something else.
            CorruptFileError: a file of an earlier run is not what it was.
        """
        if overwrite:
            self.clear()
        if not self.begun:
            self.begun = begun
            self._write()
            return
        other = [name for name, value in begun.items() if self.begun.get(name) != value]
        if other == ["versions"] and self.complete():
            return  # nothing more is computed
        changed = set(other) <= {"recipe", "teachers"} and "recipe" in other
        if changed and not self.finished and self._begins_alike(begun):
            self.forget_training()  # of a step that may be another now
            self.begun = begun
            self._write()
            return
        if other:
            name = other[0]
            raise ConfigError(
                f"A run is resumed with what it began with, and the {name} "
                f"{'are' if name.endswith('s') else 'is'} another now than for "
                f"{str(self.folder)!r}. Pass overwrite=True (--overwrite) to start anew, or "
                f"another folder. Received: {_short(begun[name])}, before "
                f"{_short(self.begun.get(name))}"
            )

    def _begins_alike(self, begun: dict[str, Any]) -> bool:
        """Whether the steps that are done are those of this recipe too, with the same teachers."""
        recipe, teachers = begun["recipe"], begun["teachers"]
        before, done = self.begun["recipe"], max(0, len(self.steps) - 1)  # the first: the original
        same = before["steps"][:done] == recipe["steps"][:done]
        same &= all(teachers.get(p, d) == d for p, d in self.begun["teachers"].items())
        return bool(same and before["seed"] == recipe["seed"] and done <= len(recipe["steps"]))

    def intact(self, place: int) -> bool:
        """Whether a step is done and all of its files are there.

        Raises:
            CorruptFileError: one of them has changed.
        """
        if place >= len(self.steps):
            return False
        return self._intact(self.steps[place]["files"])

    def complete(self) -> bool:
        """Whether the run is done and all of its files are there.

        Raises:
            CorruptFileError: one of them has changed.
        """
        steps = all(self.intact(place) for place in range(len(self.steps)))
        return steps and bool(self.finished) and self._intact(self.finished)

    def _intact(self, files: dict[str, str]) -> bool:
        for name, digest in files.items():
            path = self.folder / name
            if not path.exists():
                return False
            if sha256(read_bytes(path)) != digest:
                raise CorruptFileError(
                    f"{str(path)!r} is not what the pipeline has written: it was changed or is "
                    "damaged. Delete it to have it made again, or pass overwrite=True "
                    "(--overwrite) to start anew."
                )
        return True

    def add(self, place: int, files: dict[str, bytes], record: dict[str, Any]) -> None:
        """Writes a step's files, and then that it is done."""
        self.steps = self.steps[:place]
        self.finished = {}
        self.steps.append({"files": self.write(files), "record": record})
        self._write()

    def finish(self, files: dict[str, bytes]) -> None:
        """Writes the run's files, and then that it is done."""
        self.finished = self.write(files)
        self._write()

    def write(self, files: dict[str, bytes]) -> dict[str, str]:
        """Writes files, which are not done by that: SHA-256 of each."""
        for name, content in files.items():
            path = self.folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"Cannot make the folder {str(path.parent)!r}: {error.strerror or error}"
                ) from error
            write_bytes(path, content)
        return {name: sha256(content) for name, content in files.items()}

    def _write(self) -> None:
        told = {
            "format": FORMAT,
            "begun": self.begun,
            "steps": self.steps,
            "finished": self.finished,
        }
        write_json(self._path, told)

    def clear(self) -> None:
        """Removes the files of an earlier run, and nothing else.

        The journal itself stays until another is in its place: a kill on the way leaves one that
        knows what the folder is.
        """
        names = [name for step in self.steps for name in step["files"]] + list(self.finished)
        root = self.folder.resolve()
        for name in names:
            path = self.folder / name
            if root in path.resolve().parents:  # a journal may have been written by anyone
                path.unlink(missing_ok=True)
        self.forget_training()
        self.begun, self.steps, self.finished = {}, [], {}

    def training(self, name: str) -> Path:
        """Where a step's training is saved as it goes on."""
        return self.folder / TRAININGS / name

    def forget_training(self) -> None:
        """Removes what trainings have saved: they are done."""
        import shutil

        shutil.rmtree(self.folder / TRAININGS, ignore_errors=True)

    def tidy(self) -> None:
        """Removes what a write that was killed has left."""
        for place in (self.folder, self.folder / STAGES):
            for rest in place.glob(".tfcompress-*"):
                rest.unlink(missing_ok=True)


def _short(value: Any) -> str:
    said = value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
    return said if len(said) < 300 else said[:300] + "..."
