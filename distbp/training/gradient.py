"""The gradients of a mini-batch's shards, each rank computing its own.

`BatchGradient` runs backprop on a rank's shards, into the slots of a `GradientReduction`,
and fills in the statistics behind each gradient: the shard's cost, its number of correct
answers, and what this rank requests. How the slots are then summed it does not know.
"""

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet, Split
from distbp.network.dropout import Dropout
from distbp.network.network import Network, Workspace
from distbp.network.parameters import layer_views
from distbp.parallel.reduction import GradientReduction
from distbp.parallel.shards import shard_rows
from distbp.parallel.step_totals import CORRECT, COST, SAVE_REQUESTS, STOP_REQUESTS
from distbp.training.accuracy import count_correct


class BatchGradient:
    """Computes the shards of one batch after the other; allocates only when it is made.

    Parameters
    ----------
    network : Network
    reduction : GradientReduction
    data : DataSet
    split : Split
        The training rows of it.
    batch_size, shards : int
    dropout, label_smoothing : float
    weights : (n,) float64 array, optional
        Of the rows of train, with mean 1 over those trained on.

    Attributes
    ----------
    loader : BatchLoader
    """

    def __init__(
        self,
        network: Network,
        reduction: GradientReduction,
        data: DataSet,
        split: Split,
        batch_size: int,
        shards: int,
        dropout: float,
        label_smoothing: float = 0.0,
        weights: np.ndarray | None = None,
    ) -> None:
        self.network, self.reduction = network, reduction
        self.task, self.shards = data.task, shards
        # A last, short batch has shards of other sizes.
        batches = {min(batch_size, len(split)), len(split) % batch_size}
        runs = [shard_rows(b, shards, shard) for b in batches for shard, _ in reduction.schedule]
        self._works = {
            rows: self._workspace(rows, dropout) for rows in {hi - lo for lo, hi in runs} - {0}
        }
        rows = max(self._works, default=0)
        self.loader = BatchLoader(
            split,
            data.scaling,
            data.n_classes,
            rows,
            network.dtype,
            data.target,
            label_smoothing,
            weights,
        )
        size = network.theta.size
        self._out = [layer_views(slot[:size], network.sizes) for slot in reduction.slots]

    def _workspace(self, rows: int, dropout: float) -> tuple[Workspace, Dropout | None]:
        work = self.network.workspace(rows)
        return work, Dropout(dropout, self.network.seed, work) if dropout else None

    def compute(
        self, batch: np.ndarray, epoch: int, step: int, requests: tuple[float, float] = (0, 0)
    ) -> None:
        """Write the gradients of this rank's shards of a batch to the reduction's slots.

        Parameters
        ----------
        batch : (m,) int64 array
            Row numbers, the same on all ranks.
        epoch, step : int
            Position of the batch, which dropout is a function of.
        requests : (stop, save)
            This rank's, 1 or 0 each.
        """
        for i, (shard, slot) in enumerate(self.reduction.schedule):
            start, stop = shard_rows(len(batch), self.shards, shard)
            if start == stop:  # a short last batch may leave shards empty
                self.reduction.slots[slot].fill(0.0)
            else:
                self._backprop(slot, batch[start:stop], (epoch, step, shard))
            stats = self.reduction.stats[slot]
            # They are sums over ranks: each rank counts once, with its first shard.
            stats[STOP_REQUESTS], stats[SAVE_REQUESTS] = requests if i == 0 else (0, 0)
            self.reduction.accumulate(i)

    def find_nan(self, batch: np.ndarray, epoch: int, step: int) -> str:
        """Return where in this rank's shards of a batch the first number is not finite.

        Recomputes them one by one; the result is empty if all numbers are finite.
        """
        for shard, slot in self.reduction.schedule:
            start, stop = shard_rows(len(batch), self.shards, shard)
            if start < stop:
                numbers = batch[start:stop]
                self._backprop(slot, numbers, (epoch, step, shard))
                where = self._first_nan(slot, self.loader.split.file_rows(numbers))
                if where:
                    return f"{where}, in shard {shard} of {self.shards}"
        return ""

    def _first_nan(self, slot: int, numbers: np.ndarray) -> str:
        """Return the layer of the last backprop, and the rows, unless only their sum is bad."""
        work, _ = self._works[len(numbers)]
        for l, (z, a) in enumerate(zip(work.z, work.a, strict=True), 1):
            is_bad = ~(np.isfinite(z).all(axis=1) & np.isfinite(a).all(axis=1))
            if is_bad.any():
                return f"layer {l}, {_describe_rows(numbers[is_bad])}"
        for l, (b, w) in enumerate(zip(*self._out[slot], strict=True), 1):
            if not (np.isfinite(b).all() and np.isfinite(w).all()):
                return f"the gradient of layer {l}, {_describe_rows(numbers)}"
        is_good = np.isfinite(self.reduction.stats[slot]).all()
        return "" if is_good else f"the cost, {_describe_rows(numbers)}"

    def _backprop(self, slot: int, numbers: np.ndarray, position: tuple[int, int, int]) -> None:
        """Write a shard's gradient, cost and number of correct answers to its slot."""
        x, y, labels = self.loader.load(numbers)
        work, dropout = self._works[len(numbers)]
        if dropout:
            dropout.draw(*position)
        weights = self.loader.load_weights(numbers)
        self.network.backprop(x, y, self._out[slot], work, weights)
        stats, a, cost = self.reduction.stats[slot], work.a[-1], self.network.cost
        if weights is None:
            stats[COST] = cost.fn(work.z[-1], a, y, work.spare[-1])
        else:
            stats[COST] = cost.weighted_fn(work.z[-1], a, y, weights, work.spare[-1])
        if self.task != "regression":
            stats[CORRECT] = count_correct(self.task, a, y, labels, work.spare[-1])


def _describe_rows(numbers: np.ndarray) -> str:
    """Return the first of some row numbers, as text."""
    shown = ", ".join(map(str, np.sort(numbers)[:3]))
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{', …' if len(numbers) > 3 else ''}"
