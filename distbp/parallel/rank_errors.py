"""What ranks do about errors: agree on one, or abort.

A rank that stops while the others continue would leave them waiting forever. So an error that
a user can fix (`DistbpError`) is raised on all ranks (`collective_errors`), and any other
exception on one of several ranks aborts all of them (`abort_on_error`). How the survivors of
a failed rank continue is in `topology.shrink`.
"""

import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np

from distbp.console import write_stderr
from distbp.errors import ERRORS_BY_NAME, DistbpError
from distbp.parallel import mpi
from distbp.parallel.barrier import RankFailureError
from distbp.parallel.environment import LaunchEnvironment
from distbp.parallel.topology import Topology, connected_topology, has_shrunk, latest

_ABORT_GRACE_S = 2.5  # how far apart ranks may be that raise the same error
_REMOTE_ABORT_WAIT_S = 1.0  # for the abort of another rank to reach this one
_FIRST_REPORT_S = 1.0  # for rank 0 to report and abort before the others do
_ARRIVAL_POLL_S = 0.001


def is_rank_failure(error: BaseException, topology: Topology) -> bool:
    """Return whether an exception was raised because another rank has failed."""
    kinds = (RankFailureError, mpi.init().Exception) if topology.size > 1 else RankFailureError
    return isinstance(error, kinds)


@contextmanager
def collective_errors(topology: Topology) -> Iterator[None]:
    """Raise a DistbpError of any rank inside the block on every rank, at its end; collective."""
    raised = None
    try:
        yield
    except DistbpError as error:
        if topology.size == 1:
            raise
        raised = error
    _raise_on_all_ranks(topology, raised)


def _raise_on_all_ranks(topology: Topology, error: DistbpError | None) -> None:
    """Raise the `error` of the lowest rank that has one on every rank; collective.

    The text names that rank, unless all ranks have the same error.
    """
    world = topology.world
    has_error = world.allgather_int(error is not None)
    if not has_error.any():
        return
    first = int(np.argmax(has_error))
    own = [type(error).__name__, str(error)]
    kind, text = world.broadcast(own, first)
    is_common = world.allgather_int(own == [kind, text]).all()
    raise ERRORS_BY_NAME[kind](text if is_common else f"rank {first}: {text}") from error


def run_on_rank_0(topology: Topology, function: Callable[[], Any]) -> Any:
    """Return on every rank what `function` returns on rank 0; collective.

    The result is anything that JSON can represent. A DistbpError is raised on every rank, with
    the same text: unlike in `collective_errors`, the rank is not named, as it is always the same.
    """
    error, outcome = None, ["", None]
    if topology.rank == 0:
        try:
            outcome = ["", function()]
        except DistbpError as failure:
            error, outcome = failure, [type(failure).__name__, str(failure)]
    kind, found = topology.world.broadcast(outcome)
    if kind:
        raise ERRORS_BY_NAME[kind](found) from error
    return found


@contextmanager
def abort_on_error(topology: Topology) -> Iterator[None]:
    """Abort all ranks if one leaves the block by anything but a DistbpError that all raise.

    An exception, a `sys.exit`, or an exception in a thread is reported with the rank that it
    happened on. A process on its own raises as usual. In the block ranks may fail and the
    others continue: what follows concerns the survivors.
    """
    if topology.size == 1:
        yield
        return

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None:
            _abort_with_traceback(topology, failure.exc_value)

    hook, threading.excepthook = threading.excepthook, thread_failed
    try:
        yield
    except DistbpError as error:
        abort_unless_all_arrive(latest(topology), error)
        raise
    except BaseException as error:
        if is_rank_failure(error, topology):
            # A rank that has aborted the job is about to end this one, and has said why.
            time.sleep(_REMOTE_ABORT_WAIT_S)
        _abort_with_traceback(topology, error)
    finally:
        threading.excepthook = hook


def _abort_with_traceback(topology: Topology, error: BaseException) -> NoReturn:
    if not is_rank_failure(error, topology):
        LaunchEnvironment.from_environ().write_failure_file(error)
    text = "".join(traceback.format_exception(error))
    if isinstance(error, SystemExit):
        text += f"sys.exit({error.code!r}) was called on this rank only.\n"
    topology = latest(topology)
    report_and_abort(topology.rank, topology.size, text)


def abort_unless_all_arrive(topology: Topology, error: DistbpError) -> None:
    """Return once all ranks have called it; report `error` and abort if some do not."""
    if not timed_barrier(topology):
        LaunchEnvironment.from_environ().write_failure_file(error)
        write_stderr(f"distbp: rank {topology.rank}: {error}\n")
        mpi.abort(error.status)


def timed_barrier(topology: Topology) -> bool:
    """Wait for all ranks, but not forever; return whether they came."""
    if topology.size == 1:
        return True
    request, deadline = topology.exits.start_barrier(), time.monotonic() + _ABORT_GRACE_S
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(_ARRIVAL_POLL_S)
    return True


def report_and_abort(rank: int, size: int, text: str) -> NoReturn:
    """Write why a rank cannot continue, in one piece, and abort all ranks."""
    # All ranks may have failed in the same way: let rank 0 report it once.
    time.sleep(_FIRST_REPORT_S if rank else 0.0)
    write_stderr(
        f"distbp: rank {rank} of {size} on {platform.node()} failed; aborting all ranks.\n{text}"
    )
    mpi.abort(1)


def exit_after_shrink(status: int) -> None:
    """End this process at once if ranks have failed: MPI_Finalize might wait for them forever."""
    topology = connected_topology()
    if topology is None or not has_shrunk():
        return
    with suppress(mpi.init().Exception):
        timed_barrier(topology)  # the launcher kills all as soon as one ends with a status
    os._exit(status)
