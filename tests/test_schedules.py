import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.schedules import as_schedule

STEPS = st.integers(0, 5000)
SHARES = st.floats(0, 0.99)


@given(SHARES, SHARES, STEPS, STEPS, st.integers(1, 300))
def test_rising_schedules_hit_both_ends_exactly(initial, final, begin, length, frequency):
    for cls in (tfc.PolynomialDecay, tfc.ExponentialDecay):
        schedule = cls(initial, final, begin, begin + length, frequency=frequency)
        assert schedule(begin + length) == final
        assert schedule(begin + length + 10_000) == final
        if length:
            assert schedule(begin) == pytest.approx(initial, abs=1e-12)
        if begin:
            assert schedule(begin - 1) == 0.0
        middle = schedule(begin + length // 2)
        assert min(initial, final) - 1e-9 <= middle <= max(initial, final) + 1e-9


@given(STEPS, STEPS, st.integers(1, 300), st.integers(1, 50))
def test_the_end_step_is_never_missed_however_far_apart_the_calls_are(
    begin, length, frequency, jump
):
    schedule = tfc.PolynomialDecay(0, 0.5, begin, begin + length, frequency=frequency)
    last, updates = None, []
    for step in range(0, begin + length + 2 * jump, jump):
        if schedule.due(step, last):
            last = step
            updates.append(step)
    assert updates and updates[-1] >= begin + length
    assert sum(step >= begin + length for step in updates) == 1
    assert all(step >= begin for step in updates)


def test_cubic_schedule_is_the_papers_formula():
    schedule = tfc.PolynomialDecay(0.2, 0.8, 100, 300)
    assert schedule(200) == pytest.approx(0.8 + (0.2 - 0.8) * 0.5**3)


def test_frequency_counts_from_the_begin_step():
    schedule = tfc.ConstantSparsity(0.5, begin_step=7, frequency=10)
    last, updates = None, []
    for step in range(40):
        if schedule.due(step, last):
            last = step
            updates.append(step)
    assert updates == [7, 17, 27, 37]


def test_one_shot_is_computed_once():
    schedule = tfc.OneShot(0.5, step=5)
    assert [schedule.due(step, None) for step in (4, 5)] == [False, True]
    assert not schedule.due(100, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tfc.PolynomialDecay(0, 0.8, 100, 50),
        lambda: tfc.PolynomialDecay(0, 1.2, 0, 50),
        lambda: tfc.PolynomialDecay(0, 0.8, 0, -1),
        lambda: tfc.PolynomialDecay(0, 0.8, -5, 10),
        lambda: tfc.PolynomialDecay(0, 0.8, 0, 10, frequency=0),
        lambda: tfc.PolynomialDecay(0, 0.8, 0, 10, power=0),
        lambda: tfc.ConstantSparsity(-0.1, 0),
        lambda: tfc.ConstantSparsity(1.0, 0),
        lambda: tfc.ConstantSparsity("half", 0),
        lambda: tfc.OneShot(0.5, 1.5),
        lambda: as_schedule(0.5),
    ],
)
def test_bad_schedules_say_what_was_received(make):
    with pytest.raises(tfc.ConfigError, match="Received"):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        tfc.PolynomialDecay(0.1, 0.8, 3, 50, power=2, frequency=7),
        tfc.ConstantSparsity(0.4, 3),
        tfc.ExponentialDecay(0.1, 0.8, 3, 50),
        tfc.OneShot(0.4, 9),
    ],
)
def test_config_round_trip(schedule):
    again = type(schedule)(**schedule.get_config())
    assert [again(s) for s in range(60)] == [schedule(s) for s in range(60)]


def test_a_function_is_a_schedule_and_is_checked():
    assert as_schedule(lambda step: step / 100)(50) == 0.5
    with pytest.raises(tfc.ConfigError, match="Received"):
        as_schedule(lambda step: 1.5)(0)


def test_rigl_moves_ever_fewer_and_stops():
    schedule = tfc.RigL(0.9, 100, 500, fraction=0.3, frequency=50)
    assert schedule(99) == 0.0 and schedule(100) == schedule(1000) == schedule.final == 0.9
    assert schedule.regrowth(100) == pytest.approx(0.3)
    assert schedule.regrowth(300) == pytest.approx(0.15)
    assert schedule.regrowth(500) == schedule.regrowth(99) == 0.0
    assert as_schedule(schedule) is schedule
    assert tfc.RigL(**schedule.get_config()).get_config() == schedule.get_config()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"end_step": -1}, "needs an `end_step`"),
        ({"fraction": 0}, "above 0 and at most"),
        ({"fraction": 1.5}, "above 0 and at most"),
        ({"fraction": "a"}, "must be a number"),
        ({"target_sparsity": 1.2}, "at least 0 and below 1"),
        ({"end_step": 50}, "must not come before"),
    ],
)
def test_rigl_errors(arguments, words):
    with pytest.raises(tfc.ConfigError, match=words):
        tfc.RigL(**{"target_sparsity": 0.9, "begin_step": 100, "end_step": 500, **arguments})
