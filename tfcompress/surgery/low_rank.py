"""`tfc.factorize`: Dense, EinsumDense, convolution and attention layers of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.errors import ConfigError
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike

if TYPE_CHECKING:
    import keras


def factorize(
    model: keras.Model,
    *,
    energy: float = 0.95,
    rank: int | None = None,
    multiply_adds: float | None = None,
    data: Any = None,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> keras.Model:
    """Replaces layers by chains of narrow ones that compute nearly the same.

    - Dense, EinsumDense (axes summed over x axes of the output) and 1x1 convolutions become two
      layers, by the singular value decomposition: the closest of that rank.
    - Convolutions with a larger kernel become 1x1, core, 1x1 (Tucker-2, HOSVD bettered by HOOI). A
      side whose rank is full needs no 1x1.
    - MultiHeadAttention and GroupQueryAttention stay one layer, with narrower heads: keys and
      queries, and values and outputs, are products in each head, of which the singular value
      decomposition gives the closest. Heads have one width, for which the norms of all add up.
    - An Embedding that `include` names becomes a narrow one and a Dense layer: fewer parameters,
      for a few multiply-adds, of which there were none; not with `multiply_adds`.

    A layer in TimeDistributed becomes a chain of TimeDistributed layers, or of Dense ones, which
    need none around them (and are one operator in a file, not one for each step). The last layer of
    a chain has the old one's name, bias and activation. What would not cost less is left as it is,
    such as every layer of full rank. With `data` the last layer of each chain is fitted to what the
    old layer gave. Train on to win back accuracy.

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.
        energy: the share of each kernel's squared norm to keep, above 0 up to 1. With 1 only
            layers that have a lower rank already are replaced, exactly.
        rank: a rank for all layers instead, on both sides of convolutions.
        multiply_adds: the share of the model's multiply-adds to take away instead, between 0 and
            1: the largest `energy` that reaches it, the same for all layers.
        data: inputs, (x, y) or batches of either, on which to fit; a thousand examples do.
        include: layers to replace; None for all that can be.
        exclude: layers to leave.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` gives for each layer its
        ranks, the `energy` kept, the `error` (of the kernel, relative to its norm) and the
        multiply-adds before and after, or why it is left.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        ConfigError: an argument is out of its range, both `rank` and `multiply_adds` are given, or
            that share cannot be reached; a scope matches nothing (`ScopeError`).
        DataError: the data does not fit the model.

    Example:
        >>> smaller = tfc.factorize(model, multiply_adds=0.4)
        >>> print(smaller.compression_report)

    Source: Denton et al. 2014 (arXiv:1404.0736) and Jaderberg et al. 2014 (arXiv:1405.3866) for
    the idea; Kim et al. 2016 (arXiv:1511.06530) for Tucker-2; Elhage et al. 2021, "A Mathematical
    Framework for Transformer Circuits", for heads as two products.
    """
    from tfcompress.surgery.distributed import open_wrappers, wrapped
    from tfcompress.surgery.low_rank_forms import FACTORIZED, form_of
    from tfcompress.surgery.low_rank_plans import PARAMETERS, NoForm
    from tfcompress.surgery.rewriting import Choice, calls_by_layer, check_graph, replaced
    from tfcompress.surgery.work import read_work

    _check(energy, rank, multiply_adds)
    check_graph(model)
    choice = Choice(model, include, exclude)
    report = CompressionReport("factorize")
    calls = calls_by_layer(model)
    holders = open_wrappers(calls)
    opened = list(holders.values())
    forms: dict[int, Any] = {}
    reasons: dict[int, str] = {}
    for _, layer in choice.layers:
        if isinstance(layer, FACTORIZED) or (choice.named(layer) and layer not in opened):
            reasons[id(layer)] = choice.left(layer)
            try:
                if not reasons[id(layer)]:
                    form = form_of(layer, calls.get(id(layer), []))
                    if multiply_adds is not None and form.unit == PARAMETERS:
                        raise NoForm("it has no multiply-adds to take away: give energy or rank")
                    forms[id(layer)] = form
            except NoForm as why:
                reasons[id(layer)] = str(why)
    if rank is not None:
        report.settings["rank"] = int(rank)
        plans = {key: form.of_rank(int(rank)) for key, form in forms.items()}
    elif multiply_adds is not None:
        total = sum(step.multiply_adds for step in read_work(model).steps)
        energy = _energy_for(forms, total, float(multiply_adds))
        report.settings |= {"multiply_adds": float(multiply_adds), "energy": energy}
        plans = {key: form.keeping(energy) for key, form in forms.items()}
    else:
        report.settings["energy"] = float(energy)
        plans = {key: form.keeping(float(energy)) for key, form in forms.items()}
    found = _replacements(choice, forms, plans, reasons, report)
    found = wrapped(found, holders, {layer.name for _, layer in choice.layers})
    from tfcompress.surgery.restoring import restored

    return restored(model, replaced(model, found, report), report, data, found)


def _replacements(
    choice: Any,
    forms: Mapping[int, Any],
    plans: Mapping[int, Any],
    reasons: Mapping[int, str],
    report: CompressionReport,
) -> dict[int, Any]:
    from tfcompress.surgery.rewriting import fresh_name

    taken = {layer.name for _, layer in choice.layers}
    found: dict[int, Any] = {}
    # What becomes of attention is told of the whole; its projections have no place of their own.
    parts = {
        id(part)
        for _, layer in choice.layers
        if id(layer) in forms
        for part in layer._flatten_layers(include_self=False)
    }
    for path, layer in choice.layers:
        kind, form, plan = type(layer).__name__, forms.get(id(layer)), plans.get(id(layer))
        if form is None or plan is None:
            if id(layer) in reasons and id(layer) not in parts:
                report.add(path, kind, "left", reasons[id(layer)])
            continue
        if plan.cost >= form.before:
            ranks = " and ".join(map(str, plan.ranks))
            report.add(
                path, kind, "left",
                f"at rank {ranks} it would cost {plan.cost:,} {form.unit.replace('_', '-')} "
                f"instead of {form.before:,}",
            )  # fmt: skip
            continue

        def name(part: str, owner: Any = layer) -> str:
            made = fresh_name(f"{owner.name}_{part}", taken)
            taken.add(made)
            return made

        found[id(layer)], error = form.build(plan, name)
        report.add(
            path, kind, "factorized", found[id(layer)].why, energy=1 - error**2, error=error,
            **{f"{form.unit}_before": form.before, form.unit: plan.cost},
        )  # fmt: skip
    return found


def _energy_for(forms: Mapping[int, Any], total: int, share: float) -> float:
    """The largest energy at which the model costs `share` less."""

    def saved(energy: float) -> int:
        return sum(max(form.before - form.keeping(energy).cost, 0) for form in forms.values())

    wanted = share * total
    low, high = 0.0, 1.0  # reaches it, does not
    if saved(high) >= wanted:
        return high
    if saved(low) < wanted:
        most = saved(low) / total if total else 0.0
        raise ConfigError(
            f"`multiply_adds` must be a share that low ranks can take away: with rank 1 everywhere "
            f"it is {most:.3f} of {total:,}. Received: {share!r}. Ask for less, or include more "
            "layers."
        )
    for _ in range(50):
        middle = (low + high) / 2
        if saved(middle) >= wanted:
            low = middle
        else:
            high = middle
    return low


def _check(energy: Any, rank: Any, multiply_adds: Any) -> None:
    from tfcompress.surgery.budget import is_number

    if not is_number(energy) or not 0 < energy <= 1:
        raise ConfigError(f"`energy` must be above 0 and at most 1. Received: {energy!r}")
    if rank is not None and (
        isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < 1
    ):
        raise ConfigError(f"`rank` must be a whole number above 0. Received: {rank!r}")
    if multiply_adds is not None and not (is_number(multiply_adds) and 0 < multiply_adds < 1):
        raise ConfigError(
            f"`multiply_adds` must be a share between 0 and 1. Received: {multiply_adds!r}"
        )
    if rank is not None and multiply_adds is not None:
        raise ConfigError(
            f"Give `rank` or `multiply_adds`, not both. Received: {rank!r} and {multiply_adds!r}"
        )
