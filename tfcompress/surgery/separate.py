"""`tfc.separate`: standard convolutions become depthwise-separable ones, started close to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.errors import ConfigError
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike

if TYPE_CHECKING:
    import keras


def separate(
    model: keras.Model,
    *,
    terms: int = 1,
    data: Any = None,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> keras.Model:
    """Replaces standard convolutions by depthwise-separable ones that compute nearly the same.

    A Conv2D or Conv1D with a kernel larger than 1 becomes SeparableConv2D or SeparableConv1D with
    `depth_multiplier=terms`. For each input channel, the kernel is a matrix (positions, filters);
    its first `terms` singular vectors are the depthwise filters and their pointwise weights. Of
    all separable kernels that is the closest one, in squared error. Bias, activation, strides,
    padding, dilation, regularizers, name and dtype stay. With as many terms as there are positions
    it would be exact, and as a rule no cheaper: what would not cost less is left as it is.

    The error is large after one term, as convolutions are not separable by themselves. With `data`
    the pointwise kernels are fitted to what the convolutions gave, layer by layer. Then train on,
    or distil from the original.

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.
        terms: how many depthwise filters each input channel gets.
        data: inputs, (x, y) or batches of either, on which to fit; a thousand examples do.
        include: convolutions to replace; None for all that can be.
        exclude: convolutions to leave.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` gives for each convolution
        the `error` (of the kernel, relative to its norm) and the multiply-adds before and after,
        or why it is left.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        ConfigError: `terms` is no whole number above 0; a scope matches nothing (`ScopeError`).
        DataError: the data does not fit the model.

    Example:
        >>> smaller = tfc.separate(model, terms=2, exclude="stem")
        >>> print(smaller.compression_report)

    Source: Chollet 2017, "Xception" (arXiv:1610.02357), for the layer; Guo et al. 2018, "Network
    Decoupling" (arXiv:1808.05517), for the start. That it is closest is the theorem of Eckart and
    Young, channel by channel.
    """
    from tfcompress.graph.copying import Replacement
    from tfcompress.surgery.rewriting import Choice, calls_by_layer, check_graph, replaced

    if isinstance(terms, bool) or not isinstance(terms, (int, np.integer)) or terms < 1:
        raise ConfigError(f"`terms` must be a whole number above 0. Received: {terms!r}")
    check_graph(model)
    choice = Choice(model, include, exclude)
    report = CompressionReport("separate", {"terms": int(terms)})
    calls = calls_by_layer(model)
    names = {layer.name for _, layer in choice.layers}
    found: dict[int, Replacement] = {}
    for path, layer in choice.layers:
        if not (_is_convolution(layer) or choice.named(layer)):
            continue
        kind = type(layer).__name__
        why = choice.left(layer) or _cannot(layer, calls)
        before, after = (0, 0) if why else _costs(layer, calls[id(layer)], terms)
        if not why and after >= before:
            why = f"it would cost {after:,} multiply-adds instead of {before:,}"
        if why:
            report.add(path, kind, "left", why)
            continue
        found[id(layer)], error = _separated(layer, int(terms), names)
        report.add(path, kind, "separated", found[id(layer)].why, error=error,
                   multiply_adds_before=before, multiply_adds=after)  # fmt: skip
    from tfcompress.surgery.restoring import restored

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
    matrices = np.moveaxis(kernel.astype(np.float64), -2, 0).reshape(inputs, -1, outputs)
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


def _costs(layer: Any, calls: list[Any], terms: int) -> tuple[int, int]:
    """Multiply-adds before and after, over all calls."""
    from tfcompress.surgery.multiply_adds import multiply_adds, size

    before = sum(
        multiply_adds(layer, [call.inputs[0].shape], [call.results[0].shape]) for call in calls
    )
    *positions, inputs, outputs = layer.kernel.shape
    # Both grow with the pixels that come out, and with nothing else.
    pixels = before // size(layer.kernel.shape)
    return before, pixels * inputs * terms * (size(positions) + outputs)


def _separated(layer: Any, terms: int, names: set[str]) -> tuple[Any, float]:
    from keras import layers

    from tfcompress.graph.copying import Replacement
    from tfcompress.surgery.rewriting import fresh_name

    config = layer.get_config()
    del config["groups"]
    for part in ("initializer", "regularizer", "constraint"):
        kernel = config.pop(f"kernel_{part}")
        for name in ("depthwise", "pointwise"):
            # A constraint on the kernel says nothing of its factors.
            config[f"{name}_{part}"] = None if part == "constraint" else kernel
    why = f"depthwise and pointwise, {terms} term{'s' if terms > 1 else ''}"
    if layer.kernel_constraint is not None:
        why += "; without the constraint that was on the kernel"
    new: list[Any] = []
    if layer.padding == "causal":
        zeros = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        new.append(
            layers.ZeroPadding1D(
                (zeros, 0),
                data_format=layer.data_format,
                name=fresh_name(f"{layer.name}_pad", names),
                dtype=layer.dtype_policy,
            )
        )
        config["padding"] = "valid"
    cls = layers.SeparableConv1D if type(layer) is layers.Conv1D else layers.SeparableConv2D
    new.append(cls.from_config({**config, "depth_multiplier": terms}))
    kernel, *bias = layer.get_weights()
    depthwise, pointwise, error = closest_separable(kernel, terms)
    weights = [depthwise.astype(kernel.dtype), pointwise.astype(kernel.dtype), *bias]
    return Replacement(new, weights, why), error
