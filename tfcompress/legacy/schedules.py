"""Schedules of tfcompress as tfmot's."""

from __future__ import annotations

from typing import Any

from tfcompress import schedules
from tfcompress.errors import ConfigError
from tfcompress.legacy.packages import tfmot


def translated(schedule: Any) -> Any:
    """The schedule of tfmot that prunes by as much at the same steps.

    Raises:
        ConfigError: tfmot has none.
    """
    theirs = tfmot().sparsity.keras
    if isinstance(schedule, theirs.PruningSchedule):
        return schedule
    if isinstance(schedule, schedules.PolynomialDecay):
        return theirs.PolynomialDecay(**schedule.get_config())
    if isinstance(schedule, schedules.ConstantSparsity):
        return theirs.ConstantSparsity(**schedule.get_config())
    if isinstance(schedule, schedules.OneShot):
        # tfmot's first training step is number 1.
        step = max(schedule.begin_step, 1)
        return theirs.ConstantSparsity(schedule.target_sparsity, step, step, frequency=1)
    raise ConfigError(
        "`schedule` must be tfc.PolynomialDecay, tfc.ConstantSparsity, tfc.OneShot or a schedule "
        f"of tfmot, which has no others. Received: {schedule!r}. All of tfcompress's schedules: "
        "tfc.prune(tfc.legacy.to_keras3(model), schedule)."
    )
