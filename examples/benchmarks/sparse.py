r"""What pruning buys in a file: sizes, XNNPACK's sparse kernels, and right outputs on ARM.

    python examples/benchmarks/sparse.py [--quick] \
        [--count-command "CMD {model}"] [--run-command "CMD {model} {inputs} {outputs}"]

1. A sparse_friendly MobileNet 224, its 1x1 convolutions pruned to 50, 80 and 90 %: bytes of the
   file stored dense and sparse, raw, gzip -9 and zstd -19. Where tfcompress refuses to store it
   sparse, the sizes are those of what TensorFlow's converter writes.
2. Which rules of XNNPACK's sparse kernels keras.applications.MobileNet breaks, and the MobileNet of
   part 1 does not.
3. With `--count-command`: instructions for one inference on ARM, dense and sparse.
4. Networks of many kinds, pruned at random rates and converted with sparse=True: which are stored
   sparse, and whether the file's outputs are the Keras model's, here and with `--run-command` on
   ARM as well.

Sparse kernels run on ARM alone, so parts 3 and 4 ask a phone, a board or an emulator of yours
through two commands. `--count-command` prints the number of instructions of one inference after
the word "insns_per_inference", or as the last number of its output. `--run-command` runs a model on
an input, `.npy`, and saves its first output as `.npy`; `runner.py`, which this script writes beside
them and names as {runner}, does that wherever Python, NumPy and ai-edge-litert are:
`--run-command "ssh board python3 {runner} {model} {inputs} {outputs}"` on a shared folder.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import benchmark_parser, finish, markdown
from keras import layers

import tfcompress as tfc

RUNNER = """import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
model, inputs, outputs = sys.argv[1:4]
interpreter = Interpreter(model_path=model, num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(inputs))
interpreter.invoke()
np.save(outputs, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""

MAX_ERROR = 1e-4
"""Of the largest output: float32 sums in another order. A wrong kernel is off by 0.1 and more."""


@dataclass(frozen=True)
class Commands:
    """The user's commands for ARM, and a folder for their files."""

    count: str | None
    run: str | None
    folder: Path

    def instructions(self, name: str, tflite: tfc.TFLiteModel) -> int | None:
        """Instructions of one inference on ARM; None without a command."""
        if self.count is None:
            return None
        output = self._call(self.count, model=self._written(name, tflite))
        found = re.search(r"insns_per_inference\D*(\d+)", output)
        return int(found[1] if found else re.findall(r"\d+", output)[-1])

    def outputs(self, name: str, tflite: tfc.TFLiteModel, x: np.ndarray) -> np.ndarray | None:
        """The first output on ARM; None without a command."""
        if self.run is None:
            return None
        files = {key: self.folder / f"{name}_{key}.npy" for key in ("inputs", "outputs")}
        np.save(files["inputs"], x)
        runner = self.folder / "runner.py"
        runner.write_text(RUNNER)
        self._call(self.run, model=self._written(name, tflite), runner=runner, **files)
        return np.load(files["outputs"])

    def _written(self, name: str, tflite: tfc.TFLiteModel) -> Path:
        return tflite.save(self.folder / f"{name}.tflite", overwrite=True)

    def _call(self, template: str, **files: Path) -> str:
        command = template.format(**files)
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-500:]}")
        return done.stdout


# -- pruning, as training would leave it ----------------------------------------------------------


def randomize(model: keras.Model, seed: int) -> keras.Model:
    """BatchNorm parameters and statistics that are not trivial."""
    generator = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            size = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.2, size))
            layer.moving_variance.assign(generator.uniform(0.4, 1.5, size))
            layer.gamma.assign(generator.uniform(0.7, 1.3, size))
            layer.beta.assign(generator.normal(0.2, 0.3, size))
    return model


def prune(found: list[keras.Layer], sparsity: float) -> None:
    """Sets the smallest weights of each layer to zero."""
    for layer in found:
        kernel = np.asarray(getattr(layer, "pointwise_kernel", layer.kernel))
        size = np.abs(kernel)
        kept = size > np.quantile(size, sparsity)
        getattr(layer, "pointwise_kernel", layer.kernel).assign(kernel * kept)


def pointwise_layers(model: keras.Model) -> list[keras.Layer]:
    """All layers of 1x1 kernels, whether or not the model qualifies."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if getattr(layer, "kernel_size", None) == (1, 1) or hasattr(layer, "pointwise_kernel")
    ]


# -- 1. sizes -------------------------------------------------------------------------------------


def stock_sparse(model: keras.Model, precision: str, x: np.ndarray) -> tfc.TFLiteModel:
    """Stored sparse by TensorFlow's own converter, whatever comes of it: for its size only."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    if precision != "fp32":
        converter.optimizations.append(tf.lite.Optimize.DEFAULT)
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: ([sample[None]] for sample in x)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return tfc.TFLiteModel(converter.convert())


def sizes(quick: bool, commands: Commands) -> tuple[list[dict], dict[str, Any]]:
    side = 96 if quick else 224
    keras.utils.set_random_seed(0)
    model = tfc.models.mobilenet(
        (side, side, 3), 1000, alpha=0.25 if quick else 1.0, sparse_friendly=True
    )
    randomize(model, 0)
    chosen = tfc.xnnpack_sparse_layers(model)
    x = np.random.default_rng(1).random((4, side, side, 3), "float32")
    rows, summary = [], {"side": side, "layers": len(chosen)}
    dense_instructions = None
    for sparsity in (0.8,) if quick else (0.5, 0.8, 0.9):
        prune(chosen, sparsity)
        for precision in ("fp32", "fp16", "int8"):
            data = x if precision == "int8" else None
            tflite = tfc.convert(model, precision, representative_data=data, sparse=True)
            weighed = {e.name: e.details for e in tflite.report.entries if e.action == "weighed"}
            for storage, size in weighed.items():
                rows.append({"sparsity": sparsity, "file": precision, "storage": storage, **size})
            if "stored sparse" not in weighed:
                why = next(n for n in tflite.report.notes if n.startswith("Weights are stored"))
                stock = asdict(stock_sparse(model, precision, x).sizes)
                size = {form: count for form, count in stock.items() if count is not None}
                settings = {"storage": "sparse, by tf.lite", "refused": why}
                rows.append({"sparsity": sparsity, "file": precision, **settings, **size})
            if precision == "fp32" and sparsity >= 0.8:
                report = tfc.inspect(tflite, target="xnnpack-sparse")
                dense = tfc.convert(model)
                if dense_instructions is None:
                    dense_instructions = commands.instructions("dense", dense)
                compared = compare(f"mobilenet_{sparsity:.0%}"[:-1], model, tflite, x[:1], commands)
                summary[f"{sparsity:.0%}"] = {
                    "violations": [violation.rule for violation in report.violations],
                    "of_dense_bytes": len(tflite.content) / len(dense.content),
                    "instructions": commands.instructions("sparse", tflite),
                    "dense_instructions": dense_instructions,
                    **compared,
                }
        print(f"{sparsity:.0%} done", flush=True)
    return rows, summary


def size_table(rows: list[dict]) -> str:
    cells = []
    for row in rows:
        dense = next(
            r
            for r in rows
            if (r["sparsity"], r["file"], r.get("storage"))
            == (row["sparsity"], row["file"], "stored dense")
        )
        cells.append(
            [
                f"{row['sparsity']:.0%}",
                row["file"],
                row["storage"].removeprefix("stored "),
                *(
                    f"{row[form]:,} ({row[form] / dense[form]:.2f})" if form in row else "-"
                    for form in ("raw", "gzip", "zstd")
                ),
            ]
        )
    heads = ["zeros in the 1x1 layers", "file", "stored", "raw (of dense)", "gzip -9", "zstd -19"]
    return markdown(heads, cells)


# -- 2. rules -------------------------------------------------------------------------------------


def applications_violations(quick: bool) -> list[list[str]]:
    """Of keras.applications.MobileNet at 80 %, and of what tfc.sparse_friendly makes of it."""
    keras.utils.set_random_seed(0)
    side, alpha = (96, 0.25) if quick else (224, 1.0)
    model = keras.applications.MobileNet((side, side, 3), alpha=alpha, weights=None)
    prune(pointwise_layers(model), 0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rewritten = tfc.sparse_friendly(model)
    rows = []
    for name, one in {"keras.applications": model, "tfc.sparse_friendly of it": rewritten}.items():
        report = tfc.inspect(tfc.convert(one, sparse=True), target="xnnpack-sparse")
        rows += [
            [name, v.rule, ", ".join(v.layers[:4]), v.reason, v.remedy] for v in report.violations
        ]
    return rows


# -- 4. networks of many kinds --------------------------------------------------------------------

Block = Callable[[Any], Any]


def network(
    shape: tuple[int, int, int],
    width: int,
    middle: Block | None = None,
    *,
    activation: str = "relu6",
    end: str = "dense",
    stem: str = "valid",
) -> keras.Model:
    """A small network of the kind that sparse kernels are for, with `middle` put into it."""

    def act(x: Any, name: str = activation) -> Any:
        return layers.Activation(name)(layers.BatchNormalization()(x))

    inputs = keras.Input(shape)
    x = layers.ZeroPadding2D(1)(inputs) if stem == "valid" else inputs
    x = act(layers.Conv2D(width // 2, 3, strides=2, padding=stem, use_bias=False)(x))
    for stride, filters in ((1, width), (2, 2 * width)):
        pad = stride == 2 and (x.shape[1] % 2 == 0 or x.shape[2] % 2 == 0)
        x = layers.ZeroPadding2D(1)(x) if pad else x
        padding = "valid" if pad else "same"
        x = act(layers.DepthwiseConv2D(3, strides=stride, padding=padding, use_bias=False)(x))
        x = act(layers.Conv2D(filters, 1, use_bias=False)(x))
        if middle is not None and stride == 1:
            x = middle(x)
    x = act(layers.Conv2D(3 * width, 1, use_bias=False)(x))
    return keras.Model(inputs, _head(x, end))


def _head(x: Any, end: str) -> Any:
    if end == "dense":
        return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    if end == "mean":
        return layers.GlobalAveragePooling2D()(x)
    if end == "flatten":
        x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
        return layers.Dense(10, activation="softmax")(x)
    if end == "two layers":
        x = layers.Dense(32, activation="relu")(layers.GlobalAveragePooling2D()(x))
        return layers.Dense(10, activation="sigmoid")(x)
    if end == "convolution":
        x = layers.Conv2D(10, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
        return layers.Reshape((10,))(x)
    assert end == "plain flatten"
    return layers.Dense(10)(layers.Flatten()(x))


def _excite(gate: str = "sigmoid") -> Block:
    def block(x: Any) -> Any:
        factors = layers.GlobalAveragePooling2D(keepdims=True)(x)
        factors = layers.Conv2D(max(8, x.shape[-1] // 4), 1, activation="relu")(factors)
        factors = layers.Conv2D(x.shape[-1], 1, activation=gate)(factors)
        return layers.Multiply()([x, factors])

    return block


def _residual(kernel: int = 3) -> Block:
    def block(x: Any) -> Any:
        y = layers.Conv2D(2 * x.shape[-1], 1, activation="relu6")(x)
        y = layers.DepthwiseConv2D(kernel, padding="same", activation="relu6")(y)
        return layers.Add()([x, layers.Conv2D(x.shape[-1], 1)(y)])

    return block


def _strided(kernel: int) -> Block:
    def block(x: Any) -> Any:
        x = layers.ZeroPadding2D(kernel // 2)(x)
        return layers.DepthwiseConv2D(kernel, strides=2, activation="relu6")(x)

    return block


def _rewritten(model: keras.Model) -> keras.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tfc.sparse_friendly(model)


def networks() -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    """Names and makers: the kinds that qualify first, then those that must not be stored sparse."""
    square, wide, odd = (64, 64, 3), (48, 80, 3), (57, 64, 3)
    yield "plain", lambda: network(square, 32)
    yield "wide image", lambda: network(wide, 32)
    yield "one odd side", lambda: network(odd, 32)
    yield "ReLU", lambda: network(square, 24, activation="relu")
    yield "hard-swish", lambda: network(square, 32, activation="hard_silu")
    yield "swish", lambda: network(square, 32, activation="silu")
    yield "odd widths", lambda: network(square, 30)
    yield "residual", lambda: network(square, 32, _residual())
    yield "residual 5x5, wide", lambda: network(wide, 24, _residual(5))
    yield "squeeze and excite", lambda: network(square, 32, _excite())
    yield "excite, hard-swish", lambda: network(wide, 40, _excite(), activation="hard_silu")
    yield "5x5 of stride 2", lambda: network(square, 32, _strided(5))
    yield "3x3 of stride 2", lambda: network(wide, 32, _strided(3))
    yield "ends in the mean", lambda: network(square, 32, end="mean")
    yield "keepdims and Flatten", lambda: network(square, 32, end="flatten")
    yield "two Dense layers", lambda: network(wide, 32, end="two layers")
    yield (
        "all at once",
        lambda: network(wide, 32, lambda x: _excite()(_residual()(x)), activation="hard_silu"),
    )
    yield (
        "rewritten: same",
        lambda: _rewritten(
            network(square, 32, layers.DepthwiseConv2D(3, strides=2, padding="same"))
        ),
    )
    yield "rewritten: head", lambda: _rewritten(network(square, 32, end="convolution"))
    yield (
        "rewritten: one-sided zeros",
        lambda: _rewritten(
            network(
                wide,
                32,
                lambda x: layers.DepthwiseConv2D(3, strides=2)(
                    layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
                ),
            )
        ),
    )
    for side, alpha in ((64, 0.25), (96, 0.5)):
        yield (
            f"mobilenet {side}, {alpha}",
            lambda side=side, alpha=alpha: tfc.models.mobilenet(
                (side, side, 3), 10, alpha=alpha, sparse_friendly=True
            ),
        )
    yield (
        "mobilenet_v2 64, 0.35",
        lambda: tfc.models.mobilenet_v2((64, 64, 3), 10, alpha=0.35, sparse_friendly=True),
    )
    yield (
        "mobilenet 57x96, 0.25",
        lambda: tfc.models.mobilenet((57, 96, 3), 10, alpha=0.25, sparse_friendly=True),
    )
    # What follows does not qualify.
    yield "two odd sides", lambda: network((58, 50, 3), 32)
    yield "first convolution, same", lambda: network(square, 32, stem="same")
    yield "gray image", lambda: network((64, 64, 1), 32)
    yield "max pooling", lambda: network(square, 32, layers.MaxPooling2D())
    yield "average pooling", lambda: network(square, 32, layers.AveragePooling2D(2))
    yield "3x3 convolution", lambda: network(square, 32, layers.Conv2D(32, 3, padding="same"))
    yield "strided 1x1", lambda: network(square, 32, layers.Conv2D(32, 1, strides=2))
    yield "grouped 1x1", lambda: network(square, 32, layers.Conv2D(32, 1, groups=4))
    yield "7x7 depthwise", lambda: network(square, 32, layers.DepthwiseConv2D(7, padding="same"))
    yield (
        "dilated",
        lambda: network(square, 32, layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)),
    )
    yield "upsampling", lambda: network(square, 32, layers.UpSampling2D(2))
    yield "concatenation", lambda: network(square, 32, lambda x: layers.Concatenate()([x, x]))
    yield "hard-sigmoid gate", lambda: network(square, 32, _excite("hard_sigmoid"))
    yield "convolution behind the mean", lambda: network(square, 32, end="convolution")
    yield "plain Flatten", lambda: network(square, 16, end="plain flatten")
    yield (
        "keras MobileNet",
        lambda: keras.applications.MobileNet((64, 64, 3), alpha=0.25, weights=None, classes=10),
    )
    yield (
        "keras MobileNetV3Small",
        lambda: keras.applications.MobileNetV3Small((64, 64, 3), weights=None, classes=10),
    )


def compare(
    name: str, model: keras.Model, tflite: tfc.TFLiteModel, x: np.ndarray, commands: Commands
) -> dict[str, float | None]:
    """Largest differences, of the largest output: x86 and Keras, ARM and Keras, ARM and x86."""
    expected = np.asarray(model(x, training=False))
    here = tflite.predict(x)
    arm = commands.outputs(re.sub(r"\W+", "_", name), tflite, x)
    largest = np.abs(expected).max()

    def error(one: np.ndarray | None, other: np.ndarray) -> float | None:
        return None if one is None else float(np.abs(one - other).max() / largest)

    return {
        "here_keras": error(here, expected),
        "arm_keras": error(arm, expected),
        "arm_here": error(arm, here),
    }


def many(quick: bool, commands: Commands) -> list[dict]:
    generator = np.random.default_rng(0)
    makers = list(networks())
    rows = []
    for number, (name, make) in enumerate(makers[::6] if quick else makers):
        keras.utils.set_random_seed(number)
        model = randomize(make(), number)
        rate = float(generator.uniform(0.6, 0.95))
        prune(pointwise_layers(model), rate)
        precision = ("fp32", "fp16")[number % 4 == 3]
        tflite = tfc.convert(model, precision, sparse=True)
        x = generator.random((1, *model.input_shape[1:]), "float32")
        row = {
            "network": name,
            "precision": precision,
            "rate": rate,
            "sparse": tflite.report.settings["sparse"],
            "densify": any(operator.name == "DENSIFY" for operator in tflite.operators),
            **compare(name, model, tflite, x, commands),
        }
        limit = MAX_ERROR if precision == "fp32" else 1e-2  # fp16 rounds the weights
        arm_limit = MAX_ERROR  # the same file, wherever it runs
        row["right"] = (
            row["sparse"] == row["densify"]
            and row["here_keras"] <= limit
            and (row["arm_here"] is None or row["arm_here"] <= arm_limit)
        )
        rows.append(row)
        print(row, flush=True)
    return rows


def many_table(rows: list[dict]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.0e}"

    heads = ["network", "file", "pruned to", "stored", "x86 - Keras", "ARM - x86", "right"]
    return markdown(
        heads,
        [
            [
                row["network"],
                row["precision"],
                f"{row['rate']:.0%}",
                "sparse" if row["sparse"] else "dense",
                shown(row["here_keras"]),
                shown(row["arm_here"]),
                "yes" if row["right"] else "NO",
            ]
            for row in rows
        ],
    )


def summary_table(summary: dict[str, Any]) -> str:
    rows = []
    for sparsity in ("80%", "90%"):
        if sparsity not in summary:
            continue
        found = summary[sparsity]
        count, dense = found["instructions"], found["dense_instructions"]
        rows.append(
            [
                sparsity,
                len(found["violations"]),
                f"{found['of_dense_bytes']:.3f}",
                "-" if count is None else f"{dense / 1e6:.1f} M",
                "-" if count is None else f"{count / 1e6:.1f} M ({count / dense:.3f})",
                "-" if found["arm_here"] is None else f"{found['arm_here']:.0e}",
            ]
        )
    heads = [
        f"MobileNet {summary['side']}, zeros",
        "violations",
        "sparse file of dense",
        "ARM instructions, dense",
        "sparse (of dense)",
        "ARM - x86, of the largest output",
    ]
    return markdown(heads, rows)


def arguments() -> argparse.Namespace:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--count-command", help="prints instructions of one inference of {model}")
    parser.add_argument("--run-command", help="runs {model} on {inputs}, saves {outputs}")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(given.count_command, given.run_command, Path(folder))
        rows, summary = sizes(given.quick, commands)
        print("\n" + size_table(rows) + "\n")
        for row in rows:
            if "refused" in row:
                print(f"{row['sparsity']:.0%}, {row['file']}: {row['refused']}")
        print("\n" + summary_table(summary) + "\n", flush=True)
        broken = applications_violations(given.quick)
        print(markdown(["MobileNet", "rule", "layers", "reason", "remedy"], broken) + "\n")
        found = many(given.quick, commands)
    print("\n" + many_table(found))
    sparse = [row for row in found if row["sparse"]]
    print(
        f"\n{len(found)} networks: {len(sparse)} stored sparse, {len(found) - len(sparse)} dense; "
        f"{sum(row['right'] for row in found)} right"
    )
    result = {"sizes": rows, "mobilenet": summary, "violations": broken, "networks": found}
    finish(result, given.out)


if __name__ == "__main__":
    main()
