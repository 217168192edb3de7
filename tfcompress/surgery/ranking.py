"""`tfc.rank_blocks`: what the loss would be without each block of a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError, DataError, in_brief
from tfcompress.surgery.blocks import Block

if TYPE_CHECKING:
    import keras


def rank_blocks(
    model: keras.Model,
    data: Any,
    *,
    loss: Any = None,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> list[Block]:
    """Measures each block of a model by the loss when it alone is left out.

    Blocks are residual blocks (an addition and the branch that it adds), Transformer layers
    (attention and what follows it, beside their two parts), and nested models and layers of your
    own that give the shape they read.

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.
        data: `(x, y)` as `model.evaluate` takes them, or a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or another iterable of such batches; sample weights do not
            count. A few hundred examples tell blocks apart.
        loss: as `model.compile` takes it; None for the one that the model is compiled with.
        batch_size: examples at a time, where `data` is `(x, y)`.
        verbose: 0 for no progress bar.

    Returns:
        The blocks, the one that is missed least first. Each has `.name`, `.start`, `.end`,
        `.layers`, `.kind`, `.loss`, `.rise` (of the loss; regularization is not in it),
        `.parameters` and `.multiply_adds` (that go with it), and `tfc.drop_layers` takes it.
        Losses of blocks do not add up: rank again after dropping some.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        ConfigError: there is no loss: none is given, and the model is not compiled with one.
        DataError: `data` is empty, is no pair of inputs and targets, or does not fit the model.

    Example:
        >>> blocks = tfc.rank_blocks(model, (x[:500], y[:500]))
        >>> smaller = tfc.drop_layers(model, blocks[:2])

    Source: Veit et al. 2016, "Residual Networks Behave Like Ensembles" (arXiv:1605.06431): leaving
    out single blocks; Michel et al. 2019 (arXiv:1905.10650) for ranking by the loss.
    """
    from tfcompress.surgery.blocks import find_blocks
    from tfcompress.surgery.complexity import complexity
    from tfcompress.surgery.drop import drop_layers
    from tfcompress.surgery.examples import check_ends, pairs_of
    from tfcompress.surgery.rewriting import check_graph

    check_graph(model)
    function = loss_function(model, loss)

    def measure(targets: Any, outputs: Any) -> float:
        return float(function(targets, outputs))

    check_ends(data)
    batches = list(pairs_of(data, batch_size))
    blocks = find_blocks(model)
    whole = _loss(model, batches, measure)
    before = complexity(model)
    found = []
    progress = _progress(len(blocks), verbose)
    for number, block in enumerate(blocks, start=1):
        without = drop_layers(model, block)
        measured = _loss(without, batches, measure)
        after = complexity(without)
        rise = measured - whole
        found.append(
            dataclasses.replace(
                block,
                loss=measured,
                rise=rise,
                parameters=before.parameters - after.parameters,
                multiply_adds=before.multiply_adds - after.multiply_adds,
            )
        )
        progress(number, rise)
    # A loss that is not finite is the worst.
    return sorted(found, key=lambda one: one.rise if math.isfinite(one.rise) else math.inf)


def _progress(blocks: int, verbose: int | str) -> Callable[[int, float], None]:
    import keras

    if not verbose or not blocks:
        return lambda number, rise: None
    bar = keras.utils.Progbar(blocks, stateful_metrics=["rise"], unit_name="block")
    return lambda number, rise: bar.update(number, [("rise", rise)])


def loss_function(model: Any, loss: Any) -> Callable[[Any, Any], Any]:
    """(targets, outputs) -> loss, for every structure of losses that `compile` takes.

    Raises:
        ConfigError: there is none.
    """
    from keras.src.trainers.compile_utils import CompileLoss  # has no public name

    from tfcompress.graph.calls import functional

    weights = None
    if loss is None:
        own = getattr(model, "_compile_loss", None) if model.compiled else None
        if own is None:
            raise ConfigError(
                "This needs a loss: pass loss=..., or compile the model with one. Received: "
                f"loss=None and {model.name!r}, which has none."
            )
        loss, weights = own._user_loss, own._user_loss_weights
    return CompileLoss(loss, loss_weights=weights, output_names=functional(model).output_names)


def _loss(
    model: Any, batches: Sequence[tuple[Any, Any]], measure: Callable[[Any, Any], float]
) -> float:
    """The mean loss over all examples, without regularization."""
    import keras
    import numpy as np
    import tensorflow as tf

    def open_batch(x: Any) -> Any:
        return tf.TensorSpec((None, *x.shape[1:]), x.dtype)

    infer: Any = None
    total, count = 0.0, 0
    for x, y in batches:
        try:
            inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
            if infer is None:  # traced once, the last and smaller batch included
                signature = [keras.tree.map_structure(open_batch, inputs)]
                infer = tf.function(lambda x: model(x, training=False), input_signature=signature)
            value = measure(y, infer(inputs))
        except Exception as error:
            raise DataError(
                "`data` must fit the model and the loss. Received: data with which the model "
                f"{model.name!r} raises {type(error).__name__}: {in_brief(error)}"
            ) from error
        examples = len(np.asarray(keras.tree.flatten(y)[0]))
        total, count = total + value * examples, count + examples
    return total / count
