"""A Transformer that reads one text and writes another, as for translation."""

from __future__ import annotations

import keras
from keras import layers

from . import checks, transformer
from .bert import encoded
from .blocks import Activation


def encoder_decoder(
    source_vocabulary: int,
    target_vocabulary: int,
    source_length: int = 64,
    target_length: int = 64,
    *,
    width: int = 128,
    heads: int = 4,
    blocks: int = 2,
    decoder_blocks: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    activation: Activation = "relu",
    norm: str = "pre",
    positions: str = "learned",
    tie_embeddings: bool = False,
    dropout: float = 0.1,
    name: str | None = None,
) -> keras.Model:
    """Builds a Transformer for translation.

    Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762; learned or
    rotary positions in place of sinusoids. Token 0 is padding in both texts. In training the
    target is given from its start token on, and the logits at a place are for the token behind it.

    Example:
        >>> model = encoder_decoder(6000, 6000, 32, 32)
        >>> model.output_shape
        (None, 32, 6000)

    Args:
        source_vocabulary: Number of different tokens of the text that is read.
        target_vocabulary: Number of different tokens of the text that is written.
        source_length: Tokens of a text that is read.
        target_length: Tokens of a text that is written.
        width: Channels of the residual stream.
        heads: Heads of queries.
        blocks: Layers of the encoder.
        decoder_blocks: Layers of the decoder; as many by default.
        kv_heads: Heads of keys and values, if fewer than `heads`.
        hidden: Channels inside the feed-forward parts; 4 times `width` by default.
        activation: Of the feed-forward parts.
        norm: `"pre"` or `"post"`.
        positions: `"learned"` or `"rotary"`.
        tie_embeddings: Score the target's tokens with the table that embeds them.
        dropout: Share dropped in training.
        name: Name of the model.

    Returns:
        A model of two inputs, `source` int32 (batch, source_length) and `target` int32
        (batch, target_length), -> logits (batch, target_length, target_vocabulary).

    Raises:
        ConfigError: An argument is out of range.
    """
    source_vocabulary = checks.at_least_one(source_vocabulary=source_vocabulary)
    target_vocabulary = checks.at_least_one(target_vocabulary=target_vocabulary)
    source_length = checks.at_least_one(source_length=source_length)
    target_length = checks.at_least_one(target_length=target_length)
    blocks = checks.at_least_one(blocks=blocks)
    decoder_blocks = (
        blocks if decoder_blocks is None else checks.at_least_one(decoder_blocks=decoder_blocks)
    )
    checks.one_of(("learned", "rotary"), positions=positions)
    rotary = positions == "rotary"
    shape = transformer.checked_shape(
        width=width, heads=heads, kv_heads=kv_heads, hidden=hidden, activation=activation,
        norm=norm, dropout=dropout, rotary=rotary,
    )  # fmt: skip

    source = transformer.token_input(source_length, "source")
    target = transformer.token_input(target_length, "target")
    memory = encoded(
        source, source_vocabulary, source_length, shape, blocks, rotary=rotary, prefix="encoder_"
    )
    table = transformer.embedding(target_vocabulary, shape.width, "words", tied=tie_embeddings)
    x = table(target)
    places = transformer.positions(target)
    if not rotary:
        x = transformer.learned_positions(x, places, target_length, "places")
    if shape.dropout:
        x = layers.Dropout(shape.dropout, name="dropout")(x)
    mask = transformer.causal_mask(places)
    angles = transformer.rotary_angles(places, shape.size, "turns") if rotary else None
    for number in range(1, decoder_blocks + 1):
        x = transformer.block(x, mask, shape, name=f"block_{number}", rotary=angles, memory=memory)
    x = transformer.finished(x, shape, "final_norm")
    x = transformer.next_token(x, table, target_vocabulary, tied=tie_embeddings)
    return keras.Model([source, target], x, name=name or "encoder_decoder")
