"""Activations, as functions, layers and operations."""

from __future__ import annotations

import keras

from tfcompress.graph.flow import Call, Value
from tfcompress.quantization.lowering.builder import (
    ACTIVATIONS,
    Lowering,
    Unsupported,
    for_layers,
    for_operations,
    one_float,
)

layers = keras.layers


def _relu_of(b: Lowering, x: Value, kind: str) -> Value:
    return b.op(kind, [x], x.shape)


def _silu(b: Lowering, x: Value) -> Value:
    gate = b.op("sigmoid", [x], x.shape)
    return b.op("multiply", [x, gate], x.shape)


def _hard_sigmoid(b: Lowering, x: Value) -> Value:
    raised = b.op("add", [x], x.shape, {1: 3.0})
    return b.op("multiply", [_relu_of(b, raised, "relu6")], x.shape, {1: 1 / 6})


ACTIVATIONS.update(
    {
        "linear": lambda b, x: x,
        "relu": lambda b, x: _relu_of(b, x, "relu"),
        "relu6": lambda b, x: _relu_of(b, x, "relu6"),
        "leaky_relu": lambda b, x: b.op("leaky_relu", [x], x.shape, alpha=0.2),
        "sigmoid": lambda b, x: b.op("sigmoid", [x], x.shape),
        "tanh": lambda b, x: b.op("tanh", [x], x.shape),
        "softmax": lambda b, x: b.op("softmax", [x], x.shape),
        "silu": _silu,
        "hard_silu": lambda b, x: b.op("hard_swish", [x], x.shape),
        "hard_sigmoid": _hard_sigmoid,
        "gelu": lambda b, x: b.op("gelu", [x], x.shape, approximate=False),
    }
)


@for_layers(layers.Activation)
def _activation(b: Lowering, call: Call) -> Value:
    return b.activation(one_float(call), call.operation.activation)


@for_layers(layers.ReLU)
def _relu(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    if layer.threshold or layer.max_value not in (None, 6):
        raise Unsupported("a ReLU with another threshold than 0 or another maximum than 6")
    if layer.negative_slope:
        if layer.max_value is not None:
            raise Unsupported("a ReLU with a slope and a maximum")
        return b.op("leaky_relu", [x], x.shape, alpha=float(layer.negative_slope))
    return _relu_of(b, x, "relu" if layer.max_value is None else "relu6")


@for_layers(layers.LeakyReLU)
def _leaky(b: Lowering, call: Call) -> Value:
    x = one_float(call)
    return b.op("leaky_relu", [x], x.shape, alpha=float(call.operation.negative_slope))


@for_layers(layers.Softmax)
def _softmax(b: Lowering, call: Call) -> Value:
    x = one_float(call)
    if call.operation.axis not in (-1, len(x.shape) - 1):
        raise Unsupported("a softmax on another axis than the last")
    if b.are_scores(x):  # in float, as the runtime's int8 one is slower
        return b.op("attention_weights", [x], x.shape, factor=1.0)
    return b.op("softmax", [x], x.shape)


@for_operations("Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "HardSilu", "HardSigmoid")
def _plain_function(b: Lowering, call: Call) -> Value:
    names = {"Silu": "silu", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid"}
    kind = type(call.operation).__name__
    return ACTIVATIONS[names.get(kind, kind.lower())](b, one_float(call))


@for_operations("Softmax")
def _softmax_function(b: Lowering, call: Call) -> Value:
    return _softmax(b, call)


@for_operations("LeakyRelu")
def _leaky_function(b: Lowering, call: Call) -> Value:
    return _leaky(b, call)


@for_operations("Gelu")
def _gelu(b: Lowering, call: Call) -> Value:
    x = one_float(call)
    return b.op("gelu", [x], x.shape, approximate=bool(call.operation.approximate))
