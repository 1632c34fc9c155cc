"""The gradients of a mini-batch's shards, each rank computing its own.

`BatchGradient` runs backprop on a rank's shards, into the slots of a `GradientReduction`,
and fills in the statistics behind each gradient: the shard's cost, its number of correct
answers, and what this rank requests. How the slots are then summed it does not know.

It takes shard by shard, or, where the exchange of a layer can begin before the layers below are
computed (`parallel.overlap`), the forward pass of all shards and then layer by layer of them all.
The bits are the same.
"""

from dataclasses import dataclass, field

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet, Split
from distbp.network.dropout import Dropout
from distbp.network.network import Network, Workspace
from distbp.network.parameters import layer_runs, layer_views
from distbp.parallel.overlap import Overlap
from distbp.parallel.reduction import GradientReduction
from distbp.parallel.shards import shard_rows
from distbp.parallel.step_totals import CORRECT, COST, SAVE_REQUESTS, STOP_REQUESTS
from distbp.training.accuracy import count_correct

# Shards that are computed layer by layer, the last ones of a rank: each has activations of its own.
MAX_LAYERED_SHARDS = 8


@dataclass
class _Shard:
    """What computing a shard takes: buffers, and after the forward pass its rows.

    Attributes
    ----------
    loader : BatchLoader
    works : dict
        By number of rows.
    work : Workspace or None
        Of the last rows; None if there were none.
    x : (m, n_0) array
    """

    loader: BatchLoader
    works: dict[int, tuple[Workspace, Dropout | None]]
    work: Workspace | None = None
    x: np.ndarray = field(default_factory=lambda: np.empty(0))


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
        counts = {hi - lo for lo, hi in runs} - {0}
        layered = min(len(reduction.schedule), MAX_LAYERED_SHARDS) if reduction.overlap else 0
        self._layered = [
            _Shard(
                BatchLoader(
                    split,
                    data.scaling,
                    data.n_classes,
                    max(counts, default=0),
                    network.dtype,
                    data.target,
                    label_smoothing,
                    weights,
                ),
                {rows: self._workspace(rows, dropout) for rows in counts},
            )
            for _ in range(max(layered, 1))
        ]
        self._first = self._layered[0]  # for shards that are computed one after the other
        size = network.theta.size
        self._out = [layer_views(slot[:size], network.sizes) for slot in reduction.slots]
        self._parts = layer_runs(network.sizes)

    @property
    def loader(self) -> BatchLoader:
        """Return what loads the rows of shards that are computed one after the other."""
        return self._first.loader

    @property
    def loaders(self) -> list[BatchLoader]:
        """Return all that load rows."""
        return [one.loader for one in self._layered]

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
        reduction, position = self.reduction, (epoch, step)
        overlap, count = reduction.overlap, len(reduction.schedule)
        if overlap is None or not overlap.begin():
            self._compute_shards(batch, position, requests, count)
            return
        alone = max(count - len(self._layered), 0)
        self._compute_shards(batch, position, requests, alone)
        self._compute_layers(batch, position, requests, overlap, alone)

    def _compute_shards(
        self,
        batch: np.ndarray,
        position: tuple[int, int],
        requests: tuple[float, float],
        count: int,
    ) -> None:
        """Compute the first `count` shards, one after the other."""
        for i, (shard, slot) in enumerate(self.reduction.schedule[:count]):
            start, stop = shard_rows(len(batch), self.shards, shard)
            if start == stop:  # a short last batch may leave shards empty
                self.reduction.slots[slot].fill(0.0)
            else:
                self._backprop(slot, batch[start:stop], (*position, shard))
            self._write_requests(i, requests)
            self.reduction.accumulate(i)

    def _compute_layers(
        self,
        batch: np.ndarray,
        position: tuple[int, int],
        requests: tuple[float, float],
        overlap: Overlap,
        first: int,
    ) -> None:
        """Compute the shards from `first` on: forward all of them, then layer by layer."""
        reduction, network = self.reduction, self.network
        schedule = list(enumerate(reduction.schedule))[first:]
        for one, (i, (shard, slot)) in zip(self._layered, schedule, strict=False):
            start, stop = shard_rows(len(batch), self.shards, shard)
            one.work = None
            reduction.stats[slot].fill(0.0)
            if start < stop:
                self._forward(one, slot, batch[start:stop], (*position, shard))
                overlap.proceed()
            self._write_requests(i, requests)
            reduction.accumulate_layer(i, -1)
        for l in reversed(range(len(self._parts))):
            for one, (i, (_, slot)) in zip(self._layered, schedule, strict=False):
                if one.work is None:
                    reduction.slots[slot][slice(*self._parts[l])].fill(0.0)
                else:
                    network.backprop_layer(l, one.x, self._out[slot], one.work)
                    overlap.proceed()
                reduction.accumulate_layer(i, l)
            overlap.complete_layer(len(self._parts) - l)

    def _write_requests(self, i: int, requests: tuple[float, float]) -> None:
        """Write what this rank requests to the statistics of its i-th shard."""
        stats = self.reduction.stats[self.reduction.schedule[i][1]]
        # They are sums over ranks: each rank counts once, with its first shard.
        stats[STOP_REQUESTS], stats[SAVE_REQUESTS] = requests if i == 0 else (0, 0)

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
        work, _ = self._first.works[len(numbers)]
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
        one = self._first
        x, y, labels, work, weights = self._load(one, numbers, position)
        self.network.backprop(x, y, self._out[slot], work, weights)
        self._write_scores(slot, work, y, labels, weights)

    def _forward(
        self, one: _Shard, slot: int, numbers: np.ndarray, position: tuple[int, int, int]
    ) -> None:
        """Compute a shard's activations and δ^L, and write cost and correct answers to its slot."""
        one.x, y, labels, one.work, weights = self._load(one, numbers, position)
        self.network.start_backprop(one.x, y, one.work, weights)
        self._write_scores(slot, one.work, y, labels, weights)

    def _load(
        self, one: _Shard, numbers: np.ndarray, position: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Workspace, np.ndarray | None]:
        """Return x, y, labels, workspace and weights of a shard's rows."""
        x, y, labels = one.loader.load(numbers)
        work, dropout = one.works[len(numbers)]
        if dropout:
            dropout.draw(*position)
        return x, y, labels, work, one.loader.load_weights(numbers)

    def _write_scores(
        self,
        slot: int,
        work: Workspace,
        y: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None,
    ) -> None:
        """Write a shard's cost and number of correct answers to its slot."""
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
