"""The allow-list for HDF5 files that may be damaged or malicious.

libhdf5 follows links to other files, reads external and virtual datasets from any path,
loads filters as shared libraries, and trusts every shape. So an object is opened only by
name and through hard links, a dataset only if it holds plain numbers whose bytes are in
this very file, and a file only while no filter plugin can be found. Soft links are followed
only by `resolve_soft_links`, within the file. Nothing is traversed recursively. Whatever is
refused is raised as a ValueError that names the object; `HDF5_READ_ERRORS` are the errors that
libhdf5 and its callers raise on a damaged file.
"""

import io
import math
import os
import stat
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
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
NUMERIC_TYPES = frozenset({h5t.INTEGER, h5t.FLOAT})
_TYPE_NAMES = {
    h5t.INTEGER: "integers",
    h5t.FLOAT: "floating-point numbers",
    h5t.STRING: "text",
    h5t.BITFIELD: "bit fields",
    h5t.OPAQUE: "opaque data",
    h5t.COMPOUND: "compound data",
    h5t.REFERENCE: "references",
    h5t.ENUM: "enumerations",
    h5t.VLEN: "variable-length arrays",
    h5t.ARRAY: "arrays",
}
_MAX_ATTRIBUTE_BYTES = 64
_MAX_SOFT_LINKS = 16  # on the way to one object, as in libhdf5


class _PluginScope:
    """Hides the plugin paths of libhdf5 while at least one thread is inside.

    The paths belong to the process, and the host program may need them: the last thread to
    leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._paths: list[bytes] = []

    def enter(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._paths = [h5pl.get(i) for i in range(h5pl.size())]
            self._depth += 1
            while h5pl.size():
                h5pl.remove(0)

    def leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                # In front of those that the host has added meanwhile; libhdf5 refuses to insert
                # into an empty table.
                for path in reversed(self._paths):
                    h5pl.prepend(path)


_plugin_scope = _PluginScope()


@contextmanager
def without_plugins() -> Iterator[None]:
    """Let libhdf5 find no filter plugins inside the block; restore their paths afterwards.

    An unknown filter in a file would otherwise be searched for, and run, in the directories
    that the environment names. Other threads find none either while the block runs.
    """
    _plugin_scope.enter()
    try:
        yield
    finally:
        _plugin_scope.leave()


@contextmanager
def open_untrusted(file: io.RawIOBase | io.BytesIO) -> Iterator[h5py.File]:
    """Yield an open binary file as HDF5, to read; no plugin is loaded for it."""
    with without_plugins(), h5py.File(file, "r") as opened:
        yield opened


def open_regular_file(path: Path) -> io.FileIO:
    """Open a regular file to read; a FIFO or device is neither waited for nor read.

    Raises
    ------
    OSError, ValueError
        There is none, or it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "device or pipe"
            raise ValueError(f"it is a {kind}, not a file")
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def has_object(file: h5py.File, path: str) -> bool:
    """Return whether hard links lead to `path`; another kind of link is refused."""
    return find_object(file, path) is not None


def _get_object(file: h5py.File, path: str) -> Any:
    """Return the group or dataset at `path`."""
    found = find_object(file, path)
    if found is None:
        raise ValueError(f"{path} is missing")
    return found


def find_object(file: h5py.File, path: str) -> Any:
    """Return the group or dataset at `path`, or None if there is none."""
    found: Any = file["/"]
    for name in filter(None, path.split("/")):
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name.encode()):
            return None
        if found.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise ValueError(f"{path} is a soft or external link; expected a hard link")
        found = found[name]
    return found


def resolve_soft_links(file: h5py.File, path: str) -> str:
    """Return the path by hard links to what `path` means, following soft links in the file.

    Where something is missing on the way, or is an external link, the path leads to that.

    Raises
    ------
    ValueError
        There are too many soft links, as in a cycle.
    """
    rest, done, n_links = _names(path), list[str](), 0
    while rest:
        name = rest.pop(0)
        group = find_object(file, "/".join(done))
        if not isinstance(group, h5py.Group) or not group.id.links.exists(name.encode()):
            return "/".join([*done, name, *rest])
        if group.id.links.get_info(name.encode()).type == h5l.TYPE_SOFT:
            n_links += 1
            if n_links > _MAX_SOFT_LINKS:
                raise ValueError(
                    f"{path} leads through more than {_MAX_SOFT_LINKS} soft links, perhaps in a "
                    "cycle: name the dataset itself"
                )
            target = group.id.links.get_val(name.encode()).decode("utf-8", "replace")
            done, rest = [] if target.startswith("/") else done, _names(target) + rest
        elif group.id.links.get_info(name.encode()).type == h5l.TYPE_HARD:
            done.append(name)
        else:
            raise ValueError(
                f"{path} is a link to another file: name the dataset in that file instead"
            )
    return "/".join(done)


def _names(path: str) -> list[str]:
    """Return the names in a path; empty ones and "." mean nothing."""
    return [name for name in path.split("/") if name not in ("", ".")]


def list_children(group: h5py.Group, limit: int) -> Iterator[str]:
    """Yield up to `limit` names of a group's hard links, in order; other links are left out."""
    names: list[bytes] = []

    def note(name: bytes, info: Any) -> bool | None:
        if info.type == h5l.TYPE_HARD:
            names.append(name)
        return True if len(names) >= limit else None

    group.id.links.iterate(note, info=True)
    return (name.decode("utf-8", "replace") for name in names)


def check_no_other_names(file: h5py.File, paths: Iterable[str]) -> None:
    """Raise ValueError if the groups on the way to `paths` hold anything else."""
    groups: dict[str, set[bytes]] = {}
    for path in paths:
        names = path.split("/")
        for depth, name in enumerate(names):
            groups.setdefault("/".join(names[:depth]), set()).add(name.encode())
    for path, expected in groups.items():
        group = _get_object(file, path)
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{path} is a dataset; expected a group")
        # The first unexpected name ends the iteration, however many there are.
        extra, _ = group.id.links.iterate(lambda name, ok=expected: None if name in ok else name)
        if extra is not None:
            raise ValueError(f"{path}/{extra.decode('utf-8', 'replace')} is not part of the format")


def open_dataset(
    file: h5py.File, path: str, types: Collection[int] = NUMERIC_TYPES
) -> h5py.Dataset:
    """Return the dataset at `path` if it is of one of the type classes and stored in this file.

    Raises
    ------
    ValueError
        It is missing or something else, or its shape contradicts the bytes that are stored.
    """
    found = get_dataset(file, path)
    type_id = found.id.get_type()
    type_class = type_id.get_class()
    if type_class not in types or is_variable_text(found):
        name = _TYPE_NAMES.get(type_class, "something else")
        raise ValueError(f"{path} holds {name}, not plain numbers")
    check_storage(found, path, type_id.get_size())
    return found


def get_dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """Return the dataset at `path`, whose type and storage have not been checked."""
    found = _get_object(file, path)
    if not isinstance(found, h5py.Dataset):
        is_group = isinstance(found, h5py.Group)
        raise ValueError(f"{path} is not a dataset{', but a group of them' if is_group else ''}")
    return found


def is_variable_text(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset holds strings of variable length."""
    type_id = dataset.id.get_type()
    return type_id.get_class() == h5t.STRING and bool(type_id.is_variable_str())


def check_storage(found: h5py.Dataset, path: str, item_bytes: int) -> None:
    """Raise ValueError unless all items, of `item_bytes` each, are stored in this file."""
    if found.id.get_space().get_simple_extent_type() == h5s.NULL:
        raise ValueError(f"{path} is empty")
    plist = found.id.get_create_plist()
    if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
        raise ValueError(f"{path} is stored in other files")
    if plist.get_layout() == h5d.CONTIGUOUS:
        _check_contiguous(found, path, math.prod(found.shape) * item_bytes)
    elif plist.get_layout() != h5d.CHUNKED:
        raise ValueError(f"{path} has a storage layout that distbp does not read")


def _check_contiguous(found: h5py.Dataset, path: str, expected: int) -> None:
    """Raise ValueError unless the file has as many bytes of it as the shape requires."""
    offset, stored = found.id.get_offset(), found.id.get_storage_size()
    if stored != expected or (
        expected and (offset is None or offset + stored > found.file.id.get_filesize())
    ):
        raise ValueError(
            f"{path} has {stored:,} bytes in the file, but its shape {found.shape} requires "
            f"{expected:,}"
        )


def read_text_attribute(owner: h5py.HLObject, name: str) -> str | None:
    """Return an attribute of a file, group or dataset if it is a short fixed-length string."""
    found = _read_scalar_attribute(owner, name, h5t.STRING)
    return None if found is None else bytes(found).decode("ascii", "replace")


def read_integer_attribute(owner: h5py.HLObject, name: str) -> int | None:
    """Return an attribute of a file, group or dataset if it is an integer."""
    found = _read_scalar_attribute(owner, name, h5t.INTEGER)
    return None if found is None else int(found)


def read_number_attribute(owner: h5py.HLObject, name: str) -> Any:
    """Return an attribute if it is one number, as a NumPy scalar."""
    for type_class in NUMERIC_TYPES:
        for shape in ((), (1,)):
            found = _read_scalar_attribute(owner, name, type_class, shape)
            if found is not None:
                return np.asarray(found).reshape(-1)[0]
    return None


def _read_scalar_attribute(
    owner: h5py.HLObject, name: str, type_class: int, shape: tuple[int, ...] = ()
) -> Any:
    """Return a scalar attribute of one type class and fixed length, or None.

    The type is checked first: reading a corrupted variable-length string can crash.
    """
    if name not in owner.attrs:
        return None
    attribute = owner.attrs.get_id(name)
    type_id = attribute.get_type()
    if type_id.get_class() != type_class or attribute.shape != shape:
        return None
    if type_id.get_size() > _MAX_ATTRIBUTE_BYTES:
        return None
    if type_class == h5t.STRING and type_id.is_variable_str():
        return None
    return owner.attrs[name]
