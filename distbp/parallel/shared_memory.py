"""Memory that the ranks of a node share: a file that all of them map.

Rank 0 of the node creates the file in `/dev/shm`, or if there is no room in the folder for
temporary files. The file has no name, and the other ranks open it by its descriptor in rank 0's
`/proc/PID/fd`: whatever kills them, and when, nothing is left behind. Where that does not work
(without /proc, between containers, on some file systems) it has a name until all ranks have
mapped it. What lies in the memory is up to `barrier` and `shared_array`.
"""

import itertools
import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from distbp.parallel.comm import Group

_FOLDERS = ("/dev/shm", tempfile.gettempdir())  # noqa: S108 (a random name, O_EXCL)
_O_TMPFILE = getattr(os, "O_TMPFILE", 0)  # without it, opening a folder to write fails
_TOKEN_BYTES = 16  # at the end of the file: proof that two ranks have mapped the same one
_NO_FILE = ["", "", ""]


def allocate_shared(node: Group, size: int, own: tuple[int, int]) -> tuple[mmap.mmap | None, str]:
    """Return memory that all ranks of a node share, zeros at first; collective.

    Parameters
    ----------
    node : Group
    size : int
        In bytes.
    own : (start, stop)
        The bytes that this rank reserves; together the ranks reserve all. So a full folder is
        an error here and not a SIGBUS later, and on a NUMA machine the pages are near the
        rank that uses them.

    Returns
    -------
    mmap or None
        None, on all ranks, if one of them cannot map it.
    str
        Why the first folder could not be used; empty if it could.
    """
    reasons: dict[str, str] = {}
    for folder, has_name in itertools.product(_FOLDERS, (False, True)):
        memory, reason = _allocate_in(folder, has_name, node, size, own)
        if memory is not None:
            reasons.pop(folder, None)
            return memory, "; ".join(reasons.values())
        reasons[folder] = reason
    return None, "; ".join(reasons.values())


def _allocate_in(
    folder: str, has_name: bool, node: Group, size: int, own: tuple[int, int]
) -> tuple[mmap.mmap | None, str]:
    """Try a file with or without a name in a folder; return the memory, or None and the reason."""
    is_first = node.rank == 0
    with _created_file(folder, has_name, size) if is_first else nullcontext(_NO_FILE) as created:
        path, token, reason = node.broadcast(created)
        if not path:
            return None, reason
        memory, reason = _map_file(folder, path, token, size, own)
        reasons = [text for text in node.allgather(reason) if text]
        return (None, reasons[0]) if reasons else (memory, "")


@contextmanager
def _created_file(folder: str, has_name: bool, size: int) -> Iterator[list[str]]:
    """Create a file for `size` bytes and a token; yield [path, token, reason].

    The path is that of other ranks, in this block only; empty if there is a reason why not.
    """
    token = secrets.token_bytes(_TOKEN_BYTES)
    named = Path(folder, f"distbp-{os.getpid()}-{secrets.token_hex(4)}")
    with ExitStack() as stack:
        try:
            if has_name:
                descriptor = os.open(named, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                stack.callback(named.unlink, missing_ok=True)
            else:
                descriptor = os.open(folder, os.O_RDWR | _O_TMPFILE, 0o600)
            stack.callback(os.close, descriptor)
            os.ftruncate(descriptor, size + _TOKEN_BYTES)
            _reserve(descriptor, size, size + _TOKEN_BYTES)
            os.pwrite(descriptor, token, size)
            path = str(named) if has_name else f"/proc/{os.getpid()}/fd/{descriptor}"
            created = [path, token.hex(), ""]
        except OSError as error:
            created = ["", "", f"{folder}: {error.strerror}"]
        yield created


def _map_file(
    folder: str, path: str, token: str, size: int, own: tuple[int, int]
) -> tuple[mmap.mmap | None, str]:
    """Reserve this rank's bytes of the file and map all of it; return it, or the reason."""
    # Ranks of a node may run in different containers, where the path can be any other file's.
    other = f"{folder}: not the same folder for all ranks of the node"
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or about.st_size != size + _TOKEN_BYTES:
            return None, other
        with open(path, "r+b") as file:
            if os.pread(file.fileno(), _TOKEN_BYTES, size).hex() != token:
                return None, other
            _reserve(file.fileno(), *own)
            return mmap.mmap(file.fileno(), size + _TOKEN_BYTES), ""
    except OSError as error:
        return None, f"{folder}: {error.strerror}"


def _reserve(descriptor: int, start: int, stop: int) -> None:
    if start < stop and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, stop - start)
