"""Cost and accuracy of a network on a split of a data set.

A split is divided into blocks of `EVALUATION_ROWS` rows, whatever the number of ranks, and
each rank evaluates consecutive blocks. The costs of the blocks are added in the order of
the tree in `parallel.shards`, and correct answers are integers: so a `Score` is the same on
any number of ranks, and counts each row once. Where the network comes from is not known
here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import Split
from distbp.network.network import Network, Workspace
from distbp.parallel.shards import middle, rank_shards
from distbp.parallel.topology import Topology
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.training.accuracy import count_correct

EVALUATION_ROWS = 1024  # per block


@dataclass(frozen=True)
class Score:
    """The quality of a network on a split.

    Attributes
    ----------
    rows : int
    cost : float
        Mean over the rows, without L1 and L2 penalties, in the user's units.
    accuracy : float
        Fraction of rows whose class is predicted; for multilabel, fraction of all labels that
        are; for a regression R², the mean over the outputs of 1 − Σ(y − a)² / Σ(y − ȳ)².
    """

    rows: int
    cost: float
    accuracy: float


def _tree_sum(values: np.ndarray) -> np.ndarray:
    """Return the sum of the rows of `values` (n, k), in the order of the tree over [0, n)."""
    if len(values) == 1:
        return values[0]
    half = middle((0, len(values)))
    return _tree_sum(values[:half]) + _tree_sum(values[half:])


class Evaluator:
    """Runs a network over a split, block by block, in buffers that are allocated once.

    Parameters
    ----------
    comm : Topology
    network : Network
    split : Split
    scaling : Scaling
        That of the model's training set.
    task : {'classification', 'multilabel', 'regression'}
    target : TargetScaling, optional
        That of the model's training set.

    Attributes
    ----------
    blocks : int
        Of the whole split.
    """

    def __init__(
        self,
        comm: Topology,
        network: Network,
        split: Split,
        scaling: Scaling,
        task: str,
        target: TargetScaling | None = None,
    ) -> None:
        self.comm, self.network, self.split = comm, network, split
        self._task, self._target = task, target
        rows = min(EVALUATION_ROWS, len(split))
        n_classes = network.sizes[-1] if task == "classification" else 0
        self._loader = BatchLoader(split, scaling, n_classes, rows, network.dtype, target)
        self._workspaces = {rows: network.workspace(rows)}
        self.blocks = -(-len(split) // EVALUATION_ROWS)

    def run(
        self, on_block: Callable[[int, np.ndarray], None] | None = None
    ) -> tuple[int, int, np.ndarray]:
        """Evaluate this rank's blocks.

        Parameters
        ----------
        on_block : function of (first row, outputs), optional
            Called with the outputs (m, n_L) of each block, which the next block overwrites; for
            scaled targets, they are scaled.

        Returns
        -------
        first, stop : int
            The range of this rank's blocks.
        sums : (stop - first, 1 + k) float64
            Sums over each block: the cost, in multiples of its `unit`, and the number of correct
            answers (k = 1) or the squared errors of the k outputs.
        """
        first, stop = rank_shards(self.blocks, self.comm.size, self.comm.rank)
        is_regression = self._task == "regression"
        width = 1 + (self.network.sizes[-1] if is_regression else 1)
        sums = np.zeros((stop - first, width))
        for block in range(first, stop):
            start = block * EVALUATION_ROWS
            rows = self.split.numbers(start, min(start + EVALUATION_ROWS, len(self.split)))
            x, y, labels = self._loader.load(rows)
            work = self._workspace(len(rows))
            a = self.network.feedforward(x, work)  # (m, n_L)
            sums[block - first, 0] = self.network.cost.fn(work.z[-1], a, y)
            if is_regression:
                sums[block - first, 1:] = np.square(a - y, dtype=np.float64).sum(axis=0)
            else:
                sums[block - first, 1] = count_correct(self._task, a, y, labels)
            if on_block is not None:
                on_block(start, a)
        return first, stop, sums

    def score(self) -> Score:
        """Return the network's score, the same on all ranks for any number of them; collective."""
        first, stop, sums = self.run()
        everything = np.zeros((self.blocks, sums.shape[1]))
        # Added to 0.0, -0.0 becomes 0.0, as it does on several ranks.
        everything[first:stop] += sums
        # Each element is non-zero on one rank only, so MPI's order of addition has no effect.
        self.comm.world.allreduce(everything)
        return self.score_of(everything, len(self.split), self.split.targets)

    def score_of(self, sums: np.ndarray, rows: int, targets: Callable[[], np.ndarray]) -> Score:
        """Return the score of `rows` rows, which may be more than those of the split.

        Parameters
        ----------
        sums : (blocks, 1 + k) array
            Those of `run` for all of their blocks.
        rows : int
        targets : function
            Returns their y, (rows, n_L), for a regression.
        """
        total = _tree_sum(sums)
        cost = float(total[0]) / rows * self.network.cost.unit
        if self._task == "regression":
            return Score(rows, cost, self._r2(total[1:], targets()))
        labels_per_row = self.network.sizes[-1] if self._task == "multilabel" else 1
        return Score(rows, cost, int(total[1]) / (rows * labels_per_row))

    def _workspace(self, rows: int) -> Workspace:
        if rows not in self._workspaces:  # that of the last block, which may be shorter
            self._workspaces[rows] = self.network.workspace(rows)
        return self._workspaces[rows]

    def _r2(self, squared_errors: np.ndarray, targets: np.ndarray) -> float:
        """Return R², the mean over the outputs; `squared_errors` (n_L,) are sums over the rows."""
        y = targets.astype(np.float64)
        # The mean of equal numbers is not always that number, but the mean of zeros is 0.
        y -= y[:1]
        if self._target is not None:  # as the errors are; R² has no unit
            y *= self._target.scale
        variation = np.square(y - y.mean(axis=0)).sum(axis=0)
        # R² is not defined for a constant target: 1 if it is predicted exactly, otherwise 0.
        safe = np.where(variation > 0, variation, 1.0)
        r2 = np.where(variation > 0, 1.0 - squared_errors / safe, squared_errors == 0)
        return float(r2.mean())
