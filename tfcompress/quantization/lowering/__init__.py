"""From Keras layers and operations to the few kinds of nodes that can be quantized."""

from tfcompress.quantization.lowering import (
    activations,
    attention,
    kernels,
    merging,
    pools,
    scales,
)
from tfcompress.quantization.lowering.builder import Lowering

__all__ = ["Lowering", "activations", "attention", "kernels", "merging", "pools", "scales"]
