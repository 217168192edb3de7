"""`tfc.benchmark(backend="android")`: models on a phone, in the same report as on this machine.

Everything that is pushed goes into one folder of its own below /data/local/tmp, which is removed in
the end, whatever happens: a failure, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tfcompress import stopping
from tfcompress.deploy.android import adb as adb_module
from tfcompress.deploy.android import commands, device, profile, program, results
from tfcompress.deploy.android.placement import Placement, parse_placement
from tfcompress.deploy.benchmark import check_counts, check_fp16_values, load_models
from tfcompress.deploy.latency_report import BenchmarkReport, BenchmarkRow
from tfcompress.deploy.operator_times import OperatorTime
from tfcompress.errors import ConfigError, DeviceError
from tfcompress.runtime import proof
from tfcompress.runtime.instructions import fp16_arithmetic, int8_arithmetic, int8_notes
from tfcompress.runtime.model import TFLiteModel

PREFIX: Final = "android"
NAMES: Final = (PREFIX, *(f"{PREFIX}-{name}" for name in commands.BACKENDS))
RUN_SECONDS: Final = 400.0
"""How long one run may take: the program ends its warm-up and its runs after 150 s each."""

_CRASHES: Final = {
    132: "an illegal instruction: is it for another processor?",
    134: "it aborted",
    135: "a bus error",
    136: "a floating point exception",
    137: "it was killed, as when memory runs out",
    139: "a segmentation fault",
}


@dataclass(frozen=True)
class AndroidSettings:
    """What is asked of a device.

    Attributes:
        backends: of `commands.BACKENDS`.
        threads: thread counts for the processor's backends; the GPU runs with the first.
        fp16: False, True or both.
        runs: least number of timed inferences.
        warmup: least number of inferences before.
        per_operator: run once more with the program's profiler.
        serial: the device; None for the only one.
        binary: the program: a path, `"tflite"` or `"litert"`.
        affinity: mask for taskset, in hexadecimal, or "".
        gpu_backend: `"cl"`, `"gl"` or "".
        whole: fail where the backend does not take the whole model.
        adb: path of adb; None to find it.
    """

    backends: tuple[str, ...] = commands.BACKENDS
    threads: tuple[int, ...] = (1,)
    fp16: tuple[bool, ...] = (False,)
    runs: int = 50
    warmup: int = 5
    per_operator: bool = False
    serial: str | None = None
    binary: str | os.PathLike[str] = program.TFLITE
    affinity: str = ""
    gpu_backend: str = ""
    whole: bool = False
    adb: str | None = None

    def __post_init__(self) -> None:
        if self.affinity and not re.fullmatch(r"(0x)?[0-9a-fA-F]+", self.affinity):
            raise ConfigError(
                "`affinity` must be a mask in hexadecimal such as 'f0' (processors 4 to 7). "
                f"Received: {self.affinity!r}"
            )
        if self.gpu_backend not in ("", "cl", "gl"):
            raise ConfigError(f"`gpu_backend` must be 'cl' or 'gl'. Received: {self.gpu_backend!r}")

    def settings(self) -> list[commands.Setting]:
        """All combinations that make sense."""
        found = []
        for backend in self.backends:
            counts = self.threads[:1] if backend == "gpu" else self.threads
            halves = (False,) if backend == "reference" else self.fp16
            found += [
                commands.Setting(
                    backend,
                    count,
                    half,
                    self.affinity.removeprefix("0x"),
                    self.gpu_backend,
                    self.whole,
                )
                for count in counts
                for half in halves
            ]
        return found


def backends_of(names: Sequence[str]) -> tuple[str, ...] | None:
    """The device's backends that a benchmark's `backend` names; None where it names none.

    Raises:
        ConfigError: backends of this machine and of a device together.
    """
    ours = [name for name in names if name in NAMES]
    if not ours:
        return None
    if len(ours) < len(names):
        raise ConfigError(
            f"One benchmark runs on this machine or on a device. Received: backend={list(names)}"
        )
    found = commands.BACKENDS if PREFIX in ours else [n.removeprefix(f"{PREFIX}-") for n in ours]
    return tuple(dict.fromkeys(found))


def commands_of(
    paths: Any,
    backends: Sequence[str],
    *,
    threads: Sequence[int],
    fp16: Sequence[bool],
    runs: int,
    warmup: int,
    require_full_delegation: bool,
    **others: Any,
) -> list[str]:
    """The command lines that `tfc.benchmark` would run with these arguments; see `plan`.

    Raises:
        ConfigError: an argument out of its range, or a backend of this machine.
        CorruptFileError: a file is not sound.
    """
    on_device = backends_of(backends)
    if on_device is None or not set(backends) <= set(NAMES):
        raise ConfigError(
            f"Commands are printed for an Android device (--android). Received: {list(backends)}"
        )
    asked = AndroidSettings(
        on_device,
        tuple(check_counts(threads, runs, warmup)),
        tuple(check_fp16_values(fp16)),
        runs,
        warmup,
        whole=require_full_delegation,
        **others,
    )
    return plan(load_models(paths), [os.fspath(path) for path in paths], asked)


def plan(
    models: Sequence[TFLiteModel], sources: Sequence[str], asked: AndroidSettings
) -> list[str]:
    """The command lines that a benchmark would run, without a device and without adb.

    Args:
        models: the models.
        sources: what to call their files.
        asked: what is asked; the program is taken to be the newest of its generation.

    Returns:
        One line each. The device's folder has a name of its own in each run, here
        "tfcompress-XXXX"; what cannot be run is a comment.
    """
    known = program.expected(program.generation_of(asked.binary))
    folder = f"{device.ROOT}/tfcompress-XXXX"
    ready = asked.binary in (program.TFLITE, program.LITERT)
    remote = f"{folder}/{commands.PROGRAM}"
    steps = [
        ["shell", device.DESCRIBE],
        ["shell", f"mkdir -p {folder}"],
        ["push", commands.PROGRAM if ready else os.fspath(asked.binary), remote],
        ["shell", f"chmod 755 {remote}"],
        ["shell", f"{remote} --help"],
    ]
    for number, source in enumerate(sources):
        steps.append(["push", source, _remote_model(folder, number)])
    for setting in asked.settings():
        for number, model in enumerate(models):
            for profiled in (False, True) if asked.per_operator else (False,):
                try:
                    command = _command(known, folder, number, setting, asked, profiled)
                except commands.Unsupported as error:
                    steps.append([f"# {model.name}, {setting.backend}: {error}"])
                    break
                steps.append(["shell", f"rm -f {_remote_result(folder)}"])
                steps.append(["shell", command])
                if not profiled:
                    steps.append(["pull", _remote_result(folder), "result.pb"])
    steps.append(["shell", device.cleaning(folder)])
    prefix = ["adb", "-s", asked.serial or "SERIAL"]
    lines = [step[0] if step[0].startswith("#") else shlex.join(prefix + step) for step in steps]
    return ["adb devices", *lines]


def benchmark_android(
    models: Sequence[TFLiteModel],
    asked: AndroidSettings,
    progress: Callable[[float], None] | None = None,
) -> BenchmarkReport:
    """Measures models on a device.

    Args:
        models: the models; each is proven on this machine before it is pushed.
        asked: what is asked.
        progress: called with the share done, 0 to 1.

    Returns:
        The report: backends are `"android-reference"`, `"android-xnnpack"`, `"android-gpu"`.

    Raises:
        DeviceError: no adb, no usable device, no program for it, no space, the device went away, or
            no model could be run in any setting. A setting that fails alone is a row with `error`.
        CorruptFileError: a file is not sound.
        ConfigError: an argument out of its range.
    """
    for model in models:
        proof.prove(model.content)
    program.generation_of(asked.binary)  # a wrong path is wrong before a device is looked for
    target = device.choose(adb_module.Adb(adb_module.find_adb(asked.adb)), asked.serial)
    about = target.describe()
    binary = program.fetch(asked.binary, about.pop("abis"))
    features = about.pop("features")
    fp16, int8 = fp16_arithmetic(features), int8_arithmetic(features)
    settings = asked.settings()
    rows: list[BenchmarkRow] = []
    notes: list[str] = []
    if any(setting.backend == "xnnpack" for setting in settings):
        notes += int8_notes([model.parsed for model in models], features)
    with _workplace(target, notes) as folder:
        known = _install(target, binary, folder)
        for number, model in enumerate(models):
            _push_model(target, model, _remote_model(folder, number))
        for setting in settings:
            for number, model in enumerate(models):
                row = _measure(target, known, folder, number, model, setting, asked, notes)
                if setting.fp16 and not row.error:
                    row = replace(row, fp16="allowed" if setting.backend == "gpu" else fp16)
                rows.append(row)
                if progress is not None:
                    progress(len(rows) / (len(settings) * len(models)))
    if all(row.error for row in rows):
        raise DeviceError(f"No model could be measured on {target.serial}: {rows[0].error}")
    first = next(row.median_ms for row in rows if not row.error)
    # In the order of a benchmark on this machine: all rows of a model together.
    order = sorted(range(len(rows)), key=lambda place: place % len(models))
    return BenchmarkReport(
        [replace(rows[place], ratio=rows[place].median_ms / first) for place in order],
        machine={
            **about,
            **({"int8": int8} if int8 else {}),
            "runtime": f"benchmark_model ({known.generation})",
        },
        settings={
            "runs": asked.runs,
            "warmup": asked.warmup,
            "affinity": asked.affinity,
            "gpu_backend": asked.gpu_backend,
        },
        notes=list(dict.fromkeys(notes)),
    )


def _remote_model(folder: str, number: int) -> str:
    return f"{folder}/model-{number}.tflite"


def _remote_result(folder: str) -> str:
    return f"{folder}/result.pb"


def _command(
    known: program.Program,
    folder: str,
    number: int,
    setting: commands.Setting,
    asked: AndroidSettings,
    profiled: bool,
) -> str:
    return commands.run_command(
        known,
        folder,
        _remote_model(folder, number),
        _remote_result(folder),
        setting,
        runs=asked.runs,
        warmup=asked.warmup,
        profile=profiled,
    )


def _install(target: device.Device, binary: Path, folder: str) -> program.Program:
    """Pushes the program and asks it what it knows."""
    remote = f"{folder}/{commands.PROGRAM}"
    target.push(str(binary), remote, binary.stat().st_size)
    output = target.shell(f"chmod 755 {remote}")
    if output.code != 0:
        raise DeviceError(f"The program cannot be made executable on the device: {output.text}")
    output = target.shell(f"{remote} --help")  # ends with 1 in one generation, 0 in the other
    if output.code not in (0, 1) or "CANNOT LINK EXECUTABLE" in output.text:
        reason = _CRASHES.get(output.code, f"exit code {output.code}")
        raise DeviceError(
            f"The program {str(binary)!r} does not run on the device ({reason}): "
            f"{output.text or 'it printed nothing'}. Is it for this processor and this version of "
            "Android?"
        )
    return program.from_help(output.text)


def _push_model(target: device.Device, model: TFLiteModel, remote: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as local:
        path = Path(local) / "model.tflite"
        path.write_bytes(model.content)  # what was proven, not what the path holds by now
        target.push(str(path), remote, len(model.content))


def _measure(
    target: device.Device,
    known: program.Program,
    folder: str,
    number: int,
    model: TFLiteModel,
    setting: commands.Setting,
    asked: AndroidSettings,
    notes: list[str],
) -> BenchmarkRow:
    """One model in one setting; what fails for it alone is the row's error."""
    nan = float("nan")
    row = BenchmarkRow(
        model.name, f"{PREFIX}-{setting.backend}", setting.threads, nan, nan, nan, nan, nan, nan
    )
    try:
        text = _run(target, _command(known, folder, number, setting, asked, False), folder)
        placed = _placed(text, setting, model, notes)
        found = _result(target, known, folder, text)
        operators: tuple[OperatorTime, ...] = ()
        if asked.per_operator:
            text = _run(target, _command(known, folder, number, setting, asked, True), folder)
            operators = profile.parse_profile(text, model)
            if operators:
                notes.append("Times of operators are from the program's profile of a run apart.")
    except commands.Unsupported as error:
        return replace(row, error=str(error))
    except _RunFailed as error:
        return replace(row, error=str(error))
    if not found.median_ms > 0:
        notes.append("This program gives no median: the mean stands in its place.")
    return replace(
        row,
        median_ms=found.median_ms if found.median_ms > 0 else found.average_ms,
        init_ms=found.init_ms,
        peak_mb=found.peak_mb,
        p5_ms=found.p5_ms,
        p95_ms=found.p95_ms,
        placed=placed.share,
        left=placed.left,
        operators=operators,
    )


class _RunFailed(Exception):
    """One run of the program failed; the device is still there."""


def _run(target: device.Device, command: str, folder: str) -> str:
    """Runs the program, and returns what it has printed."""
    target.shell(f"rm -f {_remote_result(folder)}")
    try:
        output = target.shell(command, seconds=RUN_SECONDS)
    except adb_module.AdbTimeout as error:
        target.shell(device.ending(folder))
        raise _RunFailed(str(error)) from None
    if output.code == 0:
        return output.text
    errors = [line for line in output.text.splitlines() if line.startswith(("ERROR", "FATAL"))]
    said = "; ".join(errors[-3:]) or output.text[-300:].strip()
    if output.code in _CRASHES:
        raise _RunFailed(f"The program crashed ({_CRASHES[output.code]}). {said}".strip())
    raise _RunFailed(f"The program failed: {said or f'exit code {output.code}'}")


def _result(
    target: device.Device, known: program.Program, folder: str, text: str
) -> results.Measured:
    if "result_file_path" not in known.flags:
        return _read(results.parse_output, text)
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as local:
        path = Path(local) / "result.pb"
        output = target.pull(_remote_result(folder), str(path))
        if output.code != 0 and adb_module.is_gone(output):
            raise DeviceError(target.adb.explain(["pull"], output))
        if output.code != 0 or not path.exists():
            raise _RunFailed(f"The program left no result file: {output.text}")
        return _read(results.parse_file, path.read_bytes())


def _read(parse: Callable[[Any], results.Measured], source: Any) -> results.Measured:
    try:
        return parse(source)
    except DeviceError as error:  # of this run alone
        raise _RunFailed(str(error)) from None


def _placed(
    text: str, setting: commands.Setting, model: TFLiteModel, notes: list[str]
) -> Placement:
    """What the backend took; a row of a backend that took nothing would be one of another."""
    if setting.backend == "reference":
        return Placement()
    found = parse_placement(text, setting.backend)
    name = "The GPU" if setting.backend == "gpu" else "XNNPACK"
    if found.share == 0:
        raise _RunFailed(f"{name} took no operator of the model. {'; '.join(found.left)}".strip())
    if found.partly:
        notes.append(f"{model.name}: {name} took a part of the model, the processor the rest.")
    elif found.share != found.share and setting.backend == "gpu" and not setting.whole:
        notes.append(
            f"{model.name}: this program does not tell how much of the model the GPU took; with "
            "require_full_delegation it fails where that is not all."
        )
    return found


@contextlib.contextmanager
def _workplace(target: device.Device, notes: list[str]) -> Iterator[str]:
    """A folder on the device, removed in the end together with what runs from it."""
    folder = f"{device.ROOT}/tfcompress-{secrets.token_hex(6)}"
    with stopping.terminable():
        try:
            output = target.shell(f"mkdir -p {folder}")
            if output.code != 0:
                raise DeviceError(target.adb.explain(["shell", "mkdir"], output))
            yield folder
        except BaseException as error:
            with stopping.undisturbed():
                left = _clean(target, folder)
            if left and isinstance(error, DeviceError):
                raise DeviceError(f"{error} {left}") from error
            raise
        else:
            with stopping.undisturbed():
                left = _clean(target, folder)
            if left:
                notes.append(left)


def _clean(target: device.Device, folder: str) -> str:
    """Removes the folder; what is to be said where that fails."""
    try:
        target.clean(folder)
    except DeviceError as error:
        return f"What was pushed may still be in {folder} ({error})"
    return ""
