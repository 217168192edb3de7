"""Whether the Keras 3 model computes what the tf_keras one does, layer by layer and as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tfcompress.errors import VerificationError
from tfcompress.legacy.building import Builder, Built, Step, arguments, is_random
from tfcompress.legacy.nodes import flat, is_function, is_graph, walk
from tfcompress.legacy.operations import Sizes

# Largest difference, relative to the largest value: of one layer on the same inputs, where only
# the order of float32 sums may differ, and of the whole, where deep networks amplify it.
LAYER, WHOLE = 2e-5, 1e-3
_COARSER = {"float16": 100.0, "bfloat16": 1000.0}


def check_equal(old: Any, new: Built, builder: Builder, data: list[np.ndarray]) -> float:
    """Runs both models on the same inputs.

    Args:
        old: the tf_keras model.
        new: what became of it.
        builder: what built it.
        data: an array for each input.

    Returns:
        The largest difference of an output, relative to its largest value.

    Raises:
        VerificationError: they differ by more than rounding; the first layer that does is named.
    """
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(array) for array in data]
    states = [state for _, layer in walk(old) for state in _states(layer)]
    try:
        with _unchanged(old, states), _unchanged(new.model):
            for state in states:  # the new model's begin with zeros
                state.assign(0 * state.numpy())
            return _compare(old, new, builder, tensors)
    finally:
        new.model._clear_losses()  # those of the compiled run are no numbers outside it
        for layer in new.model._flatten_layers():
            if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
                layer.reset_state()


@contextmanager
def _unchanged(layer: Any, more: Sequence[Any] = ()) -> Iterator[None]:
    """Gives the statistics back that layers called with training=True change, here or inside."""
    name = "_non_trainable_" + ("variables" if isinstance(layer, keras.Layer) else "weights")
    found = [v for inside in layer._flatten_layers() for v in getattr(inside, name)]
    kept = [(v, np.array(v)) for v in [*found, *more] if hasattr(v, "assign")]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def _states(layer: Any) -> list[Any]:
    """What a stateful recurrent layer remembers from call to call."""
    return flat(layer.states) if getattr(layer, "stateful", False) else []


def _compare(old: Any, new: Built, builder: Builder, tensors: list[Any]) -> float:
    import tensorflow as tf

    _compare_steps(new.steps, dict(zip(map(id, old.inputs), tensors, strict=True)), builder)
    if any(_is_random(step) for found in builder.built.values() for step in found.steps):
        return 0.0  # each layer has been compared, and no two runs of the whole are the same
    expected = flat(_call2(old, tensors))
    # As predict runs it, where Keras 3 may compute otherwise than when it is called.
    actual = flat(tf.function(_call3, autograph=False)(new.model, tensors))
    if len(expected) != len(actual):
        raise VerificationError(
            f"The Keras 3 model gives {len(actual)} outputs, the Keras 2 model {len(expected)}."
        )
    worst = 0.0
    for number, (a, b) in enumerate(zip(expected, actual, strict=True)):
        off = difference(a, b)
        if not off <= WHOLE * _slack(a):
            raise VerificationError(
                f"Output {number} of the Keras 3 model differs from the Keras 2 model's by "
                f"{off:.2g} of its largest value; {_first_off(old, new, tensors)}"
            )
        worst = max(worst, off)
    return worst


def _is_random(step: Step) -> bool:
    """Whether it draws numbers at inference."""
    wanted = step.node.call_kwargs.get("training") is True
    return wanted and any(map(is_random, step.node.layer._flatten_layers()))


def difference(expected: Any, actual: Any) -> float:
    """The largest difference relative to the largest value; infinite for other shapes or types.

    Whole numbers of other types are equal where all values are: lookup layers of Keras 3 count in
    int64, those of Keras 2 in float32.
    """
    a, b = np.asarray(expected), np.asarray(actual)
    kinds = {a.dtype.kind, b.dtype.kind}
    if a.shape != b.shape or (a.dtype != b.dtype and (kinds == {"f"} or kinds - set("iuf"))):
        return np.inf
    if a.dtype != b.dtype:
        return 0.0 if (a == b).all() else np.inf
    if a.dtype.kind not in "fc" and a.dtype.name != "bfloat16":
        return 0.0 if (a == b).all() else np.inf
    if a.size == 0:
        return 0.0
    a, b = a.astype("float64"), b.astype("float64")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return float(np.where(same, 0.0, np.abs(a - b)).max() / max(scale, np.finfo("float32").tiny))


def _compare_steps(steps: list[Step], values: dict[int, Any], builder: Builder) -> None:
    """Each layer on the inputs that it has in the tf_keras model."""
    for step in steps:
        layer = step.node.layer
        args, kwargs = arguments(step.node, None, values)
        with _unchanged(layer):
            expected = flat(_call2(layer, *args, **kwargs))
        values.update(zip(map(id, flat(step.node.outputs)), expected, strict=False))
        if _is_random(step):
            remark = (
                "is random at inference too (training=True): its values were not compared, and "
                "TFLite cannot draw them: call it without training=True for a .tflite"
            )
            builder.remarks.append((step.path, type(layer).__name__, remark))
        if is_graph(layer):
            inner = dict(zip(map(id, layer.inputs), flat(args[0]), strict=True))
            _compare_steps(builder.built[id(layer)].steps, inner, builder)
            continue
        if _is_random(step):
            continue
        args, kwargs = arguments(step.node, step.layer, values)
        actual = flat(_call3(step.layer, *args, **kwargs))
        for a, b in zip(expected, actual, strict=False):
            if np.asarray(a).dtype != np.asarray(b).dtype and not isinstance(b, Sizes):
                remark = f"gives {_kind(b)} in Keras 3, {_kind(a)} in Keras 2"
                builder.remarks.append((step.path, type(layer).__name__, remark))
            off = difference(a, b)
            if not off <= LAYER * _slack(a):
                raise VerificationError(
                    f"The layer {step.path!r} ({type(layer).__name__}) gives other values in "
                    f"Keras 3: they differ by {off:.2g} of its largest value, where rounding makes "
                    f"less than {LAYER * _slack(a):.0e}. Keras 2: {_kind(a)}, Keras 3: {_kind(b)}."
                )


def _kind(value: Any) -> str:
    array = np.asarray(value)
    return f"{array.dtype} {array.shape}"


def _slack(value: Any) -> float:
    return _COARSER.get(getattr(value.dtype, "name", str(value.dtype)), 1.0)


def _call2(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if not is_function(layer):
        kwargs.setdefault("training", False)
        if not getattr(layer, "_expects_training_arg", True):
            kwargs.pop("training")
    if is_graph(layer):
        return layer(_as_inputs(layer, args[0]), **kwargs)
    return layer(*args, **kwargs)


def _as_inputs(model: Any, given: Any) -> Any:
    leaves = flat(given)
    if len(leaves) == 1 and not isinstance(model._nested_inputs, (list, dict)):
        return leaves[0]
    if isinstance(model._nested_inputs, dict):
        return dict(zip(sorted(model._nested_inputs), leaves, strict=True))
    return leaves


def _call3(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(layer, keras.Layer):
        return layer(*args, **kwargs)
    if isinstance(layer, keras.Model):
        structure = layer._inputs_struct if hasattr(layer, "_inputs_struct") else None
        inputs: Any = flat(args[0])
        if isinstance(structure, dict):
            inputs = dict(zip(sorted(structure), inputs, strict=True))
        elif len(inputs) == 1 and not isinstance(structure, (list, tuple)):
            (inputs,) = inputs
        return layer(inputs, training=False)
    kwargs.setdefault("training", False)
    return layer(*args, **kwargs)


def _first_off(old: Any, new: Built, tensors: list[Any]) -> str:
    """The first call whose result differs where both models run as a whole."""
    from tfcompress.legacy.packages import keras2

    steps = [step for step in new.steps if all(map(keras.utils.is_keras_tensor, step.outputs))]
    if not steps:
        return "it has no calls."
    theirs = keras2().Model(old.inputs, [flat(step.node.outputs) for step in steps])
    ours = keras.Model(new.model.inputs, [step.outputs for step in steps])
    found: Mapping[int, Any] = dict(enumerate(theirs(tensors, training=False)))
    for number, actual in enumerate(ours(tensors, training=False)):
        for a, b in zip(flat(found[number]), flat(actual), strict=False):
            if not difference(a, b) <= WHOLE * _slack(a):
                return f"the first call that differs is that of {steps[number].path!r}."
    return "no call inside differs, so the outputs are in another order."
