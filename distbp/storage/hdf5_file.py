"""Creating and opening distbp's HDF5 files, and what all of them have in common.

A file is written atomically, begins with a checksum header, names its format and version in
two attributes of the root group, holds text as UTF-8 in uint8 datasets, and has no time
stamps. Files are opened through the allow-list of `hdf5_checks`. What a file means is known
to `distbp.data` and `checkpoint`.
"""

import errno
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.errors import ConfigError, DistbpError
from distbp.storage import checksum, hdf5_checks, hdf5_chunks
from distbp.storage.atomic import WRITE_BYTES, atomic_write, failure_reason

_LARGE_BYTES = 1 << 26  # of a file, which takes the disk a while
# Of a text: the records of 100,000 epochs fit.
_MAX_TEXT_BYTES = 1 << 27
_MAX_TEXT_ITEMS = 1 << 22  # JSON values, or lines: each takes about 100 bytes of memory


def check_replaceable(path: Path, kind: str, remedy: str = "remove that file first") -> None:
    """Check that writing to `path` overwrites nothing but an output of distbp of the same kind.

    Raises
    ------
    ConfigError
        There is another file, or something that is no file.
    """
    if not os.path.lexists(path):
        return
    found: str | None = None
    if path.is_file():
        with suppress(OSError), path.open("rb") as file:
            found = checksum.read_kind(file)
            if os.path.getsize(path) == 0:  # nothing to lose; mktemp makes such files
                return
    if found != kind:
        what = f"it is a {found}, not a {kind}"
        if found is None:
            what = "nothing in it says that distbp has written it"
        raise ConfigError(
            f"{path} exists already, and {what}. Give the output another name, or {remedy}."
        )


class _DeferredErrorFile:
    """A raw binary file for h5py that defers write errors until the file is closed.

    libhdf5 can crash the process after a failed write, on a full disk for instance. So each
    write reports success, and `failure` holds the first error.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.failure: OSError | None = None
        self.read, self.readinto, self.seek, self.tell = (
            file.read, file.readinto, file.seek, file.tell,
        )  # fmt: skip

    def write(self, data: Any) -> int:
        """Write all of `data`, unless an earlier write has failed."""
        rest = memoryview(data)
        try:
            while len(rest) and self.failure is None:
                rest = rest[self._file.write(rest[:WRITE_BYTES]) :]
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
        """Do nothing: the file is unbuffered, and forced to the disk at the end."""


@contextmanager
def create_file(
    path: Path, kind: str, version: int, error: type[DistbpError]
) -> Iterator[h5py.File]:
    """Yield an empty file of format `kind`, which appears at `path` when the block ends.

    Raises
    ------
    error
        It cannot be written; an older file at `path` is unharmed.
    """
    with atomic_write(path, error) as temporary, temporary.open("x+b", buffering=0) as raw:
        target = _DeferredErrorFile(raw)
        with h5py.File(target, "w", userblock_size=checksum.USER_BLOCK_BYTES) as file:
            file.attrs["format"] = np.bytes_(kind)
            file.attrs["version"] = np.int64(version)
            yield file
        # libhdf5 has written the last of its buffers only when it closes the file.
        if target.failure:
            raise target.failure
        is_large = raw.seek(0, os.SEEK_END) >= _LARGE_BYTES
        with ThreadPoolExecutor(1) as pool:
            # While the checksum is computed; the header is forced to the disk by `atomic_write`.
            flushed = pool.submit(os.fsync, raw.fileno()) if is_large else None
            checksum.write_checksum_header(raw, kind)
            if flushed is not None:
                flushed.result()


@contextmanager
def wrap_read_errors(path: Path, kind: str, error: type[DistbpError]) -> Iterator[None]:
    """Raise whatever a damaged file causes in the block as an `error` of one sentence."""
    try:
        yield
    except hdf5_checks.HDF5_READ_ERRORS as failure:
        raise error(f"{path} cannot be read as {kind}: {failure_reason(failure)}.") from failure


@contextmanager
def open_unverified(
    path: Path, kind: str, version: int, error: type[DistbpError]
) -> Iterator[tuple[h5py.File, io.FileIO]]:
    """Yield the HDF5 file at `path`, and the raw file, without verifying its content.

    For files that may be larger than memory.

    Raises
    ------
    error
        No such file, not HDF5, another format or a newer version, or anything in the block
        that cannot be read.
    """
    with wrap_read_errors(path, kind, error), hdf5_checks.open_regular_file(path) as raw:
        _check_kind(checksum.read_checksum_header(raw), path, kind, error)
        with hdf5_checks.open_untrusted(raw) as file:
            _check_format(file, path, kind, version, error)
            yield file, raw


@contextmanager
def open_verified(
    path: Path, kind: str, version: int, error: type[DistbpError]
) -> Iterator[h5py.File]:
    """Yield the HDF5 file at `path` after verifying its checksum.

    It is read into memory once: libhdf5 sees the bytes that were verified.

    Raises
    ------
    error
        As for `open_unverified`, or the file is damaged.
    """
    with wrap_read_errors(path, kind, error):
        with hdf5_checks.open_regular_file(path) as raw:
            _check_kind(checksum.read_checksum_header(raw), path, kind, error)
            content = checksum.read_verified(raw)
        with hdf5_checks.open_untrusted(io.BytesIO(content)) as file:
            _check_format(file, path, kind, version, error)
            yield file


def file_id(raw: io.FileIO) -> tuple[int, int]:
    """Return what identifies an open file, whatever its name: its device and inode."""
    status = os.fstat(raw.fileno())
    return status.st_dev, status.st_ino


def verify_checksum(path: Path, kind: str, error: type[DistbpError]) -> None:
    """Raise `error` unless the file is a `kind` with a valid checksum."""
    with wrap_read_errors(path, kind, error), hdf5_checks.open_regular_file(path) as raw:
        _check_kind(checksum.verify_content(raw), path, kind, error)


def _check_kind(
    header: checksum.ChecksumHeader | None, path: Path, kind: str, error: type[DistbpError]
) -> None:
    """Raise `error` if the checksum header is that of another kind of file."""
    if header is not None and header.kind != kind:
        raise error(f"{path} is a {header.kind!r}; expected a {kind!r}.")


def _check_format(
    file: h5py.File, path: Path, kind: str, version: int, error: type[DistbpError]
) -> None:
    """Raise `error` unless the attributes name the format `kind`, of at most `version`."""
    found = hdf5_checks.read_text_attribute(file, "format")
    number = hdf5_checks.read_integer_attribute(file, "version")
    if found is None or number is None:
        raise error(f"{path} is an HDF5 file, but not a {kind}.")
    if found != kind:
        raise error(f"{path} is a {found!r}; expected a {kind!r}.")
    if number > version:  # older versions are read
        raise error(
            f"{path} has version {number} of its format; this distbp reads up to {version}. "
            "Use a newer distbp."
        )


def write_array(group: h5py.Group, name: str, array: np.ndarray) -> h5py.Dataset:
    """Store `array` contiguously under `name` in `group`."""
    # Time stamps would make files of equal content differ.
    return group.create_dataset(name, data=array, track_times=False)


def write_json(group: h5py.Group, name: str, value: Any) -> None:
    """Store `value` as JSON text."""
    write_text(group, name, json.dumps(value, indent=1, ensure_ascii=False))


def write_text(group: h5py.Group, name: str, text: str) -> None:
    """Store text, of JSON or of lines, as UTF-8 in a uint8 dataset."""
    content = text.encode()
    if _is_too_long(content):  # `read_text` would refuse it
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
    found = hdf5_chunks.open_array(file, path)
    if found.dtype != np.uint8 or found.ndim != 1 or len(found) > _MAX_TEXT_BYTES:
        raise ValueError(f"{path} is not JSON text")
    text = found[:].tobytes()
    if _is_too_long(text):
        raise ValueError(f"{path} is not JSON text of an acceptable length")
    try:
        return text.decode()
    except UnicodeDecodeError as failure:
        raise ValueError(f"{path} is not JSON text") from failure


def _is_too_long(text: bytes) -> bool:
    """Return whether a text would take too much memory, as bytes or as Python objects."""
    if len(text) <= _MAX_TEXT_ITEMS:  # an item takes a byte at least
        return False
    items = sum(map(text.count, (b",", b"[", b"{", b"\n")))
    return len(text) > _MAX_TEXT_BYTES or items > _MAX_TEXT_ITEMS
