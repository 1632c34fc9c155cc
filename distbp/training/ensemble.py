"""Several models of the same data as one: their mean, and its spread as a measure of uncertainty.

`combine` makes one Checkpoint of several, whose network is an `EnsembleNetwork`: it is used like
that of a single model, on any number of ranks, and cannot be trained. Its outputs are the mean of
the members' outputs: probabilities, or values; of targets whose logarithms are learned, the
logarithms. The spread is the population standard deviation of the members' outputs, in the
user's units. Mean and deviation are updated model by model, so that the memory for the
outputs does not depend on how many models there are.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.dataset import DataSet
from distbp.data.table_writer import Columns
from distbp.errors import ConfigError
from distbp.network.network import Network, Workspace
from distbp.parallel.rank_errors import collective_errors, run_on_rank_0
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.run_directory import list_checkpoints
from distbp.training.accuracy import predicted_labels
from distbp.training.inputs import open_model, open_model_and_data, open_model_for_rows
from distbp.training.prediction import network_outputs, to_user_units
from distbp.training.run_summary import fold_folders
from distbp.training.table_prediction import PredictionTask

_TRIALS = "trial-*"


@dataclass
class _EnsembleWorkspace(Workspace):
    """The buffers of a pass: `a` and `z` of the output layer, and the workspaces of the members.

    Attributes
    ----------
    mean : (m, n_L) float64 array
    members : tuple of Workspace
        Shared by members of the same shape.
    """

    mean: np.ndarray | None = None
    members: tuple[Workspace, ...] = ()


class EnsembleNetwork(Network):
    """The mean of several networks, as a network that is only evaluated.

    Parameters
    ----------
    members : sequence of Network
        With the same inputs, outputs, cost and dtype.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        # Not that of a network, which has parameters: this one has none of its own.
        first = members[0]
        self.members = tuple(members)
        self.sizes = (first.sizes[0], first.sizes[-1])
        self.dtype, self.output, self.activation = first.dtype, first.output, first.activation
        self.cost, self.cost_name = first.cost, first.cost_name

    def workspace(self, m: int) -> Workspace:
        """Return the buffers for passes over m rows."""
        a, z = (np.empty((m, self.sizes[-1]), self.dtype) for _ in range(2))
        shared: dict[Any, Workspace] = {}
        for one in self.members:
            if (one.sizes, one.activation) not in shared:
                shared[one.sizes, one.activation] = one.workspace(m)
        return _EnsembleWorkspace(
            [a], [z], [a], [], [], [],
            mean=np.empty(a.shape),
            members=tuple(shared[one.sizes, one.activation] for one in self.members),
        )  # fmt: skip

    def feedforward(self, x: np.ndarray, work: Workspace | None = None) -> np.ndarray:
        """Return the mean of the members' outputs, (m, n_L)."""
        if not isinstance(work, _EnsembleWorkspace) or work.mean is None:
            return self.feedforward(x, self.workspace(len(x)))
        moments = _Moments(work.mean)
        for network, own in zip(self.members, work.members, strict=True):
            moments.add(network.feedforward(x, own))
        a = work.a[-1]
        a[...] = work.mean
        work.z[-1][...] = _weighted_input(self.output, work.mean)
        return a


def _weighted_input(output: str, a: np.ndarray) -> np.ndarray:
    """Return the z that costs take with outputs `a`, float64; see `Cost.fn`."""
    if output == "linear":
        return a
    least = np.finfo(np.float64).tiny
    logarithm: np.ndarray = np.log(np.maximum(a, least))
    if output == "softmax":
        return logarithm
    rest: np.ndarray = logarithm - np.log(np.maximum(1.0 - a, np.finfo(np.float64).eps / 2))
    return rest


class _Moments:
    """Mean and squared deviations of arrays of the same shape, of which only one is there at once.

    Source: Welford, Note on a method for calculating corrected sums of squares (1962). Equal
    arrays have exactly their value as mean, and 0 as deviation.
    """

    def __init__(self, mean: np.ndarray, has_squares: bool = False) -> None:
        self.mean, self._count = mean, 0
        self.mean[...] = 0.0
        self._squares = np.zeros_like(mean) if has_squares else None

    def add(self, values: np.ndarray) -> None:
        """Add an array."""
        self._count += 1
        difference = values - self.mean  # float64
        self.mean += difference / self._count
        if self._squares is not None:
            self._squares += difference * (values - self.mean)

    def deviation(self) -> np.ndarray:
        """Return the standard deviation."""
        squares = 0.0 if self._squares is None else self._squares
        return np.asarray(np.sqrt(squares / self._count))


def mean_and_deviation(checkpoint: Checkpoint, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs of an ensemble for rows x, and their spread, in the user's units.

    Returns
    -------
    mean, deviation : (n, n_L) arrays
        Of the same dtype, which is that of a single model's outputs.
    """
    network = checkpoint.network
    members = network.members if isinstance(network, EnsembleNetwork) else (network,)
    shape = len(x), network.sizes[-1]
    raw, spread = _Moments(np.empty(shape)), _Moments(np.empty(shape), has_squares=True)
    for member in members:
        output = network_outputs(replace(checkpoint, network=member), x)
        raw.add(output)
        spread.add(to_user_units(checkpoint, output))
    mean = to_user_units(checkpoint, raw.mean.astype(network.dtype))
    return mean, spread.deviation().astype(mean.dtype)


class EnsemblePrediction(PredictionTask):
    """Writes what an ensemble predicts for each row, and its spread.

    The spread is `std`: of the probability of the predicted class, or of the value; or, for several
    labels or targets, `std_NAME` of each.
    """

    def __init__(self, checkpoint: Checkpoint, out: str, id_column: str | None = None) -> None:
        super().__init__(checkpoint, out, id_column)
        parts = self._targets if self._task == "regression" else self._classes
        is_one = self._task == "classification" or len(parts) == 1
        self._n_out = checkpoint.network.sizes[-1]
        self._spread_names = ["std"] if is_one else [f"std_{name}" for name in parts]

    def start(self, stack: ExitStack) -> None:
        """Open the table."""
        for name in self._spread_names if not self._is_array else ():
            if name in self._names:
                raise ConfigError(
                    f"The predictions would have two columns {name!r}. Choose another column for "
                    "--id, or write HDF5."
                )
        super().start(stack)

    def compute(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        """Return the outputs for some rows in the user's units, and the columns of the spread."""
        mean, deviation = mean_and_deviation(self.checkpoint, x)
        if self._task == "classification":
            labels = predicted_labels(self._task, mean)
            deviation = np.take_along_axis(deviation, labels[:, np.newaxis], axis=1)
        return np.hstack([mean, deviation])

    def _arrays(self, output: np.ndarray, ids: np.ndarray | None) -> Columns:
        """Return the datasets of an HDF5 file."""
        spread = output[:, self._n_out :]
        is_one = self._task == "classification"
        return {
            **super()._arrays(output[:, : self._n_out], ids),
            "std": spread[:, 0] if is_one else spread,
        }

    def _columns(self, output: np.ndarray, ids: np.ndarray | None) -> Columns:
        """Return the columns of a table."""
        spread = zip(self._spread_names, output[:, self._n_out :].T, strict=True)
        return {**super()._columns(output[:, : self._n_out], ids), **dict(spread)}


def combine(models: Sequence[Checkpoint], names: Sequence[str]) -> Checkpoint:
    """Return models as one: a single one as it is, several as an ensemble.

    Parameters
    ----------
    models : sequence of Checkpoint
    names : sequence of str
        What to call them in an error message.

    Raises
    ------
    ConfigError
        They do not agree in what an ensemble needs.
    """
    first = models[0]
    for other, name in zip(models[1:], names[1:], strict=True):
        what = _disagreement(first, other)
        if what:
            raise ConfigError(
                f"{names[0]} and {name} cannot form an ensemble: they differ in {what}. Use "
                "models of the same data set, task and cost."
            )
    if len(models) == 1:
        return first
    network = EnsembleNetwork([one.network for one in models])
    return replace(first, network=network, state={}, history=[], averaged_from=None)


def _disagreement(first: Checkpoint, other: Checkpoint) -> str:
    """Return what two models differ in that may not be; empty if nothing."""
    one, two = first.network, other.network
    differ = {
        "the number of inputs": one.sizes[0] != two.sizes[0],
        "the task": first.about["task"] != other.about["task"],
        "the number of outputs": one.sizes[-1] != two.sizes[-1],
        "the classes, or their order": first.about["classes"] != other.about["classes"],
        "the columns and categories of their table": first.about.get("preprocessing")
        != other.about.get("preprocessing"),
        "the scaling of the inputs": not _equal(first.scaling, other.scaling),
        "the scaling of the targets": not _equal(first.target, other.target),
        "the cost": (one.cost_name, one.output) != (two.cost_name, two.output),
        "the dtype": one.dtype != two.dtype,
        "the number of BLAS threads": first.about["config"].get("threads")
        != other.about["config"].get("threads"),
    }
    return next((what for what, differs in differ.items() if differs), "")


def _equal(one: Any, two: Any) -> bool:
    """Return whether two scalings are the same, or both missing."""
    if one is None or two is None:
        return one is two
    return all(np.array_equal(getattr(one, n), getattr(two, n)) for n in ("shift", "scale"))


def expand_models(models: Sequence[str | Path]) -> list[str]:
    """Return the models that paths stand for: a cross-validation stands for those of its folds.

    Raises
    ------
    ConfigError
        One is the folder of a sweep with several trials.
    """
    found: list[str] = []
    for model in models:
        path = Path(model)
        trials = sorted(path.glob(_TRIALS)) if path.is_dir() and not list_checkpoints(path) else []
        if len(trials) > 1:
            raise ConfigError(
                f"{model} is a sweep of {len(trials)} trials. Name one of them, such as {trials[0]}"
                f"; or, for an ensemble of all, {path / _TRIALS}."
            )
        folds = fold_folders(trials[0] if trials else path) if path.is_dir() else []
        found += map(str, folds or trials) if folds or trials else [str(model)]
    return found


def open_models_for_rows(models: Sequence[str], comm: Topology) -> Checkpoint:
    """Read models on all ranks, as one, and let BLAS use their number of threads; collective.

    Raises
    ------
    DistbpError
        On all ranks: one cannot be read, or they do not agree.
    """
    names = run_on_rank_0(comm, lambda: expand_models(models))
    found = [open_model_for_rows(names[0], comm)]
    return _combine_with_others(found, names, comm)


def open_models_and_data(
    models: Sequence[str], path: str, comm: Topology
) -> tuple[Checkpoint, DataSet]:
    """Open models, as one, and a data set that fits them, on all ranks; collective.

    Raises
    ------
    DistbpError
        On all ranks: one cannot be read, or they do not agree.
    """
    names = run_on_rank_0(comm, lambda: expand_models(models))
    first, data = open_model_and_data(names[0], path, comm)
    return _combine_with_others([first], names, comm), data


def _combine_with_others(
    found: list[Checkpoint], names: Sequence[str], comm: Topology
) -> Checkpoint:
    found += [open_model(name, comm) for name in names[1:]]
    with collective_errors(comm):
        return combine(found, names)
