"""`QuantizationCallback`: when BatchNorm and ranges stop moving."""

from __future__ import annotations

import math
import warnings
from typing import Any

from tfcompress import registry
from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.first_step import FirstStep
from tfcompress.keras3 import check_keras3
from tfcompress.quantization.linear_layer import QuantizedLinear
from tfcompress.quantization.model import quantized_layers

When = int | float | None


class QuantizationCallback(FirstStep):
    """Freezes BatchNorm, then ranges, so that the last steps train what ships.

    Args:
        freeze_batchnorm: when training goes on with the moving statistics of BatchNorm: an epoch
            (int, from 0), a share of the planned steps (float in 0..1), or None for never.
            It matters with `QuantizationScheme(batchnorm="live")` only.
        freeze_ranges: when ranges and learned scales stay as they are; likewise.

    Warns where training makes the loss worse by far: frozen BatchNorm statistics bear a smaller
    learning rate than live ones.

    Raises:
        ConfigError: a share outside 0..1, or an epoch below 0.
        ModelTypeError: at the start of training, if nothing in the model is quantized.

    Example:
        >>> qmodel.fit(x, y, epochs=4, callbacks=[tfc.QuantizationCallback(freeze_ranges=3)])
    """

    def __init__(self, freeze_batchnorm: When = 0.5, freeze_ranges: When = 0.8) -> None:
        super().__init__()
        self.freeze_batchnorm = _checked("freeze_batchnorm", freeze_batchnorm)
        self.freeze_ranges = _checked("freeze_ranges", freeze_ranges)
        self._epoch = 0
        self._done: set[str] = set()
        self._first_loss: float | None = None

    def set_model(self, model: Any) -> None:
        """Keras's hook: takes the model that `fit` trains."""
        check_keras3(model)
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks that there is something to do."""
        self._done = set()
        self._first_loss = None
        if not quantized_layers(registry.student_of(self.model)):
            raise ModelTypeError(
                "QuantizationCallback needs a quantize-aware model, and nothing in this one is "
                "quantized. Call fit on what tfc.quantize_aware returned."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keeps count."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Freezes what is due before this batch."""
        super().on_train_batch_begin(batch, logs)
        if self._due(self.freeze_batchnorm, batch) and "batchnorm" not in self._done:
            self._done.add("batchnorm")
            norms = self._norms()
            for norm in norms:
                norm.freeze()
            if norms:
                self.model.make_train_function(force=True)
        if self._due(self.freeze_ranges, batch) and "ranges" not in self._done:
            self._done.add("ranges")
            for layer in quantized_layers(registry.student_of(self.model)):
                if layer.ranges is not None:
                    layer.ranges.freeze()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the loss that the training begins from."""
        if self._first_loss is None:
            self._first_loss = float((logs or {}).get("loss", math.nan))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Says once if the training breaks the model."""
        loss = float((logs or {}).get("loss", math.nan))
        if self._first_loss is None or not loss > 2 * max(self._first_loss, 0.1):
            return
        begun, self._first_loss = self._first_loss, math.inf
        frozen = any(norm.frozen for norm in self._norms())
        more = (
            ", or QuantizationScheme(batchnorm='live'): with BatchNorm's statistics frozen, "
            "channels of a small variance take large steps"
        )
        warnings.warn(
            f"The loss was {begun:.3g} at the first step and is {loss:.3g} over epoch "
            f"{epoch + 1}: this training undoes what the model had learned. Try a tenth of the "
            f"learning rate{more if frozen else ''}.",
            stacklevel=2,
        )

    def _norms(self) -> list[Any]:
        return [
            layer.norm
            for layer in quantized_layers(registry.student_of(self.model))
            if isinstance(layer, QuantizedLinear) and layer.norm is not None
        ]

    def _due(self, when: When, batch: int) -> bool:
        if when is None:
            return False
        if isinstance(when, int):
            return self._epoch >= when
        epochs, steps = self.params.get("epochs") or 1, self.params.get("steps")
        if not steps:  # The length of an epoch is not known: whole epochs.
            return self._epoch >= math.ceil(when * epochs)
        return self._epoch * steps + batch >= when * epochs * steps


def _checked(name: str, when: When) -> When:
    whole = isinstance(when, int) and not isinstance(when, bool) and when >= 0
    share = isinstance(when, float) and 0 <= when <= 1
    if when is None or whole or share:
        return when
    raise ConfigError(
        f"`{name}` must be an epoch (int from 0), a share of the planned steps (float from 0 to "
        f"1) or None. Received: {when!r}"
    )
