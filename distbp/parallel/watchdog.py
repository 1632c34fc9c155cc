"""Who keeps the others waiting: noticed by the ranks of its node, named, and ended.

A rank that is stopped, runs in a circle or is lost in input and output does not die, and
MPI waits for it for ever. So each rank writes into shared memory how often it has met the
others, from a thread of its own. If that stands still on a node for longer than the limit,
those that have met the others less often than they should are shown and killed: then they
are dead, and what follows is what follows a death.
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
from pathlib import Path

import numpy as np

from distbp.parallel.barrier import COUNTER_STRIDE, process_numbers
from distbp.parallel.comm import STDERR, Comm, fail

FIRST, FEW = 3, 5  # times the limit, until ranks have met a few times: for the first step
STACK_DUMP_S = 0.5  # seconds for a rank to show its stacks
FAILURE_GRACE_S = 5.0  # seconds after a death for the others to notice it themselves
SHOW_STACKS = signal.SIGQUIT  # as by Ctrl-\: a rank shows its stacks, and ends


class Watchdog:
    """Watches the ranks of this node, between `with` and its end; collective to make.

    Parameters
    ----------
    comm : Comm
    limit : float
        Seconds for which nothing may move.
    """

    def __init__(self, comm: Comm, limit: float) -> None:
        self._comm, self._limit = comm, limit
        counts = comm.shared_array((comm.node_size, COUNTER_STRIDE), np.dtype(np.int64))
        self._is_alone = comm.size == 1 or not counts.is_shared
        self._counts = counts.array[:, 0]
        self._pids = process_numbers(comm.node_comm)
        self._end = threading.Event()
        self._period = min(1.0, limit / 5)

    def __enter__(self) -> "Watchdog":
        if not self._is_alone:
            # What stands for standard error in a notebook is no file.
            faulthandler.register(SHOW_STACKS, STDERR, all_threads=True, chain=True)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()

    def _watch(self) -> None:
        """Look again and again, until nothing has moved for too long."""
        comm, counts = self._comm, self._counts
        began, last, moved = comm.heartbeat(), -1, time.monotonic()
        while not self._end.wait(self._period):
            counts[comm.node_rank] = comm.heartbeat()
            now, total = time.monotonic(), int(counts.sum())
            if total != last:
                last, moved = total, now
            elif now - moved > self._limit * (FIRST if counts.max() < began + FEW else 1):
                self._act(lagging_ranks(counts.tolist()), now - moved)
            elif now - moved > FAILURE_GRACE_S and any(is_dead(pid) for pid in self._pids):
                self._give_up("another rank on this node has died")

    def _act(self, guilty: Sequence[int], seconds: float) -> None:
        """End those that are lagging_ranks; if none is, others than these have to be waited for."""
        rank = self._comm.node_rank
        if rank in guilty:
            return  # the others see to it
        if not guilty:
            if seconds > 2 * self._limit:
                self._give_up(
                    f"nothing has moved for {seconds:.0f} s: another node, or the network"
                )
            return
        if rank == min(set(range(len(self._pids))) - set(guilty)):
            for place in guilty:
                self.kill_hung_rank(place, seconds)
        if not self._end.wait(FAILURE_GRACE_S):
            self._give_up("a rank on this node was ended")

    def kill_hung_rank(self, place: int, seconds: float) -> None:
        """Show where a rank is, and kill it."""
        pid = self._pids[place]
        number = self._comm.rank - self._comm.node_rank + place
        sys.stderr.write(
            f"distbp: rank {number} on {platform.node()} (process {pid}, {state_of(pid)}) has kept "
            f"the others waiting for {seconds:.0f} s and is ended. If that was honest work, raise "
            f"--stall-limit. Its stacks, as far as it can show them:\n"
        )
        sys.stderr.flush()
        for what, pause in ((SHOW_STACKS, STACK_DUMP_S), (signal.SIGKILL, 0.0)):
            if pid:
                with suppress(ProcessLookupError):  # it has ended, and was buried
                    os.kill(pid, what)
            time.sleep(pause)

    def _give_up(self, why: str) -> None:
        """End all ranks, unless they have moved on meanwhile."""
        if not self._end.is_set():
            fail(self._comm.rank, self._comm.size, f"{why}.\n")


def lagging_ranks(counts: Sequence[int]) -> list[int]:
    """Return the places of those who have met the others less often than somebody else."""
    return [place for place, count in enumerate(counts) if count < max(counts)]


def state_of(pid: int) -> str:
    """Return what Linux says of a process: running, sleeping, stopped, …"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return "state unknown"
    return next(
        (line.partition("(")[2].rstrip(")") for line in lines if line.startswith("State")), ""
    )


def is_dead(pid: int) -> bool:
    """Return whether a process has ended; not for 0, which stands for an unknown one."""
    return pid > 0 and state_of(pid) in ("state unknown", "zombie", "dead")
