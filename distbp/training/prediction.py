"""What a model predicts for each row."""

import math
import warnings
from pathlib import Path

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet, Split
from distbp.errors import DataError, DistbpWarning
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.topology import Topology
from distbp.storage import hdf5_file
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.run_directory import read_newest_checkpoint
from distbp.training.evaluation import BLOCK, Evaluator


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
    checkpoint, troubles = read_newest_checkpoint(model)
    for text in troubles:
        warnings.warn(text, DistbpWarning, stacklevel=2)
    network, x = checkpoint.network, np.asarray(x)
    n_in, n_out = network.sizes[0], network.sizes[-1]
    if x.ndim < 1 or x.dtype.kind not in "biuf" or math.prod(x.shape[1:]) != n_in:
        raise DataError(f"x is {x.dtype} {x.shape}; {model} takes rows of {n_in} numbers.")
    output = np.empty((len(x), n_out), network.dtype)
    if not len(x):
        return output
    split = Split(np.ascontiguousarray(x), np.zeros(len(x), np.int64))
    feed = BatchLoader(split, checkpoint.scaling, n_out, min(BLOCK, len(x)), network.dtype)
    for start in range(0, len(x), BLOCK):
        numbers = np.arange(start, min(start + BLOCK, len(x)))
        rows, _, _ = feed.load(numbers)
        output[numbers] = network.feedforward(rows, network.workspace(len(numbers)))
    return output


def write_predictions(
    comm: Topology, checkpoint: Checkpoint, data: DataSet, split: str, path: Path
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
    output = comm.world.gather_rows(mine)
    with collective_errors(comm):
        if comm.rank == 0:
            about = {"classes": data.classes, "split": split, "data": data.identity}
            with hdf5_file.create_file(path, "distbp-prediction", 1, DataError) as file:
                hdf5_file.write_json(file, "about", about)
                hdf5_file.write_array(file, "output", output)
                if not is_regression:
                    hdf5_file.write_array(file, "label", output.argmax(axis=1).astype(np.int64))
