"""The converter's side of `tfc.convert`: what runs in the worker process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from tfcompress.conversion.rewriting import finish_annotated


def run(
    saved_model: str,
    out: str,
    optimize: bool,
    float16: bool,
    ops: list[str],
    io: str,
    sparse: bool,
    samples: str | None,
    names: list[str],
    signatures: list[str],
    annotated: bool = False,
) -> None:
    """Converts a SavedModel folder into the file `out`.

    Args:
        saved_model: folder with these signatures.
        out: path of the `.tflite` to write.
        optimize: set `Optimize.DEFAULT`.
        float16: store weights as float16.
        ops: names in `tf.lite.OpsSet`; empty for the default.
        io: dtype of inputs and outputs; `"float32"` leaves them as the model has them.
        sparse: store weights in the sparse encoding.
        samples: `.npz` of representative examples, (batches, batch, ...) for each input.
        names: the inputs' names, in the order of the arrays.
        signatures: their keys.
        annotated: the graph tells by fake-quant operators what is quantized; nothing else is.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=signatures)
    optimizations = [tf.lite.Optimize.DEFAULT] if optimize else []
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    converter.optimizations = optimizations
    if float16:
        converter.target_spec.supported_types = [tf.float16]
    if ops:
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, name) for name in ops]
    if annotated:
        # Otherwise TANH, LOGISTIC and SOFTMAX are quantized amid what is to stay float as well.
        converter._experimental_qdq_conversion_mode = "STATIC"
        converter.inference_input_type = tf.float32
        converter.inference_output_type = tf.float32
    if io != "float32":
        converter.inference_input_type = tf.as_dtype(io)
        converter.inference_output_type = tf.as_dtype(io)
    if samples is not None:
        converter.representative_dataset = lambda: _samples(samples, names)
    content = converter.convert()
    if annotated:
        content = finish_annotated(content)
    with open(out, "wb") as file:
        file.write(content)


def _samples(path: str, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    with np.load(path) as arrays:
        columns = [arrays[f"arr_{i}"] for i in range(len(names))]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def quantize_weights(source: str, out: str, recipe: str) -> None:
    """Applies a recipe of ai-edge-quantizer to the float file `source`.

    Args:
        source: path of a float `.tflite`.
        out: path to write.
        recipe: name of a function in `ai_edge_quantizer.recipe`.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    worker = quantizer.Quantizer(source)
    worker.load_quantization_recipe(json.loads(json.dumps(getattr(recipes, recipe)())))
    content = worker.quantize().quantized_model
    with open(out, "wb") as file:
        file.write(content)
