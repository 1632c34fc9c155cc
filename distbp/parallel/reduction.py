"""From the gradients of shards to a new θ, the same on every rank.

A `GradientReduction` owns the vectors (slots) that backprop writes to. `accumulate` adds them
up as soon as a subtree of the sum is complete (see `shards`), which leaves a rank's partial
sums; `reduce_and_update` completes the sum over all ranks and updates θ. The statistics
behind the gradient (`step_totals`) are summed along with it.

    OrderedReduction    adds in tree order, so that the bits do not depend on the number of
                        ranks. θ, the optimizer state and the partial sums exist once per
                        node, in memory that its ranks share; each rank adds up and updates
                        its own slice, and nothing is sent. Over several nodes the ranks that
                        own the same slice exchange it (`internode`), layer by layer while the
                        gradient is still being computed where that is faster (`overlap`).
    AllreduceReduction  the textbook: one sum over all ranks, in an order that MPI chooses.

`REDUCTIONS` makes them by name: `node` is the ordered one, `tree` the same as if each rank
were a node of its own, with messages only, `allreduce` the textbook. The classes are handed
what they need by these factories, which alone know the communicator: who adds what is in the
`ReductionPlan`, where it lies in `NodeBuffers`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from distbp.errors import DistbpError
from distbp.network.parameters import THETA_BLOCK, layer_runs
from distbp.network.update import UPDATE_CHUNK, ChunkUpdate, Update, is_finite
from distbp.parallel.barrier import COUNTER_STRIDE
from distbp.parallel.internode import (
    BoundAddition,
    ExchangeQueue,
    Peers,
    add_all,
    bind_additions,
    make_exchanges,
)
from distbp.parallel.overlap import LayerProgress, Overlap
from distbp.parallel.reduction_plan import ReductionPlan, plan_reduction
from distbp.parallel.shards import Addition, Interval
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.step_totals import STATS_WIDTH, StepTotals
from distbp.parallel.topology import Topology

_SLOT_ALIGNMENT = 16  # numbers; shared vectors start at a multiple of it: at a cache line

# Makes an array (shape, dtype) of which this rank will use the rows [start, stop) most.
_Allocate = Callable[[tuple[int, ...], np.dtype, Interval], np.ndarray]


class _NotSharedError(DistbpError):
    """The ranks of a node cannot share memory."""


class GradientReduction(ABC):
    """Turns the shards' vectors of one step after the other into new parameters.

    Parameters
    ----------
    plan : ReductionPlan
    update : Update
    slots : (n, P + STATS_WIDTH) array
        This rank's; once its whole schedule is done, the first of them are its partial sums.

    Attributes
    ----------
    is_exact : bool
        Whether the bits of θ are the same on any number of ranks.
    schedule : list of (shard, slot)
        This rank's shards, in order, each with the slot to write its gradient to;
        `accumulate` has to be called after each.
    stats : list of (STATS_WIDTH,) views of the slots
        The statistics behind each gradient, indexed by COST, CORRECT, ….
    has_replica : bool
        Whether this rank represents a copy of θ: the first of those that share one.
    wait_s : float
        Seconds of the last step spent waiting for other ranks, or for their messages.
    chunk_update : ChunkUpdate
        `update`, unless an engine has code of its own for it.
    overlap : Overlap or None
        Where the exchange of some layers can begin before the whole gradient is computed: then
        each step calls `overlap.begin` before the first shard.
    """

    is_exact: bool
    wait_s = 0.0
    overlap: Overlap | None = None

    def __init__(self, plan: ReductionPlan, update: Update, slots: np.ndarray) -> None:
        self.plan, self.update, self.slots = plan, update, slots
        self.chunk_update: ChunkUpdate = update
        self.has_replica = True
        self.schedule = [(task.shard, task.slot) for task in plan.schedule]
        self.stats = [slot[plan.size :] for slot in slots]
        self._additions = self._bind_schedule((0, plan.width))
        runs = [*layer_runs(update.network.sizes), (plan.size, plan.width)]
        self._part_additions = [self._bind_schedule(run) for run in runs]

    def _bind_schedule(self, part: Interval) -> list[list[BoundAddition]]:
        """Return, for each shard of the schedule, the additions of a part of the slots."""
        rows = [slot[slice(*part)] for slot in self.slots]
        return [
            [(rows[top - 1], rows[top], rows[top - 1]) for top in range(slot, slot - count, -1)]
            for _, slot, count in self.plan.schedule
        ]

    def accumulate(self, i: int) -> None:
        """Add up what the i-th shard of the schedule, just written, completes."""
        add_all(self._additions[i])

    def accumulate_layer(self, i: int, l: int) -> None:
        """Do so for layer `l` (from 0) only; -1 stands for the statistics."""
        add_all(self._part_additions[l][i])

    @property
    def hidden(self) -> float | None:
        """Return the fraction of the exchange between nodes that was hidden behind backprop."""
        return self.overlap.hidden if self.overlap is not None else None

    def _timed_wait(self, wait: Callable[..., None], *arguments: Any) -> None:
        """Call what waits for other ranks, and record how long it takes."""
        began = perf_counter()
        wait(*arguments)
        self.wait_s += perf_counter() - began

    @abstractmethod
    def reduce_and_update(self, rows: int, learning_rate: float) -> StepTotals:
        """Update θ by the sum over all shards of all ranks, of `rows` rows; collective.

        If the cost or a new number is not finite, nothing changes and the result says so.
        """


class AllreduceReduction(GradientReduction):
    """One flat sum by MPI: the last bits depend on the number of ranks and on MPI.

    Parameters
    ----------
    plan, update, slots
    allreduce : function
        Replaces an array by its sum over all ranks.
    """

    is_exact = False

    def __init__(
        self,
        plan: ReductionPlan,
        update: Update,
        slots: np.ndarray,
        allreduce: Callable[[np.ndarray], None],
    ) -> None:
        super().__init__(plan, update, slots)
        self._allreduce, self._total = allreduce, slots[0]
        self._gradient, self._others = slots[0][: plan.size], list(slots[1 : len(plan.partials)])

    def reduce_and_update(self, rows: int, learning_rate: float) -> StepTotals:
        if not self.schedule:
            self._total.fill(0.0)
        for other in self._others:
            np.add(self._total, other, out=self._total)
        self.wait_s = 0.0
        self._timed_wait(self._allreduce, self._total)
        cost, correct, stop, save = self.stats[0].tolist()
        applied = math.isfinite(cost) and is_finite(self._gradient)
        if applied:
            self.update.apply(self._gradient, rows, learning_rate, self.chunk_update)
        return StepTotals(cost, correct, stop, save, applied)


class NodeBuffers(NamedTuple):
    """The arrays that the ranks of a node share.

    Attributes
    ----------
    slots : (node's slots, P + STATS_WIDTH) array
    versions : two lists [θ, *state] of (P,) arrays
    squares : (blocks of θ,) float64 array
        Squared norms of the gradient's blocks.
    flags : (STATS_WIDTH + node's ranks,) array
        The summed statistics, and for each rank whether its slice is not finite.
    """

    slots: np.ndarray
    versions: list[list[np.ndarray]]
    squares: np.ndarray
    flags: np.ndarray


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


class OrderedReduction(GradientReduction):
    """The sum in tree order: slice by slice in a node's memory, then between nodes.

    Parameters
    ----------
    plan : ReductionPlan
    update : Update
        Its parameters are moved to the buffers.
    buffers : NodeBuffers
    barrier : function
        Returns when all ranks of the node have called it.
    peers : Peers, optional
        The owners of this slice on all nodes, where the plan has exchanges.
    make_overlap : function, optional
        Makes the `Overlap` of a queue of exchanges.

    Attributes
    ----------
    buffers : NodeBuffers
    """

    is_exact = True

    def __init__(
        self,
        plan: ReductionPlan,
        update: Update,
        buffers: NodeBuffers,
        barrier: Callable[[], None],
        peers: Peers | None,
        make_overlap: Callable[[ExchangeQueue], Overlap] | None = None,
    ) -> None:
        super().__init__(plan, update, buffers.slots[slice(*plan.slots)])
        self.has_replica = plan.node_rank == 0
        self.buffers = buffers
        self._barrier, self._flags = barrier, buffers.flags
        self._flag = STATS_WIDTH + plan.node_rank
        update.move(buffers.versions, plan.owned_theta, buffers.squares)
        partials = [buffers.slots[slot, slice(*plan.owned)] for slot in plan.node_partials]
        total = np.empty(plan.owned[1] - plan.owned[0], update.network.dtype)
        exchanges = make_exchanges(plan, peers, partials, total) if peers is not None else []
        if not exchanges and plan.node_sums:  # a node without shards has no sum
            total = partials[plan.node_sums[0]]
        queue = ExchangeQueue(exchanges)
        self.overlap = make_overlap(queue) if make_overlap is not None else None
        self._queue = self.overlap or (queue if exchanges else None)
        # Without a norm or a message in between, additions and update of a chunk follow each
        # other: its sums stay in the cache, and no other rank's memory is written.
        self._is_one_pass = not exchanges and update.clip_norm is None
        self._gradient = total[: plan.owned_theta[1] - plan.owned_theta[0]]
        additions = () if exchanges else plan.node_additions  # else the exchanges make them
        self._chunks = list(_bind_chunks(plan, additions, partials, self._gradient, update.chunks,
                                         self._is_one_pass))  # fmt: skip
        stats = [one[len(self._gradient) :] for one in partials]
        self._stats_additions = list(bind_additions(additions, stats))
        self._chunks_of = _chunks_by_exchange(plan, update.chunks)
        self._owns_stats = plan.owns_statistics
        self._stats_copy = buffers.flags[:STATS_WIDTH], total[-STATS_WIDTH:]
        self._barrier()

    def reduce_and_update(self, rows: int, learning_rate: float) -> StepTotals:
        update, self.wait_s, self._is_bad = self.update, 0.0, False
        self._timed_wait(self._barrier)  # for the partial sums of all
        if self._owns_stats:
            add_all(self._stats_additions)
        if update.clip_norm is None:
            self.chunk_update.begin(rows, learning_rate)
            if self._queue is not None:
                # The chunks of θ whose gradient is complete with an exchange.
                self._exchange(self._queue, lambda i: self._apply_chunks(self._chunks_of[i]))
        else:
            for additions, _ in self._chunks:
                add_all(additions)
            if self._queue is not None:
                self._exchange(self._queue, lambda _: None)
            self.chunk_update.measure_squares(self._gradient)
            self._timed_wait(self._barrier)  # for the squares of all slices
            self.chunk_update.begin(rows, learning_rate)
        if self._queue is None or update.clip_norm is not None:
            self._apply_chunks(range(len(self._chunks)))
        self._flags[self._flag] = self._is_bad
        if self._owns_stats:
            np.copyto(*self._stats_copy)
        self._timed_wait(self._barrier)  # for all slices of the new θ
        # No rank can write its next flags before all have read these: there is a barrier first.
        cost, correct, stop, save, *are_bad = self._flags.tolist()
        applied = math.isfinite(cost) and not any(are_bad)
        if applied:
            update.store.commit()
        if self.overlap is not None:
            self.overlap.end()
        return StepTotals(cost, correct, stop, save, applied)

    def _exchange(self, queue: ExchangeQueue | Overlap, on_end: Callable[[int], None]) -> None:
        """Complete the exchanges; `on_end`, called after each, does not count as waiting."""
        self.wait_s += queue.finish(on_end)

    def _apply_chunks(self, chunks: Sequence[int]) -> None:
        for i in chunks:
            additions, gradient = self._chunks[i]
            if self._is_one_pass:
                add_all(additions)
            self._is_bad |= self.chunk_update.apply_chunk(i, gradient)


def _chunks_by_exchange(plan: ReductionPlan, chunks: Sequence[slice]) -> list[list[int]]:
    """Return, for each exchange, which chunks of θ no later exchange has a part of."""
    found: list[list[int]] = [[] for _ in plan.exchanges]
    first = plan.owned[0]
    for i, chunk in enumerate(chunks if plan.exchanges else ()):
        last = max(
            j for j, one in enumerate(plan.exchanges)
            if first + one.part[0] < chunk.stop and first + one.part[1] > chunk.start
        )  # fmt: skip
        found[last].append(i)
    return found


def _bind_chunks(
    plan: ReductionPlan,
    node_additions: Sequence[Addition],
    partials: Sequence[np.ndarray],
    gradient: np.ndarray,
    chunks: Sequence[slice],
    is_one_pass: bool,
) -> Iterator[tuple[list[BoundAddition], np.ndarray]]:
    """Yield, for each chunk of θ, the node's additions and the array to update it by.

    In one pass the sums go to scratch buffers of a chunk's size, else they are made in the
    slots, where the exchanges read them.
    """
    buffer_of = plan.scratch if is_one_pass else ()
    count, width = max(buffer_of, default=-1) + 1, min(UPDATE_CHUNK, len(gradient))
    scratch = np.empty((count, width), gradient.dtype)
    for chunk in chunks:
        cut = slice(chunk.start - plan.owned[0], chunk.stop - plan.owned[0])
        results = [scratch[i][: cut.stop - cut.start] for i in buffer_of]
        additions = bind_additions(node_additions, [one[cut] for one in partials], results)
        yield list(additions), results[-1] if results else gradient[cut]


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
) -> Callable[[ExchangeQueue], Overlap] | None:
    """Return what makes the overlap of exchanges; None if none can begin early; collective."""
    if len(plan.depths) < 2:
        return None
    shape, is_first = (plan.node_size, COUNTER_STRIDE), plan.node_rank == 0
    counters = allocate(shape, np.dtype(np.int64), (0, plan.node_size if is_first else 0))
    progress = LayerProgress(counters, plan.node_rank)
    has_threads = all(comm.world.allgather(comm.world.allows_threads()))
    return lambda queue: Overlap(queue, progress, has_threads, comm.world.allgather)


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
