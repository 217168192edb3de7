"""`prune`, `cluster`, `quantize_aware` for tf_keras models, by tensorflow-model-optimization."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tfcompress.errors import ConfigError
from tfcompress.legacy import support
from tfcompress.legacy.choosing import Choice, by_scope, copied, wrapped
from tfcompress.legacy.fitting import with_callback
from tfcompress.legacy.packages import check_graph2, tfmot
from tfcompress.legacy.schedules import translated
from tfcompress.legacy.stripping import wrapped_by
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike


def prune(
    model: Any,
    schedule: Any,
    *,
    pattern: str = "unstructured",
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> Any:
    """A tf_keras model that tensorflow-model-optimization prunes while it trains.

    Its `fit` adds tfmot's `UpdatePruningStep` by itself; a custom loop needs that callback's calls.
    A mask is first computed at step `max(begin_step, frequency)` or later, as tfmot does it.

    Args:
        model: a tf_keras model, Functional or Sequential and built; it does not change.
        schedule: `PolynomialDecay`, `ConstantSparsity` or `OneShot` of tfcompress, a schedule of
            tfmot, or a dict scope -> schedule or None, whose first match counts.
        pattern: `"unstructured"`; `"N:M"` for kernels of rank 2 and 4, at most N of M not zero;
            `"block:RxC"` for kernels of rank 2.
        include: layers to prune; None for all that tfmot can prune. Layers of tf_keras, not of
            Keras 3.
        exclude: layers to leave alone.

    Returns:
        The new model, not compiled. Its `compression_report` tells what is pruned and what was
        left, and why. `tfc.legacy.strip` ends it.

    Raises:
        ModelTypeError: no tf_keras model whose graph is known.
        ScopeError: a pattern matches no layer.
        ConfigError: a schedule that tfmot does not have, nothing to prune, or tfmot or tf_keras
            is not installed.

    Example:
        >>> pruned = tfc.legacy.prune(model, tfc.PolynomialDecay(0.0, 0.8, 0, 1000))
        >>> pruned.compile("adam", "mse")
        >>> pruned.fit(x, y)
        >>> plain = tfc.legacy.strip(pruned)

    Source: `tfmot.sparsity.keras.prune_low_magnitude`.
    """
    _check_plain(model, "prune")
    options = support.pruning_options(pattern)
    report = CompressionReport("legacy.prune", {"schedule": repr(schedule), "pattern": pattern})
    copy = copied(model)
    schedules = by_scope(copy, schedule, translated)
    choice = Choice(copy, include, exclude)
    chosen: dict[int, Any] = {}
    for path, layer in choice.layers:
        reason = choice.left(layer) or support.cannot_prune(layer, options)
        own = schedules(layer)
        reason = reason or ("" if own is not None else "no schedule names it, or None does")
        if not reason:
            chosen[id(layer)] = own
        choice.tell(report, path, layer, "pruned", reason)
    _check_some(chosen, model, report)
    prune_layer = tfmot().sparsity.keras.prune_low_magnitude
    made = wrapped(
        copy, chosen, lambda layer: prune_layer(layer, chosen[id(layer)], **options), report
    )
    return with_callback(made, tfmot().sparsity.keras.UpdatePruningStep)


def cluster(
    model: Any,
    number_of_clusters: int,
    *,
    init: str = "kmeans++",
    per_channel: bool = False,
    preserve_sparsity: bool = True,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> Any:
    """A tf_keras model whose kernels share few values, which train, by tfmot.

    Args:
        model: a tf_keras model, Functional or Sequential and built; it does not change. A pruned
            one is to be stripped before.
        number_of_clusters: different values in a kernel, at least 2; 3 where zeros are kept.
        init: where the centroids start: `"kmeans++"`, `"linear"`, `"density"`, `"random"`.
        per_channel: clusters for each output channel of Conv2D kernels; tfmot has it for no others.
        preserve_sparsity: zeros stay zeros, in kernels that have some.
        include: layers to cluster; None for all that tfmot can cluster.
        exclude: layers to leave alone.

    Returns:
        The new model, not compiled, with its `compression_report`. `tfc.legacy.strip` ends it.

    Raises:
        ModelTypeError: no tf_keras model whose graph is known.
        ScopeError: a pattern matches no layer.
        ConfigError: an argument that cannot be, or nothing to cluster.

    Example:
        >>> clustered = tfc.legacy.cluster(model, 16)
        >>> clustered.compile("adam", "mse")
        >>> clustered.fit(x, y)
        >>> plain = tfc.legacy.strip(clustered)

    Source: `tfmot.clustering.keras.cluster_weights`.
    """
    _check_plain(model, "cluster")
    options = support.clustering_options(number_of_clusters, init, per_channel)
    support.check_flag("preserve_sparsity", preserve_sparsity)
    report = CompressionReport(
        "legacy.cluster", {"number_of_clusters": number_of_clusters, "init": init}
    )
    copy = copied(model)
    choice = Choice(copy, include, exclude)
    chosen: dict[int, bool] = {}
    for path, layer in choice.layers:
        zeros = preserve_sparsity and support.has_zeros(layer)
        reason = choice.left(layer) or support.cannot_cluster(layer, options, zeros)
        if not reason:
            chosen[id(layer)] = zeros
        choice.tell(report, path, layer, "clustered", reason)
    _check_some(chosen, model, report)

    def clustered(layer: Any) -> Any:
        return support.clustering()(layer, **options, preserve_sparsity=chosen[id(layer)])

    return wrapped(copy, chosen, clustered, report)


def quantize_aware(
    model: Any,
    scheme: str = "int8",
    *,
    preserve: Collection[str] = (),
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> Any:
    """A tf_keras model that trains quantization-aware, by tfmot.

    The model is converted by `tf.lite.TFLiteConverter.from_keras_model` with the default
    optimization, as tfmot's guide does it.

    Args:
        model: a tf_keras model, Functional or Sequential and built; it does not change. A pruned
            or clustered one is to be stripped before.
        scheme: `"int8"`, the only one that tfmot offers.
        preserve: what of the weights is to stay: `"sparsity"` (tfmot's PQAT), `"clusters"` (CQAT),
            or both (PCQAT).
        include: layers to quantize; None for all that tfmot can quantize.
        exclude: layers that stay float.

    Returns:
        The new model, not compiled, with its `compression_report`: what tfmot cannot quantize is
        left float and listed. `tfc.legacy.strip` gives the float model back.

    Raises:
        ModelTypeError: no tf_keras model whose graph is known.
        ScopeError: a pattern matches no layer.
        ConfigError: another scheme, something else to preserve, or nothing to quantize.

    Example:
        >>> qmodel = tfc.legacy.quantize_aware(model, preserve=("sparsity", "clusters"))

    Source: `tfmot.quantization.keras.quantize_apply` and its collaborative optimization.
    """
    _check_plain(model, "quantize_aware")
    if scheme != "int8":
        raise ConfigError(
            f'`scheme` must be "int8", the only one that tfmot offers. Received: {scheme!r}. '
            "Others: tfc.quantize_aware(tfc.legacy.to_keras3(model), scheme)."
        )
    names = support.kept(preserve)
    how = support.quantization_scheme(names)
    report = CompressionReport("legacy.quantize_aware", {"scheme": scheme, "preserve": names})
    copy = copied(model)
    choice = Choice(copy, include, exclude)
    reasons: dict[int, str] = {}
    for _, layer in choice.layers:
        reasons[id(layer)] = choice.left(layer) or support.cannot_quantize(layer, copy, how)
    made = _quantized(copy, how, choice, reasons)
    for path, layer in choice.layers:
        choice.tell(report, path, layer, "quantized", reasons[id(layer)])
    if made is None:
        _check_some({}, model, report)
    made.compression_report = report
    return made


def _quantized(copy: Any, how: Any, choice: Choice, reasons: dict[int, str]) -> Any:
    """The model with all layers quantized that tfmot agrees to; it names one at a time."""
    quantization = tfmot().quantization.keras
    from tf_keras.src.saving.serialization_lib import SafeModeScope

    while True:
        taken = {key: None for key, reason in reasons.items() if not reason}
        if not taken:
            return None
        annotated = wrapped(copy, taken, quantization.quantize_annotate_layer, None)
        try:
            # tfmot rebuilds the layers from their configs. Code in them is the caller's own.
            with quantization.quantize_scope(), SafeModeScope(False):
                return quantization.quantize_apply(annotated, how)
        except (RuntimeError, ValueError) as error:
            named = re.search(r"Layer (\S+?):<", str(error))
            found = [layer for _, layer in choice.layers if named and layer.name == named[1]]
            if not found or reasons[id(found[0])]:
                raise ConfigError(
                    f"tensorflow-model-optimization cannot quantize {copy.name!r}: {error}\nLeave "
                    "the layer that it is about out by `exclude`."
                ) from error
            reasons[id(found[0])] = "tfmot cannot quantize it here"


def _check_plain(model: Any, verb: str) -> None:
    check_graph2(model)
    tfmot()
    if wrapped_by(model):
        raise ConfigError(
            f"`model` must be a plain model, and layers of {model.name!r} are wrapped by tfmot "
            f"already. Begin with tfc.legacy.{verb}(tfc.legacy.strip(model), ...)."
        )


def _check_some(chosen: Collection[int], model: Any, report: CompressionReport) -> None:
    if not chosen:
        raise ConfigError(f"The model {model.name!r} has no layer for tfc.{report.verb}:\n{report}")
