"""Messages: what one rank sends is what the others receive."""

import time

import numpy as np
import pytest

from distbp.parallel.comm import is_complete
from distbp.parallel.rank_errors import timed_barrier
from distbp.parallel.topology import Topology

pytestmark = pytest.mark.mpi


def test_a_lone_group_sends_nothing():
    """Without MPI, every collective returns the own value."""
    alone, array = Topology(), np.arange(3.0)
    assert alone.world.allgather({"a": 1}) == [{"a": 1}]
    assert alone.world.broadcast("x") == "x"
    assert alone.world.allgather_int(7).tolist() == [7]
    assert alone.world.gather_rows(array) is array
    alone.world.allreduce(array)
    alone.world.barrier()
    assert timed_barrier(alone)
    assert array.tolist() == [0.0, 1.0, 2.0]
    assert alone.heartbeat() == 0


def test_an_operation_proceeds_whenever_it_is_asked_for(comm, everywhere):
    """Also one that is too large to be sent at once."""
    counts = np.full(comm.size, 1 << 19)
    layout = counts, np.cumsum(counts) - counts
    sent, received = np.full(counts.sum(), comm.rank), np.full(counts.sum(), -1)
    request = comm.world.start_alltoallv(sent, layout, received, layout)
    end = time.monotonic() + 60
    while not is_complete(request) and time.monotonic() < end:
        time.sleep(1e-3)
    expected = np.repeat(np.arange(comm.size), counts)
    assert everywhere(np.array_equal(received, expected)) == [True] * comm.size


def test_allgather_int(comm, everywhere):
    """Every rank has every rank's number, the largest int64 included."""
    found = everywhere(comm.world.allgather_int(2**63 - 1 - comm.rank).tolist())
    assert found == [[2**63 - 1 - rank for rank in range(comm.size)]] * comm.size


def test_allgather(comm, everywhere):
    """JSON of any kind and length arrives, in rank order."""
    for value in (None, "", "δ²\n", [], {"a": [1.5, None, True]}, "x" * 100_000):
        found = everywhere(comm.world.allgather([comm.rank, value]))
        assert found == [[[rank, value] for rank in range(comm.size)]] * comm.size


def test_allgather_of_unequal_lengths(comm, everywhere):
    found = everywhere(comm.world.allgather("x" * (1000 * comm.rank)))
    assert found == [["x" * (1000 * rank) for rank in range(comm.size)]] * comm.size


def test_broadcast_from_every_root(comm, everywhere):
    for root in range(comm.size):
        found = everywhere(comm.world.broadcast({"σ": comm.rank}, root))
        assert found == [{"σ": root}] * comm.size


def test_allreduce(comm, everywhere):
    array = np.array([comm.rank, 1.0])
    comm.world.allreduce(array)
    assert everywhere(array.tolist()) == [[sum(range(comm.size)), comm.size]] * comm.size


@pytest.mark.parametrize("empty", ["none", "first", "last", "all but the last"])
def test_gather_rows(comm, everywhere, empty):
    """Rank 0 gets the rows of all ranks in order; a rank may have none."""
    dtype = "float32"
    counts = counts_with(comm.size, empty)
    rows = np.full((counts[comm.rank], 3), comm.rank, dtype) + np.arange(3, dtype=dtype)
    gathered = comm.world.gather_rows(rows)
    expected = [[r, r + 1, r + 2] for r in range(comm.size) for _ in range(counts[r])]
    found = everywhere((comm.rank, gathered.dtype == dtype, gathered.tolist()))
    assert (0, True, expected) in found
    others = [[[r, r + 1, r + 2]] * counts[r] for r in range(1, comm.size)]
    assert sorted(found)[1:] == [(r, True, rows) for r, rows in enumerate(others, 1)]


def counts_with(size: int, empty: str) -> list[int]:
    counts = [rank + 2 for rank in range(size)]
    if empty == "first":
        counts[0] = 0
    elif empty == "last":
        counts[-1] = 0
    elif empty == "all but the last":
        counts[:-1] = [0] * (size - 1)
    return counts


def test_alltoallv(comm, everywhere):
    """Rank r sends r + s numbers to rank s, none to itself; displacements may leave gaps."""
    ranks = range(comm.size)

    def sent(source, target):
        return [] if source == target else [100.0 * source + target] * (source + target)

    gap = 2 * comm.size
    send = np.full(gap * comm.size, np.nan)
    for target in ranks:
        numbers = sent(comm.rank, target)
        send[gap * target : gap * target + len(numbers)] = numbers
    counts = [len(sent(comm.rank, target)) for target in ranks]
    receive_counts = [len(sent(source, comm.rank)) for source in ranks]
    receive = np.empty(sum(receive_counts))
    starts = np.cumsum(receive_counts) - receive_counts
    comm.world.start_alltoallv(
        send, (counts, [gap * target for target in ranks]), receive, (receive_counts, starts)
    ).Wait()
    found = everywhere((comm.rank, receive.tolist()))
    assert sorted(found) == [(r, [n for s in ranks for n in sent(s, r)]) for r in ranks]


@pytest.mark.parametrize("empty", ["none", "first", "last", "all but the last"])
def test_scatter_rows(comm, everywhere, empty):
    """Each rank gets its rows of rank 0's, in rank order."""
    counts = np.array(counts_with(comm.size, empty))
    rows = np.arange(counts.sum() * 3, dtype=np.uint8).reshape(-1, 3) if comm.rank == 0 else None
    found = everywhere((comm.rank, comm.world.scatter_rows(rows, counts, 3).ravel().tolist()))
    numbers = [number for _, part in sorted(found) for number in part]
    assert numbers == [i % 256 for i in range(counts.sum() * 3)]
    assert [len(part) for _, part in sorted(found)] == (3 * counts).tolist()
