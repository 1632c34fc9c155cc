"""Memory that the ranks of a node share, and how they wait for each other in it.

Both need no message: memory is a file that all ranks of a node map, and the
`Barrier` is a row of counters in it. The file is unlinked as soon as all have
mapped it, so that no kind of death leaves it behind.
"""

import math
import mmap
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from distbp.parallel.barrier import Node

FOLDERS = ("/dev/shm", tempfile.gettempdir())  # noqa: S108 (a random name, O_EXCL)
TOKEN = 16  # bytes that prove that two ranks see the same memory


class Ranks(Protocol):
    """The ranks of a run, as much as is asked of them."""

    node_rank: int

    @property
    def node_size(self) -> int: ...
    @property
    def node_comm(self) -> Node: ...
    def collective_errors(self) -> AbstractContextManager[None]: ...


def share(node: Node, size: int, own: tuple[int, int]) -> tuple[mmap.mmap | None, str]:
    """Return `size` bytes that all ranks of a node see, or None, and why not; collective.

    Each rank reserves its `own` bytes [start, stop), together all of them: so a full
    folder is an error here, not a SIGBUS later, and memory is near to its user. The
    second value also says why the best folder would not do.
    """
    troubles = ""
    for folder in FOLDERS:
        memory, trouble = _share_in(folder, node, size, own)
        troubles += f"; {trouble}" if troubles and trouble else trouble
        if memory is not None:
            return memory, troubles
    return None, troubles


def _share_in(
    folder: str, node: Node, size: int, own: tuple[int, int]
) -> tuple[mmap.mmap | None, str]:
    """Try one folder."""
    path, token, trouble = _offer(folder, size) if node.rank == 0 else ("", "", "")
    path, token, trouble = node.broadcast([path, token, trouble])
    if not path:
        return None, trouble
    memory, trouble = _map(path, size, token, own)
    troubles = [text for text in node.allgather(trouble) if text]
    if node.rank == 0:
        Path(path).unlink(missing_ok=True)
    return (None, troubles[0]) if troubles else (memory, "")


def _offer(folder: str, size: int) -> tuple[str, str, str]:
    """Make a file for `size` bytes and a token behind them; return name, token and trouble."""
    token = secrets.token_bytes(TOKEN)
    path = Path(folder, f"distbp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return "", "", f"{folder}: {error.strerror}"
    try:
        os.ftruncate(descriptor, size + TOKEN)
        _reserve(descriptor, size, size + TOKEN)
        os.pwrite(descriptor, token, size)
    except OSError as error:
        path.unlink()
        return "", "", f"{folder}: {error.strerror}"
    finally:
        os.close(descriptor)
    return str(path), token.hex(), ""


def _map(path: str, size: int, token: str, own: tuple[int, int]) -> tuple[mmap.mmap | None, str]:
    """Reserve this rank's bytes of the file and map all; return it, or why not."""
    folder = str(Path(path).parent)
    try:
        with open(path, "r+b") as file:
            _reserve(file.fileno(), *own)
            memory = mmap.mmap(file.fileno(), size + TOKEN)
    except OSError as error:
        return None, f"{folder}: {error.strerror}"
    except ValueError:
        return None, f"{folder}: another file under the same name"
    if memory[size:].hex() != token:
        return None, f"{folder}: not the same for all ranks of a node"
    return memory, ""


def _reserve(descriptor: int, start: int, stop: int) -> None:
    if start < stop and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, stop - start)


class SharedArray:
    """An array of which a node has one copy, or each rank if they cannot share memory.

    Parameters
    ----------
    comm : Comm
    shape, dtype
    rows : (start, stop), optional
        Of the first axis, what this rank is to reserve; together all. By default the
        node's first rank reserves everything.

    Attributes
    ----------
    array : array of `shape` and `dtype`, zeros
    is_shared : bool
        Whether all ranks of the node have this one copy.
    is_owner : bool
        Whether this rank is the one to fill its copy.
    trouble : str
        Why it is not shared, or not in the best place.
    """

    def __init__(
        self,
        comm: Ranks,
        shape: tuple[int, ...],
        dtype: np.dtype,
        rows: tuple[int, int] | None = None,
    ) -> None:
        self._comm = comm
        memory, self.trouble = None, ""
        if comm.node_size > 1:
            row = math.prod(shape[1:]) * dtype.itemsize
            start, stop = rows or (0, shape[0] if comm.node_rank == 0 else 0)
            memory, self.trouble = share(comm.node_comm, shape[0] * row, (start * row, stop * row))
        self.is_shared = memory is not None or comm.node_size == 1
        self.is_owner = memory is None or comm.node_rank == 0
        if memory is None:
            self.array = np.zeros(shape, dtype)
        else:
            self.array = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)

    def fill(self, function: Callable[[np.ndarray], None]) -> None:
        """Let the owner of each copy call `function` on it; collective."""
        with self._comm.collective_errors():
            if self.is_owner:
                function(self.array)
