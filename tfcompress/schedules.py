"""Schedules: how sparse the model shall be at which step of training.

A schedule is a pure function of the optimizer's step and always reaches its final value at its
end step. No import of TensorFlow here.
"""

from __future__ import annotations

import math
import numbers
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tfcompress.errors import ConfigError


class Schedule(ABC):
    """Base of the schedules; also how a user's own function `step -> sparsity` is held.

    Args:
        begin_step: first step at which masks may change; steps count optimizer updates from 0.
        end_step: step at which the final value holds; -1 for "as long as training goes on".
        frequency: steps between two updates of the masks.
    """

    def __init__(self, begin_step: int, end_step: int, frequency: int) -> None:
        begin_step = _whole("begin_step", begin_step)
        end_step = _whole("end_step", end_step)
        frequency = _whole("frequency", frequency)
        if begin_step < 0:
            raise ConfigError(f"`begin_step` must be >= 0. Received: {begin_step}")
        if end_step != -1 and end_step < begin_step:
            raise ConfigError(
                "`end_step` must not come before `begin_step` (or be -1 for no end). "
                f"Received: begin_step={begin_step}, end_step={end_step}"
            )
        if frequency < 1:
            raise ConfigError(f"`frequency` must be a whole number >= 1. Received: {frequency!r}")
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The target sparsity, 0 to 1, once `step` updates are done."""

    @property
    def final(self) -> float | None:
        """The sparsity it ends at; None where that cannot be known (a user's own function)."""
        return self(self.begin_step if self.end_step == -1 else self.end_step)

    def regrowth(self, step: int) -> float:
        """Share of the kept weights that is dropped and grown anew elsewhere, 0 to 1."""
        return 0.0

    def due(self, step: int, last: int | None) -> bool:
        """Whether masks are to be computed anew.

        Args:
            step: updates done so far. It may jump by more than one between calls.
            last: the step of the last computation, None before the first.
        """
        if step < self.begin_step:
            return False
        if last is None:
            return True
        if self.end_step != -1 and last >= self.end_step:
            return False
        if self.end_step != -1 and step >= self.end_step:
            return True
        return (step - self.begin_step) // self.frequency > (
            last - self.begin_step
        ) // self.frequency

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the schedule."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _whole(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # NumPy's integers too
    except TypeError:
        raise ConfigError(
            f"`{name}` must be a whole number of steps. Received: {value!r}"
        ) from None


def _check_sparsity(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0.0 <= value < 1.0:
        raise ConfigError(
            f"`{name}` is the share of weights set to zero, at least 0 and below 1 (0.8 for 80 %). "
            f"Received: {value!r}"
        )
    return float(value)


class ConstantSparsity(Schedule):
    """The same sparsity from `begin_step` on.

    Args:
        target_sparsity: share of zeros, 0 <= s < 1.
        begin_step: first step with masks.
        end_step: last step at which masks may change; -1 for no end.
        frequency: steps between two updates of the masks.

    Example:
        >>> tfc.ConstantSparsity(0.5, begin_step=200)
    """

    def __init__(
        self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None:
        super().__init__(begin_step, end_step, frequency)
        self.target_sparsity = _check_sparsity("target_sparsity", target_sparsity)

    def __call__(self, step: int) -> float:
        """The target sparsity once `step` updates are done."""
        return self.target_sparsity if step >= self.begin_step else 0.0


class _Rising(Schedule):
    """From `initial_sparsity` at `begin_step` to `final_sparsity` at `end_step`, for good."""

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int,
    ) -> None:
        super().__init__(begin_step, end_step, frequency)
        if end_step == -1:
            raise ConfigError(
                "A schedule that rises needs an `end_step` (the number of batches times the "
                "number of epochs, or less). Received: -1"
            )
        self.initial_sparsity = _check_sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = _check_sparsity("final_sparsity", final_sparsity)

    def __call__(self, step: int) -> float:
        """The target sparsity once `step` updates are done."""
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        return self._between((step - self.begin_step) / (self.end_step - self.begin_step))

    @abstractmethod
    def _between(self, done: float) -> float:
        """The target sparsity when a share `done` of the steps is behind, 0 <= done < 1."""


class PolynomialDecay(_Rising):
    """Rises from `initial_sparsity` to `final_sparsity`, fast at first, then ever slower.

    s(t) = s_f + (s_i - s_f) * (1 - (t - t_0) / (t_1 - t_0)) ** power

    Args:
        initial_sparsity: share of zeros at `begin_step`.
        final_sparsity: share of zeros from `end_step` on.
        begin_step: first step with masks.
        end_step: step at which the final sparsity holds.
        power: 3 is the cubic schedule of the paper.
        frequency: steps between two updates of the masks.

    Example:
        >>> tfc.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)(1000)
        0.8

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878).
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency)
        if not isinstance(power, (int, float)) or power <= 0:
            raise ConfigError(f"`power` must be a number > 0. Received: {power!r}")
        self.power = power

    def _between(self, done: float) -> float:
        span = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + span * (1.0 - done) ** self.power


class ExponentialDecay(_Rising):
    """The share of weights that are kept falls by the same factor at every step.

    s(t) = 1 - (1 - s_i) * ((1 - s_f) / (1 - s_i)) ** ((t - t_0) / (t_1 - t_0))

    Args:
        initial_sparsity: share of zeros at `begin_step`.
        final_sparsity: share of zeros from `end_step` on.
        begin_step: first step with masks.
        end_step: step at which the final sparsity holds.
        frequency: steps between two updates of the masks.

    Example:
        >>> tfc.ExponentialDecay(0.0, 0.75, begin_step=0, end_step=100)(50)
        0.5

    Source: iterative pruning at a constant rate, Frankle and Carbin 2019 (arXiv:1803.03635), in
    the limit of small steps.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int = 100,
    ) -> None:
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency)

    def _between(self, done: float) -> float:
        kept = 1.0 - self.initial_sparsity
        return 1.0 - kept * ((1.0 - self.final_sparsity) / kept) ** done


class OneShot(Schedule):
    """No mask before `step`, the whole sparsity from it on.

    Args:
        target_sparsity: share of zeros, 0 <= s < 1.
        step: the step at which the masks are computed, once.

    Example:
        >>> tfc.OneShot(0.5, step=100)
    """

    def __init__(self, target_sparsity: float, step: int) -> None:
        super().__init__(step, step, 1)
        self.target_sparsity = _check_sparsity("target_sparsity", target_sparsity)

    def __call__(self, step: int) -> float:
        """The target sparsity once `step` updates are done."""
        return self.target_sparsity if step >= self.begin_step else 0.0

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the schedule."""
        return {"target_sparsity": self.target_sparsity, "step": self.begin_step}


class RigL(Schedule):
    """Constant sparsity whose pattern moves: drops the smallest weights, grows where gradients are.

    At `begin_step` the target sparsity is reached at once. From then on, at every `frequency`-th
    step, a share f(t) of each kernel's kept weights is dropped (those of lowest score) and as
    many of the masked ones are set free again (those of the largest gradient, averaged since the
    last move), starting from zero. The number of zeros of each kernel stays the same.

    f(t) = fraction / 2 * (1 + cos(pi * (t - t_0) / (t_1 - t_0)))

    Args:
        target_sparsity: share of zeros, 0 <= s < 1.
        begin_step: first step with masks.
        end_step: the pattern no longer moves from this step on. The paper stops at three quarters
            of the training.
        fraction: share of the kept weights that moves at first, 0 < f <= 1.
        frequency: steps between two moves.

    Example:
        >>> tfc.RigL(0.9, begin_step=0, end_step=3000)

    Source: Evci et al. 2020, "Rigging the Lottery" (arXiv:1911.11134).
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: int,
        end_step: int,
        *,
        fraction: float = 0.3,
        frequency: int = 100,
    ) -> None:
        super().__init__(begin_step, end_step, frequency)
        if end_step == -1:
            raise ConfigError(
                "RigL needs an `end_step`, from which on the pattern stays (three quarters of the "
                "training, say). Received: -1"
            )
        self.target_sparsity = _check_sparsity("target_sparsity", target_sparsity)
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise ConfigError(f"`fraction` must be a number. Received: {fraction!r}")
        if not 0.0 < fraction <= 1.0:
            raise ConfigError(
                "`fraction` is the share of kept weights that moves at first, above 0 and at most "
                f"1. Received: {fraction}"
            )
        self.fraction = float(fraction)

    def __call__(self, step: int) -> float:
        """The target sparsity once `step` updates are done."""
        return self.target_sparsity if step >= self.begin_step else 0.0

    def regrowth(self, step: int) -> float:
        """Share of the kept weights that moves at `step`."""
        if not self.begin_step <= step < self.end_step:
            return 0.0
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        return self.fraction / 2.0 * (1.0 + math.cos(math.pi * done))


class FunctionSchedule(Schedule):
    """A user's own function, asked at every step.

    Masks are computed anew when its value changes, and at every `frequency`-th step.

    Args:
        function: step -> share of zeros, 0 <= s < 1.
        frequency: steps between two updates of the masks while the value stays the same.
    """

    def __init__(self, function: Callable[[int], float], frequency: int = 100) -> None:
        super().__init__(0, -1, frequency)
        self._function = function

    def due(self, step: int, last: int | None) -> bool:
        """Whether masks are to be computed anew."""
        return super().due(step, last) or (last is not None and self(step) != self(last))

    @property
    def final(self) -> float | None:
        """Not known."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the schedule."""
        return {"function": self._function, "frequency": self.frequency}

    def __call__(self, step: int) -> float:
        """The target sparsity once `step` updates are done."""
        value = self._function(step)
        return _check_sparsity("schedule(step)", float(value) if hasattr(value, "dtype") else value)


def as_schedule(schedule: Any) -> Schedule:
    """A `Schedule` of what a user gave: one of ours, or a function `step -> sparsity`.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if callable(schedule) and not isinstance(schedule, type):
        return FunctionSchedule(schedule)
    raise ConfigError(
        "`schedule` must be a schedule such as tfc.PolynomialDecay(0.0, 0.8, 0, 1000), or a "
        f"function step -> sparsity. Received: {schedule!r}"
    )
