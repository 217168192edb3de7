"""`OnnxModel`: an ONNX model, run by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.errors import CorruptFileError
from tfcompress.files import read_bytes, write_bytes
from tfcompress.onnx.links import DEQUANTIZE, Links
from tfcompress.onnx.session import open_session
from tfcompress.onnx.tensorrt import Violation, find_violations
from tfcompress.runtime.adapter import TensorInfo
from tfcompress.runtime.model import match_inputs, quantize

BATCH = 64
"""Examples per run of a model whose batch size is open."""


class OnnxModel:
    """An ONNX model in memory.

    Args:
        content: its bytes, or the path of a file.
        report: how it was made.

    Attributes:
        content: bytes of the file.
        report: what `tfc.to_onnx` did, or None for a file.
        input_order: names of the inputs in the order of the Keras model's; None for a file.

    Raises:
        CorruptFileError: no ONNX model.
        ConfigError: no such file.

    Example:
        >>> scores = tfc.OnnxModel("model.onnx").predict(x)
    """

    def __init__(self, content: bytes | str | os.PathLike[str], *, report: Any = None) -> None:
        self.content = content if isinstance(content, bytes) else read_bytes(content)
        self.report = report
        self.input_order: tuple[str, ...] | None = None
        assert self.proto is not None

    def __repr__(self) -> str:
        return f"OnnxModel({len(self.content):,} bytes, inputs {[i.name for i in self.inputs]})"

    @cached_property
    def proto(self) -> Any:
        """The model as `onnx.ModelProto`."""
        import onnx
        from google.protobuf.message import DecodeError

        try:
            proto = onnx.load_model_from_string(self.content)
            onnx.checker.check_model(proto)
        except (DecodeError, onnx.checker.ValidationError) as error:
            raise CorruptFileError(f"This is no valid ONNX model: {error}") from error
        return proto

    @cached_property
    def inputs(self) -> list[TensorInfo]:
        """Its inputs; an open size is 0."""
        from onnx import helper

        constants = {tensor.name for tensor in self.proto.graph.initializer}
        infos: list[TensorInfo] = []
        for value in self.proto.graph.input:
            if value.name in constants:
                continue
            tensor = value.type.tensor_type
            shape = tuple(size.dim_value for size in tensor.shape.dim)
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            infos.append(TensorInfo(value.name, len(infos), shape, dtype, 0.0, 0))
        return infos

    @cached_property
    def output_grids(self) -> dict[str, float]:
        """Scale of each output's grid by name; 0 for none."""
        links = Links(self.proto.graph)
        found = {}
        for name in links.outputs:
            source = links.source(name)
            scale = None
            if source is not None and source.op_type == DEQUANTIZE:
                scale, _ = links.grid(source)
            found[name] = float(scale) if scale is not None and not scale.ndim else 0.0
        return found

    @property
    def violations(self) -> list[Violation]:
        """The rules of TensorRT's explicit quantization that it breaks."""
        return find_violations(self.proto)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the file; an existing one only with `overwrite`.

        Raises:
            ConfigError: it exists, or cannot be written.
        """
        return write_bytes(path, self.content, overwrite=overwrite)

    def predict(self, x: Any) -> Any:
        """Runs the model in ONNX Runtime, on the CPU.

        Args:
            x: an array (n, ...) for a model with one input, a dict of such arrays by input name
                for several; n is any number of examples.

        Returns:
            An array (n, ...) for one output, a dict of arrays by name for several.

        Raises:
            DataError: wrong shape, dtype or name.
            DeviceError: ONNX Runtime is missing, or refuses the model.
        """
        names = [value.name for value in self.proto.graph.output]
        values = dict(zip(names, self.run(names, x), strict=True))
        return values if len(values) > 1 else values[names[0]]

    def run(self, names: Sequence[str], x: Any, content: bytes | None = None) -> list[np.ndarray]:
        """Values of tensors, (n, ...) each.

        Args:
            names: of outputs.
            x: as `predict` takes it.
            content: the model with more outputs, to run in its place.
        """
        known = [TensorInfo(i.name, i.index, self._shape(i, x), i.dtype, 0.0, 0)
                 for i in self.inputs]  # fmt: skip
        arrays, count = match_inputs(known, x, self.input_order)
        arrays = [quantize(array, info) for array, info in zip(arrays, known, strict=True)]
        fixed = known[0].shape[0] if known[0].shape else 1
        size = fixed or BATCH
        session = self._session if content is None else open_session(content)
        parts: list[list[np.ndarray]] = []
        for start in range(0, count, size):
            used = min(size, count - start)
            given = {}
            for array, info in zip(arrays, known, strict=True):
                part = array[start : start + used]
                if fixed and used < fixed:  # padded with its own last example
                    part = np.concatenate([part, np.repeat(part[-1:], fixed - used, axis=0)])
                given[info.name] = part.reshape(info.shape) if fixed else part
            found = session.run(list(names), given)
            parts.append([value[:used] if value.ndim else value for value in found])
        return [np.concatenate([np.atleast_1d(p[i]) for p in parts]) for i in range(len(names))]

    def _shape(self, info: TensorInfo, x: Any) -> tuple[int, ...]:
        """An input's shape, where it is open that of the data."""
        if all(info.shape[1:]):
            return info.shape
        given = x[info.name] if isinstance(x, dict) and info.name in x else x
        actual = np.shape(given)
        if len(actual) != len(info.shape):
            return info.shape
        sizes = zip(info.shape[1:], actual[1:], strict=True)
        return (info.shape[0], *(own or size for own, size in sizes))

    @cached_property
    def _session(self) -> Any:
        return open_session(self.content)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.content, self.report, self.input_order)


def _rebuild(content: bytes, report: Any, order: tuple[str, ...] | None) -> OnnxModel:
    model = OnnxModel(content, report=report)
    model.input_order = order
    return model
