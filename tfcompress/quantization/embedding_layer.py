"""`QuantizedEmbedding`: rows of an int8 table."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.quantization import exact, grids, modes
from tfcompress.quantization.layers import QuantizedLayer, constant_quant, known
from tfcompress.quantization.ranges import TableRange
from tfcompress.transforms.wrapper import effective


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedEmbedding(QuantizedLayer):
    """An embedding whose table lies on one symmetric grid, which its output is on as well.

    Args:
        count: rows of the table.
        width: numbers in a row.
        weight_bits: 2 to 8.
        inputs: see `QuantizedLayer`.
        output: likewise.
        owns_range: likewise.
        weights_of: likewise.
    """

    def __init__(self, count: int, width: int, *, weight_bits: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.count, self.width, self.weight_bits = count, width, weight_bits
        self.table: Any = None

    def build(self, shape: Any) -> None:
        """Makes the table."""
        if not self.weights_of:
            self.table = self.add_kernel("embeddings", (self.count, self.width))
        object.__setattr__(self, "ranges", TableRange(self))
        self.freeze(self.frozen)
        self.built = True

    @property
    def transformed(self) -> Any:
        """The table."""
        return self.table

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        own = {name: getattr(self, name) for name in ("count", "width", "weight_bits")}
        return {**super().get_config(), **own}

    def compute_output_shape(self, shape: Any) -> tuple[int | None, ...]:
        """The output's shape."""
        return (*shape, self.width)

    def values(self) -> tf.Tensor:
        """The transformed table, float32 (count, width)."""
        source = self._source()
        return effective(source.table, source.transforms)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The output's real values, (..., width)."""
        rows = tf.cast(tf.convert_to_tensor(inputs), tf.int32)
        if modes.export_bits():
            return self._express(rows)
        table = self.values()
        if modes.observer() is None:
            grid = self.output_source.grid()
            whole = grids.quantize_weights(tf.stop_gradient(table), grid, bits=self.weight_bits)
            table = modes.through(exact.product(whole, grid.scale), table)
        return tf.gather(table, rows)

    def _express(self, rows: tf.Tensor) -> tf.Tensor:
        grid = known(self.output_source)
        with tf.init_scope():
            whole = grids.quantize_weights(self.values(), grid, bits=self.weight_bits)
            real = (whole * grid.scale).numpy()
        if modes.for_onnx():
            return tf.gather(constant_quant(np.asarray(real), grid, narrow=False), rows)
        low, high = grids.fake_quant_range(grid)
        table = tf.quantization.fake_quant_with_min_max_vars(
            tf.constant(np.asarray(real)), float(low), float(high)
        )
        return tf.gather(table, rows)
