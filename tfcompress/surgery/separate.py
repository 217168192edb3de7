"""`tfc.separate`: standard convolutions become depthwise-separable ones, started close to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.errors import ConfigError
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike
from tfcompress.surgery.budget import cheapest_errors

if TYPE_CHECKING:
    import keras

# What float32 weights lose of a squared norm is below this share.
ROUNDING = 1e-13
_MASKED = "its steps have a mask, which Keras cannot join where terms stand side by side: take one"


def separate(
    model: keras.Model,
    *,
    terms: int = 1,
    multiply_adds: float | None = None,
    data: Any = None,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> keras.Model:
    """Replaces standard convolutions by depthwise-separable ones that compute nearly the same.

    For each input channel of a Conv2D or Conv1D with a kernel larger than 1, the kernel is a
    matrix (positions, filters); its first `terms` singular vectors are the depthwise filters and
    their pointwise weights. Of all separable kernels that is the closest one, in squared error. The
    layer becomes a SeparableConv2D or SeparableConv1D, which with several terms reads its input as
    often, side by side: runtimes have no fast kernel for a depth multiplier. With strides, where
    the input is larger than what comes out, these are depthwise layers side by side, concatenated
    in front of the pointwise one. Bias, activation, strides, padding, dilation, regularizers, name
    and dtype stay; what is in TimeDistributed stays in it. With as many terms as there are
    positions it would be exact, and as a rule no cheaper: what would not cost less is left as it
    is.

    The error is large after one term, as convolutions are not separable by themselves; after three
    it is small as a rule. With `data` the pointwise kernels are fitted to what the convolutions
    gave, layer by layer. Then train on, or distil from the original.

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.
        terms: how many depthwise filters each input channel gets.
        multiply_adds: the share of the model's multiply-adds to take away instead, between 0 and
            1. Each convolution then gets terms of its own, or is left, so that the kernels' errors
            (squared, relative to their norms) have the smallest sum for that cost.
        data: inputs, (x, y) or batches of either, on which to fit; a thousand examples do.
        include: convolutions to replace; None for all that can be.
        exclude: convolutions to leave.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` gives for each convolution
        the `terms`, the `error` (of the kernel, relative to its norm) and the multiply-adds before
        and after, or why it is left.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        ConfigError: `terms` is no whole number above 0; the share of multiply-adds cannot be taken
            away; a scope matches nothing (`ScopeError`).
        DataError: the data does not fit the model.

    Example:
        >>> smaller = tfc.separate(model, multiply_adds=0.5, exclude="stem")
        >>> print(smaller.compression_report)

    Source: Chollet 2017, "Xception" (arXiv:1610.02357), for the layer; Guo et al. 2018, "Network
    Decoupling" (arXiv:1808.05517), for the start. That it is closest is the theorem of Eckart and
    Young, channel by channel.
    """
    from tfcompress.graph.copying import Replacement
    from tfcompress.surgery.distributed import masked, open_wrappers, wrapped
    from tfcompress.surgery.rewriting import Choice, calls_by_layer, check_graph, replaced

    _check(terms, multiply_adds)
    check_graph(model)
    choice = Choice(model, include, exclude)
    report = CompressionReport("separate", {"terms": int(terms)})
    calls = calls_by_layer(model)
    holders = open_wrappers(calls)
    opened = list(holders.values())
    one_term = terms == 1 and multiply_adds is None
    reasons, options = {}, {}
    for _, layer in choice.layers:
        if _is_convolution(layer) or (choice.named(layer) and layer not in opened):
            reasons[id(layer)] = choice.left(layer) or _cannot(layer, calls)
            holder = holders.get(id(layer))
            if holder and not one_term and any(map(masked, calls[id(holder)])):
                reasons[id(layer)] = reasons[id(layer)] or _MASKED
            if not reasons[id(layer)]:
                options[id(layer)] = _Options(layer, calls[id(layer)])
    if multiply_adds is None:
        chosen = {key: int(terms) for key in options}
    else:
        chosen = _chosen(model, options, float(multiply_adds))
        report.settings = {"multiply_adds": float(multiply_adds)}
    names = {layer.name for _, layer in choice.layers}
    found: dict[int, Replacement] = {}
    for path, layer in choice.layers:
        kind, why, of = type(layer).__name__, reasons.get(id(layer)), options.get(id(layer))
        if of is not None:
            count = chosen[id(layer)]
            if not count:
                why = "the share is reached elsewhere, at less error"
            elif of.cost(count) >= of.before:
                why = f"it would cost {of.cost(count):,} multiply-adds instead of {of.before:,}"
            else:
                found[id(layer)], error = _separated(layer, count, names)
                report.add(path, kind, "separated", found[id(layer)].why, terms=count, error=error,
                           multiply_adds_before=of.before,
                           multiply_adds=of.cost(count))  # fmt: skip
        if why:
            report.add(path, kind, "left", why)
    from tfcompress.surgery.restoring import restored

    found = wrapped(found, holders, names)
    return restored(model, replaced(model, found, report), report, data, found)


def closest_separable(kernel: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The separable kernel with the least squared error.

    Args:
        kernel: (*positions, inputs, outputs).
        terms: how many products each input channel is a sum of.

    Returns:
        The depthwise kernel (*positions, inputs, terms), the pointwise kernel
        (1, ..., inputs * terms, outputs), both float64, and the error relative to the norm.
    """
    *positions, inputs, outputs = kernel.shape
    matrices = _matrices(kernel)
    u, s, v = np.linalg.svd(matrices, full_matrices=False)
    kept = min(terms, s.shape[-1])
    # Both sides get the root of what a term weighs, so that training moves them at one pace.
    root = np.sqrt(s[:, :kept])
    depthwise = np.zeros((inputs, matrices.shape[1], terms))
    pointwise = np.zeros((inputs, terms, outputs))
    depthwise[:, :, :kept] = u[:, :, :kept] * root[:, None, :]
    pointwise[:, :kept] = v[:, :kept] * root[:, :, None]
    norm = np.linalg.norm(s)
    error = float(np.linalg.norm(s[:, kept:]) / norm) if norm else 0.0
    depthwise = np.moveaxis(depthwise, 0, 1).reshape(*positions, inputs, terms)
    ones = (1,) * len(positions)
    return depthwise, pointwise.reshape(*ones, inputs * terms, outputs), error


def _matrices(kernel: np.ndarray) -> np.ndarray:
    """(inputs, positions, outputs), float64."""
    *_, inputs, outputs = kernel.shape
    return np.moveaxis(kernel.astype(np.float64), -2, 0).reshape(inputs, -1, outputs)


def _is_convolution(layer: Any) -> bool:
    from keras import layers

    return isinstance(layer, (layers.Conv1D, layers.Conv2D, layers.Conv3D)) and not isinstance(
        layer, (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    )


def _cannot(layer: Any, calls: dict[int, Any]) -> str:
    """Why a layer has no separable form; "" where it has."""
    from keras import layers

    from tfcompress.surgery.rewriting import UNKNOWN_PLACE, plain_kernels

    if type(layer) is layers.Conv3D:
        return "Keras has no separable convolution in three dimensions"
    if type(layer) not in (layers.Conv1D, layers.Conv2D):
        return f"{type(layer).__name__} has no separable form here"
    if all(size == 1 for size in layer.kernel_size):
        return "its kernel has one position: there is nothing to separate"
    if layer.groups > 1:
        return f"it has {layer.groups} groups, and separable convolutions have none"
    if len(set(layer.strides)) > 1:
        return f"separable convolutions have one stride for both axes, not {layer.strides}"
    if id(layer) not in calls:
        return UNKNOWN_PLACE
    return plain_kernels(layer)


class _Options:
    """What a convolution costs, and how far off it is, with each number of terms.

    Args:
        layer: the convolution.
        calls: its calls.

    Attributes:
        before: its multiply-adds as it is, over all calls.
    """

    def __init__(self, layer: Any, calls: Sequence[Any]) -> None:
        from tfcompress.surgery.multiply_adds import all_multiply_adds, size

        self.before = all_multiply_adds(layer, calls)
        *positions, inputs, outputs = layer.kernel.shape
        # Both grow with the pixels that come out, and with nothing else.
        pixels = self.before // size(layer.kernel.shape)
        self._each = pixels * inputs * (size(positions) + outputs)
        self._kernel = layer.kernel

    def cost(self, terms: int) -> int:
        """Multiply-adds with so many terms."""
        return self._each * terms

    def points(self) -> list[tuple[int, float]]:
        """(multiply-adds, squared relative error) with 1, 2, ... terms, those that cost less."""
        values = np.linalg.svd(_matrices(np.asarray(self._kernel)), compute_uv=False) ** 2
        lost = values.sum() - np.cumsum(values.sum(0))
        errors = lost / (values.sum() or 1.0)
        errors = np.where(errors > ROUNDING, errors, 0.0)
        return [
            (self.cost(terms), float(error))
            for terms, error in enumerate(errors, 1)
            if self.cost(terms) < self.before
        ]


def _chosen(model: Any, options: Mapping[int, _Options], share: float) -> dict[int, int]:
    """How many terms each convolution gets, 0 where it is left."""
    from tfcompress.surgery.work import read_work

    total = sum(step.multiply_adds for step in read_work(model).steps)
    points = {key: [*of.points(), (of.before, 0.0)] for key, of in options.items()}
    before = sum(of.before for of in options.values())
    taken = cheapest_errors(points, before - share * total)
    if taken is None:
        most = (before - sum(min(p)[0] for p in points.values())) / total if total else 0.0
        raise ConfigError(
            "`multiply_adds` must be a share that separable convolutions can take away: with one "
            f"term everywhere it is {most:.3f} of {total:,}. Received: {share!r}. Ask for less, "
            "include more layers, or take channels away (`tfc.shrink`)."
        )
    return {key: 0 if n == len(points[key]) - 1 else n + 1 for key, n in taken.items()}


def _check(terms: Any, multiply_adds: Any) -> None:
    from tfcompress.surgery.budget import is_number

    if isinstance(terms, bool) or not isinstance(terms, (int, np.integer)) or terms < 1:
        raise ConfigError(f"`terms` must be a whole number above 0. Received: {terms!r}")
    if multiply_adds is None:
        return
    if not (is_number(multiply_adds) and 0 < multiply_adds < 1):
        raise ConfigError(
            f"`multiply_adds` must be a share between 0 and 1. Received: {multiply_adds!r}"
        )
    if terms != 1:
        raise ConfigError(
            "Give `terms` or `multiply_adds`, not both: the share chooses the terms. Received: "
            f"{terms!r} and {multiply_adds!r}"
        )


def _separated(layer: Any, terms: int, names: set[str]) -> tuple[Any, float]:
    from keras import layers

    from tfcompress.graph.copying import Replacement
    from tfcompress.graph.state import same_activations
    from tfcompress.surgery.rewriting import fresh_name, resizable_config

    def named(cls: Any, what: str, *args: Any, **kwargs: Any) -> Any:
        name = fresh_name(f"{layer.name}_{what}", names)
        return cls(*args, name=name, dtype=layer.dtype_policy, **kwargs)

    config = resizable_config(layer)
    del config["groups"]
    for part in ("initializer", "regularizer", "constraint"):
        kernel = config.pop(f"kernel_{part}")
        for name in ("depthwise", "pointwise"):
            # A constraint on the kernel says nothing of its factors.
            config[f"{name}_{part}"] = None if part == "constraint" else kernel
    why = f"depthwise and pointwise, {terms} term{'s' if terms > 1 else ''}"
    if layer.kernel_constraint is not None:
        why += "; without the constraint that was on the kernel"
    in_one_dimension = type(layer) is layers.Conv1D
    kernel, *bias = layer.get_weights()
    depthwise, pointwise, error = closest_separable(kernel, terms)
    *positions, inputs, outputs = kernel.shape
    # Term by term: all channels with the first filter each, then all with the second.
    depthwise = depthwise.swapaxes(-1, -2)
    pointwise = pointwise.reshape(inputs, terms, outputs).swapaxes(0, 1)
    pointwise = pointwise.reshape(*(1,) * len(positions), terms * inputs, outputs)
    rest = [pointwise.astype(kernel.dtype), *bias]
    axis = 1 if layer.data_format == "channels_first" else -1
    if terms > 1 and layer.strides[0] > 1 and layer.padding != "causal":
        # What goes side by side is smaller behind the strides.
        cls = layers.DepthwiseConv1D if in_one_dimension else layers.DepthwiseConv2D
        shared = ("kernel_size", "strides", "padding", "data_format", "trainable")
        own = {key: config[key] for key in shared}
        own |= {key: config[key] for key in config if key.startswith("depthwise_")}
        sides = [named(cls, f"depthwise_{n}", use_bias=False, **own) for n in range(1, terms + 1)]
        new = [named(layers.Concatenate, "terms", axis)]
        own = {
            key.replace("pointwise", "kernel"): value
            for key, value in config.items()
            if not key.startswith("depthwise_")
        } | {"kernel_size": 1, "strides": 1, "padding": "valid"}
        new.append(type(layer).from_config(own))
        same_activations(layer, new[-1])
        each = [depthwise[..., n, :, None].astype(kernel.dtype) for n in range(terms)]
        return Replacement(new, [*each, *rest], why, sides), error
    new = []
    if terms > 1:
        new.append(named(layers.Concatenate, "copies", axis))
    if layer.padding == "causal":
        zeros = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        own = {"data_format": layer.data_format}
        new.append(named(layers.ZeroPadding1D, "pad", (zeros, 0), **own))
        config["padding"] = "valid"
    cls = layers.SeparableConv1D if in_one_dimension else layers.SeparableConv2D
    new.append(cls.from_config({**config, "depth_multiplier": 1}))
    same_activations(layer, new[-1])
    depthwise = depthwise.reshape(*positions, terms * inputs, 1).astype(kernel.dtype)
    return Replacement(new, [depthwise, *rest], why, [None] * terms if terms > 1 else ()), error
