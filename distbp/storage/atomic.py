"""Atomic replacement of files, and why an operation on a file failed.

A file is written under a temporary name, forced to the disk and renamed. What is in the
file is up to the caller.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distbp.errors import DistbpError

# Of a write: Linux with large folios takes ten times as long for 8 MiB at once as for 1 MiB eight
# times.
WRITE_BYTES = 1 << 20
_MAX_REASON_CHARS = 300


@contextmanager
def atomic_write(path: Path, error: type[DistbpError]) -> Iterator[Path]:
    """Yield a temporary name in the directory of `path`; rename it to `path` at the end.

    File and directory are forced to the disk. If anything fails, `path` is left as it was
    and the temporary file is removed.

    Raises
    ------
    error
        The operating system refused an operation.
    """
    temporary = _temporary_path(path)
    try:
        # A process with the same pid may have left it behind, as a link to a valid file.
        temporary.unlink(missing_ok=True)
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)  # or the rename could be lost in a power failure
    except (OSError, RuntimeError) as failure:  # h5py raises RuntimeError if the disk is full
        raise error(f"{path} cannot be written: {failure_reason(failure)}.") from failure
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    """Return the name, beside `path`, that only this thread writes to."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def _fsync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failure_reason(failure: Exception) -> str:
    """Return in one short line why an operation on a file failed."""
    if isinstance(failure, MemoryError):
        return "not enough memory"
    number = getattr(failure, "errno", None)
    if number:
        return os.strerror(number)
    text = str(failure.args[0]) if failure.args else ""
    if "file signature not found" in text:
        return "it is not an HDF5 file"
    # The text may quote names from an untrusted file: limit them, and escape control codes.
    line = "".join(c if c.isprintable() else "?" for c in text.split("\n")[0][:_MAX_REASON_CHARS])
    return line.rstrip(".") or type(failure).__name__
