"""Models of other programs in ONNX: chains of dense layers, read without running them.

The graph is followed from its output back to its input, node by node, into a list of steps; then
the steps become layers in the order of the computation, and multiplications and additions in
between become part of the nearest layer, or the scaling of the input. Whatever is no chain of
what distbp supports is refused by its name.

A file that distbp has exported holds the whole model in its metadata, and is read by that.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distbp.interop import untrusted
from distbp.interop.conversion import convert
from distbp.interop.dense_model import EXACT_GELU, DenseModel
from distbp.interop.interop_options import ImportModelOptions
from distbp.interop.layer_steps import LayerMaker, Step
from distbp.interop.model_arrays import checkpoint_of_arrays
from distbp.interop.onnx_graph import import_onnx
from distbp.interop.onnx_tensors import attributes_of, class_names, tensor_array
from distbp.interop.untrusted import shorten
from distbp.storage.checkpoint import Checkpoint

_MAX_FILE_BYTES = (1 << 31) - 1  # of a protobuf message
_MAX_STEPS = 10_000
_FLOAT_TYPES = (1, 10, 11, 16)  # of TensorProto.DataType: 32, 16 and 64 bits, bfloat16
_VALUES = ("probabilities", "output_probability", "variable")  # outputs of sklearn-onnx
_ACTIVATIONS = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax", "Elu": "elu",
    "LeakyRelu": "leaky-relu", "Softplus": "softplus", "Gelu": "gelu", "Swish": "silu",
}  # fmt: skip
_KNOWN = ("Gemm", "MatMul", "Add", "Sub", "Mul", "Div", *_ACTIVATIONS)


def read_onnx(path: Path, options: ImportModelOptions) -> Checkpoint:
    """Return the model in an ONNX file.

    Raises
    ------
    DataError
        It is damaged, or no chain of layers that distbp supports.
    ConfigError
        onnx is not installed, or the options do not fit the model.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    with untrusted.wrap_model_errors(path, "an ONNX file"):
        model = onnx.ModelProto()
        try:
            model.ParseFromString(untrusted.read_bytes(path, _MAX_FILE_BYTES))
        except DecodeError as failure:
            raise ValueError("it is damaged, or something else") from failure
        if not model.graph.node:
            raise ValueError("it has no graph")
        own = _own_export(model, path)
        if own is not None:
            return own
        return convert(_Chain(model.graph).model(), path, options)


def _own_export(model: Any, path: Path) -> Checkpoint | None:
    """Return the model of a file that distbp has exported; None if another program has."""
    texts = {one.key: one.value for one in model.metadata_props}
    tensors = {one.name: one for one in model.graph.initializer}
    # A program that optimizes models may have kept the metadata, but not the layers.
    if "distbp" not in texts or "layers/1/w" not in tensors:
        return None
    found = untrusted.parse_json(texts["distbp"], "its description")
    scaling = found.get("scaling") if isinstance(found, dict) else None
    if not isinstance(scaling, dict):
        raise ValueError("its description has no scaling")
    arrays = {
        name: tensor_array(one, name) for name, one in tensors.items() if name.startswith("layers/")
    }
    arrays |= {name: np.array(numbers, np.float64) for name, numbers in scaling.items()}
    return checkpoint_of_arrays(found, arrays, path, "ONNX")


class _Chain:
    """The nodes between an output and the input.

    Parameters
    ----------
    graph : GraphProto
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._tensors = {one.name: one for one in graph.initializer}
        self._inputs = {one.name for one in graph.input} - set(self._tensors)
        self._steps: list[Step] = []  # from the output on
        self._classes: list[str] | None = None
        self._label_type: str | None = None
        self._is_pair = False
        if graph.sparse_initializer:
            raise ValueError("it has sparse weights, which distbp does not read")

    def model(self) -> DenseModel:
        """Return the layers of the chain."""
        name = self._output()
        for _ in range(_MAX_STEPS):
            if name in self._inputs:
                break
            if name not in self._producers:
                raise ValueError(f"{shorten(name)} is computed by no node")
            name = self._follow(self._producers[name])
        else:
            raise ValueError("it has too many nodes, or a cycle")
        made = LayerMaker()
        for step in reversed(self._steps):
            made.take(step)
        made.finish()
        return DenseModel(
            made.layers, "ONNX", made.shift, made.scale,
            self._classes or self._label_names(), self._is_pair, self._label_type,
        )  # fmt: skip

    def _output(self) -> str:
        """Return the name of the output that holds values, not labels."""
        names = [one.name for one in self._graph.output]
        for name in _VALUES:
            if name in names:
                return name
        if len(names) != 1:
            raise ValueError(
                f"it has the outputs {untrusted.listed(names)}; expected one, or "
                f"{' or '.join(_VALUES)} as of sklearn-onnx"
            )
        return names[0]

    def _label_names(self) -> list[str] | None:
        """Return the names of classes that labels are looked up in, as sklearn-onnx does."""
        for node in self._graph.node:
            if node.op_type in ("ArrayFeatureExtractor", "Gather") and node.input:
                tensor = self._tensors.get(node.input[0])
                if tensor is not None and (found := class_names(tensor, tensor.name)):
                    self._label_type = None if tensor.string_data else "int"
                    return found
        return None

    def _constant(self, name: str, depth: int = 0) -> np.ndarray | None:
        """Return a constant; None if it is computed from the input."""
        if name in self._tensors:
            return tensor_array(self._tensors[name], name)
        node = self._producers.get(name)
        if node is None or depth > 8:
            return None
        if node.op_type == "Constant":
            found = attributes_of(node)
            if "value" not in found:
                raise ValueError(f"the constant {shorten(name)} is stored in an unknown way")
            return tensor_array(found["value"], name)
        if node.op_type in ("Identity", "Transpose") and node.input:
            inner = self._constant(node.input[0], depth + 1)
            if inner is None or node.op_type == "Identity":
                return inner
            return inner.transpose(attributes_of(node).get("perm"))
        return None

    def _follow(self, node: Any) -> str:
        """Add the step of a node, and return the name of what it takes."""
        name, kind = node.name or node.output[0], node.op_type
        handlers: dict[str, Callable[[Any, str], str]] = {
            "Gemm": self._gemm, "MatMul": self._matmul, "Concat": self._pair,
            "Scaler": self._scaler, "ZipMap": self._zip_map, "Reshape": self._reshape,
            "Flatten": self._flatten, "Where": self._where,
            **dict.fromkeys(("Identity", "Dropout"), lambda node, name: node.input[0]),
            "Cast": self._cast,
            **dict.fromkeys(("Add", "Sub", "Mul", "Div"), self._arithmetic),
            **dict.fromkeys(_ACTIVATIONS, self._activation),
        }  # fmt: skip
        if kind not in handlers or not node.input:
            raise ValueError(
                f"the node {shorten(name)} is a {shorten(kind)}; distbp supports "
                f"{', '.join(_KNOWN)}"
            )
        return handlers[kind](node, name)

    def _cast(self, node: Any, name: str) -> str:
        if attributes_of(node).get("to") not in _FLOAT_TYPES:
            raise ValueError(
                f"the node {shorten(name)} casts to another type than float; distbp has no "
                "integers in a network"
            )
        return str(node.input[0])

    def _weights(self, node: Any, position: int, name: str) -> np.ndarray:
        """Return a constant that a node needs."""
        found = self._constant(node.input[position]) if len(node.input) > position else None
        if found is None or found.dtype.kind != "f":
            raise ValueError(
                f"the node {shorten(name)} is a {node.op_type} of two values that are computed; "
                "distbp supports layers with constant weights"
            )
        return found

    def _gemm(self, node: Any, name: str) -> str:
        found = attributes_of(node)
        if found.get("transA"):
            raise ValueError(f"the node {shorten(name)} transposes its rows")
        w = self._weights(node, 1, name)
        if w.ndim != 2:
            raise ValueError(f"the weights of {shorten(name)} have the shape {w.shape}")
        w = w if found.get("transB") else w.T
        alpha, beta = found.get("alpha", 1.0), found.get("beta", 1.0)
        b = self._weights(node, 2, name) if len(node.input) > 2 and node.input[2] else None
        if b is not None:
            b = _as_row(b, len(w), name) * b.dtype.type(beta)
        self._steps.append(Step(name, "dense", w if alpha == 1 else w * w.dtype.type(alpha), b))
        return str(node.input[0])

    def _matmul(self, node: Any, name: str) -> str:
        w = self._weights(node, 1, name)
        if w.ndim != 2:
            raise ValueError(f"the weights of {shorten(name)} have the shape {w.shape}")
        self._steps.append(Step(name, "dense", w.T))
        return str(node.input[0])

    def _arithmetic(self, node: Any, name: str) -> str:
        """Add a multiplication or addition of constants; x · sigmoid(x) is an activation."""
        if len(node.input) != 2:
            raise ValueError(f"the node {shorten(name)} is damaged")
        one, two = node.input
        constant, is_first = self._constant(two), False
        if constant is None:
            constant, is_first = self._constant(one), True
        if constant is None and node.op_type == "Mul":
            for x, gate in ((one, two), (two, one)):
                producer = self._producers.get(gate)
                is_gate = producer is not None and producer.op_type == "Sigmoid"
                if is_gate and producer is not None and list(producer.input) == [x]:
                    self._steps.append(Step(name, "activation", activation="silu"))
                    return str(x)
        if constant is None or constant.dtype.kind != "f" or (is_first and node.op_type == "Div"):
            raise ValueError(
                f"the node {shorten(name)} is a {node.op_type} of values that are computed; distbp "
                "knows layers one after the other"
            )
        if constant.ndim > 1 and constant.size != constant.shape[-1]:
            raise ValueError(f"the constant of {shorten(name)} has the shape {constant.shape}")
        constant = constant.reshape(-1).astype(np.float64)
        with np.errstate(all="ignore"):
            parts: dict[str, tuple[Any, Any]] = {
                "Add": (1.0, constant),
                "Sub": (-1.0, constant) if is_first else (1.0, -constant),
                "Mul": (constant, 0.0),
                "Div": (1.0 / constant, 0.0),
            }
        w, b = map(np.atleast_1d, parts[node.op_type])
        if not (np.isfinite(w).all() and np.isfinite(b).all()):
            raise ValueError(f"the constant of {shorten(name)} is not a finite number")
        self._steps.append(Step(name, "affine", w, b))
        return str(two if is_first else one)

    def _activation(self, node: Any, name: str) -> str:
        kind, found = node.op_type, attributes_of(node)
        is_known = {
            "Elu": found.get("alpha", 1.0) == 1.0,
            "LeakyRelu": abs(found.get("alpha", 0.01) - 0.01) < 1e-7,
            "Swish": found.get("alpha", 1.0) == 1.0,
            "Softmax": found.get("axis", -1) in (-1, 1),
        }.get(kind, True)
        if not is_known:
            raise ValueError(
                f"the node {shorten(name)} is a {kind} with other options than those of distbp's "
                f"{_ACTIVATIONS[kind]}"
            )
        activation = _ACTIVATIONS[kind]
        if kind == "Gelu" and found.get("approximate", b"none") != b"tanh":
            activation = EXACT_GELU
        self._steps.append(Step(name, "activation", activation=activation))
        return str(node.input[0])

    def _where(self, node: Any, name: str) -> str:
        """Follow softplus as PyTorch exports it, with x itself where x is large."""
        if len(node.input) == 3:
            condition, x, soft = node.input
            softplus, greater = self._producers.get(soft), self._producers.get(condition)
            if (
                softplus is not None and softplus.op_type == "Softplus" and softplus.input[0] == x
                and greater is not None and greater.op_type == "Greater" and greater.input[0] == x
            ):  # fmt: skip
                threshold = self._constant(greater.input[1])
                if threshold is not None and threshold.size == 1 and (threshold >= 20).all():
                    return str(soft)
        raise ValueError(
            f"the node {shorten(name)} is a 'Where'; distbp supports {', '.join(_KNOWN)}"
        )

    def _scaler(self, node: Any, name: str) -> str:
        """Add (x - offset) * scale of ai.onnx.ml."""
        found = attributes_of(node)
        offset, scale = (
            np.array(found.get(one) or [value], np.float64)
            for one, value in (("offset", 0.0), ("scale", 1.0))
        )
        if len({len(offset), len(scale)} - {1}) > 1:
            raise ValueError(f"the node {shorten(name)} has offsets and scales of other lengths")
        self._steps.append(Step(name, "affine", scale, -offset * scale))
        return str(node.input[0])

    def _zip_map(self, node: Any, name: str) -> str:
        found = attributes_of(node)
        words = found.get("classlabels_strings")
        self._label_type = None if words else "int"
        self._classes = (
            [one.decode() for one in words]
            if words
            else [str(one) for one in found.get("classlabels_int64s", [])]
        )
        return str(node.input[0])

    def _reshape(self, node: Any, name: str) -> str:
        shape = self._constant(node.input[1]) if len(node.input) > 1 else None
        sides = [] if shape is None else shape.reshape(-1).tolist()
        if len(sides) not in (1, 2) or sides[0] not in (-1, 0):
            raise ValueError(f"the node {shorten(name)} reshapes to something else than rows")
        self._steps.append(Step(name, "width", width=int(sides[1]) if len(sides) == 2 else 1))
        return str(node.input[0])

    def _flatten(self, node: Any, name: str) -> str:
        if attributes_of(node).get("axis", 1) != 1:
            raise ValueError(f"the node {shorten(name)} flattens to something else than rows")
        return str(node.input[0])

    def _pair(self, node: Any, name: str) -> str:
        """Follow 1 − p and p, the probabilities of two classes, to p."""
        if len(node.input) == 2 and not self._steps:
            minus = self._producers.get(node.input[0])
            if minus is not None and minus.op_type == "Sub" and len(minus.input) == 2:
                one = self._constant(minus.input[0])
                is_one = one is not None and one.size == 1 and (one == 1).all()
                if is_one and minus.input[1] == node.input[1]:
                    self._is_pair = True
                    return str(node.input[1])
        raise ValueError(
            f"the node {shorten(name)} joins several values; distbp takes one array of rows"
        )


def _as_row(b: np.ndarray, width: int, name: str) -> np.ndarray:
    """Return the biases of a layer: (width,)."""
    if b.size not in (1, width) or (b.ndim > 1 and b.size != b.shape[-1]):
        raise ValueError(f"the biases of {shorten(name)} have the shape {b.shape}")
    return np.broadcast_to(b.reshape(-1), (width,))
