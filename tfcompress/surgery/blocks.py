"""Residual blocks and Transformer layers of a model, found in its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

_ADDITIONS = ("Add",)  # the layer and the operation that `x + y` makes


@dataclass(frozen=True)
class Block:
    """A part of a model that can be left out, as its output has the shape of its input.

    Attributes:
        start: path of a layer that reads the input.
        end: path of the layer that gives the output.
        kind: `"residual"`: what it gives is its input plus a branch; `"transformer"`: attention
            and what follows it; `"layer"`: one layer or nested model.
        layers: paths of all layers and operations in it.
        loss: the loss of the model without it; NaN where it was not measured.
        rise: by how much that is more than with it.
        parameters: how many go with it.
        multiply_adds: how many go with it, for one example.
    """

    start: str
    end: str
    kind: str
    layers: tuple[str, ...]
    loss: float = float("nan")
    rise: float = float("nan")
    parameters: int = 0
    multiply_adds: int = 0

    @property
    def name(self) -> str:
        """What to call it."""
        return self.start if self.start == self.end else f"{self.start} to {self.end}"

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.kind}): loss {self.loss:.4g} ({self.rise:+.4g}), "
            f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds"
        )


def find_blocks(model: keras.Model) -> list[Block]:
    """All blocks of a Functional or Sequential model and those nested in it, in order.

    - Where an addition adds to a tensor what a branch has made of it, and nothing in the branch is
      read elsewhere, the branch and the addition are a block.
    - An attention block and the residual block that reads it, normalised or not, are a Transformer
      layer, with the normalisation behind it where that is where it normalises. It is a block
      beside its parts.
    - A nested model, or a layer of your own that holds layers, that gives the shape it reads is a
      block.
    - What is all of its model is none: nothing would be left of that.
    """
    from tfcompress.graph.regions import all_regions

    found: list[Block] = []
    for one in all_regions(model):
        spans = _residual(one)
        spans += _transformer(one, spans)
        spans += _holders(one)
        order = {id(node): number for number, node in enumerate(one.nodes)}
        spans.sort(key=lambda span: (order[id(span.end)], -len(span.nodes)))
        found += [span.block(one) for span in spans]
    return found


@dataclass(eq=False)
class _Span:
    """A block as nodes: from a tensor to the output of a node."""

    entry: Any
    start: Any
    end: Any
    nodes: list[Any]
    kind: str

    def block(self, one: Any) -> Block:
        paths = dict.fromkeys(one.path(node) for node in self.nodes)
        return Block(one.path(self.start), one.path(self.end), self.kind, tuple(paths))


def _once(one: Any, node: Any) -> bool:
    return len(one.of(node.operation)) == 1


def _span(one: Any, entry: Any, end: Any, kind: str) -> _Span | None:
    """The span from a tensor to a node, if it can be cut out by the names of its ends."""
    from tfcompress.graph.regions import agree

    (exit,) = end.outputs
    nodes = one.between(entry, exit)
    if not agree(entry, exit) or not _once(one, end) or _is_all(one, entry, exit):
        return None
    inside = {id(node) for node in nodes}
    for node in nodes:
        for tensor in node.outputs:
            # The branch is read by the block alone, and gives no output of the model.
            outside = one.is_output(tensor) or any(
                id(reader) not in inside for reader in one.readers(tensor)
            )
            if outside and tensor is not exit:
                return None
    for node in nodes:
        fitting = [t for t in one.entries([node]) if agree(t, exit)]
        if _once(one, node) and len(fitting) == 1 and fitting[0] is entry:
            return _Span(entry, node, end, nodes, kind)
    return None


def _is_all(one: Any, entry: Any, exit: Any) -> bool:
    """Whether nothing would be left of the graph: only as a nested model can it go as a whole."""
    others = [tensor for tensor in one.model.outputs if tensor is not exit]
    return all(one.maker(tensor) is None for tensor in (entry, *others))


def _residual(one: Any) -> list[_Span]:
    found = []
    for node in one.nodes:
        if type(node.operation).__name__ not in _ADDITIONS or len(node.outputs) != 1:
            continue
        for entry in node.input_tensors:
            others = [tensor for tensor in node.input_tensors if tensor is not entry]
            depends = {id(t) for n in one.behind(entry) for t in n.outputs}
            if others and all(id(tensor) in depends for tensor in others):
                span = _span(one, entry, node, "residual")
                if span is not None:
                    found.append(span)
    return found


def _transformer(one: Any, residual: Sequence[_Span]) -> list[_Span]:
    """Attention blocks joined with the block behind them."""
    found = []
    for first in residual:
        if not any(_attends(node.operation) for node in first.nodes):
            continue
        (out,) = first.end.outputs
        normalised = _only_normalisation(one, out)
        for second in residual:
            attends = any(_attends(node.operation) for node in second.nodes)
            between = out if normalised is None else normalised.outputs[0]
            if attends or second.entry not in (out, between):
                continue
            end = second.end
            if normalised is not None and second.entry is between:
                # Normalised behind each addition: behind the last one too.
                end = _only_normalisation(one, end.outputs[0]) or end
            span = _span(one, first.entry, end, "transformer")
            if span is not None:
                found.append(span)
    return found


def _only_normalisation(one: Any, tensor: Any) -> Any:
    """The normalisation that alone reads a tensor; None where there is none."""
    readers = one.readers(tensor)
    if len(readers) != 1 or one.is_output(tensor):
        return None
    kind = type(readers[0].operation).__name__
    return readers[0] if "Normalization" in kind else None


def _attends(operation: Any) -> bool:
    """Whether it is attention, or holds it; or a product of tensors, as attention is made of."""
    from keras import layers

    kinds = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention)
    if isinstance(operation, layers.Layer):
        return any(isinstance(layer, kinds) for layer in operation._flatten_layers())
    return type(operation).__name__ in ("DotProductAttention", "Matmul")


def _holders(one: Any) -> list[_Span]:
    from keras import layers

    from tfcompress.graph.calls import is_graph

    found = []
    for node in one.nodes:
        operation = node.operation
        if not isinstance(operation, layers.Layer) or len(node.outputs) != 1:
            continue
        own = not type(operation).__module__.startswith("keras.")
        holds = any(True for _ in operation._flatten_layers(include_self=False))
        if is_graph(operation) or (own and holds):
            kind = "transformer" if _attends(operation) else "layer"
            for entry in one.entries([node]):
                span = _span(one, entry, node, kind)
                if span is not None:
                    found.append(span)
                    break
    return found
