"""Constants of an ONNX file as arrays, and the attributes of its nodes.

Sizes are compared with the bytes that are in the file; data in other files is refused.
"""

from typing import Any

import numpy as np

from distbp.interop.untrusted import count_items, shorten

# By the numbers of TensorProto.DataType: the type of raw data, and the field for other data.
_TYPES = {
    1: ("<f4", "float_data"), 6: ("<i4", "int32_data"), 7: ("<i8", "int64_data"),
    10: ("<f2", None), 11: ("<f8", "double_data"), 16: ("<u2", None),
}  # fmt: skip
_BFLOAT16, _STRING, _EXTERNAL = 16, 8, 1


def tensor_array(tensor: Any, name: str) -> np.ndarray:
    """Return a tensor of numbers; ValueError if it is something else, or damaged."""
    shown = shorten(name)
    if tensor.data_location == _EXTERNAL or tensor.HasField("segment"):
        raise ValueError(f"{shown} is stored in another file: save the model as one file")
    if tensor.data_type not in _TYPES:
        raise ValueError(f"{shown} holds numbers of a type that distbp does not take")
    kind, field = _TYPES[tensor.data_type]
    shape = list(tensor.dims)
    count = count_items(shape, name)
    if tensor.HasField("raw_data"):
        array = np.frombuffer(tensor.raw_data, np.uint8)
        if len(array) != count * np.dtype(kind).itemsize:
            raise ValueError(f"{shown} has {len(array):,} bytes for the shape {shape[:9]}")
        array = array.view(kind)
    else:
        if field is None:
            raise ValueError(f"{shown} is stored in a way that distbp does not read")
        values = getattr(tensor, field)
        if len(values) != count:
            raise ValueError(f"{shown} has {len(values):,} numbers for the shape {shape[:9]}")
        array = np.array(values, kind)
    if tensor.data_type == _BFLOAT16:  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(shape)


def class_names(tensor: Any, name: str) -> list[str] | None:
    """Return the names of classes in a tensor of text or integers; None if it is another."""
    if tensor.data_type == _STRING:
        return [one.decode() for one in tensor.string_data]
    if tensor.data_type in (6, 7):
        return [str(one) for one in tensor_array(tensor, name).reshape(-1).tolist()]
    return None


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a node that are numbers, text, lists of these, or a tensor."""
    found: dict[str, Any] = {}
    for one in node.attribute:
        # By the numbers of AttributeProto.AttributeType.
        field = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}.get(one.type)
        if field is None:
            raise ValueError(f"the node {shorten(node.name or node.op_type)} has a subgraph")
        value = getattr(one, field)
        found[one.name] = list(value) if field.endswith("s") and field != "s" else value
    return found
