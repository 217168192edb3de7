"""One tf_keras layer as a Keras 3 layer: its class, its options, and what has no counterpart."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

from tfcompress.legacy.activations import hard_sigmoid_of_keras2
from tfcompress.legacy.nodes import mapped

_RENAMED = {
    "SyncBatchNormalization": "BatchNormalization",
    "ThresholdedReLU": "ReLU",
    "Layer": "Identity",
}
_OPTIONS_RENAMED = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "ThresholdedReLU": {"theta": "threshold"},
}
_ADDED: dict[str, dict[str, Any]] = {"SyncBatchNormalization": {"synchronized": True}}
_ACTIVATIONS = ("activation", "recurrent_activation")
# Functions of tf.nn that layers are given, by the names that Keras 3 has them under.
_OF_TENSORFLOW = (
    *("relu", "relu6", "elu", "selu", "gelu", "silu", "swish", "leaky_relu", "softmax"),
    *("log_softmax", "sigmoid", "softplus", "softsign", "tanh"),
)
# Options that Keras 3 does not have, with the values that change nothing; None: any value.
_WITHOUT_EFFECT: Mapping[str, Collection[Any] | None] = {
    "batch_input_shape": None,
    "build_config": None,
    "force_generator": None,
    "fused": None,
    "groups": (1,),
    "kernel_initializer": None,
    "kernel_regularizer": (None,),
    "kernel_constraint": (None,),
    "softmax_robust_masking": (False,),
    "trainable": None,
    "has_input_characters": None,
    "implementation": None,
    "input_length": None,
    "key_shape": None,
    "query_shape": None,
    "ragged": (False,),
    "renorm": (False,),
    "rng_type": None,
    "sparse": (False,),
    "time_major": (False,),
    "value_shape": None,
    "virtual_batch_size": (None,),
    "vocabulary_size": None,
    "zero_output_for_mask": (False,),
    "synchronized": (False,),
    "noise_shape": (None,),
    "causal": (False,),
    "sparse_grad": (False,),
}


class WithoutCounterpart(Exception):
    """The layer cannot be brought over; the message says why."""


def translated(
    layer: Any, inner: Callable[[Any], keras.Layer], custom_objects: Mapping[str, Any]
) -> keras.Layer:
    """The Keras 3 layer, not built.

    Args:
        layer: a tf_keras layer.
        inner: translates a layer that this one holds.
        custom_objects: Keras 3 classes and functions by the names of those of Keras 2.

    Raises:
        WithoutCounterpart: it has none.
    """
    kind = type(layer).__name__
    config = _plain(layer.get_config())
    config["name"] = valid_name(layer.name)
    config["dtype"] = _policy(layer)
    own = type(layer).__module__.startswith("tf_keras.")
    if kind in custom_objects:
        return _custom(custom_objects[kind], config)
    if not own:
        raise WithoutCounterpart(
            f"it is of a class of its own: give custom_objects={{{kind!r}: ...}} with the class "
            "written for Keras 3"
        )
    if kind in _HOLDERS:
        return _HOLDERS[kind](layer, config, inner)
    if kind == "Lambda":
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=dict(layer.arguments or {}),
            name=config["name"],
            dtype=config["dtype"],
        )
    cls: Any = getattr(keras.layers, _RENAMED.get(kind, kind), None) or _of_application(layer)
    if cls is None:
        raise WithoutCounterpart(f"Keras 3 has no {kind}")
    for option in _ACTIVATIONS:
        if option in config:
            config[option] = _activation(getattr(layer, option, None), inner, custom_objects)
    _learned(layer, config)
    for old, new in _OPTIONS_RENAMED.get(kind, {}).items():
        config[new] = config.pop(old)
    return cls.from_config(_kept(kind, config, cls) | _ADDED.get(kind, {}))


def valid_name(name: str) -> str:
    """The name as Keras 3 allows it."""
    return name.replace("/", "_")


def _of_application(layer: Any) -> Any:
    """The class of a layer that the ready-made networks bring with them."""
    place = type(layer).__module__.removeprefix("tf_")
    if not place.startswith("keras.src.applications."):
        return None
    return getattr(importlib.import_module(place), type(layer).__name__, None)


def _kept(kind: str, config: dict[str, Any], cls: Any) -> dict[str, Any]:
    """The options that the class takes, once it is sure that the others change nothing."""
    taken = _options(cls)
    for name in [name for name in config if name not in taken]:
        value = config.pop(name)
        fine = _WITHOUT_EFFECT.get(name, ())
        if fine is not None and not any(value is v or value == v for v in fine):
            raise WithoutCounterpart(f"{kind} of Keras 3 has no option {name!r}, here {value!r}")
    if isinstance(config.get("axis"), list) and cls is keras.layers.BatchNormalization:
        if len(config["axis"]) > 1:
            raise WithoutCounterpart(f"Keras 3 normalizes one axis, here {config['axis']}")
        (config["axis"],) = config["axis"]
    return config


def _options(cls: Any) -> set[str]:
    names = {"name", "dtype"}
    for base in cls.__mro__:
        if base is keras.Layer:
            return names | {"trainable", "activity_regularizer"}
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            names |= set(parameters) - {"self"}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break  # the classes above get what this one chooses
    return names


def _policy(layer: Any) -> str:
    policy = getattr(layer, "_dtype_policy", None)
    return str(policy.name if policy is not None else layer.dtype or "float32")


def _activation(function: Any, inner: Any, custom_objects: Mapping[str, Any]) -> Any:
    from tfcompress.legacy.packages import keras2

    if function is None:
        return None
    if isinstance(function, keras2().layers.Layer):
        if function.weights:
            raise WithoutCounterpart(
                f"its activation is a {type(function).__name__} with weights, which Keras 3 does "
                "not load again inside a layer: make it a layer of its own behind this one"
            )
        return inner(function)
    activations = keras2().activations
    if function is activations.hard_sigmoid:
        return hard_sigmoid_of_keras2
    name = getattr(function, "__name__", type(function).__name__)
    if name in custom_objects:
        return custom_objects[name]
    module, plain = str(getattr(function, "__module__", "")), name.removesuffix("_v2")
    if module.startswith("tensorflow.") and plain in _OF_TENSORFLOW:
        return getattr(keras.activations, plain)
    ours = getattr(keras.activations, name, None)
    if ours is None or getattr(activations, name, None) is not function:
        raise WithoutCounterpart(
            f"its activation {name!r} is a function of its own: give "
            f"custom_objects={{{name!r}: ...}} with the function written for Keras 3"
        )
    return ours


def _custom(cls: Any, config: dict[str, Any]) -> keras.Layer:
    is_layer = isinstance(cls, type) and issubclass(cls, keras.Layer)
    if not is_layer:
        raise WithoutCounterpart(f"custom_objects must give a keras.Layer class for it, not {cls}")
    config.pop("batch_input_shape", None)
    return cls.from_config(config)


def _learned(layer: Any, config: dict[str, Any]) -> None:
    """What a preprocessing layer has learned from data, as options."""
    kind = type(layer).__name__
    if kind == "Normalization" and getattr(layer, "adapt_mean", None) is not None:
        shape = tuple(layer.adapt_mean.shape)  # its mean has an axis for each of the inputs
        config["mean"] = layer.mean.numpy().reshape(shape)
        config["variance"] = layer.variance.numpy().reshape(shape)
    elif kind == "Discretization":
        config["bin_boundaries"] = [float(edge) for edge in layer.bin_boundaries]
        config["num_bins"] = None
        # Compiled, an integer type is taken for its inputs' too.
        config["dtype"] = config["dtype"] if "float" in config["dtype"] else "float32"
    elif kind in ("StringLookup", "IntegerLookup") or kind == "TextVectorization":
        words = config["vocabulary"] = list(layer.get_vocabulary(include_special_tokens=False))
        lookup = getattr(layer, "_lookup_layer", layer)
        if lookup.output_mode == "tf_idf":  # of words that it knows; Keras weighs others alike
            start = lookup._token_start_index()
            config["idf_weights"] = lookup.idf_weights.numpy()[start : start + len(words)].tolist()


def _time_distributed(layer: Any, config: dict[str, Any], inner: Any) -> keras.Layer:
    return keras.layers.TimeDistributed(inner(layer.layer), name=config["name"])


def _bidirectional(layer: Any, config: dict[str, Any], inner: Any) -> keras.Layer:
    forward, backward = inner(layer.forward_layer), inner(layer.backward_layer)
    made = keras.layers.Bidirectional(
        forward, config["merge_mode"], backward_layer=backward, name=config["name"]
    )
    # Keras copies the layers that it is given, and puts "forward_" before a name that has it.
    made.forward_layer.name, made.backward_layer.name = forward.name, backward.name
    return made


def _recurrent(layer: Any, config: dict[str, Any], inner: Any) -> keras.Layer:
    config["cell"] = inner(layer.cell)
    return keras.layers.RNN(**_kept("RNN", config, keras.layers.RNN))


def _stacked(layer: Any, config: dict[str, Any], inner: Any) -> keras.Layer:
    return keras.layers.StackedRNNCells([inner(cell) for cell in layer.cells], name=config["name"])


def _spectral(layer: Any, config: dict[str, Any], inner: Any) -> keras.Layer:
    return keras.layers.SpectralNormalization(
        inner(layer.layer), power_iterations=config["power_iterations"], name=config["name"]
    )


_HOLDERS: dict[str, Callable[[Any, dict[str, Any], Any], keras.Layer]] = {
    "TimeDistributed": _time_distributed,
    "Bidirectional": _bidirectional,
    "RNN": _recurrent,
    "StackedRNNCells": _stacked,
    "SpectralNormalization": _spectral,
}


def held(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """The layers inside a layer that Keras 3 has made anew for it, old and new."""
    if type(old).__name__ == "Bidirectional":
        return [(old.forward_layer, new.forward_layer), (old.backward_layer, new.backward_layer)]
    return []


def holds(layer: Any) -> bool:
    """Whether all of a tf_keras layer's weights are those of layers inside it."""
    return type(layer).__name__ in ("Bidirectional", "TimeDistributed")


def _plain(config: Any) -> Any:
    """A config in plain lists and dicts, as Keras 2 keeps wrappers in it."""
    return mapped(_leaf, dict(config))


def _leaf(value: Any) -> Any:
    return value.as_list() if hasattr(value, "as_list") else value
