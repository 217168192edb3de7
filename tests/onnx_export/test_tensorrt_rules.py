"""TensorRT's rules on graphs made by hand, each breaking one."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tfcompress as tfc

SHAPE = (1, 2, 4, 4)


def graph(nodes, constants):
    made = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return tfc.OnnxModel(model.SerializeToString())


def pair(source, target, scale="s", zero="z"):
    name = f"net/grid.{target}.of"
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_q"], f"{name}/q"),
        helper.make_node("DequantizeLinear", [f"{target}_q", scale, zero], [target], f"{name}/dq"),
    ]


def convolution(kernel=None, axis=0, bias=None, quantized=True, **changed):
    """x -> Q/DQ -> Conv -> Q/DQ, as TensorRT asks."""
    kernel = np.full((3, 2, 1, 1), 7, np.int8) if kernel is None else kernel
    constants = {
        "s": np.float32(0.5),
        "z": np.int8(0),
        "w_q": kernel,
        "w_s": np.ones(kernel.shape[axis], np.float32),
        "w_z": np.zeros(kernel.shape[axis], np.int8),
    } | changed
    nodes = pair("x", "image") if quantized else [helper.make_node("Identity", ["x"], ["image"])]
    nodes.append(helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=axis))
    given = ["image", "w"]
    if bias is not None:
        constants |= {"b_q": bias, "b_s": np.ones(3, np.float32)}
        nodes.append(helper.make_node("DequantizeLinear", ["b_q", "b_s"], ["b"], axis=0))
        given.append("b")
    nodes.append(helper.make_node("Conv", given, ["c"], "net/conv/Conv"))
    return nodes + pair("c", "y"), constants


def rules(model):
    return [(v.rule, v.layer, v.refused) for v in model.violations]


def test_a_graph_that_keeps_to_the_rules():
    model = graph(*convolution())
    onnx.checker.check_model(model.proto, full_check=True)
    assert model.violations == []
    assert model.predict(np.ones(SHAPE, np.float32)).shape == (1, 3, 4, 4)


CASES = {
    "zero point": (convolution(z=np.int8(3)), [("symmetric", "image", True),
                                                ("symmetric", "y", True)]),
    "unsigned": (convolution(z=np.uint8(0)), [("type", "image", True), ("type", "y", True)]),
    "bias": (convolution(bias=np.ones(3, np.int32)), [("type", "conv", True)]),
    "axis": (convolution(np.full((2, 2, 1, 1), 7, np.int8), axis=1),
             [("weight-axis", "conv", True)]),
    "range": (convolution(np.full((3, 2, 1, 1), -128, np.int8)), [("weight-range", "conv", False)]),
    "input": (convolution(quantized=False), [("both-inputs", "conv", False)]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_a_graph_that_breaks_one(name):
    made, wanted = CASES[name]
    model = graph(*made)
    assert rules(model) == wanted
    for violation in model.violations:
        text = str(violation)
        assert repr(violation.layer) in text and violation.remedy in text


def test_an_addition_of_quantized_and_float():
    nodes, constants = convolution()
    nodes = [*nodes[:-2], helper.make_node("Add", ["c", "image"], ["sum"], "net/add/Add"),
             *pair("sum", "y")]  # fmt: skip
    constants["w_q"] = np.full((2, 2, 1, 1), 7, np.int8)
    constants["w_s"], constants["w_z"] = np.ones(2, np.float32), np.zeros(2, np.int8)
    assert rules(graph(nodes, constants)) == [("residual", "add", False)]


def test_float_graphs_break_none_and_scales_must_be_known():
    assert graph([helper.make_node("Relu", ["x"], ["y"])], {}).violations == []
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
        *pair("x", "y"),
    ]
    assert rules(graph(nodes, {"z": np.int8(0)})) == [("constant-scale", "y", True)]
