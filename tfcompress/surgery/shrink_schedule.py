"""`ShrinkSchedule`: shrinking step by step, with training in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError

if TYPE_CHECKING:
    import keras

_SCOPES = ("include", "exclude")


class ShrinkSchedule:
    """Shrinks a model in several steps, each followed by training.

    Little by little costs less accuracy than all at once: training moves to other channels what
    the removed ones did, and importance is measured anew.

    Args:
        steps: how many steps, each leaving the same share of what is left; or the shares of the
            original that are to be gone after each step, rising, such as `[0.2, 0.4, 0.5]`.
        ratio: the share that is to be gone in the end, where `steps` is a number.
        options: what else `tfc.shrink` takes: target, importance, data, round_to, ...

    Raises:
        ConfigError: shares that do not rise between 0 and 1, or options that `tfc.shrink` does not
            take.

    Example:
        >>> schedule = tfc.ShrinkSchedule(3, ratio=0.5, importance="taylor", data=(x, y))
        >>> for smaller in schedule.models(model):
        ...     smaller.compile("adam", "sparse_categorical_crossentropy")
        ...     smaller.fit(x, y, epochs=2)

    or, the same, `smaller = schedule.run(model, fit)` with a function that trains a model in place.

    Source: Molchanov et al. 2017 (arXiv:1611.06440), iterative pruning and fine-tuning.
    """

    def __init__(
        self, steps: int | Sequence[float], ratio: float | None = None, **options: Any
    ) -> None:
        self.shares = _shares(steps, ratio)
        _check_options(options)
        self.options = _lasting(options)

    def models(self, model: keras.Model) -> Iterator[keras.Model]:
        """The smaller models, one after the other; train each in place before going on.

        Args:
            model: the model to start from; it does not change.

        Raises:
            CompressError: whatever `tfc.shrink` raises, in the step in which it comes up:
                ModelTypeError, ConfigError (with ScopeError), DataError, and with
                `target="latency"` ConversionError or DeviceError.
        """
        from tfcompress.registry import walk
        from tfcompress.surgery.rewriting import check_graph
        from tfcompress.surgery.shrink import shrink

        check_graph(model)
        paths = {id(layer): path for path, layer in walk(model)}
        left = 1.0
        for share in self.shares:
            # Of what is left now, so that what a step was off is made up for by the next.
            step = 1 - (1 - share) / left
            if step > 0:
                model = shrink(model, step, **self._options(model, paths))
                left *= 1 - model.compression_report.settings["reached"]
            yield model

    def _options(self, model: keras.Model, paths: dict[int, str]) -> dict[str, Any]:
        """The options for a step: a layer of the first model is the one of its path in this."""
        from tfcompress.registry import walk

        layers: dict[Any, Any] = dict(walk(model))
        scopes = {
            name: [layers.get(paths.get(id(part)), part) for part in self.options[name]]
            for name in _SCOPES
            if self.options.get(name) is not None
        }
        return {**self.options, **scopes}

    def run(self, model: keras.Model, fit: Callable[[keras.Model], Any]) -> keras.Model:
        """Shrinks and trains in turns.

        Args:
            model: the model to start from; it does not change.
            fit: trains the model that it is given, in place.

        Returns:
            The last model.

        Raises:
            CompressError: see `models`.
        """
        smaller = model
        for smaller in self.models(model):
            fit(smaller)
        return smaller


def _shares(steps: Any, ratio: Any) -> list[float]:
    import numpy as np

    from tfcompress.surgery.budget import is_number

    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if whole:
        if steps < 1:
            raise ConfigError(f"`steps` must be a number above 0. Received: {steps!r}")
        if not is_number(ratio) or not 0 < ratio < 1:
            raise ConfigError(
                "`ratio` must be the share to take away in the end, between 0 and 1. "
                f"Received: {ratio!r}"
            )
        return [1 - (1 - float(ratio)) ** (step / steps) for step in range(1, steps + 1)]
    if ratio is not None:
        raise ConfigError(
            f"Give `ratio`, or shares as `steps`, not both. Received: {steps!r} and {ratio!r}"
        )
    try:
        shares = [float(share) for share in steps]
    except (TypeError, ValueError):
        shares = []
    rising = all(0 < one < two for one, two in itertools.pairwise(shares))
    if not shares or not rising or not 0 < shares[-1] < 1:
        raise ConfigError(
            "`steps` must be a number of steps, or shares between 0 and 1 that rise. Received: "
            f"{steps!r}"
        )
    return shares


def _lasting(options: dict[str, Any]) -> dict[str, Any]:
    """The options in a form that serves several steps: generators are listed, or remembered."""
    from tfcompress.scope import parts_of
    from tfcompress.surgery.examples import repeatable

    scopes = {name: parts_of(options[name]) for name in _SCOPES if options.get(name) is not None}
    return {**options, **scopes, "data": repeatable(options.get("data"))}


def _check_options(options: dict[str, Any]) -> None:
    import inspect

    from tfcompress.surgery.shrink import shrink

    known = set(inspect.signature(shrink).parameters) - {"model", "ratio"}
    other = sorted(set(options) - known)
    if other:
        raise ConfigError(
            f"The options must be those of tfc.shrink: {', '.join(sorted(known))}. Received: "
            f"{', '.join(other)}"
        )
