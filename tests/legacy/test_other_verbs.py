"""A Keras 2 model given to a Keras 3 verb, and the other way round."""

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.legacy.packages import keras2

SCHEDULE = tfc.ConstantSparsity(0.5, 0)
X = np.zeros((4, 6), "float32")
FILE: dict[str, bytes] = {}
VERBS = {
    "prune": lambda model: tfc.prune(model, SCHEDULE),
    "Pruner": lambda model: tfc.Pruner(model, SCHEDULE),
    "PruningCallback": lambda model: tfc.PruningCallback(SCHEDULE).set_model(model),
    "Resume": lambda model: tfc.Resume("nowhere").set_model(model),
    "BatchNormSparsity": lambda model: tfc.BatchNormSparsity(1e-3).set_model(model),
    "QuantizationCallback": lambda model: tfc.QuantizationCallback().set_model(model),
    "sparsity": tfc.sparsity,
    "strip": tfc.strip,
    "cluster": lambda model: tfc.cluster(model, 4),
    "quantize_aware": tfc.quantize_aware,
    "convert": tfc.convert,
    "to_onnx": lambda model: tfc.to_onnx(model),
    "verify": lambda model: tfc.verify(model, tfc.TFLiteModel(FILE["content"]), X),
    "html_report": lambda model: tfc.html_report([model], path="nowhere.html"),
    "sparse_friendly": tfc.sparse_friendly,
    "xnnpack_sparse_layers": tfc.xnnpack_sparse_layers,
    "complexity": tfc.complexity,
    "fold_batchnorm": tfc.fold_batchnorm,
    "separate": tfc.separate,
    "factorize": tfc.factorize,
    "drop_layers": lambda model: tfc.drop_layers(model, "a"),
    "rank_blocks": lambda model: tfc.rank_blocks(model, (X, X)),
    "shrink": lambda model: tfc.shrink(model, 0.5),
    "ShrinkSchedule": lambda model: next(iter(tfc.ShrinkSchedule(2, ratio=0.5).models(model))),
    "remove_dead": tfc.remove_dead,
    "distill": lambda model: tfc.distill(model, model),
    "cache_teacher": lambda model: tfc.cache_teacher(model, X, "nowhere.npy"),
    "adapt": lambda model: tfc.adapt(model, "biases"),
    "convert_decoder": tfc.convert_decoder,
    "Pipeline": lambda model: tfc.Pipeline([{"convert": {}}]).run(model, (X, X), "nowhere"),
}
# Those that take a model: every public name except these.
NO_MODEL = {
    *("TFLiteModel", "OnnxModel", "Block", "Complexity", "Resume", "BenchmarkReport"),
    *("FidelityReport", "InspectionReport", "CompressionReport", "QuantizationScheme"),
    *("ConstantSparsity", "ExponentialDecay", "OneShot", "PolynomialDecay", "RigL", "Schedule"),
    *("CompressError", "ConfigError", "ConversionError", "CorruptFileError", "DataError"),
    *("DeviceError", "ModelTypeError", "ScopeError", "VerificationError", "__version__"),
    *("plot_schedule", "register_layer", "available_runtimes", "benchmark", "evaluate", "inspect"),
    *("watch_baseline", "pack", "slim", "unpack", "legacy", "models", "TrainingError"),
    *("PipelineReport", "CachedTeacher", "generate", "beam_search", "load_tokenizer"),
    "perplexity",
}


@pytest.fixture(scope="module")
def old():
    layers = keras2().layers
    return keras2().Sequential([layers.Input((6,)), layers.Dense(4, name="a"), layers.Dense(2)])


def test_every_verb_that_takes_a_model_is_tried():
    assert set(tfc.__all__) - NO_MODEL <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_keras_2_model_is_refused_by_name(old, verb, float_file):
    FILE["content"] = float_file.read_bytes()
    with pytest.raises(tfc.ModelTypeError) as caught:
        VERBS[verb](old)
    for name in ("legacy.to_keras3", "legacy.prune", "quantize_aware", "cluster", "strip"):
        assert name in str(caught.value)


@pytest.mark.parametrize("verb", ["prune", "cluster", "quantize_aware", "strip", "to_keras3"])
def test_a_keras_3_model_is_refused_by_the_legacy_verbs(small_model, verb):
    arguments = {"prune": (SCHEDULE,), "cluster": (4,)}.get(verb, ())
    with pytest.raises(tfc.ModelTypeError, match="Keras 3"):
        getattr(tfc.legacy, verb)(small_model, *arguments)
    with pytest.raises(tfc.ModelTypeError):
        getattr(tfc.legacy, verb)(3, *arguments)
