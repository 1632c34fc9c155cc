"""A process on its own: a `Comm` of one rank, and what the launcher's variables say."""

import numpy as np
import pytest

from distbp.errors import ConfigError, DataError, LaunchError
from distbp.parallel.comm import Comm, connect
from distbp.parallel.environment import launcher_rank, memory_plug, ranks_started


def test_one_rank_has_what_it_had():
    """Every exchange with nobody gives back the own value."""
    comm = Comm()
    assert (comm.rank, comm.size, comm.node, comm.nodes) == (0, 1, 0, 1)
    assert comm.allgather_int(7).tolist() == [7]
    assert comm.allgather({"a": [1]}) == [{"a": [1]}]
    assert comm.broadcast("x") == "x"
    rows = np.arange(6.0).reshape(3, 2)
    comm.allreduce(rows)
    comm.barrier()
    assert comm.timed_barrier()
    np.testing.assert_array_equal(comm.gather_rows(rows), np.arange(6.0).reshape(3, 2))


def test_memory_of_one_rank():
    """An array of the node's is filled by its only rank."""
    array = Comm().fill_shared_array((2, 3), np.dtype("f4"), lambda out: out.fill(5))
    assert array.dtype == np.float32
    assert array.tolist() == [[5, 5, 5], [5, 5, 5]]


def test_trouble_of_one_rank_is_its_own():
    """It is raised at the end of the block as it was, without a rank's number."""
    with pytest.raises(DataError, match=r"^row 5$") as failure, Comm().collective_errors():
        raise DataError("row 5")
    assert isinstance(failure.value.__cause__, DataError)


def test_defects_pass_through():
    """Only what a user can mend is agreed on."""
    comm = Comm()
    with pytest.raises(ZeroDivisionError), comm.abort_on_error(), comm.collective_errors():
        _ = 1 / 0
    with pytest.raises(ConfigError), comm.abort_on_error():
        raise ConfigError("x")


@pytest.mark.parametrize(
    ("environment", "ranks", "rank"),
    [
        ({}, 1, 0),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4, 3),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2, 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, 8, 5),
        ({"DISTBP_RANKS": "3", "SLURM_STEP_NUM_TASKS": "1"}, 3, 0),
        ({"PMI_SIZE": "many", "PMI_RANK": ""}, 1, 0),
    ],
)
def test_what_launchers_say(environment, ranks, rank):
    """Each launcher's own variables are read; what is no number is not."""
    assert ranks_started(environment) == ranks
    assert launcher_rank(environment) == rank


def test_several_ranks_without_mpi(monkeypatch):
    """Ranks that were started but cannot load MPI do not train alone, each for itself."""

    def no_mpi():
        raise RuntimeError("cannot load MPI library\nlibmpi.so.12")

    monkeypatch.setattr("distbp.parallel.comm._mpi", no_mpi)
    for name in ("DISTBP_RANKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert connect().size == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(LaunchError, match=r"4 ranks were started, but no MPI .*cannot load MPI"):
        connect()


def test_memory_is_plugged_under_slurm_alone():
    """Before MPI starts there; elsewhere nothing is taken."""
    assert memory_plug({}) == []
    assert sum(map(len, memory_plug({"SLURM_STEP_ID": "0"}))) > 1e6
