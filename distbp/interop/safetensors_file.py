"""Weights in a .safetensors file, as PyTorch, JAX and others write and read them.

    8 bytes   length of the header, little-endian
    header    JSON: {name: {"dtype": "F32", "shape": [n, m], "data_offsets": [start, stop]}}
    data      the arrays, one after the other

A model of distbp is stored as the `state_dict` of a `torch.nn.Sequential` of linear layers and
activations, `0.weight`, `0.bias`, `2.weight`, …, so that `load_state_dict` takes it as it is:
its description and scaling are in the header's `__metadata__` under "distbp".

Format: https://huggingface.co/docs/safetensors
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import ConfigError
from distbp.interop import untrusted
from distbp.interop.model_arrays import (
    checkpoint_of_arrays,
    describe_model,
    scaling_arrays,
)
from distbp.storage.checkpoint import Checkpoint

MAX_FILE_BYTES = 1 << 38
_MAX_HEADER_BYTES = 100_000_000  # that of the reference implementation
_MAX_TENSORS = 20_000
_ALIGNMENT = 8
_METADATA, _KEY = "__metadata__", "distbp"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NAMES = {"float64": "F64", "float32": "F32"}


def write_safetensors(
    path: Path, checkpoint: Checkpoint, names: tuple[str, ...] | None = None
) -> None:
    """Write a model to a new file.

    Parameters
    ----------
    names : tuple of str, optional
        Of the layers; by default those of a `torch.nn.Sequential`.

    Raises
    ------
    ConfigError
        There are not as many names as layers.
    """
    network = checkpoint.network
    count = len(network.weights)
    names = names or tuple(str(2 * l) for l in range(count))
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(
            f"--layers {','.join(names)}: the model has {count} layers. Name each of them once, "
            "such as net.0,net.2."
        )
    about = describe_model(checkpoint) | {"layers": list(names)}
    about["scaling"] = {
        name: array.tolist() for name, array in scaling_arrays(checkpoint).items()
    }  # float64 as JSON is exact
    header: dict[str, Any] = {_METADATA: {_KEY: json.dumps(about, ensure_ascii=False)}}
    arrays, start = [], 0
    for name, w, b in zip(names, network.weights, network.biases, strict=True):
        for part, array in (("weight", w), ("bias", b)):
            stop = start + array.nbytes
            header[f"{name}.{part}"] = {
                "dtype": _NAMES[array.dtype.name], "shape": list(array.shape),
                "data_offsets": [start, stop],
            }  # fmt: skip
            arrays.append(array)
            start = stop
    text = json.dumps(header, ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Return the arrays of a file by name, and distbp's description of them or None.

    Raises
    ------
    ValueError
        The file is damaged, or has arrays of a type that distbp does not take.
    """
    content = memoryview(untrusted.read_bytes(path, MAX_FILE_BYTES))
    if len(content) < 8:
        raise ValueError("it has no header")
    (length,) = struct.unpack_from("<Q", content)
    if length > min(_MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError("its header is longer than the file, or too long")
    header = untrusted.parse_json(bytes(content[8 : 8 + length]), "its header")
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise ValueError("its header is not valid")
    metadata = header.pop(_METADATA, {})
    found = metadata.get(_KEY) if isinstance(metadata, dict) else None
    data = content[8 + length :]
    arrays = {name: _tensor(name, entry, data) for name, entry in header.items()}
    if sum(one.nbytes for one in arrays.values()) > 2 * len(data):
        raise ValueError("its arrays overlap")
    return arrays, None if found is None else untrusted.parse_json(str(found), "its description")


def _tensor(name: str, entry: Any, data: memoryview) -> np.ndarray:
    """Return an array of the file."""
    shown = untrusted.shorten(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {shown} in its header is not valid")
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{shown} has the type {str(entry['dtype'])[:20]}; expected a float type")
    dtype, shape, offsets = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"the entry of {shown} in its header is not valid")
    count, (start, stop) = untrusted.count_items(shape, name), offsets
    if any(type(n) is not int for n in offsets) or not 0 <= start <= stop <= len(data):
        raise ValueError(f"{shown} is outside the file")
    if count * dtype.itemsize != stop - start:
        raise ValueError(f"{shown} has {stop - start:,} bytes for the shape {shape[:9]}")
    array = np.frombuffer(data[start:stop], dtype).reshape(shape)
    if entry["dtype"] == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return array


def checkpoint_of_tensors(found: Any, tensors: dict[str, np.ndarray], path: Path) -> Checkpoint:
    """Return the model that `write_safetensors` has written.

    Raises
    ------
    ValueError
        The description does not fit the arrays, or these were changed.
    """
    names = found.get("layers") if isinstance(found, dict) else None
    scaling = found.get("scaling") if isinstance(found, dict) else None
    if not isinstance(names, list) or not isinstance(scaling, dict):
        raise ValueError("its description is not valid")
    arrays = {}
    for l, name in enumerate(names, 1):
        for part, short in (("weight", "w"), ("bias", "b")):
            if f"{name}.{part}" not in tensors:
                raise ValueError(f"{untrusted.shorten(f'{name}.{part}')} is missing")
            arrays[f"layers/{l}/{short}"] = tensors[f"{name}.{part}"]
    for name, numbers in scaling.items():
        if not isinstance(numbers, list) or any(type(n) not in (int, float) for n in numbers):
            raise ValueError(f"{untrusted.shorten(name)} is not a list of numbers")
        arrays[name] = np.array(numbers, np.float64)
    return checkpoint_of_arrays(found, arrays, path, "safetensors")
