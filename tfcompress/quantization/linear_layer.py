"""`QuantizedLinear`: convolutions and dense layers with folded BatchNorm, on integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.quantization import exact, grids, modes
from tfcompress.quantization.arithmetic import linear, wide
from tfcompress.quantization.arithmetic.output import Activation
from tfcompress.quantization.batchnorm import FoldedBatchNorm
from tfcompress.quantization.grids import Grid
from tfcompress.quantization.layers import (
    QuantizedLayer,
    constant_quant,
    fake_quant,
    known,
    steps,
)
from tfcompress.quantization.primitives import activate
from tfcompress.quantization.rounding import on_grid, requantized
from tfcompress.transforms.wrapper import effective


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedLinear(QuantizedLayer):
    """A convolution, depthwise or transposed convolution or dense layer, bias and activation.

    Every kind has a kernel of four axes and computes on images; an input of another rank is
    reshaped on the way in and out. A dense layer is a 1x1 convolution: the converter quantizes
    only convolutions' kernels per channel.

    Args:
        kind: "conv", "depthwise" or "transpose".
        kernel_shape: (h, w, in, out), depthwise (h, w, in, multiplier), transposed
            (h, w, out, in).
        strides: (rows, columns).
        padding: "SAME" or "VALID".
        dilations: (rows, columns).
        use_bias: whether it has a bias.
        activation: what is fused.
        weight_bits: 2 to 8.
        contracted: how many of the input's last axes are its channels.
        tail: shape of the output behind the axes that it shares with the input; None for the
            images' own.
        lifted: its input is a sequence (batch, length, channels), taken as an image of one row.
        train_kernel: False for a kernel that was no weight of the original.
        scaled_input: a factor for each input channel is folded into its kernel.
        batchnorm: {"momentum", "epsilon", "center", "scale"} of the BatchNorm that is folded into
            its kernel; None without any.
        inputs: see `QuantizedLayer`.
        output: likewise.
        owns_range: likewise.
        weights_of: likewise.
    """

    def __init__(
        self,
        kind: str,
        kernel_shape: Sequence[int],
        *,
        strides: Sequence[int] = (1, 1),
        padding: str = "VALID",
        dilations: Sequence[int] = (1, 1),
        use_bias: bool = True,
        activation: Activation = None,
        weight_bits: int = 8,
        contracted: int = 1,
        tail: Sequence[int] | None = None,
        lifted: bool = False,
        train_kernel: bool = True,
        scaled_input: bool = False,
        batchnorm: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.kind = kind
        self.kernel_shape = tuple(kernel_shape)
        self.strides, self.dilations = tuple(strides), tuple(dilations)
        self.padding = padding
        self.use_bias = use_bias
        self.activation = activation
        self.weight_bits = weight_bits
        self.contracted = contracted
        self.tail = None if tail is None else tuple(tail)
        self.lifted = lifted
        self.train_kernel = train_kernel
        self.scaled_input = scaled_input
        self.input_factor: Any = None
        self.batchnorm = None if batchnorm is None else dict(batchnorm)
        self.norm: FoldedBatchNorm | None = None
        self.kernel: Any = None
        self.bias: Any = None

    @property
    def transformed(self) -> Any:
        """The kernel."""
        return self.kernel

    @property
    def channels(self) -> int:
        """How many output channels it has."""
        third, last = self.kernel_shape[2:]
        return {"conv": last, "depthwise": third * last, "transpose": third}[self.kind]

    def build(self, shape: Any) -> None:
        """Makes kernel, bias and range."""
        if not self.weights_of:
            self.kernel = self.add_kernel("kernel", self.kernel_shape, self.train_kernel)
            if self.use_bias:
                self.bias = self.add_weight(
                    name="bias", shape=(self.channels,), initializer="zeros"
                )
            if self.scaled_input:
                self.input_factor = self.add_weight(
                    name="input_factor",
                    shape=(self.kernel_shape[2],),
                    initializer="ones",
                    trainable=False,
                )
            if self.batchnorm is not None:
                self.norm = FoldedBatchNorm(self, self.channels, **self.batchnorm)
        super().build(shape)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        names = [
            *("kind", "kernel_shape", "strides", "padding", "dilations", "use_bias"),
            *("activation", "weight_bits", "contracted", "tail", "lifted"),
            *("train_kernel", "scaled_input", "batchnorm"),
        ]
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def compute_output_shape(self, shape: Any) -> tuple[int | None, ...]:
        """The output's shape."""
        if self.lifted:
            row = self._image_shape((shape[0], 1, *tuple(shape)[1:]))
            return (row[0], *row[2:])
        if self.tail is not None:
            return (*tuple(shape)[: -self.contracted], *self.tail)
        return self._image_shape(shape)

    def _image_shape(self, shape: Any) -> tuple[int | None, ...]:
        sides: list[int | None] = []
        for i, side in enumerate(tuple(shape)[1:3]):
            size, stride = self.kernel_shape[i], self.strides[i]
            if side is None:
                sides.append(None)
            elif self.kind == "transpose":
                extra = max(size - stride, 0) if self.padding == "VALID" else 0
                sides.append(side * stride + extra)
            elif self.padding == "SAME":
                sides.append(-(-side // stride))
            else:
                sides.append((side - (size - 1) * self.dilations[i] - 1) // stride + 1)
        return (shape[0], *sides, self.channels)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The output's real values."""
        x = tf.convert_to_tensor(inputs)
        image = self._image(x)
        if modes.export_bits():
            if modes.for_onnx() and self._dense:
                return self._express_dense(x)
            return self._shaped(self._express(image), x)
        if modes.observer() is not None:
            return self._shaped(self._observe(image), x)
        return self._shaped(self._compute(image, training), x)

    def effective_kernel(self, folded: bool = True) -> tf.Tensor:
        """The transformed kernel, with BatchNorm folded in or not."""
        source = self._source()
        kernel = effective(source.kernel, source.transforms)
        if source.input_factor is not None:
            kernel *= tf.convert_to_tensor(source.input_factor.value)[:, None]
        if folded and source.norm is not None:
            factor, _ = source.norm.moving()
            kernel = self._own_shape(self._by_channel(kernel) * factor)
        return kernel

    def effective_bias(self) -> tf.Tensor | None:
        """The bias, with BatchNorm folded in; None without any."""
        source = self._source()
        bias = None if source.bias is None else tf.convert_to_tensor(source.bias.value)
        if source.norm is not None:
            factor, shift = source.norm.moving()
            bias = shift if bias is None else bias * factor + shift
        return bias

    def integers(self, inputs: Grid) -> tuple[tf.Tensor, tf.Tensor | None, Grid]:
        """Stored kernel and bias, and the kernel's grid.

        Args:
            inputs: grid of the input.

        Returns:
            Integers of the kernel, in its own shape, those of the bias (None without one), and
            the grid, (channels,). Gradients pass straight through.
        """
        kernel, bias = self.effective_kernel(), self.effective_bias()
        return self._integers(kernel, bias, inputs)

    def _integers(self, kernel: tf.Tensor, bias: tf.Tensor | None, inputs: Grid) -> Any:
        by_channel = self._by_channel(kernel)
        whole, of_bias, grid = grids.layer_integers(by_channel, bias, inputs, bits=self.weight_bits)
        stored = self._own_shape(modes.through(whole, by_channel / grid.scale))
        if bias is None or of_bias is None:
            return stored, None, grid
        step = tf.cast(grids.bias_grid(inputs, grid), tf.float32)
        return stored, modes.through(of_bias, tf.cast(bias / step, of_bias.dtype)), grid

    def _compute(self, image: tf.Tensor, training: Any) -> tf.Tensor:
        norm = self._source().norm
        if training and norm is not None and not norm.frozen:
            return self._compute_live(image, norm)
        inputs = self.input_sources[0].grid()
        kernel, bias, weights = self.integers(inputs)
        acc = self._accumulated(steps(image, inputs), kernel, inputs, training)
        if bias is not None:
            acc += tf.cast(bias, acc.dtype)
        if not inputs.wide:
            acc = tf.cast(acc, tf.float32)
        if self.owns_range and training:
            step = exact.product(inputs.scale, weights.scale)
            self._follow(tf.stop_gradient(acc), step)
        return requantized(acc, inputs, weights, self.output_source, self.activation)

    def _accumulated(
        self, d: tf.Tensor, kernel: tf.Tensor, inputs: Grid, training: Any
    ) -> tf.Tensor:
        """The sums of the integers; in training as float32 adds them."""
        if training:
            return self._sum(d, kernel, 1)
        if inputs.wide:
            return wide.split_sum(lambda part: self._sum(part, kernel, None), d)
        return self._sum(d, kernel, None)

    def _compute_live(self, image: tf.Tensor, norm: FoldedBatchNorm) -> tf.Tensor:
        """By the batch's own statistics.

        A kernel's integers do not depend on what BatchNorm multiplies its channels by, as each
        channel has its own scale. So the sums of the integers as they are tell the statistics of
        the quantized layer, and folding these in makes no weight jump from step to step: what the
        correction of Krishnamoorthi 2018 is for where scales are shared.
        """
        inputs = self.input_sources[0].grid()
        kernel = self.effective_kernel(folded=False)
        stored, _, grid = self._integers(kernel, None, inputs)
        z = self._sum(steps(image, inputs), stored, 1) * exact.product(inputs.scale, grid.scale)
        if self._source().bias is not None:
            z += tf.convert_to_tensor(self._source().bias.value)
        y = activate(norm.batch(z), self.activation)
        if self.owns_range:
            self.observe(tf.reduce_min(y), tf.reduce_max(y), True)
        out = self.output_source.grid()
        nearest = tf.clip_by_value(tf.round(y / out.scale) + out.zero_point, out.low, out.high)
        value = exact.product(tf.stop_gradient(nearest) - out.zero_point, out.scale)
        return on_grid(value, y, self.output_source)

    def _follow(self, acc: tf.Tensor, step: tf.Tensor) -> None:
        """The range follows the output before it is rounded."""
        axes = list(range(acc.shape.rank - 1))
        low = tf.zeros(())
        if self.activation is None:
            low = tf.reduce_min(tf.reduce_min(acc, axes) * step)
        high = tf.reduce_max(tf.reduce_max(acc, axes) * step)
        if self.activation == "relu6":
            high = tf.minimum(high, 6.0)
        self.observe(low, high, True)

    def _observe(self, image: tf.Tensor) -> tf.Tensor:
        kernel, bias = self.effective_kernel(), self.effective_bias()
        y = self._sum(image, kernel, 1)
        y = activate(y if bias is None else y + bias, self.activation)
        if self.owns_range:
            modes.observer()(self, y)
        return y

    @property
    def _dense(self) -> bool:
        """Whether it is a dense layer: a product of matrices."""
        return self.kind == "conv" and self.tail is not None

    def _written(self) -> tuple[np.ndarray, np.ndarray | None, Grid]:
        """Kernel, channels last, and bias as real values on their grids, and the kernel's grid."""
        with tf.init_scope():
            inputs = self.input_sources[0].grid()
            kernel, bias, weights = self.integers(inputs)
            real = (self._by_channel(kernel) * weights.scale).numpy()
            return real, self._written_bias(bias, inputs, weights), weights

    def _express_dense(self, x: tf.Tensor) -> tf.Tensor:
        real, added, weights = self._written()
        if self.contracted > 1:
            x = tf.reshape(x, [*_sizes(x)[: -self.contracted], self.kernel_shape[2]])
        y = tf.matmul(x, constant_quant(real[0, 0], weights))
        y = activate(y if added is None else tf.nn.bias_add(y, added), self.activation)
        if self.tail is not None and len(self.tail) > 1:
            y = tf.reshape(y, [*_sizes(y)[:-1], *self.tail])
        return fake_quant(y, known(self.output_source), self.name)

    def _express(self, image: tf.Tensor) -> tf.Tensor:
        real, added, weights = self._written()
        if modes.for_onnx():
            kernel = self._own_shape(constant_quant(real, weights))
            y = self._sum(image, kernel, 1)
            y = y if added is None else tf.nn.bias_add(y, added)
            y = activate(y, self.activation)
            return fake_quant(y, known(self.output_source), self.name)
        bits = modes.export_bits()
        if self.weight_bits > bits or self.kind == "transpose":  # TRANSPOSE_CONV has no int4 form
            bits = 8
        low, high = grids.fake_quant_range(weights, bits=bits, narrow=True)
        shape = real.shape
        if self.kind == "depthwise":
            real = real.reshape(1, *shape)
        quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            tf.constant(real), low, high, num_bits=bits, narrow_range=True
        )
        if self.kind == "depthwise":
            quantized = tf.reshape(quantized, shape)
        y = self._sum(image, self._own_shape(quantized), 1)
        if self.kind == "transpose" and self.activation and (added is None or not added.any()):
            # The converter fuses an activation into TRANSPOSE_CONV with its bias only, and drops a
            # bias of zeros. This one becomes the integer 0.
            added = np.full(self.channels, np.finfo(np.float32).tiny)
        y = y if added is None else y + added
        return fake_quant(activate(y, self.activation), known(self.output_source))

    def _written_bias(self, bias: tf.Tensor | None, inputs: Grid, weights: Grid) -> Any:
        """The bias from which the converter finds these integers; None without one."""
        if bias is None:
            return None
        if inputs.wide:  # The integers are beyond float32's: they come of the bias itself.
            bias = self.effective_bias()
            assert bias is not None
            return bias.numpy()
        return grids.bias_values(bias, inputs, weights).numpy()

    def _sum(self, d: tf.Tensor, kernel: tf.Tensor, pieces: int | None) -> tf.Tensor:
        if self.kind == "depthwise":
            return linear.depthwise_sum(d, kernel, self.strides, self.padding, self.dilations)
        if self.kind == "conv":
            return linear.conv2d_sum(d, kernel, self.strides, self.padding, self.dilations, pieces)
        shape = self._image_shape((None, *d.shape[1:]))
        known_shape = None not in (d.shape[0], *shape[1:])
        sizes = tf.shape(d)
        sides = [shape[i] if shape[i] is not None else self._grown(sizes[i], i - 1) for i in (1, 2)]
        full = [d.shape[0] if known_shape else sizes[0], *sides, self.channels]
        return linear.transpose_sum(d, kernel, full, self.strides, self.padding, pieces)

    def _grown(self, side: tf.Tensor, axis: int) -> tf.Tensor:
        extra = max(self.kernel_shape[axis] - self.strides[axis], 0)
        return side * self.strides[axis] + (extra if self.padding == "VALID" else 0)

    def _by_channel(self, kernel: tf.Tensor) -> tf.Tensor:
        """With the output channels as its last axis."""
        if self.kind == "depthwise":
            return tf.reshape(kernel, (*self.kernel_shape[:2], self.channels))
        return tf.transpose(kernel, (0, 1, 3, 2)) if self.kind == "transpose" else kernel

    def _own_shape(self, kernel: tf.Tensor) -> tf.Tensor:
        if self.kind == "depthwise":
            return tf.reshape(kernel, self.kernel_shape)
        return tf.transpose(kernel, (0, 1, 3, 2)) if self.kind == "transpose" else kernel

    def _image(self, x: tf.Tensor) -> tf.Tensor:
        """The input as (batch, rows, columns, channels)."""
        if self.lifted:
            return tf.expand_dims(x, 1)
        if self.tail is None:
            return x
        channels = int(np.prod(self.kernel_shape[2]))
        shared = x.shape[1 : x.shape.rank - self.contracted]
        if None in shared:
            return tf.reshape(x, (tf.shape(x)[0], 1, -1, channels))
        batch = x.shape[0] if x.shape[0] is not None else -1
        return tf.reshape(x, (batch, 1, int(np.prod(shared)), channels))

    def _shaped(self, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The output in its own shape."""
        if self.lifted:
            return tf.squeeze(y, 1)
        if self.tail is None:
            return y
        shape = self.compute_output_shape(x.shape)
        if sum(size is None for size in shape) <= 1:
            return tf.reshape(y, [-1 if size is None else size for size in shape])
        dynamic = tf.shape(x)
        return tf.reshape(y, [dynamic[i] if s is None else s for i, s in enumerate(shape)])


def _sizes(x: tf.Tensor) -> list[Any]:
    """A tensor's shape; sizes that are not known are tensors."""
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]
