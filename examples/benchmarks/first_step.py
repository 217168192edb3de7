"""How long a training takes to begin: CPU seconds from `fit` to the end of its first step.

    python examples/benchmarks/first_step.py [--quick] [--repeats N]

Networks of keras.applications at 96 pixels, Adam, one batch of 16. Each variant is made and
compiled anew, then fitted on that batch; variants take turns. CPU time is that of all threads of
the process. What is measured is mostly TensorFlow's tracing of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import benchmark_parser, finish, markdown

import tfcompress as tfc

CLASSES, PIXELS, BATCH = 10, 96, 16
LOSS = "sparse_categorical_crossentropy"
NETWORKS = {"MobileNet 0.25": ("MobileNet", 0.25), "MobileNetV2 0.35": ("MobileNetV2", 0.35)}
# variant: what it is compared with
COMPARED = {
    "tfcompress, PruningCallback": "Keras 3",
    "tfcompress, prune": "Keras 3",
    "tfcompress, quantize_aware": "Keras 3",
    "tfmot, prune_low_magnitude": "tf_keras",
    "tfmot, quantize_model": "tf_keras",
}

Fit = Callable[[np.ndarray, np.ndarray], Any]


def variants(network: str) -> dict[str, Callable[[], Fit]]:
    """What makes each variant, compiled; none of that is timed."""
    import tf_keras

    name, alpha = NETWORKS[network]
    given: dict[str, Any] = {
        "input_shape": (PIXELS, PIXELS, 3), "alpha": alpha, "weights": None, "classes": CLASSES,
    }  # fmt: skip
    half = tfc.ConstantSparsity(0.5, begin_step=0, frequency=100)
    samples = np.random.default_rng(1).random((20, PIXELS, PIXELS, 3)).astype("float32")

    def ours(wrap: Callable[[Any], Any], callbacks: Callable[[], list[Any]] = list) -> Fit:
        model = wrap(getattr(keras.applications, name)(**given))
        model.compile(keras.optimizers.Adam(), LOSS)
        return lambda x, y: model.fit(x, y, BATCH, verbose=0, callbacks=callbacks())

    def theirs(wrap: Callable[[Any], Any], callbacks: Callable[[], list[Any]] = list) -> Fit:
        model = wrap(getattr(tf_keras.applications, name)(**given))
        tfmot.compile_adam(model, 1e-3)
        return lambda x, y: model.fit(x, y, BATCH, verbose=0, callbacks=callbacks())

    return {
        "Keras 3": lambda: ours(lambda m: m),
        "tfcompress, PruningCallback": lambda: ours(
            lambda m: m, lambda: [tfc.PruningCallback(half)]
        ),
        "tfcompress, prune": lambda: ours(lambda m: tfc.prune(m, half)),
        "tfcompress, quantize_aware": lambda: ours(
            lambda m: tfc.quantize_aware(m, calibration_data=samples),
            lambda: [tfc.QuantizationCallback()],
        ),
        "tf_keras": lambda: theirs(lambda m: m),
        "tfmot, prune_low_magnitude": lambda: theirs(
            lambda m: tfmot.wrap(m, tfmot.constant(0.5)), lambda: [tfmot.callback()]
        ),
        "tfmot, quantize_model": lambda: theirs(tfmot.quantize_aware),
    }


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, help="of each variant (3)")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    random = np.random.default_rng(0)
    x = random.random((BATCH, PIXELS, PIXELS, 3)).astype("float32")
    y = random.integers(0, CLASSES, BATCH)
    rows, result = [], []
    for network in list(NETWORKS)[: 1 if arguments.quick else None]:
        makers = variants(network)
        taken: dict[str, list[float]] = {name: [] for name in makers}
        for repeat in range(repeats):
            for name, make in makers.items():
                keras.backend.clear_session()
                fit = make()
                begun = time.process_time()
                fit(x, y)
                taken[name].append(time.process_time() - begun)
                print(f"{repeat + 1}: {network}, {name}: {taken[name][-1]:.1f} s", flush=True)
        for name, seconds in taken.items():
            plain = taken.get(COMPARED.get(name, ""))
            ratio = float(np.median(seconds) / np.median(plain)) if plain else None
            cells = [network, name, f"{np.median(seconds):.1f}"]
            rows.append([*cells, "-" if ratio is None else f"x{ratio:.2f}"])
            result.append({"network": network, "variant": name, "cpu_s": seconds, "ratio": ratio})
    print("\n" + markdown(["network", "until the first step", "CPU s", "of plain `fit`"], rows))
    finish({"rows": result}, arguments.out)


if __name__ == "__main__":
    main()
