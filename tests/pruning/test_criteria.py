import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import SCHEDULE, assert_exact, compiled, data, small_model, train, zeros

import tfcompress as tfc
from tfcompress.pruning.masks import lowest_mask, zeros_for


def full_gradients(model):
    """Gradients of the mean loss over all examples, by the plain definition."""
    x, y = data()
    with tf.GradientTape() as tape:
        loss = model.loss(y, model(x))
    variables = [layer.kernel for layer in model.layers]
    return [g.numpy() for g in tape.gradient(loss, [v.value for v in variables])]


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "snip", "movement"])
@pytest.mark.parametrize("pooling", ["layer", "global", "erk"])
def test_every_criterion_meets_the_target(criterion, pooling):
    model = compiled()
    callback = tfc.PruningCallback(SCHEDULE, criterion=criterion, pooling=pooling)
    train(model, callback)
    total = sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in model.layers)
    assert sum(zeros(model).values()) == zeros_for(0.75, total)
    if pooling == "layer":
        assert_exact(model, 0.75)


@pytest.mark.parametrize("criterion", ["taylor", "snip"])
def test_taylor_and_snip_are_weight_times_gradient(criterion):
    """One full batch, plain gradient descent with a step of (almost) nothing."""
    keras.utils.set_random_seed(3)
    model = compiled(small_model(), keras.optimizers.SGD(1e-12))
    before = [layer.kernel.numpy() for layer in model.layers]
    gradients = full_gradients(model)
    callback = tfc.PruningCallback(tfc.OneShot(0.6, step=1), criterion=criterion)
    model.fit(*data(), batch_size=64, epochs=1, verbose=0, shuffle=False, callbacks=[callback])
    for layer, weights, gradient in zip(model.layers, before, gradients, strict=True):
        scores = np.abs(weights * gradient)
        expected = lowest_mask(scores, zeros_for(0.6, scores.size))
        wrong = (layer.kernel.numpy() != 0) != expected
        # Rounding may swap two scores that are nearly equal, no others.
        threshold = np.sort(scores.reshape(-1))[zeros_for(0.6, scores.size)]
        assert np.allclose(scores[wrong], threshold, rtol=1e-3)


def test_taylor_sums_over_steps_and_starts_anew_after_an_update():
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(pruning._pruner.groups[0].seen.numpy()))

    model = compiled()
    pruning = tfc.PruningCallback(
        tfc.PolynomialDecay(0.0, 0.5, 0, 12, frequency=4), criterion="taylor"
    )
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[pruning, Spy()])
    # Steps 1 to 16: an update at the first step with a gradient, then at 4, 8 and 12.
    assert seen == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_snip_decides_once():
    """Its masks grow, and what the first gradients ranked lowest goes first."""
    masks = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append(pruning._pruner.groups[0].targets[0].mask.numpy())

    model = compiled()
    pruning = tfc.PruningCallback(SCHEDULE, criterion="snip")
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[pruning, Spy()])
    products = pruning._pruner.groups[0].targets[0].products.numpy()
    for earlier, later in itertools.pairwise(masks):
        assert not (later & ~earlier).any()
    assert products[masks[-1]].min() >= products[~masks[-1]].max()


def test_movement_is_minus_the_sum_of_weight_times_gradient_and_revives():
    """Against the paper's definition, step by step in NumPy: S -= w * g, masked w kept aside."""
    keras.utils.set_random_seed(5)
    model = compiled(small_model(), keras.optimizers.SGD(0.5))
    kernel = model.layers[0].kernel
    pruning = tfc.Pruner(model, tfc.ConstantSparsity(0.5, 0, frequency=1), criterion="movement")
    sums = np.zeros(kernel.shape)
    aside = kernel.numpy()
    revived = False
    x, y = data()
    for step in range(1, 12):
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        mask = pruning.groups[0].targets[0].mask.numpy()
        effective = np.where(mask, kernel.numpy(), aside)
        sums += effective * gradients[0].numpy()
        model.optimizer.apply(gradients, model.trainable_variables)
        trained = kernel.numpy()
        aside = np.where(mask, trained, aside)
        pruning.step(step)
        new = pruning.groups[0].targets[0].mask.numpy()
        revived = revived or bool((new & ~mask).any())
        assert (-sums)[new].min() >= (-sums)[~new].max() - 1e-5
        np.testing.assert_allclose(kernel.numpy(), np.where(new, aside, 0), atol=1e-6)
    assert revived
    pruning.finish()


def test_a_users_own_criterion_gets_weights_and_mean_gradients():
    received = []

    def own(weights, gradients):
        received.append((weights.copy(), gradients.copy()))
        return np.abs(weights) + 3 * np.abs(gradients)

    keras.utils.set_random_seed(3)
    model = compiled(small_model(), keras.optimizers.SGD(1e-12))
    gradients = full_gradients(model)
    callback = tfc.PruningCallback(tfc.OneShot(0.5, step=4), criterion=own)
    model.fit(*data(), batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    assert_exact(model, 0.5)
    # Four batches of 16: their mean gradient is that of all 64 examples.
    for (_, got), expected in zip(received, gradients, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert callback.report.settings["criterion"] == "own"


@pytest.mark.parametrize(
    "criterion, words",
    [
        ("magnitud", "must be one of 'magnitude', 'taylor'"),
        (3, "must be one of"),
        (None, "must be one of"),
    ],
)
def test_a_wrong_criterion(criterion, words):
    with pytest.raises(tfc.ConfigError, match=words):
        tfc.PruningCallback(SCHEDULE, criterion=criterion)


@pytest.mark.parametrize(
    "own, words",
    [
        (lambda w, g: np.zeros(3), "one score for each weight"),
        (lambda w, g: w * np.nan, "must not return NaN"),
    ],
)
def test_a_criterion_that_returns_nonsense(own, words):
    with pytest.raises(tfc.ConfigError, match=words):
        train(compiled(), tfc.PruningCallback(SCHEDULE, criterion=own))


def test_embeddings_have_sparse_gradients():
    model = keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            keras.layers.Embedding(20, 6),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )
    compiled(model)
    x = np.random.default_rng(0).integers(0, 20, (64, 8))
    callback = tfc.PruningCallback(SCHEDULE, criterion="movement")
    model.fit(x, data()[1], batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    assert_exact(model, 0.75)


def test_frozen_layers_cannot_be_judged_by_gradients():
    model = small_model()
    model.get_layer("second").trainable = False
    compiled(model)
    callback = tfc.PruningCallback(SCHEDULE, criterion="taylor", include=["first", "second"])
    train(model, callback)
    (left,) = [entry for entry in callback.report.left if entry.name == "second"]
    assert "no gradient" in left.reason
    assert zeros(model)["second"] == 0


def test_pruner_without_an_optimizer_says_what_it_needs():
    with pytest.raises(tfc.ConfigError, match="pass `optimizer=`"):
        tfc.Pruner(small_model(), SCHEDULE, criterion="taylor")


def test_rigl_moves_the_pattern_by_gradient_and_keeps_the_count():
    model = compiled(optimizer=keras.optimizers.SGD(0.1))
    masks = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append([t.mask.numpy() for t in pruning._pruner.groups[0].targets])

    schedule = tfc.RigL(0.75, begin_step=0, end_step=18, fraction=0.3, frequency=3)
    pruning = tfc.PruningCallback(schedule)
    keras.utils.set_random_seed(1)
    model.fit(*data(), batch_size=8, epochs=3, verbose=0, callbacks=[pruning, Spy()])
    sizes = [layer.kernel.numpy().size for layer in model.layers]
    for at in masks:
        for mask, size in zip(at, sizes, strict=True):
            assert (~mask).sum() == zeros_for(0.75, size)
    moved = [
        sum((a != b).sum() for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(masks)
    ]
    assert sum(moved[:16]) > 0
    # No move from the end step on (step 18 is the 18th update, index 17).
    assert not any(moved[17:])
    pruning_steps = [i for i, m in enumerate(moved) if m]
    assert all((i + 2) % 3 == 0 for i in pruning_steps)


def test_rigl_grows_where_the_gradient_is_largest():
    from tfcompress.pruning.patterns import as_pattern
    from tfcompress.pruning.regrowth import moved

    pattern = as_pattern("unstructured")
    weights = np.array([[[0.0, 0.0, 0.0, 0.5, 0.1, 0.9, 0.3, 0.7]]])
    mask = weights != 0
    gradients = np.array([[[0.2, 0.9, 0.1, 0.0, 0.05, 0.0, 0.0, 0.0]]])
    kept = moved(pattern.units(weights, mask), gradients.reshape(-1), 0.2)
    # Of five kept weights one moves: 0.1 is dropped, the gradient of 0.9 grows.
    assert kept.tolist() == [False, True, False, True, False, True, True, True]


@pytest.mark.parametrize("pattern", ["unstructured", "block:2x2"])
@pytest.mark.parametrize("pooling", ["layer", "global", "erk"])
def test_rigl_with_patterns_and_pooling(pattern, pooling):
    model = compiled()
    schedule = tfc.RigL(0.5, begin_step=2, end_step=16, frequency=3)
    train(model, tfc.PruningCallback(schedule, pattern=pattern, pooling=pooling))
    # Whole blocks: half of one in each of the three kernels, and at each move.
    allowed = 0.01 if pattern == "unstructured" else 0.03
    assert tfc.sparsity(model)["total"] == pytest.approx(0.5, abs=allowed)
