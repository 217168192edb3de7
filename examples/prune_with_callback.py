"""Prune a model while it trains: one callback in `model.fit`.

    python examples/prune_with_callback.py [--out pruned.keras]

Trains a small MobileNet on scikit-learn's handwritten digits, half of the time dense and half
while 80 % of its weights go, and shows what that does to accuracy and to the zipped file.
"""

import argparse
import math

import keras

import tfcompress as tfc
from tfcompress.datasets import load_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--out", default="pruned.keras")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    data = load_images(None)
    model = tfc.models.mobilenet_small(data.x_train.shape[1:], data.classes)
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )

    steps = options.epochs * math.ceil(len(data.x_train) / 64)
    schedule = tfc.PolynomialDecay(
        0.0, options.sparsity, begin_step=steps // 2, end_step=steps * 3 // 4, frequency=10
    )
    pruning = tfc.PruningCallback(schedule, pooling="global")
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=64,
        epochs=options.epochs,
        validation_data=(data.x_test, data.y_test),
        callbacks=[pruning],
        verbose=2,
    )
    print(pruning.report)

    # The zeros are in the model's own weights: save, convert or go on training as ever.
    model.save(options.out)
    sizes = tfc.convert(model, "fp32").sizes
    print(f"{options.out} written; as fp32 .tflite {sizes.raw:,} bytes, zipped {sizes.gzip:,}")


if __name__ == "__main__":
    main()
