"""One face for the TFLite runtimes: ai-edge-litert, tflite-runtime and tf.lite.

All three offer the same `Interpreter`; they differ in where it is imported from, in what they
support, and in how they fail. Nothing here imports TensorFlow unless it is the runtime asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError, DeviceError
from tfcompress.quiet import native_stderr

# name -> (module of the Interpreter, distribution, module whose absence means "not installed")
_RUNTIMES = {
    "ai-edge-litert": ("ai_edge_litert.interpreter", "ai-edge-litert", "ai_edge_litert"),
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime", "tflite_runtime"),
    "tensorflow": ("tensorflow.lite.python.interpreter", "tensorflow", "tensorflow"),
}
BACKENDS = ("xnnpack", "reference")
GPU = "gpu"  # in a child process only: tfcompress.runtime.gpu


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model as its runtime sees it.

    Attributes:
        name: name in the signature where the file has one, else the tensor's own.
        index: tensor index in the interpreter.
        shape: shape with the batch axis, as allocated.
        dtype: NumPy dtype of the stored values.
        scale: quantization step, 0.0 where the tensor is not quantized.
        zero_point: stored value that means zero.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int


def available_runtimes() -> list[str]:
    """Names of the runtimes installed here, in the order in which `"auto"` tries them."""
    return [name for name in _RUNTIMES if importlib.util.find_spec(_RUNTIMES[name][2])]


def resolve_runtime(runtime: str = "auto") -> str:
    """The runtime that `runtime` stands for.

    Args:
        runtime: `"auto"`, `"ai-edge-litert"`, `"tflite-runtime"` or `"tensorflow"`.

    Raises:
        ConfigError: no runtime has that name.
        DeviceError: it, or any runtime at all, is not installed.
    """
    if runtime != "auto" and runtime not in _RUNTIMES:
        raise ConfigError(
            f"`runtime` must be 'auto' or one of {sorted(_RUNTIMES)}. Received: {runtime!r}"
        )
    found = available_runtimes()
    if runtime != "auto":
        if runtime not in found:
            raise DeviceError(
                f"The runtime {runtime!r} is not installed (found here: {found or 'none'}). "
                f"Install it with: pip install {runtime}"
            )
        return runtime
    if not found:
        raise DeviceError(
            "No TFLite runtime is installed. Install one with: pip install ai-edge-litert"
        )
    return found[0]


def runtime_version(runtime: str) -> str:
    """Version of an installed runtime, such as `"2.3.0"`."""
    distribution = _RUNTIMES[runtime][1]
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # tensorflow-cpu and other builds
        return str(getattr(importlib.import_module(_RUNTIMES[runtime][2]), "__version__", "?"))


def interpreter_module(runtime: str) -> Any:
    """Imports the module that holds a runtime's `Interpreter`.

    Raises:
        DeviceError: it is installed but does not load.
    """
    try:
        return importlib.import_module(_RUNTIMES[runtime][0])
    except Exception as error:
        hint = ""
        if runtime == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
            hint = (
                f" tflite-runtime was built against NumPy 1 and NumPy {np.__version__} is"
                " installed: pip install 'numpy<2', or use ai-edge-litert."
            )
        raise DeviceError(
            f"The runtime {runtime!r} is installed but cannot be loaded: {error}.{hint}"
        ) from error


def check_setting(backend: str, threads: int, allowed: Sequence[str] = BACKENDS) -> None:
    """Checks how a model is asked to run.

    Args:
        backend: as asked for.
        threads: as asked for.
        allowed: the backends that there are where it is asked.

    Raises:
        ConfigError: unknown backend, or a thread count below 1.
    """
    if backend not in allowed:
        raise ConfigError(f"`backend` must be one of {tuple(allowed)}. Received: {backend!r}")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"`threads` must be a whole number >= 1. Received: {threads!r}")


class Session:
    """A loaded model, ready to run: raw stored values in and out.

    The content must have been proven sound (`tfcompress.runtime.proof`) unless this already runs
    in a child process: a corrupt file can take the whole process down here.

    Args:
        content: bytes of a `.tflite` file.
        runtime: name of the runtime, or `"auto"`.
        backend: `"xnnpack"`, or `"reference"` for the runtime's builtin kernels alone.
        threads: threads of the runtime.
        batch: batch size to resize every input to; None keeps that of the file.
        keep_all: keep intermediate tensors readable after a run (slower).
        delegate: path of a library with a delegate to apply first, such as the GPU delegate; in a
            child process only, as it may crash.

    Raises:
        ConfigError: unknown runtime or backend, or bad thread count or batch.
        DeviceError: the runtime is missing or refuses the file.
    """

    def __init__(
        self,
        content: bytes,
        *,
        runtime: str = "auto",
        backend: str = "xnnpack",
        threads: int = 1,
        batch: int | None = None,
        keep_all: bool = False,
        delegate: str | None = None,
    ) -> None:
        check_setting(backend, threads)
        self.runtime = resolve_runtime(runtime)
        self.backend = backend
        module = interpreter_module(self.runtime)
        resolvers = module.OpResolverType
        resolver = (
            resolvers.AUTO if backend == "xnnpack" else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        self._content = content  # the interpreter reads it in place
        applied = None if delegate is None else [_load_delegate(module, delegate)]
        try:
            with native_stderr():
                self.interpreter = module.Interpreter(
                    model_content=content,
                    experimental_delegates=applied,
                    num_threads=threads,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=keep_all,
                )
                if batch is not None:
                    self._resize(batch)
                self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(explain_refusal(content, self.runtime, str(error))) from error
        self._read_io()

    def _resize(self, batch: int) -> None:
        if not isinstance(batch, int) or batch < 1:
            raise ConfigError(f"The batch size must be a whole number >= 1. Received: {batch!r}")
        for detail in self.interpreter.get_input_details():
            shape = [int(size) for size in detail["shape"]]
            if not shape:
                raise ConfigError(f"Input {detail['name']!r} is a scalar and has no batch axis.")
            self.interpreter.resize_tensor_input(detail["index"], [batch, *shape[1:]])

    def _read_io(self) -> None:
        names = _signature_names(self.interpreter)
        self.inputs, self.outputs = (
            [tensor_info(detail, side.get(int(detail["index"]))) for detail in details]
            for side, details in zip(
                names,
                (self.interpreter.get_input_details(), self.interpreter.get_output_details()),
                strict=True,
            )
        )

    def run(self, inputs: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """Runs once.

        Args:
            inputs: tensor index to array of the tensor's stored dtype and exact shape.

        Returns:
            The outputs' stored values, in the order of `outputs`, as copies.
        """
        for index, value in inputs.items():
            self.interpreter.set_tensor(index, value)
        try:
            self.interpreter.invoke()
        except RuntimeError as error:
            raise DeviceError(f"{self.runtime} could not run the model: {error}") from error
        return [self.interpreter.get_tensor(info.index) for info in self.outputs]

    def run_all(self, chunks: Sequence[Mapping[int, np.ndarray]]) -> list[list[np.ndarray]]:
        """Runs once for each of the inputs, in their order."""
        return [self.run(chunk) for chunk in chunks]

    def invoke(self) -> None:
        """Runs once more on the inputs as they stand, fetching nothing (for timing)."""
        self.interpreter.invoke()

    def reset(self) -> None:
        """Sets variable tensors back to zero (resource variables need a new session)."""
        self.interpreter.reset_all_variables()

    def signatures(self) -> list[Signature]:
        """The file's signatures, each ready to run; all share the session's weights.

        Raises:
            DeviceError: the runtime refuses one.
        """
        return [Signature(self, key) for key in self.interpreter._get_full_signature_list()]


class Signature:
    """One of a file's functions, whose inputs stay where they are between runs.

    Args:
        session: holds the file.
        key: the signature's name.

    Attributes:
        key: the signature's name.
        inputs: by name.
        outputs: by name.

    Raises:
        DeviceError: the runtime refuses it.
    """

    def __init__(self, session: Session, key: str) -> None:
        self.key, self._session = key, session
        interpreter = session.interpreter
        self._wrapper = interpreter._interpreter
        try:
            self._subgraph = self._wrapper.GetSubgraphIndexFromSignature(key)
            self._wrapper.AllocateTensors(self._subgraph)
        except (RuntimeError, ValueError) as error:
            message = f"signature {key!r}: {error}"
            raise DeviceError(
                explain_refusal(session._content, session.runtime, message)
            ) from error
        named = interpreter._get_full_signature_list()[key]
        self.inputs, self.outputs = (
            {
                name: tensor_info(interpreter._get_tensor_details(int(index), self._subgraph), name)
                for name, index in named[side].items()
            }
            for side in ("inputs", "outputs")
        )

    def view(self, name: str) -> np.ndarray:
        """An input's own memory, to write to; it must be let go before the next run."""
        view: np.ndarray = self._wrapper.tensor(
            self._wrapper, self.inputs[name].index, self._subgraph
        )
        return view

    def run(self) -> None:
        """Runs on the inputs as they stand.

        Raises:
            DeviceError: the runtime fails.
        """
        try:
            self._wrapper.Invoke(self._subgraph)
        except RuntimeError as error:
            raise DeviceError(
                f"{self._session.runtime} could not run signature {self.key!r}: {error}"
            ) from error

    def output(self, name: str) -> np.ndarray:
        """A copy of an output's stored values."""
        value: np.ndarray = self._wrapper.GetTensor(self.outputs[name].index, self._subgraph)
        return value


def _load_delegate(module: Any, path: str) -> Any:
    try:
        return module.load_delegate(path)
    except (ValueError, OSError) as error:
        raise DeviceError(
            f"{path!r} cannot be loaded as a delegate: {error}. It must be a library for this "
            "processor that exports tflite_plugin_create_delegate, such as "
            "libtensorflowlite_gpu_delegate.so."
        ) from error


def _signature_names(interpreter: Any) -> tuple[dict[int, str], dict[int, str]]:
    names: tuple[dict[int, str], dict[int, str]] = ({}, {})
    try:
        keys = list(interpreter.get_signature_list())
        if len(keys) != 1:
            return names
        full = interpreter._get_full_signature_list()[keys[0]]
        for side, part in enumerate(("inputs", "outputs")):
            names[side].update({int(index): name for name, index in full[part].items()})
    except (AttributeError, KeyError, ValueError):
        return {}, {}
    return names


def tensor_info(detail: dict[str, Any], name: str | None = None) -> TensorInfo:
    """A tensor's description by the interpreter, under `name` or its own."""
    quantization = detail["quantization_parameters"]
    scales, zeros = quantization["scales"], quantization["zero_points"]
    return TensorInfo(
        name=name or detail["name"],
        index=int(detail["index"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=np.dtype(detail["dtype"]),
        scale=float(scales[0]) if len(scales) == 1 else 0.0,
        zero_point=int(zeros[0]) if len(zeros) == 1 else 0,
    )


def explain_refusal(content: bytes, runtime: str, message: str) -> str:
    """Why a runtime refuses a file, naming the operators that it is too old for."""
    from tfcompress.runtime import schema, versions

    version = runtime_version(runtime)
    text = f"{runtime} {version} refuses the model: {message.strip()}"
    # ai-edge-litert numbers its releases on their own; all know what TensorFlow 2.19 knows.
    if runtime != "ai-edge-litert":
        missing = versions.needing(schema.parse(content), version)
        if missing:
            text += (
                f"\n{'; '.join(missing)}: use a newer runtime (pip install ai-edge-litert),"
                " or convert with a precision that does not need it (fp32 or int8)."
            )
    return text


def module_name(runtime: str) -> str:
    """The module that holds a runtime's `Interpreter`."""
    return _RUNTIMES[runtime][0]
