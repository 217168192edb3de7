"""ResNet-8, the image classification network of MLPerf Tiny."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from . import checks
from .blocks import Activation, activate, conv_bn


def resnet8(
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    *,
    filters: int = 16,
    weight_decay: float = 1e-4,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Builds MLPerf Tiny's image classification network.

    Three residual blocks of 1, 2 and 4 times `filters` channels, the last two with stride 2
    (Banbury et al. 2021, "MLPerf Tiny Benchmark", https://arxiv.org/abs/2106.07597). It has the
    weights of the benchmark's trained file, in its order: 78,666 parameters.

    Example:
        >>> trained = keras.models.load_model("resnet8_cifar10.h5", compile=False)
        >>> model = resnet8()
        >>> model.set_weights(trained.get_weights())

    Args:
        input_shape: (rows, columns, channels), at least 8 x 8. The benchmark feeds pixels as
            floats of 0 to 255.
        classes: Number of outputs.
        filters: Channels of the first block.
        weight_decay: L2 penalty on the convolution kernels; 0 for none.
        classifier_activation: Activation of the outputs; None gives logits.
        name: Name of the model.

    Returns:
        A model (batch, rows, columns, channels) -> (batch, classes).

    Raises:
        ConfigError: An argument is out of range.
    """
    shape = checks.image_shape(input_shape, smallest=8)
    classes = checks.at_least_one(classes=classes)
    filters = checks.at_least_one(filters=filters)
    weight_decay = checks.penalty(weight_decay)

    def conv(filters: int, kernel_size: int, stride: int, name: str) -> keras.Layer:
        return layers.Conv2D(
            filters,
            kernel_size,
            strides=stride,
            padding="same",
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(weight_decay) if weight_decay else None,
            name=name,
        )

    inputs = keras.Input(shape, name="image")
    x = conv_bn(inputs, conv(filters, 3, 1, "conv1"), activation="relu")
    for number, stride in enumerate((1, 2, 2), start=1):
        block = f"block_{number}"
        width = filters * 2 ** (number - 1)
        y = conv_bn(x, conv(width, 3, stride, f"{block}_conv1"), activation="relu")
        y = conv_bn(y, conv(width, 3, 1, f"{block}_conv2"), activation=None)
        if stride > 1:
            x = conv(width, 1, stride, f"{block}_shortcut")(x)
        x = activate(layers.Add(name=f"{block}_add")([x, y]), "relu", block)
    x = layers.AveragePooling2D(x.shape[1:3], name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(
        classes,
        activation=classifier_activation,
        kernel_initializer="he_normal",
        name="predictions",
    )(x)
    return keras.Model(inputs, x, name=name or "resnet8")
