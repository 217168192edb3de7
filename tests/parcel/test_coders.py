"""The coders by themselves: what goes in comes out, for every type and shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.parcel import palette, small, wide
from tfcompress.parcel.entropy import Decoder, Encoder, Tape
from tfcompress.parcel.mixing import Mixer
from tfcompress.parcel.scan import scan_of

SHAPES = [
    (7,),
    (5, 9),
    (1, 40, 40, 1),
    (3, 1100, 2),
    (4, 3, 3, 5),
    (1, 3, 3, 24),
    (1, 1),
    (3, 2, 2, 2, 4),
    (40, 70),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, -1])
def test_a_scan_visits_every_value_once(shape, axis):
    scan = scan_of(shape, axis % len(shape))
    positions = np.concatenate([batch.position for batch in scan.batches()])
    assert sorted(positions) == list(range(np.prod(shape)))
    index = np.arange(np.prod(shape)).reshape(shape)
    for batch in scan.batches():
        if scan.rows > 1:  # a row is one output channel
            rows = np.moveaxis(index, -1 if scan.rows_last else 0, 0).reshape(scan.rows, -1)
            assert all(p in rows[r] for p, r in zip(batch.position, batch.row, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zeros", [0.0, 0.9, 1.0])
def test_small_numbers(shape, zeros):
    random = np.random.default_rng(len(shape))
    values = random.integers(-128, 128, np.prod(shape)).astype("int16")
    values[random.random(len(values)) < zeros] = 0
    scan = scan_of(shape, 0)
    encoder = Encoder()
    small.SmallCoder(Mixer(encoder, small.INPUTS, small.SETS)).code(scan, 7, values)
    decoder = Decoder(*encoder.finish())
    found = small.SmallCoder(Mixer(decoder, small.INPUTS, small.SETS)).code(scan, 7, None)
    decoder.finish()
    assert (found == values).all()


@pytest.mark.parametrize("dtype", [*wide.FLOATS, *wide.INTEGERS])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_wide_numbers(dtype, data):
    size = (wide.FLOATS[dtype][0] if dtype in wide.FLOATS else wide.INTEGERS[dtype]) // 8
    count = data.draw(st.integers(1, 40))
    words = st.integers(0, 256**size - 1) | st.sampled_from([0, 1, 1 << 8 * size - 1])
    drawn = data.draw(st.lists(words, min_size=count, max_size=count))
    content = b"".join(word.to_bytes(size, "little") for word in drawn)
    layout, group = wide.layout_of(content, dtype, 2), np.arange(count) // 8
    scan = scan_of((count,), 0)
    encoder = Encoder()
    coder = wide.WideCoder(Mixer(encoder, wide.INPUTS, wide.SETS))
    coder.code(scan, dtype, group, layout, content)
    decoder = Decoder(*encoder.finish())
    coder = wide.WideCoder(Mixer(decoder, wide.INPUTS, wide.SETS))
    assert coder.code(scan, dtype, group, layout, None) == content
    decoder.finish()


@pytest.mark.parametrize("chance", [1, 300, 32768, 65535])
def test_decisions_cost_what_they_should(chance):
    """Within 0.1 % of the entropy: the coder itself wastes nothing."""
    random = np.random.default_rng(0)
    bits = (random.integers(0, 65536, 200_000) < chance).astype("uint8")
    chances = np.full(len(bits), chance, np.int64)
    tape, encoder = Tape(), Encoder()
    tape.code(chances, bits)
    tape.replay(encoder)
    coded, _ = encoder.finish()
    p = chance / 65536
    ideal = -(np.log2(p) * bits.sum() + np.log2(1 - p) * (len(bits) - bits.sum())) / 8
    assert len(coded) <= 1.001 * ideal + 12
    decoder = Decoder(coded, b"")
    assert (decoder.code(chances, None) == bits).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_palettes(seed, values):
    random = np.random.default_rng(seed)
    scan = scan_of((12, 90), 0)
    weights = random.choice(random.integers(-128, 128, values), scan.size).astype("int16")
    found = palette.of_channels(weights, scan)
    assert found is not None
    read = palette.Palette.read(palette.Cursor(found.packed()), scan.rows)
    assert (read.values(found.places(weights, scan), scan) == weights).all()
