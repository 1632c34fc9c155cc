"""What is let in of an HDF5 file that somebody else may have written.

libhdf5 follows links to other files, reads external and virtual datasets from
wherever they say, loads filters as shared libraries, and believes any shape. So
nothing is open_unverified here but what is asked for by name, through hard links, and a
dataset only if it holds plain numbers whose bytes are in this very file. Nothing
goes through a file recursively. What is refused is raised as a ValueError that names
the thing; what libhdf5 itself may raise is in `HDF5_READ_ERRORS`.
"""

import io
import math
import os
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5l, h5pl, h5s, h5t

# What a damaged file has made h5py, NumPy, JSON and zlib raise.
HDF5_READ_ERRORS = (
    OSError,
    LookupError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    SystemError,
    zlib.error,
)
NUMBERS = frozenset({h5t.INTEGER, h5t.FLOAT})
KINDS = {
    h5t.INTEGER: "whole numbers",
    h5t.FLOAT: "numbers",
    h5t.STRING: "text",
    h5t.BITFIELD: "bits",
    h5t.OPAQUE: "opaque bytes",
    h5t.COMPOUND: "records",
    h5t.REFERENCE: "references",
    h5t.ENUM: "named numbers",
    h5t.VLEN: "arrays of any length",
    h5t.ARRAY: "arrays",
}

# An unknown filter would be looked for, and run, in folders that the environment names.
while h5pl.size():
    h5pl.remove(0)


def open_file(path: Path) -> io.FileIO:
    """Open a regular file to read; a FIFO or a device is neither waited for nor read.

    Raises
    ------
    OSError, ValueError
        There is none, or it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            raise ValueError(f"it is a {'folder' if is_folder else 'device or pipe'}, not a file")
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def item(file: h5py.File, path: str) -> Any:
    """Return the group or dataset at `path`, which hard links lead to."""
    found = look_up(file, path)
    if found is None:
        raise ValueError(f"{path} is missing")
    return found


def has(file: h5py.File, path: str) -> bool:
    """Return whether hard links lead to `path`; another kind of link is refused."""
    return look_up(file, path) is not None


def look_up(file: h5py.File, path: str) -> Any:
    """Return the group or dataset at `path`, or None if there is none."""
    found: Any = file["/"]
    for name in filter(None, path.split("/")):
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name.encode()):
            return None
        if found.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise ValueError(f"{path} is a link to somewhere else; expected it in the file itself")
        found = found[name]
    return found


def children(group: h5py.Group, most: int) -> Iterator[str]:
    """Yield up to `most` names of what hard links lead to, in order; no other link is followed."""
    names: list[bytes] = []

    def note(name: bytes, info: Any) -> bool | None:
        if info.type == h5l.TYPE_HARD:
            names.append(name)
        return True if len(names) >= most else None

    group.id.links.iterate(note, info=True)
    return (name.decode("utf-8", "replace") for name in names)


def check_names(file: h5py.File, paths: Iterable[str]) -> None:
    """Raise ValueError if the groups on the way to `paths` hold anything else."""
    groups: dict[str, set[bytes]] = {}
    for path in paths:
        names = path.split("/")
        for depth, name in enumerate(names):
            groups.setdefault("/".join(names[:depth]), set()).add(name.encode())
    for path, expected in groups.items():
        group = item(file, path)
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{path} is a dataset; expected a group")
        # The first that is not expected ends the search, however many there are.
        extra, _ = group.id.links.iterate(lambda name, ok=expected: None if name in ok else name)
        if extra is not None:
            raise ValueError(f"{path}/{extra.decode('utf-8', 'replace')} does not belong there")


def dataset(file: h5py.File, path: str, kinds: Collection[int] = NUMBERS) -> h5py.Dataset:
    """Return the dataset at `path`, once it is known to be of these kinds and in this file."""
    found = item(file, path)
    if not isinstance(found, h5py.Dataset):
        is_group = isinstance(found, h5py.Group)
        raise ValueError(f"{path} is not a dataset{', but a group of them' if is_group else ''}")
    type_id, space = found.id.get_type(), found.id.get_space()
    kind = type_id.get_class()
    if kind not in kinds or (kind == h5t.STRING and type_id.is_variable_str()):
        raise ValueError(f"{path} holds {KINDS.get(kind, 'something else')}, not plain numbers")
    if space.get_simple_extent_type() == h5s.NULL:
        raise ValueError(f"{path} is empty")
    plist = found.id.get_create_plist()
    if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
        raise ValueError(f"{path} is stored in other files")
    if plist.get_layout() == h5d.CONTIGUOUS:
        check_contiguous(found, path, math.prod(found.shape) * type_id.get_size())
    elif plist.get_layout() != h5d.CHUNKED:
        raise ValueError(f"{path} is stored in a way that distbp does not read")
    return found


def check_contiguous(found: h5py.Dataset, path: str, expected: int) -> None:
    """Raise ValueError unless as many bytes are in the file as the shape asks for."""
    offset, stored = found.id.get_offset(), found.id.get_storage_size()
    if stored != expected or (
        expected and (offset is None or offset + stored > found.file.id.get_filesize())
    ):
        raise ValueError(
            f"{path} has {stored:,} bytes in the file, but a shape, {found.shape}, of {expected:,}"
        )


def text_attribute(file: h5py.File, name: str) -> str | None:
    """Return an attribute of the root if it is a short text of fixed length."""
    found = plain_attribute(file, name, h5t.STRING)
    return None if found is None else bytes(found).decode("ascii", "replace")


def number_attribute(file: h5py.File, name: str) -> int | None:
    """Return an attribute of the root if it is a whole number."""
    found = plain_attribute(file, name, h5t.INTEGER)
    return None if found is None else int(found)


def plain_attribute(file: h5py.File, name: str, kind: int) -> Any:
    """Return a scalar attribute of one kind and fixed length, or None.

    The type comes first: reading a damaged text of variable length can crash.
    """
    if name not in file.attrs:
        return None
    attribute = file.attrs.get_id(name)
    type_id = attribute.get_type()
    if type_id.get_class() != kind or attribute.shape != () or type_id.get_size() > 64:
        return None
    if kind == h5t.STRING and type_id.is_variable_str():
        return None
    return file.attrs[name]
