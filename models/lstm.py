"""A language model of LSTM layers."""

from __future__ import annotations

import keras
from keras import layers

from . import checks, transformer


def lstm_language_model(
    vocabulary: int,
    length: int | None = 128,
    *,
    width: int = 128,
    units: int = 256,
    layer_count: int = 2,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds a recurrent language model.

    Zaremba et al. 2014, "Recurrent Neural Network Regularization",
    https://arxiv.org/abs/1409.2329: dropout between layers, not in time.

    Example:
        >>> lstm_language_model(65, 100).output_shape
        (None, 100, 65)

    Args:
        vocabulary: Number of different tokens.
        length: Tokens of a text; None for any number.
        width: Channels of the embedding.
        units: Of each LSTM layer.
        layer_count: Number of LSTM layers.
        dropout: Share dropped in training.
        name: Name of the model.

    Returns:
        A model int32 (batch, length) -> logits (batch, length, vocabulary), those at a place for
        the token behind it.

    Raises:
        ConfigError: An argument is out of range.
    """
    vocabulary = checks.at_least_one(vocabulary=vocabulary)
    length = None if length is None else checks.at_least_one(length=length)
    width, units = checks.at_least_one(width=width), checks.at_least_one(units=units)
    layer_count = checks.at_least_one(layer_count=layer_count)
    dropout = checks.dropout_rate(dropout)

    tokens = transformer.token_input(length)
    x = transformer.embedding(vocabulary, width, "words")(tokens)
    for number in range(1, layer_count + 1):
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout_{number}")(x)
        x = layers.LSTM(units, return_sequences=True, name=f"lstm_{number}")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(vocabulary, name="next_token")(x)
    return keras.Model(tokens, x, name=name or "lstm_language_model")
