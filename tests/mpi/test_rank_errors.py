"""An error of one rank is raised on all ranks."""

import pytest
from mpi4py import MPI

from distbp.errors import ConfigError, DataError, DistbpError
from distbp.parallel import rank_errors
from distbp.parallel.barrier import RankFailureError
from distbp.parallel.comm import Group
from distbp.parallel.rank_errors import (
    abort_on_error,
    collective_errors,
    is_rank_failure,
    run_on_rank_0,
    timed_barrier,
)
from distbp.parallel.topology import Topology, make_topology

pytestmark = pytest.mark.mpi


def raised_by(comm: Topology, error: DistbpError | None) -> DistbpError | None:
    """Return what `collective_errors` raises when this rank raises `error`."""
    try:
        with collective_errors(comm):
            if error:
                raise error
    except DistbpError as raised:
        return raised
    return None


def described(error: DistbpError | None) -> tuple[str, str]:
    return type(error).__name__, str(error)


def test_without_an_error_nothing_is_raised(comm, everywhere):
    assert everywhere(raised_by(comm, None)) == [None] * comm.size


@pytest.mark.parametrize("kind", [DistbpError, ConfigError])
def test_an_error_of_each_rank_in_turn(comm, everywhere, kind):
    """All raise one of its kind that names the rank; on that rank, of several, it is the cause."""
    for rank in range(comm.size):
        own = kind("θ is odd") if comm.rank == rank else None
        error = raised_by(comm, own)
        text = "θ is odd" if comm.size == 1 else f"rank {rank}: θ is odd"
        assert everywhere(described(error)) == [(kind.__name__, text)] * comm.size
        assert all(everywhere(error is own if comm.size == 1 else error.__cause__ is own))


def test_the_result_of_rank_0_is_that_of_all_ranks(comm, everywhere):
    """It is called there only."""
    calls = []
    found = run_on_rank_0(comm, lambda: calls.append(comm.rank) or {"rows": 3})
    assert everywhere(found) == [{"rows": 3}] * comm.size
    assert calls == [0] * (comm.rank == 0)


def test_an_error_on_rank_0_names_no_rank(comm, everywhere):
    """All raise one of its kind and text; on rank 0 it is the cause."""
    own = DataError("new.csv, line 3: no number")

    def fail():
        raise own

    with pytest.raises(DataError) as raised:
        run_on_rank_0(comm, fail)
    assert everywhere(described(raised.value)) == [described(own)] * comm.size
    assert (raised.value.__cause__ is own) == (comm.rank == 0)


def test_an_error_of_all_ranks_names_no_rank(comm, everywhere):
    error = raised_by(comm, DataError("no such file"))
    assert everywhere(described(error)) == [("DataError", "no such file")] * comm.size


def test_of_several_errors_that_of_the_lowest_rank_is_raised(comm, everywhere):
    """Different errors on all ranks but rank 0: that of rank 1, with its number."""
    own = DataError(f"row {comm.rank}") if comm.rank or comm.size == 1 else None
    text = "row 0" if comm.size == 1 else "rank 1: row 1"
    assert everywhere(described(raised_by(comm, own))) == [("DataError", text)] * comm.size


def test_equal_texts_of_two_kinds_are_different_errors(comm, everywhere):
    error = raised_by(comm, (DataError if comm.rank else ConfigError)("x"))
    text = "x" if comm.size == 1 else "rank 0: x"
    assert everywhere(described(error)) == [("ConfigError", text)] * comm.size


def test_abort_on_error_passes_on_what_all_ranks_raise(comm, everywhere):
    """A DistbpError on all ranks leaves the block unchanged, and the ranks continue."""
    with pytest.raises(ConfigError, match=r"^x$"), abort_on_error(comm):
        raise ConfigError("x")
    assert everywhere(comm.rank + 1 > 0) == [True] * comm.size


def test_timed_barrier_waits_for_the_last_rank_but_not_forever(monkeypatch, everywhere):
    """Ranks that wait for one that does not arrive give up; when it arrives, it finds them."""
    comm = make_topology(Group(MPI.COMM_WORLD.Dup()))
    monkeypatch.setattr(rank_errors, "_ABORT_GRACE_S", 0.05)
    is_last = comm.rank == comm.size - 1
    first = is_last or timed_barrier(comm)
    MPI.COMM_WORLD.Barrier()
    monkeypatch.setattr(rank_errors, "_ABORT_GRACE_S", 60.0)
    second = timed_barrier(comm) if is_last else True
    expected = [(comm.size == 1, True)] * (comm.size - 1) + [(True, True)]
    assert everywhere((first, second)) == expected


def test_what_a_rank_failure_is(comm, everywhere):
    """An error of MPI or of the node's barrier; with one rank there is no MPI to raise one."""
    found = [
        is_rank_failure(error, comm)
        for error in (RankFailureError("x"), MPI.Exception(MPI.ERR_OTHER), ValueError("x"))
    ]
    assert everywhere(found) == [[True, comm.size > 1, False]] * comm.size
