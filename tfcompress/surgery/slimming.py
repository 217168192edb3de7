"""`BatchNormSparsity`: training that drives the scales of unneeded channels to zero."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress import registry
from tfcompress.errors import ConfigError
from tfcompress.first_step import FirstStep
from tfcompress.keras3 import check_keras3
from tfcompress.scope import ScopeLike, resolve


class BatchNormSparsity(FirstStep):
    """Puts an L1 penalty on the scales (gamma) of BatchNormalization while a model trains.

    Scales of channels that matter little go to exactly 0, and `tfc.shrink(importance="bn_gamma")`
    takes those channels out. After each batch every scale moves towards 0 by learning rate x
    strength and stops there: the proximal step of the penalty, which works with every optimizer
    and leaves the loss and its logs alone.

    Args:
        strength: of the penalty, 1e-5 to 1e-3 for long training.
        include: BatchNormalization layers to penalise; None for all that have a gamma that trains.
        exclude: those to leave alone.

    Attributes:
        layers: at the start of `fit`, the layers that are penalised.

    `fit`'s logs get `zero_gammas`, the share of scales that are 0.

    Raises:
        ConfigError: `strength` is no number of at least 0; at the start of `fit`, there is nothing
            to penalise; a scope matches nothing (`ScopeError`).

    Example:
        >>> model.fit(x, y, epochs=20, callbacks=[tfc.BatchNormSparsity(1e-4)])
        >>> smaller = tfc.shrink(model, 0.5, importance="bn_gamma")

    Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming"
    (arXiv:1708.06519); the proximal step of Beck and Teboulle 2009 in place of its subgradient.
    """

    def __init__(
        self, strength: float = 1e-4, *, include: ScopeLike = None, exclude: ScopeLike = None
    ) -> None:
        super().__init__()
        number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not number or not 0 <= strength < float("inf"):
            raise ConfigError(f"`strength` must be a number of at least 0. Received: {strength!r}")
        self.strength = float(strength)
        self.layers: list[keras.Layer] = []
        self._include, self._exclude = include, exclude
        self._steps = 0

    def set_model(self, model: Any) -> None:
        """Keras's hook: takes the model that `fit` trains."""
        check_keras3(model)
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the layers."""
        walked = registry.walk(registry.student_of(self.model))
        excluded = resolve(self._exclude, walked, "exclude")
        included = None if self._include is None else resolve(self._include, walked, "include")
        self.layers = [
            layer
            for _, layer in walked
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.gamma is not None
            and layer.gamma.trainable
            and id(layer) not in excluded
            and (included is None or id(layer) in included)
        ]
        if not self.layers:
            raise ConfigError(
                "There must be a BatchNormalization layer whose gamma trains. Received: "
                f"{self.model.name!r}, which has none, or none that is chosen."
            )
        self._steps = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the scales towards 0."""
        optimizer = self.model.optimizer
        # Several steps may have been taken at once, and with gradient accumulation none.
        steps, self._steps = int(optimizer.iterations) - self._steps, int(optimizer.iterations)
        if not steps:
            return
        by = float(keras.ops.convert_to_numpy(optimizer.learning_rate)) * self.strength * steps
        for layer in self.layers:
            gamma = layer.gamma
            gamma.assign(keras.ops.sign(gamma) * keras.ops.maximum(keras.ops.abs(gamma) - by, 0.0))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells how many are 0."""
        if logs is not None:
            gammas = [keras.ops.convert_to_numpy(layer.gamma) for layer in self.layers]
            logs["zero_gammas"] = sum(int((g == 0).sum()) for g in gammas) / sum(
                g.size for g in gammas
            )
