"""From the gradients of shards to a new θ, the same on every rank.

A `GradientReduction` owns the vectors that backprop writes into and adds them up as soon as
a subtree of the sum is complete (see `shards`): what is left are a rank's partial
sums. `reduce_and_update` completes the sum over all ranks and makes the update. Behind the
gradient every vector has room for `STATS_WIDTH` numbers more, which are summed along with
it: the shard's cost and its correct answers, and what a rank requests. So every rank
knows those of all (`StepTotals`), exactly and for no message more.

    SharedMemoryReduction  θ and the optimizer's state exist once a node, in memory that its
               ranks share, and so do their partial sums. Each rank has a slice of θ, which it
               adds up in tree order and updates: nothing is sent. Over several nodes
               the ranks that have the same slice exchange it. Exact: the bits do not
               depend on the number of ranks.
    MessageReduction  the same as if each rank were a node of its own: messages only. Exact.
    AllreduceReduction  the textbook: one sum over all ranks, in an order that MPI chooses
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from distbp.errors import DistbpError
from distbp.network.parameters import THETA_BLOCK
from distbp.network.update import UPDATE_CHUNK, Update, is_finite
from distbp.parallel.comm import Comm, Group
from distbp.parallel.internode import Additions, add, exchange, make_exchanges, planned, slice_cuts
from distbp.parallel.shards import (
    Interval,
    additions,
    buffers,
    rank_shards,
    stack_depth,
    stack_plan,
    subtrees,
)

STATS_WIDTH = 4  # numbers behind the gradient: those of `StepTotals`
SLOT_ALIGNMENT = 16  # vectors that are shared start at multiples of this: at a line of the cache

MIN_SLICE_BLOCKS = 8  # of a slice: smaller ones take longer to pass on than to add up

# Makes an array of some shape and dtype, of which this rank has the rows [start, stop).
Memory = Callable[[tuple[int, ...], np.dtype, Interval], np.ndarray]


class StepTotals(NamedTuple):
    """What all ranks know after a step.

    Attributes
    ----------
    cost, correct : float
        Summed over the batch; the cost is no finite number if some number of the new θ and
        state would be none.
    stop, save : float
        How many ranks wish to stop, and to save.
    """

    cost: float
    correct: float
    stop: float
    save: float


class NotSharedError(DistbpError):
    """The ranks of a node cannot share memory."""


class GradientReduction(ABC):
    """Turns the shards' vectors of one step after the other into new parameters.

    Parameters
    ----------
    comm : Comm
    shards : int
        S, of a batch.
    update : Update

    Attributes
    ----------
    plan : list of (shard, slot)
        This rank's shards, in order, each with the vector it is to be written to;
        `done` has to be called after each.
    slots : (slots, P + STATS_WIDTH) array
        When all of the plan is done, the first of them are the partial sums.
    has_replica : bool
        Whether this rank answers for a copy of θ: of all that share one, the first does.
    waited : float
        Seconds of the last `finish` that went to waiting for other ranks, or their messages.
    """

    is_exact: bool
    waited = 0.0

    def __init__(self, comm: Comm, shards: int, update: Update) -> None:
        self.comm, self.update, self.has_replica = comm, update, True
        self.size, self.dtype = update.network.theta.size, update.network.dtype
        self.root = (0, shards)
        self.runs = [rank_shards(shards, comm.size, rank) for rank in range(comm.size)]
        self.trees = [list(subtrees(run, self.root)) for run in self.runs]  # partial sums
        self._stack = stack_plan(self.trees[comm.rank])
        self.plan = [(shard, slot) for shard, slot, _ in self._stack]

    def _use(self, slots: np.ndarray) -> None:
        self.slots = slots
        self._additions: list[Additions] = [
            [(slots[slot - i - 1], slots[slot - i], slots[slot - i - 1]) for i in range(count)]
            for _, slot, count in self._stack
        ]

    def accumulate(self, i: int) -> None:
        """Add up what the i-th shard of the plan, just written, completes."""
        add(self._additions[i])

    def _timed_wait(self, others: Callable[..., None], *what: Any) -> None:
        """Call what waits for other ranks, and note how long it takes."""
        began = perf_counter()
        others(*what)
        self.waited += perf_counter() - began

    @abstractmethod
    def reduce_and_update(self, rows: int, learning_rate: float) -> StepTotals:
        """Make a step by the sum over all shards of all ranks, of `rows` rows; collective.

        If the cost in the result is not a finite number, nothing is changed.
        """


class AllreduceReduction(GradientReduction):
    """One flat AllreduceReduction: the last bits depend on the number of ranks and on MPI."""

    is_exact = False

    def __init__(self, comm: Comm, shards: int, update: Update) -> None:
        super().__init__(comm, shards, update)
        shape = stack_depth(self.trees[comm.rank]), self.size + STATS_WIDTH
        self._use(np.zeros(shape, self.dtype))

    def reduce_and_update(self, rows: int, learning_rate: float) -> StepTotals:
        total = self.slots[0]
        if not self.plan:
            total.fill(0.0)
        for other in self.slots[1 : len(self.trees[self.comm.rank])]:
            np.add(total, other, out=total)
        self.waited = 0.0
        self._timed_wait(self.comm.allreduce, total)
        sums = StepTotals(*total[-STATS_WIDTH:].tolist())
        if not math.isfinite(sums.cost) or not is_finite(total[:-STATS_WIDTH]):
            return sums._replace(cost=math.nan)
        self.update.apply(total[:-STATS_WIDTH], rows, learning_rate)
        return sums


class OrderedReduction(GradientReduction):
    """The sum in tree order: slice by slice in a node's memory, then between nodes.

    Parameters
    ----------
    comm, shards, update
    nodes : list of ranges of ranks
        Those that have the same memory.
    lane : Group, optional
        The ranks at the same place of all nodes, if all nodes have this place.
    memory : Memory
        Of the node.
    wait : function
        Returns when all ranks of the node have called it.
    """

    is_exact = True

    def __init__(
        self,
        comm: Comm,
        shards: int,
        update: Update,
        nodes: list[range],
        lane: Group | None,
        memory: Memory,
        wait: Callable[[], None],
    ) -> None:
        super().__init__(comm, shards, update)
        self._wait = wait
        self.has_replica = any(comm.rank == ranks.start for ranks in nodes)
        node = next(i for i, ranks in enumerate(nodes) if comm.rank in ranks)
        here, place = nodes[node], comm.rank - nodes[node].start
        length = self.size + STATS_WIDTH

        # The vectors of all ranks here, and among them their partial sums, in order.
        depths = [stack_depth(self.trees[rank]) for rank in here]
        firsts = [sum(depths[:i]) for i in range(len(here) + 1)]
        own = firsts[place], firsts[place + 1]
        slots = memory(
            (firsts[-1], -(-length // SLOT_ALIGNMENT) * SLOT_ALIGNMENT), self.dtype, own
        )[:, :length]
        self._use(slots[slice(*own)])
        partials = [
            (tree, slots[first + i])
            for first, rank in zip(firsts, here, strict=False)
            for i, tree in enumerate(self.trees[rank])
        ]

        # This rank's slice of them, and the additions that the node can make.
        lanes = count_slices(length, shards, min(map(len, nodes)))
        cuts = slice_cuts(length, lanes) + [length] * (len(here) - lanes)
        start, stop = cuts[place : place + 2]
        names = [tree for tree, _ in partials]
        slices = [vector[start:stop] for _, vector in partials]
        node_trees = [
            list(subtrees((self.runs[ranks[0]][0], self.runs[ranks[-1]][1]), self.root))
            for ranks in nodes
        ]
        steps = [step for tree in node_trees[node] for step in additions(names, tree)]
        sums = [
            s for name, s in zip(names, slices, strict=True) if is_first(name, node_trees[node])
        ]
        self._total = (sums or slots)[0][: stop - start]
        self._exchanges = []
        if len(nodes) > 1 and lane is not None and start < stop:
            self._total = np.empty(stop - start, self.dtype)
            self._exchanges = make_exchanges(lane, node_trees, self.root, sums, self._total)

        # θ and state, in two versions: a step is whole, or it has not happened.
        part = min(start, self.size), min(stop, self.size)
        arrays = range(1 + len(update.state))
        versions = [[memory((self.size,), self.dtype, part) for _ in arrays] for _ in range(2)]
        blocks = -(-self.size // THETA_BLOCK)
        squares = memory((blocks,), np.dtype(np.float64), (0, 0 if place else blocks))
        # What all get to know: the sums, and for each rank whether its slice is bad.
        told = STATS_WIDTH + len(here)
        self._shared_flags = memory((told,), self.dtype, (0, 0 if place else told))
        self._place = STATS_WIDTH + place
        self._has_extra = start < stop == length
        self._sums = self._shared_flags[:STATS_WIDTH], self._total[-STATS_WIDTH:]
        update.move(versions, part, squares)
        self._gradient = self._total[: part[1] - start]

        # Additions and gradient for each piece that is updated in one go, and the rest. If they
        # directly follow each other, sums stay in the cache, and nobody else's memory is written.
        self._is_one_pass = not self._exchanges and update.clip_norm is None
        numbers = buffers(steps) if self._is_one_pass else []
        spare = np.empty(
            (max(numbers, default=-1) + 1, min(UPDATE_CHUNK, len(self._gradient))), self.dtype
        )
        self._pieces = []
        for piece in update.pieces:
            cut = slice(piece.start - start, piece.stop - start)
            parts = [one[cut] for one in slices]
            outs = [spare[number][: cut.stop - cut.start] for number in numbers]
            result = outs[-1] if outs else self._gradient[cut]
            self._pieces.append((list(planned(steps, parts, outs)), result))
        tails = [one[part[1] - start :] for one in slices]
        self._rest = list(planned(steps, tails, []))
        self._wait()

    def reduce_and_update(self, rows: int, learning_rate: float) -> StepTotals:
        update, self.waited = self.update, 0.0
        self._timed_wait(self._wait)  # for the partial sums of all
        if self._has_extra:
            add(self._rest)
        if not self._is_one_pass:
            for terms, _ in self._pieces:
                add(terms)
            self._timed_wait(exchange, self._exchanges)
            if update.clip_norm is not None:
                update.measure(self._gradient)
                self._timed_wait(self._wait)  # for the squares of all slices
        update.begin(rows, learning_rate)
        is_bad = False
        for i, (terms, gradient) in enumerate(self._pieces):
            if self._is_one_pass:
                add(terms)
            is_bad |= update.apply_piece(i, gradient)
        self._shared_flags[self._place] = is_bad
        if self._has_extra:
            np.copyto(*self._sums)
        self._timed_wait(self._wait)  # for all slices of the new θ
        told = self._shared_flags.tolist()
        sums = StepTotals(*told[:STATS_WIDTH])
        if any(told[STATS_WIDTH:]) or not math.isfinite(sums.cost):
            return sums._replace(cost=math.nan)
        update.commit()
        return sums


class SharedMemoryReduction(OrderedReduction):
    """The exact sum, with one copy of everything a node.

    Attributes
    ----------
    trouble : str
        Why the memory is not in the best place.

    Raises
    ------
    NotSharedError
        On all ranks, if those of one node cannot share memory.
    """

    def __init__(self, comm: Comm, shards: int, update: Update) -> None:
        ends = np.cumsum(comm.node_sizes).tolist()
        nodes = [range(end - n, end) for end, n in zip(ends, comm.node_sizes, strict=True)]

        def memory(shape: tuple[int, ...], dtype: np.dtype, rows: Interval) -> np.ndarray:
            shared = comm.shared_array(shape, dtype, rows)
            known = comm.allgather([shared.is_shared, shared.trouble])
            troubles.extend(text for _, text in known if text)
            if not all(is_shared for is_shared, _ in known):
                raise NotSharedError(troubles[0])
            return shared.array

        troubles: list[str] = []
        super().__init__(
            comm, shards, update, nodes, comm.cross_node_comm(), memory, comm.node_barrier()
        )
        self.trouble = troubles[0] if troubles else ""


class MessageReduction(OrderedReduction):
    """The exact sum, by messages between all ranks."""

    def __init__(self, comm: Comm, shards: int, update: Update) -> None:
        nodes = [range(rank, rank + 1) for rank in range(comm.size)]

        def memory(shape: tuple[int, ...], dtype: np.dtype, rows: Interval) -> np.ndarray:
            return np.zeros(shape, dtype)

        super().__init__(comm, shards, update, nodes, comm, memory, lambda: None)


REDUCTIONS: dict[str, type[GradientReduction]] = {
    "node": SharedMemoryReduction,
    "tree": MessageReduction,
    "allreduce": AllreduceReduction,
}


def make_reduction(
    name: str, comm: Comm, shards: int, update: Update
) -> tuple[GradientReduction, str | None]:
    """Return a reduction, and what is to be said if it is not as good as it could be."""
    try:
        reduction = REDUCTIONS[name](comm, shards, update)
    except NotSharedError as trouble:
        return MessageReduction(comm, shards, update), (
            f"the ranks of a node cannot share memory ({trouble}): they send messages instead, as "
            f"with --combine tree. The result is the same, but slower."
        )
    if isinstance(reduction, SharedMemoryReduction) and reduction.trouble:
        return reduction, (
            f"the memory that ranks share is not where it is fastest ({reduction.trouble}), but in "
            f"the folder for temporary files. Give /dev/shm more room, or choose one by TMPDIR."
        )
    return reduction, None


def count_slices(size: int, shards: int, ranks: int) -> int:
    """Return how many ranks of a node have a slice of a vector.

    All, but for small vectors none that has no gradient: to fetch it would take longer
    than to add it up.
    """
    return max(1, min(ranks, max(shards, -(-size // THETA_BLOCK) // MIN_SLICE_BLOCKS)))


def is_first(tree: Interval, trees: Sequence[Interval]) -> bool:
    """Return whether a subtree is the leftmost part of one of `trees`."""
    return any(tree[0] == other[0] for other in trees)
