"""The range of a tensor as it is trained, and the grid that follows from one or several of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import ConfigError
from tfcompress.quantization import exact
from tfcompress.quantization.grids import (
    SMALLEST,
    SMALLEST_WIDE,
    Grid,
    choose_grid,
    no_power_of_two,
    short_scale,
    weight_grid,
)

MOMENTUM = 0.99
ROOTS = (0.25, 4.0)
"""A learned scale moves by at most 16 either way: beyond, the runtime's kernels end."""
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
        updates: how often `update` was called: in one graph, what was read before the last call
            is no longer the range. None where other things than `update` change it.
    """

    updates: int | None = 0

    def __init__(self, layer: keras.Layer) -> None:
        self.minimum = _scalar(layer, "minimum", -1.0)
        self.maximum = _scalar(layer, "maximum", 1.0)
        self.state = _scalar(layer, "range_state", GUESSED)
        self.bits = layer.output_source.bits

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
        variables = (self.minimum, self.maximum, self.state)
        now = [_value(variable) for variable in variables]
        moved = _moved(now[0], now[1], now[2], low, high)
        for variable, value in zip(variables, moved, strict=True):
            variable.assign(value)
        assert self.updates is not None
        self.updates += 1

    def ends(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Smallest and largest value now."""
        return _value(self.minimum), _value(self.maximum)

    def grid(self, symmetric: bool) -> Grid:
        """The grid of this range alone."""
        return choose_grid(*self.ends(), bits=self.bits, symmetric=symmetric)

    def learned(self) -> tf.Tensor | None:
        """The scale that a gradient is to reach; None where the range follows the values."""
        return None


@exact.once((), (), (), (), ())
def _moved(
    minimum: tf.Tensor, maximum: tf.Tensor, state: tf.Tensor, low: tf.Tensor, high: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    keep = tf.where(state < FOLLOWING, 0.0, tf.where(state < FROZEN, MOMENTUM, 1.0))
    moved = []
    for old, bound, found in ((minimum, tf.minimum, low), (maximum, tf.maximum, high)):
        found = tf.where(tf.math.is_finite(found), found, old)
        # Frozen values must not change at all, which a sum of two products does not promise.
        moved.append(tf.where(keep >= 1, old, keep * old + (1 - keep) * bound(found, 0.0)))
    return (*moved, tf.maximum(state, FOLLOWING))


class LearnedRange(Ranges):
    """A scale that is trained by gradient, around a zero point that stays (LSQ, Esser 2020).

    What is trained is the square root of what the first scale is multiplied by: a step of an
    optimizer such as Adam, as large as its learning rate, is then a share of the scale, which
    cannot become negative, whatever the size of the values.

    Attributes:
        scale: float32 variable, scalar: where it began, or was frozen.
        root: float32 variable, scalar, trainable.
        zero_point: float32 variable, scalar.
        state: as in `Ranges`.
    """

    updates = None  # the optimizer moves it

    def __init__(self, layer: keras.Layer) -> None:
        self.scale = _scalar(layer, "scale", 1 / 128)
        self.root = _scalar(layer, "scale_root", 1.0, trainable=True)
        self.zero_point = _scalar(layer, "zero_point", 0.0)
        self.state = _scalar(layer, "range_state", GUESSED)
        self.bits = layer.output_source.bits
        self.symmetric = layer.output_source.symmetric

    def set(self, minimum: float, maximum: float, *, guessed: bool = False) -> None:
        """Gives it the grid of values found in data, or of guessed ones."""
        grid = choose_grid(minimum, maximum, bits=self.bits, symmetric=self.symmetric)
        self.scale.assign(grid.scale)
        self.root.assign(1.0)
        self.zero_point.assign(grid.zero_point)
        self.state.assign(GUESSED if guessed else FOLLOWING)

    def update(self, low: tf.Tensor, high: tf.Tensor) -> None:
        """Nothing: the gradient does it."""

    def ends(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Smallest and largest value that the grid holds."""
        grid = self.grid(self.symmetric)
        low = -grid.high if self.symmetric else grid.low
        ends = [(end - grid.zero_point) * grid.scale for end in (low, grid.high)]
        return ends[0], ends[1]

    def grid(self, symmetric: bool) -> Grid:
        """The grid; gradients do not pass, see `learned`."""
        wide = self.bits == 16
        scale = tf.maximum(tf.stop_gradient(self._now()), SMALLEST_WIDE if wide else SMALLEST)
        short = short_scale(scale, bits=self.bits)
        return Grid(no_power_of_two(short) if wide else short, _value(self.zero_point), self.bits)

    def freeze(self) -> None:
        """From now on the scale stays, also where an optimizer's momentum moves the variable."""
        if float(self.state.numpy()) < FROZEN:
            self.scale.assign(self._now())
        super().freeze()

    def _now(self) -> tf.Tensor:
        root = tf.clip_by_value(_value(self.root), *ROOTS)
        moved = exact.product(exact.product(_value(self.scale), root), root)
        return tf.where(_value(self.state) < FROZEN, moved, _value(self.scale))

    def learned(self) -> tf.Tensor | None:
        """The scale, through which no gradient passes once it is frozen."""
        return self._now()


class TableRange(Ranges):
    """The symmetric range of a table of weights, whose rows are a layer's output.

    Args:
        layer: with `values()`, the table, and `weight_bits`.
    """

    updates = None  # the optimizer moves the weights

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
        bits: of its integers, 8 or 16.
    """

    def __init__(
        self,
        ranges: Sequence[str] = (),
        scale: float | None = None,
        zero_point: float = 0.0,
        symmetric: bool = False,
        bits: int = 8,
    ) -> None:
        self.bits = bits
        self.ranges = tuple(ranges)
        self.scale, self.zero_point, self.symmetric = scale, zero_point, symmetric
        self._bound: tuple[Ranges, ...] = ()

    def get_config(self) -> dict[str, Any]:
        """As plain values."""
        if self.scale is not None:
            return {"scale": self.scale, "zero_point": self.zero_point}
        return {"ranges": list(self.ranges), "symmetric": self.symmetric, "bits": self.bits}

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
        return _remembered(self._bound, self.symmetric, self._read)

    def _read(self) -> Grid:
        if len(self._bound) == 1:
            return self._bound[0].grid(self.symmetric)
        lows, highs = zip(*(ranges.ends() for ranges in self._bound), strict=True)
        low, high = tf.reduce_min(tf.stack(lows)), tf.reduce_max(tf.stack(highs))
        return choose_grid(low, high, bits=self.bits, symmetric=self.symmetric)

    def learned(self) -> tf.Tensor | None:
        """The scale that a gradient is to reach; None where there is no single one."""
        return self._bound[0].learned() if len(self._bound) == 1 else None


class _Read(threading.local):
    """The grids read last, by one thread, in one graph.

    Attributes:
        graph: the graph. Of the last one alone: grids are tensors, which keep it in memory.
        grids: (ranges, symmetric) -> how often the ranges had been updated, and their grid.
    """

    def __init__(self) -> None:
        """Starts without grids, in each thread."""
        self.graph: Any = None
        self.grids: dict[Any, tuple[Any, Grid]] = {}


_read = _Read()


def _remembered(bound: tuple[Ranges, ...], symmetric: bool, read: Callable[[], Grid]) -> Grid:
    """The grid of ranges, read once in a graph between two updates of them.

    All readers of a tensor ask for its grid while a graph is traced: most of the graph would be
    copies of the same few operators. Each replica of a distributed model has its own ranges, and
    traces in its own thread.
    """
    updates = tuple(ranges.updates for ranges in bound)
    if tf.executing_eagerly() or None in updates:
        return read()
    graph = tf.compat.v1.get_default_graph()
    if _read.graph is not graph:
        _read.graph, _read.grids = graph, {}
    key = (*map(id, bound), symmetric)
    if key not in _read.grids or _read.grids[key][0] != updates:
        _read.grids[key] = (updates, read())
    return _read.grids[key][1]
