import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress import registry
from tfcompress.pruning.masks import lowest_mask, zeros_for
from tfcompress.pruning.patterns import NofM, as_pattern, from_matrix, to_matrix
from tfcompress.pruning.pooling import per_layer

layers = keras.layers

# A kernel's shape as (spatial, inputs, outputs) and a seed for its scores.
matrices = st.tuples(
    st.integers(1, 4), st.integers(1, 11), st.integers(1, 9), st.integers(0, 2**32 - 1)
)


def mask_of(pattern, scores, sparsity):
    units = pattern.units(scores, np.ones(scores.shape, bool))
    (count,) = per_layer([units], [scores.shape], sparsity, 0.0, 1.0)
    return pattern.expand(lowest_mask(units.scores, count), scores.shape)


def scores_of(drawn):
    spatial, inputs, outputs, seed = drawn
    # Few distinct values, so that ties are common.
    return np.random.default_rng(seed).integers(0, 6, (spatial, inputs, outputs)).astype("float32")


@given(matrices, st.floats(0, 0.99))
@settings(max_examples=150, deadline=None)
def test_unstructured_meets_the_target_to_the_weight(drawn, sparsity):
    scores = scores_of(drawn)
    mask = mask_of(as_pattern("unstructured"), scores, sparsity)
    assert (~mask).sum() == zeros_for(sparsity, scores.size)
    if mask.any() and (~mask).any():
        assert scores[~mask].max() <= scores[mask].min()


@given(matrices, st.integers(1, 4), st.integers(1, 4), st.floats(0, 0.99), st.booleans())
@settings(max_examples=150, deadline=None)
def test_blocks_are_whole_and_the_lowest(drawn, rows, columns, sparsity, largest):
    scores = scores_of(drawn)
    text = f"block:{rows}x{columns}" + (":max" if largest else "")
    pattern = as_pattern(text)
    assert str(pattern) == text
    mask = mask_of(pattern, scores, sparsity)
    kept, gone, sizes = [], [], []
    for position in range(scores.shape[0]):
        for row in range(0, scores.shape[1], rows):
            for column in range(0, scores.shape[2], columns):
                where = (position, slice(row, row + rows), slice(column, column + columns))
                block = mask[where]
                assert block.all() or not block.any()
                score = scores[where].max() if largest else scores[where].mean(dtype=np.float64)
                (kept if block.all() else gone).append(score)
                sizes.append(block.size)
    if kept and gone:
        assert max(gone) <= min(kept) + 1e-6
    assert kept or max(sizes) == 1  # one block always stays; single weights are exact instead
    # As near to the target as whole blocks allow: no block fits into what is missing.
    assert len(kept) == 1 or abs((~mask).sum() - sparsity * scores.size) <= max(sizes) / 2 + 0.5


@given(matrices, st.integers(1, 7), st.integers(2, 8))
@settings(max_examples=150, deadline=None)
def test_n_of_m_holds_in_every_group_and_keeps_the_best(drawn, keep, group):
    keep = min(keep, group - 1)
    scores = scores_of(drawn)
    mask = mask_of(NofM(keep, group), scores, 1 - keep / group)
    for start in range(0, scores.shape[1], group):
        part = mask[:, start : start + group]
        count = part.sum(axis=1)
        assert (count == min(keep, part.shape[1])).all()
        values = scores[:, start : start + group]
        worst_kept = np.where(part, values, np.inf).min(axis=1)
        best_gone = np.where(part, -np.inf, values).max(axis=1)
        assert (best_gone <= worst_kept).all()


def test_n_of_m_on_the_way_keeps_at_least_n_and_meets_the_target():
    scores = np.random.default_rng(0).random((1, 16, 8), "float32")
    mask = mask_of(NofM(2, 4), scores, 0.3)
    assert (~mask).sum() == zeros_for(0.3, mask.size)
    assert (mask.reshape(1, 4, 4, 8).sum(axis=2) >= 2).all()


AXES = [
    (layers.Dense(5), (None, 7), ["io"]),
    (layers.Conv2D(5, 3), (None, 9, 9, 4), ["ssio"]),
    (layers.Conv1D(5, 3), (None, 9, 4), ["sio"]),
    (layers.Conv3D(5, 3), (None, 9, 9, 9, 4), ["sssio"]),
    (layers.Conv2DTranspose(5, 3), (None, 9, 9, 4), ["ssoi"]),
    (layers.DepthwiseConv2D(3), (None, 9, 9, 4), ["ssoo"]),
    (layers.SeparableConv2D(5, 3), (None, 9, 9, 4), ["ssio"]),
    (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (None, 6, 4), ["ioo"]),
    (layers.EinsumDense("abcd,cde->abe", (None, 5)), (None, 6, 2, 3), ["iio"]),
    (layers.Embedding(10, 4), (None, 3), ["oi"]),
    (layers.LSTMCell(3), (None, 4), ["io", "io"]),
]


@pytest.mark.parametrize(
    "layer, shape, expected",
    AXES,
    ids=[type(layer).__name__ + str(i) for i, (layer, _, _) in enumerate(AXES)],
)
def test_axes_of_every_kind_of_kernel(layer, shape, expected):
    layer.build(shape)
    kernels = registry.kernels(layer)
    assert [registry.axes(layer, kernel) for kernel in kernels] == expected
    for kernel, axes in zip(kernels, expected, strict=True):
        value = keras.ops.convert_to_numpy(kernel)
        matrix = to_matrix(value, axes)
        assert matrix.ndim == 3
        np.testing.assert_array_equal(from_matrix(matrix, value.shape, axes), value)


def fitted(model, **options):
    generator = np.random.default_rng(0)
    x = generator.random((32, *model.input_shape[1:]), "float32")
    y = generator.random((32, *model.output_shape[1:]), "float32")
    model.compile("adam", "mse")
    callback = tfc.PruningCallback(**options)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    return callback


def test_two_of_four_in_the_layout_that_the_file_stores():
    """Read back from the .tflite, whose last axis of weights is the input."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            layers.Conv2D(12, 3, strides=2, name="conv"),
            layers.Conv2DTranspose(16, 2, name="transposed"),
            layers.Flatten(),
            layers.Dense(8, name="dense"),
        ]
    )
    fitted(model, schedule=tfc.ConstantSparsity(0.5, 2), pattern="2:4")
    assert tfc.sparsity(model)["total"] == 0.5

    tflite = tfc.convert(model, "fp32")
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=tflite.content)
    interpreter.allocate_tensors()
    checked = 0
    for detail in interpreter.get_tensor_details():
        if len(detail["shape"]) in (2, 4) and np.prod(detail["shape"]) >= 256:
            try:
                value = interpreter.get_tensor(detail["index"])
            except ValueError:
                continue
            if detail["shape"][0] == 1 or (value != 0).mean() > 0.6 or not value.any():
                continue
            groups = value.reshape(-1, value.shape[-1] // 4, 4)
            assert ((groups != 0).sum(-1) <= 2).all()
            checked += 1
    assert checked == 3


def test_a_pattern_that_does_not_fit_leaves_the_layer_and_says_why():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    callback = fitted(
        model, schedule=tfc.OneShot(0.5, 1), pattern="2:4", include=["depthwise", "dense*"]
    )
    (left,) = [entry for entry in callback.report.left if entry.name == "depthwise"]
    assert "2:4 needs more than 2 inputs" in left.reason


@pytest.mark.parametrize(
    "pattern", ["4:2", "2:2", "block:0x4", "block:4", "blocks", "0:4", 3, None, "block:2x2:sum"]
)
def test_a_wrong_pattern_is_told_with_the_right_ones(pattern):
    with pytest.raises(tfc.ConfigError, match=r'"unstructured".*"N:M"'):
        tfc.PruningCallback(tfc.ConstantSparsity(0.5, 0), pattern=pattern)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pattern": "2:4", "schedule": tfc.ConstantSparsity(0.6, 0)}, "must end at 0.5"),
        (
            {"pattern": "2:4", "schedule": tfc.ConstantSparsity(0.5, 0), "pooling": "global"},
            "goes with",
        ),
        ({"pattern": "2:4", "schedule": tfc.RigL(0.5, 0, 10)}, "RigL moves single weights"),
    ],
)
def test_what_contradicts_n_of_m(options, words):
    with pytest.raises(tfc.ConfigError, match=words):
        tfc.PruningCallback(**options)
