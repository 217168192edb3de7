"""tfcompress: smaller and faster Keras 3 models on the way to `.tflite`.

    import tfcompress as tfc

    model.fit(x, y, callbacks=[tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.8, 0, 1000))])
    tfc.convert(model, "int8", representative_data=x).save("model.tflite")

Public names are loaded on first use, so `import tfcompress` imports neither TensorFlow nor Keras,
and everything that only runs a `.tflite` works where neither is installed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tfcompress.saved_classes import announce as _announce

__version__ = "0.1.0"

# name -> the module that defines it. `models` is a package of its own.
_HOMES = {
    "CompressError": "errors",
    "ConfigError": "errors",
    "ConversionError": "errors",
    "CorruptFileError": "errors",
    "DataError": "errors",
    "DeviceError": "errors",
    "ModelTypeError": "errors",
    "ScopeError": "errors",
    "TrainingError": "errors",
    "VerificationError": "errors",
    "CompressionReport": "report",
    "ConstantSparsity": "schedules",
    "ExponentialDecay": "schedules",
    "OneShot": "schedules",
    "PolynomialDecay": "schedules",
    "RigL": "schedules",
    "Schedule": "schedules",
    "plot_schedule": "plots",
    "register_layer": "registry",
    "Resume": "resume.callback",
    "Pruner": "pruning.pruner",
    "PruningCallback": "pruning.callback",
    "prune": "pruning.prune",
    "cluster": "clustering.cluster",
    "adapt": "adapters",
    "CachedTeacher": "distillation.cached_teacher",
    "cache_teacher": "distillation.cache",
    "distill": "distillation.distill",
    "strip": "transforms.strip",
    "xnnpack_sparse_layers": "pruning.sparse_layers",
    "sparsity": "pruning.measure",
    "TFLiteModel": "runtime.model",
    "available_runtimes": "runtime.adapter",
    "BenchmarkReport": "deploy.latency_report",
    "beam_search": "generation.beams",
    "benchmark": "deploy.benchmark",
    "evaluate": "deploy.evaluate",
    "generate": "generation.generate",
    "load_tokenizer": "generation.tokenizers",
    "perplexity": "generation.perplexity",
    "html_report": "reporting.html_report",
    "watch_baseline": "deploy.watch_baseline",
    "FidelityReport": "deploy.fidelity",
    "verify": "deploy.verify",
    "InspectionReport": "deploy.inspection_report",
    "inspect": "deploy.inspection",
    "convert": "conversion.convert",
    "convert_decoder": "generation.convert_decoder",
    "pack": "parcel.pack",
    "slim": "parcel.slim",
    "unpack": "parcel.pack",
    "OnnxModel": "onnx.model",
    "to_onnx": "onnx.to_onnx",
    "QuantizationCallback": "quantization.callback",
    "QuantizationScheme": "quantization.scheme",
    "quantize_aware": "quantization.quantize_aware",
    "sparse_friendly": "surgery.sparse_friendly",
    "Complexity": "surgery.complexity",
    "complexity": "surgery.complexity",
    "fold_batchnorm": "surgery.folding",
    "separate": "surgery.separate",
    "factorize": "surgery.low_rank",
    "Block": "surgery.blocks",
    "drop_layers": "surgery.drop",
    "rank_blocks": "surgery.ranking",
    "shrink": "surgery.shrink",
    "ShrinkSchedule": "surgery.shrink_schedule",
    "BatchNormSparsity": "surgery.slimming",
    "Pipeline": "pipeline.pipeline",
    "PipelineReport": "pipeline.report",
    "remove_dead": "surgery.dead",
}
_PACKAGES = ("legacy", "models")

__all__ = sorted([*_HOMES, *_PACKAGES, "__version__"])

# In the repository `models/` lies beside this package, in an installation inside it. A wheel's
# user who stands in the repository's root gets the source folder instead of the wheel
# (`python -m ...` puts the working directory first): let that folder find its own `models/`.
_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).resolve().parent / "models").is_dir() and (_root / "models").is_dir():
    __path__.append(str(_root))

_announce()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})
