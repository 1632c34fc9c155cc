"""Detect a hung rank, and kill it.

A rank that hangs (SIGSTOP, an infinite loop, blocked I/O) does not die, and MPI waits for it
forever. So a thread of each rank writes the rank's heartbeat, a count of barriers and
collectives, into memory that the node shares. When no heartbeat of a node has changed for
longer than the stall limit, the ranks whose count is behind are reported with their stacks
and killed: the other ranks then handle a rank failure like any other.
"""

import faulthandler
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from distbp.parallel import host
from distbp.parallel.barrier import COUNTER_STRIDE, node_pids
from distbp.parallel.mpi import STDERR_FD
from distbp.parallel.rank_errors import report_and_abort
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.topology import Topology

# The first step loads libraries and pages, and may take longer than any other.
_STARTUP_LIMIT_FACTOR = 3  # on the stall limit
_STARTUP_BEATS = 5
_MAX_CHECK_INTERVAL_S = 1.0
_CHECKS_PER_LIMIT = 5
_STACK_DUMP_S = 0.5  # for a hung rank to print its stacks
_FAILURE_GRACE_S = 5.0  # for the other ranks to notice a death by themselves
_STACK_DUMP_SIGNAL = signal.SIGQUIT  # as by Ctrl-\: prints the stacks, then ends the process


class Watchdog:
    """Watches the ranks of this node inside `with` blocks; making one is collective.

    Parameters
    ----------
    topology : Topology
    limit : float
        The stall limit in seconds.
    """

    def __init__(self, topology: Topology, limit: float) -> None:
        self._topology, self._limit = topology, limit
        shape = (topology.node_size, COUNTER_STRIDE)
        heartbeats = SharedArray(topology, shape, np.dtype(np.int64))
        self._is_off = topology.size == 1 or not heartbeats.is_shared
        self._heartbeats = heartbeats.array[:, 0]
        self._pids = node_pids(topology.node)
        self._stopped = threading.Event()  # one for each block, as is the thread
        self._thread = threading.Thread()
        self._interval = min(_MAX_CHECK_INTERVAL_S, limit / _CHECKS_PER_LIMIT)

    def __enter__(self) -> "Watchdog":
        if not self._is_off:
            # By number: in a notebook sys.stderr is not a file.
            faulthandler.register(_STACK_DUMP_SIGNAL, STDERR_FD, all_threads=True, chain=True)
            self._stopped = threading.Event()
            self._thread = threading.Thread(target=self._watch, args=[self._stopped], daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()  # it holds shared memory

    def _watch(self, stopped: threading.Event) -> None:
        """Check the heartbeats until they have stopped for too long."""
        topology, heartbeats = self._topology, self._heartbeats
        first, last_total, changed_at = topology.heartbeat(), -1, time.monotonic()
        while not stopped.wait(self._interval):
            heartbeats[topology.node_rank] = topology.heartbeat()
            now, total = time.monotonic(), int(heartbeats.sum())
            is_starting = heartbeats.max() < first + _STARTUP_BEATS
            if total != last_total:
                last_total, changed_at = total, now
            elif now - changed_at > self._limit * (_STARTUP_LIMIT_FACTOR if is_starting else 1):
                self._on_stall(_lagging_ranks(heartbeats.tolist()), now - changed_at)
            elif now - changed_at > _FAILURE_GRACE_S and any(map(_is_dead, self._pids)):
                # MPI has not reported it, as it does not without fault tolerance.
                self._abort("another rank of this node has died")

    def _on_stall(self, lagging: Sequence[int], seconds: float) -> None:
        """Kill the ranks of this node that are behind; if none is, wait for other nodes first."""
        node_rank = self._topology.node_rank
        if node_rank in lagging:
            return  # another rank's watchdog kills this one
        if not lagging:
            # The hung rank is on another node, whose watchdogs have as much time again.
            if seconds > 2 * self._limit:
                self._abort(f"no progress for {seconds:.0f} s: another node or the network hangs")
            return
        if node_rank == min(set(range(len(self._pids))) - set(lagging)):
            for hung in lagging:
                self._kill_hung_rank(hung, seconds)
        if not self._stopped.wait(_FAILURE_GRACE_S):
            self._abort("a hung rank of this node was killed")

    def _kill_hung_rank(self, node_rank: int, seconds: float) -> None:
        """Report a rank with its stacks, and kill it."""
        pid = self._pids[node_rank]
        rank = self._topology.rank - self._topology.node_rank + node_rank
        sys.stderr.write(
            f"distbp: rank {rank} on {platform.node()} (pid {pid}, {host.process_state(pid)}) made "
            f"no progress for {seconds:.0f} s; killing it. Raise --stall-limit if a step can take "
            f"that long. Its stacks, if it can still print them:\n"
        )
        sys.stderr.flush()
        for number, pause in ((_STACK_DUMP_SIGNAL, _STACK_DUMP_S), (signal.SIGKILL, 0.0)):
            if pid:
                with suppress(ProcessLookupError):  # it ended after the stack dump
                    os.kill(pid, number)
            time.sleep(pause)

    def _abort(self, reason: str) -> None:
        """Abort all ranks, unless the watched block has ended meanwhile."""
        if not self._stopped.is_set():
            report_and_abort(self._topology.rank, self._topology.size, f"{reason}.\n")


def _lagging_ranks(heartbeats: Sequence[int]) -> list[int]:
    """Return the positions of the heartbeats that are behind the most advanced one."""
    return [rank for rank, count in enumerate(heartbeats) if count < max(heartbeats)]


def _is_dead(pid: int) -> bool:
    """Return whether a process has ended; False for 0, which stands for an unknown one."""
    return pid > 0 and host.process_state(pid) in ("state unknown", "zombie", "dead")
