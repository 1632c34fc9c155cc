"""Cost and accuracy of a network on a split of a data set.

A split is divided into blocks of `EVALUATION_ROWS` rows, whatever the number of ranks, and
each rank evaluates consecutive blocks. The costs of the blocks are added in the order of
the tree in `parallel.shards`, and correct answers are integers: so a `Score` is the same on
any number of ranks, and counts each row once. Where the network comes from is not known
here.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import Split
from distbp.network.network import Network, Workspace
from distbp.parallel.rank_errors import run_on_rank_0
from distbp.parallel.shards import middle, rank_shards
from distbp.parallel.topology import Topology
from distbp.storage.preprocessing import Preprocessing
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.training.accuracy import count_correct
from distbp.training.measurement import Measured, Measurement
from distbp.training.metric_names import Choice, as_json
from distbp.training.variation import ReadRows, target_variation

EVALUATION_ROWS = 1024  # per block
_LEAST_R2 = -1e300
# What a score calls the parts of a task.
_PARTS = {"classification": "classes", "multilabel": "labels", "regression": "targets"}


@dataclass(frozen=True)
class Score:
    """The quality of a network on a split.

    Attributes
    ----------
    rows : int
    cost : float
        Mean over the rows, without L1 and L2 penalties, in the user's units; for targets that
        were transformed, that of their logarithms.
    accuracy : float
        Fraction of rows whose class is predicted; for multilabel, fraction of all labels that
        are; for a regression R², the mean over the outputs of 1 − Σ(y − a)² / Σ(y − ȳ)², of
        the values before any transformation.
    standardized_cost : float, optional
        The mean cost of the scaled targets, if it was asked for.
    measured : Measured
        The metrics that were asked for.
    """

    rows: int
    cost: float
    accuracy: float
    standardized_cost: float | None = None
    measured: Measured = field(default_factory=Measured)

    def to_dict(self, task: str, names: Sequence[str]) -> dict[str, Any]:
        """Return everything as `distbp evaluate --json` prints it.

        Parameters
        ----------
        task : {'classification', 'multilabel', 'regression'}
        names : sequence of str
            Of the classes, labels or targets.
        """
        is_regression, measured = task == "regression", self.measured
        found = {"rows": self.rows, "cost": as_json(self.cost)}
        found["r2" if is_regression else "accuracy"] = as_json(self.accuracy)
        found |= measured.values
        if measured.parts:
            found[_PARTS[task]] = [
                {"name": name} | {key: values[i] for key, values in measured.parts.items()}
                for i, name in enumerate(names)
            ]
        return found


def share_score(comm: Topology, make: Callable[[], Score | None]) -> Score | None:
    """Return on every rank the score that `make` returns on rank 0; collective."""

    def on_rank_0() -> list[Any] | None:
        score = make()
        return None if score is None else list(asdict(score).values())

    found = run_on_rank_0(comm, on_rank_0)
    if found is None:
        return None
    rows, cost, accuracy, standardized_cost, measured = found
    return Score(rows, cost, accuracy, standardized_cost, Measured(**measured))


def _tree_sum(values: np.ndarray) -> np.ndarray:
    """Return the sum of the rows of `values` (n, k), in the order of the tree over [0, n)."""
    if len(values) == 1:
        return values[0]
    half = middle((0, len(values)))
    return _tree_sum(values[:half]) + _tree_sum(values[half:])


def own_width(network: Network, task: str) -> int:
    """Return the number of sums of a block in an evaluation without metrics."""
    return 1 + (network.sizes[-1] if task == "regression" else 1)


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
    preprocessing : Preprocessing, optional
        Of the data set, which knows how targets were transformed.
    has_standardized_cost : bool
        Whether to compute the cost without the targets' units, too.

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
        preprocessing: Preprocessing | None = None,
        has_standardized_cost: bool = False,
    ) -> None:
        self.comm, self.network, self.split = comm, network, split
        self._task, self._target, self._preprocessing = task, target, preprocessing
        self._is_transformed = (
            preprocessing is not None and preprocessing.target_transform != "none"
        )
        # A cost of the same kind that was told no units.
        self._plain_cost = (
            type(network.cost)(network.cost.output) if has_standardized_cost else None
        )
        self._variation: np.ndarray | None = None  # of the split's targets, once it is known
        rows = min(EVALUATION_ROWS, len(split))
        n_classes = network.sizes[-1] if task == "classification" else 0
        self._loader = BatchLoader(split, scaling, n_classes, rows, network.dtype, target)
        self._workspaces = {rows: network.workspace(rows)}
        self.blocks = -(-len(split) // EVALUATION_ROWS)

    def run(
        self,
        on_block: Callable[[int, np.ndarray], None] | None = None,
        measurement: Measurement | None = None,
    ) -> tuple[int, int, np.ndarray]:
        """Evaluate this rank's blocks.

        Parameters
        ----------
        on_block : function of (first row, outputs), optional
            Called with the outputs (m, n_L) of each block, which the next block overwrites; for
            scaled targets, they are scaled.
        measurement : Measurement, optional
            To which each block is added.

        Returns
        -------
        first, stop : int
            The range of this rank's blocks.
        sums : (stop - first, 1 + k) float64
            Sums over each block: the cost, in multiples of its `unit`; the number of correct
            answers or the squared errors of the outputs; the standardized cost, if there is one;
            and those of the measurement.
        """
        first, stop = rank_shards(self.blocks, self.comm.size, self.comm.rank)
        cost, n_own = self.network.cost, self._own_width
        sums = np.zeros((stop - first, n_own + (0 if measurement is None else measurement.width)))
        for block in range(first, stop):
            start, row = block * EVALUATION_ROWS, sums[block - first]
            rows = self.split.numbers(start, min(start + EVALUATION_ROWS, len(self.split)))
            x, y, labels = self._loader.load(rows)
            work = self._workspace(len(rows))
            a = self.network.feedforward(x, work)  # (m, n_L)
            row[0] = cost.fn(work.z[-1], a, y)
            if self._task == "regression":
                row[1 : 1 + a.shape[1]] = self._squared_errors(a, y, labels, rows)
            else:
                row[1] = count_correct(self._task, a, y, labels)
            if self._plain_cost is not None:
                row[n_own - 1] = self._plain_cost.fn(work.z[-1], a, y)
            if measurement is not None:
                with np.errstate(over="ignore", invalid="ignore"):
                    row[n_own:] = measurement.add(*self._compared(a, y, labels, rows))
            if on_block is not None:
                on_block(start, a)
        return first, stop, sums

    @property
    def _own_width(self) -> int:
        """The sums of a block that are not those of a measurement."""
        return own_width(self.network, self._task) + (self._plain_cost is not None)

    def _squared_errors(
        self, a: np.ndarray, y: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return the squares that R² needs, summed over some rows: (n_L,) float64.

        They are those of the scaled outputs, for R² has no unit; but of values whose logarithms
        are learned, those of the values themselves.
        """
        if not self._is_transformed:
            return np.square(a - y, dtype=np.float64).sum(axis=0)
        output, targets = self._compared(a, y, labels, rows)
        with np.errstate(over="ignore"):
            return np.square(output - targets).sum(axis=0)

    def _compared(
        self, a: np.ndarray, y: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the outputs of some rows, and what they should be, as metrics take them."""
        if self._task != "regression":
            return a, labels if self._task == "classification" else y
        output = a.astype(np.float64) if self._target is None else self._target.to_user_units(a)
        targets = self.split.y.take(rows, axis=0).view(self.split.y_dtype).astype(np.float64)
        if self._preprocessing is None:
            return output, targets
        restore = self._preprocessing.restore_targets
        return restore(output), restore(targets)

    def score(self, choices: Sequence[Choice] = (), has_parts: bool = False) -> Score:
        """Return the network's score, the same on all ranks for any number of them; collective.

        Parameters
        ----------
        choices : sequence of Choice
            Metrics to compute besides.
        has_parts : bool
            Whether their values for each class, label or target are wanted, too.
        """
        measurement = Measurement(choices, self._task, self.network.sizes[-1], has_parts)
        first, stop, sums = self.run(measurement=measurement if choices else None)
        everything = np.zeros((self.blocks, sums.shape[1]))
        # Added to 0.0, -0.0 becomes 0.0, as it does on several ranks.
        everything[first:stop] += sums
        # Each element is non-zero on one rank only, so MPI's order of addition has no effect.
        self.comm.world.allreduce(everything)
        if self._task == "regression" and self._variation is None:
            self._variation = self.variation_of(self.split.target_rows, len(self.split))
        rows, variation = len(self.split), self._variation
        if not choices:
            return self.score_of(everything, rows, variation)
        measurement.gather(self.comm)
        score = share_score(
            self.comm, lambda: self.score_of(everything, rows, variation, measurement)
        )
        return score or Score(0, 0.0, 0.0)

    def variation_of(self, read: ReadRows, rows: int) -> np.ndarray:
        """Return Σ(y − ȳ)² of each output, in the units of the errors: R² has none."""
        preprocessing = self._preprocessing
        if self._is_transformed and preprocessing is not None:
            with np.errstate(over="ignore"):
                return target_variation(
                    lambda start, stop: preprocessing.restore_targets(
                        read(start, stop).astype(np.float64)
                    ),
                    rows,
                )
        return target_variation(read, rows, None if self._target is None else self._target.scale)

    def score_of(
        self,
        sums: np.ndarray,
        rows: int,
        variation: np.ndarray | None,
        measurement: Measurement | None = None,
    ) -> Score:
        """Return the score of `rows` rows, which may be more than those of the split.

        Parameters
        ----------
        sums : (blocks, 1 + k) array
            Those of `run` for all of their blocks.
        rows : int
        variation : (n_L,) array, optional
            `variation_of` their targets, for a regression.
        measurement : Measurement, optional
            Of all rows.
        """
        total, n_out, n_own = _tree_sum(sums), self.network.sizes[-1], self._own_width
        cost, r2 = float(total[0]) / rows * self.network.cost.unit, np.empty(0)
        if variation is not None:
            r2 = _r2(total[1 : 1 + n_out], variation)
            accuracy = float(r2.mean())
        else:
            labels_per_row = n_out if self._task == "multilabel" else 1
            accuracy = int(total[1]) / (rows * labels_per_row)
        standardized = None if self._plain_cost is None else float(total[n_own - 1]) / rows
        measured = Measured()
        if measurement is not None:
            measured = measurement.results(rows, total[n_own:], r2)
        return Score(rows, cost, accuracy, standardized, measured)

    def _workspace(self, rows: int) -> Workspace:
        if rows not in self._workspaces:  # that of the last block, which may be shorter
            self._workspaces[rows] = self.network.workspace(rows)
        return self._workspaces[rows]


def _r2(squared_errors: np.ndarray, variation: np.ndarray) -> np.ndarray:
    """Return R² of each output; both are sums over the rows: (n_L,)."""
    # R² is not defined for a constant target: 1 if it is predicted exactly, otherwise 0.
    safe = np.where(variation > 0, variation, 1.0)
    r2 = np.where(variation > 0, 1.0 - squared_errors / safe, squared_errors == 0)
    # An exponential may overflow; JSON has no infinity.
    return np.maximum(r2, _LEAST_R2)
