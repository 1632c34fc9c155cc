"""Every message that ranks send each other.

A `Group` is a set of ranks and their collective operations: arrays travel in MPI's buffers,
everything else as JSON. A group of one rank sends nothing and needs no MPI. Which groups a
run has is in `topology`; the other way in which ranks of a node exchange data, shared memory,
is in `shared_memory` and `barrier`.
"""

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np

from distbp.errors import LaunchError
from distbp.parallel import mpi

# What MPI's vector collectives take to describe a buffer: counts, displacements (in items).
_Layout = tuple[Any, Any]
_BROADCAST_BYTES = 1 << 28  # at once: a count of MPI has 31 bits
# MPI may look at its sockets in one call of several only: Open MPI does in every 8th.
_TESTS = 8


class Group:
    """Some ranks, and the collective operations among them.

    Every operation must be called by all ranks of the group in the same order; it raises
    mpi4py's Exception if one of them has failed.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        By default a process on its own, without MPI.

    Attributes
    ----------
    rank, size : int
    calls : int
        Operations so far, for the watchdog.
    """

    def __init__(self, comm: "mpi.Comm | None" = None) -> None:
        self._comm, self.calls = comm, 0
        self.rank, self.size = (comm.rank, comm.size) if comm else (0, 1)

    @property
    def _mpi(self) -> "mpi.Comm":
        if self._comm is None:
            raise LaunchError("a process without MPI has no other ranks")
        self.calls += 1
        return self._comm

    def allows_threads(self) -> bool:
        """Return whether several threads may send messages at the same time."""
        return mpi.allows_threads()

    def progress(self) -> None:
        """Let MPI send what is left to send of operations that are complete on this rank.

        To be called where a rank waits outside of MPI: others may need it before they come there.
        Of a failure, the next operation tells.
        """
        if self._comm is not None:
            with suppress(mpi.init().Exception):
                self._comm.Iprobe()

    # Collectives that return when they are complete.

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            self._mpi.Barrier()

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """Return the `value` of rank `root` on every rank; anything that JSON can represent."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == root else b""
        length = np.array([len(text)], np.int64)
        self._mpi.Bcast(length, root)
        buffer = np.frombuffer(text, np.uint8) if text else np.empty(length[0], np.uint8)
        self._mpi.Bcast(buffer, root)
        return json.loads(buffer.tobytes())

    def allgather(self, value: Any) -> list[Any]:
        """Return every rank's `value` on every rank; anything that JSON can represent."""
        if self.size == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        counts = self.allgather_int(text.size)
        texts = np.empty(counts.sum(), np.uint8)
        # Open MPI 5's Allgatherv returns as if nothing had happened when a rank has died.
        self._mpi.Iallgatherv(text, [texts, counts]).Wait()
        ends = np.cumsum(counts)
        return [
            json.loads(texts[end - count : end].tobytes())
            for count, end in zip(counts, ends, strict=True)
        ]

    def allgather_int(self, number: int) -> np.ndarray:
        """Return every rank's `number` on every rank: (size,) int64."""
        own, numbers = np.array([number], np.int64), np.empty(self.size, np.int64)
        if self.size > 1:
            self._mpi.Allgather(own, numbers)
        return numbers if self.size > 1 else own

    def gather_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return on rank 0 the rows (m, k) of all ranks, in rank order; elsewhere `rows`."""
        if self.size == 1:
            return rows
        counts = self.allgather_int(len(rows))
        gathered = rows
        if self.rank == 0:
            gathered = np.empty((counts.sum(), *rows.shape[1:]), rows.dtype)
        self._mpi.Gatherv(rows, [gathered, counts * math.prod(rows.shape[1:])])
        return gathered

    def scatter_rows(self, rows: np.ndarray | None, counts: np.ndarray, width: int) -> np.ndarray:
        """Return this rank's bytes (m, width) uint8 of rank 0's `rows`, in rank order.

        Parameters
        ----------
        rows : (n, width) uint8 array on rank 0
        counts : (size,) int array
            Rows of each rank.
        width : int
        """
        if self.size == 1 and rows is not None:
            return rows
        own = np.empty((counts[self.rank], width), np.uint8)
        send = None if rows is None else [rows, counts * width]
        self._mpi.Scatterv(send, own)
        return own

    def allreduce(self, array: np.ndarray) -> None:
        """Replace `array` by its sum over all ranks, added in an order that MPI chooses."""
        if self.size > 1:
            self._mpi.Allreduce(mpi.init().IN_PLACE, array)

    def broadcast_array(self, array: np.ndarray) -> None:
        """Replace a contiguous `array` on every rank by that of rank 0."""
        if self.size == 1:
            return
        content = array.reshape(-1).view(np.uint8)
        for start in range(0, content.size, _BROADCAST_BYTES):
            self._mpi.Bcast(content[start : start + _BROADCAST_BYTES], 0)

    # Collectives that return at once: complete after the request's `Wait`.

    def start_barrier(self) -> "mpi.Request":
        """Start to wait for all ranks."""
        return self._mpi.Ibarrier()

    def start_alltoallv(
        self, send: np.ndarray, send_layout: _Layout, receive: np.ndarray, receive_layout: _Layout
    ) -> "mpi.Request":
        """Start to exchange one slice with each rank."""
        return self._mpi.Ialltoallv([send, send_layout], [receive, receive_layout])

    # Groups made of this one.

    def split(self, color: int | None, key: int) -> "Group | None":
        """Return the ranks of the same `color`, ordered by `key`; None for those without one."""
        made = self._mpi.Split(mpi.init().UNDEFINED if color is None else color, key)
        return None if color is None else Group(made)

    def split_by_node(self) -> "Group":
        """Return the ranks that run on this rank's node, in this group's order."""
        return Group(self._mpi.Split_type(mpi.init().COMM_TYPE_SHARED, self.rank))

    def duplicate(self) -> "Group":
        """Return the same ranks, whose messages do not mix with those of this group."""
        return Group(self._mpi.Dup())

    def revoke(self) -> None:
        """Make every operation raise, on all ranks, also those that wait in one (ULFM)."""
        if self._comm is not None:
            with suppress(mpi.init().Exception):
                self._comm.Revoke()


def is_complete(request: "mpi.Request") -> bool:
    """Return whether an operation is complete, and let MPI proceed with all; does not wait."""
    return any(request.Test() for _ in range(_TESTS))


def launched_group() -> Group:
    """Return all ranks that the launcher started, in its order; initializes MPI."""
    return Group(mpi.init().COMM_WORLD)


def surviving_group() -> Group:
    """Return the launched ranks that have not failed, in the launcher's order (ULFM).

    All of them must call it. It works also after communicators were revoked, so it is where
    survivors can always meet.
    """
    return Group(mpi.init().COMM_WORLD.Shrink())
