"""A small network that learns from a large one on few images, then int8 on top.

    TFCOMPRESS_DATA=... python examples/benchmarks/distilling.py [--quick] [--resume DIR] \
        [--only STUDENT] [--variants NAME] [--seeds N] [--epochs N] [--workers N]

CIFAR-10, of which there are 5,000 labelled images. The teacher is MLPerf Tiny's trained ResNet-8,
which was trained on all 50,000. Students: the teacher with half of its multiply-adds taken away on
those images by `tfc.shrink`, and narrower networks from random weights. Each student is trained
from the same start, as long and on the same augmented images (15 of each: mirrored, shifted by up
to 4 pixels, half of them mixed with another: Zhang et al. 2018, mixup), on the labels alone or by
`tfc.distill`; the teacher is asked about each augmented image itself (Beyer et al. 2022, "a good
teacher is patient and consistent"), once for all trainings of a seed by `tfc.cache_teacher`. "Gap
closed": the share of the points between the student alone and the teacher, of the same seed. The
int8 rows train on quantization-aware, distilled where their float network was, and are converted;
accuracy is that of the files on all test images. With `--resume`, finished rows are kept in DIR. A
training takes a quarter of an hour of one core, one by hints, attention or relations twice that.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from augmenting import augmented
from batches import train
from common import benchmark_parser, finish, keep, kept_at, markdown, selected, zipped
from quantization import Data, cifar10, one_thread, trained_resnet8

import tfcompress as tfc

IMAGES = 5_000
COPIES = 15  # augmented images of each
EPOCHS, RATE = 10, 3e-3  # passes over all copies
QUANTIZED_EPOCHS, QUANTIZED_RATE = 1, 3e-4
TEMPERATURE, ALPHA = 4.0, 1.0
TEACHER, ALONE, INT8 = "teacher", "alone", ", int8"


def shrunk(teacher: keras.Model, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """The teacher with half of its multiply-adds, fitted to what it gave on 2,000 images."""
    return tfc.shrink(
        teacher, 0.5, importance="taylor", data=(x[:2_000], y[:2_000]), round_to=4,
        loss="sparse_categorical_crossentropy",
    )  # fmt: skip


# What makes each of teacher, images and labels.
STUDENTS: dict[str, Callable[[keras.Model, np.ndarray, np.ndarray], keras.Model]] = {
    "the teacher, shrunk by half": shrunk,
    "ResNet-8, half as wide": lambda *_: tfc.models.resnet8(filters=8),
    "ResNet-8, three quarters as wide": lambda *_: tfc.models.resnet8(filters=12),
}
# What the loss of a student sums up beside that of the labels.
VARIANTS: dict[str, Any] = {
    ALONE: None,
    "logits": "logits",
    "logits + hints": {"logits": 1.0, "hints": 0.1},
    "logits + attention": {"logits": 1.0, "attention": 1.0},
    "logits + relational": {"logits": 1.0, "relational": 5.0},
}
QUANTIZED = (ALONE, "logits", "logits + hints")


def accuracy(tflite: tfc.TFLiteModel, data: Data) -> float:
    return float((np.asarray(tflite.predict(data[2])).argmax(-1) == data[3]).mean())


@dataclass(frozen=True)
class Job:
    """A student with one seed, and what teaches it."""

    student: str
    seed: int
    variant: str
    epochs: int
    quick: bool
    folder: str

    def file(self, kind: str, suffix: str) -> Path:
        """Where something of that kind is kept."""
        return kept_at(self.folder, f"{self.student} {self.seed} {kind}", suffix)

    @property
    def data(self) -> Data:
        """Training and test set."""
        x, y, x_test, y_test = cifar10(1_024 if self.quick else IMAGES)
        count = 1_000 if self.quick else len(x_test)
        return x, y, x_test[:count], y_test[:count]

    def row(self, kind: str, model: keras.Model, data: Data) -> None:
        """Converts, measures accuracy, and keeps the row."""
        tflite = tfc.convert(model, "int8" if kind.endswith(INT8) else "fp32")
        row = {
            "student": self.student, "seed": self.seed, "kind": kind,
            "accuracy": accuracy(tflite, data), "bytes": len(tflite.content),
            "zip": zipped(tflite.content), "parameters": model.count_params(),
        }  # fmt: skip
        keep(self.file(kind, ".json"), row)


def run(job: Job) -> None:
    last = job.variant + (INT8 if job.variant in QUANTIZED else "")
    if job.file(last, ".json").exists():
        return
    data, teacher = job.data, trained_resnet8()
    method = VARIANTS.get(job.variant)
    if job.variant == TEACHER:
        job.row(TEACHER, teacher, data)
        return

    made = augmented(*data[:2], job.seed, 1 if job.quick else COPIES)
    # An epoch goes through all copies.
    pool = tuple(array.reshape(1, -1, *array.shape[2:]) for array in made)

    def taught(student: keras.Model) -> Any:
        if method is None:
            return student
        teaching = teacher
        if method == "logits":
            path = kept_at(job.folder, f"teacher of {job.seed}", ".npy")
            if not path.exists():
                images = pool[0][0]
                said = (
                    images[at : at + 500].astype("float32") for at in range(0, len(images), 500)
                )
                tfc.cache_teacher(teacher, said, path)
            teaching = tfc.CachedTeacher(path)
        return tfc.distill(student, teaching, temperature=TEMPERATURE, alpha=ALPHA, method=method)

    keras.utils.set_random_seed(job.seed)
    student = STUDENTS[job.student](teacher, *data[:2])
    train(taught(student), pool, job.epochs, RATE, job.seed)
    job.row(job.variant, student, data)
    if job.variant in QUANTIZED:
        qmodel = tfc.quantize_aware(student, calibration_data=data[0][:300])
        callbacks = [tfc.QuantizationCallback()]
        train(taught(qmodel), pool, QUANTIZED_EPOCHS, QUANTIZED_RATE, job.seed, callbacks)
        job.row(job.variant + INT8, qmodel, data)


def table(rows: Sequence[dict[str, Any]]) -> str:
    heads = [
        "student",
        "taught by",
        "seeds",
        "parameters",
        "accuracy",
        "gap closed",
        "bytes",
        "zip",
    ]
    cells = []
    for name, kind in dict.fromkeys((r["student"], r["kind"]) for r in rows):
        found = [r for r in rows if (r["student"], r["kind"]) == (name, kind)]
        of = {(r["seed"], r["kind"]): r["accuracy"] for r in rows if r["student"] == name}
        closed = [
            (r["accuracy"] - of[r["seed"], ALONE]) / (of[r["seed"], TEACHER] - of[r["seed"], ALONE])
            for r in found
            if kind not in (TEACHER, ALONE) and (r["seed"], ALONE) in of
        ]
        cells.append(
            [
                name, kind, len(found), f"{found[0]['parameters']:,}",
                f"{np.mean([r['accuracy'] for r in found]):.2%}",
                _share(closed),
                f"{found[0]['bytes']:,}", f"{found[0]['zip']:,}",
            ]
        )  # fmt: skip
    return markdown(heads, cells)


def _share(closed: Sequence[float]) -> str:
    if not closed:
        return "-"
    return f"{np.mean(closed):.0%} ({min(closed):.0%} to {max(closed):.0%})"


def gather(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    files = [job.file(kind, ".json") for job in jobs for kind in (job.variant, job.variant + INT8)]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--resume", metavar="DIR", help="keep finished rows here, and go on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="jobs at a time")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="of each float training, passes over all copies"
    )
    parser.add_argument("--only", default="", help="only students whose name holds this")
    parser.add_argument("--variants", default="", help="only variants whose name holds this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.resume or temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        variants = list(VARIANTS)[:2] if arguments.quick else list(VARIANTS)
        chosen = selected(variants, arguments.variants)
        jobs = [
            Job(
                name,
                seed,
                kind,
                1 if arguments.quick else arguments.epochs,
                arguments.quick,
                folder,
            )
            for seed in range(1 if arguments.quick else arguments.seeds)
            for name in selected(STUDENTS, arguments.only)[: 1 if arguments.quick else None]
            for kind in dict.fromkeys((TEACHER, ALONE, *chosen))
        ]
        context = multiprocessing.get_context("spawn")
        begun = time.monotonic()
        # A process for each job, as each leaves memory behind.
        with context.Pool(arguments.workers, one_thread, maxtasksperchild=1) as pool:
            for done, _ in enumerate(pool.imap(run, jobs, chunksize=1), 1):
                print(f"{done} of {len(jobs)}, {time.monotonic() - begun:.0f} s", flush=True)
        rows = gather(jobs)
    print(table(rows))
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
