"""`QuantizationScheme`: how many bits, and how ranges and BatchNorm are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfcompress.errors import ConfigError

RANGE_METHODS = ("moving_average", "lsq")
BATCHNORM = ("frozen", "live")
OPERATORS = ("all", "matmul")


@dataclass(frozen=True)
class QuantizationScheme:
    """How a model is quantized.

    Attributes:
        weight_bits: 2 to 8: weights lie on a symmetric grid of so many bits, one scale for each
            output channel.
        activation_bits: 8: asymmetric, one scale for each tensor; 16: symmetric, more accurate
            and slow, as XNNPACK has no kernels of 16 bits. One width for the whole model.
        symmetric: activations lie on grids around 0 (zero point 0), as TensorRT asks: a tensor
            without negative values uses half of its integers. Sigmoid and softmax, whose grids
            the runtime fixes elsewhere, stay float. One for the whole model.
        operators: `"all"`, or `"matmul"`: only products with weights (Dense, EinsumDense,
            convolutions), of two tensors (attention) and embeddings are in integers, and what moves
            values between them; the rest stays float. XNNPACK has no int8 softmax, GELU or
            normalization, so a Transformer is several times faster that way than all in int8.
            One for the whole model.
        range_method: how the ranges of activations are trained: `"moving_average"` of each
            batch's smallest and largest value, or `"lsq"`, by gradient (Esser 2020, "Learned Step
            Size Quantization").
        batchnorm: `"frozen"`: folded into the kernels before training, as for fine-tuning;
            `"live"`: trained on, with its batch's statistics folded in at every step.
        overrides: scope -> another scheme for these layers, or None to leave them float.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    symmetric: bool = field(default=False, kw_only=True)
    operators: str = field(default="all", kw_only=True)
    range_method: str = field(default="moving_average", kw_only=True)
    batchnorm: str = field(default="frozen", kw_only=True)
    overrides: Mapping[Any, QuantizationScheme | None] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.weight_bits, bool) or self.weight_bits not in range(2, 9):
            raise ConfigError(
                f"`weight_bits` must be a whole number from 2 to 8. Received: {self.weight_bits!r}"
            )
        if isinstance(self.activation_bits, bool) or self.activation_bits not in (8, 16):
            raise ConfigError(
                f"`activation_bits` must be 8 or 16. Received: {self.activation_bits!r}. The "
                "runtime has no kernels for other widths."
            )
        for name, allowed in (
            ("range_method", RANGE_METHODS),
            ("batchnorm", BATCHNORM),
            ("operators", OPERATORS),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"`{name}` must be one of {list(allowed)}. Received: {getattr(self, name)!r}"
                )
        if not isinstance(self.symmetric, bool):
            raise ConfigError(f"`symmetric` must be True or False. Received: {self.symmetric!r}")
        for scope, own in self.overrides.items():
            for name in ("activation_bits", "symmetric", "operators"):
                if own is not None and getattr(own, name) != getattr(self, name):
                    raise ConfigError(
                        f"`{name}` is one for the whole model: tensors join layers. Received: "
                        f"{getattr(self, name)}, and {getattr(own, name)} for {scope!r}. Give the "
                        "override the same, or None to leave these layers float."
                    )


SCHEMES = {
    "int8": QuantizationScheme(),
    "int8-w4": QuantizationScheme(weight_bits=4),
    "int16x8": QuantizationScheme(activation_bits=16),
    "int8-matmul": QuantizationScheme(operators="matmul"),
}


def get_scheme(scheme: Any) -> QuantizationScheme:
    """The scheme, or the ready one of that name.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(scheme, QuantizationScheme):
        return scheme
    if isinstance(scheme, str) and scheme in SCHEMES:
        return SCHEMES[scheme]
    raise ConfigError(
        f"`scheme` must be a QuantizationScheme or one of {list(SCHEMES)}. Received: {scheme!r}"
    )
