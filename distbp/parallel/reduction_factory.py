"""The reductions by name, with what they need: arrays that a node shares, barrier and peers.

`node` is the ordered sum, `tree` the same as if each rank were a node of its own, with messages
only, `allreduce` the textbook's. This is the only place where a reduction meets the communicator.
"""

from collections.abc import Callable, Sequence

import numpy as np

from distbp.errors import DistbpError
from distbp.network.parameters import THETA_BLOCK, layer_runs
from distbp.network.update import Update
from distbp.parallel.barrier import COUNTER_STRIDE
from distbp.parallel.exchange_order import ExchangeOrder
from distbp.parallel.internode import ExchangeQueue, Peers
from distbp.parallel.overlap import LayerProgress, Overlap
from distbp.parallel.reduction import (
    AllreduceReduction,
    GradientReduction,
    NodeBuffers,
    OrderedReduction,
)
from distbp.parallel.reduction_plan import ReductionPlan, plan_reduction
from distbp.parallel.shards import Interval
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.step_totals import STATS_WIDTH
from distbp.parallel.topology import Topology

_SLOT_ALIGNMENT = 16  # numbers; shared vectors start at a multiple of it: at a cache line

# Makes an array (shape, dtype) of which this rank will use the rows [start, stop) most.
_Allocate = Callable[[tuple[int, ...], np.dtype, Interval], np.ndarray]


class _NotSharedError(DistbpError):
    """The ranks of a node cannot share memory."""


def _allocate_buffers(plan: ReductionPlan, update: Update, allocate: _Allocate) -> NodeBuffers:
    """Return a node's buffers; collective if `allocate` is."""
    dtype, is_first = update.network.dtype, plan.node_rank == 0
    aligned = -(-plan.width // _SLOT_ALIGNMENT) * _SLOT_ALIGNMENT
    slots = allocate((plan.node_slots, aligned), dtype, plan.slots)[:, : plan.width]
    versions = [
        [
            allocate((plan.size,), dtype, plan.owned_theta)
            for _ in range(1 + len(update.store.state))
        ]
        for _ in range(2)
    ]
    blocks, flags = -(-plan.size // THETA_BLOCK), STATS_WIDTH + plan.node_size
    return NodeBuffers(
        slots,
        versions,
        squares=allocate((blocks,), np.dtype(np.float64), (0, blocks if is_first else 0)),
        flags=allocate((flags,), dtype, (0, flags if is_first else 0)),
    )


def _make_plan(
    comm: Topology, shards: int, update: Update, node_sizes: Sequence[int]
) -> ReductionPlan:
    theta, layers = update.network.theta, layer_runs(update.network.sizes)
    return plan_reduction(
        theta.size, STATS_WIDTH, shards, node_sizes, comm.rank, theta.itemsize, layers
    )


def _make_node(comm: Topology, shards: int, update: Update) -> tuple[GradientReduction, str | None]:
    """Return the ordered sum with one copy of everything per node."""
    reasons: list[str] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype, rows: Interval) -> np.ndarray:
        shared = SharedArray(comm, shape, dtype, rows)
        known = comm.world.allgather([shared.is_shared, shared.reason])
        reasons.extend(text for _, text in known if text)
        if not all(is_shared for is_shared, _ in known):
            raise _NotSharedError(reasons[0])
        return shared.array

    plan = _make_plan(comm, shards, update, comm.node_sizes)
    barrier = comm.node_barrier()
    try:
        buffers = _allocate_buffers(plan, update, allocate)
        make_overlap = _overlap_maker(plan, comm, allocate)
    except _NotSharedError as error:  # on all ranks
        return _make_tree(comm, shards, update)[0], (
            f"the ranks of a node cannot share memory ({error}): they send messages instead, as "
            f"with --combine tree. The result is the same, but slower."
        )
    warning = None
    if reasons:
        warning = (
            f"the memory that ranks share is not where it is fastest ({reasons[0]}), but in "
            f"the folder for temporary files. Give /dev/shm more room, or choose one by TMPDIR."
        )
    peers = None
    if comm.cross_node is not None and comm.cross_node_results is not None:
        peers = Peers(comm.cross_node, comm.cross_node_results)
    return OrderedReduction(plan, update, buffers, barrier, peers, make_overlap), warning


def _overlap_maker(
    plan: ReductionPlan, comm: Topology, allocate: _Allocate
) -> Callable[[ExchangeQueue, ExchangeOrder], Overlap] | None:
    """Return what makes the overlap of exchanges; None if none can begin early; collective."""
    if len(plan.depths) < 2:
        return None
    shape, is_first = (plan.node_size, COUNTER_STRIDE), plan.node_rank == 0
    counters = allocate(shape, np.dtype(np.int64), (0, plan.node_size if is_first else 0))
    progress = LayerProgress(counters, plan.node_rank)
    has_threads = all(comm.world.allgather(comm.world.allows_threads()))
    return lambda queue, order: Overlap(queue, order, progress, has_threads, comm.world.allgather)


def _make_tree(comm: Topology, shards: int, update: Update) -> tuple[GradientReduction, str | None]:
    """Return the ordered sum as if each rank were a node of its own: by messages only."""
    plan = _make_plan(comm, shards, update, [1] * comm.size)
    buffers = _allocate_buffers(plan, update, lambda shape, dtype, _: np.zeros(shape, dtype))
    peers = Peers(comm.world, comm.world)
    return OrderedReduction(plan, update, buffers, lambda: None, peers), None


def _make_allreduce(
    comm: Topology, shards: int, update: Update
) -> tuple[GradientReduction, str | None]:
    """Return the textbook's sum, of which every rank updates a copy of θ of its own."""
    plan = _make_plan(comm, shards, update, [1] * comm.size)
    slots = np.zeros((plan.node_slots, plan.width), update.network.dtype)
    return AllreduceReduction(plan, update, slots, comm.world.allreduce), None


# By the names of --combine; the text says why a reduction is slower than it could be.
REDUCTIONS: dict[str, Callable[[Topology, int, Update], tuple[GradientReduction, str | None]]] = {
    "node": _make_node,
    "tree": _make_tree,
    "allreduce": _make_allreduce,
}


def make_reduction(
    name: str, comm: Topology, shards: int, update: Update
) -> tuple[GradientReduction, str | None]:
    """Return a reduction, and a warning if it is slower than it could be; collective.

    Parameters
    ----------
    name : {'node', 'tree', 'allreduce'}
    comm : Topology
    shards : int
        S, of a batch.
    update : Update
    """
    return REDUCTIONS[name](comm, shards, update)
