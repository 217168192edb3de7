"""What `predict(..., watch=True)` costs: processor time of calls with and without it, in turns.

python examples/benchmarks/watching.py [--quick]
"""

from __future__ import annotations

import time

import keras
import numpy as np
from common import finish, markdown, options

import tfcompress as tfc

NETWORKS = {
    "mobilenet_small_28": lambda: tfc.models.mobilenet_small((28, 28, 1), classes=10),
    "resnet8": lambda: tfc.models.resnet8((32, 32, 3), classes=10),
    "mobilenet_96_025": lambda: tfc.models.mobilenet((96, 96, 3), 10, alpha=0.25),
    "mobilenet 224": lambda: tfc.models.mobilenet((224, 224, 3), 1000),
}


def measure(model: tfc.TFLiteModel, x: np.ndarray, seconds: float) -> tuple[float, float]:
    """Milliseconds of a call without and with watching: medians over calls in turns."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for watch in (False, True):
        model.predict(x, watch=watch)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[True]) < 20:
        for watch in (False, True):
            start = time.process_time()
            model.predict(x, watch=watch)
            times[watch].append((time.process_time() - start) * 1e3)
    return float(np.median(times[False])), float(np.median(times[True]))


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    seconds = 1.0 if arguments.quick else 5.0
    rows, result = [], []
    for name, make in list(NETWORKS.items())[: 3 if arguments.quick else None]:
        keras.utils.set_random_seed(0)
        model = make()
        x = np.random.default_rng(0).random((128, *model.input_shape[1:]), "float32")
        int8 = tfc.convert(model, "int8", representative_data=x[:32])
        int8 = tfc.watch_baseline(int8, x)
        for count in (1, 32):
            plain, watched = measure(int8, x[:count], seconds)
            share = (watched - plain) / plain
            result.append(
                {"network": name, "examples": count, "plain_ms": plain, "watched_ms": watched}
            )
            rows.append([name, count, f"{plain:.3f}", f"{watched:.3f}", f"{share:+.1%}"])
            print(*rows[-1], flush=True)
    heads = ["network, int8", "examples a call", "predict, ms", "watched, ms", "more"]
    print("\n" + markdown(heads, rows))
    finish({"rows": result}, arguments.out)


if __name__ == "__main__":
    main()
