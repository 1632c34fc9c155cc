"""A process on its own, the numbering of ranks without MPI, and connecting."""

import multiprocessing  # noqa: F401 - it has to be loaded
import os
from dataclasses import FrozenInstanceError
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.errors import ConfigError, DataError, LaunchError
from distbp.parallel.comm import Group
from distbp.parallel.environment import _LAUNCHER_PREFIXES
from distbp.parallel.rank_errors import abort_on_error, collective_errors, timed_barrier
from distbp.parallel.shared_array import SharedArray, filled_shared_array
from distbp.parallel.topology import (
    Topology,
    _Process,
    connect,
    connected_topology,
    has_shrunk,
    latest,
)


def group(rank: int, size: int) -> Group:
    """Return a group with that numbering, which can send nothing."""
    made = Group()
    made.rank, made.size = rank, size
    return made


def test_collectives_of_one_rank_return_its_value():
    comm = Topology()
    assert (comm.rank, comm.size, comm.node_index, comm.nodes) == (0, 1, 0, 1)
    assert comm.world.allgather_int(7).tolist() == [7]
    assert comm.world.allgather({"a": [1]}) == [{"a": [1]}]
    assert comm.world.broadcast("x") == "x"
    rows = np.arange(6.0).reshape(3, 2)
    comm.world.allreduce(rows)
    comm.world.barrier()
    comm.node_barrier()()
    assert timed_barrier(comm)
    np.testing.assert_array_equal(comm.world.gather_rows(rows), np.arange(6.0).reshape(3, 2))


def test_one_rank_cannot_start_an_exchange():
    """With nobody: a defect of the caller, not a wait forever."""
    with pytest.raises(LaunchError, match="has no other ranks"):
        Group().start_barrier()


def test_shared_arrays_of_one_rank():
    """An array is filled by the node's only rank."""
    array = filled_shared_array(Topology(), (2, 3), np.dtype("f4"), lambda out: out.fill(5))
    assert array.dtype == np.float32
    assert array.tolist() == [[5, 5, 5], [5, 5, 5]]
    shared = SharedArray(Topology(), (2,), np.dtype("i8"))
    assert (shared.is_shared, shared.is_owner, shared.reason) == (True, True, "")


def test_an_error_of_one_rank_names_no_rank():
    """It is raised at the end of the block, with the same text."""
    with pytest.raises(DataError, match=r"^row 5$") as failure, collective_errors(Topology()):
        raise DataError("row 5")
    assert failure.value.__cause__ is None


def test_other_exceptions_pass_through():
    """Only what a user can fix is agreed on."""
    comm = Topology()
    with pytest.raises(ZeroDivisionError), abort_on_error(comm), collective_errors(comm):
        _ = 1 / 0
    with pytest.raises(ConfigError), abort_on_error(comm):
        raise ConfigError("x")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_ranks_are_numbered_node_by_node(sizes, data):
    """The node's number follows from the rank and the sizes of the nodes."""
    node = data.draw(st.integers(0, len(sizes) - 1))
    node_rank = data.draw(st.integers(0, sizes[node] - 1))
    first = [0, *accumulate(sizes)][node]
    comm = Topology(
        group(first + node_rank, sum(sizes)),
        group(node_rank, sizes[node]),
        node_sizes=tuple(sizes),
    )
    assert (comm.node_index, comm.node_rank, comm.node_size) == (node, node_rank, sizes[node])
    assert (comm.rank, comm.size, comm.nodes) == (first + node_rank, sum(sizes), len(sizes))


def test_a_topology_is_immutable():
    """`shrink` makes another one: what was made from this one can be compared with it."""
    with pytest.raises(FrozenInstanceError):
        Topology().world = Group()  # type: ignore[misc]


def test_connecting_several_ranks_without_mpi(monkeypatch):
    """Ranks that cannot load MPI do not train on their own, each for itself."""

    def no_mpi():
        raise RuntimeError("cannot load MPI library\nlibmpi.so.12")

    monkeypatch.setattr("distbp.parallel.mpi.init", no_mpi)
    for name in ("DISTBP_RANKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert connect().size == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(LaunchError, match=r"4 ranks were started, but no MPI .*cannot load MPI"):
        connect()
    assert connected_topology() is None


def test_a_process_without_a_launcher_starts_no_mpi(monkeypatch):
    """Nor does a worker of `multiprocessing`, or a fork, of a process that was launched."""

    def no_mpi():
        raise AssertionError("MPI was started")

    monkeypatch.setattr("distbp.parallel.mpi.init", no_mpi)
    monkeypatch.setattr("distbp.parallel.mpi.is_running", lambda: False)
    for name in tuple(os.environ):
        if name.startswith(_LAUNCHER_PREFIXES):
            monkeypatch.delenv(name)
    assert connect().size == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(AssertionError, match="MPI was started"):
        connect()
    monkeypatch.setattr("multiprocessing.parent_process", lambda: "the rank")
    assert connect().size == 1
    monkeypatch.undo()
    monkeypatch.setattr(_Process, "topology", parent := Topology())
    monkeypatch.setattr(_Process, "pid", os.getpid() + 1)
    assert connect() is not parent
    monkeypatch.setattr(_Process, "pid", os.getpid())
    assert connect() is parent


def launched(monkeypatch, library, size, **variables):
    """Play a launcher that has set some variables, and an MPI that finds so many ranks."""
    for name in ("DISTBP_RANKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("distbp.parallel.mpi.library_version", lambda: library)
    monkeypatch.setattr("distbp.parallel.topology.launched_group", lambda: group(0, size))


@pytest.mark.parametrize(
    ("library", "size", "variables", "message"),
    [
        ("MPICH 4.2", 2, {"OMPI_COMM_WORLD_SIZE": "2"}, r"sees only itself: .*\(MPICH 4\.2\)"),
        ("Open MPI 5", 1, {"PMI_SIZE": "3"}, r"^3 ranks were started, .*\(Open MPI 5\)"),
        ("MPICH 4.2", 1, {"SLURM_STEP_NUM_TASKS": "2"}, r"srun --mpi=pmi2 for MPICH"),
        ("MPICH 4.2", 2, {"DISTBP_RANKS": "3"}, r"^3 ranks were requested, but 2 were started\.$"),
    ],
)
def test_a_launcher_of_another_mpi_is_reported(monkeypatch, library, size, variables, message):
    """Ranks that do not find each other are not several runs of one rank."""
    launched(monkeypatch, library, size, **variables)
    with pytest.raises(LaunchError, match=message):
        connect()


def test_before_a_shrink_a_topology_is_the_latest():
    comm = Topology()
    assert latest(comm) is comm
    assert not has_shrunk()


def test_after_a_shrink_that_of_the_survivors_is_the_latest(monkeypatch):
    """An error after it concerns them: the old communicators cannot be used any more."""
    survivors = Topology()
    monkeypatch.setattr("distbp.parallel.topology._Process.topology", survivors)
    monkeypatch.setattr("distbp.parallel.topology._Process.has_shrunk", True)
    assert latest(Topology()) is survivors
    assert connect() is survivors
