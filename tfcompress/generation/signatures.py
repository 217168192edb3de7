"""The functions of a decoder's file: a few tokens and caches in, scores and new rows out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfcompress.conversion.export import float32_compute, quiet
from tfcompress.generation.attention_layers import laid_open
from tfcompress.generation.decoder import DECODE
from tfcompress.generation.incremental import advance
from tfcompress.generation.plan import Plan, check_decoder
from tfcompress.graph.flow import read_flow


def planned(model: keras.Model) -> Plan:
    """How a model is computed token by token.

    Raises:
        ModelTypeError: it cannot be.
    """
    check_decoder(model)
    with float32_compute(model):
        return Plan(laid_open(read_flow(model)), model.inputs[0].shape[1], model.name)


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
        return {key: _traced(plan, context, count, key) for key, count in counts.items()}


def _traced(plan: Plan, context: int, count: int, key: str) -> Any:
    signature = {
        "tokens": tf.TensorSpec((1, count), tf.int32, name="tokens"),
        "position": tf.TensorSpec((1,), tf.int32, name="position"),
    }
    for number, cache in enumerate(plan.caches):
        name = f"cache_{number}"
        signature[name] = tf.TensorSpec(cache.sized(context), tf.float32, name=name)

    def run(**inputs: Any) -> dict[str, Any]:
        caches = [inputs[f"cache_{n}"] for n in range(len(plan.caches))]
        output, new = advance(plan, inputs["tokens"], inputs["position"], caches)
        named = {f"new_{n}": rows for n, rows in enumerate(new)}
        if key == DECODE:
            name = "probabilities" if plan.ends_in_softmax else "logits"
            named[name] = tf.cast(tf.reshape(output, (1, output.shape[-1])), tf.float32)
        return {name: tf.identity(value, name=name) for name, value in named.items()}

    return tf.function(run, autograph=False).get_concrete_function(**signature)
