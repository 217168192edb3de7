"""Models on the GPU: each in a child process, so that a driver that crashes is an exception."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tfcompress.errors import ConfigError, DeviceError
from tfcompress.runtime import adapter, proof, schema, vulkan
from tfcompress.runtime.exchange import exchanged
from tfcompress.runtime.gpu_session import MODULE, NO_ADAPTER, RUNTIME, Adapter, GpuPlacement
from tfcompress.runtime.isolation import JobError, run_isolated
from tfcompress.runtime.model import input_infos, output_infos

PRECISIONS: Final = ("fp32", "fp16")

# Compiling the kernels of a large model takes a driver seconds, a software one minutes.
_SECONDS = 600.0
_VARIABLES: Final = (*vulkan.VARIABLES, "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "DISPLAY")


def check_setting(precision: str, runtime: str = "auto", delegate: str | None = None) -> None:
    """Checks how a model is asked to run on a GPU.

    Raises:
        ConfigError: a precision that no GPU computes in, a runtime without an accelerator, or a
            delegate's library that does not exist.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"The GPU's precision must be one of {PRECISIONS}. Received: {precision!r}"
        )
    if delegate is None and runtime not in ("auto", RUNTIME):
        raise ConfigError(
            f"The GPU needs runtime 'auto' or {RUNTIME!r}, or a delegate for another one. "
            f"Received: {runtime!r}"
        )
    if delegate is not None and not os.path.isfile(delegate):
        raise ConfigError(f"`delegate` must name a library. No such file. Received: {delegate!r}")


def environment() -> dict[str, str | None]:
    """The variables that drivers are found by, as they are now in this process."""
    return {name: os.environ.get(name) for name in _VARIABLES}


def run(
    content: bytes,
    inputs: Sequence[np.ndarray] | None = None,
    *,
    precision: str = "fp16",
    threads: int = 1,
    runtime: str = "auto",
    delegate: str | None = None,
) -> tuple[list[np.ndarray], GpuPlacement]:
    """Runs a file on the GPU in a child process.

    Args:
        content: bytes of a `.tflite` file; it is proven on the CPU first.
        inputs: stored values for each input in the file's order, (runs, *shape); None for one
            run on zeros (the zero point where quantized).
        precision: `"fp32"` or `"fp16"`, in which the GPU computes.
        threads: threads of the CPU for what the GPU leaves.
        runtime: the runtime to load a delegate into; LiteRT's own accelerator has only one.
        delegate: path of a delegate's library to use in its place, which computes in a precision
            of its own.

    Returns:
        The outputs' stored values in the file's order, (runs, *shape), and what was placed.

    Raises:
        CorruptFileError: the file is not sound.
        DeviceError: there is no adapter (the message says what was looked for), or the
            accelerator or its driver does not take the file or dies of it.
        ConfigError: unknown precision.

    Example:
        >>> outputs, placement = run(tflite.content)  # doctest: +SKIP
        >>> print(placement.adapter)  # doctest: +SKIP
        SwiftShader Device (Subzero) (Vulkan), a software driver: its speed is not a GPU's
    """
    check_setting(precision, runtime, delegate)
    runtime = adapter.resolve_runtime(runtime if delegate else RUNTIME)
    proof.prove(content, runtime=runtime)
    with exchanged(content, inputs) as (arguments, outputs):
        try:
            value, _ = run_isolated(
                "tfcompress.runtime.gpu_session:job",
                {
                    **arguments,
                    "precision": precision,
                    "threads": threads,
                    "environment": environment(),
                    "runtime": runtime,
                    "delegate": delegate,
                },
                preload=(
                    "tfcompress.runtime.gpu_session",
                    adapter.module_name(runtime) if delegate else MODULE,
                ),
                seconds=_SECONDS,
            )
        except JobError as error:
            raise device_error(str(error), died=error.reason != "exception") from None
        return outputs(), placement(value)


def placement(value: dict[str, Any]) -> GpuPlacement:
    """A `GpuPlacement` of the plain values that a child process has sent."""
    return GpuPlacement(
        Adapter(**value["adapter"]), value["placed"], value["operators"], tuple(value["refused"])
    )


def device_error(message: str, *, died: bool = False) -> DeviceError:
    """The exception for what a child process reports.

    Args:
        message: of the child.
        died: it crashed, hung, or ran out of memory.
    """
    if message == NO_ADAPTER:
        return DeviceError(
            f"No GPU was found that LiteRT's accelerator can use. {vulkan.looked_for(os.environ)} "
            "Install the driver of your GPU. For tests without one a software driver will do, such "
            "as SwiftShader (Debian: apt-get install chromium-common libvulkan1; then set "
            "VK_DRIVER_FILES to /usr/lib/chromium/vk_swiftshader_icd.json)."
        )
    if died:
        return DeviceError(
            f"The GPU's driver or LiteRT's accelerator does not survive this model: {message} "
            "tfc.inspect(target='gpu') says which operators it breaks on; or use the CPU "
            "(backend='xnnpack')."
        )
    return DeviceError(message)


class RemoteSession:
    """A model on the GPU, with the face of `adapter.Session` as `TFLiteModel.predict` needs it.

    Args:
        content: bytes of a `.tflite` file.
        parsed: the same, parsed.
        settings: of `run`.
    """

    def __init__(self, content: bytes, parsed: schema.Model, **settings: Any) -> None:
        self._content, self._settings = content, settings
        self.inputs: list[adapter.TensorInfo] = input_infos(parsed)
        self.outputs: list[adapter.TensorInfo] = output_infos(parsed)

    def run_all(self, chunks: Sequence[Mapping[int, np.ndarray]]) -> list[list[np.ndarray]]:
        """Runs once for each of the inputs; as `adapter.Session.run_all`."""
        if not chunks:
            return []
        columns = [np.stack([chunk[info.index] for chunk in chunks]) for info in self.inputs]
        outputs, _ = run(self._content, columns, **self._settings)
        return [list(values) for values in zip(*outputs, strict=True)]

    def reset(self) -> None:
        """Nothing to do: every call starts a fresh process."""


def accelerator() -> Adapter:
    """Says which GPU models run on.

    Returns:
        The adapter that LiteRT chooses; `.software` tells a program that plays a GPU.

    Raises:
        DeviceError: there is none; the message says what was looked for.

    Example:
        >>> accelerator().name  # doctest: +SKIP
        'NVIDIA H100 80GB HBM3'
    """
    return _accelerator(tuple(environment().items()))


@functools.lru_cache(maxsize=8)
def _accelerator(_: tuple[tuple[str, str | None], ...]) -> Adapter:
    return run(_smallest_model(), precision="fp32")[1].adapter


def _smallest_model() -> bytes:
    """A file of one operator, y = tanh(x): LiteRT chooses an adapter when it loads a model."""
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as tflite
    except ImportError as error:
        raise DeviceError(
            f"Running on a GPU needs {RUNTIME} ({error}): pip install -U {RUNTIME}"
        ) from error
    model, graph, code, node = (
        tflite.ModelT(),
        tflite.SubGraphT(),
        tflite.OperatorCodeT(),
        tflite.OperatorT(),
    )
    tensors = [tflite.TensorT(), tflite.TensorT()]
    for name, tensor in zip("xy", tensors, strict=True):
        tensor.name, tensor.shape, tensor.buffer = name, [1, 4], 0
    code.builtinCode = code.deprecatedBuiltinCode = tflite.BuiltinOperator.TANH
    code.version = 1
    node.inputs, node.outputs = [0], [1]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [node], [0], [1]
    model.version, model.buffers = 3, [tflite.BufferT()]
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(512)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
