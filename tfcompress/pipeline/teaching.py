"""The teacher of a step's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfcompress.pipeline.steps import Step


def taught(model: Any, step: Step, teacher: Callable[[str], Any]) -> Any:
    """What is trained in a step: the model, or one that distils into it.

    Args:
        model: the student.
        step: which asks for a teacher or not.
        teacher: gives the model of that name.
    """
    assert step.training is not None
    how = step.training.distill
    if how is None:
        return model
    import tfcompress as tfc

    return tfc.distill(
        model,
        teacher(how.teacher),
        temperature=how.temperature,
        alpha=how.alpha,
        method=how.method,
    )
