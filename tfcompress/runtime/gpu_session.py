"""A model on LiteRT's GPU accelerator; runs in child processes only, as drivers may crash.

LiteRT's `CompiledModel` hands one partition to the GPU, the largest, and the rest to the CPU.
Its own `is_fully_accelerated()` counts what XNNPACK takes as accelerated too, so what became of
the operators is read from what the accelerator says while it loads a model.

Source: ai_edge_litert.compiled_model of ai-edge-litert 2.3.0; the lines of its log, from
ml_drift/delegate and tflite/delegates/gpu/common/model_builder.cc, as measured there.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, Final

import numpy as np

from tfcompress.errors import DeviceError
from tfcompress.runtime import adapter, placement, schema
from tfcompress.runtime.exchange import run_on
from tfcompress.runtime.model import input_infos, output_infos

RUNTIME: Final = "ai-edge-litert"
MODULE: Final = "ai_edge_litert.compiled_model"
NO_ADAPTER: Final = "NoAdapter"
"""How a job says that there is no adapter: the parent tells what was looked for."""

_ADAPTER: Final = re.compile(
    r"Selected adapter: (?P<name>.*?), arch=(?P<architecture>.*?), vendor=(?P<vendor>.*?), "
    r"backend=(?P<interface>.*?), adapterType=(?P<kind>.*)"
)
_REFUSALS: Final = re.compile(
    r"operations are not supported by GPU delegate:\n(?P<reasons>(?:.*\n)*?)"
    r".*?(?P<placed>No|\d+) operations? will run on the GPU, and "
    r"(?:the remaining|all) (?P<left>\d+) operations? will run on the CPU"
)


@dataclass(frozen=True)
class Adapter:
    """The GPU that LiteRT has chosen.

    Attributes:
        name: as its driver gives it, such as `"SwiftShader Device (Subzero)"`.
        vendor: such as `"nvidia"`.
        architecture: such as `"swiftshader"`.
        interface: what it is spoken to through, such as `"Vulkan"`.
        kind: such as `"Discrete GPU"`, `"Integrated GPU"`, `"CPU / Software"`.
    """

    name: str
    vendor: str = ""
    architecture: str = ""
    interface: str = ""
    kind: str = ""

    @property
    def software(self) -> bool:
        """Whether a program plays the GPU: numbers are a GPU's, speed is not."""
        return self.kind.lower().startswith(("cpu", "software"))

    def __str__(self) -> str:
        text = f"{self.name} ({self.interface})"
        return f"{text}, a software driver: its speed is not a GPU's" if self.software else text


@dataclass(frozen=True)
class GpuPlacement:
    """What LiteRT has given to the GPU.

    Attributes:
        adapter: the GPU.
        placed: operators of the file on the GPU.
        operators: operators of the file.
        refused: why the accelerator refuses operators, as it says itself: one line for each
            kind of operator and reason. Operators that it would take are left as well where
            refused ones part them from the largest group.
    """

    adapter: Adapter
    placed: int
    operators: int
    refused: tuple[str, ...] = ()

    @property
    def fully_accelerated(self) -> bool:
        """Whether every operator is on the GPU."""
        return self.placed == self.operators


class GpuSession:
    """A model loaded on the GPU, with the face of `adapter.Session`.

    Args:
        content: bytes of a proven `.tflite` file.
        precision: `"fp32"` or `"fp16"`, in which the GPU computes.
        threads: threads of the CPU for what the GPU leaves.

    Raises:
        DeviceError: no adapter, no runtime that has an accelerator, or it refuses the file.
    """

    def __init__(self, content: bytes, *, precision: str = "fp16", threads: int = 1) -> None:
        lite = _module()
        parsed = schema.parse(content)
        self._content = content  # read in place
        self.inputs, self.outputs = input_infos(parsed), output_infos(parsed)
        for info in (*self.inputs, *self.outputs):
            if info.dtype not in lite.TensorBuffer._DTYPE_STRINGS:
                raise DeviceError(
                    f"LiteRT's CompiledModel takes no {info.dtype} tensors ({info.name!r}): "
                    "convert the model with int32 inputs and outputs."
                )
        options = lite.Options(
            lite.HardwareAccelerator.GPU | lite.HardwareAccelerator.CPU,
            cpu_options=lite.CpuOptions(num_threads=threads),
            gpu_options=lite.GpuOptions(enforce_f32=precision == "fp32"),
        )
        with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder, _native_log() as read:
            os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # some drivers insist on one
            try:
                self._model = lite.CompiledModel.from_buffer(content, options=options)
                self._bind(parsed)
            except RuntimeError as error:
                raise DeviceError(_refusal(read(), str(error))) from error
            log = read()
        count = sum(len(graph.operators) for graph in parsed.subgraphs)
        self.placement = placement_of(log, count, expanding=_expanding(parsed))

    def _bind(self, parsed: schema.Model) -> None:
        """Buffers for the main graph's inputs and outputs, in the file's order."""
        number = next((i for i, s in enumerate(parsed.signatures) if s.subgraph == 0), 0)
        key = list(self._model.get_signature_list())[number]
        self._key = key
        names = self._model.get_signature_list()[key]
        sides: tuple[Mapping[str, int], ...]
        if parsed.signatures:
            sides = parsed.signatures[number].inputs, parsed.signatures[number].outputs
        else:  # the runtime names inputs and outputs by their tensors
            graph = parsed.subgraphs[0]
            sides = tuple(
                {graph.tensors[index].name: index for index in indices}
                for indices in (graph.inputs, graph.outputs)
            )
        self._inputs, self._outputs = (
            {name: create(key, name) for name in names[side]}
            for side, create in (
                ("inputs", self._model.create_input_buffer_by_name),
                ("outputs", self._model.create_output_buffer_by_name),
            )
        )
        self._by_index = [
            {index: buffers[name] for name, index in side.items() if name in buffers}
            for side, buffers in zip(sides, (self._inputs, self._outputs), strict=True)
        ]

    def run(self, inputs: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """Runs once; as `adapter.Session.run`."""
        for index, value in inputs.items():
            self._by_index[0][index].write(value)
        return self._run()

    def invoke(self) -> None:
        """Runs once more on the inputs as they stand and waits for the outputs (for timing)."""
        self._run()

    def _run(self) -> list[np.ndarray]:
        try:
            self._model.run_by_name(self._key, self._inputs, self._outputs)
            return [
                self._by_index[1][info.index]
                .read(int(np.prod(info.shape)), info.dtype)
                .reshape(info.shape)
                for info in self.outputs
            ]
        except RuntimeError as error:
            raise DeviceError(f"{RUNTIME} could not run the model on the GPU: {error}") from error


class DelegateSession(adapter.Session):
    """A model loaded with a delegate of the user's own, with a `placement` like a `GpuSession`.

    Args:
        content: bytes of a proven `.tflite` file.
        delegate: path of the library.
        runtime: as for `adapter.Session`.
        threads: threads of the CPU for what the delegate leaves.

    Raises:
        DeviceError: the library is no delegate, or refuses the file.
    """

    def __init__(
        self, content: bytes, *, delegate: str, runtime: str = "auto", threads: int = 1
    ) -> None:
        super().__init__(content, runtime=runtime, threads=threads, delegate=delegate)
        parsed = schema.parse(content)
        # XNNPACK takes what the delegate leaves: without it the delegate's partitions stand alone.
        alone = adapter.Session(content, runtime=runtime, backend="reference", delegate=delegate)
        placed = sum(placement.placement_in(alone, parsed.subgraphs[0]))
        count = sum(len(graph.operators) for graph in parsed.subgraphs)
        self.placement = GpuPlacement(
            Adapter(os.path.basename(delegate), interface="delegate"), placed, count
        )


def open_session(
    content: bytes, *, precision: str, threads: int, runtime: str, delegate: str | None
) -> Any:
    """The model on LiteRT's accelerator, or with a delegate of the user's own."""
    if delegate is None:
        return GpuSession(content, precision=precision, threads=threads)
    return DelegateSession(content, delegate=delegate, runtime=runtime, threads=threads)


def _module() -> Any:
    adapter.resolve_runtime(RUNTIME)
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise DeviceError(
            f"{RUNTIME} {adapter.runtime_version(RUNTIME)} has no CompiledModel, which runs models "
            f"on a GPU ({error}): pip install -U {RUNTIME}"
        ) from error


def _expanding(parsed: schema.Model) -> int:
    """How many operators only expand float16 weights.

    Where a GPU takes not all operators, LiteRT counts these among the ones that are left; but what
    the GPU takes reads the weights as they are stored.
    """
    return sum(
        operator.name == "DEQUANTIZE"
        and parsed.constant(tensor := graph.tensors[operator.inputs[0]]) is not None
        and tensor.dtype == "float16"
        for graph in parsed.subgraphs
        for operator in graph.operators
    )


def placement_of(log: str, operators: int, expanding: int = 0) -> GpuPlacement:
    """Reads what the accelerator said while it loaded a model.

    Args:
        log: what native code wrote.
        operators: how many operators the file has.
        expanding: how many of these only expand float16 weights.

    Raises:
        DeviceError: no adapter was chosen.
    """
    chosen = _ADAPTER.search(log)
    if chosen is None:
        raise DeviceError(_refusal(log, "it says nothing of an adapter"))
    adapter_ = Adapter(**{key: value.strip() for key, value in chosen.groupdict().items()})
    left, refused = 0, []
    # A loop's body is given to the GPU again each time that it is planned: counted once.
    for found in {match.groups(): match for match in _REFUSALS.finditer(log)}.values():
        left += int(found["left"])
        refused += [line.strip() for line in found["reasons"].splitlines() if line.strip()]
    return GpuPlacement(
        adapter_, max(operators - left, 0), operators, tuple(dict.fromkeys(refused))
    )


def _refusal(log: str, message: str) -> str:
    """Why a model did not load, as the parent process tells it further."""
    if _ADAPTER.search(log) is None:
        return NO_ADAPTER
    lines = [line for line in log.splitlines() if re.match(r"(ERROR: (?!\[)|[EF]\d{4} )", line)]
    reasons = [re.sub(r"^[EF]\d{4} \S+ +\d+ ", "", line) for line in lines]
    return f"The GPU accelerator refuses the model: {'; '.join(reasons[:3]) or message.strip()}"


@contextmanager
def _native_log() -> Iterator[Callable[[], str]]:
    """Keeps what native code writes to the error stream; yields how to read it."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield lambda: _text(log)
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace")
    log.seek(0, os.SEEK_END)
    return text


# ------------------------------------------------------------------ jobs of the child process


def job(
    path: str,
    precision: str,
    threads: int,
    inputs: str | None,
    result: str,
    environment: dict[str, str | None],
    runtime: str,
    delegate: str | None,
) -> dict[str, Any]:
    """Loads a file on the GPU, runs it on each of the inputs, and says what was placed.

    Args:
        path: the file.
        precision: as for `GpuSession`.
        threads: as for `GpuSession`.
        inputs: `.npz` of stored values for each input, (runs, *shape); None for one run on zeros.
        result: `.npz` to write the outputs' stored values to.
        environment: variables of the asking process, which may differ from this one's.
        runtime: the runtime that loads a delegate.
        delegate: path of its library; None for LiteRT's own accelerator.

    Returns:
        The fields of a `GpuPlacement` as plain values.
    """
    set_environment(environment)
    with open(path, "rb") as file:
        session = open_session(
            file.read(), precision=precision, threads=threads, runtime=runtime, delegate=delegate
        )
    run_on(session, inputs, result)
    return asdict(session.placement)


def set_environment(variables: Mapping[str, str | None]) -> None:
    """Sets environment variables; None unsets one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
