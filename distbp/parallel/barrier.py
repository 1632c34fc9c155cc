"""A barrier of the ranks of a node, in shared memory."""

import os
import platform
import select
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distbp.parallel import host

COUNTER_STRIDE = 16  # int64 numbers, two lines of a cache: a rank's counter shares them with nobody

# How a rank waits: it reads, then it lets others run, then it sleeps.
SPINS, YIELDS = 300, 200
SLEEP_S = 50e-6  # seconds
LIVENESS_CHECK_S = 0.1  # seconds between two looks at whether the others are alive
DEPARTED = -1  # in the place of a count: this rank does not come any more
# Processors on which all see the writes of one in the order in which it makes them.
STRONGLY_ORDERED = ("x86_64", "AMD64", "i686")


class RankFailureError(Exception):
    """A rank that others wait for has died, or does not come for another reason."""


class Node(Protocol):
    """The ranks of a node, as much as is asked of them."""

    rank: int
    size: int

    def broadcast(self, value: Any, root: int = 0) -> Any: ...
    def allgather(self, value: Any) -> list[Any]: ...


class Barrier:
    """Where ranks wait for each other, by counters in memory that they share.

    Parameters
    ----------
    counters : (ranks, COUNTER_STRIDE) int64 array
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
        self._mine = rank * COUNTER_STRIDE
        self._others = [other * COUNTER_STRIDE for other in range(len(pids)) if other != rank]
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
        RankFailureError
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
        look = time.monotonic() + LIVENESS_CHECK_S
        while counters[other] < count:
            time.sleep(SLEEP_S)
            if counters[other] == DEPARTED:
                raise RankFailureError("another rank on this node waits for those that are left")
            if time.monotonic() > look:
                look += LIVENESS_CHECK_S
                # Who came and died then counts as come, for all alike.
                if self._deaths.poll(0) and counters[other] < count:
                    raise RankFailureError("another rank on this node has died")

    def leave(self) -> None:
        """Never come again: who waits for this rank is not left waiting."""
        self._counters[self._mine] = DEPARTED


def make_barrier(node: Node, counters: np.ndarray) -> Barrier:
    """Return a barrier of a node's ranks on counters that they share; collective."""
    cores = {core for cores in node.allgather(host.cores()) for core in cores}
    return Barrier(counters, node.rank, process_numbers(node), len(cores))


def process_numbers(node: Node) -> list[int]:
    """Return the processes of a node's ranks; 0 for one in another container; collective."""
    here = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return [pid if where == here else 0 for where, pid in node.allgather([here, os.getpid()])]


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
