"""What all of distbp's HDF5 files have in common.

A file is whole or absent: it is written beside its place under a temporary name,
forced to the disk and renamed. It begins with a seal (see `seal`), says its format
and version in two attributes of the root, holds text only as UTF-8 JSON in a
uint8 dataset (never as a variable-length string: one changed byte in those makes
libhdf5 loop or crash), and no time stamps, so that equal content is an equal
file. Files are read through the `gate`. What they mean is known to `data` and
`checkpoint`.
"""

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.errors import ConfigError, DistbpError
from distbp.storage import checksum, hdf5_checks, hdf5_chunks
from distbp.storage.atomic import atomic_write, reason

MOST_TEXT = 1 << 27  # bytes of JSON: the records of 100,000 epochs, and some more
MOST_ITEMS = 1 << 22  # values, and lines, in it: each takes about 100 bytes of memory


def check_replaceable(path: Path) -> None:
    """Refuse to write to a path where something is that distbp has not made.

    Raises
    ------
    ConfigError
        It is there, and has to be moved first.
    """
    if not os.path.lexists(path):
        return
    is_ours = False
    if path.is_file():
        with suppress(OSError), path.open("rb") as file:
            is_ours = file.read(len(checksum.MAGIC)) in (checksum.MAGIC, b"")
    if not is_ours:
        raise ConfigError(
            f"{path} is there already, and distbp has not written it. Give the output another "
            "name, or remove it first."
        )


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
    """Yield an empty file of format `kind`; sealed, it takes its place when the block ends."""
    with atomic_write(path, error) as temporary, temporary.open("x+b", buffering=0) as raw:
        disk = Disk(raw)
        with h5py.File(disk, "w", userblock_size=checksum.BLOCK) as file:
            file.attrs["format"] = np.bytes_(kind)
            file.attrs["version"] = np.int64(version)
            yield file
        if disk.failure:
            raise disk.failure
        checksum.write_checksum_header(raw, kind)


@contextmanager
def wrap_read_errors(path: Path, kind: str, error: type[DistbpError]) -> Iterator[None]:
    """Turn whatever goes wrong when a file is read into one sentence, an `error`."""
    try:
        yield
    except hdf5_checks.HDF5_READ_ERRORS as failure:
        raise error(f"{path} cannot be read as {kind}: {reason(failure)}.") from failure


@contextmanager
def open_unverified(
    path: Path, kind: str, version: int, error: type[DistbpError]
) -> Iterator[tuple[h5py.File, io.FileIO]]:
    """Yield the file at `path`, which is not compared with its seal, and what it is read from.

    For files that may be too large to read all of them before they are used.

    Raises
    ------
    error
        No such file, not HDF5, another format or a newer version, or anything in
        it that cannot be read.
    """
    with wrap_read_errors(path, kind, error), hdf5_checks.open_file(path) as raw:
        check_kind(checksum.read_block(raw), path, kind, error)
        with h5py.File(raw, "r") as file:
            check_format(file, path, kind, version, error)
            yield file, raw


@contextmanager
def open_verified(
    path: Path, kind: str, version: int, error: type[DistbpError]
) -> Iterator[h5py.File]:
    """Yield the file at `path`, once all its bytes are known to be those that were written.

    They are read once and kept: what libhdf5 sees is what was looked at.

    Raises
    ------
    error
        As for `open_unverified`, or the file is damaged.
    """
    with wrap_read_errors(path, kind, error):
        with hdf5_checks.open_file(path) as raw:
            check_kind(checksum.read_block(raw), path, kind, error)
            content = checksum.read(raw)[1]
        with h5py.File(io.BytesIO(content), "r") as file:
            check_format(file, path, kind, version, error)
            yield file


def verify_checksum(path: Path, kind: str, error: type[DistbpError]) -> None:
    """Raise `error` unless the file is a `kind` and all its bytes are those that were written."""
    with wrap_read_errors(path, kind, error), hdf5_checks.open_file(path) as raw:
        check_kind(checksum.check(raw), path, kind, error)


def check_kind(
    found: checksum.Seal | None, path: Path, kind: str, error: type[DistbpError]
) -> None:
    """Raise `error` if the seal is that of another kind of file."""
    if found is not None and found.kind != kind:
        raise error(f"{path} is a {found.kind!r}; expected a {kind!r}.")


def check_format(
    file: h5py.File, path: Path, kind: str, version: int, error: type[DistbpError]
) -> None:
    """Raise `error` unless the root's attributes say `kind`, at most `version`."""
    found = hdf5_checks.text_attribute(file, "format")
    number = hdf5_checks.number_attribute(file, "version")
    if found is None or number is None:
        raise error(f"{path} is an HDF5 file, but not a {kind}.")
    if found != kind:
        raise error(f"{path} is a {found!r}; expected a {kind!r}.")
    if number > version:
        raise error(
            f"{path} has version {number} of its format; this distbp reads up to {version}. "
            "Use a newer distbp."
        )


def write_array(group: h5py.Group, name: str, array: np.ndarray) -> h5py.Dataset:
    """Store `array` contiguously under `name` in `group`."""
    return group.create_dataset(name, data=array, track_times=False)


def write_json(group: h5py.Group, name: str, value: Any) -> None:
    """Store `value` as JSON; see `write_text`."""
    write_text(group, name, json.dumps(value, indent=1, ensure_ascii=False))


def write_text(group: h5py.Group, name: str, text: str) -> None:
    """Store JSON text as UTF-8 in a uint8 dataset."""
    content = text.encode()
    if is_too_long(content):  # it could not be read again
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    write_array(group, name, np.frombuffer(content, np.uint8))


def read_json(file: h5py.File, path: str) -> Any:
    """Return what `write_json` stored."""
    text = read_text(file, path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise ValueError(f"{path} is not JSON text") from failure


def read_text(file: h5py.File, path: str) -> str:
    """Return what `write_text` stored."""
    found = hdf5_chunks.array(file, path)
    if found.dtype != np.uint8 or found.ndim != 1 or len(found) > MOST_TEXT:
        raise ValueError(f"{path} is not JSON text")
    text = found[:].tobytes()
    if is_too_long(text):
        raise ValueError(f"{path} is not JSON text of a sensible length")
    try:
        return text.decode()
    except UnicodeDecodeError as failure:
        raise ValueError(f"{path} is not JSON text") from failure


def is_too_long(text: bytes) -> bool:
    """Return whether a JSON text would take too much memory: as it is, or as Python's objects."""
    if len(text) <= MOST_ITEMS:  # nor can it have as many
        return False
    return len(text) > MOST_TEXT or sum(map(text.count, (b",", b"[", b"{", b"\n"))) > MOST_ITEMS
