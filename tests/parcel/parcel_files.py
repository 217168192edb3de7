"""Files to pack: int8 networks written tensor by tensor, pruned or clustered."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from one_operator import Graph, Op, T


def int8_network(sparsity=0.0, clusters=None, widths=(64, 128, 128, 96), seed=0):
    """Dense layers of normally distributed weights, quantized per channel as the converter does.

    Args:
        sparsity: share of weights, the smallest of a layer, that is zero.
        clusters: values that the others of a layer are rounded to, before quantization.
        widths: inputs of the first layer, and outputs of each.
        seed: of the weights.
    """
    random = np.random.default_rng(seed)
    options = ("FullyConnectedOptions", {})
    tensors, operators = {"x0": T((1, widths[0]), "int8", scale=0.02)}, []
    for i, (ins, outs) in enumerate(pairwise(widths)):
        real = random.normal(0, 1, (outs, ins))
        if sparsity:
            real[abs(real) < np.quantile(abs(real), sparsity)] = 0
        if clusters:
            kept = real[real != 0]
            centres = np.quantile(kept, (np.arange(clusters) + 0.5) / clusters)
            nearest = centres[abs(real[..., None] - centres).argmin(-1)]
            real = np.where(real == 0, 0, nearest)
        gain = random.lognormal(0, 0.5, (outs, 1))  # as BatchNorm, folded, leaves each channel
        scales = (abs(real * gain).max(1) / 127).astype("float32")
        weights = np.rint(real * gain / scales[:, None]).clip(-127, 127)
        bias_scales = np.float32(0.02) * scales
        bias = np.rint(random.normal(0, 0.5, outs) / bias_scales)
        tensors[f"w{i}"] = T((outs, ins), "int8", weights, scales)
        tensors[f"b{i}"] = T((outs,), "int32", bias, bias_scales)
        tensors[f"x{i + 1}"] = T((1, outs), "int8", scale=0.02)
        names = [f"x{i}", f"w{i}", f"b{i}"]
        operators.append(Op("FULLY_CONNECTED", names, [f"x{i + 1}"], options, 5))
    return Graph(tensors, operators).build()
