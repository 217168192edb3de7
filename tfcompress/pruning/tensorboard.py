"""Sparsity over time, for TensorBoard."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf


class SparsityWriter:
    """Writes scalars `sparsity/total` and `sparsity/<layer>` by the optimizer's step.

    Args:
        log_dir: TensorBoard's folder; the events go into its `pruning` run.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self._folder = os.path.join(os.fspath(log_dir), "pruning")
        self._writer: Any = None

    def write(self, step: int, total: float, layers: dict[str, float]) -> None:
        """Writes one point of every curve, to disk at once."""
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._folder)
        # `tf.summary.scalar` needs TensorBoard installed, which TensorFlow no longer brings.
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        with self._writer.as_default(step=step):
            for name, share in {"total": total, **layers}.items():
                value = tf.constant(share, tf.float32)
                tf.summary.write(f"sparsity/{name}", value, metadata=metadata)
        self._writer.flush()
