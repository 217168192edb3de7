"""Convert a Keras model for Android: fp32, fp16 and int8, each checked, with the smallest runtime.

    python examples/convert_for_android.py model.keras --data inputs.npy --out android/

`inputs.npy` holds 100 to 500 typical inputs, prepared as for training. Without arguments the
script makes a small model and data of its own.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

import tfcompress as tfc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help=".keras file")
    parser.add_argument("--data", help=".npy with typical inputs (n, ...)")
    parser.add_argument("--out", default="android")
    options = parser.parse_args()

    if options.model:
        model = keras.models.load_model(options.model, compile=False)
        if not options.data:
            parser.error("--data is needed with a model of your own: int8 is calibrated on it")
        inputs = np.load(options.data)
    else:
        keras.utils.set_random_seed(0)
        model = tfc.models.mobilenet((96, 96, 3), 10, alpha=0.25)
        inputs = np.random.default_rng(0).random((100, 96, 96, 3), "float32")

    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    expected = model.predict(inputs[:50], verbose=0)
    for precision, io in (("fp32", "float32"), ("fp16", "float32"), ("int8", "uint8")):
        path = folder / f"{model.name}_{precision}.tflite"
        tflite = tfc.convert(
            model, precision, io=io, representative_data=inputs, path=path, overwrite=True
        )
        # `predict` takes and gives real values, also where the file stores uint8.
        error = np.abs(tflite.predict(inputs[:50]) - expected).max()
        runtime = tfc.inspect(path).minimum_runtime
        print(
            f"{path}: {tflite.sizes.raw:,} bytes, {tflite.sizes.gzip:,} zipped, largest error "
            f"{error:.2g}, runs on TensorFlow Lite {runtime} and later"
        )
        for note in tflite.report.notes:
            print(f"  {note}")
    print("Copy the file into app/src/main/assets/ of the Android project.")


if __name__ == "__main__":
    main()
