"""Writing a `.tflite` anew after a change of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfcompress.errors import DeviceError

_ALIGNED = 16  # as the format's schema wants the data of buffers


def unpacked(content: bytes) -> Any:
    """The parts of a file, a `ModelT` of the schema's own Python code, to alter.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    return _libraries()[1].ModelT.InitFromPackedBuf(content, 0)


def packed(model: Any) -> bytes:
    """The file that has these parts.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    base: Any = _libraries()[0].Builder

    class Builder(base):
        """Packs bytes where kernels may read them as wider numbers."""

        def CreateNumpyVector(self, x: Any) -> Any:
            if x.dtype.itemsize == 1:
                self.Prep(_ALIGNED, x.nbytes)
            return super().CreateNumpyVector(x)

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def repacked(content: bytes, change: Callable[[Any], None]) -> bytes:
    """The file with a change made to its parts.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    model = unpacked(content)
    change(model)
    return packed(model)


def _libraries() -> tuple[Any, Any]:
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise DeviceError(
            f"Writing a .tflite needs ai-edge-litert and flatbuffers ({error}): "
            "pip install ai-edge-litert"
        ) from error
    return flatbuffers, schema


def add_metadata(content: bytes, name: str, value: bytes) -> bytes:
    """The file with one more entry of metadata, in place of one of the same name.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    import numpy as np

    def change(model: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value, np.uint8)
        entries = list(model.metadata or [])
        old = [entry for entry in entries if entry.name == name.encode()]
        if old:
            model.buffers[old[0].buffer] = buffer
            return
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*entries, entry]

    return repacked(content, change)
