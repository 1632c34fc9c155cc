"""The numbering of ranks by node, and what is left of it when ranks fail."""

import numpy as np
import pytest
from mpi4py import MPI
from nodes import TwoNodes

from distbp.parallel import topology as topology_module
from distbp.parallel.barrier import RankFailureError
from distbp.parallel.comm import Group
from distbp.parallel.topology import Topology, make_topology

pytestmark = pytest.mark.mpi


def numbers_of(comm: Topology) -> tuple[int, ...]:
    return comm.rank, comm.size, comm.node_index, comm.nodes, comm.node_rank, comm.node_size


def test_on_one_node_ranks_have_the_launchers_numbers(everywhere):
    """There, rank and rank on the node are the launcher's rank."""
    world = MPI.COMM_WORLD
    found = everywhere(numbers_of(make_topology(Group(world))))
    assert found == [(r, world.size, 0, 1, r, world.size) for r in range(world.size)]


def test_ranks_of_a_node_are_contiguous(comm, everywhere):
    """Whatever the mapping, ranks count node by node, and on a node in the launcher's order."""
    found = everywhere(numbers_of(comm))
    assert sorted(numbers[0] for numbers in found) == list(range(comm.size))
    in_order = sorted(found)
    assert [numbers[2] for numbers in in_order] == sorted(numbers[2] for numbers in found)
    for node in range(comm.nodes):
        on_node = [numbers[4:] for numbers in in_order if numbers[2] == node]
        assert on_node == [(node_rank, len(on_node)) for node_rank in range(len(on_node))]
        assert comm.node_sizes[node] == len(on_node)


def test_cyclic_mapping_is_renumbered(everywhere):
    """Ranks that were distributed over two nodes in turn: first the even ones, then the odd."""
    size = MPI.COMM_WORLD.size
    comm = make_topology(Group(TwoNodes(MPI.COMM_WORLD)))
    order = [*range(0, size, 2), *range(1, size, 2)]
    assert everywhere(comm.rank) == [order.index(rank) for rank in range(size)]
    assert everywhere(list(comm.launcher_ranks)) == [order] * size


def test_cross_node_groups_have_a_rank_of_each_node(comm, everywhere):
    """In the order of the nodes; a rank has none if a node has fewer ranks."""
    group = comm.cross_node
    found = None if group is None else (group.rank, group.size)
    has_group = comm.nodes == 1 or comm.node_rank < min(comm.node_sizes)
    assert all(everywhere(found == ((comm.node_index, comm.nodes) if has_group else None)))


def test_heartbeats_of_a_node_advance_together(comm, everywhere):
    """By one a barrier and by the same for any collective, on all ranks of a node."""
    before, wait = comm.heartbeat(), comm.node_barrier()
    wait()
    assert all(everywhere(comm.heartbeat() == before + (comm.node_size > 1)))
    comm.world.allgather("x")
    by_node = everywhere((comm.node_index, comm.heartbeat() - before))
    assert len(set(by_node)) == comm.nodes
    assert comm.size == 1 or all(advance > 0 for _, advance in by_node)


def test_exchanges_are_the_heartbeat_of_a_rank_alone_on_its_node(comm, everywhere):
    """Without a barrier they are all it does with others; where there is one they do not count."""
    before = comm.heartbeat()
    if comm.cross_node is not None:
        comm.cross_node.barrier()
    is_alone = comm.nodes > 1 and comm.node_size == 1
    assert all(everywhere(comm.heartbeat() == before + is_alone))


@pytest.fixture
def shrink_without(monkeypatch):
    """Return a function that shrinks a topology as if some of the launcher's ranks had failed.

    All ranks call it; it returns what `shrink` does, and None on those that failed. MPI's own
    shrinking is replaced by a split, and revoking by a list of what was revoked.
    """

    def function(failed: set[int], topology: Topology | None):
        world = MPI.COMM_WORLD
        has_failed = world.rank in failed
        made = world.Split(MPI.UNDEFINED if has_failed else 0, world.rank)
        monkeypatch.setattr(topology_module, "surviving_group", lambda: Group(made))
        return None if has_failed else topology_module.shrink(topology)

    monkeypatch.setattr(topology_module, "_Process", type("_Process", (), {}))
    monkeypatch.setattr(Group, "revoke", lambda group: function.revoked.append(group))
    function.revoked = []
    return function


@pytest.mark.parametrize("which", ["none", "first", "last", "all but the last"])
def test_shrink_returns_a_new_topology(comm, everywhere, shrink_without, which):
    """Of the survivors, renumbered, and the ranks that failed; the old one is as it was."""
    size, old, order = comm.size, numbers_of(comm), comm.launcher_ranks
    ranks = {"none": [], "first": [0], "last": [size - 1], "all but the last": [*range(size - 1)]}
    failed = ranks[which] if size > 1 else []
    result = shrink_without({order[rank] for rank in failed}, comm)
    assert all(everywhere(numbers_of(comm) == old))
    alive = sorted(order[rank] for rank in range(size) if rank not in failed)
    assert everywhere(result and (result[0].rank, result[0].launcher_ranks, result[1])) == [
        (alive.index(number), tuple(alive), failed) if number in alive else None
        for number in range(size)
    ]


def test_shrink_wakes_ranks_that_wait(comm, everywhere, shrink_without):
    """All groups of the old topology are revoked, and none of the new one."""
    topology, _ = shrink_without(set(), comm)
    groups = {comm.world, comm.node, comm.exits} if comm.size > 1 else set()
    if comm.nodes > 1 and comm.cross_node is not None:
        groups.add(comm.cross_node)
    assert all(everywhere(groups <= set(shrink_without.revoked)))
    new = {topology.world, topology.node, topology.exits}
    assert not any(everywhere(bool(new & set(shrink_without.revoked))))


def test_the_barrier_of_a_revoked_topology_raises(comm, everywhere, monkeypatch):
    """A rank of the node that has not noticed the failure yet does not wait forever."""
    monkeypatch.setattr(Group, "revoke", lambda group: None)
    has_raised = None
    if comm.node_rank == comm.node_size - 1:
        comm.revoke()
    else:
        with pytest.raises(RankFailureError, match="has left"):
            comm.node_barrier()()
        has_raised = True
    expected = everywhere(comm.node_rank < comm.node_size - 1)
    assert everywhere(bool(has_raised)) == expected


def test_failed_ranks_are_numbered_as_in_the_topology_that_shrinks(everywhere, shrink_without):
    """The launcher's rank 2 is number 1 once rank 0 has failed."""
    size = MPI.COMM_WORLD.size
    if size < 3:
        return
    first = shrink_without({0}, make_topology(Group(MPI.COMM_WORLD)))
    second = shrink_without({0, 2}, first and first[0])
    assert everywhere(second and second[1]) == [
        None if rank in (0, 2) else [1] for rank in range(size)
    ]


def test_a_shrink_that_fails_can_be_repeated(comm, everywhere, shrink_without, monkeypatch):
    """What it had made is revoked, as a survivor may be ahead and wait there."""
    if comm.size == 1:
        return

    def fail(group):
        raise RuntimeError("another rank failed meanwhile")

    with monkeypatch.context() as patch:
        patch.setattr(Group, "split_by_node", fail)
        with pytest.raises(RuntimeError, match="meanwhile"):
            shrink_without(set(), comm)
    made = [group for group in shrink_without.revoked if group not in comm._groups]
    assert everywhere(len(made)) == [2] * comm.size  # the survivors, and their duplicate
    topology, failed = shrink_without(set(), comm)
    assert everywhere((topology.size, failed)) == [(comm.size, [])] * comm.size


@pytest.mark.parametrize("comm", ["one node"], indirect=True)
def test_a_rank_that_waits_in_a_barrier_makes_progress(comm, everywhere):
    """MPI sends only while it is called, and those that lack a message come to the barrier late."""
    numbers = np.full(1 << 17, 1.0)
    request = MPI.COMM_WORLD.Iallreduce(MPI.IN_PLACE, numbers)
    if comm.rank > 0:
        request.Wait()
    comm.node_barrier()()
    request.Wait()
    assert all(everywhere((numbers == comm.size).all()))
