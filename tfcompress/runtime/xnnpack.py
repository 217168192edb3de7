"""XNNPACK with the options that the `Interpreter` does not have: fp16 arithmetic, a weight cache.

ai-edge-litert's `CompiledModel` takes them. Source: `cpu_options.py` of ai-edge-litert and
TFLITE_XNNPACK_DELEGATE_FLAG_FORCE_FP16 in tflite/delegates/xnnpack/xnnpack_delegate.h.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tfcompress.errors import DeviceError
from tfcompress.quiet import native_stderr
from tfcompress.runtime import adapter, schema
from tfcompress.runtime.exposure import expose
from tfcompress.runtime.model import TFLiteModel, input_infos, output_infos
from tfcompress.runtime.surroundings import Surroundings

# Signed and unsigned 8-bit operators, kernels that are computed: the runtime's own defaults, which
# flags replace; without the first two int8 models leave XNNPACK.
_FP16_FLAGS: Final = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 2  # the last: FORCE_FP16


@functools.cache
def environment() -> Any:
    """What all models of a process share.

    A process's first model makes LiteRT look for every accelerator and load it, which takes longer
    than most models: that is done here, with the smallest model there is.

    Raises:
        DeviceError: ai-edge-litert is missing or too old.
    """
    try:
        from ai_edge_litert import environment as module
    except ImportError as error:
        raise DeviceError(
            "fp16 arithmetic and the weight cache need the CompiledModel of ai-edge-litert 2.3 or "
            f"newer ({error}): pip install -U ai-edge-litert"
        ) from None
    none = os.path.dirname(os.path.abspath(__file__))  # a folder that holds no accelerators
    with native_stderr():
        made = module.Environment.create(
            options=module.EnvironmentOptions(runtime_path=none, compiler_plugin_path=none)
        )
        from ai_edge_litert.compiled_model import CompiledModel

        CompiledModel.from_buffer(_smallest_model(), environment=made)
    return made


def _smallest_model() -> bytes:
    """A file with one operator, the absolute value of one number."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ABS
    tensors = [schema.TensorT() for _ in range(2)]
    for tensor, name in zip(tensors, ("x", "y"), strict=True):
        tensor.name, tensor.shape = name, [1]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0], [1]
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class XnnpackSession:
    """A loaded model on XNNPACK alone, with options; runs like `adapter.Session`.

    The content must have been proven sound, unless this already runs in a child process.

    Args:
        content: bytes of a `.tflite` file.
        threads: threads of the runtime.
        fp16: compute float32 operators in fp16.
        cache: file of packed weights, which is made if it does not exist.

    Raises:
        DeviceError: ai-edge-litert is missing or too old, or it refuses the file or an option:
            fp16 on a processor that cannot even emulate it, a cache that it cannot write.
    """

    def __init__(
        self, content: bytes, *, threads: int = 1, fp16: bool = False, cache: str | None = None
    ) -> None:
        adapter.check_setting("xnnpack", threads)
        shared = environment()
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import CpuOptions, Options

        options = Options(
            hardware_accelerators=HardwareAccelerator.CPU,
            cpu_options=CpuOptions(
                num_threads=threads,
                xnnpack_flags=_FP16_FLAGS if fp16 else None,
                xnnpack_weight_cache_path=cache or "",
            ),
        )
        parsed = schema.parse(content)
        self.inputs = input_infos(parsed)
        self.outputs = output_infos(parsed)
        self._content = content  # read in place
        try:
            with native_stderr():
                self._model = CompiledModel.from_buffer(
                    content, options=options, environment=shared
                )
                self._in = self._model.create_input_buffers(0)
                self._out = self._model.create_output_buffers(0)
        except (RuntimeError, ValueError) as error:
            asked = " with fp16 arithmetic" if fp16 else ""
            raise DeviceError(f"ai-edge-litert refuses the model{asked}: {error}") from error
        self._input_places = self._places(parsed, "inputs", self.inputs)
        self._output_places = self._places(parsed, "outputs", self.outputs)
        if cache and not (os.path.isfile(cache) and os.path.getsize(cache)):
            raise DeviceError(
                f"XNNPACK cannot keep its weights in {cache!r}: it wrote no file there. The folder "
                "must exist and be writable, and the model must have weights."
            )

    def _places(
        self, parsed: schema.Model, side: str, infos: list[adapter.TensorInfo]
    ) -> list[int]:
        """For each tensor of the graph's side the place of its buffer: signatures sort names."""
        if not parsed.signatures:
            return list(range(len(infos)))
        names = list(self._model.get_signature_by_index(0)[side])
        tensors: dict[str, int] = getattr(parsed.signatures[0], side)
        places = {tensors[name]: place for place, name in enumerate(names)}
        return [places[info.index] for info in infos]

    def run(self, inputs: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """Runs once; as `adapter.Session.run`."""
        for info, place in zip(self.inputs, self._input_places, strict=True):
            if info.index in inputs:
                self._in[place].write(np.ascontiguousarray(inputs[info.index]))
        self.invoke()
        return [self._read(i, p) for i, p in zip(self.outputs, self._output_places, strict=True)]

    def _read(self, info: adapter.TensorInfo, place: int) -> Any:
        count = int(np.prod(info.shape, dtype=np.int64))
        return self._out[place].read(count, info.dtype.type).reshape(info.shape)

    def invoke(self) -> None:
        """Runs once more on the inputs as they stand."""
        try:
            self._model.run_by_index(0, self._in, self._out)
        except RuntimeError as error:
            raise DeviceError(f"ai-edge-litert could not run the model: {error}") from error


def check_fp16(content: bytes, inputs: Mapping[int, np.ndarray]) -> None:
    """Makes sure that fp16 arithmetic is in force for a model, by what it computes.

    The model runs with and without it, what its float32 operators make turned into outputs. What
    only turns other numbers into float32 does not count: it computes nothing.

    Args:
        content: bytes of a proven `.tflite` file.
        inputs: tensor index to stored values.

    Raises:
        DeviceError: every value is that of float32 arithmetic, bit for bit.
    """
    tflite = TFLiteModel(content)
    graph = tflite.parsed.subgraphs[0]
    unpacked = Surroundings(tflite.parsed, graph).is_unpacked
    floats = [
        tensor
        for operator in graph.operators
        for tensor in operator.outputs
        if graph.tensors[tensor].dtype == "float32"
        and any(
            i >= 0 and graph.tensors[i].dtype == "float32" and not unpacked(i)
            for i in operator.inputs[:1]
        )
    ]
    if floats:
        seen = expose(tflite, floats).content
        half, full = (XnnpackSession(seen, fp16=fp16).run(inputs) for fp16 in (True, False))
        if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(half, full, strict=True)):
            return
    raise DeviceError(
        "fp16 arithmetic is not in force: the model computes what it computes in float32, bit for "
        "bit. It is for models whose operators are float32."
    )
