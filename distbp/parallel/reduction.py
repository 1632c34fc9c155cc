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

The classes are handed what they need by `reduction_factory`: who adds what is in the
`ReductionPlan`, where it lies in `NodeBuffers`, the order of exchanges in an `ExchangeOrder`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from distbp.network.parameters import layer_runs
from distbp.network.update import UPDATE_CHUNK, ChunkUpdate, Update, is_finite
from distbp.parallel.exchange_order import (
    ExchangeOrder,
    completion_times,
    count_early,
    order_exchanges,
)
from distbp.parallel.internode import (
    BoundAddition,
    ExchangeQueue,
    Peers,
    add_all,
    bind_additions,
    make_exchanges,
)
from distbp.parallel.overlap import Overlap
from distbp.parallel.reduction_plan import ReductionPlan
from distbp.parallel.shards import Addition, Interval
from distbp.parallel.step_totals import STATS_WIDTH, StepTotals

ForwardAhead = Callable[[int], None]  # of a layer, from 1


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
        """Return the fraction of the exchange between nodes that computation has hidden."""
        return self.overlap.hidden if self.overlap is not None else None

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """Leave a step that fails in this block, its overlap included."""
        try:
            yield
        except BaseException:
            if self.overlap is not None:
                self.overlap.cancel()
            raise

    def _timed_wait(self, wait: Callable[..., None], *arguments: Any) -> None:
        """Call what waits for other ranks, and record how long it takes."""
        began = perf_counter()
        wait(*arguments)
        self.wait_s += perf_counter() - began

    @abstractmethod
    def reduce_and_update(
        self, rows: int, learning_rate: float, forward_ahead: ForwardAhead | None = None
    ) -> StepTotals:
        """Update θ by the sum over all shards of all ranks, of `rows` rows; collective.

        If the cost or a new number is not finite, nothing changes and the result says so.
        `forward_ahead`, for a step in the mode AHEAD, is called with each layer, from 1, once its
        θ in the other version is what this step makes of it.
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
        # Two versions, so that a step can be left out, or taken back.
        versions = [[np.empty_like(one) for one in update.store.versions[0]] for _ in range(2)]
        update.move(versions, (0, plan.size), update.squares)

    def reduce_and_update(
        self, rows: int, learning_rate: float, forward_ahead: ForwardAhead | None = None
    ) -> StepTotals:
        del forward_ahead  # which there is where exchanges overlap
        if not self.schedule:
            self._total.fill(0.0)
        for other in self._others:
            np.add(self._total, other, out=self._total)
        self.wait_s = 0.0
        self._timed_wait(self._allreduce, self._total)
        cost, correct, stop, save = self.stats[0].tolist()
        applied = (
            math.isfinite(cost)
            and is_finite(self._gradient)
            and self.update.apply(self._gradient, rows, learning_rate, self.chunk_update)
        )
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
        Makes the `Overlap` of a queue of exchanges, and their order.

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
        make_overlap: Callable[[ExchangeQueue, ExchangeOrder], Overlap] | None = None,
    ) -> None:
        super().__init__(plan, update, buffers.slots[slice(*plan.slots)])
        self.has_replica = plan.node_rank == 0
        self.buffers = buffers
        self._barrier, self._flags = barrier, buffers.flags
        self._flag = STATS_WIDTH + plan.node_rank
        update.move(buffers.versions, plan.owned_theta, buffers.squares)
        partials = [buffers.slots[slot, slice(*plan.owned)] for slot in plan.node_partials]
        total = np.empty(plan.owned[1] - plan.owned[0], update.network.dtype)
        exchanges, max_in_flight = [], 0
        if peers is not None:
            exchanges = make_exchanges(plan, peers, partials, total)
            max_in_flight = peers.max_in_flight
        if not exchanges and plan.node_sums:  # a node without shards has no sum
            total = partials[plan.node_sums[0]]
        queue = ExchangeQueue(exchanges, max_in_flight)
        order = self._order = self._make_order(len(plan.exchanges))
        self.overlap = make_overlap(queue, order) if make_overlap is not None else None
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
        self._owns_stats = plan.owns_statistics
        self._stats_copy = buffers.flags[:STATS_WIDTH], total[-STATS_WIDTH:]
        self._barrier()

    def _make_order(self, early: int) -> ExchangeOrder:
        layers = layer_runs(self.update.network.sizes)
        return order_exchanges(self.plan, self.update.chunks, layers, early)

    def order_ahead(self, compute_s: float, exchange_s: float) -> ExchangeOrder:
        """Return the order of exchanges that lets the next forward pass begin early.

        Its arguments are the seconds of a step's computation and exchange.
        """
        complete = completion_times(self.update.network.sizes, compute_s)
        return self._make_order(count_early(self.plan.exchanges, complete, exchange_s))

    def reduce_and_update(
        self, rows: int, learning_rate: float, forward_ahead: ForwardAhead | None = None
    ) -> StepTotals:
        update, self.wait_s, self._is_bad = self.update, 0.0, False
        self._timed_wait(self._barrier)  # for the partial sums of all
        sums_s = self.wait_s
        if self._owns_stats:
            add_all(self._stats_additions)
        if update.clip_norm is None:
            self.chunk_update.begin(rows, learning_rate)
            if self._queue is not None:
                self._exchange_and_update(self._queue, forward_ahead)
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
        exchange_s = self.wait_s - sums_s
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
            self.overlap.end(exchange_s)
        return StepTotals(cost, correct, stop, save, applied)

    def _exchange(self, queue: ExchangeQueue | Overlap, on_end: Callable[[int], None]) -> None:
        """Complete the exchanges; `on_end`, called after each, does not count as waiting."""
        waited_s = queue.finish(on_end)
        self.wait_s += waited_s  # not before the call, in which it may grow

    def _exchange_and_update(
        self, queue: ExchangeQueue | Overlap, forward_ahead: ForwardAhead | None
    ) -> None:
        """Complete the exchanges, and update the chunks of θ that are complete with each."""
        order = self._order if self.overlap is None else self.overlap.order
        left = list(enumerate(order.needed, 1)) if forward_ahead is not None else []

        def forward_layers(ended: int) -> None:
            while left and left[0][1] <= ended and forward_ahead and self.overlap:
                with self.overlap.in_thread():
                    self._timed_wait(self._barrier)  # for all slices of the layer
                    forward_ahead(left.pop(0)[0])

        def on_end(i: int) -> None:
            self._apply_chunks(order.chunks[i])
            forward_layers(i + 1)

        self._exchange(queue, on_end)
        if not order.numbers:  # a rank that owns nothing still meets the others at the barriers
            forward_layers(0)

    def _apply_chunks(self, chunks: Sequence[int]) -> None:
        for i in chunks:
            additions, gradient = self._chunks[i]
            if self._is_one_pass:
                add_all(additions)
            self._is_bad |= self.chunk_update.apply_chunk(i, gradient)


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
