"""tensorflow-model-optimization on tf_keras (Keras 2), as the peer of the benchmarks.

Both Keras versions live in one process. The guides that it follows are tfmot's own: "Pruning in
Keras example" (`prune_low_magnitude` around the whole model, `UpdatePruningStep`,
`strip_pruning`), "Quantization aware training in Keras example" (`quantize_model`), "Weight
clustering in Keras example" and "Sparsity and cluster preserving quantization aware training".
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

# tfmot asks for the Keras 2 that TensorFlow would give it; set before it is imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"


def twin(model: keras.Model, sample: np.ndarray) -> Any:
    """A tf_keras copy of a chain of convolutions with the same weights, checked on `sample`."""
    import tf_keras

    layers = tf_keras.layers
    chain = [layers.InputLayer(model.input_shape[1:])]
    chain += [_copy(layer, layers) for layer in model.layers[1:]]
    copy = tf_keras.Sequential(chain)
    for ours, theirs in zip(model.layers[1:], copy.layers, strict=True):
        theirs.set_weights(ours.get_weights())
    expected = model.predict(sample, verbose=0)
    error = np.abs(copy.predict(sample, verbose=0) - expected).max()
    if error > 1e-5:
        raise SystemExit(f"The tf_keras copy differs from the Keras 3 model by {error:.2g}.")
    return copy


def _copy(layer: keras.Layer, layers: Any) -> Any:
    config = layer.get_config()
    wanted = {
        "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias"),
        "DepthwiseConv2D": ("kernel_size", "strides", "padding", "use_bias"),
        "BatchNormalization": ("momentum", "epsilon"),
        "ReLU": ("max_value",),
        "GlobalAveragePooling2D": (),
        "MaxPooling2D": ("pool_size",),
        "Flatten": (),
        "Dense": ("units", "activation"),
    }
    name = type(layer).__name__
    arguments = {key: config[key] for key in wanted[name]}
    return getattr(layers, name)(name=layer.name, **arguments)


def polynomial(initial: float, final: float, end_step: int, frequency: int = 100) -> Any:
    """The cubic schedule from step 0."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    return sparsity.PolynomialDecay(initial, final, 0, end_step, frequency=frequency)


def constant(target: float, frequency: int = 100) -> Any:
    """The constant schedule from step 0."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    return sparsity.ConstantSparsity(target, 0, frequency=frequency)


def wrap(model: Any, schedule: Any, n_by_m: tuple[int, int] | None = None) -> Any:
    """The model in tfmot's wrappers; `n_by_m` as its `sparsity_m_by_n`."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    options = {} if n_by_m is None else {"sparsity_m_by_n": n_by_m}
    return sparsity.prune_low_magnitude(model, schedule, **options)


def callback() -> Any:
    """The callback without which tfmot's wrappers refuse to train."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    return sparsity.UpdatePruningStep()


def strip(model: Any) -> Any:
    """The model without wrappers."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    return sparsity.strip_pruning(model)


def quantize_aware(model: Any) -> Any:
    """The model as tfmot's `quantize_model` makes it."""
    from tensorflow_model_optimization.quantization import keras as quantization

    return quantization.quantize_model(model)


def load(path: Any) -> Any:
    """A Keras 2 file."""
    import tf_keras

    return tf_keras.models.load_model(path, compile=False)


def int8_file(model: Any) -> bytes:
    """A quantize-aware model converted as the guide does it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def cosine(rate: float, steps: int) -> Any:
    """tf_keras's cosine learning rate from `rate` to 0."""
    import tf_keras

    return tf_keras.optimizers.schedules.CosineDecay(rate, steps)


def compile_adam(model: Any, rate: Any, metrics: Sequence[str] = ()) -> None:
    """Compiles a classifier with tf_keras's Adam."""
    import tf_keras

    model.compile(
        tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=list(metrics)
    )


def wrap_layers(model: Any, schedule: Any, classes: tuple[str, ...] | None) -> Any:
    """The model with layers of these classes wrapped, as tfmot's guide does; None for all."""
    import tf_keras

    if classes is None:
        return wrap(model, schedule)
    return tf_keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            wrap(layer, schedule) if type(layer).__name__ in classes else layer
        ),
    )


def cluster(model: Any, number: int, classes: tuple[str, ...], zeros: bool = False) -> Any:
    """The model with layers of these classes clustered, as tfmot's guides do it.

    Where zeros are kept, a layer with no more weights of a sign than clusters stays: tfmot may ask
    for more starting points than there are, which ends in an error.
    """
    import tf_keras
    from tensorflow_model_optimization.clustering import keras as clustering
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
        cluster as experimental,
    )

    options: dict[str, Any] = {
        "number_of_clusters": number,
        "cluster_centroids_init": clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
    }
    wrap_weights = clustering.cluster_weights
    if zeros:
        wrap_weights, options["preserve_sparsity"] = experimental.cluster_weights, True

    def wrapped(layer: Any) -> Any:
        if type(layer).__name__ not in classes:
            return layer
        kernel = layer.kernel.numpy()
        if zeros and min((kernel > 0).sum(), (kernel < 0).sum()) <= number:
            return layer
        return wrap_weights(layer, **options)

    return tf_keras.models.clone_model(model, clone_function=wrapped)


def strip_clustering(model: Any) -> Any:
    """The model without the wrappers of `cluster`."""
    from tensorflow_model_optimization.clustering import keras as clustering

    return clustering.strip_clustering(model)


def preserve_quantize_aware(model: Any) -> Any:
    """The pruned and clustered model quantize-aware, zeros and clusters preserved (PCQAT)."""
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
        default_8bit_cluster_preserve_quantize_scheme as own,
    )
    from tensorflow_model_optimization.quantization import keras as quantization

    scheme = own.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    return quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme)
