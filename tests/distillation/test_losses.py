"""The losses against their formulas, written down in NumPy and float64."""

import keras
import numpy as np
import pytest

from tfcompress.distillation import losses


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def softmax(z):
    e = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_divergence(temperature):
    t, s = 5 * random(6, 7), random(6, 7, seed=1)
    p, q = softmax(t / temperature), softmax(s / temperature)
    wanted = temperature**2 * (p * np.log(p / q)).sum(-1)
    close(losses.softened([t], s, temperature), wanted)


def test_an_ensemble_is_the_mean_of_softened_probabilities():
    ts, s = [random(6, 7), 3 * random(6, 7, seed=2)], random(6, 7, seed=1)
    p, q = np.mean([softmax(t / 4) for t in ts], 0), softmax(s / 4)
    close(losses.softened(ts, s, 4.0), 16 * (p * np.log(p / q)).sum(-1))


def test_softened_gradient_is_that_of_hinton():
    import tensorflow as tf

    t, s = random(3, 5), tf.Variable(random(3, 5, seed=1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(losses.softened([t], s, 4.0))
    close(tape.gradient(loss, s), 4 * (softmax(s.numpy() / 4) - softmax(t / 4)))


def test_softened_divergence_of_yes_and_no():
    ts, s = [random(6, 3), random(6, 3, seed=2)], random(6, 3, seed=1)
    p = np.mean([1 / (1 + np.exp(-t.astype(np.float64) / 3)) for t in ts], 0)
    q = 1 / (1 + np.exp(-s.astype(np.float64) / 3))
    wanted = 9 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)
    close(losses.softened_binary(ts, s, 3.0), wanted)


def test_extreme_logits_stay_finite():
    t, s = np.array([[1e4, -1e4, 0]], "float32"), np.array([[-1e4, 1e4, 0]], "float32")
    for loss in (losses.softened, losses.softened_binary):
        assert np.isfinite(np.asarray(loss([t, t], s, 2.0))).all()


def test_hint_of_maps_of_two_sizes():
    t, s = random(2, 4, 4, 3), random(2, 2, 2, 3, seed=1)
    pooled = t.astype(np.float64).reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    close(losses.hint(t, s), ((pooled - s) ** 2).mean((1, 2, 3)))
    close(losses.hint(s, t), ((pooled - s) ** 2).mean((1, 2, 3)))


def test_hint_of_sequences_is_told_for_each_place():
    t, s = random(2, 4, 3), random(2, 4, 3, seed=1)
    close(losses.hint(t, s), ((t.astype(np.float64) - s) ** 2).mean(-1))


def test_attention_maps():
    t, s = random(2, 3, 3, 4), random(2, 3, 3, 2, seed=1)
    maps = [(a.astype(np.float64) ** 2).sum(-1).reshape(2, -1) for a in (t, s)]
    unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    close(losses.attention(t, s), 0.5 * ((unit[0] - unit[1]) ** 2).sum(-1))
    close(losses.attention(t, 3 * t), [0, 0])


def test_attention_matrices():
    t, s = softmax(random(2, 3, 4, 5)), softmax(random(2, 3, 4, 5, seed=1))
    t, s = t.astype("float32"), s.astype("float32")
    wanted = ((t.astype(np.float64) - s) ** 2).sum(-1).mean((1, 2))
    close(losses.attention_scores(t, s), wanted)
    mean = s.astype(np.float64).mean(1, keepdims=True)
    wanted = ((t.astype(np.float64).mean(1, keepdims=True) - mean) ** 2).sum(-1).mean((1, 2))
    close(losses.attention_scores(t, s[:, [0, 1, 2, 0, 1, 2]]), wanted)


def huber(x):
    return np.where(np.abs(x) <= 1, 0.5 * x**2, np.abs(x) - 0.5)


def test_relations_by_plain_loops():
    t, s = random(4, 6), 2 * random(4, 3, seed=1)

    def relations(v):
        v = v.astype(np.float64)
        n = len(v)
        far = np.array([[np.linalg.norm(v[i] - v[j]) for j in range(n)] for i in range(n)])
        cosines = np.zeros((n, n, n))
        for i in range(n):
            for j in range(n):
                for k in range(n):
                    if i not in (j, k):
                        a, b = v[j] - v[i], v[k] - v[i]
                        cosines[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        return far / far[far > 0].mean(), cosines

    (far_t, cos_t), (far_s, cos_s) = relations(t), relations(s)
    wanted = huber(far_s - far_t).mean(1) + 2 * huber(cos_s - cos_t).mean((1, 2))
    close(losses.relational(t, s), wanted)
    close(losses.relational(t, 5 * t + 1), np.zeros(4))  # of scale and place they know nothing


def test_equal_examples_and_single_ones_have_finite_gradients():
    import tensorflow as tf

    for vectors in (np.zeros((3, 2), "float32"), np.ones((1, 2), "float32")):
        s = tf.Variable(vectors)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses.relational(random(len(vectors), 2), s))
        assert np.isfinite(tape.gradient(loss, s)).all()


def test_weights_and_masks_count_as_in_keras():
    t, s, w = random(3, 4, 5), random(3, 4, 5, seed=1), np.array([1.0, 0.0, 2.0], "float32")
    each = np.asarray(losses.softened([t], s, 2.0), np.float64)
    loss = losses.PerExample(lambda a, b: losses.softened(a, b, 2.0))
    close(loss([t], s, w), (each * w[:, None]).mean())
    masked = keras.ops.convert_to_tensor(s)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    masked._keras_mask = keras.ops.convert_to_tensor(mask)
    close(loss([t], masked), each[mask].mean())
