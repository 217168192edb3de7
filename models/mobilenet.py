"""MobileNetV1."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from . import checks
from .blocks import Activation, classifier, pooled, scaled, stem
from .separable import separable_block

_STEM = 32
_BLOCKS = (  # filters, stride
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


def mobilenet(
    input_shape: Sequence[int],
    classes: int = 1000,
    *,
    alpha: float = 1.0,
    depth_multiplier: int = 1,
    dropout: float = 0.001,
    include_top: bool = True,
    sparse_friendly: bool = False,
    classifier_activation: Activation = "softmax",
    pooling: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds MobileNetV1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861).

    The standard variant has the weights of `keras.applications.MobileNet`, in its order: plain
    `set_weights` carries them over in both directions, and the outputs are equal.

    `sparse_friendly=True` builds the variant of Elsen et al. 2020, "Fast Sparse ConvNets"
    (https://arxiv.org/abs/1911.09723), that XNNPACK's sparse kernels accept: symmetric zero
    padding at every stride, and an end in a spatial mean and a Dense layer. (A sparse file with
    the original's head, a 1x1 convolution behind the mean, does not load on ARM.) Its parameters
    are as many; only the head's kernel has another shape, (features, classes).

    Example:
        >>> mobilenet((96, 96, 3), 2, alpha=0.25).count_params()
        219058

    Args:
        input_shape: (rows, columns, channels), at least 32 x 32. Any number of channels; 3 for
            `sparse_friendly`, and there never an image of two odd sides before a stride: a
            multiple of 32 on one side is always right.
        classes: Number of outputs of the head; ignored without one.
        alpha: Width multiplier, above 0. Every number of channels is multiplied and rounded down.
        depth_multiplier: Channels that each depthwise convolution makes of a channel.
        dropout: Share of the features dropped in training, before the classifier.
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
    depth_multiplier = checks.at_least_one(depth_multiplier=depth_multiplier)
    dropout = checks.dropout_rate(dropout)
    checks.choice((None, "avg", "max"), pooling=pooling)
    if sparse_friendly:
        checks.sparse_friendly_network(
            shape, include_top=include_top, pooling=pooling, depth_multiplier=depth_multiplier
        )

    inputs = keras.Input(shape, name="image")
    x = stem(inputs, scaled(_STEM, alpha), sparse_friendly=sparse_friendly)
    for number, (filters, stride) in enumerate(_BLOCKS, start=1):
        x = separable_block(
            x,
            scaled(filters, alpha),
            stride=stride,
            depth_multiplier=depth_multiplier,
            name=str(number),
            sparse_friendly=sparse_friendly,
        )

    if not include_top:
        x = pooled(x, pooling)
    else:
        head = classifier if sparse_friendly else _convolutional_classifier
        x = head(x, classes, dropout=dropout, activation=classifier_activation)
    variant = "mobilenet_sparse_friendly" if sparse_friendly else "mobilenet"
    return keras.Model(inputs, x, name=name or f"{variant}_{alpha:0.2f}_{shape[0]}")


def _convolutional_classifier(
    x: keras.KerasTensor, classes: int, *, dropout: float, activation: Activation
) -> keras.KerasTensor:
    """Applies the head of the original: a 1x1 convolution of the mean, flattened behind it."""
    x = layers.GlobalAveragePooling2D(keepdims=True, name="global_pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Conv2D(classes, 1, padding="same", name="conv_preds")(x)
    x = layers.Reshape((classes,), name="flatten")(x)
    return layers.Activation(activation, name="predictions")(x)
