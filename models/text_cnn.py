"""A convolutional classifier of texts."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfcompress.errors import ConfigError

from . import checks, transformer
from .blocks import Activation


def text_cnn(
    vocabulary: int,
    length: int = 64,
    classes: int = 2,
    *,
    width: int = 128,
    filters: int = 100,
    kernel_sizes: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Builds a convolutional network for sentences.

    Kim 2014, "Convolutional Neural Networks for Sentence Classification",
    https://arxiv.org/abs/1408.5882: filters over 3, 4 and 5 words side by side, the largest answer
    of each filter, Dense.

    Example:
        >>> text_cnn(8000, 64, 4).output_shape
        (None, 4)

    Args:
        vocabulary: Number of different tokens.
        length: Tokens of a text, at least the largest of `kernel_sizes`.
        classes: Number of outputs.
        width: Channels of the embedding.
        filters: Of each size.
        kernel_sizes: How many words a filter sees.
        dropout: Share dropped in training, in front of the last layer.
        classifier_activation: Activation of the outputs; None gives logits.
        name: Name of the model.

    Returns:
        A model int32 (batch, length) -> (batch, classes).

    Raises:
        ConfigError: An argument is out of range.
    """
    vocabulary = checks.at_least_one(vocabulary=vocabulary)
    length, classes = checks.at_least_one(length=length), checks.at_least_one(classes=classes)
    width, filters = checks.at_least_one(width=width), checks.at_least_one(filters=filters)
    dropout = checks.dropout_rate(dropout)
    sizes = [checks.at_least_one(kernel_sizes=size) for size in kernel_sizes]
    if not sizes or len(set(sizes)) < len(sizes) or max(sizes) > length:
        raise ConfigError(
            "`kernel_sizes` are different numbers of words, at most `length`. "
            f"Received: kernel_sizes={tuple(kernel_sizes)}, length={length}."
        )

    tokens = transformer.token_input(length)
    x = transformer.embedding(vocabulary, width, "words")(tokens)
    found = []
    for size in sizes:
        y = layers.Conv1D(filters, size, activation="relu", name=f"conv_{size}")(x)
        found.append(layers.GlobalMaxPooling1D(name=f"pool_{size}")(y))
    x = layers.Concatenate(name="found")(found) if len(found) > 1 else found[0]
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
    return keras.Model(tokens, x, name=name or "text_cnn")
