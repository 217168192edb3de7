"""A call with training=True that stays one: Keras 3 gives each layer of a graph the model's own."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("tfcompress")
class AlwaysTraining(keras.layers.Wrapper):
    """Runs a layer as in training at inference too: Dropout that stays random, for one.

    Keras 3 notes `layer(x, training=True)` in a graph, and overrides it when the model is called.

    Args:
        layer: takes one argument, a tensor or a structure of them.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.supports_masking = layer.supports_masking

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Calls the layer, and leaves the mode of the layers that follow as it is."""
        masked = mask is not None and self.layer._call_has_mask_arg
        context = self._get_call_context()
        mode = context.get_value("training")
        try:
            return self.layer(inputs, training=True, **({"mask": mask} if masked else {}))
        finally:
            context.set_value("training", mode)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """That of the layer."""
        return self.layer.compute_mask(inputs, mask)
