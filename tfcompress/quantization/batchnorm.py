"""BatchNorm within a quantized layer: its parameters train, its statistics may be frozen."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class FoldedBatchNorm:
    """The variables of a BatchNormalization over the last axis.

    Args:
        layer: the layer that holds the variables.
        channels: how many there are.
        momentum: of the moving statistics.
        epsilon: added to the variance.
        center: has a beta.
        scale: has a gamma.
        trainable: False for one that is frozen, as of a layer with trainable=False.

    Attributes:
        state: float32 variable, scalar: 1 once the moving statistics are used in training too.
    """

    def __init__(
        self,
        layer: keras.Layer,
        channels: int,
        momentum: float,
        epsilon: float,
        center: bool,
        scale: bool,
        trainable: bool = True,
    ) -> None:
        def variable(name: str, initial: str, trainable: bool, shape: Any = (channels,)) -> Any:
            return layer.add_weight(
                name=name,
                shape=shape,
                initializer=initial,
                dtype="float32",
                trainable=trainable,
                autocast=False,
                aggregation="none" if trainable else "mean",
            )

        self.momentum, self.epsilon, self._trainable = momentum, epsilon, trainable
        self.gamma = variable("gamma", "ones", trainable) if scale else None
        self.beta = variable("beta", "zeros", trainable) if center else None
        self.mean = variable("moving_mean", "zeros", False)
        self.variance = variable("moving_variance", "ones", False)
        self.state = variable("batchnorm_state", "zeros", False, ())

    @property
    def frozen(self) -> bool:
        """Whether training uses the moving statistics; decided when a graph is traced."""
        with tf.init_scope():
            return not self._trainable or bool(self.state.numpy() > 0)

    def freeze(self) -> None:
        """From now on training uses the moving statistics. Graphs must be traced anew."""
        self.state.assign(1.0)

    def take(self, layer: Any) -> None:
        """Takes a Keras BatchNormalization's values over."""
        pairs = [(self.mean, layer.moving_mean), (self.variance, layer.moving_variance)]
        pairs += [(self.gamma, layer.gamma)] if self.gamma is not None else []
        pairs += [(self.beta, layer.beta)] if self.beta is not None else []
        for own, other in pairs:
            own.assign(other)

    def moving(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Factor and shift for each channel, by the moving statistics; float32 (channels,)."""
        mean = tf.convert_to_tensor(self.mean.value)
        return self._affine(mean, tf.convert_to_tensor(self.variance.value))

    def batch(self, z: tf.Tensor) -> tf.Tensor:
        """Z normalized by its own statistics, which the moving ones follow."""
        mean, variance = tf.nn.moments(z, list(range(z.shape.rank - 1)))
        for variable, found in ((self.mean, mean), (self.variance, variance)):
            old = tf.convert_to_tensor(variable.value)
            new = self.momentum * old + (1 - self.momentum) * tf.stop_gradient(found)
            variable.assign(new)
        factor, shift = self._affine(mean, variance)
        return z * factor + shift

    def _affine(self, mean: tf.Tensor, variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        factor = tf.math.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            factor *= tf.convert_to_tensor(self.gamma.value)
        shift = -mean * factor
        if self.beta is not None:
            shift += tf.convert_to_tensor(self.beta.value)
        return factor, shift
