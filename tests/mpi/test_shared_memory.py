"""Memory that the ranks of a node share: one copy, seen by all, and nothing left of it."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from distbp.errors import DataError
from distbp.parallel import shared_memory
from distbp.parallel.comm import Comm

pytestmark = pytest.mark.mpi

FOLDERS = ("/dev/shm", tempfile.gettempdir())


@pytest.fixture(autouse=True)
def nothing_is_left(everywhere):
    """No file of this process's is left in a folder that memory is shared through."""
    yield
    left = [str(p) for f in FOLDERS for p in Path(f).glob(f"distbp-{os.getpid()}-*")]
    assert everywhere(left) == [[]] * MPI.COMM_WORLD.size


def written_by(comm: Comm, number: int):
    """Return a function that fills an array with a number, and says who did."""

    def fill(array: np.ndarray) -> None:
        array[...] = 1000 * number + comm.rank

    return fill


def first_of_node(comm: Comm) -> int:
    """Return the rank that fills this node's arrays."""
    return comm.rank - comm.node_rank


def test_one_copy_a_node(comm, everywhere):
    """The owner, one a node, fills; all of the node see it, and what any of them writes."""
    shared = comm.shared_array((3, 5), np.dtype(np.float64))
    shared.fill(written_by(comm, 1))
    first = first_of_node(comm)
    assert all(everywhere((shared.array == 1000 + first).all()))
    assert everywhere(shared.is_owner) == everywhere(comm.node_rank == 0)
    MPI.COMM_WORLD.Barrier()
    shared.array[0, comm.node_rank] = comm.rank  # memory itself, not only its first filling
    MPI.COMM_WORLD.Barrier()
    expected = [float(first + place) for place in range(comm.node_size)]
    assert all(everywhere(shared.array[0, : comm.node_size].tolist() == expected))


def test_it_can_be_filled_again(comm, everywhere):
    shared = comm.shared_array((7,), np.dtype(np.int64))
    for number in range(5):
        shared.fill(written_by(comm, number))
        found = everywhere((shared.array == 1000 * number + first_of_node(comm)).all())
        assert all(found)
        MPI.COMM_WORLD.Barrier()


def test_fill_node_array(comm, everywhere):
    array = comm.fill_shared_array((2, 3), np.dtype("uint8"), lambda out: out.fill(7))
    assert everywhere((array.tolist(), array.dtype.name)) == [([[7] * 3] * 2, "uint8")] * comm.size


def test_the_file_is_gone_while_the_memory_lives(comm, everywhere, monkeypatch):
    """The name is taken away as soon as all have mapped it: no kind of death leaves it."""
    names = []
    monkeypatch.setattr(shared_memory, "_offer", noting(names, shared_memory._offer))
    shared = comm.shared_array((4,), np.dtype(np.int64))
    offered = everywhere(len(names))
    assert sum(offered) == (0 if comm.size == comm.nodes else sharing_nodes(comm, everywhere))
    assert not any(everywhere(any(Path(name).exists() for name in names)))
    shared.fill(written_by(comm, 0))


def noting(names: list[str], offer):
    def noted(folder: str, size: int):
        path, token, trouble = offer(folder, size)
        names.append(path)
        return path, token, trouble

    return noted


def sharing_nodes(comm: Comm, everywhere) -> int:
    """Return how many nodes have more than one rank."""
    return len({node for node, size in everywhere((comm.node, comm.node_size)) if size > 1})


def test_trouble_of_the_one_that_fills_reaches_all(comm, everywhere):
    shared = comm.shared_array((4,), np.dtype(np.int64))

    def fail(array: np.ndarray) -> None:
        raise DataError(f"row {comm.rank}")

    with pytest.raises(DataError) as caught:
        shared.fill(fail)
    text = "row 0" if comm.size == 1 else "rank 0: row 0"
    assert everywhere(str(caught.value)) == [text] * comm.size


def test_one_rank_that_cannot_map_gives_all_of_its_node_copies(comm, everywhere, monkeypatch):
    """Sharing is for all of a node or for none: no rank may fill what others do not see."""
    for blind in range(comm.size):
        if comm.rank == blind:
            monkeypatch.setattr(shared_memory, "_map", lambda *arguments: (None, "blind"))
        shared = comm.shared_array((6,), np.dtype(np.float32))
        monkeypatch.undo()
        shared.fill(written_by(comm, 2))
        MPI.COMM_WORLD.Barrier()
        nodes = dict(zip(everywhere(comm.rank), everywhere(comm.node), strict=True))
        owner = comm.rank if nodes[blind] == comm.node else first_of_node(comm)
        assert all(everywhere(shared.is_owner == (owner == comm.rank)))
        assert all(everywhere((shared.array == 2000 + owner).all()))


def test_another_file_under_the_same_name_is_noticed(comm, everywhere, monkeypatch, tmp_path):
    """A rank that maps something else, as in another container, does not have the token."""
    decoy = tmp_path / "decoy"
    decoy.write_bytes(bytes(10_000))
    real = shared_memory._map
    if comm.node_rank == comm.node_size - 1:
        monkeypatch.setattr(
            shared_memory, "_map", lambda path, size, token, own: real(str(decoy), size, token, own)
        )
    shared = comm.shared_array((6,), np.dtype(np.float32))
    shared.fill(written_by(comm, 3))
    MPI.COMM_WORLD.Barrier()
    assert all(everywhere(shared.is_owner and (shared.array == 3000 + comm.rank).all()))
    assert not any(everywhere(any(decoy.read_bytes())))


def test_full_folders_give_copies_and_leave_no_file(comm, everywhere, monkeypatch):
    """Where no folder has room, each rank has a copy of its own."""

    def no_room(*arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    shared = comm.shared_array((6,), np.dtype(np.float64))
    shared.fill(written_by(comm, 4))
    assert all(everywhere(shared.is_owner and (shared.array == 4000 + comm.rank).all()))


def test_the_second_folder_serves_where_the_first_is_full(comm, everywhere, monkeypatch):
    """/dev/shm of a container is often tiny: the folder for temporary files is next."""
    real, calls = os.posix_fallocate, []

    def full_at_first(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full_at_first)
    shared = comm.shared_array((6,), np.dtype(np.float64))
    shared.fill(written_by(comm, 5))
    assert all(everywhere((shared.array == 5000 + first_of_node(comm)).all()))
    assert everywhere(shared.is_owner) == everywhere(comm.node_rank == 0)
