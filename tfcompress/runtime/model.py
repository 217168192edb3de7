"""`TFLiteModel`: a `.tflite` in hand, to run, look into, weigh and save."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError, CorruptFileError, DataError
from tfcompress.files import read_bytes, write_bytes
from tfcompress.runtime import adapter, proof, schema, watch


@dataclass(frozen=True)
class Sizes:
    """What a file weighs.

    Attributes:
        raw: bytes of the file.
        gzip: bytes after gzip -9, as an app's package compresses it.
        zstd: bytes after zstandard -19; None where the `zstandard` package is missing.
    """

    raw: int
    gzip: int
    zstd: int | None


@dataclass(frozen=True)
class OperatorInfo:
    """One operator of the main graph.

    Attributes:
        index: position in execution order.
        name: the format's name, such as `"CONV_2D"`.
        version: the operator's version in the format.
        inputs: names of its input tensors ("" where an optional one is left out).
        outputs: names of its output tensors.
    """

    index: int
    name: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class TFLiteModel:
    """A `.tflite` model.

    The file is parsed and checked here; native code of the runtime touches it first in a child
    process, so a damaged file gives an exception and never a crash.

    Args:
        source: path of a `.tflite` file, or its bytes.
        report: what the conversion has to say of it (set by `tfc.convert`).

    Attributes:
        content: bytes of the file.
        report: a `CompressionReport` where `tfc.convert` made the model, else None.
        name: the file's or the Keras model's name.
        input_order: names of the Keras model's inputs in its order, right after `tfc.convert`;
            None for a file, which does not keep that order.

    Raises:
        CorruptFileError: it is not a sound TFLite file.

    Example:
        >>> model = tfc.TFLiteModel("model.tflite")
        >>> probabilities = model.predict(images)   # (n, height, width, channels) -> (n, classes)
    """

    def __init__(
        self, source: str | os.PathLike[str] | bytes | TFLiteModel, *, report: Any = None
    ) -> None:
        self.name = "model"
        self.input_order: tuple[str, ...] | None = None
        self.content: bytes
        self.report: Any = report
        if isinstance(source, TFLiteModel):
            self.content, self.report = source.content, report or source.report
            self.name, self.input_order = source.name, source.input_order
        elif isinstance(source, (bytes, bytearray, memoryview)):
            self.content = bytes(source)
        else:
            self.content = read_bytes(source)
            self.name = Path(source).stem
        self.parsed: schema.Model = proof.read_sound(self.content)
        self._sessions: dict[tuple[str, str, int, int | None], adapter.Session] = {}
        self._lock = threading.RLock()  # an interpreter holds one set of tensors
        self._watched: watch.Watched | None = None

    def __repr__(self) -> str:
        infos = input_infos(self.parsed)
        inputs = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in infos)
        return (
            f"<TFLiteModel {len(self.content):,} bytes, {len(self.operators)} operators, {inputs}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.content, self.report, self.name, self.input_order))

    @property
    def _main_inputs(self) -> list[schema.Tensor]:
        graph = self.parsed.subgraphs[0]
        return [graph.tensors[index] for index in graph.inputs]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the file, under a temporary name first, and returns its path.

        Raises:
            ConfigError: the path exists and `overwrite` is False, or it cannot be written.
        """
        return write_bytes(path, self.content, overwrite=overwrite)

    @cached_property
    def sizes(self) -> Sizes:
        """Bytes of the file raw, gzipped (-9) and zstandard-compressed (-19)."""
        zstd = None
        try:
            import zstandard
        except ImportError:
            pass
        else:
            zstd = len(zstandard.ZstdCompressor(level=19).compress(self.content))
        gzipped = len(gzip.compress(self.content, 9, mtime=0))
        return Sizes(raw=len(self.content), gzip=gzipped, zstd=zstd)

    @cached_property
    def operators(self) -> list[OperatorInfo]:
        """The operators of the main graph, in execution order."""
        graph = self.parsed.subgraphs[0]

        def names(indices: tuple[int, ...]) -> tuple[str, ...]:
            return tuple(graph.tensors[i].name if i >= 0 else "" for i in indices)

        return [
            OperatorInfo(op.index, op.name, op.version, names(op.inputs), names(op.outputs))
            for op in graph.operators
        ]

    @cached_property
    def keeps_state(self) -> bool:
        """Whether the file holds resource variables, as of stateful layers."""
        return any(
            operator.name == "VAR_HANDLE"
            for graph in self.parsed.subgraphs
            for operator in graph.operators
        )

    @cached_property
    def float_tensors(self) -> list[str]:
        """Names of the floating-point tensors, the graph's inputs and outputs left out."""
        found = []
        for number, graph in enumerate(self.parsed.subgraphs):
            outer = {*graph.inputs, *graph.outputs} if number == 0 else set()
            found += [
                tensor.name
                for tensor in graph.tensors
                if tensor.dtype.startswith(("float", "bfloat")) and tensor.index not in outer
            ]
        return found

    @property
    def watched(self) -> watch.Watched:
        """What `predict(..., watch=True)` has counted so far; print it, or ask it `.drifted`.

        Raises:
            ConfigError: the file has no quantized input or output.
        """
        with self._lock:
            if self._watched is None:
                self._watched = watch.Watched(self.content, self.parsed)
            return self._watched

    def session(
        self,
        *,
        backend: str = "xnnpack",
        runtime: str = "auto",
        threads: int = 1,
        batch: int | None = None,
    ) -> adapter.Session:
        """The model loaded in this process, once for each setting, after it was proven sound.

        Raises:
            CorruptFileError: the runtime does not survive the file.
            DeviceError: the runtime is missing or too old for the file.
        """
        adapter.check_setting(backend, threads)
        if batch is not None and (
            isinstance(batch, bool) or not isinstance(batch, int) or batch < 1
        ):
            raise ConfigError(f"`batch_size` must be a whole number >= 1. Received: {batch!r}")
        runtime = adapter.resolve_runtime(runtime)
        key = (runtime, backend, threads, batch)
        if key not in self._sessions:
            proof.prove(self.content, runtime=runtime, backend=backend)
            self._sessions[key] = adapter.Session(
                self.content, runtime=runtime, backend=backend, threads=threads, batch=batch
            )
        return self._sessions[key]

    def predict(
        self,
        x: Any,
        *,
        backend: str = "xnnpack",
        runtime: str = "auto",
        threads: int = 1,
        batch_size: int | None = None,
        watch: bool = False,
        gpu_precision: str = "fp16",
        delegate: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Runs the model on real values, whatever types the file stores.

        The state of a stateful model is fresh at the start of a call and kept within it.

        Args:
            x: an array (n, ...) for a model with one input, a dict of such arrays by input name
                for several. n is any number of examples; values are real ones (pixels, not
                quantized steps). A list, in the order of the Keras model's inputs, is taken right
                after `tfc.convert` only: a file does not keep that order.
            backend: `"xnnpack"`, `"reference"` for the builtin kernels without XNNPACK, or `"gpu"`
                for LiteRT's accelerator, which leaves to XNNPACK what it does not take
                (`tfc.inspect(target="gpu")`).
            runtime: `"auto"`, `"ai-edge-litert"`, `"tflite-runtime"` or `"tensorflow"`.
            threads: threads of the runtime.
            batch_size: examples per run; None takes the file's own. Another size needs a model
                whose graph is not tied to its batch, and a CPU.
            watch: count how often inputs and quantized outputs hit the ends of their ranges:
                `.watched` tells, beside the calibration data (`tfc.watch_baseline`).
            gpu_precision: `"fp16"`, as LiteRT has it, or `"fp32"`; in which the GPU computes.
            delegate: with `"gpu"`, path of a delegate's library, such as
                libtensorflowlite_gpu_delegate.so, to use in place of LiteRT's accelerator.

        Returns:
            float32 values (integers where the model's output is not quantized and integer):
            an array (n, ...) for one output, a dict of arrays by name for several.

        Raises:
            DataError: wrong shape, dtype, name, or NaN for an integer input.
            ConfigError: the model cannot take that batch size, or has nothing to watch.
            DeviceError: the runtime, or with `"gpu"` a GPU, is missing or refuses the model.
        """
        watched = self.watched if watch else None
        if any(0 in tensor.shape for tensor in self._main_inputs):
            raise CorruptFileError(
                "A model's inputs must have sizes above 0. Received: "
                f"{[tensor.shape for tensor in self._main_inputs]}. Convert the model again."
            )
        with self._lock:
            if backend == adapter.GPU:
                settings = {"precision": gpu_precision, "runtime": runtime, "threads": threads}
                settings["delegate"] = None if delegate is None else os.fspath(delegate)
                return self._predict(x, self._remote_session(batch_size, settings), None, watched)
            adapter.check_setting(backend, threads, (*adapter.BACKENDS, adapter.GPU))
            if delegate is not None:
                raise ConfigError(
                    f"`delegate` needs backend {adapter.GPU!r}. Received: backend={backend!r}"
                )
            if self.keeps_state:
                self._sessions.clear()  # the runtimes cannot set resource variables back
            session = self.session(
                backend=backend, runtime=runtime, threads=threads, batch=batch_size
            )
            return self._predict(x, session, batch_size, watched)

    def _predict(
        self, x: Any, session: Any, batch_size: int | None, watched: watch.Watched | None
    ) -> Any:
        arrays, count = match_inputs(session.inputs, x, self.input_order)
        size = session.inputs[0].shape[0] if session.inputs[0].shape else 1
        if batch_size is not None and session.outputs[0].shape[:1] != (batch_size,):
            raise ConfigError(
                f"This model cannot run batches of {batch_size}: its graph fixes the batch size "
                f"(its output stays {session.outputs[0].shape}). Leave `batch_size` away, or "
                "convert the model with tfc.convert(..., batch_size=...)."
            )
        stored = [quantize(array, info) for array, info in zip(arrays, session.inputs, strict=True)]
        session.reset()
        chunks = []
        for start in range(0, count, size):
            chunk = {}
            used = min(size, count - start)
            for array, info in zip(stored, session.inputs, strict=True):
                part = array[start : start + used]
                if used < size:  # a last, smaller batch: pad with its own last example
                    part = np.concatenate([part, np.repeat(part[-1:], size - used, axis=0)])
                chunk[info.index] = part.reshape(info.shape)
            chunks.append(chunk)
        results: list[list[np.ndarray]] = [[] for _ in session.outputs]
        for start, values in zip(range(0, count, size), session.run_all(chunks), strict=True):
            used = min(size, count - start)
            for result, value in zip(results, values, strict=True):
                result.append(value[:used] if value.ndim and value.shape[0] == size else value)
        real = {
            info.index: dequantize(
                np.concatenate([np.atleast_1d(part) for part in parts])
                if parts
                else np.zeros((0, *info.shape[1:]), info.dtype),
                info,
            )
            for info, parts in zip(session.outputs, results, strict=True)
        }
        if watched is not None:
            inputs = {i.name: array for i, array in zip(session.inputs, arrays, strict=True)}
            watched.see(count, inputs, {i.name: real[i.index] for i in session.outputs})
        if len(self.parsed.signatures) == 1:  # where one tensor may be several outputs
            named = self.parsed.signatures[0].outputs.items()
            outputs = {name: real[index] for name, index in named if index in real}
        else:
            outputs = {info.name: real[info.index] for info in session.outputs}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _remote_session(self, batch_size: int | None, settings: dict[str, Any]) -> Any:
        from tfcompress.runtime import gpu

        if batch_size is not None:
            raise ConfigError(
                "The GPU runs a file's own batch size only. "
                f"Received: batch_size={batch_size}. Use tfc.convert(..., batch_size=...)."
            )
        gpu.check_setting(settings["precision"], settings["runtime"], settings["delegate"])
        adapter.check_setting("xnnpack", settings["threads"])
        return gpu.RemoteSession(self.content, self.parsed, **settings)


def _rebuild(
    content: bytes, report: Any, name: str, input_order: tuple[str, ...] | None
) -> TFLiteModel:
    model = TFLiteModel(content, report=report)
    model.name, model.input_order = name, input_order
    return model


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a tensor type's name; strings are bytes, as the runtimes take them."""
    return np.dtype("S" if name == "string" else name)


def input_infos(parsed: schema.Model) -> list[adapter.TensorInfo]:
    """The main graph's inputs as the file describes them; no runtime is involved."""
    sides = [signature.inputs for signature in parsed.signatures]
    return _tensor_infos(parsed.subgraphs[0], parsed.subgraphs[0].inputs, sides)


def output_infos(parsed: schema.Model) -> list[adapter.TensorInfo]:
    """The main graph's outputs as the file describes them; no runtime is involved."""
    sides = [signature.outputs for signature in parsed.signatures]
    return _tensor_infos(parsed.subgraphs[0], parsed.subgraphs[0].outputs, sides)


def _tensor_infos(
    graph: schema.SubGraph, indices: Sequence[int], sides: Sequence[Mapping[str, int]]
) -> list[adapter.TensorInfo]:
    # With several signatures, a tensor may have several names; then its own is the only one.
    names = {index: name for name, index in sides[0].items()} if len(sides) == 1 else {}
    infos = []
    for index in indices:
        tensor = graph.tensors[index]
        scale, zero = 0.0, 0
        if tensor.quantization is not None and len(tensor.quantization.scales) == 1:
            scale = float(tensor.quantization.scales[0])
            zeros = tensor.quantization.zero_points
            zero = int(zeros[0]) if len(zeros) else 0
        name, dtype = names.get(index, tensor.name), numpy_dtype(tensor.dtype)
        infos.append(adapter.TensorInfo(name, index, tensor.shape, dtype, scale, zero))
    return infos


def match_inputs(
    infos: list[adapter.TensorInfo], x: Any, order: Sequence[str] | None = None
) -> tuple[list[np.ndarray], int]:
    """Brings data into the order of a model's inputs and checks it against their shapes.

    Args:
        infos: the model's inputs.
        x: an array, a dict by name, or a list in `order`, each array with a leading example axis.
        order: names of the inputs in the order of a list; None where that is not known.

    Returns:
        The arrays in the order of `infos`, and the number of examples.

    Raises:
        DataError: a name, shape or count does not fit, or a list of unknown order.
    """
    names = sorted(info.name for info in infos)
    if isinstance(x, (list, tuple)) and len(infos) > 1:
        if order is None:
            raise DataError(
                "A file does not keep the order of the Keras model's inputs: give a dict by "
                f"name, {names}. Received: a {type(x).__name__}"
            )
        if len(x) != len(order):
            raise DataError(f"The model has the inputs {list(order)}. Received: {len(x)} arrays")
        x = dict(zip(order, x, strict=True))
    if isinstance(x, Mapping):
        if set(x) != set(names):
            raise DataError(f"The data must name the model's inputs {names}. Received: {sorted(x)}")
        parts = [np.asarray(x[info.name]) for info in infos]
    elif len(infos) > 1:
        raise DataError(
            f"The model has {len(infos)} inputs: give a dict of arrays named {names}. "
            f"Received: {type(x).__name__}"
        )
    else:
        parts = [np.asarray(x)]
    for part, info in zip(parts, infos, strict=True):
        if part.dtype.kind not in "biuf" and info.dtype.kind != "S":
            raise DataError(f"Input {info.name!r} must be a numeric array of one shape.")
        if part.shape[1:] != info.shape[1:] or part.ndim != max(len(info.shape), 1):
            raise DataError(
                f"Input {info.name!r} must have the shape (examples, "
                f"{', '.join(map(str, info.shape[1:]))}). Received: {part.shape}"
            )
    counts = {part.shape[0] for part in parts}
    if len(counts) != 1:
        raise DataError(f"All inputs must hold as many examples. Received: {sorted(counts)}")
    return parts, counts.pop()


def quantize(real: np.ndarray, info: adapter.TensorInfo) -> np.ndarray:
    """Stored values of real ones, rounded as the runtime's own QUANTIZE operator does.

    q = round_half_even(x * float32(1 / scale)) + zero_point, clipped to the type's range.

    Raises:
        DataError: the values do not fit the input's type.
    """
    kind = info.dtype.kind
    if kind == "S":
        return np.char.encode(real) if real.dtype.kind == "U" else real.astype(np.bytes_)
    if kind in "iu" and real.dtype.kind == "f" and not np.isfinite(real).all():
        raise DataError(f"Input {info.name!r} takes finite values. Received: NaN or infinity")
    if info.scale:
        steps = np.rint(real.astype(np.float32) * np.float32(1.0 / np.float32(info.scale)))
        limits = np.iinfo(info.dtype)
        return np.clip(steps + info.zero_point, limits.min, limits.max).astype(info.dtype)
    if kind in "iu":
        limits = np.iinfo(info.dtype)
        if real.dtype.kind == "f" and not (real == np.rint(real)).all():
            raise DataError(f"Input {info.name!r} takes whole numbers ({info.dtype}).")
        if real.size and (real.min() < limits.min or real.max() > limits.max):
            raise DataError(
                f"Input {info.name!r} takes {info.dtype} values. "
                f"Received: values from {real.min()} to {real.max()}"
            )
    return real.astype(info.dtype)


def dequantize(stored: np.ndarray, info: adapter.TensorInfo) -> np.ndarray:
    """Real values of stored ones: float32((q - zero_point) * scale); as they are if unquantized."""
    if not info.scale:
        return stored
    return (stored.astype(np.float32) - np.float32(info.zero_point)) * np.float32(info.scale)
