"""TimeDistributed: what it holds, and whether its steps can be examples of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from tfcompress.graph.calls import is_graph

if TYPE_CHECKING:
    from tfcompress.graph.flow import Call

_ELEMENTWISE = (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout)
_ALONG = (
    keras.activations.softmax,
    keras.activations.log_softmax,
    keras.activations.glu,
    keras.activations.sparsemax,
)
_KNOWN = ("keras.", "keras_hub.", "tfcompress.")


def holds_graph(layer: Any) -> bool:
    """Whether it is a TimeDistributed around a model whose layer calls are known."""
    return type(layer) is layers.TimeDistributed and is_graph(layer.layer)


def around(wrapper: Any, layer: Any, name: str = "") -> Any:
    """A TimeDistributed like another one, around a layer."""
    return layers.TimeDistributed(
        layer,
        name=name or wrapper.name,
        trainable=wrapper.trainable,
        dtype=wrapper.dtype_policy,
    )


def reshape(shape: Sequence[int | None], name: str) -> Any:
    """An operation that gives a tensor that shape, batch axis first."""
    from keras.src.ops import numpy  # the classes of operations are not public

    return numpy.Reshape(tuple(shape), name=name)


def apart(call: Call) -> bool:
    """Whether a call keeps examples apart, as far as that can be told.

    TimeDistributed hands its model the examples of one step at a time. Where none of its calls
    looks from one example to another, those of all steps may be in one batch.
    """
    operation = call.operation
    if any(value.shape[:1] != (None,) or None in value.shape[1:] for value in call.results):
        return False
    if isinstance(operation, keras.Layer):
        if not is_known(operation):
            return False
        held = operation._flatten_layers()
        if call.kwargs.get("training") and any(
            isinstance(one, layers.BatchNormalization) for one in held
        ):
            return False
    return _along_others(call)


def is_known(layer: Any) -> bool:
    """Whether a layer, with all that it holds, is known to keep nothing from call to call.

    Somebody's own layers and functions may, and may look from one example to another.
    """
    return all(
        type(one).__module__.startswith(_KNOWN)
        and not isinstance(one, layers.Lambda)
        and not getattr(one, "stateful", False)
        for one in layer._flatten_layers()
    )


def is_elementwise(operation: Any) -> bool:
    """Whether a layer computes each value alone, whatever the shape."""
    if type(operation) is layers.Activation:
        return operation.activation not in _ALONG
    return type(operation) in _ELEMENTWISE


def _along_others(call: Call) -> bool:
    """Whether what an operation goes along are other axes than the batch's."""
    operation, kind = call.operation, type(call.operation).__name__
    if kind == "GetItem":
        key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
        first = key[0] if isinstance(key, tuple) and key else key
        return first is Ellipsis or (isinstance(first, slice) and first == slice(None))
    if kind in ("Transpose", "Squeeze"):
        return True  # the batch's axis is where it was, as the shapes say
    for name in ("axis", "axes"):
        if not hasattr(operation, name):
            continue
        along = getattr(operation, name)
        if along is None:
            return isinstance(operation, keras.Layer)
        rank = max((len(value.shape) for value in call.inputs), default=0)
        if any(axis in (0, -rank) for axis in keras.tree.flatten(along)):
            return False
    return True
