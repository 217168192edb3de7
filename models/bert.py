"""BERT: a Transformer encoder for texts."""

from __future__ import annotations

import keras
from keras import layers, ops

from . import checks, transformer
from .blocks import Activation


def bert_encoder(
    vocabulary: int,
    length: int = 128,
    classes: int | None = None,
    *,
    width: int = 128,
    heads: int = 4,
    blocks: int = 2,
    kv_heads: int | None = None,
    hidden: int | None = None,
    activation: Activation = "gelu",
    norm: str = "post",
    positions: str = "learned",
    pooling: str = "first",
    dropout: float = 0.1,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Builds a BERT-style encoder, as a classifier of texts where `classes` is given.

    Devlin et al. 2019, "BERT", https://arxiv.org/abs/1810.04805, without segments. Token 0 is
    padding, which no token sees.

    Example:
        >>> bert_encoder(8000, 64, classes=4).output_shape
        (None, 4)

    Args:
        vocabulary: Number of different tokens, padding included.
        length: Tokens of a text.
        classes: Number of outputs; None gives a vector for each token.
        width: Channels of the residual stream.
        heads: Heads of queries.
        blocks: Number of layers of attention and feed-forward part.
        kv_heads: Heads of keys and values, if fewer than `heads`.
        hidden: Channels inside the feed-forward parts; 4 times `width` by default.
        activation: Of the feed-forward parts.
        norm: `"post"` (BERT) or `"pre"`.
        positions: `"learned"` or `"rotary"`.
        pooling: What is classified: the `"first"` token, or the `"mean"` of all but padding.
        dropout: Share dropped in training.
        classifier_activation: Activation of the outputs; None gives logits.
        name: Name of the model.

    Returns:
        A model int32 (batch, length) -> (batch, classes), or (batch, length, width).

    Raises:
        ConfigError: An argument is out of range.
    """
    vocabulary = checks.at_least_one(vocabulary=vocabulary)
    length, blocks = checks.at_least_one(length=length), checks.at_least_one(blocks=blocks)
    checks.one_of(("learned", "rotary"), positions=positions)
    checks.one_of(("first", "mean"), pooling=pooling)
    rotary = positions == "rotary"
    shape = transformer.checked_shape(
        width=width, heads=heads, kv_heads=kv_heads, hidden=hidden, activation=activation,
        norm=norm, dropout=dropout, rotary=rotary,
    )  # fmt: skip

    tokens = transformer.token_input(length)
    x, _ = encoded(tokens, vocabulary, length, shape, blocks, rotary=rotary)
    if classes is not None:
        if pooling == "first":
            # A slice and a reshape: taking one index instead would split the graph.
            x = layers.Reshape((shape.width,), name="pool")(x[:, 0:1])
        else:
            x = _mean(x, tokens)
        if shape.dropout:
            x = layers.Dropout(shape.dropout, name="pool_dropout")(x)
        classes = checks.at_least_one(classes=classes)
        x = layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
    return keras.Model(tokens, x, name=name or "bert_encoder")


def encoded(
    tokens: keras.KerasTensor,
    vocabulary: int,
    length: int,
    shape: transformer.Shape,
    blocks: int,
    *,
    rotary: bool,
    prefix: str = "",
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """A vector for each token, and the mask that hides padding."""
    mask = transformer.padding_mask(tokens, f"{prefix}padding")
    x = transformer.embedding(vocabulary, shape.width, f"{prefix}words")(tokens)
    places, angles = transformer.positions(tokens), None
    if rotary:
        angles = transformer.rotary_angles(places, shape.size, f"{prefix}turns")
    else:
        x = transformer.learned_positions(x, places, length, f"{prefix}places")
    if shape.norm == "post":
        x = layers.LayerNormalization(epsilon=1e-5, name=f"{prefix}words_norm")(x)
    if shape.dropout:
        x = layers.Dropout(shape.dropout, name=f"{prefix}dropout")(x)
    for number in range(1, blocks + 1):
        x = transformer.block(x, mask, shape, name=f"{prefix}block_{number}", rotary=angles)
    return transformer.finished(x, shape, f"{prefix}final_norm"), mask


def _mean(x: keras.KerasTensor, tokens: keras.KerasTensor) -> keras.KerasTensor:
    """The mean over all tokens but padding."""
    seen = layers.Reshape((-1, 1), name="pool_seen")(ops.cast(ops.minimum(tokens, 1), "float32"))
    share = seen / ops.maximum(ops.sum(seen, axis=1, keepdims=True), 1.0)
    return ops.sum(layers.Multiply(name="pool_share")([x, share]), axis=1)
