"""GPT: a Transformer decoder that scores the next token."""

from __future__ import annotations

import keras
from keras import layers

from . import checks, transformer
from .blocks import Activation


def gpt_decoder(
    vocabulary: int,
    context: int = 512,
    *,
    width: int = 128,
    heads: int = 4,
    blocks: int = 4,
    kv_heads: int | None = None,
    hidden: int | None = None,
    activation: Activation = "gelu",
    norm: str = "pre",
    positions: str = "learned",
    tie_embeddings: bool = False,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds a GPT-style language model.

    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Each token sees
    itself and those before it. `tfc.convert_decoder` makes a file of it that generates text.

    Example:
        >>> gpt_decoder(65, context=512, width=128, blocks=5).output_shape
        (None, 512, 65)

    Args:
        vocabulary: Number of different tokens.
        context: Tokens that the model can look back on, itself included.
        width: Channels of the residual stream.
        heads: Heads of queries.
        blocks: Number of layers of attention and feed-forward part.
        kv_heads: Heads of keys and values; fewer than `heads` make a smaller cache.
        hidden: Channels inside the feed-forward parts; 4 times `width` by default.
        activation: Of the feed-forward parts.
        norm: `"pre"` (GPT-2) or `"post"` (the first Transformer).
        positions: `"learned"` or `"rotary"`.
        tie_embeddings: Score tokens with the table that embeds them.
        dropout: Share dropped in training.
        name: Name of the model.

    Returns:
        A model int32 (batch, context) -> logits (batch, context, vocabulary), those at a place
        for the token behind it.

    Raises:
        ConfigError: An argument is out of range.
    """
    vocabulary = checks.at_least_one(vocabulary=vocabulary)
    context = checks.at_least_one(context=context)
    blocks = checks.at_least_one(blocks=blocks)
    checks.one_of(("learned", "rotary"), positions=positions)
    rotary = positions == "rotary"
    shape = transformer.checked_shape(
        width=width, heads=heads, kv_heads=kv_heads, hidden=hidden, activation=activation,
        norm=norm, dropout=dropout, rotary=rotary,
    )  # fmt: skip

    tokens = transformer.token_input(context)
    table = transformer.embedding(vocabulary, shape.width, "words", tied=tie_embeddings)
    places = transformer.positions(tokens)
    x = table(tokens)
    if not rotary:
        x = transformer.learned_positions(x, places, context, "places")
    if shape.dropout:
        x = layers.Dropout(shape.dropout, name="dropout")(x)
    mask = transformer.causal_mask(places)
    angles = transformer.rotary_angles(places, shape.size, "turns") if rotary else None
    for number in range(1, blocks + 1):
        x = transformer.block(x, mask, shape, name=f"block_{number}", rotary=angles)
    x = transformer.finished(x, shape, "final_norm")
    x = transformer.next_token(x, table, vocabulary, tied=tie_embeddings)
    return keras.Model(tokens, x, name=name or "gpt_decoder")
