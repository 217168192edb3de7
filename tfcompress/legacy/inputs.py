"""Random inputs that a tf_keras model takes: of its shapes and types, token ids within range."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.legacy.nodes import flat, is_graph, nodes, walk

_BATCH = 2
# Sizes that the model leaves open: sides of images, lengths of sequences.
_SIDE, _LENGTH = 64, 9


def random_inputs(model: Any, seed: int = 0) -> list[np.ndarray]:
    """An array for each input of a model, in its own order.

    Args:
        model: a tf_keras model whose graph is known.
        seed: of the numbers drawn.

    Returns:
        Floats from a normal distribution, integers below the smallest table that they look
        into, with zeros at the ends of some rows as padding has them, words that lookup layers
        know among others that they do not.
    """
    generator = np.random.default_rng(seed)
    return [_array(model, tensor, generator) for tensor in model.inputs]


def _array(model: Any, tensor: Any, generator: Any) -> np.ndarray:
    shape = _shape(tensor)
    dtype = tensor.dtype.name
    if dtype == "string":
        words = np.array([*_words(model), "a", "unknown word", ""], dtype=object)
        return generator.choice(words, shape)
    if dtype == "bool":
        flags = generator.random(shape) < 0.5
        flags[..., 0] = True  # a mask that leaves nothing gives whatever numbers
        return flags
    sizes = _table_sizes(model, tensor)
    if sizes or not dtype.startswith(("float", "bfloat")):
        top = min(sizes) if sizes else (256 if dtype == "uint8" else 2)
        return _padded(generator.integers(0, top, shape), top).astype(dtype)
    values = generator.normal(size=shape)
    return values.astype("float32" if dtype == "bfloat16" else dtype)


def _padded(numbers: np.ndarray, top: int) -> np.ndarray:
    """With zeros where the last row ends, which masks leave out, but never a row of zeros only."""
    if numbers.ndim in (2, 3) and numbers.shape[-1] > 1 and top > 1:
        numbers[-1:, ..., (numbers.shape[-1] + 1) // 2 :] = 0
        numbers[..., 0] = np.maximum(numbers[..., 0], 1)
    return numbers


def _shape(tensor: Any) -> tuple[int, ...]:
    batch, *rest = tuple(tensor.shape)
    free = _SIDE if len(rest) > 2 else _LENGTH
    return (batch or _BATCH, *(size or free for size in rest))


def _table_sizes(model: Any, tensor: Any) -> list[int]:
    """Sizes of the tables that an input's values are looked up in, before weights change them."""
    found: list[int] = []
    reached = {id(tensor)}
    for node in nodes(model):
        layer = node.layer
        read = [t for t in flat([node.call_args, node.call_kwargs]) if id(t) in reached]
        if not read:
            continue
        size = getattr(layer, "input_dim", None) or getattr(layer, "num_tokens", None)
        if type(layer).__name__ in ("Embedding", "CategoryEncoding") and size:
            found.append(int(size))
        elif is_graph(layer):
            places = [n for n, t in enumerate(flat(node.call_args)) if id(t) in reached]
            for place in places:
                found += _table_sizes(layer, layer.inputs[place])
        elif getattr(layer, "symbol", "") == "one_hot":
            found.append(int([*node.call_args, *node.call_kwargs.values()][1]))
        elif not layer.weights:
            reached |= {id(output) for output in flat(node.outputs)}
    return found


def _words(model: Any) -> list[str]:
    return [
        str(word)
        for _, layer in walk(model)
        if type(layer).__name__ in ("StringLookup", "TextVectorization")
        for word in layer.get_vocabulary()[:20]
    ]
