"""How good a network is on a split, and what it predicts for each row.

A split is cut into blocks of `BLOCK` rows, whatever the number of ranks; each
rank takes a run of them. A block's cost is one number, the numbers are added in
the order of the tree in `shards`, and right answers are counted in integers: the
result is the same for every number of ranks, and no row counts twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import Split
from distbp.network.network import Network
from distbp.parallel.shards import middle, rank_shards
from distbp.parallel.topology import Topology
from distbp.storage.scaling import Scaling

BLOCK = 1024  # rows


@dataclass(frozen=True)
class Score:
    """A network's quality on a split.

    Attributes
    ----------
    rows : int
    cost : float
        Mean over the rows, without penalties.
    accuracy : float
        Share of right answers; for regression R², the mean over the outputs of
        1 − Σ(y − a)² / Σ(y − ȳ)².
    """

    rows: int
    cost: float
    accuracy: float


def tree_sum(values: np.ndarray) -> np.ndarray:
    """Return the sum of the rows of `values` (n, k), in the order of the tree over [0, n)."""
    if len(values) == 1:
        return values[0]
    half = middle((0, len(values)))
    return tree_sum(values[:half]) + tree_sum(values[half:])


class Evaluator:
    """Runs a network over a split, block by block; the buffers are made once.

    Parameters
    ----------
    comm : Topology
    network : Network
    split : Split
    scaling : Scaling
        The model's.
    is_regression : bool
    """

    def __init__(
        self, comm: Topology, network: Network, split: Split, scaling: Scaling, is_regression: bool
    ) -> None:
        self.comm, self.network, self.split = comm, network, split
        self.is_regression = is_regression
        rows = min(BLOCK, len(split))
        n_classes = 0 if is_regression else network.sizes[-1]
        self._feed = BatchLoader(split, scaling, n_classes, rows, network.dtype)
        self._works = {rows: network.workspace(rows)}
        self.blocks = -(-len(split) // BLOCK)

    def run(
        self, look: Callable[[int, np.ndarray], None] | None = None
    ) -> tuple[int, int, np.ndarray]:
        """Compute this rank's blocks.

        Parameters
        ----------
        look : function of (first row, outputs), optional
            Called with the outputs (m, n_L) of each block.

        Returns
        -------
        first, stop : int
            This rank's run of blocks.
        sums : (stop - first, 1 + k) float64
            Cost, and right answers or squared errors of each of the k outputs.
        """
        first, stop = rank_shards(self.blocks, self.comm.size, self.comm.rank)
        width = 1 + (self.network.sizes[-1] if self.is_regression else 1)
        sums = np.zeros((stop - first, width))
        for block in range(first, stop):
            start = block * BLOCK
            numbers = self.split.numbers(start, min(start + BLOCK, len(self.split)))
            x, y, labels = self._feed.load(numbers)
            m = len(numbers)
            work = self._works.get(m) or self._works.setdefault(m, self.network.workspace(m))
            a = self.network.feedforward(x, work)
            sums[block - first, 0] = self.network.cost.fn(work.z[-1], a, y)
            if self.is_regression:
                sums[block - first, 1:] = np.square(a - y, dtype=np.float64).sum(axis=0)
            else:
                sums[block - first, 1] = np.count_nonzero(a.argmax(axis=1) == labels)
            if look is not None:
                look(start, a)
        return first, stop, sums

    def score(self) -> Score:
        """Return the network's quality, equal on all ranks for any number of them."""
        first, stop, sums = self.run()
        everything = np.zeros((self.blocks, sums.shape[1]))
        everything[first:stop] += sums  # not -0.0, which would depend on the number of ranks
        # Each number is one rank's; to it all others add 0, so MPI's order is no matter.
        self.comm.world.allreduce(everything)
        total = tree_sum(everything)
        rows = len(self.split)
        if self.is_regression:
            return Score(rows, float(total[0]) / rows, self._r2(total[1:]))
        return Score(rows, float(total[0]) / rows, int(total[1]) / rows)

    def _r2(self, squared_errors: np.ndarray) -> float:
        y = self.split.targets().astype(np.float64)
        y -= y[:1]  # the mean of equal numbers is not always that number
        variation = np.square(y - y.mean(axis=0)).sum(axis=0)
        # A target that does not vary is predicted perfectly or not at all.
        safe = np.where(variation > 0, variation, 1.0)
        r2 = np.where(variation > 0, 1.0 - squared_errors / safe, squared_errors == 0)
        return float(r2.mean())
