"""DS-CNN, the keyword spotting network of MLPerf Tiny."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfcompress.errors import ConfigError

from . import checks
from .blocks import Activation, conv_bn
from .separable import separable


def ds_cnn(
    input_shape: Sequence[int] = (49, 10, 1),
    classes: int = 12,
    *,
    filters: int = 64,
    dropout: tuple[float, float] = (0.2, 0.4),
    weight_decay: float = 1e-4,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Builds MLPerf Tiny's keyword spotting network.

    A 10x4 convolution of stride 2 and four depthwise-separable blocks, with biases and ReLU
    (Banbury et al. 2021, "MLPerf Tiny Benchmark", https://arxiv.org/abs/2106.07597; the network is
    that of Zhang et al. 2017, "Hello Edge", https://arxiv.org/abs/1711.07128): 24,908 parameters.

    The pooling is the benchmark's, too: its window has half the input's sides, rounded down, and
    so leaves out the last row of the feature map, or column, where the input's is odd.

    Example:
        >>> ds_cnn((61, 40, 1), 10).output_shape  # 61 frames of 40 log-mel bands
        (None, 10)

    Args:
        input_shape: (frames, features, channels), at least 4 x 4; by default 49 frames of 10 MFCC.
        classes: Number of outputs.
        filters: Channels of every convolution.
        dropout: Shares dropped in training, behind the first convolution and before the pooling.
        weight_decay: L2 penalty on the first and the pointwise kernels; 0 for none. As in the
            benchmark, where the penalty never reached the depthwise kernels.
        classifier_activation: Activation of the outputs; None gives logits.
        name: Name of the model.

    Returns:
        A model (batch, frames, features, channels) -> (batch, classes).

    Raises:
        ConfigError: An argument is out of range.
    """
    shape = checks.image_shape(input_shape, smallest=4)
    classes = checks.at_least_one(classes=classes)
    filters = checks.at_least_one(filters=filters)
    weight_decay = checks.penalty(weight_decay)
    first_dropout, last_dropout = _two_rates(dropout)
    regularizer = keras.regularizers.L2(weight_decay) if weight_decay else None

    inputs = keras.Input(shape, name="features")
    conv = layers.Conv2D(
        filters, (10, 4), strides=2, padding="same", kernel_regularizer=regularizer, name="conv1"
    )
    x = conv_bn(inputs, conv, activation="relu")
    x = layers.Dropout(first_dropout, name="dropout1")(x)
    for number in range(1, 5):
        x = separable(
            x,
            filters,
            activation="relu",
            use_bias=True,
            pointwise_regularizer=regularizer,
            name=str(number),
        )
    x = layers.Dropout(last_dropout, name="dropout2")(x)
    x = layers.AveragePooling2D((shape[0] // 2, shape[1] // 2), name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
    return keras.Model(inputs, x, name=name or "ds_cnn")


def _two_rates(dropout: tuple[float, float]) -> list[float]:
    if not isinstance(dropout, Sequence) or len(dropout) != 2:
        raise ConfigError(
            "`dropout` holds two shares: behind the first convolution and before the pooling. "
            f"Received: dropout={dropout!r}. Give a pair such as (0.2, 0.4)."
        )
    return [checks.dropout_rate(rate) for rate in dropout]
