"""Files that are whole or absent."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distbp.errors import DistbpError

MOST_REASON = 300  # characters of an error's text


@contextmanager
def atomic_write(path: Path, error: type[DistbpError]) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; move it to `path` at the end.

    The file and the folder are forced to the disk. On any failure `path` is left
    as it was and the temporary file is removed; what the system refuses is raised
    as `error` (h5py closes a file on a full disk with a RuntimeError).
    """
    temporary = temporary_name(path)
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


def temporary_name(path: Path) -> Path:
    """Return the name, beside `path`, that this thread writes it under."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(failure: Exception) -> str:
    """Say in a few words, and in one line, why an operation on a file failed."""
    if isinstance(failure, MemoryError):
        return "not enough memory"
    number = getattr(failure, "errno", None)
    if number:
        return os.strerror(number)
    text = str(failure.args[0]) if failure.args else ""
    if "file signature not found" in text:
        return "it is not an HDF5 file"
    # Names in a file are whoever's wrote it: neither long nor made to steer a terminal.
    line = "".join(c if c.isprintable() else "?" for c in text.split("\n")[0][:MOST_REASON])
    return line.rstrip(".") or type(failure).__name__
