"""`QuantizedModel`: a Functional model whose layers find each other's ranges."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.quantization.layers import QuantizedLayer
from tfcompress.report import CompressionReport


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedModel(keras.Model):
    """What `tfc.quantize_aware` returns: a Functional model that computes on integers.

    It trains, saves, loads and is cloned as any Keras model; `tfc.convert(model, "int8")` makes
    the file that computes the same.
    """

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
        """The layers and their calls, and the report."""
        report = self.compression_report
        return {**super().get_config(), "report": report and report.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizedModel:
        """The inverse of `get_config`."""
        config = dict(config)
        report = config.pop("report", None)
        model = super().from_config(config, custom_objects)
        model.compression_report = report and CompressionReport.from_dict(report)
        return model


def quantized_layers(model: keras.Model) -> list[QuantizedLayer]:
    """The quantized layers that a model holds, at any depth."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, QuantizedLayer)
    ]
