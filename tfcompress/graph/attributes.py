"""Layers in the attributes of a subclassed model: finding them, and putting others in place."""

from __future__ import annotations

from typing import Any

import keras

# The attribute's name, then indices and keys of the lists and dicts in it.
Path = tuple[Any, ...]


def layers(model: Any) -> list[tuple[Path, Any]]:
    """(path, layer) of the layers in the model's attributes, lists, tuples and dicts among them."""
    own = set(vars(keras.Model()))
    found: list[tuple[Path, Any]] = []
    for name in sorted(vars(model)):
        if name not in own and not name.startswith("_self_"):
            _find(vars(model)[name], (name,), found)
    return found


def _find(value: Any, path: Path, found: list[tuple[Path, Any]]) -> None:
    if isinstance(value, keras.Layer):
        if not isinstance(value, keras.metrics.Metric):
            found.append((path, value))
    elif isinstance(value, dict):
        for key in value:
            _find(value[key], (*path, key), found)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _find(item, (*path, index), found)


def get(model: Any, path: Path) -> Any:
    """What lies at the path.

    Raises:
        AttributeError, LookupError, TypeError: nothing does.
    """
    value = getattr(model, path[0])
    for step in path[1:]:
        value = value[step]
    return value


def put(model: Any, path: Path, layer: Any) -> None:
    """Puts the layer at the path, in the place and the order of the one that lies there."""
    before = get(model, path)
    if before is layer:
        return
    tracked = model._layers
    places = [index for index, own in enumerate(tracked) if own is before]
    model._tracker.untrack(before)
    _put(model, path, layer)
    # A list or dict that is told to hold another layer does not tell the model of it.
    if not any(own is layer for own in tracked):
        model._tracker.track(layer)
    for place in places:
        position = next(index for index, own in enumerate(tracked) if own is layer)
        tracked.insert(place, tracked.pop(position))


def _put(model: Any, path: Path, layer: Any) -> None:
    if len(path) == 1:
        setattr(model, path[0], layer)
        return
    holder = get(model, path[:-1])
    if isinstance(holder, tuple):
        items = [layer if index == path[-1] else item for index, item in enumerate(holder)]
        # A named tuple takes its fields one by one.
        fresh = type(holder)(*items) if hasattr(holder, "_fields") else tuple(items)
        _put(model, path[:-1], fresh)
    else:
        holder[path[-1]] = layer


def rebuild(copy: Any, model: Any) -> None:
    """Makes the copy's weights, by the input shapes that the model was built with."""
    config = model.get_build_config()
    if config:
        copy.build_from_config(config)
    unbuilt = [layer.name for layer in _inside(copy) if not layer.built]
    if unbuilt and all(layer.built for layer in _inside(model)):
        raise ValueError(f"building it with {config} leaves these layers unbuilt: {unbuilt}")
    copy.built = True  # Keras leaves this to those who call build_from_config


def _inside(model: Any) -> list[Any]:
    return model._flatten_layers(include_self=False)


def copy_own_variables(model: Any, copy: Any) -> None:
    """The variables that are the model's own and in none of its layers.

    Raises:
        ValueError: there are weights that are neither.
    """
    for before, after in zip(_own(model), _own(copy), strict=True):
        after.assign(before)
    held = {id(weight) for _, layer in layers(model) for weight in layer.weights}
    held |= {id(variable) for variable in _own(model)}
    lost = [weight.path for weight in model.weights if id(weight) not in held]
    if lost:
        raise ValueError(f"no attribute of it holds the layers of {lost}")


def _own(model: Any) -> list[Any]:
    return [*model._trainable_variables, *model._non_trainable_variables]
