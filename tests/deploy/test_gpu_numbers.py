import json

import numpy as np
import pytest
from one_operator import Graph, Op, T

import tfcompress as tfc
from tfcompress.deploy.gpu_numbers import compare


def cubes(factor=1.0):
    """x -> x*x -> x*x*x -> * factor, each a tensor of its own."""
    tensors = {name: T([1, 4]) for name in ("x", "square", "cube", "y")}
    tensors["k"] = T([1, 4], "float32", factor)
    multiply = ("MulOptions", {})
    operators = [
        Op("MUL", ["x", "x"], ["square"], multiply),
        Op("MUL", ["square", "x"], ["cube"], multiply),
        Op("MUL", ["cube", "k"], ["y"], multiply),
    ]
    return tfc.TFLiteModel(Graph(tensors, operators).build())


def test_differences_are_those_of_the_outputs(gpu_adapter):
    model = cubes()
    x = np.float32([[1.1, 2.2, -3.3, 0.7], [1.7, 0.3, 0.1, 2.9]])
    figures = compare(model, x, precision="fp32")
    ours, theirs = model.predict(x, backend="gpu", gpu_precision="fp32"), model.predict(x)
    assert figures.largest == np.abs(ours.astype(float) - theirs).max()
    assert figures.mean == np.abs(ours.astype(float) - theirs).mean()
    assert figures.reach == np.abs(theirs.astype(float)).max()
    assert (figures.examples, figures.steps, figures.not_finite) == (2, None, 0)
    assert figures.overflow == () and "no NaN" in str(figures)
    assert "on 2 examples: largest" in str(figures) and figures.to_dict()["noise"] is False


def test_noise_is_of_several_runs_in_the_range_of_the_input(gpu_adapter):
    """Of 0 to 255 behind QUANTIZE: what it reaches is what the grid holds."""
    tensors = {"x": T([1, 64]), "y": T([1, 64], "int8", None, 1.0, zero=-128)}
    model = tfc.TFLiteModel(Graph(tensors, [Op("QUANTIZE", ["x"], ["y"])]).build())
    figures = compare(model)
    assert figures.examples == 8 and figures.noise and "on 8 examples of noise" in str(figures)
    assert 250 < figures.reach <= 255 and figures.to_dict()["examples"] == 8
    wide = compare(cubes(), precision="fp32")
    one = compare(cubes(), np.random.default_rng(0).standard_normal((1, 4)), precision="fp32")
    assert wide.examples == 8 and one.examples == 1 and wide.reach > one.reach


def test_overflow_of_fp16_is_named(gpu_adapter):
    """50 ** 3 = 125,000 is more than float16 holds, though the output, 1.25, is not."""
    x = np.full((1, 4), 50, "float32")
    figures = compare(cubes(1e-5), x, precision="fp16")
    assert figures.overflow == (("cube", 125000.0),)
    assert "'cube' with 1.25e+05: compute in fp32" in str(figures)
    assert compare(cubes(1e-5), x, precision="fp32").overflow == ()
    json.dumps(figures.to_dict(), allow_nan=False)


def test_values_that_are_not_finite_are_counted(gpu_adapter):
    figures = compare(cubes(), np.full((1, 4), 50, "float32"), precision="fp16")
    if figures.not_finite:  # where the driver has 16-bit arithmetic
        assert figures.not_finite == 4 and "4 values NaN or infinite" in str(figures)
    assert compare(cubes(), np.full((1, 4), 50, "float32"), precision="fp32").not_finite == 0


def test_quantized_outputs_in_steps(gpu_adapter):
    """A tanh into steps of 1/128: GPU and CPU may round apart by a step, no more."""
    tensors = {"x": T([1, 64], "int8", None, 0.05), "y": T([1, 64], "int8", None, 1 / 128)}
    model = tfc.TFLiteModel(Graph(tensors, [Op("TANH", ["x"], ["y"])]).build())
    x = np.linspace(-3, 3, 256, dtype="float32").reshape(4, 64)
    figures = compare(model, x)
    apart = np.abs(model.predict(x, backend="gpu") - model.predict(x)).max() * 128
    assert figures.examples == 4 and figures.steps == round(apart) <= 1
    with pytest.raises(tfc.DataError):
        compare(model, np.zeros((1, 3)))
