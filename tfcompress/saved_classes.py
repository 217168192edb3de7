"""Lets Keras load models that hold classes of tfcompress, without importing Keras to say so.

Keras finds such classes only where they were registered, and `import tfcompress` imports none of
them. So stand-ins are registered that import them when a model asks: at once if Keras is there,
or else when it is imported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tfcompress.legacy.activations import hard_sigmoid_of_keras2

# name -> the module that defines it.
_HOMES = {
    "AlwaysTraining": "legacy.always",
    "TransformedLayer": "transforms.wrapper",
    "TransformedModel": "transforms.model",
    "Centroids": "transforms.centroids",
    "DistilledModel": "distillation.model",
    "Frozen": "transforms.low_rank",
    "KeptZeros": "transforms.mask",
    "LowRank": "transforms.low_rank",
    "Mask": "transforms.mask",
    "PruningMask": "pruning.wrapped",
    "QuantizedEmbedding": "quantization.embedding_layer",
    "QuantizedLinear": "quantization.linear_layer",
    "QuantizedModel": "quantization.model",
    "QuantizedOperation": "quantization.layers",
    "Still": "transforms.low_rank",
}
# HDF5 files tell a model's class by its bare name.
_IN_HDF5 = {
    "QuantizedModel": "QuantizedModel",
    "TransformedFunctional": "TransformedModel",
    "TransformedSequential": "TransformedModel",
}


class _StandIn:
    """Has what Keras asks of a class when it loads a model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def from_config(self, config: dict[str, Any]) -> Any:
        module = importlib.import_module(f"tfcompress.{_HOMES[self.name]}")
        return getattr(module, self.name).from_config(config)


def _register(keras: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    for name in _HOMES:
        # The classes themselves take these places when they are imported.
        known.setdefault(f"tfcompress>{name}", _StandIn(name))
    for bare, name in _IN_HDF5.items():
        known.setdefault(bare, _StandIn(name))
    keras.saving.register_keras_serializable("tfcompress")(hard_sigmoid_of_keras2)


class _WhenImported(importlib.abc.MetaPathFinder):
    """Waits for the import of Keras, and leaves it to those who do it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                if hasattr(module, "saving"):  # not Keras 2, nor a folder of that name
                    _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def announce() -> None:
    """Makes the classes known to Keras, now or when it is imported."""
    if "keras" in sys.modules:
        if hasattr(sys.modules["keras"], "saving"):
            _register(sys.modules["keras"])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())
