"""A graph of ONNX under construction, and each activation as nodes of ONNX.

A `Graph` collects nodes and constants under names of their own, so that nothing collides with
the names of inputs, which are columns of the user's table. What is computed is known to
`onnx_writer`.

onnxruntime has no kernels for some activations in float64; these are composed of others there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from distbp.errors import ConfigError

_PREFIX = "distbp/"  # of all names but those of inputs, outputs and parameters


def import_onnx() -> Any:
    """Return the module onnx; ConfigError where it is not installed."""
    try:
        import onnx
    except ImportError as failure:
        raise ConfigError(
            "ONNX files need the package onnx. Install it: pip install 'distbp[onnx]'."
        ) from failure
    return onnx


class Graph:
    """Nodes and constants in the order in which they were added.

    Attributes
    ----------
    nodes, initializers : lists of protobuf messages
    opset : int
        The oldest version of ONNX's operators that has all of the nodes.
    """

    def __init__(self) -> None:
        self._onnx = import_onnx()
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.opset = 17
        self._count = 0

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the name of that."""
        domain = attributes.pop("domain", "")
        if out is None:
            self._count += 1
            out = f"{_PREFIX}{kind}_{self._count}"
        self.nodes.append(
            self._onnx.helper.make_node(
                kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", domain=domain or None,
                **attributes,
            )
        )  # fmt: skip
        return out

    def constant(self, values: Any, name: str | None = None) -> str:
        """Add an array, or a list of text, and return its name."""
        if name is None:
            self._count += 1
            name = f"{_PREFIX}constant_{self._count}"
        if isinstance(values, np.ndarray):
            tensor = self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        else:
            text = [one.encode() for one in values]
            tensor = self._onnx.helper.make_tensor(
                name, self._onnx.TensorProto.STRING, [len(text)], text
            )
        self.initializers.append(tensor)
        return name

    def cast(self, name: str, dtype: Any) -> str:
        """Add a conversion to a type of NumPy."""
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", name, to=kind)


_Make = Callable[[Graph, str, np.dtype], str]


def _plain(kind: str, **attributes: Any) -> _Make:
    """Return a function that adds one node."""
    return lambda graph, z, dtype: graph.add(kind, z, **attributes)


def _leaky_relu(graph: Graph, z: str, dtype: np.dtype) -> str:
    if dtype == np.float32:
        return graph.add("LeakyRelu", z, alpha=0.01)
    slope = graph.constant(np.array(0.01, dtype))
    return graph.add("Max", z, graph.add("Mul", z, slope))


def _elu(graph: Graph, z: str, dtype: np.dtype) -> str:
    if dtype == np.float32:
        return graph.add("Elu", z, alpha=1.0)
    zero, one = (graph.constant(np.array(n, dtype)) for n in (0, 1))
    low = graph.add("Sub", graph.add("Exp", graph.add("Min", z, zero)), one)
    return graph.add("Add", graph.add("Max", z, zero), low)


def _softplus(graph: Graph, z: str, dtype: np.dtype) -> str:
    if dtype == np.float32:
        return graph.add("Softplus", z)
    zero, one = (graph.constant(np.array(n, dtype)) for n in (0, 1))
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", z)))
    rest = graph.add("Log", graph.add("Add", small, one))
    return graph.add("Add", graph.add("Max", z, zero), rest)


def _gelu(graph: Graph, z: str, dtype: np.dtype) -> str:
    graph.opset = max(graph.opset, 20)
    return graph.add("Gelu", z, approximate="tanh")


def _silu(graph: Graph, z: str, dtype: np.dtype) -> str:
    return graph.add("Mul", z, graph.add("Sigmoid", z))


ONNX_ACTIVATIONS: dict[str, _Make] = {
    "sigmoid": _plain("Sigmoid"),
    "tanh": _plain("Tanh"),
    "relu": _plain("Relu"),
    "leaky-relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
    "linear": lambda graph, z, dtype: z,
    "softmax": _plain("Softmax", axis=1),
}


def add_activation(graph: Graph, name: str, z: str, dtype: np.dtype) -> str:
    """Add an activation by its name in distbp.

    Raises
    ------
    ConfigError
        It has no form in ONNX.
    """
    if name not in ONNX_ACTIVATIONS:
        raise ConfigError(
            f"The activation {name!r} has no form in ONNX; those that have are "
            f"{', '.join(ONNX_ACTIVATIONS)}. Export the model to .safetensors or .npz."
        )
    return ONNX_ACTIVATIONS[name](graph, z, dtype)
