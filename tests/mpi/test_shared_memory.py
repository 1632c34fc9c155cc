"""Shared memory: one copy per node, visible to its ranks, and no file left behind."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from distbp.errors import DataError
from distbp.parallel import shared_memory
from distbp.parallel.shared_array import SharedArray, filled_shared_array
from distbp.parallel.topology import Topology

pytestmark = pytest.mark.mpi

FOLDERS = ("/dev/shm", tempfile.gettempdir())


@pytest.fixture(autouse=True)
def no_file_is_left(everywhere):
    """Check that no file of this process is left in the folders for shared memory."""
    yield
    left = [str(p) for f in FOLDERS for p in Path(f).glob(f"distbp-{os.getpid()}-*")]
    assert everywhere(left) == [[]] * MPI.COMM_WORLD.size


def written_by(comm: Topology, number: int):
    """Return a function that fills an array with a number and the rank that does it."""

    def fill(array: np.ndarray) -> None:
        array[...] = 1000 * number + comm.rank

    return fill


def first_of_node(comm: Topology) -> int:
    """Return the rank that fills this node's arrays."""
    return comm.rank - comm.node_rank


def test_one_copy_per_node(comm, everywhere):
    """Its owner fills it; all ranks of the node see that, and what any of them writes."""
    shared = SharedArray(comm, (3, 5), np.dtype(np.float64))
    shared.fill(written_by(comm, 1))
    first = first_of_node(comm)
    assert all(everywhere((shared.array == 1000 + first).all()))
    assert everywhere(shared.is_owner) == everywhere(comm.node_rank == 0)
    MPI.COMM_WORLD.Barrier()
    shared.array[0, comm.node_rank] = comm.rank  # also after the first filling
    MPI.COMM_WORLD.Barrier()
    expected = [float(first + place) for place in range(comm.node_size)]
    assert all(everywhere(shared.array[0, : comm.node_size].tolist() == expected))


def test_a_shared_array_can_be_refilled(comm, everywhere):
    shared = SharedArray(comm, (7,), np.dtype(np.int64))
    for number in range(5):
        shared.fill(written_by(comm, number))
        found = everywhere((shared.array == 1000 * number + first_of_node(comm)).all())
        assert all(found)
        MPI.COMM_WORLD.Barrier()


def test_the_owner_may_be_another_rank(comm, everywhere):
    shared = SharedArray(comm, (3,), np.dtype(np.int64), owner=-1)
    shared.fill(written_by(comm, 1))
    last = first_of_node(comm) + comm.node_size - 1
    assert everywhere(shared.is_owner) == everywhere(comm.rank == last)
    assert all(everywhere((shared.array == 1000 + last).all()))


def test_filled_shared_array(comm, everywhere):
    array = filled_shared_array(comm, (2, 3), np.dtype("uint8"), lambda out: out.fill(7))
    assert everywhere((array.tolist(), array.dtype.name)) == [([[7] * 3] * 2, "uint8")] * comm.size


@pytest.mark.parametrize("named", [False, True])
def test_the_file_has_no_name_while_it_is_mapped(comm, everywhere, monkeypatch, named):
    """Or not for long: whatever kills the ranks, it is not left behind."""
    names, real = [], shared_memory._map_file

    def recorded(*arguments):
        memory, reason = real(*arguments)
        names.append({path.name for path in Path("/dev/shm").glob(f"distbp-{first_pid}-*")})
        return memory, reason

    first_pid = comm.node.broadcast(os.getpid())
    monkeypatch.setattr(shared_memory, "_map_file", recorded)
    if named:
        monkeypatch.setattr(shared_memory, "_O_TMPFILE", 0)  # as on systems without it
    shared = SharedArray(comm, (4,), np.dtype(np.int64))
    expected = 0 if comm.node_size == 1 else 1
    assert everywhere(len(names)) == everywhere(expected)
    assert all(everywhere(all(len(found) == named for found in names)))
    shared.fill(written_by(comm, 0))
    assert all(everywhere((shared.array == first_of_node(comm)).all()))
    assert not any(everywhere(list(Path("/dev/shm").glob(f"distbp-{os.getpid()}-*"))))


def test_an_error_of_the_owner_is_raised_on_all_ranks(comm, everywhere):
    shared = SharedArray(comm, (4,), np.dtype(np.int64))

    def fail(array: np.ndarray) -> None:
        raise DataError(f"row {comm.rank}")

    with pytest.raises(DataError) as caught:
        shared.fill(fail)
    text = "row 0" if comm.size == 1 else "rank 0: row 0"
    assert everywhere(str(caught.value)) == [text] * comm.size


def test_if_one_rank_cannot_map_all_of_its_node_have_copies(comm, everywhere, monkeypatch):
    """All ranks of a node share, or none: no rank may fill what others do not see."""
    for unable in range(comm.size):
        if comm.rank == unable:
            monkeypatch.setattr(shared_memory, "_map_file", lambda *arguments: (None, "unable"))
        shared = SharedArray(comm, (6,), np.dtype(np.float32))
        monkeypatch.undo()
        shared.fill(written_by(comm, 2))
        MPI.COMM_WORLD.Barrier()
        nodes = dict(zip(everywhere(comm.rank), everywhere(comm.node_index), strict=True))
        owner = comm.rank if nodes[unable] == comm.node_index else first_of_node(comm)
        assert all(everywhere(shared.is_owner == (owner == comm.rank)))
        assert all(everywhere((shared.array == 2000 + owner).all()))


@pytest.mark.parametrize("contents", [bytes(10_000), bytes(24 + 16), None])
def test_another_file_of_the_same_path_is_detected(
    comm, everywhere, monkeypatch, tmp_path, contents
):
    """In another container the path is another file's, which is not written to, or no file's."""
    decoy = tmp_path / "decoy"
    if contents is not None:
        decoy.write_bytes(contents)
    real = shared_memory._map_file
    if comm.node_rank == comm.node_size - 1:
        monkeypatch.setattr(
            shared_memory, "_map_file", lambda folder, path, *more: real(folder, str(decoy), *more)
        )
    shared = SharedArray(comm, (6,), np.dtype(np.float32))
    shared.fill(written_by(comm, 3))
    MPI.COMM_WORLD.Barrier()
    assert all(everywhere(shared.is_owner and (shared.array == 3000 + comm.rank).all()))
    found = decoy.read_bytes() if decoy.exists() else None
    assert all(everywhere(found == contents))


def test_a_path_that_only_one_rank_can_open(comm, everywhere, monkeypatch):
    """As in containers that have a folder in common, but not their processes: it gets a name."""
    real = shared_memory._map_file
    if comm.node_rank == comm.node_size - 1:
        monkeypatch.setattr(
            shared_memory,
            "_map_file",
            lambda folder, path, *more: real(folder, path.replace("/proc/", "/dev/null/"), *more),
        )
    shared = SharedArray(comm, (6,), np.dtype(np.float32))
    shared.fill(written_by(comm, 3))
    assert all(everywhere((shared.array == 3000 + first_of_node(comm)).all()))
    assert everywhere((shared.is_shared, shared.reason)) == [(True, "")] * comm.size


def test_without_room_each_rank_has_a_copy(comm, everywhere, monkeypatch):
    """No folder has room: private copies, and no file is left."""

    def no_room(*arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    shared = SharedArray(comm, (6,), np.dtype(np.float64))
    shared.fill(written_by(comm, 4))
    assert all(everywhere(shared.is_owner and (shared.array == 4000 + comm.rank).all()))


def test_the_second_folder_is_used_if_the_first_is_full(comm, everywhere, monkeypatch):
    """The /dev/shm of a container is often tiny: the folder for temporary files is next."""
    real, calls = os.posix_fallocate, []

    def full_at_first(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) <= 2:  # without a name, and with one
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full_at_first)
    shared = SharedArray(comm, (6,), np.dtype(np.float64))
    shared.fill(written_by(comm, 5))
    assert all(everywhere((shared.array == 5000 + first_of_node(comm)).all()))
    assert everywhere(shared.is_owner) == everywhere(comm.node_rank == 0)
    reason = "/dev/shm: No space left on device" if comm.node_size > 1 else ""
    assert all(everywhere(shared.reason == reason))
