"""`TransformedModel`: a model with wrapped layers, whose `fit` does what their transforms need."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import keras

from tfcompress import registry
from tfcompress.first_step import FirstStep
from tfcompress.graph import attributes
from tfcompress.graph.calls import is_graph
from tfcompress.graph.copying import as_plain
from tfcompress.report import CompressionReport
from tfcompress.transforms.wrapper import TransformedLayer, wrappers


class DrivenFit:
    """A model whose `fit` adds the callbacks that training it needs.

    Those are what the transforms of its layers ask for, `own_drivers`, and `FirstStep`; one of a
    class that is given is not added.
    """

    @functools.cached_property
    def _drivers(self) -> dict[type, keras.callbacks.Callback]:
        return {}

    def own_drivers(self) -> set[type]:
        """Classes of callbacks, made without arguments, that the model itself needs."""
        return set()

    def completed(self, report: CompressionReport) -> CompressionReport:
        """The report with what came out of `fit`."""
        settings, entries = dict(report.settings), list(report.entries)
        for callback in self._drivers.values():
            came_out = getattr(callback, "report", None)
            if came_out is not None:
                settings.update(came_out.settings)
                changed = {entry.name: entry for entry in came_out.changed}
                entries = [changed.get(entry.name, entry) for entry in entries]
        return dataclasses.replace(report, settings=settings, entries=entries)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit`, driven."""
        fit = super().fit  # type: ignore[misc]
        bound = inspect.signature(fit).bind(*args, **kwargs)
        bound.arguments["callbacks"] = self._driven(bound.arguments.get("callbacks"))
        return fit(*bound.args, **bound.kwargs)

    def _driven(self, callbacks: Any) -> Any:
        whole = isinstance(callbacks, keras.callbacks.CallbackList)
        given = list(callbacks.callbacks if whole else keras.tree.flatten(callbacks or []))
        inside = registry.student_of(self)  # itself, but for a distiller
        drivers = inside._drivers if isinstance(inside, DrivenFit) else self._drivers
        kinds = {transform.driver() for w in wrappers(inside) for transform in w.transforms}
        for kind in sorted(kinds | self.own_drivers() | {FirstStep}, key=str):
            if kind is None or any(isinstance(callback, kind) for callback in given):
                continue
            driver = drivers.setdefault(kind, kind())
            if whole:
                driver.set_model(self)
            # One that saves goes behind it, so that a save holds what it did at the same step.
            given.insert(_before_savers(given), driver)
        if whole:
            callbacks.callbacks[:] = given
            return callbacks
        return given


@keras.saving.register_keras_serializable("tfcompress")
class TransformedModel(DrivenFit):
    """What verbs add to the class of the model that they return.

    Its `fit` is driven. The model is otherwise what its `plain_class` makes of it, and is saved as
    that, with what wraps its layers.

    Attributes:
        plain_class: the model's class as it was.
    """

    plain_class: type = keras.Model

    @property
    def compression_report(self) -> CompressionReport | None:
        """What was done to which layer; after `fit` with what came out."""
        report = self.__dict__.get("_verb_report")
        return None if report is None else self.completed(report)

    def get_config(self) -> dict[str, Any]:
        """The model as its plain class tells of it, and the wrappers in its attributes."""
        report = self.compression_report
        with as_plain(self):
            config = self.get_config()
        cls = self.plain_class
        keras_own = cls.__module__.startswith("keras.")
        return {
            "model": {
                "module": cls.__module__,
                "class_name": cls.__name__,
                "registered_name": None if keras_own else keras.saving.get_registered_name(cls),
                "config": config,
            },
            "layers": [] if is_graph(self) else _placed(self),
            "report": report and report.to_dict(),
        }

    def __reduce__(self) -> Any:
        """Pickles and copies by the plain class, as this one is made on the way."""
        reduced: Any = super().__reduce__()
        load, arguments = reduced
        return getattr(self.plain_class, load.__name__), arguments

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The inverse of `get_config`."""
        model = keras.saving.deserialize_keras_object(config["model"])
        for row in config["layers"]:
            path = tuple(row["path"])
            if "model" in row:
                placed = keras.saving.deserialize_keras_object(row["model"])
            else:
                placed = attributes.get(model, path)
                if not isinstance(placed, TransformedLayer):
                    placed = TransformedLayer.around(placed, row["transforms"])
            attributes.put(model, path, placed)
        saved = config.get("report")
        return driven(model, saved and CompressionReport.from_dict(saved))


def driven(model: keras.Model, report: CompressionReport | None) -> Any:
    """Makes the model, whose layers are wrapped, an instance of TransformedModel too."""
    if not isinstance(model, TransformedModel):
        model.__class__ = _driven_class(type(model))  # type: ignore[arg-type]
    object.__setattr__(model, "_verb_report", report)  # past Keras's tracking
    return model


@functools.cache
def _driven_class(cls: Any) -> type:
    made = type(
        f"Transformed{cls.__name__}",
        (TransformedModel, cls),
        {"plain_class": cls, "__module__": __name__, "__doc__": TransformedModel.__doc__},
    )
    # All of them are saved under one name, and loaded by the one class that is always there.
    register = keras.saving.register_keras_serializable("tfcompress", TransformedModel.__name__)
    register(made)
    register(TransformedModel)
    return made


def _placed(model: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path, layer in attributes.layers(model):
        if isinstance(layer, TransformedLayer):
            rows.append({"path": list(path), "transforms": layer.transforms_config()})
        elif is_graph(layer) and (wrappers(layer) or getattr(layer, "stands_in", False)):
            rows.append({"path": list(path), "model": keras.saving.serialize_keras_object(layer)})
    return rows


def _before_savers(callbacks: list[Any]) -> int:
    for index, callback in enumerate(callbacks):
        if getattr(callback, "goes_last", False):
            return index
    return len(callbacks)
