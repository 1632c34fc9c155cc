"""How good a network is on a split, and what it predicts for each row.

A split is cut into blocks of `BLOCK` rows, whatever the number of ranks; each
rank takes a run of them. A block's cost is one number, the numbers are added in
the order of the tree in `shards`, and right answers are counted in integers: the
result is the same for every number of ranks, and no row counts twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distbp import hdf5, machine
from distbp.checkpoint import Checkpoint, newest, read, read_newest
from distbp.comm import Comm
from distbp.data import DataSet, Feed, Scaling, Split, check_readable
from distbp.display import warn
from distbp.errors import ConfigError, DataError
from distbp.network import Network
from distbp.shards import middle, rank_shards

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


def open_data(path: Path, comm: Comm) -> DataSet:
    """Open a data set on all ranks; what cannot be mapped is read once a node. Collective."""
    with comm.together():
        check_readable(path)
    return DataSet(path, comm.fill_node_array)


def open_model(model: str, comm: Comm) -> Checkpoint:
    """Read a checkpoint, or the newest of a run that is whole, on all ranks; collective.

    Rank 0 warns of newer ones that are not.
    """
    with comm.together():
        mine, troubles = newest(model)
    # On another rank the file system may have had a bad moment: all take the same file.
    chosen = Path(comm.broadcast(str(mine)))
    with comm.together():
        checkpoint = read(chosen)
    if comm.rank == 0:
        for text in troubles:
            warn(text)
    return checkpoint


def open_model_and_data(model: str, path: str, comm: Comm) -> tuple[Checkpoint, DataSet]:
    """Open a model and a data set that it can be used on, on all ranks; collective."""
    data = open_data(Path(path), comm)
    checkpoint = open_model(model, comm)
    with comm.together():
        machine.use_threads(checkpoint.about["config"]["threads"])
        check_fits(checkpoint, data)
    return checkpoint, data


def check_fits(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raise ConfigError unless the model can be used on the data."""
    sizes = checkpoint.network.sizes
    if data.n_in != sizes[0]:
        raise ConfigError(f"The model takes {sizes[0]} numbers a row; {data.path} has {data.n_in}.")
    if data.task != checkpoint.about["task"] or data.n_out != sizes[-1]:
        raise ConfigError(
            f"The model is for {checkpoint.about['task']} with {sizes[-1]} outputs; {data.path} "
            f"is for {data.task} with {data.n_out}."
        )
    if data.classes != checkpoint.about["classes"]:
        raise ConfigError(
            f"The classes of {data.path} are not those of the model, or not in order."
        )


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
    comm : Comm
    network : Network
    split : Split
    scaling : Scaling
        The model's.
    is_regression : bool
    """

    def __init__(
        self, comm: Comm, network: Network, split: Split, scaling: Scaling, is_regression: bool
    ) -> None:
        self.comm, self.network, self.split = comm, network, split
        self.is_regression = is_regression
        rows = min(BLOCK, len(split))
        n_classes = 0 if is_regression else network.sizes[-1]
        self._feed = Feed(split, scaling, n_classes, rows, network.dtype)
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
        self.comm.allreduce(everything)
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


def predict(model: str | Path, x: np.ndarray) -> np.ndarray:
    """Return what a model puts out for rows as they were before they were imported.

    Parameters
    ----------
    model : path
        A checkpoint file, or a run's directory.
    x : (n, ...) array
        Scaled here as the training set was.

    Returns
    -------
    (n, n_L) array
        The output layer's activations, with the bits that `distbp predict` writes. Of classes
        `argmax(axis=1)` is the most probable one's number.

    Raises
    ------
    CheckpointError
        There is no model that can be read.
    DataError
        x is not what the model takes.
    """
    checkpoint, troubles = read_newest(model)
    for text in troubles:
        warn(text)
    network, x = checkpoint.network, np.asarray(x)
    n_in, n_out = network.sizes[0], network.sizes[-1]
    if x.ndim < 1 or x.dtype.kind not in "biuf" or math.prod(x.shape[1:]) != n_in:
        raise DataError(f"x is {x.dtype} {x.shape}; {model} takes rows of {n_in} numbers.")
    output = np.empty((len(x), n_out), network.dtype)
    if not len(x):
        return output
    split = Split(np.ascontiguousarray(x), np.zeros(len(x), np.int64))
    feed = Feed(split, checkpoint.scaling, n_out, min(BLOCK, len(x)), network.dtype)
    for start in range(0, len(x), BLOCK):
        numbers = np.arange(start, min(start + BLOCK, len(x)))
        rows, _, _ = feed.load(numbers)
        output[numbers] = network.feedforward(rows, network.workspace(len(numbers)))
    return output


def write_predictions(
    comm: Comm, checkpoint: Checkpoint, data: DataSet, split: str, path: Path
) -> None:
    """Write what a model puts out for each row of a split to an HDF5 file; collective.

    about      uint8 JSON: classes, the split, the data set's identity
    output     (n, n_L): the output layer's activations, in the order of the rows
    label      (n,) int64: the most probable class's number, unless it is a regression
    """
    network, is_regression = checkpoint.network, data.task == "regression"
    evaluator = Evaluator(comm, network, data.split(split), checkpoint.scaling, is_regression)
    parts: list[np.ndarray] = []
    evaluator.run(look=lambda start, a: parts.append(a.copy()))
    mine = np.concatenate(parts) if parts else np.empty((0, network.sizes[-1]), network.dtype)
    output = comm.gather_rows(mine)
    with comm.together():
        if comm.rank == 0:
            about = {"classes": data.classes, "split": split, "data": data.identity}
            with hdf5.create(path, "distbp-prediction", 1, DataError) as file:
                hdf5.write_json(file, "about", about)
                hdf5.write_array(file, "output", output)
                if not is_regression:
                    hdf5.write_array(file, "label", output.argmax(axis=1).astype(np.int64))
