"""Messages and numbering: what one rank says is what the others hear."""

import numpy as np
import pytest
from mpi4py import MPI
from nodes import Dealt

from distbp.parallel.comm import Comm

pytestmark = pytest.mark.mpi


def numbers_of(comm: Comm) -> tuple[int, ...]:
    return comm.rank, comm.size, comm.node, comm.nodes, comm.node_rank, comm.node_size


def test_one_node_keeps_the_launchers_numbers(everywhere):
    """On one node rank and place on the node are the launcher's rank."""
    world = MPI.COMM_WORLD
    found = everywhere(numbers_of(Comm(world)))
    assert found == [(r, world.size, 0, 1, r, world.size) for r in range(world.size)]


def test_ranks_of_a_node_are_made_a_run(comm, everywhere):
    """Whatever the mapping, ranks count node by node, and on a node as the launcher did."""
    found = everywhere(numbers_of(comm))
    assert sorted(numbers[0] for numbers in found) == list(range(comm.size))
    in_order = sorted(found)
    assert [numbers[2] for numbers in in_order] == sorted(numbers[2] for numbers in found)
    for node in range(comm.nodes):
        places = [numbers[4:] for numbers in in_order if numbers[2] == node]
        assert places == [(place, len(places)) for place in range(len(places))]


def test_dealt_ranks_are_renumbered(everywhere):
    """Ranks dealt out to two nodes in turn: first the even ones, then the odd ones."""
    size = MPI.COMM_WORLD.size
    found = everywhere(Comm(Dealt(MPI.COMM_WORLD)).rank)
    order = [*range(0, size, 2), *range(1, size, 2)]
    assert found == [order.index(rank) for rank in range(size)]


def test_a_lone_comm_needs_no_mpi():
    """Without MPI every message is to oneself."""
    alone, array = Comm(), np.arange(3.0)
    assert numbers_of(alone) == (0, 1, 0, 1, 0, 1)
    assert alone.allgather({"a": 1}) == [{"a": 1}]
    assert alone.broadcast("x") == "x"
    assert alone.allgather_int(7).tolist() == [7]
    assert alone.gather_rows(array) is array
    alone.allreduce(array)
    alone.barrier()
    assert alone.timed_barrier()
    assert array.tolist() == [0.0, 1.0, 2.0]


def test_gather_numbers(comm, everywhere):
    """Every rank has every rank's number, the largest int64 included."""
    found = everywhere(comm.allgather_int(2**63 - 1 - comm.rank).tolist())
    assert found == [[2**63 - 1 - rank for rank in range(comm.size)]] * comm.size


def test_gather(comm, everywhere):
    """JSON of any kind and length arrives, in the order of the ranks."""
    for value in (None, "", "δ²\n", [], {"a": [1.5, None, True]}, "x" * 100_000):
        found = everywhere(comm.allgather([comm.rank, value]))
        assert found == [[[rank, value] for rank in range(comm.size)]] * comm.size


def test_gather_of_unequal_lengths(comm, everywhere):
    found = everywhere(comm.allgather("x" * (1000 * comm.rank)))
    assert found == [["x" * (1000 * rank) for rank in range(comm.size)]] * comm.size


def test_broadcast_from_every_root(comm, everywhere):
    for root in range(comm.size):
        found = everywhere(comm.broadcast({"σ": comm.rank}, root))
        assert found == [{"σ": root}] * comm.size


def test_allreduce(comm, everywhere):
    array = np.array([comm.rank, 1.0])
    comm.allreduce(array)
    assert everywhere(array.tolist()) == [[sum(range(comm.size)), comm.size]] * comm.size


@pytest.mark.parametrize("empty", ["none", "first", "last", "all but the last"])
def test_gather_rows(comm, everywhere, empty):
    """Rank 0 has the rows of all in order; a rank may have none."""
    dtype = "float32"
    counts = counts_with(comm.size, empty)
    rows = np.full((counts[comm.rank], 3), comm.rank, dtype) + np.arange(3, dtype=dtype)
    gathered = comm.gather_rows(rows)
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


@pytest.mark.parametrize("empty", ["none", "first", "last", "all but the last"])
def test_allgatherv(comm, everywhere, empty):
    """An array of which each rank has a run is whole on every rank."""
    counts = counts_with(comm.size, empty)
    ends = np.cumsum(counts)
    mine = np.s_[ends[comm.rank] - counts[comm.rank] : ends[comm.rank]]
    array = np.full(ends[-1], np.nan)
    array[mine] = comm.rank
    if comm.size > 1:
        comm.start_allgatherv(array, counts).Wait()
    expected = [float(rank) for rank, count in enumerate(counts) for _ in range(count)]
    assert everywhere(array.tolist()) == [expected] * comm.size


def test_alltoallv(comm, everywhere):
    """Rank r sends r + s numbers to rank s, none if r is s; displacements may leave gaps."""
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
    comm.start_alltoallv(
        send, (counts, [gap * target for target in ranks]), receive, (receive_counts, starts)
    ).Wait()
    found = everywhere((comm.rank, receive.tolist()))
    assert sorted(found) == [(r, [n for s in ranks for n in sent(s, r)]) for r in ranks]
