"""Predictions and scores for rows that no data set holds: read, computed and written in rounds.

Rank 0 reads the rows of a table, encodes them, and hands every rank consecutive blocks of
`EVALUATION_ROWS`, counted from the first row; what they compute comes back in order. So the
results are those of one rank, and of an evaluation of the same rows in a data set, bit for
bit, and the memory that is needed does not depend on the number of rows.

A `RowTask` is what rank 0 does between two rounds: `PredictionTask` writes a table,
`EvaluationTask` adds up a score.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from distbp.data.dataset import Split
from distbp.data.model_table import Rows, regroup
from distbp.data.table_writer import Columns, TableWriter, Words, create_table, table_format
from distbp.errors import ConfigError, DataError
from distbp.parallel.rank_errors import run_on_rank_0
from distbp.parallel.shards import rank_shards
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint
from distbp.training.accuracy import predicted_labels
from distbp.training.evaluation import EVALUATION_ROWS, Evaluator, Score, own_width, share_score
from distbp.training.measurement import Measurement
from distbp.training.metric_names import Choice
from distbp.training.prediction import network_outputs, to_user_units
from distbp.training.row_sources import RowSource
from distbp.training.variation import CollectedRows

_ROUND_BYTES = 1 << 25  # of x in a round, if a block of each rank is not more
_MAX_BLOCKS_A_RANK = 16


def rows_a_round(n_in: int, ranks: int) -> int:
    """Return how many rows the ranks compute between two reads: whole blocks, some for each."""
    fitting = _ROUND_BYTES // (8 * n_in * EVALUATION_ROWS * ranks)
    return EVALUATION_ROWS * ranks * max(1, min(fitting, _MAX_BLOCKS_A_RANK))


class RowTask(ABC):
    """What rank 0 does with rows, and what all ranks compute for them.

    Parameters
    ----------
    checkpoint : Checkpoint
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.rows: Rows | None = None
        self._rounds: Iterator[Rows] = iter(())
        self._stack = contextlib.ExitStack()

    def open(self, stack: contextlib.ExitStack, source: RowSource, ranks: int) -> None:
        """Open the rows on rank 0; what is open is closed with `stack` at the latest."""
        self._stack = stack.enter_context(contextlib.ExitStack())
        count = rows_a_round(self.checkpoint.network.sizes[0], ranks)
        self._rounds = regroup(self._stack.enter_context(source)(count), count)
        self.start(self._stack)

    def next_round(self, results: np.ndarray | None) -> dict[str, Any] | None:
        """Use the results of the last round, and read the next: its shape, or None at the end."""
        if results is not None and self.rows is not None:
            self.use(self.rows, results)
        self.rows = None if self.is_done() else next(self._rounds, None)
        if self.rows is None:
            self._stack.close()
            return None
        x, y = self.rows.x, self.rows.y
        shape = {"rows": len(x), "x": [x.dtype.str, *x.shape[1:]]}
        return shape if y is None else shape | {"y": [y.dtype.str, *y.shape[1:]]}

    def is_done(self) -> bool:
        """Return whether no more rows are wanted."""
        return False

    @abstractmethod
    def start(self, stack: contextlib.ExitStack) -> None:
        """Open what is to be written on rank 0; closed with `stack`."""

    @abstractmethod
    def compute(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        """Return the results for this rank's rows: (m, k), or (blocks, k)."""

    @abstractmethod
    def use(self, rows: Rows, results: np.ndarray) -> None:
        """Use the results of all ranks on rank 0."""


def run_in_rounds(comm: Topology, task: RowTask, source: Callable[[], RowSource]) -> None:
    """Do a task on all ranks until there are no more rows; collective.

    Parameters
    ----------
    comm : Topology
    task : RowTask
    source : function
        Returns the rows; called on rank 0 only.

    Raises
    ------
    DistbpError
        On all ranks, if the rows cannot be read or the results not be written.
    """
    with contextlib.ExitStack() as stack:
        run_on_rank_0(comm, lambda: task.open(stack, source(), comm.size))
        results = None
        while shape := run_on_rank_0(comm, partial(task.next_round, results)):
            rows = task.rows or Rows(np.empty(0))
            counts = _counts(shape["rows"], comm.size)
            x = _scatter(comm, rows.x, counts, *shape["x"])
            y = _scatter(comm, rows.y, counts, *shape["y"]) if "y" in shape else None
            results = comm.world.gather_rows(task.compute(x, y))


def _counts(rows: int, ranks: int) -> np.ndarray:
    """Return the number of rows of each rank: whole blocks, but for the last block."""
    blocks = -(-rows // EVALUATION_ROWS)
    stops = [rank_shards(blocks, ranks, rank)[1] * EVALUATION_ROWS for rank in range(ranks)]
    return np.diff(np.minimum(stops, rows), prepend=0)


def _scatter(
    comm: Topology, rows: np.ndarray | None, counts: np.ndarray, dtype: str, *shape: int
) -> np.ndarray:
    """Return this rank's part of rank 0's rows (n, …): (m, …)."""
    if comm.size == 1 and rows is not None:
        return rows
    width = int(np.prod(shape)) * np.dtype(dtype).itemsize
    send = None
    if comm.rank == 0:
        send = np.ascontiguousarray(rows).reshape(counts.sum(), -1).view(np.uint8)
    own = comm.world.scatter_rows(send, counts, width)
    return own.view(dtype).reshape(len(own), *shape)


class PredictionTask(RowTask):
    """Writes what a model predicts for each row to a table.

    Parameters
    ----------
    checkpoint : Checkpoint
    out : str
        See `create_table`.
    id_column : str, optional
        Name of the column with `Rows.ids`; otherwise rows are numbered from 0.

    Attributes
    ----------
    count : int
        The rows written.
    """

    def __init__(self, checkpoint: Checkpoint, out: str, id_column: str | None = None) -> None:
        super().__init__(checkpoint)
        about = checkpoint.about
        self._task, self._classes = str(about["task"]), tuple(about["classes"])
        self._out, self._id, self.count = out, id_column, 0
        self._is_array = table_format(out) == "hdf5"
        self._targets = self._target_names()
        self._names = [self._id or "row", *self._column_names()]
        self._writer: TableWriter

    def _target_names(self) -> tuple[str, ...]:
        """Return the names of the outputs of a regression."""
        preprocessing = self.checkpoint.preprocessing
        if preprocessing is not None and self._task == "regression":
            return preprocessing.labels
        count = self.checkpoint.network.sizes[-1]
        return tuple(f"prediction {i}" for i in range(count)) if count > 1 else ("prediction",)

    def _column_names(self) -> list[str]:
        """Return the names of the columns of predictions in a table."""
        if self._task == "regression":
            return list(self._targets)
        labels = ["class"] if self._task == "classification" else list(self._classes)
        return labels + [f"p_{name}" for name in self._classes]

    def start(self, stack: contextlib.ExitStack) -> None:
        """Open the table."""
        twice = [name for i, name in enumerate(self._names) if name in self._names[:i]]
        if twice and not self._is_array:
            raise ConfigError(
                f"The predictions would have two columns {twice[0]!r}. Choose another column for "
                "--id, or write HDF5."
            )
        about = {"classes": list(self._classes), "id": self._id}
        if self._task == "regression":
            about["targets"] = list(self._targets)
        self._writer = stack.enter_context(create_table(self._out, about))

    def compute(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        """Return the outputs for some rows in the user's units: (m, n_L)."""
        return to_user_units(self.checkpoint, network_outputs(self.checkpoint, x))

    def use(self, rows: Rows, results: np.ndarray) -> None:
        """Append the rows of a round to the table."""
        columns = self._arrays if self._is_array else self._columns
        self._writer.write(columns(results, rows.ids))
        self.count += len(rows)

    def is_done(self) -> bool:
        """Return whether nobody reads standard output any more."""
        return self._writer.is_broken

    def _arrays(self, output: np.ndarray, ids: np.ndarray | None) -> Columns:
        """Return the datasets of an HDF5 file, which are those of `write_predictions`."""
        arrays = {} if ids is None else {"id": ids}
        arrays["output"] = output
        if self._task != "regression":
            arrays["label"] = predicted_labels(self._task, output)
        return arrays

    def _columns(self, output: np.ndarray, ids: np.ndarray | None) -> Columns:
        """Return the columns of a table."""
        if ids is None:
            ids = np.arange(self.count, self.count + len(output))
        columns: list[np.ndarray | Words] = [ids]
        labels = None if self._task == "regression" else predicted_labels(self._task, output)
        if self._task == "classification" and labels is not None:
            columns.append(Words(labels, self._classes))
        elif labels is not None:
            columns.extend(labels.T)
        return dict(zip(self._names, [*columns, *output.T], strict=True))


class EvaluationTask(RowTask):
    """Adds up the score of a model on rows with labels.

    Parameters
    ----------
    checkpoint : Checkpoint
    choices : sequence of Choice
        Metrics to compute besides, with their values for each class, label or target.
    """

    def __init__(self, checkpoint: Checkpoint, choices: Sequence[Choice] = ()) -> None:
        super().__init__(checkpoint)
        task, n_out = checkpoint.about["task"], checkpoint.network.sizes[-1]
        # That of this rank's rows of all rounds.
        self._measurement = Measurement(choices, task, n_out, has_parts=True)
        self._sums: list[np.ndarray] = []
        self._count = 0
        self._targets: CollectedRows | None = None
        if checkpoint.about["task"] == "regression":
            self._targets = CollectedRows(checkpoint.network.sizes[-1])
        self._evaluator: Evaluator | None = None

    def start(self, stack: contextlib.ExitStack) -> None:
        """Do nothing: a score is not written to a file."""

    def compute(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        """Return the sums over each block of rows: (blocks, k); see `Evaluator`."""
        model, task = self.checkpoint, self.checkpoint.about["task"]
        if y is None or not len(x):
            return np.zeros((0, own_width(model.network, task) + self._measurement.width))
        split = Split(np.ascontiguousarray(x), np.ascontiguousarray(y))
        self._evaluator = Evaluator(
            Topology(), model.network, split, model.scaling, task, model.target,
            model.preprocessing,
        )  # fmt: skip
        return self._evaluator.run(measurement=self._measurement)[2]

    def use(self, rows: Rows, results: np.ndarray) -> None:
        """Keep the sums, and the targets of a regression, which R² needs once more."""
        self._sums.append(results + 0.0)  # -0.0 becomes 0.0, as in an evaluation
        self._count += len(rows)
        if self._targets is not None and rows.y is not None:
            self._targets.append(rows.y)

    def score(self, comm: Topology) -> Score:
        """Return the score on all ranks; collective."""
        self._measurement.gather(comm)

        def on_rank_0() -> Score | None:
            if self._evaluator is None:
                return None
            sums, variation = np.concatenate(self._sums), None
            if self._targets is not None:
                variation = self._evaluator.variation_of(self._targets.read, self._count)
                self._targets.close()
            return self._evaluator.score_of(sums, self._count, variation, self._measurement)

        score = share_score(comm, on_rank_0)
        if score is None:
            raise DataError("There are no rows to evaluate.")
        return score
