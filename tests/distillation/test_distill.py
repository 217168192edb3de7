"""What `tfc.distill` trains, and what it leaves alone."""

import keras
import numpy as np
import pytest
from distilling import CLASSES, convnet, data, same, values

import tfcompress as tfc

X, Y = data()
TEMPERATURE = 3.0


@pytest.fixture(scope="module")
def teacher():
    return convnet(8)


def compiled(model, loss="sparse_categorical_crossentropy", **options):
    options.setdefault("run_eagerly", True)  # a graph takes seconds to trace
    options.setdefault("jit_compile", False)
    model.compile(keras.optimizers.SGD(0.05), loss, **options)
    return model


def softmax(z):
    e = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(t, s, temperature=TEMPERATURE):
    p, q = softmax(t / temperature), softmax(s / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def logits_of(model, x):
    """By the weights of the last layer, without asking Keras or tfcompress for logits."""
    inner = keras.Model(model.inputs, model.get_layer("scores").input)
    kernel, bias = model.get_layer("scores").get_weights()
    return inner.predict(x, verbose=0).astype(np.float64) @ kernel + bias


def without_dropout(model):
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Dropout, keras.layers.BatchNormalization)):
            layer.trainable = False
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    return model


@pytest.mark.parametrize("end", ["softmax", "layer", "activation", "operation"])
def test_logits_are_taken_from_before_the_softmax_and_the_loss_is_hintons(teacher, end):
    student = without_dropout(convnet(4, end=end, seed=1))
    wanted = divergence(logits_of(teacher, X), logits_of(student, X)).mean()
    labels = -np.log(softmax(logits_of(student, X))[np.arange(len(X)), Y]).mean()
    model = compiled(tfc.distill(student, teacher, temperature=TEMPERATURE, alpha=0.25))
    told = model.compression_report.entries[0].details
    assert told["teacher"] == "before the softmax of 'scores'"
    assert told["student"].startswith("before the softmax of")
    found = model.train_on_batch(X, Y, return_dict=True)
    assert found["distillation_loss"] == pytest.approx(wanted, rel=1e-4)
    assert found["student_loss"] == pytest.approx(labels, rel=1e-4)
    assert found["loss"] == pytest.approx(0.75 * labels + 0.25 * wanted, rel=1e-4)


def test_outputs_that_are_logits_and_probabilities_that_are_not_known(teacher):
    student = without_dropout(convnet(4, end=None, seed=1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wanted = divergence(logits_of(teacher, X), logits_of(student, X)).mean()

    class Hidden(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return 1.0 * self.inner(x)

    hidden = Hidden(teacher)
    hidden.compile(loss="sparse_categorical_crossentropy")
    hidden(X[:1])
    for asked in (teacher, hidden):
        model = compiled(tfc.distill(student, asked, temperature=TEMPERATURE), loss)
        model.fit(X, Y, batch_size=len(X), verbose=0, epochs=1)
        before = model.history.history["distillation_loss"][0]
        if asked is teacher:
            assert before == pytest.approx(wanted, rel=1e-4)
            student = without_dropout(convnet(4, end=None, seed=1))
        else:
            assert before == pytest.approx(wanted, rel=1e-3)
    told = model.compression_report.entries[0].details
    assert told["teacher"] == "recovered from its probabilities"
    assert told["student"] == "its output, as logits"


def test_a_subclassed_student_learns_from_logits_but_not_from_layers(teacher):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat = keras.layers.Flatten()
            self.scores = keras.layers.Dense(CLASSES, activation="softmax")

        def call(self, x):
            return self.scores(self.flat(x))

    student = Own()
    student(X[:1])
    model = compiled(tfc.distill(student, teacher, alpha=1.0))
    losses = model.fit(X, Y, epochs=3, verbose=0).history["distillation_loss"]
    assert losses[-1] < losses[0]
    with pytest.raises(tfc.ModelTypeError, match="Functional or Sequential"):
        tfc.distill(student, teacher, method="hints")


METHODS = ["logits", "hints", "attention", "relational"]


def test_teachers_stay_as_they_are_and_the_student_trains(teacher):
    student = convnet(4, seed=1)
    before, start = values(teacher), values(student)
    model = compiled(
        tfc.distill(student, teacher, method=METHODS), metrics=["accuracy"], run_eagerly=False
    )
    model.fit(X, Y, epochs=2, batch_size=32, verbose=0)
    assert same(values(teacher), before) and teacher.trainable
    assert all(variable.trainable for variable in teacher.get_layer("wide").weights)
    assert not any(
        np.array_equal(a, b) for a, b in zip(start, values(student), strict=True) if a.ndim
    ), "every kernel and every statistic of BatchNorm moves"
    assert model.student is student
    ours = model.evaluate(X, Y, verbose=0, return_dict=True)
    student.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    student.jit_compile = False
    assert np.array_equal(model.predict(X, verbose=0), student.predict(X, verbose=0))
    assert ours == pytest.approx(student.evaluate(X, Y, verbose=0, return_dict=True), rel=1e-5)
    assert not any("hint" in variable.path for variable in student.variables)


def test_under_xla_and_several_steps_in_one_execution():
    def dense(width, seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((6,))
        x = keras.layers.Dense(width, "relu", name="hidden")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, "softmax", name="scores")(x))

    x, y = np.random.default_rng(0).random((64, 6), "float32"), np.arange(64) % 3
    found = []
    for options in ({"jit_compile": True, "steps_per_execution": 2}, {"jit_compile": False}):
        student = dense(4, 0)
        model = tfc.distill(student, dense(9, 1), method=["logits", "hints"])
        compiled(model, run_eagerly=False, **options)
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        found.append(student.get_weights())
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_batchnorm_and_dropout_see_one_pass_in_a_step(teacher):
    student = convnet(4, seed=1)
    norm = student.get_layer("wide_norm")
    mean = keras.Model(student.inputs, norm.input).predict(X, verbose=0).mean((0, 1, 2))
    model = compiled(tfc.distill(student, teacher, method=["logits", "hints"]))
    model.train_on_batch(X, Y)
    np.testing.assert_allclose(
        norm.moving_mean.numpy(), (1 - norm.momentum) * mean, rtol=1e-3, atol=1e-7
    )


def test_the_same_seed_gives_the_same_student(teacher):
    found = []
    for _ in range(2):
        student = convnet(4, seed=1)
        model = compiled(tfc.distill(student, teacher, method=["logits", "hints"]))
        model.fit(X, Y, epochs=2, batch_size=32, verbose=0)
        found.append(values(student))
    assert same(*found)


def test_ensembles(teacher):
    other, student = convnet(6, seed=5), without_dropout(convnet(4, seed=1))
    p = np.mean([softmax(logits_of(m, X) / TEMPERATURE) for m in (teacher, other)], 0)
    q = softmax(logits_of(student, X) / TEMPERATURE)
    wanted = TEMPERATURE**2 * (p * np.log(p / q)).sum(-1).mean()
    model = compiled(tfc.distill(student, [teacher, other], temperature=TEMPERATURE, alpha=1.0))
    found = model.train_on_batch(X, Y, return_dict=True)
    assert found["distillation_loss"] == pytest.approx(wanted, rel=1e-4)
    model = compiled(tfc.distill(student, [teacher, other], method=["hints", "attention"]))
    assert np.isfinite(model.train_on_batch(X, Y, return_dict=True)["loss"])
    assert {tuple(r.kernel.shape) for r in model.regressors} == {(4, 8), (8, 16), (4, 6), (8, 12)}


def test_sample_weights_class_weights_and_regularizers(teacher):
    student = without_dropout(convnet(4, seed=1))
    t, s = logits_of(teacher, X), logits_of(student, X)
    weights = np.linspace(0, 2, len(X)).astype("float32")
    wanted = (weights * divergence(t, s)).mean()
    labels = (weights * -np.log(softmax(s)[np.arange(len(X)), Y])).mean()
    student.get_layer("wide").kernel.regularizer = keras.regularizers.L2(0.1)
    kernel = student.get_layer("wide").kernel.numpy().astype(np.float64)
    model = compiled(tfc.distill(student, teacher, temperature=TEMPERATURE))
    before = student.get_weights()
    found = model.train_on_batch(X, Y, sample_weight=weights, return_dict=True)
    penalty = 0.1 * (kernel**2).sum()
    assert found["distillation_loss"] == pytest.approx(wanted, rel=1e-4)
    assert found["loss"] == pytest.approx(0.5 * (wanted + labels) + penalty, rel=1e-4)
    student.set_weights(before)
    factors = {c: 1.0 + c for c in range(CLASSES)}
    weighted = (np.array([factors[c] for c in Y]) * divergence(t, s)).mean()
    history = model.fit(X, Y, batch_size=len(X), class_weight=factors, verbose=0).history
    assert history["distillation_loss"][0] == pytest.approx(weighted, rel=1e-4)


def heads(width, seed):
    """Two inputs; a probability, three numbers, and a softmax for each of 4 places."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4, 2), name="b")}
    x = layers.Dense(width, activation="relu")(inputs["a"])
    sequence = layers.Dense(width, activation="relu")(inputs["b"])
    outputs = {
        "yes": layers.Dense(1, activation="sigmoid", name="yes")(x),
        "numbers": layers.Dense(3, name="numbers")(x),
        "tokens": layers.Dense(5, activation="softmax", name="tokens")(sequence),
    }
    return keras.Model(inputs, outputs)


def test_several_outputs_of_several_kinds():
    student, teacher = heads(4, 0), heads(9, 1)
    generator = np.random.default_rng(0)
    x = {"a": generator.random((16, 4)), "b": generator.random((16, 4, 2))}
    y = {
        "yes": np.ones((16, 1)), "numbers": np.zeros((16, 3)), "tokens": np.ones((16, 4), int),
    }  # fmt: skip
    ours, theirs = (model.predict(x, verbose=0) for model in (student, teacher))

    def logit(p):
        return np.log(p / (1 - p))

    p, q = (1 / (1 + np.exp(-logit(o["yes"].astype(np.float64)) / 4)) for o in (theirs, ours))
    yes = 16 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    numbers = ((ours["numbers"] - theirs["numbers"]) ** 2).mean()
    tokens = divergence(np.log(theirs["tokens"]), np.log(ours["tokens"]), 4.0).mean()
    model = tfc.distill(student, teacher)
    losses = {
        "yes": "binary_crossentropy", "numbers": "mse", "tokens": "sparse_categorical_crossentropy",
    }  # fmt: skip
    compiled(model, losses, loss_weights={"yes": 1.0, "numbers": 0.5, "tokens": 2.0})
    kinds = {e.name: e.details["compared"] for e in model.compression_report.entries}
    assert kinds == {
        "yes": "softened sigmoid", "numbers": "squares", "tokens": "softened softmax",
    }  # fmt: skip
    found = model.train_on_batch(x, y, return_dict=True)["distillation_loss"]
    assert found == pytest.approx(yes + 0.5 * numbers + 2 * tokens, rel=1e-3)


def test_alpha_follows_a_schedule(teacher):
    seen = []

    class Seen(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.alpha.numpy()))

    model = compiled(tfc.distill(convnet(4), teacher, alpha=lambda step: min(1.0, step / 4)))
    model.fit(X, Y, batch_size=32, epochs=2, verbose=0, callbacks=[Seen()])
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1]
    with pytest.raises(tfc.ConfigError, match="function"):
        model.get_config()
    schedule = tfc.PolynomialDecay(0.2, 0.6, 0, 2, power=1, frequency=1)
    model = compiled(tfc.distill(convnet(4), teacher, alpha=schedule))
    model.fit(X, Y, batch_size=32, epochs=2, verbose=0)
    assert float(model.alpha.numpy()) == pytest.approx(0.6)


def test_without_labels(teacher):
    model = tfc.distill(convnet(4), teacher, alpha=1.0)
    model.compile("adam", run_eagerly=True)
    losses = model.fit(X, epochs=3, verbose=0).history["distillation_loss"]
    assert losses[-1] < losses[0]
    with pytest.raises(tfc.ConfigError, match="loss"):
        tfc.distill(convnet(4), teacher).compile("adam")


def test_save_and_load_goes_on_with_the_same_numbers(teacher, tmp_path):
    student = without_dropout(convnet(4, seed=1))
    model = compiled(
        tfc.distill(student, teacher, method={"logits": 2.0, "hints": 0.1}),
        metrics=["accuracy"],
    )
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, keras.distillation.Distiller)
    for ours, theirs in (
        (loaded.student, student), (loaded.teacher.members[0], teacher), (loaded, model)
    ):  # fmt: skip
        assert same(ours.get_weights(), theirs.get_weights())
    assert str(loaded.compression_report) == str(model.compression_report)
    for each in (model, loaded):
        keras.utils.set_random_seed(3)
        each.fit(X, Y, verbose=0, shuffle=False)
    assert same(loaded.student.get_weights(), student.get_weights())


def test_losses_of_keras_are_taken(teacher):
    student = without_dropout(convnet(4, seed=1))
    t, s = logits_of(teacher, X), logits_of(student, X)
    of_keras = keras.distillation.LogitsDistillation(
        temperature=TEMPERATURE, loss=keras.losses.KLDivergence()
    )
    model = compiled(tfc.distill(student, teacher, method=of_keras))
    assert not model.compression_report.notes
    found = model.train_on_batch(X, Y, return_dict=True)["distillation_loss"]
    assert found == pytest.approx(divergence(t, s).mean(), rel=1e-3)
    features = keras.distillation.FeatureDistillation(
        "mse", teacher_layer_name="embedding", student_layer_name="embedding"
    )
    model = compiled(tfc.distill(convnet(8, seed=2), teacher, method=["logits", features]))
    model.train_on_batch(X, Y)
    broken = keras.distillation.LogitsDistillation()  # see the note
    model = tfc.distill(student, teacher, method=broken)
    assert "KLDivergence()" in model.compression_report.notes[0]


def test_mixed_precision(teacher):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        student = convnet(4, seed=1)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = compiled(tfc.distill(student, teacher, method=METHODS))
    history = model.fit(X, Y, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert student.get_layer("wide").compute_dtype == "float16"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"temperature": 0}, "temperature"),
        ({"alpha": 1.5}, "alpha"),
        ({"method": "logit"}, "method"),
        ({"method": ["hints", "hints"]}, "once"),
        ({"method": "hints", "pairs": [("wide", "deepest")]}, "deepest"),
        ({"method": "hints", "pairs": [("wide", "embedding")]}, "axes"),
        ({"method": "attention", "pairs": {"embedding": "embedding"}}, "positions"),
        ({"pairs": [("wide", "wide")]}, "pairs"),
        ({"method": {"logits": -1.0}}, "weight"),
        ({"method": "hints", "pairs": 3}, "list or a dict"),
        ({"alpha": lambda step: 2.0}, "2.0 at step 0"),
        ({"alpha": lambda step: None}, "None at step 0"),
    ],
)
def test_wrong_arguments(teacher, options, says):
    with pytest.raises(tfc.ConfigError, match=says):
        tfc.distill(convnet(4), teacher, **options)


def test_wrong_models(teacher):
    with pytest.raises(tfc.ModelTypeError):
        tfc.distill("student", teacher)
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.distill(convnet(4), keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(tfc.ConfigError, match="share"):
        tfc.distill(teacher, teacher)
    with pytest.raises(tfc.ConfigError, match="same outputs"):
        tfc.distill(heads(4, 0), teacher)
    with pytest.raises(tfc.ConfigError, match="at least one"):
        tfc.distill(teacher, [])
    for said in ("teacher.npy", np.zeros((4, CLASSES))):
        with pytest.raises(tfc.ModelTypeError, match="CachedTeacher"):
            tfc.distill(convnet(4), said)


def test_teachers_must_take_the_students_inputs():
    def net(shape):
        inputs = keras.Input(shape)
        flat = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 1)(inputs))
        return keras.Model(inputs, keras.layers.Softmax()(flat))

    for shape in ((8, 8, 1), (6, 6, 3)):
        with pytest.raises(tfc.ConfigError, match="same inputs"):
            tfc.distill(net((8, 8, 3)), net(shape))
    tfc.distill(net((8, 8, 3)), net((None, None, 3)))


@pytest.mark.parametrize("outputs", [{"scorse": "softmax"}, ["softmax", "softmax"], "logits"])
def test_what_outputs_are_must_name_the_outputs(teacher, outputs):
    model = tfc.distill(convnet(4), teacher, outputs=outputs)
    with pytest.raises(tfc.ConfigError, match="`outputs` takes"):
        model.compile("adam", "sparse_categorical_crossentropy")


def test_a_share_that_a_schedule_cannot_give_stops_the_training(teacher):
    model = compiled(tfc.distill(convnet(4), teacher, alpha=lambda step: 0.8 + 0.3 * step))
    with pytest.raises(tfc.ConfigError, match="at step 1"):
        model.fit(X, Y, batch_size=32, verbose=0)


def test_a_keras_2_teacher_is_told_where_to_go():
    import tf_keras

    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    old = tf_keras.Sequential([tf_keras.layers.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(tfc.ModelTypeError, match=r"`teacher` must be a Keras 3 model.*to_keras3"):
        tfc.distill(student, old)
    with pytest.raises(tfc.ModelTypeError, match="`teacher` must be a keras"):
        tfc.distill(student, None)
