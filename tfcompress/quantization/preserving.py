"""What a quantize-aware layer keeps of the kernel that it takes over: zeros, shared values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfcompress.transforms.base import WeightTransform
from tfcompress.transforms.centroids import Centroids
from tfcompress.transforms.mask import Mask
from tfcompress.transforms.sharing import shares_values

PRESERVED = ("sparsity", "clusters")


def preserved(
    kernel: np.ndarray, channel_axes: Sequence[int], preserve: Sequence[str]
) -> list[WeightTransform]:
    """The transforms that keep what is asked for; [] where there is nothing to keep.

    Args:
        kernel: the weights.
        channel_axes: its axes whose indices tell the output channel.
        preserve: some of `PRESERVED`.
    """
    zeros = "sparsity" in preserve and bool((kernel == 0).any())
    if "clusters" in preserve and shares_values(kernel, channel_axes):
        return [Centroids.sharing(kernel, zero=zeros)]
    return [Mask.keeping(kernel)] if zeros else []
