"""Operations that TensorFlow Lite lacks: another form in the graph, or a clear refusal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tensorflow.core.protobuf import saved_model_pb2

_LACKING: Final = re.compile(
    r"fused\[\"(?P<kind>\w+):\", \"(?P<scope>[^\"@]*)[^\n]*?'tf\.(?P=kind)' op is neither a custom"
)
_TOLD: Final = 5  # places of an operation in an error


def without_bit_masks(folder: str) -> None:
    """Makes plain operators of Keras's `argmax` and `argmin` in a SavedModel.

    Since version 3.9 Keras tells -0.0 from 0.0 there, by a bit mask for which TensorFlow Lite has
    no operator: `argmax(where((x == 0) & signbit(x), -tiny, x))`. Without it the two zeros are
    equal, and of equal numbers the first is found.
    """
    path = os.path.join(folder, "saved_model.pb")
    saved = saved_model_pb2.SavedModel()
    with open(path, "rb") as file:
        saved.ParseFromString(file.read())
    changed = False
    for part in saved.meta_graphs:
        changed |= _unmasked(part.graph_def.node)
        for function in part.graph_def.library.function:
            changed |= _unmasked(function.node_def)
    if changed:
        with open(path, "wb") as file:
            file.write(saved.SerializeToString())


def _unmasked(nodes: Sequence[Any]) -> bool:
    """Lets what reads such a `where` read x; whether there was one."""
    known = {node.name: node for node in nodes}
    plain = {}
    for node in nodes:
        if node.op == "SelectV2":
            both = known.get(_maker(node.input[0]))
            if both is not None and both.op == "LogicalAnd":
                asked = [known.get(_maker(name)) for name in both.input]
                if _asks_for_negative_zero(asked, node.input[2], known):
                    plain[node.name] = node.input[2]
    for node in nodes:
        for number, name in enumerate(node.input):
            if _maker(name) in plain:
                node.input[number] = plain[_maker(name)]
    return bool(plain)


def _asks_for_negative_zero(asked: Sequence[Any], x: str, known: Mapping[str, Any]) -> bool:
    """Whether these are `x == 0` and `bitcast(x) & mask < 0`."""
    if [getattr(one, "op", "") for one in asked] != ["Equal", "Less"]:
        return False
    equal, less = asked
    masked = known.get(_maker(less.input[0]))
    if masked is None or masked.op != "BitwiseAnd":
        return False
    bits = known.get(_maker(masked.input[0]))
    return bits is not None and bits.op == "Bitcast" and equal.input[0] == bits.input[0] == x


def _maker(name: str) -> str:
    """The node that an input comes from: in a function it is `node:output:0`."""
    return name.split(":")[0]


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
