"""The ranks of a run, and every message that they send each other.

This is the only file that knows MPI. `connect` returns the `Comm` of this run:
its ranks, numbered node by node; messages (arrays by MPI's buffers, everything else as
JSON); memory that the ranks of a node share; and `collective_errors`, which makes the
error of one rank the error of all. Without a launcher there is one rank, and no MPI.
"""

import atexit
import faulthandler
import json
import math
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from distbp.errors import KINDS, DistbpError, LaunchError
from distbp.parallel.barrier import COUNTER_STRIDE, Barrier, RankFailureError, make_barrier
from distbp.parallel.environment import RANKS_VARIABLE, init_timeout, memory_plug, ranks_started
from distbp.parallel.shared_memory import SharedArray

if TYPE_CHECKING:
    from mpi4py import MPI

STDERR = 2
ABORT_GRACE_S = 3.0  # seconds that ranks with the same trouble may come apart
REMOTE_ABORT_WAIT_S = 1.0  # seconds for a rank that ends all to get to this one
FLUSH_WAIT_S = 0.3  # seconds for the launcher to pass on last words; an abort would overtake them


class Group:
    """Ranks that send each other numbers.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm, optional
        None for a process on its own.

    Attributes
    ----------
    rank, size : int
    calls : int
        Collective ones so far.
    """

    def __init__(self, mpi: "MPI.Comm | None" = None) -> None:
        self._comm, self.calls = mpi, 0
        self.rank, self.size = (mpi.rank, mpi.size) if mpi else (0, 1)

    def allgather_int(self, number: int) -> np.ndarray:
        """Return every rank's number, on every rank: (size,) int64."""
        mine, numbers = np.array([number], np.int64), np.empty(self.size, np.int64)
        if self.size > 1:
            self._mpi.Allgather(mine, numbers)
        return numbers if self.size > 1 else mine

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """Return the `value` of rank `root`, on every rank; anything that JSON can hold."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == root else b""
        length = np.array([len(text)], np.int64)
        self._mpi.Bcast(length, root)
        buffer = np.frombuffer(text, np.uint8) if text else np.empty(length[0], np.uint8)
        self._mpi.Bcast(buffer, root)
        return json.loads(buffer.tobytes())

    def allgather(self, value: Any) -> list[Any]:
        """Return every rank's `value`, on every rank; anything that JSON can hold."""
        if self.size == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        counts = self.allgather_int(text.size)
        everything = np.empty(counts.sum(), np.uint8)
        self._mpi.Allgatherv(text, [everything, counts])
        ends = np.cumsum(counts)
        return [
            json.loads(everything[end - count : end].tobytes())
            for count, end in zip(counts, ends, strict=True)
        ]

    def allreduce(self, array: np.ndarray) -> None:
        """Replace `array` by its sum over all ranks, in an order that MPI chooses."""
        if self.size > 1:
            self._mpi.Allreduce(_mpi().IN_PLACE, array)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            self._mpi.Barrier()

    def start_allgatherv(self, array: np.ndarray, counts: np.ndarray) -> "MPI.Request":
        """Begin to complete `array`, of which rank r has the r-th run; done after `Wait`."""
        return self._mpi.Iallgatherv(_mpi().IN_PLACE, [array, counts])

    def start_alltoallv(
        self, send: np.ndarray, send_counts: Any, receive: np.ndarray, receive_counts: Any
    ) -> "MPI.Request":
        """Begin to exchange one run with each rank; done after `Wait`.

        The counts are pairs (counts, displacements), in numbers.
        """
        return self._mpi.Ialltoallv([send, send_counts], [receive, receive_counts])

    @property
    def _mpi(self) -> "MPI.Comm":
        if self._comm is None:
            raise LaunchError("a process without MPI has no other ranks")
        self.calls += 1
        return self._comm


class Comm(Group):
    """The ranks of one run.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm, optional
        All ranks, in the launcher's order; None for a process on its own.

    Attributes
    ----------
    rank, size : int
        Ranks are renumbered by node and place on it, so that those of a node are a
        run whatever the launcher's mapping.
    node, nodes : int
        This rank's node, and how many there are.
    node_rank : int
        This rank's place on its node.
    node_sizes : list of int
        How many ranks each node has.
    node_comm : Group
        The ranks of this node.
    has_shrunk : bool
        Whether others have died, and this rank has gone on without them.
    """

    has_shrunk = False

    def __init__(self, mpi: "MPI.Comm | None" = None) -> None:
        super().__init__(mpi)
        self.node_comm = Group()
        self.node, self.node_rank, self.node_sizes = 0, 0, [1]
        self._made: list[MPI.Comm] = []  # all that ranks may be waiting in
        self._barrier: Barrier | None = None
        if mpi is None or mpi.size == 1:
            return
        self._made.append(mpi)
        self._arrivals = self._keep(mpi.Dup())  # of its own: who fails is not where the others are
        node = self._keep(mpi.Split_type(_mpi().COMM_TYPE_SHARED, mpi.rank))
        first = np.array([mpi.rank])
        node.Bcast(first)
        super().__init__(self._keep(mpi.Split(0, int(first[0]) * mpi.size + node.rank)))
        self.node_comm, self.node_rank = Group(node), node.rank
        firsts, sizes = np.unique(self.allgather_int(int(first[0])), return_counts=True)
        self.node, self.node_sizes = int(np.searchsorted(firsts, first[0])), sizes.tolist()

    @property
    def nodes(self) -> int:
        return len(self.node_sizes)

    @property
    def node_size(self) -> int:
        """How many ranks this rank's node has."""
        return self.node_sizes[self.node]

    def cross_node_comm(self) -> Group | None:
        """Return the ranks at this rank's place on every node, in the nodes' order; collective.

        None for a rank whose place not all nodes have.
        """
        if self.nodes == 1:
            return Group()
        has_lane = self.node_rank < min(self.node_sizes)
        color = self.node_rank if has_lane else _mpi().UNDEFINED
        mpi = self._mpi.Split(color, self.rank)
        return Group(self._keep(mpi)) if has_lane else None

    def gather_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return on rank 0 the rows (m, k) of all ranks, in their order; elsewhere its own."""
        if self.size == 1:
            return rows
        counts = self.allgather_int(len(rows))
        everything = rows
        if self.rank == 0:
            everything = np.empty((counts.sum(), *rows.shape[1:]), rows.dtype)
        self._mpi.Gatherv(rows, [everything, counts * math.prod(rows.shape[1:])])
        return everything

    # Ranks that die.

    def heartbeat(self) -> int:
        """Return how often this rank has met others, or waits to meet them now."""
        at_barrier = self._barrier.count if self._barrier else 0
        return self.calls + self.node_comm.calls + at_barrier

    def _keep(self, mpi: "MPI.Comm") -> "MPI.Comm":
        self._made.append(mpi)
        return mpi

    def is_rank_failure(self, error: BaseException) -> bool:
        """Return whether an exception says that other ranks are gone."""
        return isinstance(
            error, (RankFailureError, _mpi().Exception) if self.size > 1 else RankFailureError
        )

    def shrink(self) -> list[int]:
        """Be the ranks that are left, once all of them have called it; return who is not.

        For `ulfm_enabled` only. May raise what `is_rank_failure` knows, and is to be called
        again then. All is renumbered; shared memory, lanes and barriers are to be made again.
        """
        size, rank = self.size, self.rank
        if self._barrier:
            self._barrier.leave()
        for mpi in self._made:
            with suppress(_mpi().Exception):
                mpi.Revoke()
        self.has_shrunk = True
        # The first communicator is never revoked: whatever happens, all meet there.
        self.__init__(_mpi().COMM_WORLD.Shrink())  # type: ignore[misc]
        return sorted(set(range(size)) - set(self.allgather_int(rank).tolist()))

    # Trouble.

    @contextmanager
    def collective_errors(self) -> Iterator[None]:
        """Raise a DistbpError of any rank inside the block on every rank, at its end."""
        trouble = None
        try:
            yield
        except DistbpError as error:
            trouble = error
        self.raise_on_all_ranks(trouble)

    def raise_on_all_ranks(self, trouble: DistbpError | None) -> None:
        """Raise the first rank's `trouble`, if there is any, on every rank.

        The rank is named unless all ranks have the same to say.
        """
        has_trouble = self.allgather_int(trouble is not None)
        if not has_trouble.any():
            return
        first = int(np.argmax(has_trouble))
        mine = [type(trouble).__name__, str(trouble)]
        kind, text = self.broadcast(mine, first)
        is_common = self.allgather_int(mine == [kind, text]).all()
        raise KINDS[kind](text if is_common else f"rank {first}: {text}") from trouble

    @contextmanager
    def abort_on_error(self) -> Iterator[None]:
        """End all ranks if one leaves the block by anything but an agreed DistbpError.

        A rank that stops while the others go on would leave them waiting for ever:
        so an exception, a `sys.exit`, or an exception in a thread of one of several
        ranks is shown with its rank, and all of them are ended.
        """
        if self.size == 1:
            yield
            return
        hook, threading.excepthook = threading.excepthook, self._thread_failed
        try:
            yield
        except DistbpError as error:
            self.abort_unless_all_arrive(error)
            raise
        except SystemExit as error:
            trace = "".join(traceback.format_exception(error))
            self._fail(f"{trace}sys.exit({error.code!r}) on one rank ends them all.\n")
        except BaseException as error:
            if self.is_rank_failure(error):
                time.sleep(
                    REMOTE_ABORT_WAIT_S
                )  # who has ended the others ends this one too, and says why
            self._fail("".join(traceback.format_exception(error)))
        finally:
            threading.excepthook = hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None:
            self._fail("".join(traceback.format_exception(failure.exc_value)))

    def _fail(self, trace: str) -> NoReturn:
        fail(self.rank, self.size, trace)

    def abort_unless_all_arrive(self, error: DistbpError) -> None:
        """End all ranks, with what this one has to say, if the others have no trouble."""
        if not self.timed_barrier():
            sys.stderr.write(f"distbp: rank {self.rank}: {error}\n")
            self.abort(error.status)

    def timed_barrier(self) -> bool:
        """Wait for all ranks, but not for ever; return whether they came."""
        if self.size == 1:
            return True
        request, until = self._arrivals.Ibarrier(), time.monotonic() + ABORT_GRACE_S
        while not request.Test():
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def abort(self, status: int) -> NoReturn:
        """End all ranks at once with a non-zero exit status."""
        if self._comm is None:
            os._exit(status)
        abort_all_ranks(status)

    # Memory that a node shares.

    def shared_array(
        self, shape: tuple[int, ...], dtype: np.dtype, rows: tuple[int, int] | None = None
    ) -> SharedArray:
        """Return an array that all ranks of a node see; collective."""
        return SharedArray(self, shape, np.dtype(dtype), rows)

    def node_barrier(self) -> Callable[[], None]:
        """Return what makes the ranks of a node wait for each other; collective."""
        if self._barrier:  # of a run that all have left
            return self._barrier.wait
        # Through shared memory where there is any: a message takes longer.
        counters = self.shared_array((self.node_size, COUNTER_STRIDE), np.dtype(np.int64))
        if self.node_size == 1:
            return lambda: None
        if not counters.is_shared:
            return self.node_comm.barrier
        self._barrier = make_barrier(self.node_comm, counters.array)
        return self._barrier.wait

    def fill_shared_array(
        self, shape: tuple[int, ...], dtype: np.dtype, fill: Callable[[np.ndarray], None]
    ) -> np.ndarray:
        """Return an array that all ranks of a node see and that `fill` has filled once."""
        shared = self.shared_array(shape, dtype)
        shared.fill(fill)
        return shared.array


def fail(rank: int, size: int, trace: str) -> NoReturn:
    """Show why a rank cannot go on, in one piece, and end all ranks."""
    # All may have failed alike: rank 0 is given the time to say it once, and to end them.
    time.sleep(0.5 if rank else 0.0)
    sys.stderr.write(
        f"distbp: rank {rank} of {size} on {platform.node()} failed; all ranks are ended.\n{trace}"
    )
    abort_all_ranks(1)


def abort_all_ranks(status: int) -> NoReturn:
    """End all ranks at once, as soon as what this one has written is on its way."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(FLUSH_WAIT_S)
    _mpi().COMM_WORLD.Abort(status)
    os._exit(status)


connected: list[Comm] = []  # the ranks of this process, once they are known


def exit_after_shrink(status: int) -> None:
    """End this process at once if others have died: MPI would wait for them, perhaps for ever."""
    for comm in connected:
        if comm.has_shrunk:
            with suppress(_mpi().Exception):
                comm.timed_barrier()  # the launcher ends all when one ends with a status
            os._exit(status)


def connect() -> Comm:
    """Join the run that this process was started for; starts MPI, the first time.

    Raises
    ------
    LaunchError
        A launcher started several ranks, but they do not find each other.
    """
    if connected:
        return connected[0]
    started = ranks_started(os.environ)
    if started > 1 and "OMPI_COMM_WORLD_SIZE" in os.environ and mpi_library().startswith("MPICH"):
        # MPICH would end the process with a message of its own when it is started.
        raise LaunchError(launcher_mismatch_message(started))
    try:
        world = _mpi().COMM_WORLD
    except (ImportError, RuntimeError) as failure:
        if started > 1:
            raise LaunchError(
                f"{started} ranks were started, but no MPI library can be loaded "
                f"({str(failure).splitlines()[0]}). Install one: pip install mpich."
            ) from failure
        return Comm()
    if world.size == 1 and started > 1:
        raise LaunchError(launcher_mismatch_message(started))
    if RANKS_VARIABLE in os.environ and world.size != started:
        raise LaunchError(f"{started} ranks were asked for, but {world.size} were started.")
    connected.append(Comm(world))
    return connected[0]


def launcher_mismatch_message(started: int) -> str:
    """Return what to do about ranks that were started by the launcher of another MPI."""
    return (
        f"{started} ranks were started, but each finds itself alone. The launcher is not that of "
        f"the MPI that Python uses ({mpi_library()}): use its own mpirun, or under SLURM srun "
        f"--mpi=pmi2 for MPICH and srun --mpi=pmix for Open MPI."
    )


def mpi_library() -> str:
    """Return name and version of the MPI library, without starting it."""
    import mpi4py

    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI

        words = MPI.Get_library_version().replace(",", " ").split()
    except (ImportError, RuntimeError):
        return ""
    if words[0] == "MPICH":
        return f"MPICH {words[2]}"
    return " ".join(word.lstrip("v") for word in words[:3])


def _mpi() -> Any:
    """Return mpi4py's MPI, started."""
    import mpi4py

    mpi4py.rc.initialize = False  # not by the import
    from mpi4py import MPI

    if not MPI.Is_initialized():
        # Where a rank has died meanwhile the others may wait for ever, and no thread runs.
        faulthandler.register(signal.SIGALRM, STDERR, chain=True)
        signal.alarm(init_timeout())
        _plug = memory_plug(os.environ)
        MPI.Init_thread()
        signal.alarm(0)
        atexit.register(MPI.Finalize)
    return MPI
