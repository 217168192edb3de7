"""Other values for some variables while a layer is called, and nothing else changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


class Substitution(keras.StatelessScope):
    """Inside it, reading a substituted variable gives the other value.

    Keras's own StatelessScope also holds back every assignment made inside it and every loss
    added, and hides the scope around it. Here all of that happens as if the scope was not there:
    seeds of dropout, states of stateful layers, running statistics and metrics are updated at
    once, where they were (inside a loop, a branch or a replica), and a surrounding scope sees them.

    Args:
        values: (variable, tensor) of each substituted variable.
        owner: the layer that takes the losses added inside.
    """

    def __init__(self, values: Iterable[tuple[Any, Any]], owner: keras.Layer) -> None:
        super().__init__(list(values), collect_losses=True, initialize_variables=False)
        self._owner = owner

    def get_current_value(self, variable: Any) -> Any:
        """The substituted value, or that of the surrounding scope, or None."""
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Assigns for real."""
        variable, value = update
        with self._suspended():
            variable.assign(value)

    def add_loss(self, loss: Any) -> None:
        """Adds the loss to the owner for real."""
        with self._suspended():
            self._owner.add_loss(loss)

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
