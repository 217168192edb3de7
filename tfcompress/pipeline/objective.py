"""What is trained for and measured: losses and metrics, given, the model's own, or chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError, DataError

_LOOKED_AT = 256  # outputs that show whether a model ends in probabilities


@dataclass(frozen=True)
class Outputs:
    """A model's outputs.

    Attributes:
        names: in the order in which they are flattened.
        nest: their structure, with each output's place in it.
        values: arrays, in that order.
    """

    names: list[str]
    nest: Any
    values: list[np.ndarray]

    def packed(self, values: list[Any]) -> Any:
        """Something for each output, in the structure that Keras wants."""
        from keras import tree

        return tree.map_structure(lambda place: values[place], self.nest)


def outputs_of(model: Any, x: Any) -> Outputs:
    """The model's outputs for inputs x."""
    from keras import tree

    from tfcompress.conversion import export

    found = model.predict(x, verbose=0)
    flat = tree.flatten(found)
    names = list(export.name_outputs(model, found))
    return Outputs(names, tree.pack_sequence_as(found, list(range(len(flat)))), flat)


@dataclass(frozen=True)
class Objective:
    """Losses and metrics of a model's outputs.

    Attributes:
        outputs: of the original model, for a few examples.
        losses: one for each output, as `compile` takes it; None for an output without one.
        weights: of the losses.
        metrics: a list for each output.
        notes: where they come from.
    """

    outputs: Outputs
    losses: list[Any]
    weights: list[float] | None
    metrics: list[list[Any]]
    notes: list[str]

    def packed_loss(self) -> Any:
        """As `compile` takes it."""
        return self.outputs.packed(self.losses)

    def compiled(self, losses: list[Any] | None = None) -> dict[str, Any]:
        """Arguments of `compile`, with metrics that nobody has used."""
        several = len(self.losses) > 1
        said: dict[str, Any] = {"loss": self.outputs.packed(losses or self.losses)}
        fresh = [[_fresh(metric) for metric in own] for own in self.metrics]
        said["metrics"] = self.outputs.packed(fresh) if several else fresh[0]
        if several and self.weights is not None:
            said["loss_weights"] = self.outputs.packed(list(self.weights))
        return said

    def labels(self, y: list[np.ndarray]) -> Any:
        """As `fit` takes them."""
        return self.outputs.packed(list(y))

    def describe(self) -> dict[str, Any]:
        """As names, for the journal and the report."""
        return {
            "outputs": self.outputs.names,
            "loss": [_name(loss) for loss in self.losses],
            "loss_weights": self.weights,
            "metrics": [[_name(metric) for metric in own] for own in self.metrics],
        }

    def identity(self) -> dict[str, Any]:
        """What tells it from others, for the journal: names with all that they were given."""
        told = self.describe()
        # Keras numbers the layers that outputs are named by.
        told["outputs"] = [re.sub(r"_[0-9]+$", "", name) for name in self.outputs.names]
        told["settings"] = [
            _settings(thing) for own in (self.losses, *self.metrics) for thing in own
        ]
        return told

    def measure(self, predictions: list[np.ndarray], y: list[np.ndarray]) -> dict[str, float]:
        """Loss and metrics of predictions, whoever made them: a model in Keras or a file.

        Args:
            predictions: one array for each output.
            y: labels, likewise.
        """
        import keras

        inputs = [keras.Input(p.shape[1:], dtype=str(p.dtype)) for p in predictions]
        named = [
            keras.layers.Identity(name=name.replace("/", "_"))(tensor)
            for name, tensor in zip(self.outputs.names, inputs, strict=True)
        ]
        judge = keras.Model(inputs, self.outputs.packed(named))
        judge.compile(**self.compiled())
        found = judge.evaluate(
            predictions if len(predictions) > 1 else predictions[0],
            self.labels(y),
            batch_size=256,
            verbose=0,
            return_dict=True,
        )
        return {name: float(value) for name, value in found.items()}


def choose(model: Any, data: Any, loss: Any, metrics: Any, loss_weights: Any) -> Objective:
    """The losses and metrics: as given, else the model's own, else by its outputs and the labels.

    Args:
        model: the model that the pipeline begins with.
        data: `data.Data`.
        loss: as `compile` takes it, or None.
        metrics: as `compile` takes them, or None.
        loss_weights: as `compile` takes them, or None.

    Raises:
        ConfigError: losses that do not fit the outputs, or none that can be chosen.
        DataError: labels of classes that the model has not.
    """
    outputs = outputs_of(model, data.validation_inputs(_LOOKED_AT))
    notes = []
    own_loss, own_metrics, own_weights = _of_model(model)
    if loss is None and own_loss is not None:
        loss, loss_weights = own_loss, loss_weights or own_weights
        metrics = own_metrics if metrics is None else metrics
    if loss is None:
        losses = [
            _chosen(name, values, labels)
            for name, values, labels in zip(outputs.names, outputs.values, data.y_val, strict=True)
        ]
        told = ", ".join(_name(own) for own in losses)
        notes.append(f"Loss, chosen by outputs and labels: {told}.")
    else:
        losses = _spread("loss", loss, outputs)
    if metrics is None:
        rows = [[_metric(own, labels)] for own, labels in zip(losses, data.y_val, strict=True)]
    elif len(outputs.names) == 1 and not isinstance(metrics, Mapping):
        rows = [_listed(metrics)]
    else:
        rows = [_listed(own) for own in _spread("metrics", metrics, outputs)]
    _check_names(losses, rows)
    for name, own, values, *labels in zip(
        outputs.names, losses, outputs.values, data.y, data.y_val, strict=True
    ):
        _check_classes(name, own, values, labels)
    weights = None if loss_weights is None else _spread("loss_weights", loss_weights, outputs)
    return Objective(outputs, losses, weights, rows, notes)


def _check_names(losses: list[Any], metrics: list[list[Any]]) -> None:
    import keras

    named = [("loss", keras.losses.get, own) for own in losses]
    named += [("metrics", keras.metrics.get, own) for row in metrics for own in row]
    for what, get, own in named:
        if not isinstance(own, str) or own in ("accuracy", "acc", "ce", "crossentropy"):
            continue
        try:
            get(own)
        except ValueError:
            raise ConfigError(
                f"`{what}` must be objects, functions, or names that Keras knows. Received: {own!r}"
            ) from None


def _check_classes(name: str, loss: Any, values: np.ndarray, labels: list[np.ndarray]) -> None:
    """Checks labels that are numbers of classes."""
    if "sparse_categorical_crossentropy" not in _name(loss) or values.ndim < 2:
        return
    config: dict[str, Any] = getattr(loss, "get_config", dict)()
    ignored = config.get("ignore_class")
    found = [np.asarray(own).reshape(-1) for own in labels]
    found = [own if ignored is None else own[own != ignored] for own in found]
    found = [own for own in found if own.size]
    low = min((own.min() for own in found), default=0)
    high = max((own.max() for own in found), default=0)
    if low < 0 or high >= values.shape[-1]:
        raise DataError(
            f"Labels of the output {name!r}, which has {values.shape[-1]} classes, must be from 0 "
            f"to {values.shape[-1] - 1}. Received: labels from {low} to {high}"
        )


def _of_model(model: Any) -> tuple[Any, Any, Any]:
    if not model.compiled:
        return None, None, None
    loss = getattr(model, "_compile_loss", None)  # neither has a public name
    metrics = getattr(model, "_compile_metrics", None)
    if loss is None:
        return None, None, None
    return loss._user_loss, getattr(metrics, "_user_metrics", None), loss._user_loss_weights


def _spread(what: str, given: Any, outputs: Outputs) -> list[Any]:
    """Something for each output."""
    names = outputs.names
    if isinstance(given, Mapping):
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            raise ConfigError(
                f"`{what}` by name must name outputs of the model, {names}. Received: {unknown[0]}"
            )
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise ConfigError(
                f"`{what}` as a list must have a part for each output, {names}. "
                f"Received: {len(given)} parts"
            )
        return list(given)
    return [given for _ in names]


def _listed(metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def _chosen(name: str, values: np.ndarray, labels: np.ndarray) -> Any:
    import keras

    whole = labels.dtype.kind in "iub"
    flat = labels.reshape(len(labels), -1)
    one = values.shape[1:] in ((), (1,))
    classes = values.shape[-1] if values.ndim > 1 else 1
    if whole and classes > 1 and labels.shape in (values.shape[:-1], (*values.shape[:-1], 1)):
        logits = not _probabilities(values)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    binary = bool(((flat == 0) | (flat == 1)).all())
    if labels.size == values.size and binary and (whole or not one):
        if not one and bool((flat.sum(-1) == 1).all()) and flat.shape == values.shape:
            logits = not _probabilities(values)
            return keras.losses.CategoricalCrossentropy(from_logits=logits)
        logits = bool((values < 0).any() or (values > 1).any())
        return keras.losses.BinaryCrossentropy(from_logits=logits)
    if labels.size // len(labels) == values.size // len(values):
        return keras.losses.MeanSquaredError()
    raise ConfigError(
        f"No loss fits the output {name!r} of shape {values.shape[1:]} and labels of "
        f"{labels.dtype} {labels.shape[1:]}. Pass loss=..., or compile the model."
    )


def _probabilities(values: np.ndarray) -> bool:
    sums = values.sum(-1, dtype=np.float64)
    return bool((values >= 0).all() and (np.abs(sums - 1) < 0.02).all())


def _metric(loss: Any, labels: np.ndarray) -> Any:
    name = _name(loss)
    if "crossentropy" in name or "hinge" in name:
        return "accuracy"
    return "mae"


def _fresh(metric: Any) -> Any:
    """A metric that has seen nothing: objects count on from call to call."""
    import keras

    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def _settings(thing: Any) -> Any:
    """What an object of Keras was given, as text that is the same in every process."""
    config: dict[str, Any] = getattr(thing, "get_config", dict)()
    text = json.dumps({**config, "name": ""}, default=repr, sort_keys=True)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _name(thing: Any) -> str:
    if thing is None or isinstance(thing, str):
        return str(thing)
    own = getattr(thing, "name", None) or getattr(thing, "__name__", None)
    said = str(own or type(thing).__name__)
    config: dict[str, Any] = getattr(thing, "get_config", dict)()
    return f"{said} of logits" if config.get("from_logits") else said
