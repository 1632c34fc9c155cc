"""A trained model: predictions and scores for arrays and data frames, by this process alone.

    model = distbp.fit(x, y)            or distbp.load_model("run"), distbp.train(config).model
    model.predict(x_new)
    model.save("model.h5")

A `Model` is a checkpoint in memory. It takes rows as they were before the import: scaling and the
columns of a table are part of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from distbp.data.array_checks import label_array
from distbp.data.dataset import Split
from distbp.data.frames import is_frame
from distbp.data.labels import infer_task
from distbp.data.model_table import Rows
from distbp.data.table_columns import is_number
from distbp.data.tables import Source, Table
from distbp.errors import ConfigError, DataError
from distbp.network.network import Network
from distbp.parallel import host
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint, write_checkpoint
from distbp.storage.run_directory import load_checkpoint
from distbp.training.accuracy import predicted_labels
from distbp.training.ensemble import (
    EnsembleNetwork,
    combine,
    expand_models,
    mean_and_deviation,
)
from distbp.training.evaluation import Evaluator, Score
from distbp.training.metric_names import Choice, all_metrics, part_names
from distbp.training.prediction import feature_rows, frame_rows, outputs
from distbp.training.state import EpochRecord

_LABEL_TYPES = {"bool": np.bool_, "int": np.int64, "float": np.float64}


class Model:
    """A network with all that is needed to use it on rows as the user has them.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its arrays belong to the model from then on.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.network.sizes))
        return f"<distbp.Model: {self.task}, {sizes}, {len(self.checkpoint.history)} epochs>"

    @property
    def task(self) -> str:
        """`classification`, `multilabel` or `regression`."""
        return str(self.checkpoint.about["task"])

    @property
    def classes(self) -> np.ndarray:
        """The classes in the order of the outputs, or the labels of multilabel; else empty.

        They are of the type that the labels had as an array; otherwise their names.
        """
        names = self.checkpoint.about["classes"]
        kind = _LABEL_TYPES.get(self.checkpoint.about.get("label_type", ""))
        if kind is np.bool_ and self.task == "classification":
            return np.array([name.lower() in ("1", "true") for name in names])
        if kind is None or self.task != "classification" or not all(map(is_number, names)):
            return np.array(names, np.str_)
        numbers = [_number(name) for name in names]
        if kind is np.int64 and max(numbers) > np.iinfo(np.int64).max:
            kind = np.uint64
        return np.array(numbers, kind)

    @property
    def network(self) -> Network:
        """The network, which takes rows that are scaled."""
        return self.checkpoint.network

    @property
    def history(self) -> list[EpochRecord]:
        """One record per epoch, as in metrics.jsonl."""
        return [json.loads(line) for line in self.checkpoint.history]

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters in training; with `ema`, the network has their average."""
        return self.checkpoint.digest

    def predict(self, x: Any, unknown: str = "error") -> np.ndarray:
        """Return the class of each row, its labels of multilabel, or its predicted values.

        Parameters
        ----------
        x, unknown : as for `distbp.predict`

        Returns
        -------
        (n,) array of `classes`; (n, k) uint8 of 0 and 1; or (n,) or (n, k) numbers in the units of
        the targets
        """
        found = outputs(self.checkpoint, x, unknown)
        if self.task == "regression":
            return found[:, 0] if found.shape[1] == 1 else found
        labels = predicted_labels(self.task, found)
        return self.classes[labels] if self.task == "classification" else labels

    def predict_proba(self, x: Any, unknown: str = "error") -> np.ndarray:
        """Return the probability of each class, or label of multilabel: (n, k).

        They are the activations of the outputs; their sum is 1 with the cost log-likelihood.

        Raises
        ------
        ConfigError
            The model is for a regression.
        """
        if self.task == "regression":
            raise ConfigError("A regression has no probabilities. Use predict.")
        return outputs(self.checkpoint, x, unknown)

    def evaluate(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Return the score on rows with labels, as `distbp evaluate --json` prints it.

        `rows`, `cost`, `accuracy` or `r2`, and all metrics: `f1`, `roc_auc`, `mae` and so on, with
        those of each class, label or target. None stands for what is undefined.

        Parameters
        ----------
        x : as for `predict`
        y : labels, optional
            By default those in the columns of a data frame that the training took them from.

        Raises
        ------
        DataError
            The arrays do not fit each other, or the model.
        """
        model = self.checkpoint
        rows, labels = self._rows_and_labels(x, y)
        if len(rows) != len(labels) or not len(rows):
            raise DataError(f"x has {len(rows)} rows, y {len(labels)}; expected the same, above 0.")
        with host.preserve_blas_threads():
            host.set_blas_threads(model.about["config"]["threads"])
            split = Split(np.ascontiguousarray(rows), np.ascontiguousarray(labels))
            evaluator = Evaluator(
                Topology(), model.network, split, model.scaling, self.task, model.target,
                model.preprocessing,
            )  # fmt: skip
            score = evaluator.score(metrics_of(model), has_parts=True)
        return describe_score(score, model)

    def _rows_and_labels(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and labels as a data set stores them."""
        model = self.checkpoint
        if not is_frame(x) or model.preprocessing is None:
            return feature_rows(model, x), self._labels(y)
        has_labels = y is None or isinstance(y, str)  # in columns of the frame
        if isinstance(y, str) and (y,) != model.preprocessing.labels:
            raise DataError(
                f"{y!r} is not what the model was trained for, which is "
                f"{', '.join(map(repr, model.preprocessing.labels))}. Leave y out, or pass the "
                "labels as an array."
            )
        rows = Rows.join(list(frame_rows(model, x, "error", has_labels)))
        return rows.x, self._labels(y) if rows.y is None else rows.y

    def _labels(self, y: Any) -> np.ndarray:
        """Return labels as a data set stores them."""
        table = Table(label_array(y, "y"), "y")
        classes = None
        if self.task != "regression":
            names = self.checkpoint.about["classes"]
            # Numbers are compared by value, and text by name: "01" is not 1.
            is_by_value = self.task == "classification" and table.values.dtype.kind != "U"
            is_numeric = is_by_value and all(map(is_number, names))
            classes = [_number(name) for name in names] if is_numeric else names
        found = infer_task(Source({"train": (table, table)}), self.task, classes).y["train"]
        preprocessing = self.checkpoint.preprocessing
        is_log = preprocessing is not None and preprocessing.target_transform == "log"
        if is_log and (found <= 0).any():
            raise DataError("y has a number that is not above 0, and so no logarithm. Correct it.")
        return np.log(found) if is_log else found

    def save(self, path: str | Path) -> None:
        """Write the model to a file, an ordinary checkpoint, atomically.

        Raises
        ------
        CheckpointError
            It cannot be written.
        """
        write_checkpoint(Path(path), self.checkpoint)


def metrics_of(checkpoint: Checkpoint) -> tuple[Choice, ...]:
    """Return all metrics for a model, with a user's own that its run had."""
    about = checkpoint.about
    return all_metrics(about["task"], _part_names(checkpoint), about["config"].get("metrics") or ())


def _part_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    n_out = checkpoint.network.sizes[-1]
    return part_names(checkpoint.about["classes"], checkpoint.preprocessing, n_out)


def describe_score(score: Score, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a score of a model as JSON has it.

    It says of which transformed targets its cost is, if they are.
    """
    found = score.to_dict(checkpoint.about["task"], _part_names(checkpoint))
    table = checkpoint.preprocessing
    if table is None or table.target_transform == "none":
        return found
    return found | {"cost_of": f"ln {', '.join(table.labels)}"}


def _number(name: str) -> float:
    """Return the number that is the name of a class; an integer exactly."""
    return int(name) if name.lstrip("-").isdecimal() else float(name)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes
    ----------
    network : Network
        With `config.ema`, that of the averaged parameters.
    history : list of dict
        One record per epoch, as in metrics.jsonl.
    path : Path or None
        The run's directory, if it has one.
    digest : str
        SHA-256 of θ in training.
    model : Model
        The same network, with all that is needed to use it on new rows.
    best : Model or None
        That of the epoch with the best score, of a run without a directory and with `patience`;
        with a directory it is best.h5.
    """

    network: Network
    history: list[dict[str, Any]]
    path: Path | None
    digest: str
    model: Model
    best: Model | None = None


AnyModel = Model | str | Path | Sequence[Model | str | Path]


def load_model(path: str | Path) -> Model:
    """Return the model of a checkpoint file, or of a run's newest valid checkpoint.

    Raises
    ------
    CheckpointError
        There is no valid checkpoint.
    """
    return Model(load_checkpoint(path, stacklevel=3))


@overload
def predict(
    model: AnyModel, x: Any, unknown: str = "error", return_std: Literal[False] = False
) -> np.ndarray: ...


@overload
def predict(
    model: AnyModel, x: Any, unknown: str = "error", *, return_std: Literal[True]
) -> tuple[np.ndarray, np.ndarray]: ...


def predict(
    model: AnyModel, x: Any, unknown: str = "error", return_std: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Return the network's output for rows as they were before the import.

    Parameters
    ----------
    model : Model or path
        Of a checkpoint file, or of the directory of a run: its newest valid checkpoint. Or a list
        of them, which agree in their data, or the directory of a cross-validation: an ensemble,
        whose output is the mean of theirs.
    x : (n, ...) array, or a data frame
        Rows of n_0 numbers each; they are scaled here as the training set was. If the model was
        trained on a table: a data frame of pandas or polars or an Arrow table, whose columns are
        found by their names and encoded as in the training; others are not used.
    unknown : {"error", "ignore"}
        What to do with categories in a data frame that the model does not know; ignore: their
        inputs are 0.
    return_std : bool
        Whether to return the standard deviation of the outputs over the models of an ensemble,
        too, as a second array: a measure of its uncertainty.

    Returns
    -------
    (n, n_L) array, or two
        Activations of the output layer, bit for bit those that `distbp predict` writes, of the
        model's dtype; for a regression on scaled targets, float64 in the user's units. For
        classes, `argmax(axis=1)` is the index of the predicted class; for multilabel, the labels
        are those above ½.

    Raises
    ------
    CheckpointError
        There is no valid checkpoint.
    ConfigError
        `unknown` is neither of the two, or BLAS cannot use as many threads as the model was
        trained with.
    DataError
        x has the wrong shape or type, or a data frame lacks a column or has a cell that the
        model does not take.
    """
    checkpoint = _opened(model).checkpoint
    if not return_std:
        return outputs(checkpoint, x, unknown)
    if not isinstance(checkpoint.network, EnsembleNetwork):
        raise ConfigError("return_std needs several models: a single one has no spread.")
    both = outputs(
        checkpoint, x, unknown, lambda rows: np.hstack(mean_and_deviation(checkpoint, rows))
    )
    mean, deviation = np.split(both, 2, axis=1)
    return mean, deviation


def evaluate(model: AnyModel, x: Any, y: Any = None) -> dict[str, Any]:
    """Return the score of a model on rows with labels, see `Model.evaluate`."""
    return _opened(model).evaluate(x, y)


def _opened(model: AnyModel) -> Model:
    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path):
        names = expand_models([model])
        if len(names) == 1:
            return load_model(names[0])
        model = names
    if not len(model):
        raise ConfigError("There is no model in the list. Name at least one.")
    models: list[Model] = []
    for one in model:
        paths = [] if isinstance(one, Model) else expand_models([one])
        models += map(load_model, paths) if paths else [one]  # type: ignore[list-item]
    names = [f"model {i}" for i in range(len(models))]
    return Model(combine([one.checkpoint for one in models], names))
