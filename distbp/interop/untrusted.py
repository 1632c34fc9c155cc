"""Reading files that other programs have written: limits, and one sentence for what is damaged.

Nothing in a file is trusted: sizes are compared with the bytes that are there before memory is
allocated for them, zip archives are unpacked within limits, and whatever a damaged file makes a
library raise becomes a DataError. Nothing in a file is ever run, and no pickle is loaded.
"""

import io
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import DataError
from distbp.storage.atomic import failure_reason
from distbp.storage.hdf5_checks import HDF5_READ_ERRORS, open_regular_file

_READ_ERRORS = (*HDF5_READ_ERRORS, zipfile.BadZipFile, struct.error)
MAX_JSON_BYTES = 1 << 27
_MAX_JSON_ITEMS = 1 << 23  # each takes about 100 bytes of memory
_MAX_MEMBERS = 20_000  # of a zip archive
_MAX_RATIO = 20  # of all that is in a zip archive to the archive, once that is large
_SMALL_BYTES = 1 << 26
_NAMES_SHOWN = 8
_NAME_CHARS = 60


@contextmanager
def wrap_model_errors(path: Path, what: str) -> Iterator[None]:
    """Raise whatever a damaged file causes in the block as a DataError of one sentence."""
    try:
        yield
    except _READ_ERRORS as failure:
        raise DataError(f"{path} cannot be read as {what}: {failure_reason(failure)}.") from failure


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes."""
    with io.BufferedReader(open_regular_file(path)) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it has {size:,} bytes; expected at most {limit:,}")
        return file.read(size)


def parse_json(content: bytes | str, name: str) -> Any:
    """Return what JSON text says; NaN and the like are no JSON."""
    text = content if isinstance(content, str) else content.decode()
    if len(text) > MAX_JSON_BYTES or sum(map(text.count, ",[{")) > _MAX_JSON_ITEMS:
        raise ValueError(f"{name} is too long")

    def refuse(word: str) -> None:
        raise ValueError(f"{name} has the number {word}")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    except json.JSONDecodeError as failure:
        raise ValueError(f"{name} is not JSON text") from failure


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Yield a zip archive whose members together are not too large.

    Raises
    ------
    ValueError, zipfile.BadZipFile
        It is damaged, encrypted or compressed by another method than deflate, or would be far
        larger unpacked.
    """
    with io.BufferedReader(open_regular_file(path)) as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        members = archive.infolist()
        names = [one.filename for one in members]
        if len(members) > _MAX_MEMBERS or len(set(names)) < len(names):
            raise ValueError("it has too many members, or two of one name")
        for one in members:
            if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{shorten(one.filename)} is compressed by an unknown method")
            if one.flag_bits & 1:
                raise ValueError(f"{shorten(one.filename)} is encrypted")
        total = sum(one.file_size for one in members)
        if total > max(_SMALL_BYTES, _MAX_RATIO * size):
            raise ValueError(f"its {size:,} bytes would become {total:,}")
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int | None = None) -> bytes:
    """Return the content of a member of an archive of `open_archive`."""
    if name not in archive.namelist():
        raise ValueError(f"it has no {name}; it has {listed(archive.namelist())}")
    info = archive.getinfo(name)
    if limit is not None and info.file_size > limit:
        raise ValueError(f"{shorten(name)} has {info.file_size:,} bytes, which are too many")
    content = archive.read(info)  # which reads no more than the size says
    if len(content) != info.file_size:
        raise ValueError(f"{shorten(name)} is incomplete")
    return content


def check_numbers(name: str, array: np.ndarray) -> None:
    """Raise ValueError unless all numbers of an array are finite."""
    if not np.isfinite(array).all():
        raise ValueError(f"{shorten(name)} has a value that is not a finite number")


def count_items(shape: Iterable[Any], name: str) -> int:
    """Return the product of the sides of an array; ValueError unless these are sizes."""
    sides = list(shape)
    if len(sides) > 32 or any(type(n) is not int or not 0 <= n < 1 << 48 for n in sides):
        raise ValueError(f"{shorten(name)} has no valid shape")
    return math.prod(sides)


def listed(names: Sequence[str]) -> str:
    """Return some of the names, for a message."""
    shown = ", ".join(map(shorten, names[:_NAMES_SHOWN]))
    return shown + ", …" * (len(names) > _NAMES_SHOWN) or "nothing"


def shorten(name: str) -> str:
    """Return a name from a file for a message: quoted, printable, not too long."""
    text = repr(name)
    return text if len(text) <= _NAME_CHARS else f"{text[:_NAME_CHARS]}…'"


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts numbers in names by their values: layer2 before layer10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(one[0].isdigit(), int(one) if one[0].isdigit() else 0, one) for one in parts]
