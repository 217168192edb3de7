"""Pruning a small Transformer text classifier to 70 %, its layers sharing the zeros globally.

    TFCOMPRESS_DATA=... python examples/benchmarks/pruning_text.py [--quick]

AG News (10,001 headlines with text to train on, 7,600 to test, 4 classes); two encoder layers of
plain Keras layers, about a million parameters. The float model is trained, then pruned for as many
epochs again from there; accuracies on all test texts are paired with the float model's, and the
control trains on without pruning. tfmot gets a tf_keras copy of the same weights: what it refuses
is printed, what it can prune is pruned. Without AG News, scikit-learn's digits are read as texts
of 64 pixels.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import benchmark_parser, finish, markdown

import tfcompress as tfc

LENGTH = 64
VOCABULARY = 8_000
WIDTH, HEADS, HIDDEN, LAYERS = 96, 4, 384, 2
BATCH = 64
RATE = 1e-3
TARGET = 0.7
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def texts(path: Path) -> tuple[list[list[str]], np.ndarray]:
    """Words and labels of a file of `label <tab> text` lines."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    words = [re.findall(r"[a-z]+|\d", row[1].lower()) for row in rows]
    return words, np.array([int(row[0]) for row in rows])


def ag_news(folder: Path) -> Data:
    """Word numbers (n, LENGTH), labels; training and test set. 0 pads, 1 is any rare word."""
    train, y = texts(folder / "agnews_train10k.tsv.gz")
    test, y_test = texts(folder / "agnews_test.tsv.gz")
    counts = Counter(word for words in train for word in words)
    numbers = {word: i + 2 for i, (word, _) in enumerate(counts.most_common(VOCABULARY - 2))}

    def encode(rows: list[list[str]]) -> np.ndarray:
        x = np.zeros((len(rows), LENGTH), "int32")
        for i, words in enumerate(rows):
            known = [numbers.get(word, 1) for word in words[:LENGTH]]
            x[i, : len(known)] = known
        return x

    return encode(train), y, encode(test), y_test


def digits() -> Data:
    """scikit-learn's 8x8 digits as sequences of 64 grey values."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.astype("int32")
    return x[300:], y[300:], x[:300], y[:300]


def load() -> tuple[str, Data]:
    folder = Path(os.environ.get("TFCOMPRESS_DATA", ".")) / "text"
    if (folder / "agnews_train10k.tsv.gz").is_file():
        return "AG News", ag_news(folder)
    return "digits as text (AG News is not in TFCOMPRESS_DATA)", digits()


def network(kind: Any, classes: int) -> Any:
    """The classifier, of Keras 3 or of tf_keras: `kind` is the module."""
    layers = kind.layers
    tokens = kind.Input((LENGTH,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, WIDTH, name="words")(tokens)
    places = layers.Embedding(LENGTH, WIDTH, name="places")(_places(kind, tokens))
    x = layers.Add()([x, places])
    for i in range(LAYERS):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{i}")
        x = layers.LayerNormalization()(layers.Add()([x, attention(x, x)]))
        hidden = layers.Dense(HIDDEN, activation="relu", name=f"hidden_{i}")(x)
        hidden = layers.Dense(WIDTH, name=f"back_{i}")(hidden)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.2)(hidden)]))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    return kind.Model(tokens, layers.Dense(classes, activation="softmax", name="classes")(x))


def _places(kind: Any, tokens: Any) -> Any:
    """0, 1, 2, ... for every text."""
    if kind is keras:
        return keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
    import tensorflow as tf

    return tf.cumsum(tf.ones_like(tokens), axis=1) - 1


def accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean())


class Run:
    """One seed: the float model, and everything that starts from it."""

    def __init__(self, seed: int, data: Data, float_epochs: int, epochs: int) -> None:
        self.seed, self.epochs = seed, epochs
        self.x, self.y, self.x_test, self.y_test = data
        self.classes = int(self.y.max()) + 1
        self.steps = epochs * math.ceil(len(self.x) / BATCH)
        keras.utils.set_random_seed(seed)
        self.model = network(keras, self.classes)
        self._fit(self.model, float_epochs, None)
        self.float = accuracy(self.model, self.x_test, self.y_test)
        self.rows: list[dict[str, Any]] = []

    def _fit(self, model: keras.Model, epochs: int, callback: Any) -> None:
        steps = epochs * math.ceil(len(self.x) / BATCH)
        rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        callbacks = [callback] if callback else []
        model.fit(self.x, self.y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)

    def _note(self, name: str, model: Any, kernels: float, detail: str = "") -> None:
        found = accuracy(model, self.x_test, self.y_test)
        row = {"seed": self.seed, "by": name, "float": self.float, "accuracy": found}
        self.rows.append({**row, "zeros": kernels, "detail": detail})
        print(f"seed {self.seed}: {name}: {found:.2%}, float {self.float:.2%}", flush=True)

    def ours(self, pooling: str | None) -> None:
        """Prunes with tfcompress; without pooling, the control: trains on."""
        keras.utils.set_random_seed(self.seed)
        model = network(keras, self.classes)
        model.set_weights(self.model.get_weights())
        callback = None
        if pooling:
            schedule = tfc.PolynomialDecay(0.0, TARGET, 0, self.steps // 2, frequency=20)
            callback = tfc.PruningCallback(schedule, pooling=pooling)
        self._fit(model, self.epochs, callback)
        name = f"tfcompress, {pooling}" if pooling else "float, trained on"
        per_layer = tfc.sparsity(model)
        detail = ", ".join(f"{k} {v:.0%}" for k, v in per_layer.items() if pooling)
        self._note(name, model, per_layer["total"], detail)

    def tfmot(self) -> None:
        """Prunes a tf_keras copy: all of it, else what tfmot takes."""
        import tf_keras

        copy = network(tf_keras, self.classes)
        copy.set_weights(self.model.get_weights())
        sample = self.x_test[:50]
        error = np.abs(copy.predict(sample, verbose=0) - self.model.predict(sample, verbose=0))
        assert error.max() < 1e-4, f"the tf_keras copy differs by {error.max():.2g}"
        schedule = tfmot.polynomial(0.0, TARGET, self.steps // 2, 20)
        attempts = {
            "the whole model": None,
            "Dense, Embedding and MultiHeadAttention": ("Dense", "Embedding", "MultiHeadAttention"),
            "Dense and Embedding": ("Dense", "Embedding"),
        }
        refused = []
        for what, classes in attempts.items():
            try:
                pruned = tfmot.wrap_layers(copy, schedule, classes)
                tfmot.compile_adam(pruned, tfmot.cosine(RATE, self.steps))
                pruned.fit(
                    self.x,
                    self.y,
                    batch_size=BATCH,
                    epochs=self.epochs,
                    verbose=0,
                    callbacks=[tfmot.callback()],
                )
            except Exception as e:  # whatever it says is what we report
                refused.append(f"{what}: {type(e).__name__}: {str(e).strip().splitlines()[0]}")
                continue
            model = tfmot.strip(pruned)
            self._note(f"tfmot, {what}", model, _zeros(model), "; ".join(refused))
            return
        print(f"tfmot prunes nothing of this network: {refused}")


def _zeros(model: Any) -> float:
    """Share of zeros in all that tfcompress counts as kernels: what has two dimensions or more."""
    kernels = [w for w in model.get_weights() if w.ndim >= 2 and not _is_attention_bias(w)]
    return sum(int((w == 0).sum()) for w in kernels) / sum(w.size for w in kernels)


def _is_attention_bias(weight: np.ndarray) -> bool:
    return weight.shape == (HEADS, WIDTH // HEADS)


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for name in dict.fromkeys(row["by"] for row in rows):
        found = [row for row in rows if row["by"] == name]
        drops = [100 * (row["accuracy"] - row["float"]) for row in found]
        lines.append(
            [
                name,
                f"{np.mean([row['accuracy'] for row in found]):.2%}",
                f"{np.mean(drops):+.2f}",
                f"{min(drops):+.2f} to {max(drops):+.2f}",
                len(found),
                f"{np.mean([row['zeros'] for row in found]):.2%}",
            ]
        )
    heads = ["by", "accuracy", "points from float", "over the seeds", "seeds", "zeros"]
    return markdown(heads, lines)


def main() -> None:
    arguments = benchmark_parser(__doc__.splitlines()[0]).parse_args()
    source, data = load()
    if arguments.quick:
        data = (data[0][:3200], data[1][:3200], data[2][:2000], data[3][:2000])
    rows = []
    for seed in range(1 if arguments.quick else 3):
        run = Run(seed, data, *((2, 1) if arguments.quick else (4, 3)))
        run.ours(None)
        run.ours("layer")
        run.ours("global")
        run.tfmot()
        rows += run.rows
    print(f"\n{source}: {len(data[0]):,} to train on, {len(data[2]):,} to test on;")
    print(f"{run.model.count_params():,} parameters\n\n{table(rows)}\n")
    for row in rows:
        if row["seed"] == 0 and row["detail"]:
            print(f"{row['by']}: {row['detail']}")
    finish({"data": source, "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
