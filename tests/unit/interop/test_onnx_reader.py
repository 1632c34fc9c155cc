"""ONNX files of other programs: chains of dense layers, and what is refused."""

import json
from pathlib import Path

import models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from distbp import export, predict
from distbp.errors import DataError
from distbp.interop.model_import import read_model
from distbp.network.activations import HIDDEN

FOLDER = Path(__file__).parents[2] / "onnx_models"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
B = np.array([0.5, -1, 2], np.float32)
V = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
X = np.random.default_rng(2).normal(2, 1, size=(7, 4)).astype(np.float32)


def write(path, nodes, constants=(), opset=20, outputs=("y",)):
    """Write a graph from x to y; a node is (kind, inputs, output, attributes)."""
    made = [
        helper.make_node(kind, list(inputs), [out], **attributes)
        for kind, inputs, out, attributes in nodes
    ]
    for i, one in enumerate(made):
        is_first = one.op_type not in [other.op_type for other in made[:i]]
        one.name = f"the {one.op_type}" if is_first else f"the {one.op_type} {i}"
    tensors = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in dict({"w": W, "b": B, "v": V}, **dict(constants)).items()
    ]
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, None) for one in outputs], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def node(kind, inputs, out, **attributes):
    return kind, inputs.split(), out, attributes


DENSE = [node("MatMul", "x w", "xw"), node("Add", "xw b", "z")]
END = [node("MatMul", "a v", "y")]
RELU = [node("Relu", "z", "a")]
CHAINS = {
    "MatMul and Add": ([*DENSE, *RELU, *END], {}),
    "the constant first": ([DENSE[0], node("Add", "b xw", "z"), *RELU, *END], {}),
    "Gemm": ([node("Gemm", "x w b", "z"), *RELU, *END], {}),
    "Gemm with factors": ([node("Gemm", "x w b", "z", alpha=0.5, beta=2.0), *RELU, *END], {}),
    "Gemm without bias": ([node("Gemm", "x w", "z"), *RELU, *END], {}),
    "Gemm with transposed weights": (
        [node("Gemm", "x t b", "z", transB=1), *RELU, *END], {"t": W.T}),
    "one bias for all": ([node("MatMul", "x w", "xw"), node("Add", "xw c", "z"), *RELU, *END],
                         {"c": 0.25}),
    "no operation": (
        [node("Cast", "x", "c", to=1), node("Flatten", "c", "f"), node("MatMul", "f w", "xw"),
         node("Identity", "xw", "i"), node("Add", "i b", "z"), *RELU, node("Dropout", "a", "d"),
         node("MatMul", "d v", "y")], {}),
    "scaled inputs": (
        [node("Sub", "x m", "c"), node("Div", "c s", "e"), node("MatMul", "e w", "z"), *RELU,
         *END], {"m": [1, 2, 3, 4], "s": [[0.5, 1, 2, 4]]}),
    "Scaler": (
        [node("Scaler", "x", "c", domain="ai.onnx.ml", offset=[1.0, 2.0, 3.0, 4.0],
              scale=[2.0, 1.0, 0.5, 4.0]),
         node("MatMul", "c w", "z"), *RELU, *END], {}),
    "inputs subtracted from a number": (
        [node("Sub", "one x", "c"), node("MatMul", "c w", "z"), *RELU, *END], {"one": 1}),
    "scaled before the activation": (
        [*DENSE, node("Mul", "z s", "zs"), node("Relu", "zs", "a"), *END], {"s": [1, -2, 3]}),
    "scaled after the activation": (
        [*DENSE, *RELU, node("Mul", "a s", "as"), node("Sub", "as b", "at"),
         node("MatMul", "at v", "y")], {"s": [1, -2, 3]}),
    "scaled outputs": (
        [*DENSE, *RELU, node("MatMul", "a v", "o"), node("Mul", "o s", "p"),
         node("Add", "p t", "y")], {"s": [100, 3], "t": [1e5, -1]}),
    "silu": ([*DENSE, node("Sigmoid", "z", "s"), node("Mul", "s z", "a"), *END], {}),
    "a transposed constant": (
        [node("Transpose", "t", "u", perm=[1, 0]), node("MatMul", "x u", "z"), *RELU, *END],
        {"t": W.T}),
    "a constant that is transposed to itself": (
        [node("Transpose", "w", "u", perm=[0, 1]), node("MatMul", "x u", "z"), *RELU, *END], {}),
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_chains(tmp_path, chain):
    """distbp predicts what onnxruntime computes."""
    nodes, constants = CHAINS[chain]
    path = write(tmp_path / "net.onnx", nodes, constants)
    read_model(path, tmp_path / "net.h5")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    expected = onnxruntime.InferenceSession(str(path), options).run(None, {"x": X})[0]
    assert predict(tmp_path / "net.h5", X) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.onnx")))
def test_files_of_other_programs(tmp_path, name):
    """Of skl2onnx, with ZipMap and without, and of both exporters of PyTorch."""
    found = read_model(FOLDER / name, tmp_path / "model.h5")
    x, expected = np.array(EXPECTED["x"], np.float32), EXPECTED[name]
    output = np.array(expected["output"])
    assert predict(tmp_path / "model.h5", x) == pytest.approx(output, rel=1e-5, abs=1e-5)
    assert found.about["classes"] == expected["classes"]
    has_numbers = expected["classes"][:1] == ["0"] and found.about["task"] == "classification"
    assert found.about.get("label_type") == ("int" if has_numbers else None)


@pytest.mark.parametrize("activation", HIDDEN)
def test_exports_whose_metadata_is_lost(tmp_path, activation):
    """The graph says the same: another program may have dropped the metadata."""
    checkpoint = models.untrained(activation=activation, classes=["x", "y", "z"])
    export(checkpoint, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "b.onnx")
    found = read_model(tmp_path / "b.onnx", tmp_path / "b.h5")
    assert found.network.activation == activation
    assert found.about["classes"] == ["x", "y", "z"]
    assert (found.network.theta == checkpoint.network.theta).all()
    assert found.scaling.scale == pytest.approx(checkpoint.scaling.scale)


GATE = [node("Sigmoid", "x", "s")]
REFUSED = {
    "integers": ([*DENSE, *RELU, node("MatMul", "a v", "o"), node("Cast", "o", "y", to=7)], {},
                 "casts to another type than float"),
    "a convolution": ([node("Conv", "x w", "y")], {}, "the Conv' is a 'Conv'; distbp supports Gem"),
    "a skip connection": (
        [*DENSE, *RELU, node("Add", "a z", "y")], {}, "'the Add 3' is a Add of values that are"),
    "weights that are computed": (
        [node("MatMul", "x x", "y")], {}, "'the MatMul' is a MatMul of two values"),
    "several inputs": ([node("Concat", "x x", "y", axis=1)], {}, "'the Concat' joins several"),
    "an activation first": ([node("Relu", "x", "a"), node("MatMul", "a w", "y")], {},
                            "'the Relu' does not follow a dense layer"),
    "two activations": ([*DENSE, node("Relu", "z", "a"), node("Tanh", "a", "y")], {},
                        "'the Tanh' does not follow a dense layer"),
    "an activation at the end": ([*DENSE, node("Relu", "z", "y")], {},
                                 "last layer, 'the MatMul', has the activation 'relu'"),
    "linear layers": ([*DENSE, node("MatMul", "z v", "y")], {}, "has no activation; distbp has"),
    "another slope": ([*DENSE, node("LeakyRelu", "z", "a", alpha=0.2), *END], {},
                      "is a LeakyRelu with other options"),
    "an exact gelu": ([*DENSE, node("Gelu", "z", "a"), *END], {}, "has the activation exact gelu"),
    "a softmax of columns": ([*DENSE, node("Softmax", "z", "y", axis=0)], {},
                             "is a Softmax with other options"),
    "a circle": ([node("Relu", "y", "a"), node("Tanh", "a", "y")], {}, "too many nodes, or a cyc"),
    "nothing": ([node("Relu", "q", "y")], {}, "'q' is computed by no node"),
    "rows that are transposed": ([node("Gemm", "x w", "y", transA=1)], {}, "transposes its rows"),
    "a missing input": ([node("Relu", "", "y")], {}, "is a 'Relu'; distbp supports"),
    "weights of three dimensions": ([node("MatMul", "x c", "y")], {"c": np.ones((1, 4, 2))},
                                    r"have the shape \(1, 4, 2\)"),
    "biases of rows": ([node("Gemm", "x w c", "y")], {"c": np.ones((3, 1))},
                       r"biases of 'the Gemm' have the shape \(3, 1\)"),
    "a scale of rows": ([node("Mul", "x c", "s"), node("MatMul", "s w", "y")],
                        {"c": np.ones((4, 1))}, r"constant of 'the Mul' has the shape \(4, 1\)"),
    "a scale of another length": ([node("Mul", "x c", "s"), node("MatMul", "s w", "y")],
                                  {"c": np.ones(3)}, "cannot be read as an ONNX file"),
    "inputs that are scaled by 0": ([node("Mul", "x c", "s"), node("MatMul", "s w", "y")],
                                    {"c": np.zeros(4)}, "inputs are scaled by 0"),
    "a division by 0": ([*DENSE, node("Div", "z c", "y")], {"c": 0}, "not a finite number"),
    "a divided number": ([node("Div", "c x", "s"), node("MatMul", "s w", "y")], {"c": 1},
                         "is a Div of values that are computed"),
    "layers that do not fit": ([*DENSE, *RELU, node("MatMul", "a w", "y")], {}, "takes 4 numbers"),
    "rows of another length": (
        [*DENSE, node("Reshape", "z c", "y")], {"c": [-1, 4]}, "changes the length of rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_chain_of_known_nodes(tmp_path, case):
    """One sentence that names the node."""
    nodes, constants, words = REFUSED[case]
    path = write(tmp_path / "net.onnx", nodes, constants)
    with pytest.raises(DataError, match=words) as caught:
        read_model(path, output=None)
    assert "\n" not in str(caught.value)


def test_outputs_of_several_names(tmp_path):
    path = write(tmp_path / "net.onnx", [*DENSE, *RELU, *END], outputs=("y", "a"))
    with pytest.raises(DataError, match="it has the outputs 'y', 'a'; expected one"):
        read_model(path)


@pytest.mark.parametrize("change", ["external", "shape", "type", "count", "subgraph", "sparse"])
def test_constants_that_contradict_themselves(tmp_path, change):
    """No other file is opened, and nothing is allocated for a shape alone."""
    path = write(tmp_path / "net.onnx", [*DENSE, *RELU, *END])
    model = onnx.load(path)
    w = next(one for one in model.graph.initializer if one.name == "w")
    if change == "external":
        w.data_location = TensorProto.EXTERNAL
        w.external_data.add(key="location", value="/etc/passwd")
    elif change == "shape":
        w.dims[:] = [1 << 40, 1 << 40]
    elif change == "type":
        w.data_type = TensorProto.COMPLEX64
    elif change == "count":
        w.ClearField("raw_data")
        w.float_data.extend([1.0] * 5)
    elif change == "subgraph":
        one = model.graph.node[2].attribute.add(name="then_branch", type=5)
        one.g.name = "inner"
    else:
        model.graph.sparse_initializer.add()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="cannot be read as an ONNX file"):
        read_model(path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_types_of_weights(tmp_path, kind):
    path = write(tmp_path / "net.onnx", [node("MatMul", "x w", "y")])
    model = onnx.load(path)
    values = np.round(W * 4) / 4  # which all types have
    w = next(one for one in model.graph.initializer if one.name == "w")
    raw = {
        TensorProto.FLOAT16: values.astype("<f2").tobytes(),
        TensorProto.BFLOAT16: (values.view("<u4") >> 16).astype("<u2").tobytes(),
        TensorProto.DOUBLE: values.astype("<f8").tobytes(),
    }[kind]
    w.data_type, w.raw_data = kind, raw
    path.write_bytes(model.SerializeToString())
    found = read_model(path).network
    assert (found.weights[0] == values.T).all()
    assert found.dtype == ("float64" if kind == TensorProto.DOUBLE else "float32")
