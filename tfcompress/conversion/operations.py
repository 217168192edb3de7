"""Operations that TensorFlow Lite lacks: another form while tracing, or a clear refusal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import tensorflow as tf

_LACKING: Final = re.compile(
    r"fused\[\"(?P<kind>\w+):\", \"(?P<scope>[^\"@]*)[^\n]*?'tf\.(?P=kind)' op is neither a custom"
)
_TOLD: Final = 5  # places of an operation in an error


@contextlib.contextmanager
def convertible() -> Iterator[None]:
    """Lets Keras trace `argmax` and `argmin` as the operators that they are while the block runs.

    Keras 3.9 and newer tell -0.0 from 0.0 there by a bit mask, for which TensorFlow Lite has no
    operator. Among equal numbers the first is found, and the two zeros are equal.
    """
    from keras.src.backend.tensorflow import numpy as operations

    before = {name: getattr(operations, name) for name in ("argmax", "argmin")}
    try:
        for name in before:
            setattr(operations, name, _plain(getattr(tf, name)))
        yield
    finally:
        for name, function in before.items():
            setattr(operations, name, function)


def _plain(find: Callable[..., Any]) -> Callable[..., Any]:
    def found(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        x = tf.convert_to_tensor(x)
        flat = tf.reshape(x, [-1]) if axis is None else x
        y = find(flat, axis=0 if axis is None else axis, output_type="int32")
        if not keepdims:
            return y
        return tf.reshape(y, [1] * len(x.shape)) if axis is None else tf.expand_dims(y, axis)

    return found


def lacking(said: str) -> str:
    """A converter's message in clear words, where it is about missing operators; "" else.

    Args:
        said: all that the converter has said.
    """
    places: dict[str, list[str]] = {}
    for found in _LACKING.finditer(said):
        # model/layer/.../operation
        place = "/".join(found["scope"].split("/")[1:-1])
        known = places.setdefault(found["kind"], [])
        if place and place not in known:
            known.append(place)
    if not places:
        return ""
    told = []
    for kind, known in places.items():
        more = f" and {len(known) - _TOLD} more" if len(known) > _TOLD else ""
        told.append(kind + (f" (in {', '.join(known[:_TOLD])}{more})" if known else ""))
    return (
        f"TensorFlow Lite has no operator for what the model computes: {', '.join(told)}. Write it "
        "with operations that it has, or end the model before it and compute the rest outside."
    )
