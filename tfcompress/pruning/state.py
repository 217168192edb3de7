"""The masks and sums of a training that is under way, as part of the model's checkpoints."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.variables import value_of

_ATTRIBUTE = "_pruning_state"


class PruningState(keras.layers.Layer):
    """Masks, sums and the step of the last update, saved and loaded with the model's weights.

    It hangs on the model while pruning is under way, past Keras's tracking of layers: it is none
    of the model's layers or weights, but `save_weights`, `ModelCheckpoint` and `BackupAndRestore`
    find it. Files without it load as ever, and files with it into models without it.
    """

    def __init__(self, variables: list[Any]) -> None:
        super().__init__(name="pruning_state")
        self.built = True
        # A tuple of a plain object: Keras would otherwise track them as weights.
        object.__setattr__(self, "_kept", tuple(variables))

    @property
    def variables(self) -> list[Any]:
        """All that it holds."""
        return list(self._kept)

    def save_own_variables(self, store: Any) -> None:
        """Keras's hook: writes the variables by their order."""
        for index, variable in enumerate(self._kept):
            store[str(index)] = value_of(variable)

    def load_own_variables(self, store: Any) -> None:
        """Keras's hook: reads them, if the file has them and they are of this pruning."""
        names = list(store.keys())
        if not names:
            return  # weights from before the pruning: the masks go on as they are
        shapes = [tuple(store[name].shape) for name in sorted(names, key=int)]
        own = [tuple(variable.shape) for variable in self._kept]
        if shapes != own:
            raise ValueError(
                "The file's pruning masks must be of the same layers and criterion as this "
                f"training's. Received: {len(shapes)} arrays, expected {len(own)}. Prune with the "
                "arguments that the checkpoint was written with."
            )
        for index, variable in enumerate(self._kept):
            variable.assign(store[str(index)])

    def attach(self, model: Any) -> None:
        """Makes it part of what the model saves."""
        object.__setattr__(model, _ATTRIBUTE, self)

    def detach(self, model: Any) -> None:
        """Takes it off the model."""
        if getattr(model, _ATTRIBUTE, None) is self:
            object.__delattr__(model, _ATTRIBUTE)
