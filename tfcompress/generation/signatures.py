"""The functions of a decoder's file: a few tokens and caches in, scores and new rows out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfcompress.conversion.export import float32_compute, quiet
from tfcompress.generation.attention_layers import laid_open
from tfcompress.generation.decoder import DECODE, ENCODE
from tfcompress.generation.incremental import advance, remember
from tfcompress.generation.plan import Plan, check_decoder
from tfcompress.graph.flow import read_flow


def planned(model: keras.Model, target: str | None = None) -> Plan:
    """How a model is computed token by token.

    Args:
        model: the model.
        target: name of the input that goes on; None for the last.

    Raises:
        ModelTypeError: it cannot be.
    """
    number = check_decoder(model, target)
    with float32_compute(model):
        flow = laid_open(read_flow(model))
        return Plan(flow, number, model.inputs[number].shape[1], model.name)


def traced(
    model: keras.Model, plan: Plan, context: int, counts: Mapping[str, int]
) -> dict[str, Any]:
    """Traces a function for each number of tokens at a time.

    Args:
        model: the model.
        plan: how it is computed.
        context: rows of the caches.
        counts: name of each function to how many tokens it takes.
    """
    with float32_compute(model), quiet():
        functions = {key: _traced(plan, context, count, key) for key, count in counts.items()}
        if plan.sources:
            functions[ENCODE] = _encoding(plan)
        return functions


def _encoding(plan: Plan) -> Any:
    (source,) = plan.sources
    signature = {"source": tf.TensorSpec((1, source.shape[1]), tf.int32, name="source")}

    def run(**inputs: Any) -> dict[str, Any]:
        memories = remember(plan, [inputs["source"]])
        return {f"memory_{n}": tf.identity(m, name=f"memory_{n}") for n, m in enumerate(memories)}

    return tf.function(run, autograph=False).get_concrete_function(**signature)


def _traced(plan: Plan, context: int, count: int, key: str) -> Any:
    signature = {
        "tokens": tf.TensorSpec((1, count), tf.int32, name="tokens"),
        "position": tf.TensorSpec((1,), tf.int32, name="position"),
    }
    for number, cache in enumerate(plan.caches):
        name = f"cache_{number}"
        signature[name] = tf.TensorSpec(cache.sized(context), tf.float32, name=name)

    for number, value in enumerate(plan.memories):
        sizes = [1 if size is None else size for size in value.shape]
        name = f"memory_{number}"
        signature[name] = tf.TensorSpec(sizes, value.dtype, name=name)

    def run(**inputs: Any) -> dict[str, Any]:
        caches = [inputs[f"cache_{n}"] for n in range(len(plan.caches))]
        memories = [inputs[f"memory_{n}"] for n in range(len(plan.memories))]
        output, new = advance(plan, inputs["tokens"], inputs["position"], caches, memories)
        named = {f"new_{n}": rows for n, rows in enumerate(new)}
        if key == DECODE:
            name = "probabilities" if plan.ends_in_softmax else "logits"
            named[name] = tf.cast(tf.reshape(output, (1, output.shape[-1])), tf.float32)
        return {name: tf.identity(value, name=name) for name, value in named.items()}

    return tf.function(run, autograph=False).get_concrete_function(**signature)
