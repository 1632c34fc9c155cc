"""The trouble of one rank becomes the trouble of all."""

import pytest
from mpi4py import MPI

from distbp.errors import ConfigError, DataError, DistbpError
from distbp.parallel import comm as comm_module
from distbp.parallel.comm import Comm

pytestmark = pytest.mark.mpi


def raised_by(comm: Comm, trouble: DistbpError | None) -> DistbpError | None:
    """Return what `collective_errors` raises when this rank has `trouble`."""
    try:
        with comm.collective_errors():
            if trouble:
                raise trouble
    except DistbpError as error:
        return error
    return None


def seen(error: DistbpError | None) -> tuple[str, str]:
    return type(error).__name__, str(error)


def test_no_trouble(comm, everywhere):
    assert everywhere(raised_by(comm, None)) == [None] * comm.size


@pytest.mark.parametrize("kind", [DistbpError, ConfigError])
def test_trouble_of_each_rank_in_turn(comm, everywhere, kind):
    """All raise what one has, of its kind, with its rank; that rank with the cause."""
    for rank in range(comm.size):
        mine = kind("θ is odd") if comm.rank == rank else None
        error = raised_by(comm, mine)
        text = "θ is odd" if comm.size == 1 else f"rank {rank}: θ is odd"
        assert everywhere(seen(error)) == [(kind.__name__, text)] * comm.size
        assert all(everywhere(error.__cause__ is mine))


def test_trouble_that_all_have_names_no_rank(comm, everywhere):
    error = raised_by(comm, DataError("no such file"))
    assert everywhere(seen(error)) == [("DataError", "no such file")] * comm.size


def test_of_several_troubles_the_first_ranks_is_told(comm, everywhere):
    """Different troubles on all ranks but the first: the second's, with its rank."""
    mine = DataError(f"row {comm.rank}") if comm.rank or comm.size == 1 else None
    text = "row 0" if comm.size == 1 else "rank 1: row 1"
    assert everywhere(seen(raised_by(comm, mine))) == [("DataError", text)] * comm.size


def test_equal_texts_of_two_kinds_are_not_the_same(comm, everywhere):
    error = raised_by(comm, (DataError if comm.rank else ConfigError)("x"))
    text = "x" if comm.size == 1 else "rank 0: x"
    assert everywhere(seen(error)) == [("ConfigError", text)] * comm.size


def test_guard_lets_pass_what_all_raise(comm, everywhere):
    """A DistbpError on all ranks leaves the guard as it is, and the ranks go on."""
    with pytest.raises(ConfigError, match=r"^x$"), comm.abort_on_error():
        raise ConfigError("x")
    assert everywhere(comm.rank + 1 > 0) == [True] * comm.size


def test_arrive_waits_for_the_last_but_not_for_ever(monkeypatch, everywhere):
    """Ranks that wait for one that does not come give up; when it comes, it finds them."""
    comm = Comm(MPI.COMM_WORLD.Dup())
    monkeypatch.setattr(comm_module, "ABORT_GRACE_S", 0.05)
    is_last = comm.rank == comm.size - 1
    first = is_last or comm.timed_barrier()
    MPI.COMM_WORLD.Barrier()
    second = comm.timed_barrier() if is_last else True
    expected = [(comm.size == 1, True)] * (comm.size - 1) + [(True, True)]
    assert everywhere((first, second)) == expected
