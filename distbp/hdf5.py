"""What all of distbp's HDF5 files have in common.

A file is whole or absent: it is written beside its place under a temporary name,
forced to the disk and renamed. It has a user block of 512 bytes, says its format
and version in two attributes of the root, holds text only as UTF-8 JSON in a
uint8 dataset (never as a variable-length string: one changed byte in those makes
libhdf5 loop or crash), and no time stamps, so that equal content is an equal
file. What the files mean is known to `data` and `checkpoint`.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.errors import DistbpError

USER_BLOCK = 512  # bytes before the HDF5 signature


@contextmanager
def atomic(path: Path, error: type[DistbpError]) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; move it to `path` at the end.

    The file and the folder are forced to the disk. On any failure `path` is left
    as it was and the temporary file is removed; what the system refuses is raised
    as `error` (h5py closes a file on a full disk with a RuntimeError).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A process of the same number may have left it behind, as a link to a good file.
        temporary.unlink(missing_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except (OSError, RuntimeError) as failure:
        raise error(f"{path} cannot be written: {reason(failure)}.") from failure
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Disk:
    """A binary file for h5py whose failures are kept until libhdf5 has done with it.

    libhdf5 can crash the process after a write that failed, on a full disk say. So
    it is told that all went well; `failure` is what really happened.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.failure: OSError | None = None
        self.read, self.readinto, self.seek, self.tell = (
            file.read, file.readinto, file.seek, file.tell,
        )  # fmt: skip

    def write(self, data: Any) -> int:
        """Write all of `data`, unless something has failed before."""
        rest = memoryview(data)
        try:
            while len(rest) and self.failure is None:
                rest = rest[self._file.write(rest) :]
        except OSError as failure:
            self.failure = failure
        return len(data)

    def truncate(self, size: int) -> int:
        """Cut or extend the file."""
        try:
            self._file.truncate(size)
        except OSError as failure:
            self.failure = self.failure or failure
        return size

    def flush(self) -> None:
        """Do nothing: the file is unbuffered, and is forced to the disk at the end."""


@contextmanager
def create(path: Path, kind: str, version: int, error: type[DistbpError]) -> Iterator[h5py.File]:
    """Yield an empty file of format `kind`; it takes its place when the block ends."""
    with atomic(path, error) as temporary, temporary.open("w+b", buffering=0) as raw:
        disk = Disk(raw)
        with h5py.File(disk, "w", userblock_size=USER_BLOCK) as file:
            file.attrs["format"] = np.bytes_(kind)
            file.attrs["version"] = np.int64(version)
            yield file
        if disk.failure:
            raise disk.failure


@contextmanager
def opened(path: Path, kind: str, version: int, error: type[DistbpError]) -> Iterator[h5py.File]:
    """Yield the file at `path`, read only, once it is known to be a `kind` of `version`.

    Raises
    ------
    error
        No such file, not HDF5, another format or a newer version, or anything in
        it that libhdf5 cannot read.
    """
    try:
        # No lock: readers share a file that is never written in place.
        with h5py.File(path, "r", locking=False) as file:
            check_format(file, path, kind, version, error)
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as failure:
        raise error(f"{path} cannot be read as {kind}: {reason(failure)}.") from failure


def check_format(
    file: h5py.File, path: Path, kind: str, version: int, error: type[DistbpError]
) -> None:
    """Raise `error` unless the root's attributes say `kind`, at most `version`."""
    # The types come first: reading a damaged variable-length string can crash.
    if not (has_plain_attribute(file, "format", "S") and has_plain_attribute(file, "version", "i")):
        raise error(f"{path} is an HDF5 file, but not a {kind}.")
    found = bytes(file.attrs["format"]).decode("ascii", "replace")
    if found != kind:
        raise error(f"{path} is a {found!r}; expected a {kind!r}.")
    if int(file.attrs["version"]) > version:
        raise error(
            f"{path} has version {int(file.attrs['version'])} of its format; this distbp "
            f"reads up to {version}. Use a newer distbp."
        )


def has_plain_attribute(file: h5py.File, name: str, kind: str) -> bool:
    """Is `name` a scalar attribute of NumPy kind `kind` and fixed length?"""
    if name not in file.attrs:
        return False
    attribute = file.attrs.get_id(name)
    return bool(attribute.shape == () and attribute.dtype.kind == kind)


def write_array(group: h5py.Group, name: str, array: np.ndarray) -> h5py.Dataset:
    """Store `array` contiguously under `name` in `group`."""
    return group.create_dataset(name, data=array, track_times=False)


def write_json(group: h5py.Group, name: str, value: Any) -> None:
    """Store `value` as UTF-8 JSON in a uint8 dataset."""
    text = json.dumps(value, indent=1, ensure_ascii=False).encode()
    write_array(group, name, np.frombuffer(text, np.uint8))


def read_json(group: h5py.Group, name: str) -> Any:
    """Return what `write_json` stored."""
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.uint8 or dataset.ndim != 1:
        raise ValueError(f"{name!r} is not JSON text")
    return json.loads(dataset[...].tobytes().decode())


def reason(failure: Exception) -> str:
    """Say in a few words why an operation on a file failed."""
    number = getattr(failure, "errno", None)
    if number:
        return os.strerror(number)
    text = str(failure.args[0]) if failure.args else type(failure).__name__
    if "file signature not found" in text:
        return "it is not an HDF5 file"
    return text.splitlines()[0].rstrip(".") if text else type(failure).__name__
