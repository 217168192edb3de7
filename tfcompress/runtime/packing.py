"""Writing a `.tflite` anew after a change of its parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.errors import DeviceError

_ALIGNED = 16  # as the format's schema wants the data of buffers


def opened(content: bytes) -> Any:
    """A file's parts, a `ModelT` of the schema's own Python code, to be altered and `packed`.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    model = format_code().ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers or []:
        if buffer.offset > 1:  # stored behind the container, as ai-edge-quantizer does
            data = content[buffer.offset : buffer.offset + buffer.size]
            buffer.data, buffer.offset, buffer.size = np.frombuffer(data, np.uint8), 0, 0
    return model


def packed(model: Any, *, share: bool = False) -> bytes:
    """The bytes of a file of these parts, the data of buffers aligned as kernels may read it.

    Args:
        model: the parts.
        share: store equal lists and texts once, as the format allows.
    """
    import flatbuffers

    stored: dict[tuple[str, bytes], Any] = {}

    class Builder(flatbuffers.Builder):
        def CreateNumpyVector(self, x: Any) -> Any:
            key = (x.dtype.str, x.tobytes()) if share else ("", b"")
            if key in stored:
                return stored[key]
            if x.dtype.itemsize == 1:
                self.Prep(_ALIGNED, x.nbytes)
            place = super().CreateNumpyVector(x)
            if share:
                stored[key] = place
            return place

        def CreateString(self, s: Any, *rest: Any) -> Any:
            return self.CreateSharedString(s) if share else super().CreateString(s, *rest)

        def CreateSharedString(self, s: Any, *rest: Any) -> Any:
            text = s.encode() if isinstance(s, str) else bytes(s)
            if ("text", text) not in stored:
                stored["text", text] = super().CreateString(s, *rest)
            return stored["text", text]

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_metadata(content: bytes, name: str, value: bytes) -> bytes:
    """The file with one more entry of metadata, in place of one of the same name.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    model, schema = opened(content), format_code()
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(value, np.uint8)
    entries = list(model.metadata or [])
    old = [entry for entry in entries if entry.name == name.encode()]
    if old:
        model.buffers[old[0].buffer] = buffer
    else:
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*entries, entry]
    return packed(model)


def format_code() -> Any:
    """The schema's own Python code: classes of a file's parts, and its enumerations.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    try:
        import flatbuffers  # noqa: F401
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise DeviceError(
            f"Writing a .tflite needs ai-edge-litert and flatbuffers ({error}): "
            "pip install ai-edge-litert"
        ) from error
    return schema
