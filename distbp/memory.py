"""Memory that the ranks of a node share, and how they wait for each other in it.

Both need no message: memory is a file that all ranks of a node map, and the
`Barrier` is a row of counters in it. The file is unlinked as soon as all have
mapped it, so that no kind of death leaves it behind.
"""

import math
import mmap
import os
import platform
import secrets
import select
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distbp import machine

FOLDERS = ("/dev/shm", tempfile.gettempdir())  # noqa: S108 (a random name, O_EXCL)
TOKEN = 16  # bytes that prove that two ranks see the same memory
LINE = 16  # int64 numbers, two lines of a cache: a rank's counter shares them with nobody

# How a rank waits: it reads, then it lets others run, then it sleeps.
SPINS, YIELDS = 300, 200
NAP = 50e-6  # seconds
LOOK = 0.1  # seconds between two looks at whether the others are alive
GONE = -1  # in the place of a count: this rank does not come any more
# Processors on which all see the writes of one in the order in which it makes them.
STRONGLY_ORDERED = ("x86_64", "AMD64", "i686")


class DeathError(Exception):
    """A rank that others wait for has died, or does not come for another reason."""


class Node(Protocol):
    """The ranks of a node, as much as is asked of them."""

    rank: int
    size: int

    def broadcast(self, value: Any, root: int = 0) -> Any: ...
    def gather(self, value: Any) -> list[Any]: ...


class Ranks(Protocol):
    """The ranks of a run, as much as is asked of them."""

    node_rank: int

    @property
    def node_size(self) -> int: ...
    @property
    def on_node(self) -> Node: ...
    def together(self) -> AbstractContextManager[None]: ...


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
    troubles = [text for text in node.gather(trouble) if text]
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


class NodeArray:
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
            memory, self.trouble = share(comm.on_node, shape[0] * row, (start * row, stop * row))
        self.is_shared = memory is not None or comm.node_size == 1
        self.is_owner = memory is None or comm.node_rank == 0
        if memory is None:
            self.array = np.zeros(shape, dtype)
        else:
            self.array = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)

    def fill(self, function: Callable[[np.ndarray], None]) -> None:
        """Let the owner of each copy call `function` on it; collective."""
        with self._comm.together():
            if self.is_owner:
                function(self.array)


class Barrier:
    """Where ranks wait for each other, by counters in memory that they share.

    Parameters
    ----------
    counters : (ranks, LINE) int64 array
        Zeros at first.
    rank : int
    pids : sequence of int
        The ranks' processes; 0 for one that cannot be watched.
    cores : int
        That the ranks share. Where there are fewer than ranks, who waits makes room
        at once.
    """

    def __init__(self, counters: np.ndarray, rank: int, pids: Sequence[int], cores: int) -> None:
        self._counters = memoryview(counters.reshape(-1).data)
        self._mine = rank * LINE
        self._others = [other * LINE for other in range(len(pids)) if other != rank]
        self._spins = SPINS if cores >= len(pids) else 0
        self.count = 0  # calls of `wait` so far
        self._fence = None if platform.machine() in STRONGLY_ORDERED else _fence
        self._deaths = select.poll()
        self._files = [_death_file(pid) for pid in pids if pid not in (0, os.getpid())]
        for file in self._files:
            if file is not None:
                self._deaths.register(file, select.POLLIN)

    def __del__(self) -> None:
        for file in self._files:
            if file is not None:
                os.close(file)

    def wait(self) -> None:
        """Return when all ranks have called it, and all that they wrote before is to be seen.

        Raises
        ------
        DeathError
            Another rank of the node has died before it came, or waits elsewhere: for all
            ranks at the same call.
        """
        self.count = count = self.count + 1
        counters, spins = self._counters, self._spins
        if self._fence:
            self._fence()
        counters[self._mine] = count
        for other in self._others:
            while counters[other] < count:
                spins -= 1
                if spins < 0:
                    self._wait_long(other, count)
        if self._fence:
            self._fence()

    def _wait_long(self, other: int, count: int) -> None:
        """Wait for one that is late; others that need the core get it."""
        counters = self._counters
        for _ in range(YIELDS):
            os.sched_yield()
            if counters[other] >= count:
                return
        look = time.monotonic() + LOOK
        while counters[other] < count:
            time.sleep(NAP)
            if counters[other] == GONE:
                raise DeathError("another rank on this node waits for those that are left")
            if time.monotonic() > look:
                look += LOOK
                # Who came and died then counts as come, for all alike.
                if self._deaths.poll(0) and counters[other] < count:
                    raise DeathError("another rank on this node has died")

    def leave(self) -> None:
        """Never come again: who waits for this rank is not left waiting."""
        self._counters[self._mine] = GONE


def make_barrier(node: Node, counters: np.ndarray) -> Barrier:
    """Return a barrier of a node's ranks on counters that they share; collective."""
    cores = {core for cores in node.gather(machine.cores()) for core in cores}
    return Barrier(counters, node.rank, process_numbers(node), len(cores))


def process_numbers(node: Node) -> list[int]:
    """Return the processes of a node's ranks; 0 for one in another container; collective."""
    here = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return [pid if where == here else 0 for where, pid in node.gather([here, os.getpid()])]


def _death_file(pid: int) -> int | None:
    """Return a descriptor that is readable when a process has ended; None if there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _fence(lock: Any = threading.Lock()) -> None:  # noqa: B008 (one for all calls)
    """Let no write before be seen after a write behind it, nor a read be made before."""
    for _ in range(2):  # what is inside one lock may change places, but not across two
        with lock:
            pass
