import builtins

import numpy as np
import pytest

import tfcompress as tfc


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_the_curve_is_what_the_masks_follow():
    schedule = tfc.PolynomialDecay(0.1, 0.8, begin_step=30, end_step=200, frequency=50)
    (line,) = lines(tfc.plot_schedule(schedule)).values()
    steps, zeros = line.get_data()
    held = {step: round(share, 9) for step, share in zip(steps, zeros, strict=True)}
    assert held[0] == 0.0 and held[30] == 10.0 and held[200] == held[220] == 80.0
    assert sorted(held) == [0, 30, 80, 130, 180, 200, 220]


def test_several_schedules_and_measured_points(tmp_path):
    schedules = {
        "conv_*": tfc.ConstantSparsity(0.5, 10, 100),
        "head": None,
        "rest": tfc.OneShot(0.7, 50),
    }
    figure = tfc.plot_schedule(
        schedules, tmp_path / "s.png", measured={"all": [(10, 0.2), (50, 0.6)]}
    )
    assert set(lines(figure)) == {"conv_*", "rest", "all, measured"}
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_long_schedules_stay_small():
    schedule = tfc.PolynomialDecay(0.0, 0.9, 0, 1_000_000, frequency=1)
    (line,) = lines(tfc.plot_schedule(schedule)).values()
    assert len(line.get_xdata()) < 1000 and line.get_ydata()[-1] == 90.0


def test_functions_need_an_end():
    with pytest.raises(tfc.ConfigError, match="`steps`"):
        tfc.plot_schedule(lambda step: 0.5)
    (line,) = lines(tfc.plot_schedule(lambda step: min(0.5, step / 1000), steps=800)).values()
    assert np.isclose(line.get_ydata()[-1], 50.0)


@pytest.mark.parametrize("schedule", [None, 0.8, {}, {"head": None}])
def test_nothing_to_draw(schedule):
    with pytest.raises(tfc.ConfigError):
        tfc.plot_schedule(schedule)


def test_a_kind_of_file_that_is_unknown(tmp_path):
    with pytest.raises(tfc.ConfigError, match="must end in one of"):
        tfc.plot_schedule(tfc.OneShot(0.5, 9), tmp_path / "plot.doc")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(tfc.ConfigError, match="pip install matplotlib"):
        tfc.plot_schedule(tfc.OneShot(0.5, 9))
