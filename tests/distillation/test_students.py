"""Students that are pruned, clustered or quantize-aware, and callbacks in the same `fit`."""

import keras
import numpy as np
import pytest
from distilling import convnet, data, same

import tfcompress as tfc
from tfcompress import registry

X, Y = data()
HALF = tfc.ConstantSparsity(0.5, begin_step=0, frequency=1)


@pytest.fixture(scope="module")
def teacher():
    return convnet(8)


def fitted(model, callbacks=(), epochs=1, **options):
    options.setdefault("run_eagerly", True)
    model.compile(
        keras.optimizers.SGD(0.02), "sparse_categorical_crossentropy", jit_compile=False, **options
    )
    model.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def test_pruning_callback_prunes_the_student_to_the_weight(teacher):
    student = convnet(4, seed=1)
    before = teacher.get_weights()
    pruning = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.75, 0, 4, frequency=1))
    fitted(tfc.distill(student, teacher, method=["logits", "hints"]), [pruning], epochs=2)
    assert [entry.name for entry in pruning.report.changed] == ["wide", "deep", "scores"]
    for name, share in tfc.sparsity(student).items():
        if name != "total":
            kernel = student.get_layer(name).kernel.numpy()
            assert (kernel == 0).sum() == round(0.75 * kernel.size), (name, share)
    assert same(before, teacher.get_weights())


def test_the_zeros_hold_within_an_execution_of_a_graph(teacher):
    student, counted = convnet(4, seed=1), []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counted.append(float((student.get_layer("deep").kernel.numpy() == 0).mean()))

    model = tfc.distill(student, teacher)
    once = tfc.PruningCallback(tfc.OneShot(0.5, 0), criterion="taylor")
    fitted(model, [once, Count()], epochs=2, run_eagerly=False, steps_per_execution=3)
    assert counted[-1] == 0.5


def test_keras_own_distiller_is_seen_through_too(teacher):
    student = convnet(4, seed=1)
    model = keras.distillation.Distiller(
        convnet(8), student, keras.distillation.LogitsDistillation()
    )
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    pruning = tfc.PruningCallback(HALF, include="deep")
    model.fit(X, Y, verbose=0, callbacks=[pruning])
    assert tfc.sparsity(student)["deep"] == 0.5
    assert registry.student_of(model) is student
    assert registry.student_of(teacher) is teacher


def test_a_model_of_tfc_prune_is_driven(teacher):
    student = tfc.prune(convnet(4, seed=1), HALF)
    model = fitted(tfc.distill(student, teacher, method=["logits", "attention"]))
    assert "sparsity" in student.compression_report.settings
    plain = tfc.strip(model)
    assert tfc.sparsity(plain)["total"] == 0.5
    assert np.array_equal(plain(X[:8]), student(X[:8]))


def test_a_clustered_student_keeps_its_values(teacher):
    student = tfc.cluster(convnet(4, seed=1), 4)
    start = tfc.strip(student).get_layer("deep").kernel.numpy()
    fitted(tfc.distill(student, teacher))
    kernel = tfc.strip(student).get_layer("deep").kernel.numpy()
    assert len(np.unique(kernel)) == 4 and not np.array_equal(start, kernel)


@pytest.fixture(scope="module")
def quantized(teacher):
    source = convnet(4, seed=1)
    pruner = tfc.Pruner(source, HALF)
    pruner.step(0)
    pruner.finish()
    scheme = tfc.QuantizationScheme(batchnorm="live")
    student = tfc.quantize_aware(source, scheme, calibration_data=X, preserve="sparsity")
    ranges = [np.asarray(v) for v in student.non_trainable_variables]
    frozen = tfc.QuantizationCallback(freeze_batchnorm=1, freeze_ranges=1)
    model = fitted(
        tfc.distill(student, teacher, method=["logits", "hints", "attention"]), [frozen], epochs=2
    )
    return model, student, ranges


def test_a_quantize_aware_student_trains_with_its_ranges(quantized):
    model, student, ranges = quantized
    told = model.compression_report.entries[0].details["student"]
    assert told.startswith("before the softmax of")
    after = [np.asarray(v) for v in student.non_trainable_variables]
    assert not same(ranges, after)
    norms = [layer.norm for layer in student.layers if getattr(layer, "norm", None) is not None]
    assert norms and all(norm.frozen for norm in norms)


def test_its_file_computes_the_same_bits(quantized):
    model, student, _ = quantized
    tflite = tfc.convert(model, "int8", verify=X)  # the student
    student.compile(jit_compile=False)
    assert np.array_equal(tflite.predict(X), student.predict(X, verbose=0))
    kernels = [layer.effective_kernel() for layer in student.layers if hasattr(layer, "kernel")]
    assert all((np.asarray(kernel) == 0).mean() == 0.5 for kernel in kernels)


def test_a_training_that_is_resumed(teacher, tmp_path):
    def training(stop):
        keras.utils.set_random_seed(0)
        student = convnet(4, seed=1)
        model = tfc.distill(student, teacher, method=["logits", "hints"])
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        callbacks = [tfc.PruningCallback(HALF), tfc.Resume(tmp_path / "run")]

        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == stop:
                    raise KeyboardInterrupt

        try:
            options = {"epochs": 3, "batch_size": 16, "verbose": 0}
            model.fit(X[:32], Y[:32], callbacks=[Stop(), *callbacks], **options)
        except KeyboardInterrupt:
            return None
        return [*student.get_weights(), *model.regressors[0].get_weights()]

    whole = training(None)
    assert training(2) is None
    assert same(whole, training(None))
