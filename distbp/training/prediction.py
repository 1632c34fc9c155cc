"""What a model predicts for each row: as an array, or as a file written by all ranks.

Both run the network over the same blocks of rows as an evaluation, with the BLAS threads
of the training, so that they return the same bits.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.array_checks import feature_array
from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet, Split
from distbp.data.model_table import ModelTable, Rows, regroup
from distbp.data.table_reader import frame_reader
from distbp.data.table_writer import PREDICTION_FORMAT, PREDICTION_VERSION
from distbp.data.tables import Table
from distbp.errors import ConfigError, DataError
from distbp.parallel import host
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.topology import Topology
from distbp.storage import hdf5_file
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.preprocessing import UNKNOWN_CHOICES
from distbp.training.accuracy import predicted_labels
from distbp.training.evaluation import EVALUATION_ROWS, Evaluator

_FRAME_ROWS = 64 * EVALUATION_ROWS  # of a data frame that are encoded at once


def outputs(
    checkpoint: Checkpoint,
    x: Any,
    unknown: str = "error",
    compute: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Return what `distbp.predict` returns for rows as they were before the import.

    `compute` returns something else for rows as the network takes them, such as a spread.
    """
    compute = compute or partial(user_outputs, checkpoint)
    if unknown not in UNKNOWN_CHOICES:
        raise ConfigError(f"unknown={unknown!r}: expected one of {', '.join(UNKNOWN_CHOICES)}.")
    if hasattr(x, "__arrow_c_stream__") and checkpoint.preprocessing is not None:
        return _predict_frame(checkpoint, x, unknown, compute)
    x = feature_rows(checkpoint, x)
    with host.preserve_blas_threads():
        host.set_blas_threads(checkpoint.about["config"]["threads"])
        return compute(x)


def user_outputs(checkpoint: Checkpoint, x: np.ndarray) -> np.ndarray:
    """Return the outputs of a checkpoint's network for rows, in the units of the source."""
    return to_user_units(checkpoint, network_outputs(checkpoint, x))


def feature_rows(checkpoint: Checkpoint, x: Any) -> np.ndarray:
    """Return rows as the array that a model takes: (n, …).

    Raises
    ------
    DataError
        They have another shape, or are no finite numbers.
    """
    x, n_in = feature_array(x, "x"), checkpoint.network.sizes[0]
    if x.dtype.kind not in "iuf" or math.prod(x.shape[1:]) != n_in:
        raise DataError(f"x is {x.dtype} {x.shape}; the model takes rows of {n_in} numbers.")
    Table(x, "x").check_finite(x, 0)
    return x


def _predict_frame(
    checkpoint: Checkpoint, frame: Any, unknown: str, compute: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the outputs for the rows of a data frame."""
    with host.preserve_blas_threads():
        host.set_blas_threads(checkpoint.about["config"]["threads"])
        outputs = [
            compute(rows.x)
            for rows in frame_rows(checkpoint, _select_features(frame, checkpoint), unknown)
        ]
    return np.concatenate(outputs)


def frame_rows(
    checkpoint: Checkpoint, frame: Any, unknown: str, has_labels: bool = False
) -> Iterator[Rows]:
    """Yield the rows of a data frame as a model takes them; see `ModelTable`."""
    with frame_reader(frame) as reader:
        table = ModelTable(reader, checkpoint, unknown=unknown, has_labels=has_labels)
        yield from regroup(table.rows(_FRAME_ROWS), _FRAME_ROWS)


def _select_features(frame: Any, checkpoint: Checkpoint) -> Any:
    """Return a pandas frame without columns that are not used, which Arrow may not even know."""
    found = checkpoint.preprocessing
    names = [] if found is None else [feature.name for feature in found.features]
    is_pandas = (
        hasattr(frame, "loc") and getattr(frame, "ndim", 0) == 2 and frame.columns.nlevels == 1
    )
    # If one is missing, the error names all that are there.
    return frame[names] if is_pandas and all(name in frame.columns for name in names) else frame


def to_user_units(checkpoint: Checkpoint, output: np.ndarray) -> np.ndarray:
    """Return what outputs (m, n_L) of a checkpoint's network are in the units of the source."""
    if checkpoint.target is not None:
        output = checkpoint.target.to_user_units(output)
    preprocessing = checkpoint.preprocessing
    return output if preprocessing is None else preprocessing.restore_targets(output)


def network_outputs(checkpoint: Checkpoint, x: np.ndarray) -> np.ndarray:
    """Return the output of a checkpoint's network for the rows of `x`: (n, n_L)."""
    network, n_out = checkpoint.network, checkpoint.network.sizes[-1]
    output = np.empty((len(x), n_out), network.dtype)
    if not len(x):
        return output
    split = Split(np.ascontiguousarray(x), np.zeros(len(x), np.int64))  # labels are not used
    rows = min(EVALUATION_ROWS, len(x))
    loader = BatchLoader(split, checkpoint.scaling, n_out, rows, network.dtype)
    for start in range(0, len(x), rows):
        block = np.arange(start, min(start + rows, len(x)))
        scaled, _, _ = loader.load(block)  # (m, n_0)
        output[block] = network.feedforward(scaled, network.workspace(len(block)))
    return output


def write_predictions(
    comm: Topology, checkpoint: Checkpoint, data: DataSet, split: str, path: Path
) -> None:
    """Write the network's output for each row of a split to an HDF5 file; collective.

    about      uint8 JSON: classes, the split, the identity of the data set
    output     (n, n_L): activations of the output layer, in the order of the rows; for scaled
               targets, in the user's units
    label      (n,) int64: index of the predicted class, or for multilabel (n, n_L) uint8 of 0
               and 1; not for a regression

    Raises
    ------
    DataError
        On all ranks, if the file cannot be written.
    """
    network = checkpoint.network
    evaluator = Evaluator(
        comm, network, data.split(split), checkpoint.scaling, data.task, checkpoint.target
    )
    blocks: list[np.ndarray] = []
    evaluator.run(on_block=lambda start, a: blocks.append(a.copy()))  # a is overwritten by the next
    own = np.concatenate(blocks) if blocks else np.empty((0, network.sizes[-1]), network.dtype)
    output = comm.world.gather_rows(to_user_units(checkpoint, own))
    with collective_errors(comm):
        if comm.rank == 0:
            about = {"classes": data.classes, "split": split, "data": data.identity}
            with hdf5_file.create_file(
                path, PREDICTION_FORMAT, PREDICTION_VERSION, DataError
            ) as file:
                hdf5_file.write_json(file, "about", about)
                hdf5_file.write_array(file, "output", output)
                if data.task != "regression":
                    hdf5_file.write_array(file, "label", predicted_labels(data.task, output))
