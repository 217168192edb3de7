"""The range of a tensor as it is trained, and the grid that follows from one or several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import ConfigError
from tfcompress.quantization.grids import Grid, choose_grid

MOMENTUM = 0.99


class Ranges:
    """Smallest and largest value of a tensor, as a moving average over training steps.

    The first training step replaces what was there before, unless it came from data.

    Args:
        layer: the layer that makes the tensor and holds the variables.

    Attributes:
        minimum: float32 variable, scalar, at most 0.
        maximum: float32 variable, scalar, at least 0.
        state: float32 variable: 0 for guessed values, 1 for values from data, 2 when frozen.
    """

    def __init__(self, layer: keras.Layer) -> None:
        def variable(name: str, value: float) -> Any:
            return layer.add_weight(
                name=name,
                shape=(),
                initializer=keras.initializers.Constant(value),
                dtype="float32",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )

        self.minimum = variable("minimum", -1.0)
        self.maximum = variable("maximum", 1.0)
        self.state = variable("range_state", 0.0)

    def set(self, minimum: float, maximum: float) -> None:
        """Gives it values found in data."""
        self.minimum.assign(min(float(minimum), 0.0))
        self.maximum.assign(max(float(maximum), 0.0))
        self.state.assign(1.0)

    def freeze(self, frozen: bool = True) -> None:
        """From now on the range stays as it is, or no longer."""
        self.state.assign(2.0 if frozen else 1.0)

    @property
    def frozen(self) -> bool:
        """Whether it stays as it is."""
        return float(self.state.numpy()) >= 2

    def update(self, low: tf.Tensor, high: tf.Tensor) -> None:
        """One step of the moving average.

        Args:
            low: float32 scalar, the smallest value of this batch.
            high: float32 scalar, the largest.
        """
        state = tf.convert_to_tensor(self.state.value)
        keep = tf.where(state < 0.5, 0.0, tf.where(state < 1.5, MOMENTUM, 1.0))
        for variable, found in ((self.minimum, low), (self.maximum, high)):
            old = tf.convert_to_tensor(variable.value)
            found = tf.where(tf.math.is_finite(found), tf.stop_gradient(found), old)
            bounded = tf.minimum(found, 0.0) if variable is self.minimum else tf.maximum(found, 0.0)
            # Not old + (1 - keep) * (new - old): frozen values must not change at all.
            variable.assign(tf.where(keep >= 1, old, keep * old + (1 - keep) * bounded))
        self.state.assign(tf.maximum(state, 1.0))


class GridSource:
    """Where a tensor's grid comes from: ranges of layers, by their names, or fixed numbers.

    Args:
        ranges: names of layers whose ranges the grid has to hold, all of them.
        scale: of a fixed grid.
        zero_point: of a fixed grid.
        symmetric: the zero point is 0.
    """

    def __init__(
        self,
        ranges: Sequence[str] = (),
        scale: float | None = None,
        zero_point: float = 0.0,
        symmetric: bool = False,
    ) -> None:
        self.ranges = tuple(ranges)
        self.scale, self.zero_point, self.symmetric = scale, zero_point, symmetric
        self._bound: tuple[Ranges, ...] = ()

    def get_config(self) -> dict[str, Any]:
        """As plain values."""
        if self.scale is not None:
            return {"scale": self.scale, "zero_point": self.zero_point}
        return {"ranges": list(self.ranges), "symmetric": self.symmetric}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GridSource:
        """The inverse of `get_config`."""
        return cls(**config)

    def bind(self, layers: Mapping[str, Any]) -> None:
        """Finds the ranges that it names.

        Raises:
            ConfigError: a layer is missing.
        """
        missing = [name for name in self.ranges if name not in layers]
        if missing:
            raise ConfigError(
                f"A quantized layer follows the ranges of layers {missing}, which are not in this "
                "model. Build models of quantized layers from whole quantize-aware models."
            )
        self._bound = tuple(layers[name].ranges for name in self.ranges)

    def grid(self) -> Grid:
        """The grid now; in a graph, as of the time it runs.

        Raises:
            ConfigError: a layer used outside its model.
        """
        if self.scale is not None:
            return Grid(self.scale, self.zero_point)
        if not self._bound:
            raise ConfigError(
                "A quantized layer was called outside the quantize-aware model that it belongs "
                "to, so the scale of its input is not known."
            )
        lows = [tf.convert_to_tensor(ranges.minimum.value) for ranges in self._bound]
        highs = [tf.convert_to_tensor(ranges.maximum.value) for ranges in self._bound]
        low = lows[0] if len(lows) == 1 else tf.reduce_min(tf.stack(lows))
        high = highs[0] if len(highs) == 1 else tf.reduce_max(tf.stack(highs))
        return choose_grid(low, high, symmetric=self.symmetric)
