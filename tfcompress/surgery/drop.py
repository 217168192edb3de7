"""`tfc.drop_layers`: layers and blocks cut out, and the graph joined again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError, ScopeError
from tfcompress.report import CompressionReport

if TYPE_CHECKING:
    import keras


def drop_layers(model: keras.Model, layers: Any, *, data: Any = None) -> keras.Model:
    """Cuts layers out of a model: what read their output reads their input instead.

    Layers that feed each other are cut out as one part, so that all layers of a residual block or
    of a Transformer layer go together. A part must read one tensor of the shape that it gives.
    What only fed the part goes too. All other weights stay, or with `data` are fitted to give what
    they gave. Train on to win back accuracy; `tfc.rank_blocks` says which blocks cost least.

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.
        layers: a layer's name or path, a glob such as `"block_5_*"` (where its layers alone cannot
            be cut out, with operations between them such as products of matrices), a layer class, a
            layer, a function `layer -> bool`; a range `("start", "end")`, a tuple of two names: all
            from the input of the one to the output of the other, both included; a block that
            `tfc.rank_blocks` found; or a list of these.
        data: inputs, (x, y) or batches of either, on which to fit; a thousand examples do.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` lists what was dropped.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        ConfigError: a part reads no tensor of the shape that it gives, or several, so that it is
            not clear which of them goes on; or nothing would be left.
        ScopeError: a name matches no layer.
        DataError: the data does not fit the model.

    Example:
        >>> smaller = tfc.drop_layers(model, ["block_5_*", ("block_8_expand", "block_8_add")])
        >>> print(smaller.compression_report)

    Source: Veit et al. 2016, "Residual Networks Behave Like Ensembles" (arXiv:1605.06431), Fan et
    al. 2020, "LayerDrop" (arXiv:1909.11556), and Sajjad et al. 2023 (arXiv:2004.03844).
    """
    from tfcompress.graph.regions import all_regions
    from tfcompress.surgery.restoring import restored
    from tfcompress.surgery.rewriting import check_graph, replaced

    check_graph(model)
    regions = all_regions(model)
    chosen, ranges, patterns = _chosen(layers, regions)
    try:
        joined = _all_ends(regions, chosen)
    except ConfigError:
        # Who names "block_2_*" means the products of matrices between these layers too.
        chosen = chosen.union(*(_between(one, found) for found in patterns for one in regions))
        joined = _all_ends(regions, chosen)
    for one, start, end in ranges:
        entry, tensor = _range_ends(one, start, end)
        joined[id(tensor)] = entry
    report = CompressionReport("drop_layers")
    gone = _gone(model, joined)
    direct = chosen | {
        id(node.operation)
        for one, start, end in ranges
        for node in one.between(*_range_ends(one, start, end))
    }
    for one in regions:
        for operation in {id(node.operation): node.operation for node in one.nodes}.values():
            if id(operation) in gone:
                why = "" if id(operation) in direct else "it only fed what was cut out"
                path = f"{one.prefix}{operation.name}"
                report.add(path, type(operation).__name__, "dropped", why)
    report.notes += [
        f"the input {tensor.name!r} is read by nothing now" for tensor in _unread(model, joined)
    ]
    return restored(model, replaced(model, {}, report, joined), report, data)


def _all_ends(regions: list[Any], chosen: set[int]) -> dict[int, Any]:
    """By `id` of each tensor that what is cut out gives, the one that goes on in its place."""
    joined: dict[int, Any] = {}
    for one in regions:
        for part in one.parts(chosen):
            joined |= _ends(one, part)
    return joined


def _chosen(
    layers: Any, regions: list[Any]
) -> tuple[set[int], list[tuple[Any, Any, Any]], list[set[int]]]:
    """What to cut out: `id`s of operations, and ranges as (graph, first node, last node).

    The last of the three has the `id`s that each glob pattern stands for.
    """
    from tfcompress.scope import resolve
    from tfcompress.surgery.blocks import Block

    named = [(one.path(node), node.operation) for one in regions for node in one.nodes]
    chosen: set[int] = set()
    ranges, patterns = [], []
    one = isinstance(layers, (Block, str, type)) or _is_range(layers) or callable(layers)
    if one or not isinstance(layers, Iterable):
        layers = [layers]
    layers = list(layers)
    if not layers:
        raise ConfigError("`layers` must name at least one layer, block or range. Received: []")
    for part in layers:
        if isinstance(part, Block):
            part = (part.start, part.end)
        if _is_range(part):
            ranges.append(_range(part, regions, named))
            continue
        if part is None:
            raise ScopeError("`layers` must name layers. Received: None")
        found = resolve(part, named, "layers")
        if isinstance(part, str) and any(mark in part for mark in "*?["):
            patterns.append(found)
        chosen |= _as_wholes(found, regions)
    return chosen, ranges, patterns


def _as_wholes(found: set[int], regions: list[Any]) -> set[int]:
    """Without what nested models hold: who names one means it as a whole."""
    from tfcompress.graph.distributed import model_in

    wholes = {
        id(model_in(node.operation))
        for one in regions
        for node in one.nodes
        if id(node.operation) in found
    }
    inner = {
        id(node.operation)
        for one in regions
        if one.prefix and id(one.model) in wholes
        for node in one.nodes
    }
    return found - inner


def _between(one: Any, found: set[int]) -> set[int]:
    """The `id`s of operations that are no layers and lie between layers of one pattern."""
    from keras import Layer

    def reached(nodes: Iterable[Any], reads: str, gives: str) -> set[int]:
        tensors: set[int] = set()
        through = set()
        for node in nodes:
            operation = node.operation
            met = tensors.intersection(map(id, getattr(node, reads)))
            if met and not isinstance(operation, Layer):
                through.add(id(operation))
            if id(operation) in found or id(operation) in through:
                tensors.update(map(id, getattr(node, gives)))
        return through

    ahead = reached(one.nodes, "input_tensors", "outputs")
    return ahead & reached(reversed(one.nodes), "outputs", "input_tensors")


def _is_range(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) == 2 and all(isinstance(p, str) for p in part)


def _range(part: tuple[str, str], regions: list[Any], named: Any) -> tuple[Any, Any, Any]:
    ends = []
    for name in part:
        nodes = _called(name, regions, named)
        if len(nodes) > 1:
            raise ConfigError(
                f"A range must start and end at one call each, and {name!r} of {part!r} stands for "
                f"{len(nodes)}: name a layer that is called once."
            )
        ends.append(nodes[0])
    (one, start), (other, end) = ends
    if one is not other:
        raise ConfigError(
            f"A range must start and end in the same model. Received: {part!r}, which are in "
            f"{one.model.name!r} and {other.model.name!r}."
        )
    return one, start, end


def _called(name: str, regions: list[Any], named: Any) -> list[tuple[Any, Any]]:
    """(graph, node) of each call that a name stands for: of that path, or else of that name."""
    from tfcompress.scope import resolve

    nodes = [(one, node) for one in regions for node in one.nodes]
    exact = [(one, node) for one, node in nodes if one.path(node) == name]
    if exact:
        return exact
    found = _as_wholes(resolve(name, named, "layers"), regions)
    return [(one, node) for one, node in nodes if id(node.operation) in found]


def _range_ends(one: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """The tensor before a range and the one behind it."""
    if len(end.outputs) != 1:
        raise ConfigError(f"A range must end in one tensor, and {one.path(end)!r} gives several.")
    (exit,) = end.outputs
    if start is not end and not any(node is start for node in one.before(exit)):
        raise ConfigError(
            f"A range must lead from its start to its end, and {one.path(end)!r} does not depend "
            f"on {one.path(start)!r}. Received: ({one.path(start)!r}, {one.path(end)!r})"
        )
    return _entry(one.entries([start]), exit, f"{one.path(start)!r} to {one.path(end)!r}"), exit


def _ends(one: Any, part: list[Any]) -> dict[int, Any]:
    """By `id` of each tensor that a part gives, the one that goes on in its place."""
    names = sorted({one.path(node) for node in part})
    shown = ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")
    entries = one.entries(part)
    return {id(exit): _entry(entries, exit, shown) for exit in one.exits(part)}


def _entry(entries: list[Any], exit: Any, shown: str) -> Any:
    from tfcompress.graph.regions import agree

    fitting = [tensor for tensor in entries if agree(tensor, exit)]
    if len(fitting) == 1:
        return fitting[0]
    before = ", ".join(str(tuple(tensor.shape)) for tensor in entries) or "nothing"
    received = f"Received: {shown}, which reads {before} and gives {tuple(exit.shape)}."
    if fitting:
        raise ConfigError(
            "A part that is cut out must read one tensor of the shape that it gives, so that it is "
            f"clear which goes on. {received} Name the layers of one of its branches too, or a "
            "range (start, end) whose start reads one tensor."
        )
    raise ConfigError(
        f"A part can be cut out where the shape before it is the shape behind it. {received} Add "
        "the layers that change the shape, or leave this one in."
    )


def _reader(joined: dict[int, Any]) -> Any:
    """(tensor) -> the tensor that is read in its place."""

    def read(tensor: Any) -> Any:
        while id(tensor) in joined:
            tensor = joined[id(tensor)]
        return tensor

    return read


def _needed(one: Any, joined: dict[int, Any]) -> tuple[set[int], set[int]]:
    """The `id`s of the operations and of the tensors that a graph's outputs depend on still."""
    read = _reader(joined)
    wanted = {id(read(tensor)) for tensor in one.model.outputs}
    kept = set()
    for node in reversed(one.nodes):
        if wanted.intersection(map(id, node.outputs)):
            wanted.update(id(read(tensor)) for tensor in node.input_tensors)
            kept.add(id(node.operation))
    return kept, wanted


def _unread(model: Any, joined: dict[int, Any]) -> list[Any]:
    from tfcompress.graph.regions import Regions

    one = Regions(model)
    _, before = _needed(one, {})
    _, after = _needed(one, joined)
    return [tensor for tensor in model.inputs if id(tensor) in before - after]


def _gone(model: Any, joined: dict[int, Any]) -> set[int]:
    """The `id`s of operations that no output depends on any longer."""
    from tfcompress.graph.distributed import model_in
    from tfcompress.graph.regions import all_regions

    kept: set[int] = set()
    regions = all_regions(model)
    for one in regions:
        kept |= _needed(one, joined)[0]
        if one.nodes and not any(id(node.operation) in kept for node in one.nodes):
            raise ConfigError(
                f"Something must be left of a model, and nothing would be of {one.model.name!r}. "
                "Drop fewer layers, or name a nested model to drop it as a whole."
            )
    # A nested model that is dropped takes all that it holds with it.
    held = {id(one.model): one for one in regions}
    live = set()
    stack = [model]
    while stack:
        one = held[id(stack.pop())]
        for node in one.nodes:
            if id(node.operation) in kept and id(node.operation) not in live:
                live.add(id(node.operation))
                if id(model_in(node.operation)) in held:
                    stack.append(model_in(node.operation))
    return {id(n.operation) for one in regions for n in one.nodes} - live
