"""The range of a tensor as it is trained, and the grid that follows from one or several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import ConfigError
from tfcompress.quantization.grids import SMALLEST, Grid, choose_grid, short_scale, weight_grid

MOMENTUM = 0.99
GUESSED, FOLLOWING, FROZEN = 0.0, 1.0, 2.0


class Ranges:
    """Smallest and largest value of a tensor, as a moving average over training steps.

    A guessed range is replaced by that of the first training step.

    Args:
        layer: the layer that makes the tensor and holds the variables.

    Attributes:
        minimum: float32 variable, scalar, at most 0.
        maximum: float32 variable, scalar, at least 0.
        state: float32 variable: GUESSED, FOLLOWING or FROZEN.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.minimum = _scalar(layer, "minimum", -1.0)
        self.maximum = _scalar(layer, "maximum", 1.0)
        self.state = _scalar(layer, "range_state", GUESSED)

    def set(self, minimum: float, maximum: float, *, guessed: bool = False) -> None:
        """Gives it values found in data, or guessed ones."""
        self.minimum.assign(min(float(minimum), 0.0))
        self.maximum.assign(max(float(maximum), 0.0))
        self.state.assign(GUESSED if guessed else FOLLOWING)

    def freeze(self) -> None:
        """From now on the range stays as it is."""
        self.state.assign(FROZEN)

    def update(self, low: tf.Tensor, high: tf.Tensor) -> None:
        """One step of the moving average.

        Args:
            low: float32 scalar, the smallest value of this batch.
            high: float32 scalar, the largest.
        """
        state = _value(self.state)
        keep = tf.where(state < FOLLOWING, 0.0, tf.where(state < FROZEN, MOMENTUM, 1.0))
        for variable, bound, found in (
            (self.minimum, tf.minimum, low),
            (self.maximum, tf.maximum, high),
        ):
            old = _value(variable)
            found = tf.where(tf.math.is_finite(found), tf.stop_gradient(found), old)
            # Frozen values must not change at all, which a sum of two products does not promise.
            moved = tf.where(keep >= 1, old, keep * old + (1 - keep) * bound(found, 0.0))
            variable.assign(moved)
        self.state.assign(tf.maximum(state, FOLLOWING))

    def ends(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Smallest and largest value now."""
        return _value(self.minimum), _value(self.maximum)

    def grid(self, symmetric: bool) -> Grid:
        """The grid of this range alone."""
        return choose_grid(*self.ends(), symmetric=symmetric)

    def learned(self) -> tf.Tensor | None:
        """The scale that a gradient is to reach; None where the range follows the values."""
        return None


class LearnedRange(Ranges):
    """A scale that is trained by gradient, around a zero point that stays (LSQ, Esser 2020).

    Attributes:
        scale: float32 variable, scalar, trainable.
        zero_point: float32 variable, scalar.
        state: as in `Ranges`.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.scale = _scalar(layer, "scale", 1 / 128, trainable=True)
        self.zero_point = _scalar(layer, "zero_point", 0.0)
        self.state = _scalar(layer, "range_state", GUESSED)

    def set(self, minimum: float, maximum: float, *, guessed: bool = False) -> None:
        """Gives it the grid of values found in data, or of guessed ones."""
        grid = choose_grid(minimum, maximum)
        self.scale.assign(grid.scale)
        self.zero_point.assign(grid.zero_point)
        self.state.assign(GUESSED if guessed else FOLLOWING)

    def update(self, low: tf.Tensor, high: tf.Tensor) -> None:
        """Nothing: the gradient does it."""

    def ends(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Smallest and largest value that the grid holds."""
        grid = self.grid(False)
        return (-128 - grid.zero_point) * grid.scale, (127 - grid.zero_point) * grid.scale

    def grid(self, symmetric: bool) -> Grid:
        """The grid; gradients do not pass, see `learned`."""
        scale = tf.maximum(tf.stop_gradient(_value(self.scale)), SMALLEST)
        return Grid(short_scale(scale), _value(self.zero_point))

    def learned(self) -> tf.Tensor | None:
        """The scale, through which no gradient passes once it is frozen."""
        scale = _value(self.scale)
        return tf.where(_value(self.state) < FROZEN, scale, tf.stop_gradient(scale))


class TableRange(Ranges):
    """The symmetric range of a table of weights, whose rows are a layer's output.

    Args:
        layer: with `values()`, the table, and `weight_bits`.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def set(self, minimum: float, maximum: float, *, guessed: bool = False) -> None:
        """Nothing: the weights are the range."""

    def freeze(self) -> None:
        """Nothing: it follows the weights."""

    def update(self, low: tf.Tensor, high: tf.Tensor) -> None:
        """Nothing: it follows the weights."""

    def ends(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The largest weight, on both sides."""
        grid = self.grid(True)
        return -128 * grid.scale, 127 * grid.scale

    def grid(self, symmetric: bool) -> Grid:
        """Its grid: one scale."""
        table = tf.reshape(tf.stop_gradient(self._layer.values()), (-1, 1))
        return Grid(weight_grid(table, bits=self._layer.weight_bits).scale[0])


RANGES: dict[str, type[Ranges]] = {"moving_average": Ranges, "lsq": LearnedRange}


def _scalar(layer: keras.Layer, name: str, value: float, trainable: bool = False) -> Any:
    return layer.add_weight(
        name=name,
        shape=(),
        initializer=keras.initializers.Constant(value),
        dtype="float32",
        trainable=trainable,
        autocast=False,
        aggregation="mean",
    )


def _value(variable: Any) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value)


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
        if len(self._bound) == 1:
            return self._bound[0].grid(self.symmetric)
        lows, highs = zip(*(ranges.ends() for ranges in self._bound), strict=True)
        low, high = tf.reduce_min(tf.stack(lows)), tf.reduce_max(tf.stack(highs))
        return choose_grid(low, high, symmetric=self.symmetric)

    def learned(self) -> tf.Tensor | None:
        """The scale that a gradient is to reach; None where there is no single one."""
        return self._bound[0].learned() if len(self._bound) == 1 else None
