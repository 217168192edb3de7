"""Copying models of every kind, with other layers put in place on the way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.errors import CompressError, ModelTypeError
from tfcompress.graph import attributes
from tfcompress.graph.calls import functional, inputs_among, is_graph
from tfcompress.graph.distributed import around, holds_graph
from tfcompress.graph.flow import steps_apart
from tfcompress.graph.state import align, copy_state

# (layer of the original, its fresh copy) -> what stands in the copy's place in the new model.
Wrap = Callable[[Any, Any], Any]
# Layer of the original -> the layer that is copied in its stead.
Unwrap = Callable[[Any], Any]

_LENGTH = 160  # of what an exception says, in a report


@dataclass(frozen=True)
class Replacement:
    """What takes a layer's place in a copy.

    Attributes:
        layers: new layers, called one after the other; none where the layer is dropped.
        weights: values for all that they and `sides` hold, these first; none where they keep
            their own.
        why: what was done, for the report.
        sides: what is called on the input side by side, None standing for the input itself; the
            first of `layers`, one that merges, gets the list of what they give. None of them where
            the first of `layers` reads the input.
        alike: the one layer in `layers` takes all the arguments that the old one took.
    """

    layers: Sequence[keras.Layer]
    weights: Sequence[np.ndarray] = ()
    why: str = ""
    sides: Sequence[keras.Layer | None] = ()
    alike: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layers on the one input; other arguments were the old layer's."""
        if self.alike:
            return self.layers[0](*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()))
        if self.sides:
            x = [x if layer is None else layer(x) for layer in self.sides]
        for layer in self.layers:
            x = layer(x)
        return x

    def set_weights(self) -> None:
        """Gives the layers, which are built by now, their weights."""
        rest = list(self.weights)
        for layer in (*self.sides, *self.layers) if rest else ():
            if layer is None:
                continue
            count = len(layer.weights)
            layer.set_weights(rest[:count])
            del rest[:count]


@dataclass
class Copy:
    """A copied model.

    Attributes:
        model: the copy, not compiled.
        layers: `id` of each layer that was copied (as `unwrap` gave it) to its copy.
        shared: layers that could not be copied and now belong to both models, and why.
        notes: what else is not as in the original.
    """

    model: Any = None
    layers: dict[int, Any] = field(default_factory=dict)
    shared: list[tuple[Any, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def copy_model(
    model: keras.Model,
    *,
    wrap: Wrap | None = None,
    unwrap: Unwrap | None = None,
    replacements: Mapping[int, Replacement] | None = None,
    rejoined: Mapping[int, Any] | None = None,
) -> Copy:
    """A copy of a model with weights of its own and the same values in them.

    Functional and Sequential models, with all that they nest, are copied by calling copies of
    their layers; shared layers stay shared. Every other model and layer is rebuilt from its
    config. A layer that cannot be rebuilt, as many people's own layers, is used as it is by both
    models; `wrap` is not asked for it. What a class of tfcompress made of a model's class (its
    `plain_class`) is copied as a model of that class.

    Args:
        model: a built model; it does not change.
        wrap: puts something in place of a layer's copy.
        unwrap: chooses what is copied in place of a layer.
        replacements: by `id` of a layer in a Functional or Sequential model, what is called in
            its place.
        rejoined: by `id` of a tensor in a Functional or Sequential model, the tensor of the same
            model that is read in its place. What then feeds no output is not copied.

    Raises:
        ModelTypeError: a subclassed model that cannot be rebuilt from its config, or that is not
            the same model then.
    """
    given: dict[str, Any] = {
        "wrap": wrap, "unwrap": unwrap, "replacements": replacements, "rejoined": rejoined,
    }  # fmt: skip
    copier = Copier(**{name: value for name, value in given.items() if value is not None})
    with own_classes(model):
        copier.result.model = copier.model(model)
    return copier.result


def plain_class(model: Any) -> Any:
    """The model's class, without what tfcompress has made of it."""
    return getattr(type(model), "plain_class", type(model))


class Copier:
    """Makes copies of layers as they are called; one of a layer that is called again.

    Args:
        wrap: see `copy_model`.
        unwrap: likewise.
        replacements: likewise.
        rejoined: likewise.

    Attributes:
        result: what was copied.
    """

    def __init__(
        self,
        wrap: Wrap | None = None,
        unwrap: Unwrap = lambda layer: layer,
        replacements: Mapping[int, Replacement] | None = None,
        rejoined: Mapping[int, Any] | None = None,
    ) -> None:
        self._plain = wrap is None  # every copy stands for its layer, and nothing around it
        self._wrap: Wrap = wrap or (lambda layer, copy: copy)
        self._unwrap, self._replacements = unwrap, replacements or {}
        self._rejoined = rejoined or {}
        self._made: dict[int, Any] = {}
        self.result = Copy()

    def model(self, model: Any, given: Sequence[Any] = ()) -> Any:
        """A copy of a model; where it is nested, for the tensors that it is given now."""
        shapes = [tensor.shape for tensor in given]
        if isinstance(model, keras.Sequential) and is_graph(model):
            return self._sequential(model, shapes)
        if is_graph(model):
            return self._functional(model, shapes)
        return self._subclassed(model)

    def _functional(self, model: Any, given: Sequence[Any]) -> Any:
        flat = keras.tree.flatten(model.input)
        shapes = given if len(given) == len(flat) else [None] * len(flat)
        made = [same_input(tensor, shape) for tensor, shape in zip(flat, shapes, strict=True)]
        inputs = keras.tree.pack_sequence_as(model.input, made)
        outputs, _ = self._run(model, inputs)
        cls = plain_class(model)
        options = {"name": model.name, "trainable": model.trainable}
        if _takes_graph(cls):
            copy = cls(inputs, outputs, **options)
            if not (self._replacements or self._rejoined):
                copy.output_names = list(model.output_names)  # which may be others than its layers'
        else:
            self._note_class(model, cls)
            copy = keras.Model(inputs, outputs, **options)
        return copy

    def _sequential(self, model: Any, given: Sequence[Any]) -> Any:
        first = same_input(model.inputs[0], given[0] if len(given) == 1 else None)
        outputs, called = self._run(model, [first])
        placed = [self._made[id(layer)] for layer in model.layers if id(layer) in called]
        copy: Any
        if any(isinstance(made, Replacement) and made.sides for made in placed):
            self.result.notes.append(
                f"{model.name!r} is a Functional model now: a Sequential one cannot hand a tensor "
                "on several times."
            )
            copy = keras.Model(first, outputs, name=model.name)
        else:
            copies: list[Any] = []
            for made in placed:
                copies += made.layers if isinstance(made, Replacement) else [made]
            cls = plain_class(model)
            if cls.__init__ is not keras.Sequential.__init__:
                self._note_class(model, cls)
                cls = keras.Sequential
            copy = cls([first, *copies], name=model.name)
        # Not through its setter, which would set every layer's.
        copy._trainable = model.trainable
        return copy

    def _run(self, model: Any, inputs: Any) -> tuple[Any, set[int]]:
        """Calls the copies of a model's layers; gives its outputs and the `id`s of what it called.

        Nodes that feed no output are not run: their layers would be copied for nothing.
        """
        graph = functional(model)

        def read(tensor: Any) -> Any:
            while id(tensor) in self._rejoined:
                tensor = self._rejoined[id(tensor)]
            return tensor

        nodes = [
            node
            for depth in sorted(graph._nodes_by_depth)
            for node in reversed(graph._nodes_by_depth[depth])
            if not node.is_input and node.operation is not None
        ]
        wanted = {id(read(tensor)) for tensor in graph.outputs}
        needed = []
        for node in nodes:  # from the outputs back
            if wanted.intersection(id(tensor) for tensor in node.outputs):
                wanted.update(id(read(tensor)) for tensor in node.input_tensors)
                needed.append(node)
        values = {
            id(old): new for old, new in zip(graph.inputs, keras.tree.flatten(inputs), strict=True)
        }

        def value(item: Any) -> Any:
            return values[id(read(item))] if isinstance(item, keras.KerasTensor) else item

        for node in reversed(needed):
            args, kwargs = node.arguments.convert(value)
            outputs = self.operation(node.operation)(*args, **kwargs)
            made = zip(node.outputs, keras.tree.flatten(outputs), strict=False)
            values.update((id(old), new) for old, new in made)
        called = {id(node.operation) for node in needed}
        return keras.tree.map_structure(value, graph._outputs_struct), called

    def _note_class(self, model: Any, cls: type) -> None:
        self.result.notes.append(
            f"{model.name!r} is no longer a {cls.__name__}, whose own __init__ makes its layers: "
            "what that class overrides (train_step, ...) is not kept."
        )

    def operation(self, operation: Any) -> Callable[..., Any]:
        """The operation's copy; the first call makes it."""
        if id(operation) in self._made:
            return self._made[id(operation)]

        def first_call(*args: Any, **kwargs: Any) -> Any:
            source = self._unwrap(operation)
            made: Any = self._replacements.get(id(source))
            if made is not None:
                outputs = made(*args, **kwargs)
                made.set_weights()
            elif is_graph(source) or plain_class(source) is not type(source):
                tensors = keras.tree.flatten(inputs_among(args, kwargs))
                made = self.model(source, [t for t in tensors if isinstance(t, keras.KerasTensor)])
                outputs = made(*args, **kwargs)
            elif self._plain and _opened(source, args, kwargs):
                made = self._distributed(source, args, kwargs)
                outputs = made(*args, **kwargs)
            elif isinstance(source, keras.Layer):
                made, outputs = self._layer(source, args, kwargs)
            else:
                made = _rebuilt_operation(source)
                outputs = made(*args, **kwargs)
            self._made[id(operation)] = made
            return outputs

        return first_call

    def _layer(self, source: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        try:
            distributed = isinstance(source, keras.layers.TimeDistributed)
            # What it holds may be called without it as well, or be in another.
            shared = self._made.get(id(source.layer)) if distributed else None
            same = isinstance(shared, keras.Layer) and (
                self._plain or shared is self.result.layers.get(id(source.layer))
            )
            copy = around(source, shared) if same else _rebuilt(source)
            self._tie(source, copy)
            placed = self._wrap(source, copy)
            outputs = placed(*args, **kwargs)  # builds it
            copy_state(source, copy)
        except CompressError:
            raise
        except Exception as error:
            # Whatever a user's own layer raises; the model is not given up for it.
            self.result.shared.append((source, _said(error)))
            return source, source(*args, **kwargs)
        self.result.layers[id(source)] = copy
        if distributed and placed is copy:  # nothing was put in its place
            self._made.setdefault(id(source.layer), copy.layer)
            self.result.layers.setdefault(id(source.layer), copy.layer)
        return placed, outputs

    def _distributed(self, source: Any, args: Any, kwargs: Any) -> Any:
        """A TimeDistributed around the copy of its model."""
        given = keras.tree.flatten((args, kwargs))[0]
        step = keras.KerasTensor((given.shape[0], *given.shape[2:]), given.dtype)
        made = self._made.get(id(source.layer))
        if made is None:
            nested = holds_graph(source.layer)
            made = (
                self._distributed(source.layer, (step,), {})
                if nested
                else self.model(source.layer, [step])
            )
            self._made[id(source.layer)] = made
        copy = around(source, made)
        self.result.layers[id(source)] = copy
        return copy

    def _tie(self, source: Any, copy: Any) -> None:
        """A layer that holds another of the graph, as to use its table again, holds its copy."""
        for path, held in attributes.layers(source):
            made = self.result.layers.get(id(held))
            if made is not None:
                attributes.put(copy, path, made)

    def _subclassed(self, model: Any) -> Any:
        """Rebuilt from its config; its attributes that are layers get their place-holders."""
        cls = plain_class(model)
        try:
            with as_plain(model):
                config = model.get_config()
            copy = cls.from_config(config)
            copies: list[tuple[Any, Any]] = []
            for path, layer in attributes.layers(model):
                source = self._unwrap(layer)
                fresh = self._unwrap(attributes.get(copy, path))
                if is_graph(source):
                    placed = self._made.get(id(source)) or self.model(source)
                    self._made[id(source)] = placed
                else:
                    if type(fresh) is not type(source):
                        raise TypeError(f"{path} is a {type(fresh).__name__} after rebuilding")
                    placed = self._made.get(id(source)) or self._wrap(source, fresh)
                    self._made[id(source)] = placed
                    align(source, fresh)
                    copies.append((source, fresh))
                attributes.put(copy, path, placed)
            attributes.rebuild(copy, model)
            for source, fresh in copies:
                copy_state(source, fresh)
                self.result.layers[id(source)] = fresh
            attributes.copy_own_variables(model, copy)
        except CompressError:
            raise
        except Exception as error:
            raise ModelTypeError(
                f"The subclassed model {model.name!r} ({cls.__name__}) cannot be copied: "
                f"{_said(error)}. It must be rebuilt by {cls.__name__}.from_config(get_config()) "
                "and build(input_shape) with layers in the same attributes. tfc.PruningCallback "
                "and tfc.Pruner work on any model, in place."
            ) from error
        return copy


@contextmanager
def as_plain(model: Any) -> Iterator[None]:
    """The model as an instance of its plain class, as whose it is to be asked for its config."""
    own = model.__class__
    model.__class__ = plain_class(model)
    try:
        yield
    finally:
        model.__class__ = own


@contextmanager
def own_classes(model: Any) -> Iterator[None]:
    """Lets configs name the classes of the model's layers, registered or not."""
    classes = {type(layer) for layer in model._flatten_layers()}
    own = {cls.__name__: cls for cls in classes if not cls.__module__.startswith("keras.")}
    with keras.saving.custom_object_scope(own):
        yield


def _opened(wrapper: Any, args: Any, kwargs: Any) -> bool:
    """Whether it is a TimeDistributed whose model verbs see: the one that a flow lays open."""
    if not holds_graph(wrapper) or kwargs.get("mask") is not None:
        return False
    given = keras.tree.flatten((args, kwargs))[0]
    whole = given.shape[0] is None and getattr(given, "_keras_mask", None) is None
    return whole and steps_apart(wrapper, given, bool(kwargs.get("training")))


def _rebuilt(layer: Any) -> Any:
    copy = type(layer).from_config(layer.get_config())
    align(layer, copy)
    copy.name = layer.name
    # Layers without a `build` are built by the call that follows.
    has_build = type(layer).build is not keras.Layer.build
    build_config = layer.get_build_config() if layer.built and has_build else None
    if build_config:
        copy.build_from_config(build_config)
    return copy


def _rebuilt_operation(operation: Any) -> Any:
    """Operations have no state: one that cannot be rebuilt serves both models."""
    try:
        copy = type(operation).from_config(operation.get_config())
        copy.name = operation.name
        return copy
    except Exception:
        return operation


def same_input(tensor: Any, shape: Any = None) -> Any:
    """A fresh input like the one of a model that this tensor is.

    Args:
        tensor: the model's input.
        shape: of what the copy is given, where that may have other sizes.
    """
    layer = tensor._keras_history.operation
    config = layer.get_config()
    old = tuple(tensor.shape)
    if shape is not None and len(shape) == len(old):
        # A size that the model leaves open stays so.
        new = [b if a is not None and b is not None else a for a, b in zip(old, shape, strict=True)]
        if tuple(new) != old:
            config["batch_shape"] = tuple(new)
    return type(layer).from_config(config).output


def _takes_graph(cls: type) -> bool:
    """Whether the class is made from inputs and outputs, as keras.Model itself."""
    spec = inspect.getfullargspec(cls.__init__)  # type: ignore[misc]
    return spec.args[1:] == ["inputs", "outputs", "name"] or bool(spec.varargs and spec.varkw)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    if len(said) > _LENGTH:  # the first sentences, as of what Keras says of lambdas
        said = f"{said[:_LENGTH].rpartition('. ')[0] or said[:_LENGTH]} ..."
    return f"{type(error).__name__}: {said}".rstrip(": ")
