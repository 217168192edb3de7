"""From a Keras 3 model to a SavedModel with one static signature, the converter's food.

The SavedModel is written in the user's process, so custom layers need no registration and no
second copy of their code, and the converter's process needs only TensorFlow.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.conversion.calibration import InputSpec
from tfcompress.conversion.operations import without_bit_masks
from tfcompress.conversion.steps import steps_in_one_batch
from tfcompress.errors import ConfigError, ConversionError, DataError, ModelTypeError
from tfcompress.keras3 import check_keras3

SIGNATURE = "serving_default"
_AUTO_NAME = re.compile(r"^(keras_tensor|input_layer|input)(_\d+)?$")


@dataclass(frozen=True)
class Interface:
    """A model's inputs, and how to call it with them.

    Attributes:
        specs: the inputs, flat, batch axis first (sizes may be unknown).
        structure: the nest of inputs that the model's `call` takes, as indices into `specs`.
        separate: `call` takes them as several arguments, by name.
    """

    specs: tuple[InputSpec, ...]
    structure: Any
    separate: bool = False


def check_model(model: Any) -> None:
    """Checks that `model` is a built Keras 3 model with finite weights.

    Raises:
        ModelTypeError: it is a Keras 2 model, not built, or no model.
        DataError: a weight is NaN or infinite.
    """
    if keras.backend.backend() != "tensorflow":
        raise ModelTypeError(
            "Conversion needs Keras on its TensorFlow backend (KERAS_BACKEND=tensorflow). "
            f"Received: {keras.backend.backend()!r}. Save the model as .keras and load it there."
        )
    check_keras3(model)
    if not model.built or (isinstance(model, keras.Sequential) and not model.layers):
        raise ModelTypeError(
            f"The model {model.name!r} is not built: it does not know its input shape. Call it on "
            "data once, or call model.build(input_shape), or give its first layer an Input."
        )
    for variable in model.variables:
        value = keras.ops.convert_to_numpy(variable)
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            bad = int((~np.isfinite(value.astype(np.float32))).sum())
            if bad:
                raise DataError(
                    f"Weights must be finite. Received: {bad} NaN or infinite values in "
                    f"{variable.path!r} of the model {model.name!r}. Training has diverged: lower "
                    "the learning rate, or restore an earlier checkpoint."
                )


def read_interface(model: keras.Model, input_shapes: Any = None) -> Interface:
    """The inputs of a built model.

    Args:
        model: a built model, Functional, Sequential or subclassed.
        input_shapes: overrides what the model says: a shape without the batch axis, or a dict of
            such shapes by input name, or a list of them. In place of a shape, anything with a
            `shape` (batch axis first) and a `dtype` will do, such as a `keras.KerasTensor`.

    Raises:
        ModelTypeError: a subclassed model whose inputs are not known.
        ConfigError: `input_shapes` does not fit the model.
    """
    functional = getattr(model, "_functional", None) or model
    if hasattr(functional, "_inputs_struct"):
        nest = functional._inputs_struct
    else:
        nest = _subclassed(model, input_shapes)
    flat = keras.tree.flatten(nest)
    specs = _named(nest, flat)
    structure = keras.tree.pack_sequence_as(nest, list(range(len(flat))))
    if input_shapes is not None:
        specs = _reshaped(specs, input_shapes)
    separate = not hasattr(functional, "_inputs_struct") and len(_required(model)) > 1
    return Interface(tuple(specs), structure, separate)


def _subclassed(model: keras.Model, input_shapes: Any) -> Any:
    """Inputs of a subclassed model: those that its first call has built it with."""
    parameters = _required(model)
    if len(parameters) > 1:
        # Keras records the first argument's shape only.
        if not isinstance(input_shapes, Mapping) or set(input_shapes) != set(parameters):
            raise ModelTypeError(
                f"{type(model).__name__}.call takes several arguments {parameters}: pass "
                f"input_shapes with a shape for each, without the batch axis, as a dict by these "
                f"names. Received: {input_shapes!r}"
            )
        return {name: _as_tensor(input_shapes[name], model.input_dtype) for name in parameters}
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise ModelTypeError(
            f"The model {model.name!r} ({type(model).__name__}) is subclassed and has never been "
            "called, so its inputs are not known. Call it on data once."
        )

    def as_tensor(shape: Any) -> Any:
        # the first call had its batch size by chance, not by intent
        return keras.KerasTensor((None, *tuple(shape)[1:]), dtype=model.input_dtype)

    nest = next(iter(shapes.values()))
    if isinstance(nest, (tuple, list)) and nest and isinstance(nest[0], (int, type(None))):
        return as_tensor(nest)
    return keras.tree.map_shape_structure(as_tensor, nest)


def _required(model: keras.Model) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(model.call).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name not in ("training", "mask")
    ]


def _as_tensor(given: Any, dtype: str) -> Any:
    if hasattr(given, "shape"):
        return keras.KerasTensor((None, *given.shape[1:]), dtype=given.dtype or dtype)
    return keras.KerasTensor((None, *given), dtype=dtype)


def _named(nest: Any, flat: Sequence[Any]) -> list[InputSpec]:
    keys: list[str | None] = [None] * len(flat)
    if isinstance(nest, Mapping) and len(nest) == len(flat):
        order = keras.tree.flatten({key: key for key in nest})
        keys = list(order)
    specs = []
    for number, (tensor, key) in enumerate(zip(flat, keys, strict=True)):
        own = str(getattr(tensor, "name", "") or "")
        automatic = "input" if len(flat) == 1 else f"input_{number + 1}"
        name = key or (automatic if not own or _AUTO_NAME.match(own) else own)
        aliases = tuple({own, automatic} - {name, ""})
        specs.append(InputSpec(_identifier(name), tuple(tensor.shape), str(tensor.dtype), aliases))
    if len({spec.name for spec in specs}) < len(specs):
        specs = [
            InputSpec(f"{s.name}_{i}", s.shape, s.dtype, s.aliases) for i, s in enumerate(specs)
        ]
    return specs


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name) or "input"
    return f"{name}_" if name == "self" else name  # what TensorFlow's signatures reserve


def _reshaped(specs: Sequence[InputSpec], shapes: Any) -> list[InputSpec]:
    if isinstance(shapes, Mapping):
        given = [shapes.get(spec.name) for spec in specs]
        unknown = set(shapes) - {spec.name for spec in specs}
        if unknown:
            raise ConfigError(
                f"`input_shapes` names inputs that the model does not have: {sorted(unknown)}. "
                f"It has {[spec.name for spec in specs]}"
            )
    elif len(specs) == 1 and all(isinstance(size, int) for size in shapes):
        given = [shapes]
    else:
        given = list(shapes)
    if len(given) != len(specs):
        raise ConfigError(
            f"`input_shapes` must give {len(specs)} shapes, one per input. Received: {shapes!r}"
        )
    result = []
    for spec, one in zip(specs, given, strict=True):
        if one is None:
            result.append(spec)
            continue
        wanted = _as_tensor(one, spec.dtype)
        if len(wanted.shape) != len(spec.shape) or any(
            own is not None and own != new
            for own, new in zip(spec.example_shape, wanted.shape[1:], strict=True)
        ):
            raise ConfigError(
                f"`input_shapes` gives {one!r} for input {spec.name!r}, which takes "
                f"{spec.example_shape} (without the batch axis)."
            )
        shape = (spec.shape[0], *wanted.shape[1:])
        result.append(InputSpec(spec.name, shape, str(wanted.dtype), spec.aliases))
    return result


def fix_shapes(
    interface: Interface, batch_size: int, examples: Mapping[str, np.ndarray] | None
) -> tuple[tuple[int, ...], ...]:
    """Static shapes of the inputs: unknown sizes are taken from representative examples.

    Raises:
        ConfigError: a size is known neither from the model nor from data, or the model's own
            batch size is another.
    """
    shapes = []
    for spec in interface.specs:
        sizes = list(spec.shape)
        if sizes and sizes[0] is not None and sizes[0] != batch_size:
            raise ConfigError(
                f"The model {spec.name!r} input has a fixed batch size of {sizes[0]}: pass "
                f"batch_size={sizes[0]}, or build it with another. Received: {batch_size}"
            )
        if sizes:
            sizes[0] = batch_size
        if examples is not None:
            sizes[1:] = examples[spec.name].shape[1:]
        if any(size is None for size in sizes):
            raise ConfigError(
                f"A TFLite model needs fixed sizes, and input {spec.name!r} has the shape "
                f"{spec.shape}. Pass input_shapes=(...) without the batch axis."
            )
        shapes.append(tuple(int(size) for size in sizes if size is not None))
    return tuple(shapes)


def trace(
    model: keras.Model, interface: Interface, shapes: Sequence[tuple[int | None, ...]]
) -> Exported:
    """The model's inference function, from named inputs to named outputs.

    Args:
        model: the model.
        interface: its inputs.
        shapes: of the inputs; a batch size of None stays open.

    Raises:
        ConversionError: the model cannot be traced with these shapes.
    """
    names = [spec.name for spec in interface.specs]
    signature = {
        spec.name: tf.TensorSpec(shape, spec.dtype, name=spec.name)
        for spec, shape in zip(interface.specs, shapes, strict=True)
    }

    def infer(**inputs: Any) -> dict[str, Any]:
        nest = keras.tree.map_structure(lambda index: inputs[names[index]], interface.structure)
        if interface.separate:
            outputs = model(**nest, training=False)
        else:
            outputs = model(nest, training=False)
        named = name_outputs(model, outputs)
        return {name: tf.identity(value, name=name) for name, value in named.items()}

    with float32_compute(model), steps_in_one_batch(), quiet():
        try:
            return Exported(tf.function(infer, autograph=False).get_concrete_function(**signature))
        except Exception as error:
            shown = {name: tuple(spec.shape) for name, spec in signature.items()}
            raise ConversionError(
                f"The model {model.name!r} cannot be traced for inference with inputs {shown}: "
                f"{error}"
            ) from error


def write_saved_model(
    model: keras.Model, interface: Interface, shapes: Sequence[tuple[int, ...]], folder: str
) -> Exported:
    """Writes the model's inference function as a SavedModel.

    Raises:
        ConversionError: the model cannot be traced with these shapes.
    """
    exported = trace(model, interface, shapes)
    save_functions(model, {SIGNATURE: exported.function}, folder)
    return exported


def save_functions(model: keras.Model, functions: Mapping[str, Any], folder: str) -> None:
    """Writes traced functions of a model as the signatures of one SavedModel.

    Variables that several of them read are held, and converted, once.
    """
    with float32_compute(model), quiet():
        module = tf.Module()
        read = [v for function in functions.values() for v in function.graph.variables]
        module.held = list({id(variable): variable for variable in read}.values())
        module.tables = _tables(model)
        tf.saved_model.save(module, folder, signatures=dict(functions))
    without_bit_masks(folder)


@dataclass(frozen=True)
class Exported:
    """The function that was exported, to run it here as well.

    Attributes:
        function: the traced function, named inputs to named outputs.
    """

    function: Any

    def run(self, batches: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, (runs, *shape), of inputs (runs, *shape)."""
        runs = [
            self.function(**dict(zip(batches, map(tf.constant, values), strict=True)))
            for values in zip(*batches.values(), strict=True)
        ]
        return {name: np.stack([run[name].numpy() for run in runs]) for name in runs[0]}


def _tables(model: keras.Model) -> list[Any]:
    """Lookup tables of the model's layers: resources that are no variables."""
    kind = tf.saved_model.experimental.TrackableResource
    return [
        value
        for layer in model._flatten_layers()
        for value in vars(layer).values()
        if isinstance(value, kind)
    ]


def name_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """A model's outputs by the names that they have in a file's signature."""
    if isinstance(outputs, Mapping):
        flat = keras.tree.flatten_with_path(outputs)
        return {_identifier("_".join(map(str, path))): value for path, value in flat}
    values = keras.tree.flatten(outputs)
    names = [_identifier(name) for name in getattr(model, "output_names", None) or []]
    if len(names) != len(values) or len(set(names)) != len(names):
        names = [f"output_{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    return dict(zip(names, values, strict=True))


@contextlib.contextmanager
def float32_compute(model: keras.Model) -> Iterator[None]:
    """Lets a mixed-precision model compute in float32 while the block runs.

    The variables of such a model are float32 already; its float16 casts are what the converter
    cannot take.
    """
    changed = []
    for layer in model._flatten_layers():
        policy = layer.dtype_policy
        if policy.compute_dtype != policy.variable_dtype and policy.variable_dtype == "float32":
            changed.append((layer, policy))
            layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TensorFlow's and the converters' logs from the terminal."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
