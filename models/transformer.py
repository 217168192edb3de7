"""The bricks of the Transformers: positions, masks, attention, feed-forward parts.

All of them are stock Keras layers and operations, in forms that a `.tflite` runs in one XNNPACK
partition: weights become FULLY_CONNECTED, masks are numbers that are added, and what depends on
positions alone is a constant in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.errors import ConfigError

from . import checks
from .blocks import Activation

HIDDEN = 1e4
"""What is taken from the score of a place that is not to be seen; float16 holds it as well."""

_ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Shape:
    """The sizes that the blocks of one Transformer share.

    Attributes:
        width: channels of the residual stream.
        heads: of queries.
        kv_heads: of keys and values; each serves heads / kv_heads of the queries'.
        hidden: channels inside the feed-forward parts.
        activation: of the feed-forward parts.
        norm: `"pre"`: in front of attention and feed-forward parts; `"post"`: behind what they add.
        dropout: share dropped of what attention and feed-forward parts add, in training.
    """

    width: int
    heads: int
    kv_heads: int
    hidden: int
    activation: Activation
    norm: str
    dropout: float

    @property
    def size(self) -> int:
        """Channels of a head."""
        return self.width // self.heads


def checked_shape(
    *,
    width: int,
    heads: int,
    kv_heads: int | None,
    hidden: int | None,
    activation: Activation,
    norm: str,
    dropout: float,
    rotary: bool,
) -> Shape:
    """Returns the sizes, checked against one another.

    Raises:
        ConfigError: one is out of range, or heads do not share the width evenly.
    """
    width, heads = checks.at_least_one(width=width), checks.at_least_one(heads=heads)
    kv_heads = heads if kv_heads is None else checks.at_least_one(kv_heads=kv_heads)
    hidden = 4 * width if hidden is None else checks.at_least_one(hidden=hidden)
    checks.one_of(("pre", "post"), norm=norm)
    if width % heads or heads % kv_heads:
        raise ConfigError(
            "`heads` divides `width`, and `kv_heads` divides `heads`. Received: "
            f"width={width}, heads={heads}, kv_heads={kv_heads}. Take, for instance, heads of 32 "
            "or 64 channels."
        )
    if rotary and width // heads % 2:
        raise ConfigError(
            "Rotary positions turn pairs of channels, so a head has an even number of them. "
            f"Received: width={width}, heads={heads}, which is {width // heads} a head."
        )
    dropout = checks.dropout_rate(dropout)
    return Shape(width, heads, kv_heads, hidden, activation, norm, dropout)


def token_input(length: int | None, name: str = "tokens") -> keras.KerasTensor:
    """The model's input of token ids, (batch, length)."""
    return keras.Input((length,), dtype="int32", name=name)


def embedding(vocabulary: int, width: int, name: str, *, tied: bool = False) -> keras.Layer:
    """Rows of a table; `tied` where the same table makes the scores of the next token.

    Raises:
        ConfigError: this Keras has no layer for tied tables.
    """
    kind: Any = layers.Embedding
    if tied:
        kind = getattr(layers, "ReversibleEmbedding", None)
        if kind is None:
            raise ConfigError(
                "Tied embeddings need keras.layers.ReversibleEmbedding, which came with Keras "
                f"3.13. Received: Keras {keras.__version__}. Set tie_embeddings=False."
            )
    initializer = keras.initializers.RandomNormal(stddev=0.02)
    return kind(vocabulary, width, embeddings_initializer=initializer, name=name)


def positions(tokens: keras.KerasTensor) -> keras.KerasTensor:
    """0, 1, 2, ... as (1, length): made of the tokens' shape alone, so a constant in a file."""
    one_text = ops.max(ops.ones_like(tokens), axis=0, keepdims=True)
    return ops.cumsum(one_text, axis=1) - 1


def learned_positions(
    x: keras.KerasTensor, places: keras.KerasTensor, context: int, name: str
) -> keras.KerasTensor:
    """Adds a learned row for each position to (batch, length, width)."""
    table = embedding(context, x.shape[-1], name)(places)
    return layers.Add(name=f"{name}_add")([x, table])


def rotary_angles(places: keras.KerasTensor, size: int, name: str) -> tuple[Any, Any]:
    """Cosines and signed sines of rotary positions, (1, length, 1, size) each.

    Su et al. 2021, "RoFormer", https://arxiv.org/abs/2104.09864, with halves in place of
    neighbours, which slices cheaply.
    """
    speeds = _ROTARY_BASE ** (-np.arange(0, size, 2, dtype="float32") / size)
    angles = ops.cast(layers.Reshape((-1, 1, 1), name=name)(places), "float32")
    angles = ops.multiply(angles, np.concatenate([speeds, speeds]).astype("float32"))
    signs = np.repeat(np.array([-1.0, 1.0], "float32"), size // 2)
    return ops.cos(angles), ops.multiply(ops.sin(angles), signs)


def causal_mask(places: keras.KerasTensor) -> keras.KerasTensor:
    """(1, 1, length, length): 0 where a position is seen, a large negative number ahead of it."""
    here = layers.Reshape((1, -1, 1), name="here")(places)
    there = layers.Reshape((1, 1, -1), name="there")(places)
    return ops.cast(ops.clip(here - there, -1, 0), "float32") * HIDDEN


def padding_mask(tokens: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """(batch, 1, 1, length): 0 for tokens, a large negative number for padding, which is 0."""
    seen = layers.Reshape((1, 1, -1), name=name)(ops.minimum(tokens, 1))
    return (ops.cast(seen, "float32") - 1.0) * HIDDEN


def attention(
    x: keras.KerasTensor,
    memory: keras.KerasTensor,
    mask: keras.KerasTensor | None,
    shape: Shape,
    *,
    name: str,
    rotary: tuple[Any, Any] | None = None,
) -> keras.KerasTensor:
    """Scaled dot-product attention of several heads, (batch, length, width) to the same.

    Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762; with fewer
    heads of keys and values, Ainslie et al. 2023, "GQA", https://arxiv.org/abs/2305.13245.

    Args:
        x: what asks.
        memory: what is looked at; `x` itself for self-attention.
        mask: is added to the scores, (batch or 1, 1, length or 1, length of the memory).
        shape: the sizes.
        name: in front of the layers' names.
        rotary: cosines and signed sines that turn queries and keys.
    """
    size, groups = shape.size, shape.heads // shape.kv_heads
    # In front of the kernel, which takes the factor in when a file or integers are made.
    scaled = layers.Rescaling(size**-0.5, name=f"{name}_scale")(x)
    q = layers.Dense(shape.heads * size, name=f"{name}_query")(scaled)
    k = layers.Dense(shape.kv_heads * size, name=f"{name}_key")(memory)
    v = layers.Dense(shape.kv_heads * size, name=f"{name}_value")(memory)
    if rotary is not None:
        q = layers.Reshape((-1, shape.heads, size), name=f"{name}_query_heads")(q)
        k = layers.Reshape((-1, shape.kv_heads, size), name=f"{name}_key_heads")(k)
        q, k = _turned(q, rotary, f"{name}_query"), _turned(k, rotary, f"{name}_key")
    # With grouped queries, an axis for the group: keys and values have one row in it.
    one = () if groups == 1 else (1,)
    many = () if groups == 1 else (groups,)
    q = layers.Reshape((-1, shape.kv_heads, *many, size), name=f"{name}_query_split")(q)
    k = layers.Reshape((-1, shape.kv_heads, *one, size), name=f"{name}_key_split")(k)
    v = layers.Reshape((-1, shape.kv_heads, *one, size), name=f"{name}_value_split")(v)
    rank = len(q.shape)
    heads = tuple(range(2, rank - 1))  # axes between the length and the channels of a head
    q = layers.Permute((*heads, 1, rank - 1), name=f"{name}_query_first")(q)
    k = layers.Permute((*heads, rank - 1, 1), name=f"{name}_key_first")(k)
    v = layers.Permute((*heads, 1, rank - 1), name=f"{name}_value_first")(v)
    scores = ops.matmul(q, k)
    if mask is not None:
        if groups > 1:
            mask = layers.Reshape((1, *mask.shape[1:]), name=f"{name}_mask")(mask)
        scores = layers.Add(name=f"{name}_masked")([scores, mask])
    weights = layers.Softmax(name=f"{name}_weights")(scores)
    if shape.dropout:
        weights = layers.Dropout(shape.dropout, name=f"{name}_drop")(weights)
    y = ops.matmul(weights, v)
    back = (rank - 2, *(n - 1 for n in heads), rank - 1)
    y = layers.Permute(back, name=f"{name}_back")(y)
    y = layers.Reshape((-1, shape.heads * size), name=f"{name}_joined")(y)
    return layers.Dense(shape.width, name=f"{name}_output")(y)


def _turned(x: keras.KerasTensor, rotary: tuple[Any, Any], name: str) -> keras.KerasTensor:
    """Heads (batch, length, heads, size) turned by their positions."""
    cosines, sines = rotary
    half = x.shape[-1] // 2
    swapped = layers.Concatenate(name=f"{name}_swapped")([x[..., half:], x[..., :half]])
    straight = layers.Multiply(name=f"{name}_cos")([x, cosines])
    across = layers.Multiply(name=f"{name}_sin")([swapped, sines])
    return layers.Add(name=f"{name}_turned")([straight, across])


def feed_forward(x: keras.KerasTensor, shape: Shape, *, name: str) -> keras.KerasTensor:
    """Two Dense layers with the activation between them."""
    x = layers.Dense(shape.hidden, activation=shape.activation, name=f"{name}_hidden")(x)
    return layers.Dense(shape.width, name=f"{name}_output")(x)


def residual(x: keras.KerasTensor, part: Any, shape: Shape, *, name: str) -> keras.KerasTensor:
    """Adds to `x` what `part`, a function of it, gives; normalised before or after."""
    norm = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")
    y = part(norm(x) if shape.norm == "pre" else x)
    if shape.dropout:
        y = layers.Dropout(shape.dropout, name=f"{name}_dropout")(y)
    x = layers.Add(name=f"{name}_add")([x, y])
    return x if shape.norm == "pre" else norm(x)


def block(
    x: keras.KerasTensor,
    mask: keras.KerasTensor | None,
    shape: Shape,
    *,
    name: str,
    rotary: tuple[Any, Any] | None = None,
    memory: Sequence[Any] | None = None,
) -> keras.KerasTensor:
    """One layer: self-attention, attention to `memory` (tensor, mask) where given, feed-forward."""

    def look(y: keras.KerasTensor) -> keras.KerasTensor:
        return attention(y, y, mask, shape, name=f"{name}_attention", rotary=rotary)

    x = residual(x, look, shape, name=f"{name}_attention")
    if memory is not None:

        def look_across(y: keras.KerasTensor) -> keras.KerasTensor:
            return attention(y, memory[0], memory[1], shape, name=f"{name}_cross")

        x = residual(x, look_across, shape, name=f"{name}_cross")

    def think(y: keras.KerasTensor) -> keras.KerasTensor:
        return feed_forward(y, shape, name=f"{name}_ffn")

    return residual(x, think, shape, name=f"{name}_ffn")


def finished(x: keras.KerasTensor, shape: Shape, name: str) -> keras.KerasTensor:
    """The stream normalised once more, where blocks normalise what they read only."""
    if shape.norm == "post":
        return x
    return layers.LayerNormalization(epsilon=1e-5, name=name)(x)


def next_token(
    x: keras.KerasTensor, table: keras.Layer, vocabulary: int, *, tied: bool
) -> keras.KerasTensor:
    """Scores of the token behind each place, (batch, length, vocabulary)."""
    if tied:
        return table(x, reverse=True)
    return layers.Dense(vocabulary, name="next_token")(x)
