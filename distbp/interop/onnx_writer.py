"""A model as an ONNX file: raw rows go in, labels and probabilities come out.

Inputs:

    X               rows as they were imported, (batch, …), of a model that was trained on arrays
    NAME            a column, (batch, 1), for each feature of a model that was trained on a table:
                    numbers, or text; NaN or "" is a missing cell, which is filled in as in the
                    training. A column that is called like an output gets a "_" behind its name.

Outputs, named as those of sklearn-onnx:

    label           (batch,) int64, or text if the classes are not whole numbers; of multilabel
                    (batch, k) int64 of 0 and 1
    probabilities   (batch, k): what the output layer returns
    variable        (batch, k): of a regression, in the user's units; float64 if its targets are
                    scaled

Where a missing number has nothing to stand for it, the result is NaN. An unknown category, or a
missing one that nothing stands for, is an error of the runtime; with `unknown="ignore"` all
inputs of the column are 0.

Metadata: "distbp" (the description of `model_arrays`), "digest", "classes", "input_names" and,
of a regression on a table, "target_names", as JSON.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import ConfigError
from distbp.interop.interop_options import ExportOptions
from distbp.interop.model_arrays import describe_model, scaling_arrays
from distbp.interop.onnx_graph import Graph, add_activation, import_onnx
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.version import __version__

logger = logging.getLogger(__name__)

_ML = "ai.onnx.ml"
_ML_VERSION = 3
_MAX_BYTES = 1_900_000_000  # a protobuf message has less than 2 GiB
# From this many deviations of a column from 0 on, float32 loses digits that matter.
_FAR = 1000.0
_OUTPUTS = ("label", "probabilities", "variable")


def write_onnx(path: Path, checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Write a model to a new file, after onnx has checked it.

    Raises
    ------
    ConfigError
        onnx is not installed, or the model has no form in ONNX or is too large for it.
    """
    onnx = import_onnx()
    if checkpoint.network.theta.nbytes > _MAX_BYTES:
        raise ConfigError(
            f"The model has {checkpoint.network.theta.nbytes:,} bytes of parameters; an ONNX file "
            f"holds up to {_MAX_BYTES:,}. Export it to .safetensors."
        )
    content = _Writer(checkpoint, options).model()
    onnx.checker.check_model(content)
    path.write_bytes(content.SerializeToString(deterministic=True))


def class_numbers(classes: Sequence[str]) -> list[int] | None:
    """Return the classes as integers, if all are; otherwise None."""
    if not all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", one) for one in classes):
        return None
    return [int(one) for one in classes]


class _Writer:
    """Makes the graph of a model."""

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions) -> None:
        self._onnx = import_onnx()
        self._checkpoint, self._network = checkpoint, checkpoint.network
        self._task = str(checkpoint.about["task"])
        self._preprocessing = checkpoint.preprocessing
        default = self._network.dtype.name if self._preprocessing is None else "float64"
        self._dtype = np.dtype(options.input_dtype or default)
        self._unknown = options.unknown
        self._graph = Graph()
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def model(self) -> Any:
        """Return the model as a message of protobuf."""
        helper, graph = self._onnx.helper, self._graph
        x = self._array_input() if self._preprocessing is None else self._columns()
        x = self._scaled(x)
        for l, (w, b) in enumerate(
            zip(self._network.weights, self._network.biases, strict=True), 1
        ):
            names = graph.constant(w, f"layers/{l}/w"), graph.constant(b, f"layers/{l}/b")
            z = graph.add("Gemm", x, *names, transB=1)
            is_last = l == len(self._network.weights)
            name = self._network.output if is_last else self._network.activation
            x = add_activation(graph, name, z, self._network.dtype)
        self._finish(x)
        opsets = [helper.make_opsetid("", graph.opset)]
        if any(node.domain == _ML for node in graph.nodes):
            opsets.append(helper.make_opsetid(_ML, _ML_VERSION))
        made = helper.make_graph(
            graph.nodes, "distbp", self._inputs, self._outputs, graph.initializers
        )
        model = helper.make_model(
            made, opset_imports=opsets, ir_version=8 if graph.opset < 19 else 9,
            producer_name="distbp", producer_version=__version__,
        )  # fmt: skip
        helper.set_model_props(model, self._metadata())
        return model

    def _metadata(self) -> dict[str, str]:
        about = describe_model(self._checkpoint)
        # Scaling as JSON, which is exact for float64: the graph may hold it in float32.
        about["scaling"] = {
            name: array.tolist() for name, array in scaling_arrays(self._checkpoint).items()
        }
        found = {
            "distbp": about,
            "classes": list(self._checkpoint.about["classes"]),
            "input_names": [one.name for one in self._inputs],
        }
        if self._preprocessing is not None and self._task == "regression":
            found["target_names"] = list(self._preprocessing.labels)
        texts = {name: json.dumps(one, ensure_ascii=False) for name, one in found.items()}
        return texts | {"digest": about["digest"]}

    def _declare(self, into: list[Any], name: str, kind: Any, shape: Sequence[Any]) -> str:
        """Declare an input or output whose first dimension is the number of rows."""
        helper = self._onnx.helper
        if kind != self._onnx.TensorProto.STRING:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        into.append(helper.make_tensor_value_info(name, kind, ["batch", *shape]))
        return name

    def _array_input(self) -> str:
        """Declare rows as they were imported; return them as (batch, n_0)."""
        n_in = self._network.sizes[0]
        shape = self._checkpoint.about.get("shape") or [n_in]
        x = self._declare(self._inputs, "X", self._dtype, shape)
        if len(shape) != 1:
            x = self._graph.add("Flatten", x, axis=1)
        return x

    def _columns(self) -> str:
        """Declare the columns of a table; return their inputs as (batch, n_0) float64."""
        preprocessing: Preprocessing | None = self._preprocessing
        features = () if preprocessing is None else preprocessing.features
        taken, parts = set(_OUTPUTS), list[str]()
        names = {one.name for one in features}
        for i, feature in enumerate(features):
            name = feature.name or f"column_{i + 1}"  # an empty name is no input of ONNX
            while name in taken or (name != feature.name and name in names):
                name += "_"
            taken.add(name)
            parts += (
                self._number(feature, name)
                if feature.categories is None
                else (self._category(feature, name))
            )
        return self._graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]

    def _number(self, feature: Feature, name: str) -> list[str]:
        """Declare a column of numbers; return its inputs, each (batch, 1) float64."""
        graph = self._graph
        x = self._declare(self._inputs, name, self._dtype, [1])
        x = graph.add("Identity", x) if self._dtype == np.float64 else graph.cast(x, np.float64)
        if feature.fill is None and not feature.has_indicator:
            return [x]
        is_missing = graph.add("IsNaN", x)
        filled = x
        if feature.fill is not None:
            filled = graph.add("Where", is_missing, graph.constant(np.array(feature.fill)), x)
        return [filled] + [graph.cast(is_missing, np.float64)] * feature.has_indicator

    def _category(self, feature: Feature, name: str) -> list[str]:
        """Declare a column of text; return its inputs, (batch, k) float64."""
        graph, categories = self._graph, feature.categories or ()
        x = self._declare(self._inputs, name, self._onnx.TensorProto.STRING, [1])
        position = {one: i for i, one in enumerate(categories)}
        if feature.fill is not None:
            position.setdefault("", position[str(feature.fill)])
        number = graph.add(
            "LabelEncoder", x, domain=_ML, keys_strings=list(position),
            values_int64s=list(position.values()), default_int64=-1,
        )  # fmt: skip
        encoded = graph.add(
            "OneHotEncoder", number, domain=_ML, cats_int64s=list(range(len(categories))),
            zeros=int(self._unknown == "ignore"),
        )  # fmt: skip
        parts = [graph.cast(graph.add("Flatten", encoded, axis=1), np.float64)]
        if feature.has_indicator:
            missing = graph.add(
                "LabelEncoder", x, domain=_ML, keys_strings=[""], values_floats=[1.0],
                default_float=0.0,
            )  # fmt: skip
            parts.append(graph.cast(missing, np.float64))
        return parts

    def _scaled(self, x: str) -> str:
        """Return (x - shift) * scale in the network's type."""
        graph, scaling, dtype = self._graph, self._checkpoint.scaling, self._network.dtype
        # In the wider of the two types, as distbp does it.
        own = self._dtype if self._preprocessing is None else np.dtype(np.float64)
        wide = np.result_type(own, dtype)
        far = float(np.abs(scaling.shift * scaling.scale).max())
        if self._dtype == np.float32 and far > _FAR:
            logger.warning(
                "A column is up to %.0f deviations from 0, which float32 cannot represent well: "
                "use --input-dtype float64.", far,
            )  # fmt: skip
        if own != wide:
            x = graph.cast(x, wide)
        if scaling.shift.any():
            x = graph.add("Sub", x, graph.constant(scaling.shift.astype(wide)))
        if (scaling.scale != 1).any():
            x = graph.add("Mul", x, graph.constant(scaling.scale.astype(wide)))
        return x if wide == dtype else graph.cast(x, dtype)

    def _finish(self, a: str) -> None:
        """Declare the outputs and compute them from the activations of the last layer."""
        n_out, graph = self._network.sizes[-1], self._graph
        if self._task == "regression":
            self._finish_regression(a)
            return
        if self._task == "multilabel":
            self._declare(self._outputs, "label", np.int64, [n_out])
            half = graph.constant(np.array(0.5, self._network.dtype))
            above = graph.add("Greater", a, half)
            graph.add("Cast", above, out="label", to=self._onnx.TensorProto.INT64)
        else:
            classes = list(self._checkpoint.about["classes"])
            numbers = class_numbers(classes)
            kind = self._onnx.TensorProto.STRING if numbers is None else np.int64
            self._declare(self._outputs, "label", kind, [])
            names = graph.constant(classes if numbers is None else np.array(numbers, np.int64))
            best = graph.add("ArgMax", a, axis=1, keepdims=0)
            graph.add("Gather", names, best, out="label")
        self._declare(self._outputs, "probabilities", self._network.dtype, [n_out])
        graph.add("Identity", a, out="probabilities")

    def _finish_regression(self, a: str) -> None:
        """Compute the outputs of a regression in the user's units."""
        graph, target, dtype = self._graph, self._checkpoint.target, self._network.dtype
        if target is not None:
            a, dtype = graph.cast(a, np.float64), np.dtype(np.float64)
            a = graph.add("Div", a, graph.constant(target.scale))
            a = graph.add("Add", a, graph.constant(target.shift))
        if self._preprocessing is not None and self._preprocessing.target_transform == "log":
            a = graph.add("Exp", a)
        self._declare(self._outputs, "variable", dtype, [self._network.sizes[-1]])
        graph.add("Identity", a, out="variable")
