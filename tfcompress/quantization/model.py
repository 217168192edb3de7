"""`QuantizedModel`: a Functional model whose layers find each other's ranges."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.graph.calls import functional
from tfcompress.quantization.islands import BOUNDARIES, KINDS
from tfcompress.quantization.layers import QuantizedLayer, QuantizedOperation
from tfcompress.report import CompressionReport
from tfcompress.transforms.model import DrivenFit


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedModel(DrivenFit, keras.Model):
    """What `tfc.quantize_aware` returns: a Functional model that computes on integers.

    It trains, saves, loads and is cloned as any Keras model; `tfc.convert(model, "int8")` makes
    the file that computes the same.

    Attributes:
        stands_in: tells that a subclassed model that holds it has to save it itself.
    """

    stands_in = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        named = {layer.name: layer for layer in self.layers}
        for layer in self.layers:
            if isinstance(layer, QuantizedLayer):
                layer.bind(named)

    @property
    def compression_report(self) -> CompressionReport | None:
        """What was done to which layer."""
        return self.__dict__.get("_report")

    @compression_report.setter
    def compression_report(self, report: CompressionReport | None) -> None:
        object.__setattr__(self, "_report", report)

    def get_config(self) -> dict[str, Any]:
        """The layers and their calls, the report, and the outputs' names."""
        report = self.compression_report
        names = list(self.output_names)
        return {
            **super().get_config(), "report": report and report.to_dict(), "output_names": names,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizedModel:
        """The inverse of `get_config`."""
        config = dict(config)
        report, names = config.pop("report", None), config.pop("output_names", None)
        model = super().from_config(config, custom_objects)
        model.output_names = names or model.output_names
        model.compression_report = report and CompressionReport.from_dict(report)
        return model


def quantized_layers(model: keras.Model) -> list[QuantizedLayer]:
    """The quantized layers that a model holds, at any depth."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, QuantizedLayer)
    ]


def activation_bits(model: keras.Model) -> int:
    """Width of the integers that a quantize-aware model's activations are trained for."""
    sources = [layer.output_source for layer in quantized_layers(model)]
    return max((source.bits for source in sources if source is not None), default=8)


def products_alone(model: keras.Model) -> bool:
    """Whether, beside products, no operator of it computes on integers."""
    return all(
        layer.output_source is None or layer.kind in {*KINDS, *BOUNDARIES}
        for layer in quantized_layers(model)
        if isinstance(layer, QuantizedOperation)
    )


def typical_inputs(model: keras.Model, specs: Any, count: int) -> dict[str, np.ndarray]:
    """Inputs that fill the trained ranges, to try a file out with.

    Args:
        model: a quantize-aware model.
        specs: its inputs (`InputSpec`), all of known sizes.
        count: how many examples.

    Returns:
        Arrays (count, ...) by input name: uniform over the range that the first layer knows for
        floating-point inputs (normal where none does), 0 and 1 for others.
    """
    generator = np.random.default_rng(0)
    tensors = functional(model).inputs if functional(model) is not None else []
    ranges = {
        id(node.input_tensors[0]): layer.ranges.ends()
        for layer in quantized_layers(model)
        if getattr(layer, "kind", "") == "quantize"
        for node in layer._inbound_nodes
    }
    found = {}
    for number, spec in enumerate(specs):
        shape = (count, *spec.example_shape)
        ends = ranges.get(id(tensors[number])) if number < len(tensors) else None
        if not spec.dtype.startswith(("float", "bfloat")):
            found[spec.name] = generator.integers(0, 2, shape).astype(spec.dtype)
        elif ends is None:
            found[spec.name] = generator.standard_normal(shape).astype(np.float32)
        else:
            low, high = (float(end) for end in ends)
            found[spec.name] = generator.uniform(low, high, shape).astype(np.float32)
    return found
