"""Which models may be stored with sparse weights: a pattern that is right on every processor.

A sparse file (weights stored without their zeros, DENSIFY to expand them) makes XNNPACK look for a
part of the graph to compute with its sparse kernels, channels first, on the processors that have
them (ARM above all). Its search trusts the model to be of the kind that the kernels were made for.
Where it is not, files fail to load, or give wrong outputs without a word, on a phone and never on
the machine that converted them. So this is a list of what is proven, and all else is refused.

Source: Elsen et al. 2020, "Fast Sparse ConvNets", https://arxiv.org/abs/1911.09723; src/subgraph.c
of google/XNNPACK (`xnn_check_nchw_compatibility`, `xnn_subgraph_rewrite_for_nchw`);
dense_to_sparse_pass.cc of tensorflow/tensorflow, which chooses what is stored sparse; every pattern
accepted here was run on the aarch64 runtime and compared with the dense file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from tfcompress.runtime.conditions import Surroundings
from tfcompress.runtime.schema import Model, Operator, Tensor
from tfcompress.runtime.shapes import Shape

_PRECISIONS: Final = {
    "dynamic": "a sparse file of precision 'dynamic' does not load anywhere",
    "int8": "int8 weights stored sparse are expanded when the file is loaded, which brings no "
    "speed, and an int8 Dense layer stored sparse makes the interpreter fail",
    "int16x8": "XNNPACK has no sparse kernels for int16 activations",
    "weight-int8": "XNNPACK has no sparse kernels for int8 weights",
}
_FLOAT_PRECISIONS: Final = ("fp32", "fp16")

_ENCODED_FROM: Final = 0.3
"""The share of zeros from which the converter stores a weight sparse."""

_BLOCK: Final = 4
_BLOCK_SHARE: Final = 0.9
"""The converter stores a Dense kernel in blocks of 1x4 where they hold this share of its zeros."""
