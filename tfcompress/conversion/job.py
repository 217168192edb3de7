"""The converter's side of `tfc.convert`: what runs in the worker process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.conversion.rewriting import finish_annotated
from tfcompress.conversion.tables import quantize_tables
from tfcompress.runtime import schema


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


def quantize_weights(source: str, out: str, recipe: str, block: int = 0) -> None:
    """Applies a recipe of ai-edge-quantizer to the float file `source`.

    Tables of embeddings, which it leaves as they are, become int8 with a scale for each row.

    Args:
        source: path of a float `.tflite`.
        out: path to write.
        recipe: name of a function in `ai_edge_quantizer.recipe`.
        block: weights of Dense layers that share a scale, where their inputs divide into such
            blocks; 0 for all that lead to an output.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    worker = quantizer.Quantizer(source)
    rules = json.loads(json.dumps(getattr(recipes, recipe)()))
    if block:
        with open(source, "rb") as file:
            rules += _in_blocks(rules[-1], file.read(), block)
    worker.load_quantization_recipe(rules)
    content = bytes(worker.quantize().quantized_model)
    with open(out, "wb") as file:
        file.write(quantize_tables(content))


def _in_blocks(rule: dict[str, Any], content: bytes, block: int) -> list[dict[str, Any]]:
    """A rule for each Dense layer whose inputs divide into blocks; a later rule wins."""
    rules = []
    for graph in schema.parse(content).subgraphs:
        for operator in graph.operators:
            if operator.name != "FULLY_CONNECTED":
                continue
            if graph.tensors[operator.inputs[1]].shape[-1] % block == 0:
                made: dict[str, Any] = json.loads(json.dumps(rule))
                made["operation"] = "FULLY_CONNECTED"
                made["regex"] = f"^{re.escape(graph.tensors[operator.outputs[0]].name)};$"
                made["op_config"]["weight_tensor_config"]["granularity"] = f"BLOCKWISE_{block}"
                rules.append(made)
    return rules
