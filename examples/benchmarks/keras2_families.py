"""Every family of tf_keras.applications brought to Keras 3 by `tfc.legacy.to_keras3`.

    python examples/benchmarks/keras2_families.py [--quick]

Random weights, BatchNorm statistics that are not trivial; outputs compared on random images by the
verb itself (each layer, and the whole), and here once more on others: "largest difference" is
relative to the largest output.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from common import finish, markdown, options

import tfcompress as tfc
from tfcompress.legacy.packages import keras2

FAMILIES = {
    "MobileNet": 32, "MobileNetV2": 32, "MobileNetV3Small": 32, "MobileNetV3Large": 32,
    "EfficientNetB0": 32, "EfficientNetV2B0": 32, "ResNet50": 32, "ResNet50V2": 32,
    "DenseNet121": 32, "NASNetMobile": 32, "Xception": 71, "InceptionV3": 75,
    "InceptionResNetV2": 75, "VGG16": 32, "ConvNeXtTiny": 32, "RegNetX002": 32, "ResNetRS50": 32,
}  # fmt: skip


def randomized(model: Any) -> Any:
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras2().layers.BatchNormalization):
            size = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.3, size))
            layer.moving_variance.assign(generator.uniform(0.3, 1.5, size))
    return model


def measure(name: str, side: int) -> dict[str, Any]:
    keras2().backend.clear_session()
    make = getattr(keras2().applications, name)
    options = {"classes": 10, "classifier_activation": None}
    if name == "MobileNet":
        options = {"classes": 10}
    old = randomized(make(input_shape=(side, side, 3), weights=None, **options))
    begun = time.perf_counter()
    new = tfc.legacy.to_keras3(old)
    seconds = time.perf_counter() - begun
    x = np.random.default_rng(1).uniform(-1, 1, (4, side, side, 3)).astype("float32")
    expected, found = np.asarray(old(x, training=False)), np.asarray(new(x, training=False))
    return {
        "network": name,
        "parameters": new.count_params(),
        "layers": len(old.layers),
        "difference": float(np.abs(found - expected).max() / np.abs(expected).max()),
        "seconds": seconds,
    }


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    names = list(FAMILIES)[:3] if arguments.quick else list(FAMILIES)
    rows = []
    for name in names:
        rows.append(measure(name, FAMILIES[name]))
        print(rows[-1], flush=True)
    heads = ["network", "parameters", "layers", "largest difference", "seconds"]
    cells = [
        [row["network"], f"{row['parameters']:,}", row["layers"], f"{row['difference']:.0e}",
         f"{row['seconds']:.1f}"]
        for row in rows
    ]  # fmt: skip
    print(markdown(heads, cells))
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
