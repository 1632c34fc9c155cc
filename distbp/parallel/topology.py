"""The ranks of a run: how they are numbered, and how they are spread over nodes.

A `Topology` is an immutable value. `connect` returns that of this process; after a rank
failure `shrink` returns a new one, of the survivors. The numbering is by node, so that the
ranks of a node, and hence their shards, are contiguous whatever mapping the launcher chose:
the subtrees of a node's shards are then as large as they can be, and the fewest partial sums
travel between nodes.
"""

import os
import sys
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from distbp.errors import LaunchError
from distbp.parallel import mpi
from distbp.parallel.barrier import Barrier, make_barrier
from distbp.parallel.comm import Group, launched_group, surviving_group
from distbp.parallel.environment import LaunchEnvironment


@dataclass(frozen=True, eq=False)
class Topology:
    """The ranks of a run; by default this process on its own, without MPI.

    Attributes
    ----------
    world : Group
        All ranks, numbered node by node.
    node : Group
        The ranks of this rank's node, in the order of `world`.
    cross_node : Group or None
        The ranks with this rank's `node_rank` on all nodes, in the order of the nodes; None if
        a node has fewer ranks than that.
    cross_node_results : Group or None
        The same ranks, for messages that are sent in another order than those of `cross_node`.
    node_sizes : tuple of int
        The number of ranks of each node.
    launcher_ranks : tuple of int
        The launcher's number of each rank, which it has for life.
    barrier : Barrier or None
        The node's barrier in shared memory; None if the node has one rank or cannot share
        memory. It belongs to the process, not to a run: file descriptors would grow otherwise.
    exits : Group
        A duplicate of all ranks, for `timed_barrier` only: a rank that gives up may be at
        another point of the program than the others, and must not match their collectives.
    """

    world: Group = field(default_factory=Group)
    node: Group = field(default_factory=Group)
    cross_node: Group | None = field(default_factory=Group)
    cross_node_results: Group | None = field(default_factory=Group)
    node_sizes: tuple[int, ...] = (1,)
    launcher_ranks: tuple[int, ...] = (0,)
    barrier: Barrier | None = None
    exits: Group = field(default_factory=Group)
    _groups: tuple[Group, ...] = ()  # all in which a rank may wait

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def size(self) -> int:
        return self.world.size

    @property
    def nodes(self) -> int:
        """Return the number of nodes."""
        return len(self.node_sizes)

    @property
    def node_index(self) -> int:
        """Return the number of this rank's node."""
        return bisect_right(list(accumulate(self.node_sizes)), self.rank)

    @property
    def node_rank(self) -> int:
        """Return this rank's number on its node."""
        return self.node.rank

    @property
    def node_size(self) -> int:
        """Return the number of ranks on this rank's node."""
        return self.node.size

    def node_barrier(self) -> Callable[[], None]:
        """Return the function that waits for all ranks of the node."""
        if self.barrier is not None:
            return self.barrier.wait
        return self.node.barrier if self.node.size > 1 else lambda: None

    def heartbeat(self) -> int:
        """Return a count that grows while this rank makes progress, for the watchdog.

        It is the same on all ranks of a node that are at the same point of the program.
        """
        count = self.world.calls + self.node.calls
        if self.barrier is not None:
            return count + self.barrier.count
        # A rank alone on its node passes no barrier in a step: it exchanges messages only.
        # Otherwise they do not count: some ranks of a node may have none to exchange.
        return count + (self.cross_node.calls if self.cross_node and self.node.size == 1 else 0)

    def revoke(self) -> None:
        """Wake all ranks that wait for others: the wait raises (ULFM)."""
        if self.barrier is not None:
            self.barrier.leave()
        for group in self._groups:
            group.revoke()


def make_topology(
    launched: Group, launcher_rank: int | None = None, made: list[Group] | None = None
) -> Topology:
    """Return how some ranks are spread over nodes; collective.

    Parameters
    ----------
    launched : Group
        The ranks in the launcher's order.
    launcher_rank : int, optional
        The launcher's number of this rank; by default its rank in `launched`.
    made : list, optional
        Gets the groups as they are made: what to revoke if this raises.
    """
    launcher_rank = launched.rank if launcher_rank is None else launcher_rank
    if launched.size == 1:
        return Topology(launched, launcher_ranks=(launcher_rank,))
    groups = [] if made is None else made
    groups.append(launched)
    groups.append(exits := launched.duplicate())
    groups.append(node := launched.split_by_node())
    first = int(node.allgather_int(launched.rank)[0])  # identifies the node
    world = launched.split(0, first * launched.size + node.rank) or launched
    groups.append(world)
    _, sizes = np.unique(world.allgather_int(first), return_counts=True)
    launcher_ranks = world.allgather_int(launcher_rank)
    cross_node: Group | None = Group()
    results: Group | None = Group()
    if len(sizes) > 1:
        cross_node = world.split(node.rank if node.rank < sizes.min() else None, world.rank)
        groups += [cross_node] if cross_node else []
        results = cross_node.duplicate() if cross_node else None
        groups += [results] if results else []
    return Topology(
        world, node, cross_node, results, tuple(sizes.tolist()), tuple(launcher_ranks.tolist()),
        make_barrier(node), exits, tuple(groups),
    )  # fmt: skip


class _Process:
    """The topology that this process belongs to, once it is known.

    State of the module, as MPI's COMM_WORLD is that of the process: it is started once, and
    once it has shrunk no earlier topology can be used by anyone.
    """

    topology: Topology | None = None
    pid = 0
    has_shrunk = False


def connect() -> Topology:
    """Return the ranks of the run that this process was started for.

    MPI is started only if a launcher may have started this process. A process that this one has
    forked, or a worker of `multiprocessing`, is on its own whatever its parent is.

    Raises
    ------
    LaunchError
        A launcher started several ranks, but they cannot connect to each other.
    """
    if _is_worker():
        return Topology()
    if _Process.topology is not None:
        return _Process.topology
    launch = LaunchEnvironment.from_environ()
    started = launch.ranks_started
    if not launch.has_launcher and not mpi.is_running():
        return Topology()
    if mpi.is_launcher_refused(launch):
        raise LaunchError(_launcher_mismatch_message(started))
    try:
        launched = launched_group()
    except (ImportError, RuntimeError) as error:
        if started > 1:
            raise LaunchError(
                f"{started} ranks were started, but no MPI library can be loaded "
                f"({str(error).splitlines()[0]}). Install one: pip install mpich."
            ) from error
        return Topology()
    if launched.size == 1 and started > 1:
        raise LaunchError(_launcher_mismatch_message(started))
    if launch.ranks_requested is not None and launched.size != started:
        raise LaunchError(f"{started} ranks were requested, but {launched.size} were started.")
    _Process.topology, _Process.pid = make_topology(launched), os.getpid()
    return _Process.topology


def _is_worker() -> bool:
    """Return whether this process inherits the environment of a rank, but is none."""
    if _Process.topology is not None and _Process.pid not in (0, os.getpid()):
        return True  # forked: messages would be sent in the name of its parent
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


def connected_topology() -> Topology | None:
    """Return what `connect` has returned or `shrink` has made of it; None before."""
    return _Process.topology


def has_shrunk() -> bool:
    """Return whether `shrink` was called in this process."""
    return _Process.has_shrunk


def latest(topology: Topology) -> Topology:
    """Return what `shrink` has made of a topology, or the same if it was not called."""
    # It shrinks MPI's COMM_WORLD: of a process that has called it, no other is in use.
    return _Process.topology if _Process.has_shrunk and _Process.topology else topology


def shrink(topology: Topology) -> tuple[Topology, list[int]]:
    """Return the topology of the surviving ranks, and the ranks that failed; collective.

    For `ulfm_enabled` only. All survivors must call it: to make them, it wakes those that wait
    for others. Ranks are renumbered; arrays, reductions and watchdogs of the old topology are to
    be made again. If another rank fails meanwhile it raises what `is_rank_failure` knows: call
    it again with the same argument then.

    Returns
    -------
    Topology
    list of int
        Ranks of the old `topology`; empty if none has failed.
    """
    _Process.has_shrunk = True
    topology.revoke()
    made: list[Group] = []
    own = topology.launcher_ranks[topology.rank]
    try:
        survivors = make_topology(surviving_group(), own, made)
    except Exception:
        for group in made:  # a survivor may be ahead, and wait in one of them
            group.revoke()
        raise
    _Process.topology = survivors
    # Two survivors may come from different topologies, one being ahead of the other in
    # handling an earlier failure: only the launcher's numbers mean the same to both.
    alive = set(survivors.launcher_ranks)
    return survivors, [r for r, n in enumerate(topology.launcher_ranks) if n not in alive]


def _launcher_mismatch_message(started: int) -> str:
    return (
        f"{started} ranks were started, but each one sees only itself: the launcher belongs to "
        f"another MPI than Python's ({mpi.library_version()}). Use that MPI's own mpirun, or under "
        f"SLURM srun --mpi=pmi2 for MPICH and srun --mpi=pmix for Open MPI."
    )
