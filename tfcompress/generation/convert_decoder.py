"""`tfc.convert_decoder`: a language model to a `.tflite` that generates text."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.conversion.precisions import PRECISIONS, get_precision
from tfcompress.errors import ConfigError, ConversionError
from tfcompress.files import check_writable
from tfcompress.generation.decoder import DECODE, PREFILL, Decoder
from tfcompress.report import CompressionReport
from tfcompress.runtime.model import TFLiteModel

if TYPE_CHECKING:
    import keras

_CHECKED = 24  # tokens of a text that goes through the file and the model
_FLOAT_ERROR = 1e-3  # of the largest score


def convert_decoder(
    model: keras.Model,
    precision: str = "fp32",
    *,
    context: int | None = None,
    prefill: int = 64,
    target: str | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> TFLiteModel:
    """Converts a decoder to a TFLite file that computes one token at a time.

    The file has two signatures, which share their weights. `prefill` takes the next `prefill`
    tokens of a prompt, `decode` one token, for which it gives the scores of the next:

    - inputs `tokens` int32 (1, n), `position` int32 (1,), the first one's place, and `cache_0`,
      `cache_1`, ...: keys and values of the tokens before, in rows along one axis; rows from
      `position` on are not read;
    - outputs `new_0`, `new_1`, ...: the rows of these tokens, which the caller writes into the
      caches, and of `decode` `logits` (1, vocabulary), or `probabilities` where the model ends in
      a softmax.

    `tfc.generate` runs such files. Any Functional decoder will do in which nothing but attention
    looks at other places, also one that was pruned, shrunk or factorized: which axis is time, and
    what must be remembered, is found by trying each layer on a text and on a part of it.

    Args:
        model: int32 (batch, length) -> scores (batch, length, vocabulary); or of two such inputs.
        precision: as for `tfc.convert`, those that need no data: `"fp32"`, `"fp16"`, `"dynamic"`,
            `"dynamic-int4"`, `"dynamic-int4-blocks"`, `"weight-int8"`, `"weight-int4"`.
        context: tokens that the file can remember, prompt and answer together; the model's length
            by default, which is the most.
        prefill: tokens of a prompt that are computed at once.
        target: of a model with two inputs, as a translator, the name of the one that is written;
            the last one by default. A third signature, `encode`, takes the other text, `source`,
            padded with 0; what it gives (`memory_0`, ...) is an input of the other two.
        path: where to write the file as well.
        overwrite: allow `path` to exist.

    Returns:
        The file, for which the model's scores were compared on a text of random tokens:
        `.report.settings` has `largest_error` (of the largest score) and `agreement` (the share of
        places with the same best token).

    Raises:
        ModelTypeError: no such decoder.
        ConfigError: an argument out of its range; a path that exists or cannot be written.
        ConversionError: the converter failed, or the file does not give the model's scores.

    Example:
        >>> tfc.convert_decoder(model, "dynamic", path="gpt.tflite")
        >>> list(tfc.generate("gpt.tflite", [1, 2, 3], max_new_tokens=5))

    Source: the cache returns new rows only and joins scores in place of keys, as measured fastest
    on XNNPACK; Pope et al. 2022, "Efficiently Scaling Transformer Inference".
    """
    settings = get_precision(precision, "float32")
    if settings.calibrated:
        free = [name for name, row in PRECISIONS.items() if not row.calibrated]
        raise ConfigError(
            f"A decoder converts to a precision that needs no data, {free}. Received: {precision!r}"
        )
    for name, value in (("context", context), ("prefill", prefill)):
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise ConfigError(f"`{name}` must be a whole number >= 1. Received: {value!r}")
    if path is not None:
        check_writable(path, overwrite=overwrite)

    from tfcompress.conversion import export
    from tfcompress.conversion.converter import Converter, start_converter
    from tfcompress.generation.signatures import planned, traced

    started = time.perf_counter()
    export.check_model(model)
    start_converter()
    plan = planned(model, target)
    length = plan.length if context is None else context
    if length > plan.length:
        raise ConfigError(
            f"The model {model.name!r} was built for {plan.length} tokens. "
            f"Received: context={context}"
        )
    prefill = min(prefill, length)
    report = CompressionReport(
        "convert_decoder", {"precision": precision, "context": length, "prefill": prefill}
    )
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        saved = f"{folder}/saved_model"
        functions = traced(model, plan, length, {DECODE: 1, PREFILL: prefill})
        export.save_functions(model, functions, saved)
        converter = Converter(saved, folder, "float32", None, [], tuple(functions))
        content, _ = converter.convert(settings, report, False)
    result = TFLiteModel(content, report=report)
    result.name = model.name
    if result.keeps_state:
        raise ConversionError(
            "The file holds variables in place of weights: the model's layers do not track them."
        )
    _compare(model, plan, result, precision == "fp32")
    report.settings["seconds"] = round(time.perf_counter() - started, 2)
    if path is not None:
        result.save(path, overwrite=overwrite)
    return result


def _compare(model: Any, plan: Any, tflite: TFLiteModel, exact: bool) -> None:
    """Compares the scores of file and model along a text; their logarithms, of probabilities."""
    import keras

    from tfcompress.conversion.export import float32_compute

    decoder = Decoder(tflite)
    count = min(decoder.context, decoder.chunk + 3, decoder.chunk * 2 + _CHECKED)
    rng = np.random.default_rng(0)
    text = rng.integers(0, decoder.vocabulary, count)
    whole = np.zeros((1, plan.length), "int32")
    whole[0, :count] = text
    inputs = [whole]
    if plan.sources:
        source = np.zeros((1, decoder.source_length), "int32")
        source[0, : decoder.source_length // 2] = 1
        decoder.listen(source[0, : decoder.source_length // 2].tolist())
        own = [value is plan.target for value in plan.flow.input_values]
        inputs = [whole if is_target else source for is_target in own]
    given_inputs = keras.tree.pack_sequence_as(plan.flow.inputs, inputs)
    with float32_compute(model):
        (output,) = keras.tree.flatten(model(given_inputs, training=False))
    expected = np.asarray(output, "float32")[0]
    if decoder.probable:
        expected = np.log(np.maximum(expected, 1e-30))
    start = max(count - 3, 1)
    decoder.read([int(token) for token in text[:start]])
    found = []
    for place in range(start, count + 1):
        found.append((place - 1, decoder.scores()))
        if place < count:
            decoder.read([int(text[place])])
    places = [place for place, _ in found]
    given, wanted = np.stack([scores for _, scores in found]), expected[places]
    error = float(np.abs(given - wanted).max() / max(np.abs(wanted).max(), 1e-6))
    settings = tflite.report.settings
    settings["largest_error"] = float(f"{error:.2g}")
    settings["agreement"] = float((given.argmax(-1) == wanted.argmax(-1)).mean())
    if not np.isfinite(given).all() or (exact and error > _FLOAT_ERROR):
        raise ConversionError(
            f"The file does not give the scores of the model {model.name!r} token by token: they "
            f"are off by {error:.2g} of the largest. Attention may look ahead, which a decoder "
            "cannot; build it as tfc.models.gpt_decoder does."
        )
