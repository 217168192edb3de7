"""The depthwise-separable block of MobileNetV1."""

from __future__ import annotations

import keras
from keras import layers

from tfcompress.errors import ConfigError

from . import checks
from .blocks import Activation, Padding, conv_bn, depthwise_bn, stride_2_padding


def separable_block(
    x: keras.KerasTensor,
    filters: int,
    *,
    stride: int = 1,
    depth_multiplier: int = 1,
    kernel_size: int = 3,
    activation: Activation = "relu6",
    name: str | None = None,
    sparse_friendly: bool = False,
) -> keras.KerasTensor:
    """Applies depthwise conv, BatchNorm, activation, pointwise conv, BatchNorm, activation.

    The block of Howard et al. 2017, "MobileNets" (https://arxiv.org/abs/1704.04861), padded as
    `keras.applications.MobileNet` pads it.

    Example:
        >>> inputs = keras.Input((32, 32, 16))
        >>> separable_block(inputs, 24, stride=2, name="1").shape
        (None, 16, 16, 24)

    Args:
        x: Symbolic tensor of shape (batch, rows, columns, channels).
        filters: Number of output channels, those of the pointwise convolution.
        stride: 1 or 2, of the depthwise convolution.
        depth_multiplier: Channels that the depthwise convolution makes of each channel.
        kernel_size: Side of the depthwise kernel, odd and at least 3.
        activation: "relu6", any activation of Keras, or None for none.
        name: Ends the names of the layers: "3" gives "conv_dw_3", "conv_dw_3_bn",
            "conv_dw_3_relu", "conv_pw_3", ... None lets Keras number them.
        sparse_friendly: Pad a strided depthwise convolution by as much before as after, the only
            way that XNNPACK's sparse kernels take. The standard block has, as TensorFlow's "same"
            at an even size, one zero less before. An image of two odd sides is refused.

    Returns:
        Symbolic tensor of shape (batch, rows / stride, columns / stride, filters). At stride 2 and
        an odd size the standard block rounds down, the sparse_friendly one up.

    Raises:
        ConfigError: An argument is out of range, or has no sparse kernel.
    """
    checks.channels_last()
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 4 or shape[-1] is None:
        raise ConfigError(
            "A separable block takes a tensor (batch, rows, columns, channels) with a known number "
            f"of channels, such as keras.Input((32, 32, 3)). Received: x={x!r}."
        )
    checks.choice((1, 2), stride=stride)
    filters = checks.at_least_one(filters=filters)
    depth_multiplier = checks.at_least_one(depth_multiplier=depth_multiplier)
    kernel_size = checks.at_least_one(kernel_size=kernel_size)
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ConfigError(
            f"`kernel_size` is odd and at least 3. Received: kernel_size={kernel_size!r}."
        )
    if sparse_friendly:
        checks.sparse_friendly_depthwise(depth_multiplier=depth_multiplier, kernel_size=kernel_size)
        rows, columns = shape[1:3]
        if stride == 2 and rows and columns:
            checks.sparse_friendly_sizes(rows, columns, strides=1)
    return separable(
        x,
        filters,
        stride=stride,
        depth_multiplier=depth_multiplier,
        kernel_size=kernel_size,
        # (0, 0): MobileNetV1 pads every size as if it were even.
        padding=stride_2_padding(kernel_size, (0, 0), symmetric=sparse_friendly),
        activation=activation,
        name=name,
    )


def separable(
    x: keras.KerasTensor,
    filters: int,
    *,
    stride: int = 1,
    depth_multiplier: int = 1,
    kernel_size: int = 3,
    padding: Padding | None = None,
    activation: Activation = "relu6",
    use_bias: bool = False,
    momentum: float = 0.99,
    pointwise_regularizer: keras.Regularizer | None = None,
    name: str | None = None,
) -> keras.KerasTensor:
    """Applies the block with whatever padding and biases a network wants: see `depthwise_bn`."""

    def named(part: str) -> str | None:
        return name and f"conv_{part}_{name}"

    x = depthwise_bn(
        x,
        stride=stride,
        kernel_size=kernel_size,
        depth_multiplier=depth_multiplier,
        padding=padding,
        use_bias=use_bias,
        activation=activation,
        momentum=momentum,
        name=named("dw"),
        pad_name=named("pad"),
    )
    pointwise = layers.Conv2D(
        filters,
        1,
        padding="same",
        use_bias=use_bias,
        kernel_regularizer=pointwise_regularizer,
        name=named("pw"),
    )
    return conv_bn(x, pointwise, activation=activation, momentum=momentum)
