"""What each verb of a recipe does to a model: from arguments to calls of `tfc`'s verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError
from tfcompress.report import CompressionReport

if TYPE_CHECKING:
    from tfcompress.pipeline.data import Data
    from tfcompress.pipeline.objective import Objective
    from tfcompress.pipeline.steps import Step

UPDATES = 30  # of the masks, between begin and end
SAMPLES = 1000  # examples on which layers are fitted
CALIBRATION = 300
VERIFIED = 100
_SAID = ("precision", "io", "batch_size", "seconds")  # or what differs from run to run


@dataclass
class Work:
    """What a step works on.

    Attributes:
        data: examples.
        objective: loss and metrics.
        kept: what earlier steps made that this one keeps: `"sparsity"`, `"clusters"`.
        updates: how many steps the optimizer will make in it; 0 where it does not train.
        name: stem of the files.
        files: those written so far, by name.
        seed: the step's own.
    """

    data: Data
    objective: Objective
    kept: Sequence[str]
    updates: int
    name: str
    files: Mapping[str, Path]
    seed: int

    def examples(self, step: Step, default: int) -> Any:
        """Inputs of the training set, spread evenly."""
        return self.data.sample(step.arguments.get("samples", default))[0]


@dataclass
class Acted:
    """What a verb did.

    Attributes:
        model: the new model; the old one where it only made files.
        report: what was done to which layer.
        callbacks: for the training that follows; one with a `report` tells it then.
        files: name -> content.
    """

    model: Any
    report: CompressionReport | None = None
    callbacks: list[Any] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


def _acted(model: Any) -> Acted:
    return Acted(model, model.compression_report)


def _given(step: Step, *left_out: str) -> dict[str, Any]:
    """The arguments that the verb itself takes."""
    own = ("samples", "restore", *left_out)
    return {name: value for name, value in step.arguments.items() if name not in own}


def shrink(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.shrink`."""
    import tfcompress as tfc

    importance = step.arguments.get("importance", "magnitude")
    x, y = work.data.sample(step.arguments.get("samples", SAMPLES))
    restore = _restores(work, step)
    needed = restore or importance in ("taylor", "activation")
    return _acted(
        tfc.shrink(
            model,
            **_given(step),
            data=((x, y) if importance == "taylor" else x) if needed else None,
            loss=work.objective.packed_loss() if importance == "taylor" else None,
            restore=restore,
            seed=work.seed,
        )
    )


def _restores(work: Work, step: Step) -> bool:
    """Whether what is left is fitted: it would fill zeros that a step before has made."""
    return bool(step.arguments.get("restore", "sparsity" not in work.kept))


def _fitted(work: Work, step: Step) -> Any:
    return work.examples(step, SAMPLES) if _restores(work, step) else None


def separate(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.separate`."""
    import tfcompress as tfc

    return _acted(tfc.separate(model, **_given(step), data=_fitted(work, step)))


def factorize(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.factorize`."""
    import tfcompress as tfc

    return _acted(tfc.factorize(model, **_given(step), data=_fitted(work, step)))


def drop_layers(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.drop_layers`, of named layers or of the blocks that are missed least."""
    import tfcompress as tfc

    layers = step.arguments.get("layers")
    for _ in range(step.arguments.get("blocks", 0)):
        # One at a time: what is missed least depends on what is left.
        pair = work.data.sample(step.arguments.get("samples", SAMPLES))
        ranked = tfc.rank_blocks(model, pair, loss=work.objective.packed_loss(), verbose=0)
        if not ranked:
            raise ConfigError(
                "`blocks` must be no more than the model has that can be left out. "
                f"Received: {step.arguments['blocks']}, and there are no more"
            )
        model = tfc.drop_layers(model, ranked[0], data=_fitted(work, step))
    if layers is not None:
        model = tfc.drop_layers(model, layers, data=_fitted(work, step))
    return _acted(model)


def remove_dead(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.remove_dead`."""
    import tfcompress as tfc

    return _acted(tfc.remove_dead(model))


def fold_batchnorm(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.fold_batchnorm`."""
    import tfcompress as tfc

    return _acted(tfc.fold_batchnorm(model))


def sparse_friendly(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.sparse_friendly`."""
    import tfcompress as tfc

    return _acted(tfc.sparse_friendly(model))


def pruning_settings(arguments: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Arguments of `tfc.Pruner` and `tfc.PruningCallback`, checked by their own rules.

    Args:
        arguments: of the recipe's step.
        steps: updates of the optimizer that are planned; 0 to prune at once.

    Raises:
        ConfigError: arguments that contradict each other.
    """
    from tfcompress.pruning.settings import PruningSettings
    from tfcompress.schedules import ConstantSparsity, PolynomialDecay

    said = dict(arguments)
    final, initial = said.pop("sparsity"), said.pop("initial", 0.0)
    begin, end = said.pop("begin", 0.0), said.pop("end", 0.75)
    updates = said.pop("updates", UPDATES)
    scopes: dict[str, Any] = {
        name: said.pop(name) for name in ("include", "exclude") if name in said
    }
    first, last = int(begin * steps), int(end * steps)
    every = max(1, (last - first) // updates)
    schedule: Any
    if steps and last > first:
        schedule = PolynomialDecay(initial, final, first, last, frequency=every)
    else:
        schedule = ConstantSparsity(final, first, frequency=every)
    PruningSettings(schedule, **said)
    return {"schedule": schedule, **said, **scopes}


def prune(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.PruningCallback` in the training of the step, or at once where there is none."""
    import tfcompress as tfc

    settings = pruning_settings(step.arguments, work.updates)
    if work.updates:
        return Acted(model, callbacks=[tfc.PruningCallback(**settings)])
    pruner = tfc.Pruner(model, **settings)
    pruner.step(0)
    pruner.finish()
    return Acted(model, pruner.report)


def cluster(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.cluster`."""
    import tfcompress as tfc

    return _acted(tfc.cluster(model, **_given(step), seed=work.seed))


def train(work: Work, model: Any, step: Step) -> Acted:
    """Nothing but the training of the step."""
    return Acted(model)


def quantize(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.quantize_aware`, and `tfc.QuantizationCallback` in the training of the step."""
    from dataclasses import replace

    import tfcompress as tfc
    from tfcompress.quantization.scheme import SCHEMES

    said = _given(step, "freeze_batchnorm", "freeze_ranges")
    scheme = SCHEMES[said.pop("scheme", "int8")]
    changes = {
        name: said.pop(name) for name in ("weight_bits", "range_method", "batchnorm")
        if name in said
    }  # fmt: skip
    said.setdefault("preserve", list(work.kept))
    made = tfc.quantize_aware(
        model,
        replace(scheme, **changes),
        calibration_data=work.examples(step, CALIBRATION),
        **said,
    )
    freezing = {
        name: step.arguments[name]
        for name in ("freeze_batchnorm", "freeze_ranges")
        if name in step.arguments
    }
    report: CompressionReport = made.compression_report
    return Acted(made, report, [tfc.QuantizationCallback(**freezing)])


def convert(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.convert`, once for each precision."""
    import tfcompress as tfc
    from tfcompress.conversion.precisions import PRECISIONS
    from tfcompress.pipeline.steps import precisions

    said = _given(step, "precision", "verify")
    plain = tfc.strip(model) if _wrapped(model) else model
    files, report = {}, CompressionReport("convert", dict(said))
    for name in precisions(step):
        calibrated = name in PRECISIONS and PRECISIONS[name].calibrated
        verified = work.data.validation_inputs(VERIFIED)
        made = tfc.convert(
            plain,
            name,
            **said,
            representative_data=work.examples(step, CALIBRATION) if calibrated else None,
            verify=verified if step.arguments.get("verify", True) else None,
        )
        files[f"{work.name}_{name}.tflite"] = made.content
        own = made.report
        report.notes += [f"{name}: {note}" for note in own.notes]
        told = {k: v for k, v in own.settings.items() if k not in (*_SAID, *said)}
        report.add(f"{work.name}_{name}.tflite", "file", "converted", **told)
        report.entries += own.entries
    return Acted(model, report, files=files)


def pack(work: Work, model: Any, step: Step) -> Acted:
    """`tfc.pack` of all files converted before."""
    import tfcompress as tfc

    files, report = {}, CompressionReport("pack", dict(step.arguments))
    for name, path in work.files.items():
        if path.suffix != ".tflite":
            continue
        content = path.read_bytes()
        if step.arguments.get("slim", False):
            content = tfc.slim(content).content
        packed = tfc.pack(content)
        files[f"{path.stem}.tfcp"] = packed
        report.add(name, "file", "packed", bytes=len(packed), of=path.stat().st_size)
    return Acted(model, report, files=files)


def _wrapped(model: Any) -> bool:
    from tfcompress.transforms.wrapper import wrappers

    return bool(wrappers(model))
