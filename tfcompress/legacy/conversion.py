"""`to_keras3`: a tf_keras model as a Keras 3 model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress.errors import (
    ConfigError,
    ConversionError,
    DataError,
    ModelTypeError,
    VerificationError,
)
from tfcompress.legacy.building import Builder
from tfcompress.legacy.comparison import check_equal
from tfcompress.legacy.files import load
from tfcompress.legacy.inputs import random_inputs
from tfcompress.legacy.nodes import is_function, is_graph, walk
from tfcompress.legacy.packages import check_graph2
from tfcompress.legacy.stripping import strip, wrapped_by
from tfcompress.legacy.training import compile_alike
from tfcompress.report import CompressionReport


def to_keras3(
    model: Any,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    data: Any = None,
) -> keras.Model:
    """A Keras 3 model with the structure, weights and outputs of a tf_keras (Keras 2) model.

    Every layer is made anew from its options, called as it was called, and given its weights,
    matched by name and shape. Then both models run on the same inputs: each layer on the inputs
    that it has in the Keras 2 model, and the whole. Keras 3 loads some Keras 2 files by itself, and
    takes a few layers for others without a word: `hard_sigmoid` has another slope there.

    Names, frozen layers, seeds, data types, initializers, regularizers and constraints are kept.
    So are calls with training=True, by a wrapper `AlwaysTraining`: Keras 3 would override them.
    TensorFlow functions in the graph (`tf.nn.relu(x)`, `x + y`, `x[:, 0]`) become operations of
    Keras 3. Layers that tensorflow-model-optimization wrapped are stripped first.

    Args:
        model: a tf_keras model, Functional or Sequential and built, with all that it nests; or the
            path of a `.h5` or `.keras` file or SavedModel folder that Keras 2 wrote.
        custom_objects: classes and functions written for Keras 3, by the names of those of
            Keras 2 that they stand for. They take the same options and have weights of the same
            names.
        safe_mode: False runs the Python code of Lambda layers in a file.
        data: an array, or a list or dict of arrays, to compare the two on; None for random
            values.

    Returns:
        The Keras 3 model, compiled where loss, metrics and optimizer have counterparts (an
        optimizer's state is not carried over). Its `compression_report` tells what each layer
        became.

    Raises:
        ModelTypeError: no Keras 2 model, one whose graph is not known, or a file that tf_keras
            cannot load.
        ConversionError: layers cannot be brought over; all are listed, with reasons.
        VerificationError: outputs differ; the first layer that does is named.
        ConfigError: the file holds code, `custom_objects` is no dict, or tf_keras is not
            installed.
        DataError: `data` are not arrays that fit the inputs, or hold NaN or no rows.

    Example:
        >>> model = tfc.legacy.to_keras3("model.h5")
        >>> tfc.convert(model, "int8", representative_data=x)

    Source: "Migrating Keras 2 code to multi-backend Keras 3", keras.io.
    """
    if isinstance(model, keras.Model):
        raise ModelTypeError(
            "`model` must be a tf_keras (Keras 2) model. Received a Keras 3 "
            f"{type(model).__name__}, which needs no conversion."
        )
    if not isinstance(custom_objects, (Mapping, type(None))):
        raise ConfigError(
            "`custom_objects` must be a dict of Keras 3 classes and functions by name. Received: "
            f"{custom_objects!r:.80}"
        )
    report = CompressionReport("to_keras3")
    if isinstance(model, (str, os.PathLike)):
        model = load(model, {}, safe_mode)
    check_graph2(model)
    wrapped = wrapped_by(model)
    if wrapped:
        model = strip(model)
        report.notes += wrapped
    builder = Builder(dict(custom_objects or {}))
    built = builder.build(model)
    if built is None:
        lines = [f"  {path} ({kind}): {reason}" for path, kind, reason in builder.problems]
        raise ConversionError(
            f"The Keras 2 model {model.name!r} has layers that cannot be brought to Keras 3:\n"
            + "\n".join(lines)
        )
    try:
        worst = check_equal(model, built, builder, _data(model, data))
    except VerificationError as error:
        if data is not None:
            raise
        raise VerificationError(
            f"{error} They ran on random inputs: give data=... where the model takes only others."
        ) from error
    report.notes.append(f"outputs equal; largest difference {worst:.1g} of the largest value")
    for path, layer in walk(model):
        if not is_graph(layer):
            _, made = builder.layers[id(layer)]
            action = "operation" if is_function(layer) else type(made).__name__
            report.add(path, type(layer).__name__, action)
    report.notes += [f"{path} ({kind}) {what}" for path, kind, what in builder.remarks]
    report.notes += compile_alike(model, built.model)
    built.model.compression_report = report
    return built.model


def _data(model: Any, data: Any) -> list[np.ndarray]:
    if data is None:
        return random_inputs(model)
    given = data
    if isinstance(data, Mapping):
        names = list(model.input_names)
        if set(names) - set(data):
            raise DataError(f"`data` must have the inputs {names}. Received: {list(data)}")
        given = [data[name] for name in names]
    elif not isinstance(data, (list, tuple)) or not _is_listed(model, data):
        given = [data]
    if len(given) != len(model.inputs):
        raise DataError(
            f"`data` must be {len(model.inputs)} arrays, one for each input. "
            f"Received: {len(given)}, in a {type(data).__name__}"
        )
    arrays = [_array(*pair) for pair in zip(model.inputs, given, strict=True)]
    rows = [len(array) for array in arrays]
    if len(set(rows)) > 1 or not rows[0]:
        raise DataError(
            "`data` must have the same number of rows for each input, at least one. Received: "
            f"{rows}"
        )
    return arrays


def _is_listed(model: Any, data: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list has an item for each input, where one could be the rows of a single one."""
    if len(model.inputs) > 1:
        return True
    return len(data) == 1 and len(getattr(data[0], "shape", ())) == len(model.inputs[0].shape)


def _array(tensor: Any, value: Any) -> np.ndarray:
    name, kind = tensor._keras_history.layer.name, tensor.dtype
    rule = f"`data` must be arrays; for the input {name!r} {kind.name} {tuple(tensor.shape)}"
    if isinstance(value, Iterator) or hasattr(value, "element_spec"):
        raise DataError(
            f"{rule}. Received: {type(value).__name__}. Give one batch of it: next(iter(...))."
        )
    try:
        array = np.asarray(value, kind.as_numpy_dtype)
    except (TypeError, ValueError) as error:
        raise DataError(f"{rule}. Received: {value!r:.80} ({error})") from error
    if array.ndim != len(tensor.shape) or not tensor.shape.is_compatible_with(array.shape):
        raise DataError(f"{rule}. Received: {array.dtype} {array.shape}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{rule}, without NaN, which hides differences. Received some.")
    return array
