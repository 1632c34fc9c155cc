"""From the gradients of shards to the gradient of the batch, on every rank.

A `Combiner` owns the vectors that backprop writes into, one per level of the sum
tree (see `shards`), adds them up as soon as a subtree is complete, and finishes
the sum over all ranks. Behind the gradient every vector has room for `EXTRA`
numbers more, which are summed along with it: the shard's cost and its correct
answers. So every rank knows those of the whole batch, exactly and for no message
more.

`Tree` is exact: the bits do not depend on the number of ranks. θ is cut into one
slice a rank; every rank sends its partial sums of a slice to the slice's owner,
who finishes the tree, and the finished slices go back to all. `Allreduce` is the
textbook: one sum over all ranks in an order that MPI chooses.
"""

from abc import ABC, abstractmethod

import numpy as np

from distbp.comm import Comm
from distbp.optimizers import BLOCK
from distbp.shards import additions, merges, rank_shards, subtrees

# What `Comm.alltoallv` takes: array, (counts, places), array, (counts, places).
Message = tuple[
    np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray]
]

EXTRA = 2  # numbers behind the gradient: cost, correct answers


class Combiner(ABC):
    """Sums the shards' vectors of one step after the other.

    Parameters
    ----------
    comm : Comm
    shards : int
        S, of a batch.
    size : int
        Of θ.
    dtype : numpy.dtype

    Attributes
    ----------
    plan : list of (shard, slot)
        This rank's shards, in order, each with the vector it is to be written to;
        `done` has to be called after each.
    slots : (slots, size + EXTRA) array
    partials : int
        How many vectors are left when all of the plan is done: slots[:partials].
    """

    is_exact: bool

    def __init__(self, comm: Comm, shards: int, size: int, dtype: np.dtype) -> None:
        self.comm = comm
        run = rank_shards(shards, comm.size, comm.rank)
        self.partials = len(list(subtrees(run, (0, shards))))
        self.plan: list[tuple[int, int]] = []
        counts: list[int] = []
        top = 0  # first free vector of the stack
        for node in subtrees(run, (0, shards)):
            for shard, count in zip(range(*node), merges(node), strict=True):
                self.plan.append((shard, top))
                counts.append(count)
                top += 1 - count
        depth = 1 + max((slot for _, slot in self.plan), default=0)
        self.slots = np.zeros((depth, size + EXTRA), dtype)
        self._additions = [
            [(self.slots[slot - i - 1], self.slots[slot - i]) for i in range(count)]
            for (_, slot), count in zip(self.plan, counts, strict=True)
        ]

    def done(self, i: int) -> None:
        """Add up what the i-th shard of the plan, just written, completes."""
        for left, right in self._additions[i]:
            np.add(left, right, out=left)

    @abstractmethod
    def finish(self) -> np.ndarray:
        """Return the sum over all shards of all ranks, (size + EXTRA,), on every rank.

        The caller may use it up; it is good until the next shard is written.
        """


class Tree(Combiner):
    """The exact sum, by messages."""

    is_exact = True

    def __init__(self, comm: Comm, shards: int, size: int, dtype: np.dtype) -> None:
        super().__init__(comm, shards, size, dtype)
        root = (0, shards)
        runs = [rank_shards(shards, comm.size, rank) for rank in range(comm.size)]
        nodes = [list(subtrees(run, root)) for run in runs]  # partial sums of each rank
        cuts = slice_cuts(size + EXTRA, comm.size)
        start, stop = cuts[comm.rank : comm.rank + 2]
        self._total = self.slots[0] if comm.size == 1 else np.empty(size + EXTRA, dtype)
        self._slice = self._total[start:stop]
        self._counts = np.diff(cuts)
        # This rank's slice of all partial sums, from left to right in the tree.
        self._received = np.empty((sum(map(len, nodes)), stop - start), dtype)
        self._above = [
            (self._received[left], self._received[right])
            for left, right in additions([node for of_rank in nodes for node in of_rank], root)
        ]
        self._messages = [
            self._message(k, np.array([len(of_rank) for of_rank in nodes]), cuts)
            for k in range(max(map(len, nodes)))
        ]

    def _message(self, k: int, partials: np.ndarray, cuts: np.ndarray) -> Message:
        """Return how everybody's k-th partial sum is exchanged, for those who have one."""
        width = len(self._slice)
        send_counts = self._counts if k < self.partials else np.zeros_like(self._counts)
        receive_counts = np.where(k < partials, width, 0)
        receive_places = (np.cumsum(partials) - partials + k) * width
        return (
            self.slots[min(k, len(self.slots) - 1)],
            (send_counts, cuts[:-1]),
            self._received,
            (receive_counts, np.minimum(receive_places, self._received.size)),
        )

    def finish(self) -> np.ndarray:
        if self.comm.size > 1:
            for message in self._messages:
                self.comm.alltoallv(*message)
            for left, right in self._above:
                np.add(left, right, out=left)
            np.copyto(self._slice, self._received[0])
            self.comm.allgatherv(self._total, self._counts)
        return self._total


class Allreduce(Combiner):
    """One flat Allreduce: the last bits depend on the number of ranks and on MPI."""

    is_exact = False

    def finish(self) -> np.ndarray:
        total = self.slots[0]
        if not self.plan:
            total.fill(0.0)
        for other in self.slots[1 : self.partials]:
            np.add(total, other, out=total)
        self.comm.allreduce(total)
        return total


COMBINERS: dict[str, type[Combiner]] = {"tree": Tree, "allreduce": Allreduce}


def slice_cuts(size: int, ranks: int) -> np.ndarray:
    """Return where a vector is cut into one slice a rank, (ranks + 1,), at whole blocks."""
    blocks = -(-size // BLOCK)
    cuts = [min(blocks * rank // ranks * BLOCK, size) for rank in range(ranks + 1)]
    return np.array(cuts)
