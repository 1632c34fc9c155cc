"""A barrier for the ranks of a node, in memory that they share.

Each rank counts its own calls in a counter of its own, and waits until the counters of all
others have come as far. There are no locks and no messages: a step passes the barrier twice,
and of a small network it takes only 50 µs.
"""

import os
import platform
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distbp.parallel import host
from distbp.parallel.comm import Group
from distbp.parallel.shared_memory import allocate_shared

# int64 numbers between two counters: two cache lines of 64 bytes, since processors prefetch
# pairs of lines; counters in the same one would slow each other down (false sharing).
COUNTER_STRIDE = 16

# How a rank waits: it spins, then yields its core, then sleeps.
_SPINS = 300  # reads of a counter
_YIELDS = 200  # calls of sched_yield
_SLEEP_S = 50e-6
_LIVENESS_CHECK_S = 0.1  # between two checks whether the other ranks are alive
_DEPARTED = -1  # a counter's value: this rank will not call the barrier any more
# Processors on which all cores see the stores of one in the order in which it makes them.
_STRONGLY_ORDERED = ("x86_64", "AMD64", "i686")


class RankFailureError(Exception):
    """Another rank has died, or has left to handle the death of one."""


class Barrier:
    """A barrier on counters in shared memory.

    Parameters
    ----------
    counters : (ranks, COUNTER_STRIDE) int64 array
        Zeros at first, shared by all ranks.
    rank : int
    pids : sequence of int
        The ranks' processes; 0 for one that cannot be watched.
    cores : int
        How many the ranks share. If there are fewer cores than ranks, a waiting rank does not
        spin: the one it waits for may need its core.
    progress : function
        Called by a rank that waits for long: `Group.progress`.

    Attributes
    ----------
    counters : (ranks, COUNTER_STRIDE) int64 array
        For code that is compiled: it counts a call in this rank's counter itself, and calls
        `finish_wait` if the others are late.
    spins : int
        How often a waiting rank reads a counter before it yields its core.
    """

    def __init__(
        self,
        counters: np.ndarray,
        rank: int,
        pids: Sequence[int],
        cores: int,
        progress: Callable[[], None],
    ) -> None:
        self.counters, self._progress = counters, progress
        self._counters = memoryview(counters.reshape(-1).data)
        self._own = rank * COUNTER_STRIDE
        self._others = [other * COUNTER_STRIDE for other in range(len(pids)) if other != rank]
        self.spins = _SPINS if cores >= len(pids) else 0
        self._fence = None if platform.machine() in _STRONGLY_ORDERED else memory_fence
        self._deaths = select.poll()
        self._pidfds = [_open_pidfd(pid) for pid in pids if pid not in (0, os.getpid())]
        for pidfd in self._pidfds:
            if pidfd is not None:
                self._deaths.register(pidfd, select.POLLIN)

    def __del__(self) -> None:
        for pidfd in self._pidfds:
            if pidfd is not None:
                os.close(pidfd)

    @property
    def count(self) -> int:
        """The calls of `wait` so far."""
        return self._counters[self._own]

    def wait(self) -> None:
        """Return when all ranks have called it; what they wrote before is visible then.

        Raises
        ------
        RankFailureError
            Another rank of the node has died before it called, or has left. All survivors
            raise it in the same call.
        """
        counters, spins = self._counters, self.spins
        count = counters[self._own] + 1
        if self._fence:
            self._fence()
        counters[self._own] = count
        for other in self._others:
            while counters[other] < count:
                spins -= 1
                if spins < 0:
                    self._wait_long(other, count)
        if self._fence:
            self._fence()

    def finish_wait(self) -> None:
        """Return when all ranks have called `wait` as often as this one.

        Raises
        ------
        RankFailureError
            As `wait` does.
        """
        count = self._counters[self._own]
        for other in self._others:
            if self._counters[other] < count:
                self._wait_long(other, count)
        if self._fence:
            self._fence()

    def _wait_long(self, other: int, count: int) -> None:
        """Wait for a rank that is late, and leave the core to others that need it."""
        counters = self._counters
        for _ in range(_YIELDS):
            os.sched_yield()
            if counters[other] >= count:
                return
        next_check = time.monotonic() + _LIVENESS_CHECK_S
        while counters[other] < count:
            time.sleep(_SLEEP_S)
            self._progress()  # the late rank may wait for a message of this one
            if counters[other] == _DEPARTED:
                raise RankFailureError("another rank of this node has left to handle a failure")
            if time.monotonic() > next_check:
                next_check += _LIVENESS_CHECK_S
                # Read the counter again: a rank that called and died after that has called, and
                # must count as such for all the others, of which some may have continued.
                if self._deaths.poll(0) and counters[other] < count:
                    raise RankFailureError("another rank of this node has died")

    def leave(self) -> None:
        """Let the other ranks' `wait` raise instead of waiting for this rank."""
        self._counters[self._own] = _DEPARTED


def make_barrier(node: Group) -> Barrier | None:
    """Return a barrier for the ranks of a node; collective.

    None for one rank, and if they cannot share memory.
    """
    if node.size == 1:
        return None
    nbytes = node.size * COUNTER_STRIDE * np.dtype(np.int64).itemsize
    memory, _ = allocate_shared(node, nbytes, (0, nbytes if node.rank == 0 else 0))
    if memory is None:
        return None
    counters = np.frombuffer(memory, np.int64, node.size * COUNTER_STRIDE)
    shares = [host.CpuShare(*share) for share in node.allgather(host.cpu_share())]
    return Barrier(counters, node.rank, node_pids(node), host.count_cores(shares), node.progress)


def node_pids(node: Group) -> list[int]:
    """Return the process IDs of a node's ranks; collective.

    0 for a rank in another PID namespace (container): its ID may be another process's here.
    """
    path = "/proc/self/ns/pid"
    namespace = os.stat(path).st_ino if os.path.exists(path) else 0
    return [pid if of == namespace else 0 for of, pid in node.allgather([namespace, os.getpid()])]


def _open_pidfd(pid: int) -> int | None:
    """Return a file descriptor that becomes readable when the process ends; None without one."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def memory_fence(lock: Any = threading.Lock()) -> None:  # noqa: B008 (one for all calls)
    """Order all loads and stores before the call before all those after it.

    Python has no fence, but taking a lock is an acquire, and freeing it a release: what is
    inside one pair may be reordered with its surroundings, but nothing passes two.
    """
    for _ in range(2):
        with lock:
            pass
