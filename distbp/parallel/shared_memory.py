"""Memory that the ranks of a node share: a file that all of them map.

Rank 0 of the node creates the file in `/dev/shm`, or if there is no room in the folder for
temporary files, and unlinks it as soon as all ranks have mapped it: whatever kills them,
nothing is left behind. What lies in the memory is up to `barrier` and `shared_array`.
"""

import mmap
import os
import secrets
import tempfile
from pathlib import Path

from distbp.parallel.comm import Group

_FOLDERS = ("/dev/shm", tempfile.gettempdir())  # noqa: S108 (a random name, O_EXCL)
_TOKEN_BYTES = 16  # at the end of the file: proof that two ranks have mapped the same one


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
    reasons: list[str] = []
    for folder in _FOLDERS:
        memory, reason = _allocate_in(folder, node, size, own)
        if memory is not None:
            return memory, "; ".join(reasons)
        reasons.append(reason)
    return None, "; ".join(reasons)


def _allocate_in(
    folder: str, node: Group, size: int, own: tuple[int, int]
) -> tuple[mmap.mmap | None, str]:
    """Try one folder; return the memory, or None and the reason."""
    path, token, reason = _create_shared_file(folder, size) if node.rank == 0 else ("", "", "")
    path, token, reason = node.broadcast([path, token, reason])
    if not path:
        return None, reason
    memory, reason = _map_file(path, size, token, own)
    reasons = [text for text in node.allgather(reason) if text]
    if node.rank == 0:
        Path(path).unlink(missing_ok=True)
    return (None, reasons[0]) if reasons else (memory, "")


def _create_shared_file(folder: str, size: int) -> tuple[str, str, str]:
    """Create a file for `size` bytes and a token behind them; return path, token and reason."""
    token = secrets.token_bytes(_TOKEN_BYTES)
    path = Path(folder, f"distbp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return "", "", f"{folder}: {error.strerror}"
    try:
        os.ftruncate(descriptor, size + _TOKEN_BYTES)
        _reserve(descriptor, size, size + _TOKEN_BYTES)
        os.pwrite(descriptor, token, size)
    except OSError as error:
        path.unlink()
        return "", "", f"{folder}: {error.strerror}"
    finally:
        os.close(descriptor)
    return str(path), token.hex(), ""


def _map_file(
    path: str, size: int, token: str, own: tuple[int, int]
) -> tuple[mmap.mmap | None, str]:
    """Reserve this rank's bytes of the file and map all of it; return it, or the reason."""
    folder = str(Path(path).parent)
    try:
        with open(path, "r+b") as file:
            _reserve(file.fileno(), *own)
            memory = mmap.mmap(file.fileno(), size + _TOKEN_BYTES)
    except OSError as error:
        return None, f"{folder}: {error.strerror}"
    except ValueError:  # it is smaller
        return None, f"{folder}: another file has the same name"
    # Ranks of a node may run in different containers, each with a folder of this name.
    if memory[size:].hex() != token:
        return None, f"{folder}: not the same folder for all ranks of the node"
    return memory, ""


def _reserve(descriptor: int, start: int, stop: int) -> None:
    if start < stop and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, stop - start)
