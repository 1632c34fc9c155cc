"""A model in an .npz file of NumPy: arrays under the names of a checkpoint, and `about`.

    with np.load("model.npz") as file:
        file["layers/1/w"], json.loads(str(file["about"]))

It is written without compression and without time stamps, and read without pickle.
"""

import io
import json
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from distbp.interop import untrusted
from distbp.interop.model_arrays import (
    checkpoint_of_arrays,
    describe_model,
    layer_arrays,
    scaling_arrays,
)
from distbp.storage.checkpoint import Checkpoint

_MAX_HEADER_BYTES = 10_000


def write_npz(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model to a new file."""
    arrays = layer_arrays(checkpoint.network) | scaling_arrays(checkpoint)
    about = np.array(json.dumps(describe_model(checkpoint), ensure_ascii=False))
    with path.open("xb") as file:
        np.savez(file, about=about, **arrays)  # type: ignore[arg-type]


def read_npz(path: Path) -> Checkpoint:
    """Read what `write_npz` has written.

    Raises
    ------
    DataError
        It is something else, or damaged.
    """
    what = "a model in an .npz file"
    with untrusted.wrap_model_errors(path, what), untrusted.open_archive(path) as archive:
        names = archive.namelist()
        if "about.npy" not in names:
            raise ValueError(
                f"it has the arrays {untrusted.listed(names)}, and no 'about', which distbp "
                "export writes"
            )
        about = _read_array(archive, "about.npy")
        if about.dtype.kind != "U" or about.size != 1:
            raise ValueError("'about' is not text")
        found = untrusted.parse_json(str(about.reshape(-1)[0]), "'about'")
        arrays = {
            name.removesuffix(".npy"): _read_array(archive, name)
            for name in names
            if name != "about.npy"
        }
        return checkpoint_of_arrays(found, arrays, path, "npz")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array of numbers, or one text, after comparing its shape with its bytes."""
    content = io.BytesIO(untrusted.read_member(archive, name))
    version = np.lib.format.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{untrusted.shorten(name)} is in an unknown format")
    read_header: Any = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, is_fortran, dtype = read_header(content, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as failure:
        raise ValueError(f"the header of {untrusted.shorten(name)} is damaged") from failure
    if dtype.kind not in "fU" or dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"{untrusted.shorten(name)} holds neither numbers nor text")
    rest = content.getbuffer()[content.tell() :]
    if untrusted.count_items(shape, name) * dtype.itemsize != len(rest):
        raise ValueError(f"{untrusted.shorten(name)} has {len(rest):,} bytes for {shape}")
    array = np.frombuffer(rest, dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
