"""Running the TFLite converter in its worker process, with less ambitious settings if it fails."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from tfcompress.conversion.export import SIGNATURE
from tfcompress.conversion.operations import lacking
from tfcompress.conversion.precisions import PRECISIONS, Precision
from tfcompress.errors import ConversionError
from tfcompress.report import CompressionReport
from tfcompress.runtime import proof
from tfcompress.runtime.isolation import JobError, run_isolated, start
from tfcompress.runtime.sparse_rules import refusals

_JOB = "tfcompress.conversion.job"
_PRELOAD = ("tensorflow", _JOB)
_QUANTIZER = ("ai_edge_quantizer.quantizer", "ai_edge_quantizer.recipe")


def start_converter() -> None:
    """Lets the worker process import TensorFlow while the model is exported."""
    start(_PRELOAD)


@dataclass(frozen=True)
class Converter:
    """One exported model, ready to be converted.

    Attributes:
        saved_model: its SavedModel folder.
        folder: where to put files.
        io: dtype of inputs and outputs.
        samples: `.npz` of calibration batches, one array for each of `names`; None without any.
        names: the inputs' names.
        signatures: keys of the SavedModel's signatures; of several, the weights are shared.
    """

    saved_model: str
    folder: str
    io: str
    samples: str | None
    names: list[str]
    signatures: tuple[str, ...] = (SIGNATURE,)

    def convert(
        self, settings: Precision, report: CompressionReport, sparse: bool
    ) -> tuple[bytes, bytes]:
        """Converts, storing weights sparse where that is asked for and safe.

        Returns:
            The file, and the same with all weights stored dense.

        Raises:
            ConversionError: the converter failed.
        """
        content = self._convert(settings, report)
        if sparse:
            reasons = refusals(proof.read_sound(content), settings.name)
            report.settings["sparse"] = not reasons
            if not reasons:
                return self._convert(settings, report, sparse=True), content
            report.notes.append(
                "Weights are stored dense although sparse=True: " + "; ".join(reasons) + "."
            )
        return content, content

    def float_twin(self) -> bytes:
        """The same graph in float32 with float32 inputs and outputs."""
        twin = replace(self, io="float32", samples=None)
        return twin._convert(PRECISIONS["fp32"], CompressionReport("convert"))

    def _convert(
        self, settings: Precision, report: CompressionReport, sparse: bool = False
    ) -> bytes:
        out = os.path.join(self.folder, "model.tflite")
        arguments: dict[str, Any] = {
            "saved_model": self.saved_model,
            "out": out,
            "optimize": settings.optimize,
            "float16": settings.float16,
            "ops": list(settings.ops),
            "io": self.io,
            "sparse": sparse,
            "samples": self.samples if settings.calibrated else None,
            "names": self.names,
            "signatures": list(self.signatures),
            "annotated": bool(settings.stored_bits),
        }
        try:
            _job("run", arguments)
        except ConversionError as error:
            if not settings.fallback_ops or lacking(error.log or ""):
                raise
            report.notes.append(_fall_back(error, arguments, settings))
        if settings.quantizer:
            float_file, out = out, os.path.join(self.folder, "quantized.tflite")
            _job(
                "quantize_weights",
                {
                    "source": float_file,
                    "out": out,
                    "recipe": settings.quantizer,
                    "block": settings.block,
                },
                preload=(*_PRELOAD, *_QUANTIZER),
            )
        with open(out, "rb") as file:
            return file.read()


def _fall_back(error: ConversionError, arguments: dict[str, Any], settings: Precision) -> str:
    """Converts with less of the graph in integers, and says what that means."""
    why = _first_line(error)
    try:
        _job("run", {**arguments, "ops": list(settings.fallback_ops)})
        return f"The converter could not make every operator integer; the rest is float ({why})."
    except ConversionError:
        if arguments["io"] != "float32":
            raise ConversionError(
                f"The converter cannot calibrate this graph ({why}), as happens with the loops of "
                f"LSTM and GRU layers, so its inputs and outputs cannot be {arguments['io']}. Pass "
                f"io='float32': larger weights are then int8, activations float.\n{error}",
                log=error.log,
            ) from None
    try:
        # Calibration runs the float graph, and that dies on some (loops of recurrent layers).
        _job("run", {**arguments, "ops": [], "samples": None})
    except ConversionError:
        raise error from None
    return (
        f"The converter cannot calibrate this graph ({why}), as happens with the loops of LSTM and "
        "GRU layers: larger weights are int8 and activations float, as with precision 'dynamic'."
    )


def _job(name: str, arguments: dict[str, Any], preload: tuple[str, ...] = _PRELOAD) -> None:
    try:
        run_isolated(f"{_JOB}:{name}", arguments, preload=preload)
    except JobError as error:
        advice = {
            "died": "It died in native code.",
            "timeout": "It was stopped.",
            "memory": "Close other programs, or convert a smaller model.",
        }.get(error.reason, "")
        missing = lacking(str(error))
        if missing:
            raise ConversionError(missing, log=f"{error}\n{error.log}") from None
        log = error.log.strip()
        shown = f"\n--- the converter's output ---\n{log}" if log else ""
        raise ConversionError(
            f"The TFLite converter failed: {error} {advice}".rstrip() + shown, log=error.log
        ) from None


def _first_line(error: ConversionError) -> str:
    line = str(error).splitlines()[0].removeprefix("The TFLite converter failed: ")
    return line[:200].rstrip(". ")
