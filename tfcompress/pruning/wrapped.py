"""`PruningMask`: a kernel's mask inside a wrapped layer, with all that pruning it needs."""

from __future__ import annotations

import json
import warnings
from typing import Any

import keras

from tfcompress.errors import ConfigError
from tfcompress.pruning.kept import beside_kernel, for_group
from tfcompress.pruning.settings import PruningSettings
from tfcompress.transforms.mask import Mask


@keras.saving.register_keras_serializable("tfcompress")
class PruningMask(Mask):
    """A mask that goes on being computed while the model trains.

    It is saved with its layer: a model that is loaded goes on as if it had not been away.

    Args:
        settings: how the kernel is pruned.
        group: kernels of one group and of equal settings share their zeros out together.

    Attributes:
        driven: whether a Pruner computes the mask and holds the zeros.
        beside: variables beside the mask, by name (`kept.beside_kernel`).
        together: variables of the group, by name (`kept.for_group`); each kernel has them, so that
            any of them can be taken out of the model.
    """

    def __init__(self, settings: PruningSettings, group: str) -> None:
        super().__init__()
        self.settings, self.group = settings, group
        self.driven = False
        self.beside: dict[str, Any] = {}
        self.together: dict[str, Any] = {}
        self._warned = False

    @property
    def variables(self) -> list[Any]:
        """The mask, and what is kept beside it."""
        return [*super().variables, *self.beside.values(), *self.together.values()]

    @property
    def identity(self) -> str:
        """Equal for the kernels of one group."""
        try:
            settings = json.dumps(self.settings.get_config(), sort_keys=True)
        except ConfigError:  # a function that cannot be saved: then nothing here was loaded
            settings = str(id(self.settings))
        return f"{self.group} {settings}"

    def build(self, kernel: Any) -> None:
        """Makes the mask and what the settings ask for."""
        super().build(kernel)
        self.beside = beside_kernel(self.settings, tuple(kernel.shape))
        self.together = for_group(self.settings)

    def differentiated(self) -> None:
        """Warns, once, where a model is trained and nothing prunes it."""
        if not self.driven and not self._warned:
            _warn_undriven(self.group)
        self._warned = True

    @classmethod
    def driver(cls) -> type[keras.callbacks.Callback]:
        """PruningCallback."""
        from tfcompress.pruning.callback import PruningCallback

        return PruningCallback

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"settings": self.settings.get_config(), "group": self.group}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PruningMask:
        """The inverse of `get_config`."""
        return cls(PruningSettings.from_config(config["settings"]), config["group"])


_warned_groups: set[str] = set()


def _warn_undriven(group: str) -> None:
    if group in _warned_groups:
        return
    _warned_groups.add(group)
    warnings.warn(
        f"Layers of {group.split('/')[0]!r}, which tfc.prune wrapped, are trained, and nothing "
        "computes their masks: they stay as they are. Pass callbacks=[tfc.PruningCallback()] to "
        "`fit` (the model that tfc.prune returned does so itself; one that holds it does not), or "
        "in a custom loop make tfc.Pruner(model) before the first step and call its step().",
        stacklevel=2,
    )
