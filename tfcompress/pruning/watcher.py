"""What only the optimizer's update sees: gradients, and the moving averages of the weights."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfcompress.pruning.targets import Group, Target


class UpdateWatcher:
    """Stands before and after an optimizer's update while it is attached.

    Before: adds up gradients and products of weight and gradient, for the criteria that ask.
    After: masks the moving averages of the weights (`use_ema`), which the optimizer computes
    before it applies the constraints. Both are part of the traced training step, so they work
    within `steps_per_execution`, under XLA and in every replica.
    """

    def __init__(self, optimizer: Any, groups: list[Group]) -> None:
        # A LossScaleOptimizer hands unscaled, finite gradients to the one inside.
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._owners: dict[int, tuple[Group, Target]] = {}
        for group in groups:
            for target in group.targets:
                self._owners[id(target.variable)] = (group, target)
        self._watching = [group for group in groups if group.settings.watches]
        self._attached = False
        self._before_it: Any = None

    @property
    def needed(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._watching) or bool(self._optimizer.use_ema)

    def attach(self) -> None:
        """Puts itself into the optimizer's `apply`."""
        if self._attached or not self.needed:
            return
        optimizer = self._optimizer
        original = optimizer.apply  # another watcher's, perhaps

        def apply(grads: Any, trainable_variables: Any = None) -> Any:
            if not self._attached:
                return original(grads, trainable_variables)
            known = optimizer._trainable_variables
            variables = list(known if trainable_variables is None else trainable_variables)
            grads = list(grads)
            self._before(grads, variables)
            result = original(grads, trainable_variables and variables)
            self._after(variables)
            return result

        apply.watcher = self  # type: ignore[attr-defined]
        optimizer.apply = apply
        self._before_it = original
        self._attached = True

    def detach(self) -> None:
        """Gives the optimizer its own `apply` back."""
        if not self._attached:
            return
        self._attached = False
        # Watchers may go in any order: what is taken away is the top of those that have gone.
        while "apply" in vars(self._optimizer):
            watcher = getattr(self._optimizer.apply, "watcher", None)
            if watcher is None or watcher._attached:
                return
            del self._optimizer.apply
            if hasattr(watcher._before_it, "watcher"):
                self._optimizer.apply = watcher._before_it

    def _before(self, grads: list[Any], variables: list[Any]) -> None:
        for group in self._watching:
            group.seen.assign_add(keras.ops.cast(group.open, "float32"))
        for gradient, variable in zip(grads, variables, strict=True):
            if id(variable) not in self._owners or gradient is None:
                continue
            group, target = self._owners[id(variable)]
            if target.products is not None or target.gradients is not None:
                _add(group, target, gradient)

    def _after(self, variables: list[Any]) -> None:
        if not self._optimizer.use_ema:
            return
        for variable in variables:
            if id(variable) in self._owners:
                average = self.average(variable)
                average.assign(masked(average, self._owners[id(variable)][1].mask))

    def average(self, variable: Any) -> Any:
        """The optimizer's moving average of a kernel; None if it keeps none."""
        optimizer = self._optimizer
        if not optimizer.use_ema or not optimizer.built:
            return None
        return optimizer._model_variables_moving_average[optimizer._get_variable_index(variable)]


def masked(value: Any, mask: Any) -> Any:
    """The value with zeros where the mask is False; a product would leave negative zeros."""
    return keras.ops.where(mask, value, keras.ops.zeros((), value.dtype))


def _add(group: Group, target: Target, gradient: Any) -> None:
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.convert_to_tensor(gradient)
    gradient = keras.ops.cast(gradient, "float32")
    gradient = gradient * keras.ops.cast(group.open, "float32")
    if target.gradients is not None:
        target.gradients.assign_add(gradient)
    if target.products is not None:
        weights = keras.ops.cast(target.variable, "float32")
        if target.aside is not None:
            weights = keras.ops.where(target.mask, weights, target.aside)
        product = weights * gradient
        if group.settings.criterion.products == "absolute":
            product = keras.ops.abs(product)
        target.products.assign_add(product)
