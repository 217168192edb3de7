"""MobileNetV2."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from . import checks
from .blocks import Activation, classifier, conv_bn, depthwise_bn, pooled, stem, stride_2_padding

_STEM = 32
_STAGES = (  # expansion, filters, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FEATURES = 1280
_MOMENTUM = 0.999


def mobilenet_v2(
    input_shape: Sequence[int],
    classes: int = 1000,
    *,
    alpha: float = 1.0,
    dropout: float = 0.0,
    include_top: bool = True,
    sparse_friendly: bool = False,
    classifier_activation: Activation = "softmax",
    pooling: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381).

    The standard variant has the weights of `keras.applications.MobileNetV2`, in its order: plain
    `set_weights` carries them over in both directions, and the outputs are equal.

    `sparse_friendly=True` builds the variant that XNNPACK's sparse kernels accept (Elsen et al.
    2020, https://arxiv.org/abs/1911.09723): symmetric zero padding at every stride. The weights
    keep their shapes; what they compute differs at the border.

    Example:
        >>> mobilenet_v2((224, 224, 3)).count_params()
        3538984

    Args:
        input_shape: (rows, columns, channels), at least 32 x 32. Any number of channels; 3 for
            `sparse_friendly`, and there never an image of two odd sides before a stride: a
            multiple of 32 on one side is always right.
        classes: Number of outputs of the head; ignored without one.
        alpha: Width multiplier, above 0. Every number of channels is multiplied and rounded to a
            multiple of 8; the last convolution only grows (above 1.0) and never shrinks.
        dropout: Share of the features dropped in training, before the classifier. The paper's
            training used 0.2, `keras.applications` has none.
        include_top: False leaves the head away.
        sparse_friendly: Build for XNNPACK's sparse kernels. A head of your own must then be
            GlobalAveragePooling2D(keepdims=False) and Dense.
        classifier_activation: Activation of the outputs; None gives logits.
        pooling: What ends a network without a head: None the feature map (batch, rows / 32,
            columns / 32, features), "avg" or "max" its mean or maximum (batch, features).
        name: Name of the model.

    Returns:
        A model (batch, rows, columns, channels) -> (batch, classes), or as `pooling` says.

    Raises:
        ConfigError: An argument is out of range, or has no sparse kernel.
    """
    shape = checks.image_shape(input_shape, smallest=32)
    if include_top:
        classes = checks.at_least_one(classes=classes)
    alpha = checks.width_multiplier(alpha)
    dropout = checks.dropout_rate(dropout)
    checks.choice((None, "avg", "max"), pooling=pooling)
    if sparse_friendly:
        checks.sparse_friendly_network(shape, include_top=include_top, pooling=pooling)

    inputs = keras.Input(shape, name="image")
    width = _divisible(_STEM * alpha)
    x = stem(inputs, width, sparse_friendly=sparse_friendly, momentum=_MOMENTUM)
    number = 0
    for expansion, filters, blocks, first_stride in _STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            x = _inverted_residual(
                x,
                # int() before the rounding to eights, as the weights of keras.applications have it.
                _divisible(int(filters * alpha)),
                expansion=expansion,
                stride=stride,
                sparse_friendly=sparse_friendly,
                name=f"block_{number}",
            )
            number += 1
    features = _divisible(_FEATURES * max(1.0, alpha))
    x = conv_bn(x, layers.Conv2D(features, 1, use_bias=False, name="conv2"), momentum=_MOMENTUM)

    if not include_top:
        x = pooled(x, pooling)
    else:
        x = classifier(x, classes, dropout=dropout, activation=classifier_activation)
    variant = "mobilenet_v2_sparse_friendly" if sparse_friendly else "mobilenet_v2"
    return keras.Model(inputs, x, name=name or f"{variant}_{alpha:0.2f}_{shape[0]}")


def _inverted_residual(
    x: keras.KerasTensor,
    filters: int,
    *,
    expansion: int,
    stride: int,
    sparse_friendly: bool,
    name: str,
) -> keras.KerasTensor:
    """Applies 1x1 (wider), depthwise, 1x1 (narrow, linear), and adds the input if it fits."""
    shortcut = x
    channels = x.shape[-1]
    if expansion > 1:
        expand = layers.Conv2D(expansion * channels, 1, use_bias=False, name=f"{name}_expand")
        x = conv_bn(x, expand, momentum=_MOMENTUM)
    x = depthwise_bn(
        x,
        stride=stride,
        padding=stride_2_padding(3, x.shape[1:3], symmetric=sparse_friendly),
        momentum=_MOMENTUM,
        name=f"{name}_depthwise",
        pad_name=f"{name}_pad",
    )
    project = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")
    x = conv_bn(x, project, activation=None, momentum=_MOMENTUM)
    if stride == 1 and channels == filters:
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def _divisible(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor` that is at least 90 % of `channels`, not 0."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor
