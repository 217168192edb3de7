"""Proving that a `.tflite` file is sound before native code in the user's process touches it.

Three steps, each cheap: our own bounds-checked reader, the static checks, and one trial run in a
child process with a time and a memory limit. Only then is the file loaded in this process.
"""

from __future__ import annotations

import functools
import hashlib
import os

import numpy as np

from tfcompress.errors import CorruptFileError, DeviceError
from tfcompress.runtime import adapter, schema, soundness
from tfcompress.runtime.exchange import exchanged, idle_value, run_on
from tfcompress.runtime.isolation import JobError, run_isolated

# Far above what any honest model takes for one inference on one thread of a slow board, with
# what a large file adds; `TFCOMPRESS_TRIAL_SECONDS` raises it for an exceptional one.
_TRIAL_SECONDS = 20.0
_TRIAL_BYTES = 1 << 30


def read_sound(content: bytes) -> schema.Model:
    """Parses and statically checks a file.

    Args:
        content: bytes of a `.tflite` file.

    Raises:
        CorruptFileError: it is not a sound TFLite file.
    """
    model = schema.parse(content)
    soundness.check(model)
    return model


def prove(content: bytes, *, runtime: str = "auto", backend: str = "xnnpack") -> schema.Model:
    """Parses, checks and tries out a file in a child process; results are remembered by content.

    Args:
        content: bytes of a `.tflite` file.
        runtime: runtime to try it on.
        backend: as for `adapter.Session`.

    Returns:
        The parsed file.

    Raises:
        CorruptFileError: the file is damaged, or kills, hangs or bloats the runtime.
        DeviceError: the file is whole, but this runtime does not support it.
    """
    model = read_sound(content)
    runtime = adapter.resolve_runtime(runtime)
    if backend == "reference" and _in_blocks(model):
        raise DeviceError(
            "The runtime's own kernels take scales of weights in blocks for those of channels, and "
            "compute something else without a word. Received: a file with such weights, and "
            "backend='reference'. Run it on 'xnnpack', or convert with precision 'dynamic-int4'."
        )
    _try_out(_Hashed(content), runtime, backend)
    return model


def _in_blocks(model: schema.Model) -> bool:
    return any(
        tensor.quantization is not None
        and tensor.quantization.blocks is not None
        and tensor.quantization.blocks.kind == "blockwise"
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


class _Hashed:
    """Bytes that are equal where their digests are, so that the cache keeps no content alive."""

    def __init__(self, content: bytes) -> None:
        self.digest = hashlib.sha256(content).digest()
        self.content: bytes | None = content

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.digest == self.digest


@functools.lru_cache(maxsize=4096)
def _try_out(hashed: _Hashed, runtime: str, backend: str) -> None:
    content, hashed.content = hashed.content, None
    assert content is not None
    trial(content, runtime=runtime, backend=backend)


def trial(
    content: bytes,
    *,
    runtime: str = "auto",
    backend: str = "xnnpack",
    inputs: list[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Runs a file in a child process.

    Args:
        content: bytes of a `.tflite` file that has passed `read_sound`.
        runtime: runtime to run it on.
        backend: as for `adapter.Session`.
        inputs: stored values for each input in the interpreter's order, (runs, *shape); None for
            one run on zeros.

    Returns:
        The outputs' stored values, (runs, *shape).

    Raises:
        CorruptFileError: the file kills, hangs or bloats the runtime.
        DeviceError: the runtime refuses it with a message.
    """
    runtime = adapter.resolve_runtime(runtime)
    seconds = float(os.environ.get("TFCOMPRESS_TRIAL_SECONDS", _TRIAL_SECONDS))
    with exchanged(content, inputs) as (arguments, outputs):
        try:
            run_isolated(
                f"{__name__}:_trial_job",
                {**arguments, "runtime": runtime, "backend": backend},
                preload=preload(runtime),
                seconds=seconds + len(content) / 20e6,
                memory=_TRIAL_BYTES + 6 * len(content),
            )
        except JobError as error:
            if error.reason == "exception" and error.kind == "DeviceError":
                raise DeviceError(str(error)) from None
            raise CorruptFileError(
                "The file passes the format's rules but the runtime does not survive it "
                f"({runtime}, {backend}): {error} Convert the model again, or fetch the file "
                "again; if you are sure of it, raise TFCOMPRESS_TRIAL_SECONDS."
            ) from None
        return outputs()


def preload(runtime: str) -> tuple[str, ...]:
    """Modules that a child process needs to run a file."""
    return ("tfcompress.runtime.noise", adapter.module_name(adapter.resolve_runtime(runtime)))


def _trial_job(path: str, runtime: str, backend: str, inputs: str | None, result: str) -> None:
    with open(path, "rb") as file:
        session = adapter.Session(file.read(), runtime=runtime, backend=backend)
    run_on(session, inputs, result)
    for signature in session.signatures()[1:] if inputs is None else ():
        for name, info in signature.inputs.items():
            signature.view(name)[...] = idle_value(info)
        signature.run()
