"""A MobileNet for images of 28 to 96 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from . import checks
from .blocks import Activation, classifier, conv_bn, scaled
from .separable import separable

_STEM = 16
_BLOCKS = ((32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))  # filters, stride
_MORE_BLOCKS = ((256, 2), (256, 1))


def mobilenet_small(
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    *,
    alpha: float = 1.0,
    dropout: float = 0.0,
    batchnorm_momentum: float = 0.9,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Builds a small depthwise-separable network in the manner of MobileNetV1.

    Conv 3x3 16, then (depthwise 3x3, pointwise) 32/2, 32, 64/2, 64, 128/2, 128 ("/2": stride 2),
    BatchNorm and ReLU6 after each, spatial mean, Dense: 39,914 parameters with the default
    arguments. The shorter side of the input decides two more things:

    - From 48 pixels on, the first convolution has stride 2. It and the first block see the largest
      images and cost the most there; at 96 x 96 they would take four times the multiply-adds for
      detail that the next stride drops.
    - Above 64 pixels, blocks 256/2 and 256 follow, so that the last image is 3 x 3 at 96 pixels as
      in MobileNetV1, and not 6 x 6. At (96, 96, 3) with 2 classes that makes a network of the
      class of MLPerf Tiny's visual wake words (`mobilenet((96, 96, 3), 2, alpha=0.25)`), with two
      thirds of its parameters and multiply-adds.

    Every padding is "same", so no image needs zeros of its own.

    Example:
        >>> mobilenet_small().count_params()
        39914

    Args:
        input_shape: (rows, columns, channels), at least 8 x 8, any number of channels.
        classes: Number of outputs.
        alpha: Width multiplier, above 0. Every number of channels is multiplied and rounded down.
        dropout: Share of the features dropped in training, before the classifier.
        batchnorm_momentum: Momentum of the moving statistics. Keras's own 0.99 takes a thousand
            steps to forget the initial variance of 1, more than small data sets are trained for:
            inference is then at chance although training went well.
        classifier_activation: Activation of the outputs; None gives logits.
        name: Name of the model.

    Returns:
        A model (batch, rows, columns, channels) -> (batch, classes).

    Raises:
        ConfigError: An argument is out of range.
    """
    shape = checks.image_shape(input_shape, smallest=8)
    classes = checks.at_least_one(classes=classes)
    alpha = checks.width_multiplier(alpha)
    dropout = checks.dropout_rate(dropout)
    shorter = min(shape[:2])

    inputs = keras.Input(shape, name="image")
    conv = layers.Conv2D(
        scaled(_STEM, alpha),
        3,
        strides=2 if shorter >= 48 else 1,
        padding="same",
        use_bias=False,
        name="conv1",
    )
    x = conv_bn(inputs, conv, momentum=batchnorm_momentum)
    blocks = _BLOCKS + _MORE_BLOCKS if shorter > 64 else _BLOCKS
    for number, (filters, stride) in enumerate(blocks, start=1):
        x = separable(
            x,
            scaled(filters, alpha),
            stride=stride,
            momentum=batchnorm_momentum,
            name=str(number),
        )
    x = classifier(x, classes, dropout=dropout, activation=classifier_activation)
    return keras.Model(inputs, x, name=name or f"mobilenet_small_{alpha:0.2f}_{shape[0]}")
