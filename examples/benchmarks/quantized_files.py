r"""The files that `quantization.py --resume DIR` left: latency, and the outputs on ARM.

    TFCOMPRESS_DATA=... python examples/benchmarks/quantized_files.py DIR [--quick] \
        [--run-command "CMD {runner} {model} {inputs} {outputs}"]

1. Milliseconds of one inference on XNNPACK, one thread, files of one network taking turns.
2. With `--run-command`: test images through the quantization-aware file here and on ARM: a phone,
   a board or an emulator of yours. The command runs {runner}, a script that needs Python, NumPy
   and ai-edge-litert, as `ssh board python3 {runner} {model} {inputs} {outputs}` does on a shared
   folder.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser, finish, markdown
from quantization import FLOAT, NETWORKS, OURS, OURS_W4, PTQ, file_of, output_scale

import tfcompress as tfc

RUNNER = """import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
model, inputs, outputs = sys.argv[1:4]
interpreter = Interpreter(model_path=model, num_threads=1)
interpreter.allocate_tensors()
enter = interpreter.get_input_details()[0]["index"]
leave = interpreter.get_output_details()[0]["index"]
found = []
for example in np.load(inputs):
    interpreter.set_tensor(enter, example[None])
    interpreter.invoke()
    found.append(interpreter.get_tensor(leave)[0])
np.save(outputs, np.stack(found))
"""


def latency(folder: Path, name: str, runs: int) -> dict[str, Any]:
    files = {m: folder / file_of(name, 0, m) for m in (FLOAT, PTQ, OURS, OURS_W4)}
    report = tfc.benchmark([str(path) for path in files.values()], threads=[1], runs=runs)
    times = [row.median_ms for row in report.rows]
    return {"network": name, **dict(zip(files, times, strict=True))}


def on_arm(folder: Path, name: str, images: int, command: str) -> dict[str, Any]:
    x = NETWORKS[name][0](1_000)[2][:images]
    path = (folder / file_of(name, 0, OURS)).resolve()
    tflite = tfc.TFLiteModel(path)
    with tempfile.TemporaryDirectory() as temporary:
        runner, inputs, outputs = (Path(temporary) / n for n in ("run.py", "x.npy", "y.npy"))
        runner.write_text(RUNNER)
        np.save(inputs, x)
        call = command.format(runner=runner, model=path, inputs=inputs, outputs=outputs)
        subprocess.run(call, shell=True, check=True, capture_output=True)
        theirs = np.load(outputs)
    ours = np.asarray(tflite.predict(x))
    off = np.rint(np.abs(ours - theirs) / output_scale(tflite))
    return {
        "network": name,
        "examples": len(x),
        "same": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        "values": int(off.size),
        "differ": int((off != 0).sum()),
        "largest": int(off.max()),
    }


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run-command", help="runs {runner} {model} {inputs} {outputs} on ARM")
    arguments = parser.parse_args()
    names = [n for n in NETWORKS if (arguments.folder / file_of(n, 0, OURS)).exists()]
    timed = [latency(arguments.folder, n, 10 if arguments.quick else 200) for n in names]
    heads = ["ms", "fp32", "int8, post-training", "int8", "int8-w4", "int8 of post-training"]
    rows = [
        [r["network"], *(f"{r[m]:.3f}" for m in (FLOAT, PTQ, OURS, OURS_W4)),
         f"x{r[OURS] / r[PTQ]:.2f}"]
        for r in timed
    ]  # fmt: skip
    print(markdown(heads, rows) + "\n")
    ran: list[dict[str, Any]] = []
    if arguments.run_command:
        count = 20 if arguments.quick else 500
        ran = [on_arm(arguments.folder, n, count, arguments.run_command) for n in names]
        heads = ["x86 and ARM", "examples", "same answer", "values", "differ", "largest, steps"]
        cells = [
            [
                r["network"],
                r["examples"],
                f"{r['same']:.2%}",
                r["values"],
                r["differ"],
                r["largest"],
            ]
            for r in ran
        ]
        print(markdown(heads, cells))
    finish({"latency": timed, "arm": ran}, arguments.out)


if __name__ == "__main__":
    main()
