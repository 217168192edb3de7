"""The bricks of all the networks: convolution with BatchNorm and activation, padding, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
from keras import layers

Activation = str | Callable | None
Padding = tuple[tuple[int, int], ...]


def scaled(filters: int, alpha: float) -> int:
    """Returns `filters` times the width multiplier, rounded down, at least 1."""
    return max(1, int(filters * alpha))


def stride_2_padding(kernel_size: int, sizes: Iterable[int], *, symmetric: bool) -> Padding:
    """Returns the zeros (before, after) per axis for a "valid" convolution of stride 2.

    TensorFlow's "same" depends on the parity of the size: at an even size it has one zero less
    before than after. Symmetric padding has as many on both sides at every size.
    """
    half = kernel_size // 2
    return tuple((half if symmetric or size % 2 else half - 1, half) for size in sizes)


def activate(x: keras.KerasTensor, activation: Activation, name: str) -> keras.KerasTensor:
    """Applies `activation` ("relu6", any activation of Keras, None) as a layer of its own."""
    if activation is None:
        return x
    if activation == "relu6":
        return layers.ReLU(6.0, name=f"{name}_relu")(x)
    if activation == "relu":
        return layers.ReLU(name=f"{name}_relu")(x)
    return layers.Activation(activation, name=f"{name}_act")(x)


def conv_bn(
    x: keras.KerasTensor,
    conv: keras.Layer,
    *,
    activation: Activation = "relu6",
    momentum: float = 0.99,
) -> keras.KerasTensor:
    """Applies the layer `conv`, then BatchNorm, then `activation`, named after `conv`."""
    x = conv(x)
    x = layers.BatchNormalization(epsilon=1e-3, momentum=momentum, name=f"{conv.name}_bn")(x)
    return activate(x, activation, conv.name)


def stem(
    x: keras.KerasTensor, filters: int, *, sparse_friendly: bool, momentum: float = 0.99
) -> keras.KerasTensor:
    """Applies the first convolution of the MobileNets: 3x3, stride 2, BatchNorm, ReLU6."""
    if sparse_friendly:
        x = layers.ZeroPadding2D(1, name="conv1_pad")(x)
    padding = "valid" if sparse_friendly else "same"
    conv = layers.Conv2D(filters, 3, strides=2, padding=padding, use_bias=False, name="conv1")
    return conv_bn(x, conv, momentum=momentum)


def depthwise_bn(
    x: keras.KerasTensor,
    *,
    stride: int,
    kernel_size: int = 3,
    depth_multiplier: int = 1,
    padding: Padding | None = None,
    use_bias: bool = False,
    activation: Activation = "relu6",
    momentum: float = 0.99,
    name: str | None = None,
    pad_name: str | None = None,
) -> keras.KerasTensor:
    """Applies a depthwise convolution, BatchNorm and `activation`.

    `padding` holds the zeros of a strided convolution, added by a layer of their own; without it,
    and at stride 1, the padding is "same".
    """
    explicit = stride > 1 and padding is not None
    if explicit:
        x = layers.ZeroPadding2D(padding, name=pad_name)(x)
    conv = layers.DepthwiseConv2D(
        kernel_size,
        strides=stride,
        padding="valid" if explicit else "same",
        depth_multiplier=depth_multiplier,
        use_bias=use_bias,
        name=name,
    )
    return conv_bn(x, conv, activation=activation, momentum=momentum)


def classifier(
    x: keras.KerasTensor, classes: int, *, dropout: float, activation: Activation
) -> keras.KerasTensor:
    """Applies the head: mean over the image, dropout where there is any, Dense."""
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(classes, activation=activation, name="predictions")(x)


def pooled(x: keras.KerasTensor, pooling: str | None) -> keras.KerasTensor:
    """Ends a network without a head: feature map (None), or its mean ("avg") or maximum ("max")."""
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(name="global_pool")(x)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name="global_pool")(x)
    return x
