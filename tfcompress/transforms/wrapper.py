"""`TransformedLayer`: the one wrapper of all verbs that change weights during training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import registry
from tfcompress.errors import ConfigError
from tfcompress.transforms.base import WeightTransform, read
from tfcompress.transforms.substitution import Substitution
from tfcompress.variables import value_of

Transforms = Mapping[int, Sequence[WeightTransform]]


@registry.see_through
@keras.saving.register_keras_serializable("tfcompress")
class TransformedLayer(keras.layers.Wrapper):
    """A layer that computes with transformed kernels, and is the layer it wraps in all else.

    It wraps any layer as a whole, and transforms the kernels of layers inside it too: the
    projections of a MultiHeadAttention, the cell of an LSTM, what a Bidirectional or a layer of
    your own holds. It has the layer's name and call signature, and its attributes can be read
    through it (`wrapped.kernel`).

    Args:
        layer: the layer, built or not.
        transforms: for the position of each kernel in `layer.weights`, its transforms in the
            order of their application.
        shapes: shape of each of these kernels, checked when the layer is built.
        name: the layer's own by default.
        trainable: likewise.

    Raises:
        ConfigError: the built layer has no such weights.
    """

    def __init__(
        self,
        layer: keras.Layer,
        transforms: Transforms,
        shapes: Mapping[int, Sequence[int]] | None = None,
        *,
        name: str | None = None,
        trainable: bool | None = None,
    ) -> None:
        # Before Keras's own part of __init__, which reads the signature of `call`.
        object.__setattr__(self, "_layer_signature", inspect.signature(layer.call))
        object.__setattr__(self, "_signature", _with_training(self._layer_signature))
        super().__init__(
            layer,
            name=name or layer.name,
            trainable=layer.trainable if trainable is None else trainable,
            # Neutral, whatever the model's policy: masks and centroids are not to be cast, and the
            # layer itself casts its inputs and kernels by its own policy.
            dtype="float32",
            autocast=False,
        )
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit
        # Past Keras's tracking, which would take the layer's kernels for weights of the wrapper.
        object.__setattr__(self, "_pending", {k: list(v) for k, v in transforms.items()})
        object.__setattr__(self, "_shapes", dict(shapes or {}))
        object.__setattr__(self, "_kernels", ())
        object.__setattr__(self, "rested", [])  # layers inside that are not to move statistics
        self.transform_variables: list[Any] = []
        if layer.built:
            self._prepare()

    @property
    def kernels(self) -> list[tuple[Any, list[WeightTransform]]]:
        """(variable, transforms) of each transformed kernel; [] until the layer is built."""
        return list(self._kernels)

    @property
    def transforms(self) -> list[WeightTransform]:
        """All transforms, built or not."""
        pending = [t for own in self._pending.values() for t in own]
        return pending + [t for _, own in self._kernels for t in own]

    @property
    def call(self) -> Callable[..., Any]:
        """The layer's call with transformed kernels; it has the signature of the layer's own.

        And `training` in any case: transforms may want to know.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._transformed(*args, **kwargs)

        call.__signature__ = self._signature  # type: ignore[attr-defined]
        return call

    def _transformed(self, *args: Any, **kwargs: Any) -> Any:
        training = self._signature.bind_partial(*args, **kwargs).arguments.get("training")
        kwargs = self._accepted(kwargs)
        if self._pending:  # this call builds the layer
            outputs = self.layer(*args, **kwargs)
            self._prepare(called=True)
            return outputs
        if self._freezes and not self.trainable:
            # As in inference: some layers move statistics whenever they are trained.
            training = False
            if "training" in self._layer_signature.parameters:
                kwargs = {**kwargs, "training": False}
        values = [(v, effective(v, own, training)) for v, own in self._kernels]
        with Substitution(values, self):
            return self.layer(*args, **kwargs)

    @property
    def _freezes(self) -> bool:
        return any(transform.freezes for transform in self.transforms)

    def _accepted(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        takes = "training" in self._layer_signature.parameters
        return kwargs if takes else {k: v for k, v in kwargs.items() if k != "training"}

    def build(self, *shapes: Any, **shapes_by_name: Any) -> None:
        """Builds the layer where shapes are given; otherwise the first call does."""
        if (shapes or shapes_by_name) and not self.layer.built:
            self.layer.build(*shapes, **shapes_by_name)
        self._prepare()

    def _prepare(self, called: bool = False) -> None:
        """Makes the transforms' variables once all of the layer's own are there."""
        if not called and not all(layer.built for layer in self.layer._flatten_layers()):
            return
        if not self._pending:
            return
        weights = self.layer.weights
        kernels = []
        for position, own in sorted(self._pending.items()):
            self._check(position, weights)
            with keras.name_scope(self.name):
                for transform in own:
                    transform.build(weights[position])
            kernels.append((weights[position], own))
        object.__setattr__(self, "_kernels", tuple(kernels))
        object.__setattr__(self, "_pending", {})
        self.transform_variables = [v for t in self.transforms for v in t.variables]
        self.settle()
        self.built = True

    def settle(self) -> None:
        """Lets the transforms see to it that the right variables train."""
        for variable, own in self._kernels:
            for transform in own:
                transform.settle(variable)
        if self._freezes:
            for layer in self.layer._flatten_layers():
                norm = isinstance(layer, keras.layers.BatchNormalization)
                if norm and layer.trainable and not layer.trainable_variables:
                    layer.trainable = False  # or its statistics would move
                    self.rested.append(layer)

    @property
    def trainable(self) -> bool:
        """That of the layer; kernels whose transforms train in their place stay as they are."""
        return keras.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Layer.trainable.fset(self, value)
        self.settle()

    def _check(self, position: int, weights: list[Any]) -> None:
        shapes = [tuple(weight.shape) for weight in weights]
        wanted = self._shapes.get(position)
        if position >= len(weights) or (
            wanted is not None and tuple(wanted) != tuple(shapes[position])
        ):
            raise ConfigError(
                f"The layer {self.name!r} ({type(self.layer).__name__}) must have the weights that "
                f"it had when it was wrapped: weight {position} of shape {wanted}. Received "
                f"weights of shapes: {shapes}. Load it with the code it was saved with."
            )

    def _lock_state(self) -> None:
        """Keras's hook: not locked, as the first call may make the transforms' variables."""

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        cls, base = type(self.layer), keras.Layer
        declared = (
            cls.compute_output_shape is not base.compute_output_shape
            or cls.compute_output_spec is not base.compute_output_spec
        )
        if declared and not self._pending:
            return self.layer.compute_output_spec(*args, **self._accepted(kwargs))
        # Traces `call`, which builds the layer and casts as its policy says.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_mask(*args, **kwargs)

    @property
    def input_spec(self) -> Any:
        """That of the layer."""
        layer = self.__dict__.get("layer")
        return None if layer is None else layer.input_spec

    @input_spec.setter
    def input_spec(self, value: Any) -> None:
        self.layer.input_spec = value

    def __getattr__(self, name: str) -> Any:
        # Only what is missing here, and never what Keras looks for on its own behalf.
        layer = None if name.startswith("_") else self.__dict__.get("layer")
        if layer is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(layer, name)

    def get_build_config(self) -> None:
        """None: the layer's own is part of its config."""

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "layer": keras.saving.serialize_keras_object(self.layer),
            "transforms": self.transforms_config(),
        }

    def transforms_config(self) -> list[dict[str, Any]]:
        """The part of the config that tells of the transforms."""
        positions = {id(weight): index for index, weight in enumerate(self.layer.weights)}
        rows = [(positions[id(v)], tuple(v.shape), own) for v, own in self._kernels]
        rows += [(k, self._shapes.get(k), own) for k, own in self._pending.items()]
        return [
            {
                "weight": position,
                "shape": None if shape is None else list(shape),
                "transforms": [keras.saving.serialize_keras_object(t) for t in own],
            }
            for position, shape, own in rows
        ]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TransformedLayer:
        """The inverse of `get_config`."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        options = {"name": config["name"], "trainable": config["trainable"]}
        return cls.around(layer, config["transforms"], **options)

    @classmethod
    def around(
        cls, layer: keras.Layer, rows: list[dict[str, Any]], **options: Any
    ) -> TransformedLayer:
        """That layer wrapped as `transforms_config` of another one tells."""
        return cls(
            layer,
            {
                row["weight"]: [keras.saving.deserialize_keras_object(t) for t in row["transforms"]]
                for row in rows
            },
            {row["weight"]: row["shape"] for row in rows if row["shape"] is not None},
            **options,
        )


def _with_training(signature: inspect.Signature) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    if "training" not in signature.parameters:
        place = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            place -= 1
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.insert(place, inspect.Parameter("training", kind, default=None))
    return signature.replace(parameters=parameters)


def effective(variable: Any, transforms: Sequence[WeightTransform], training: Any = None) -> Any:
    """What the layer computes with in place of the variable."""
    value = read(variable)
    for transform in transforms:
        value = transform(value, training)
    return value


def wrappers(model: keras.Model) -> list[TransformedLayer]:
    """Every wrapper that the model holds, at any depth."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, TransformedLayer)
    ]


def computed(model: keras.Model) -> dict[int, np.ndarray]:
    """`id` of each transformed kernel, to what its layer computes with in its place."""
    return {
        id(variable): value_of(effective(variable, own))
        for wrapper in wrappers(model)
        for variable, own in wrapper.kernels
    }


def transforms_of(model: keras.Model, kind: type) -> dict[int, Any]:
    """`id` of each kernel that has a transform of that kind, to the transform."""
    return {
        id(variable): transform
        for wrapper in wrappers(model)
        for variable, own in wrapper.kernels
        for transform in own
        if isinstance(transform, kind)
    }
