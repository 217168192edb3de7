"""`tfc.shrink`: whole channels, heads and neurons taken out of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike

if TYPE_CHECKING:
    import keras
    import numpy as np

TARGETS = ("multiply_adds", "parameters", "latency")
POOLINGS = ("global", "layer")
_TOLD = 3  # barriers in an error


def shrink(
    model: keras.Model,
    ratio: float | None = None,
    *,
    target: str = "multiply_adds",
    importance: str | Callable[[Any], Any] = "magnitude",
    data: Any = None,
    loss: Any = None,
    round_to: int = 8,
    pooling: str = "global",
    floor: float | None = None,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
    restore: bool = True,
    whole_heads: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Takes the least important channels out of a model, so that it really is smaller and faster.

    Which channels hang together is found by following every index through the graph: through
    additions and products, concatenation and splitting, flattening, reshaping, depthwise and
    grouped convolutions, recurrent layers, normalisation, pooling and squeeze-and-excite. They go
    together, from all layers that make, follow or read them. In Transformers whole heads, widths
    of queries and keys, neurons of the feed-forward part and the width of embeddings go. Operators
    of which it is not known what they do to single channels keep all of theirs. Inputs and outputs
    of the model stay as they are.

    Train on afterwards to win back accuracy; `tfc.ShrinkSchedule` takes turns.

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.
        ratio: the share of the target to take away: 0.5 for half of it.
        target: `"multiply_adds"`, `"parameters"`, or `"latency"` of the converted float model on
            this machine, as `tfc.benchmark` measures it.
        importance: what goes first. `"magnitude"`: the smallest L2 norm of the weights that make a
            channel; `"magnitude_l1"`: the smallest L1 norm of them; `"bn_gamma"`: the smallest
            |gamma| of the BatchNormalization behind it, where there is one, for models trained
            with `tfc.BatchNormSparsity`; `"taylor"`: the smallest change of the loss without it,
            to first order; `"activation"`: the smallest mean |activation|; `"geometric_median"`:
            what the other channels of its layer stand for best; `"random"`; or a function of an
            array (channels, weights of each) that gives a number for each channel.
        data: examples: for `"taylor"`, `(x, y)` or batches of such, as a list, a generator, a
            `tf.data.Dataset` or a `keras.utils.PyDataset`, that end; else inputs, or batches of
            them, will do. Sample weights may be there, and do not count. Where it is given, what
            is left is fitted on it (`restore`); a thousand examples do.
        loss: for `"taylor"`, as `compile` takes it; None for what the model is compiled with.
        round_to: counts of channels are multiples of this, or stay. Heads go one by one.
        pooling: `"global"`, the least important channels of the whole model: with `"taylor"`, for
            what they cost; else relative to the mean of channels that stand in the same places.
            `"layer"`, the same share of each.
        floor: the share of its channels that every layer keeps, 0 to 1; None for a tenth, or less
            where the ratio is not to be had so. Small first layers gain from more: few channels,
            of which everything else is made.
        include: layers whose channels may go; None for all.
        exclude: layers that keep the channels they make.
        restore: with data, layers that read what is gone get the weights with which they come
            closest to what they gave before, in least squares, and the statistics of
            BatchNormalization move along. Most of the accuracy that is lost is back before any
            training.
        whole_heads: of attention that is written out in products of matrices, as in `tfc.models`,
            whole heads go; else channels of all heads at once. (Of Keras's MultiHeadAttention both
            go, whichever counts less.)
        seed: of `"random"`.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` gives channels before and
        after of each layer, and what kept its channels and why.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        ConfigError: an argument is out of its range, or the ratio cannot be reached; a scope
            matches nothing (`ScopeError`).
        DataError: the importance needs data, or the data does not fit the model.
        ConversionError: with `target="latency"`, the model cannot be converted.
        DeviceError: with `target="latency"`, no runtime is installed, or it does not run the model.

    Removing channels whose values are 0 leaves the outputs as they are. Exceptions are layers that
    take a mean or a maximum over channels, as LayerNormalization does: they follow, and change a
    little.

    Example:
        >>> smaller = tfc.shrink(model, 0.5)
        >>> print(smaller.compression_report)

    Source: Li et al. 2017 (arXiv:1608.08710) for the norm of filters, Liu et al. 2017
    (arXiv:1708.06519) for gamma, Molchanov et al. 2017 (arXiv:1611.06440) for Taylor expansion, He
    et al. 2019 (arXiv:1811.00250) for the geometric median, He et al. 2017 (arXiv:1707.06168) for
    least squares, Fang et al. 2023 (arXiv:2301.12900) for groups by dependency.
    """
    from tfcompress.surgery.channels.importance import check_importance, importances
    from tfcompress.surgery.channels.units import families
    from tfcompress.surgery.examples import repeatable
    from tfcompress.surgery.rewriting import Choice, check_graph

    share = _check(ratio, target, round_to, pooling)
    _check_floor(floor)
    check_importance(importance, data)
    check_graph(model)
    from tfcompress.surgery.channels.analysis import Analysis

    data = repeatable(data)
    choice = Choice(model, include, exclude)
    found = Analysis(model, choice.left, whole_heads)
    groups = families(found)
    costs = _costs(model, found, groups, target) if importance == "taylor" else None
    scores = importances(found, groups, importance, model, data, loss, seed, costs)
    name = importance if isinstance(importance, str) else getattr(importance, "__name__", "custom")
    report = CompressionReport(
        "shrink",
        {"ratio": share, "target": target, "importance": name, "round_to": int(round_to),
         "pooling": pooling},
    )  # fmt: skip
    if floor is not None:
        report.settings["floor"] = float(floor)
    gone = _chosen(model, found, groups, scores, report)
    return without(model, found, gone, report, data if restore else None)


def without(
    model: keras.Model, found: Any, gone: np.ndarray, report: Any, data: Any = None
) -> keras.Model:
    """The model without some classes of channels, and a report of what became of each layer.

    With data, what is left is fitted to what was.
    """
    from tfcompress.surgery.channels.atoms import Kept
    from tfcompress.surgery.channels.rebuild import replacements
    from tfcompress.surgery.channels.telling import tell
    from tfcompress.surgery.restoring import Removed, restored
    from tfcompress.surgery.rewriting import replaced

    kept = Kept(found.classes, gone)
    tell(found, kept, report, lambda _: "its channels are important enough, or too few to round")
    smaller = replaced(model, replacements(found, kept), report)
    return restored(model, smaller, report, data, removed=Removed(found, kept))


def _chosen(model: Any, found: Any, groups: Any, scores: Any, report: Any) -> np.ndarray:
    """Which classes go."""
    from tfcompress.surgery.channels.selection import FAR, LEAST_SHARE, Order, closest

    settings = report.settings
    share, target = settings["ratio"], settings["target"]
    saved_by = _savings(model, found, target)
    classes = int(found.classes.max()) + 1
    known: dict[tuple[int, ...], float] = {}

    def saved(counts: Sequence[int]) -> float:
        if tuple(counts) not in known:
            known[tuple(counts)] = saved_by(order.gone(counts, classes))
        return known[tuple(counts)]

    most = 0.0
    floor = settings.get("floor")
    for least in (LEAST_SHARE, 0.0) if floor is None else (floor,):
        order = Order(groups, scores, settings["round_to"], settings["pooling"], least)
        most = saved(order.kept_counts(order.steps))
        if most >= share:
            break
    if most < share * 0.95:
        raise ConfigError(
            f"`ratio` must be a share of the {target} that can be taken away: at most {most:.3f} "
            f"here. Received: {share!r}. Ask for less, lower round_to (now "
            f"{settings['round_to']}) or the floor, or include more layers.{_barriers(found)}"
        )
    counts = closest(order, saved, share, exact=target != "latency")
    reached = report.settings["reached"] = round(saved(counts), 4)
    if target != "latency" and abs(reached - share) > FAR:
        report.notes.append(
            f"{reached:.1%} of the {target} go, which is as close to {share:.1%} as steps of "
            f"round_to={settings['round_to']} come here; a lower one comes closer."
        )
    return order.gone(counts, classes)


def _barriers(found: Any) -> str:
    """A sentence on what keeps the channels of layers, as far as the user did not ask for it."""
    from tfcompress.surgery.channels.telling import REACHES_OUTPUT, why_kept

    records = [one for one in found.records.values() if not found.left(one.operation)]
    told = [f"{one.path!r} ({one.barrier})" for one in records if one.barrier]
    kept = [(one.path, why_kept(found, one)) for one in records if one.made and not one.barrier]
    kept.sort(key=lambda one: one[1] == REACHES_OUTPUT)  # which every model's last layers do
    told += [f"{path!r} ({why})" for path, why in kept if why]
    more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return f" Channels stay because of {', '.join(told[:_TOLD])}{more}." if told else ""


def _savings(model: Any, found: Any, target: str) -> Callable[[np.ndarray], float]:
    """(classes that go) -> the share of the target that goes with them."""
    from tfcompress.surgery.channels.atoms import Kept
    from tfcompress.surgery.channels.cost import Cost

    if target == "latency":
        from tfcompress.surgery.channels.latency import Latency

        return Latency(model, found)
    cost = Cost(model, found)
    whole = cost.multiply_adds if target == "multiply_adds" else cost.parameters

    def saved(gone: np.ndarray) -> float:
        left = cost.of(target, Kept(found.classes, gone))
        return 1 - left / whole if whole else 0.0

    return saved


def _costs(model: Any, found: Any, groups: Any, target: str) -> list[float]:
    """What a unit of each family costs; where latency is the target, in multiply-adds."""
    import numpy as np

    from tfcompress.surgery.channels.atoms import Kept
    from tfcompress.surgery.channels.cost import Cost

    cost = Cost(model, found)
    counted = "parameters" if target == "parameters" else "multiply_adds"
    whole = getattr(cost, counted)
    costs = []
    for family in groups:
        gone = np.zeros(int(found.classes.max()) + 1, bool)
        gone[family.units[0]] = True
        costs.append(float(whole - cost.of(counted, Kept(found.classes, gone))))
    return costs


def _check_floor(floor: Any) -> None:
    from tfcompress.surgery.budget import is_number

    if floor is not None and (not is_number(floor) or not 0 <= floor < 1):
        raise ConfigError(
            "`floor` must be the share of its channels that every layer keeps, from 0 to below 1, "
            f"or None. Received: {floor!r}"
        )


def _check(ratio: Any, target: Any, round_to: Any, pooling: Any) -> float:
    import numpy as np

    from tfcompress.surgery.budget import is_number

    if not is_number(ratio) or not 0 < ratio < 1:
        raise ConfigError(
            "`ratio` must be the share of the target to take away, between 0 and 1, as 0.5 for "
            f"half of it. Received: {ratio!r}"
        )
    if target not in TARGETS:
        raise ConfigError(
            f"`target` must be one of {', '.join(map(repr, TARGETS))}. Received: {target!r}"
        )
    whole = isinstance(round_to, (int, np.integer)) and not isinstance(round_to, bool)
    if not whole or round_to < 1:
        raise ConfigError(f"`round_to` must be a whole number above 0. Received: {round_to!r}")
    if pooling not in POOLINGS:
        raise ConfigError(
            f"`pooling` must be one of {', '.join(map(repr, POOLINGS))}. Received: {pooling!r}"
        )
    return float(ratio)
