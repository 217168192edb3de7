"""`PruningSettings`: everything that says how a set of kernels is pruned, checked together."""

from __future__ import annotations

import math
from typing import Any

from tfcompress.errors import ConfigError
from tfcompress.pruning.criteria import Criterion, as_criterion
from tfcompress.pruning.patterns import NofM, Pattern, as_pattern
from tfcompress.pruning.pooling import POOLINGS
from tfcompress.pruning.serialization import (
    criterion_config,
    criterion_from_config,
    schedule_config,
    schedule_from_config,
)
from tfcompress.schedules import Schedule, as_schedule


class PruningSettings:
    """How a set of kernels is pruned.

    Args:
        schedule: a schedule, or a function `step -> sparsity`.
        pattern: `"unstructured"`, `"block:RxC"` or `"N:M"`.
        criterion: `"magnitude"`, `"taylor"`, `"snip"`, `"movement"`, or a function
            `(weights, gradients) -> scores`.
        pooling: `"layer"`, `"global"`, `"global-raw"` or `"erk"`.
        floor: smallest sparsity of a layer, where pooling shares zeros out among layers.
        cap: largest sparsity of a layer, likewise.

    Raises:
        ConfigError: a value that none of these can be, or two that contradict each other.
    """

    def __init__(
        self,
        schedule: Any,
        *,
        pattern: Any = "unstructured",
        criterion: Any = "magnitude",
        pooling: str = "layer",
        floor: float = 0.0,
        cap: float = 1.0,
    ) -> None:
        self.schedule: Schedule = as_schedule(schedule)
        self.pattern: Pattern = as_pattern(pattern)
        self.criterion: Criterion = as_criterion(criterion)
        if not isinstance(pooling, str) or pooling not in POOLINGS:
            raise ConfigError(
                f"`pooling` must be one of {', '.join(map(repr, POOLINGS))}. Received: {pooling!r}"
            )
        self.pooling = pooling
        self.floor, self.cap = _share("floor", floor), _share("cap", cap)
        self._check()

    def _check(self) -> None:
        final = self.schedule.final
        if self.pooling == "layer" and (self.floor, self.cap) != (0.0, 1.0):
            raise ConfigError(
                "`floor` and `cap` bound what pooling gives each layer, and with "
                'pooling="layer" every layer has the same sparsity. Use pooling="global", or leave '
                f"them away. Received: floor={self.floor}, cap={self.cap}"
            )
        if self.floor > self.cap or (
            final is not None and not self.floor <= final <= self.cap and self.pooling != "layer"
        ):
            raise ConfigError(
                "`floor` <= the schedule's final sparsity <= `cap` must hold, or no sharing out "
                f"could reach it. Received: floor={self.floor}, final sparsity={final}, "
                f"cap={self.cap}"
            )
        if isinstance(self.pattern, NofM):
            self._check_n_of_m(final)

    def _check_n_of_m(self, final: float | None) -> None:
        limit = self.pattern.limit
        if self.pooling != "layer":
            raise ConfigError(
                f'The pattern "{self.pattern}" makes every layer {limit:.4g} sparse: it goes with '
                f'pooling="layer" only. Received: pooling={self.pooling!r}'
            )
        if self.schedule.regrowth(self.schedule.begin_step):
            raise ConfigError(
                f"{type(self.schedule).__name__} moves single weights or blocks and would break "
                f'the pattern "{self.pattern}". Use another schedule.'
            )
        if final is not None and not math.isclose(final, limit, abs_tol=1e-6):
            raise ConfigError(
                f'The pattern "{self.pattern}" makes {limit:.4g} of the weights zero, so the '
                f"schedule must end at {limit:.4g}. Received: {self.schedule}, which ends at "
                f"{final:.4g}"
            )

    @property
    def watches(self) -> bool:
        """Whether the gradients are needed."""
        return self.criterion.watches or self.regrows

    @property
    def regrows(self) -> bool:
        """Whether masked weights are grown anew by their gradient."""
        return self.schedule.regrowth(self.schedule.begin_step) > 0.0

    def sparsity(self, step: int) -> float:
        """The target at a step."""
        target = self.schedule(step)
        if target > self.cap and self.pooling != "layer":
            raise ConfigError(
                f"The schedule asks for a sparsity of {target:.4g} at step {step}, more than "
                f"cap={self.cap}."
            )
        # What a function asks for beyond N:M cannot be had; checked above for schedules.
        return target

    def get_config(self) -> dict[str, Any]:
        """The settings as plain values.

        Raises:
            ConfigError: a schedule or criterion of the user's own that is not registered.
        """
        return {
            "schedule": schedule_config(self.schedule),
            "pattern": str(self.pattern),
            "criterion": criterion_config(self.criterion),
            "pooling": self.pooling,
            "floor": self.floor,
            "cap": self.cap,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PruningSettings:
        """The inverse of `get_config`."""
        return cls(
            schedule_from_config(config["schedule"]),
            criterion=criterion_from_config(config["criterion"]),
            **{name: config[name] for name in ("pattern", "pooling", "floor", "cap")},
        )

    def describe(self) -> dict[str, Any]:
        """The settings as text and numbers, those at their default left away."""
        described: dict[str, Any] = {"schedule": repr(self.schedule)}
        for name, value, default in (
            ("pattern", str(self.pattern), "unstructured"),
            ("criterion", self.criterion.name, "magnitude"),
            ("pooling", self.pooling, "layer"),
            ("floor", self.floor, 0.0),
            ("cap", self.cap, 1.0),
        ):
            if value != default:
                described[name] = value
        return described


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ConfigError(
            f"`{name}` is a share of a layer's weights, from 0 to 1. Received: {value!r}"
        )
    return float(value)
