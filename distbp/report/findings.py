"""A run's model on rows that it was not trained on: its score, its errors, and the worst of them.

The rows are those of the test set or, without one, of the validation set; of many rows, some at
equal distances, so that a report takes seconds. Nothing here knows what a report looks like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.dataset import DataSet, Split
from distbp.errors import DistbpError
from distbp.parallel import host
from distbp.parallel.topology import Topology
from distbp.report.reported_run import ReportedRun
from distbp.storage.checkpoint import Checkpoint
from distbp.training.evaluation import Evaluator
from distbp.training.holdout import split_validation
from distbp.training.metric_names import part_names
from distbp.training.model import describe_score, metrics_of
from distbp.training.prediction import to_user_units

_MOST_ROWS = 20_000
_MOST_OUTPUTS = 1 << 24  # numbers: 64 MiB in float32
_PICTURE_SIDES = range(4, 513)
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Evaluation:
    """Outputs of a model for rows with known targets.

    Attributes
    ----------
    split : str
        `test` or `validation`.
    total : int
        Rows of the split, of which some were chosen.
    group : str
        The group of the data set that has these rows: `train`, if they were held out of it.
    numbers : (m,) int64 array
        The chosen rows, in the group.
    score : dict
        As `distbp evaluate --json` prints it.
    task : str
    names : tuple of str
        Of the classes, labels or targets.
    outputs : (m, n_L) array
        Probabilities, or values in the user's units.
    targets : (m,) or (m, n_L) array
        Classes, labels or values.
    """

    split: str
    total: int
    group: str
    numbers: np.ndarray
    score: dict[str, Any]
    task: str
    names: tuple[str, ...]
    outputs: np.ndarray
    targets: np.ndarray

    @property
    def confusion(self) -> np.ndarray:
        """The number of rows of each class (rows of the matrix) by predicted class: (k, k)."""
        k = len(self.names)
        pairs = self.targets * k + self.outputs.argmax(axis=1)
        return np.bincount(pairs, minlength=k * k).reshape(k, k)


@dataclass(frozen=True)
class Example:
    """A row whose class is predicted wrongly.

    Attributes
    ----------
    row : int
        Its number in the group.
    truth, predicted : str
    confidence, probability : float
        Of the predicted and of the true class.
    picture : array or None
        (height, width) or (height, width, channels), if the rows are images.
    """

    row: int
    truth: str
    predicted: str
    confidence: float
    probability: float
    picture: np.ndarray | None = None


class NoRowsError(DistbpError):
    """There are no rows to evaluate a model on."""


def open_run_data(run: ReportedRun, path: str | None = None) -> DataSet:
    """Open the data set that a run was trained on, or that of another path.

    Raises
    ------
    NoRowsError
        There is none, or it is another data set.
    DistbpError
        It cannot be read.
    """
    checkpoint = run.checkpoint
    if checkpoint is None:
        raise NoRowsError("Without a checkpoint there is no model to evaluate.")
    name = path or run.config.data
    if not name:
        raise NoRowsError(
            "The run was trained on arrays, which are in no file. Name a data set of the same rows "
            "with --data to see predictions."
        )
    found = next((one for one in _places(run, name) if one.is_file()), None)
    if found is None:
        raise NoRowsError(
            f"The data set {name} is not here, so that there are no predictions. Name the file "
            "with --data."
        )
    data = DataSet(found)
    if data.identity != checkpoint.about["data"]:
        raise NoRowsError(
            f"{found} is not the data set that the run was trained on, so that there are no "
            "predictions. Name that one with --data."
        )
    return data


def _places(run: ReportedRun, name: str) -> list[Path]:
    """Return where a data set may be: its path may begin where the run was started."""
    out, folder = Path(run.config.out), run.folder.resolve()
    places = [Path(name)]
    if not out.is_absolute() and out.parts and folder.parts[-len(out.parts) :] == out.parts:
        places.append(folder.parents[len(out.parts) - 1] / name)
    return [*places, folder.parent / name]


def evaluate_run(run: ReportedRun, data: DataSet) -> Evaluation:
    """Return what the newest model of a run predicts for the test or validation rows.

    Raises
    ------
    NoRowsError
        There is neither.
    """
    checkpoint = run.checkpoint
    name, split = _held_rows(run, data)
    if checkpoint is None or split is None:
        raise NoRowsError(
            "The data set has neither test nor validation rows, so that there is nothing to "
            "evaluate the model on. Import it with --test-fraction, or train with --validation."
        )
    chosen = _choose_rows(len(split), checkpoint.network.sizes[-1])
    rows = split.numbers(0, len(split))[chosen]
    part = split.subset(rows)
    with host.preserve_blas_threads():
        host.set_blas_threads(checkpoint.about["config"]["threads"])
        score, outputs = _run_model(checkpoint, data, part)
    targets = part.targets()
    if data.task == "classification":
        targets = targets[:, 0].astype(np.int64)
    elif data.task == "regression":
        targets = targets.astype(np.float64)
        if data.preprocessing is not None:
            targets = data.preprocessing.restore_targets(targets)
    names = part_names(data.classes, data.preprocessing, data.n_out)
    group = name if name in data.splits else "train"
    return Evaluation(name, len(split), group, rows, score, data.task, names, outputs, targets)


def _held_rows(run: ReportedRun, data: DataSet) -> tuple[str, Split | None]:
    """Return the rows that the model was not trained on, and what they are called."""
    if "test" in data.splits:
        return "test", data.splits["test"]
    if "train" not in data.splits:
        return "validation", data.splits.get("validation")
    return "validation", split_validation(run.config, data, Topology())[1]


def _choose_rows(rows: int, n_out: int) -> np.ndarray:
    """Return the positions of all rows, or of some at equal distances if there are many."""
    most = max(1, min(_MOST_ROWS, _MOST_OUTPUTS // n_out))
    return np.arange(rows) if rows <= most else np.arange(most) * rows // most


def _run_model(
    checkpoint: Checkpoint, data: DataSet, part: Split
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the score of the rows, and the outputs for them."""
    evaluator = Evaluator(
        Topology(), checkpoint.network, part, checkpoint.scaling, data.task, checkpoint.target,
        data.preprocessing,
    )  # fmt: skip
    score = evaluator.score(metrics_of(checkpoint), has_parts=True)
    blocks: list[np.ndarray] = []
    evaluator.run(on_block=lambda start, a: blocks.append(a.copy()))  # the next overwrites it
    return describe_score(score, checkpoint), to_user_units(checkpoint, np.concatenate(blocks))


def worst_examples(found: Evaluation, data: DataSet, count: int) -> list[Example]:
    """Return the rows whose true class has the lowest probability, of those that are wrong."""
    rows = np.arange(len(found.targets))
    probabilities, predicted = found.outputs[rows, found.targets], found.outputs.argmax(axis=1)
    wrong = np.flatnonzero(predicted != found.targets)
    worst = wrong[np.argsort(probabilities[wrong], kind="stable")[:count]]
    pictures = _pictures(data, found, worst)
    return [
        Example(
            int(found.numbers[i]),
            found.names[found.targets[i]],
            found.names[predicted[i]],
            float(found.outputs[i, predicted[i]]),
            float(probabilities[i]),
            picture,
        )
        for i, picture in zip(worst, pictures, strict=True)
    ]


def worst_misses(found: Evaluation, target: int, count: int) -> list[tuple[int, float, float]]:
    """Return the row, true and predicted value of the largest errors of a target."""
    errors = np.abs(found.outputs[:, target] - found.targets[:, target])
    worst = np.argsort(-errors, kind="stable")[:count]
    values = found.targets[worst, target], found.outputs[worst, target]
    return [
        (int(row), float(truth), float(value))
        for row, truth, value in zip(found.numbers[worst], *values, strict=True)
    ]


def _pictures(data: DataSet, found: Evaluation, worst: np.ndarray) -> Sequence[np.ndarray | None]:
    """Return the images of some rows, or None for each if the rows are none."""
    if picture_shape(data.about["shape"]) is None or not len(worst):
        return [None] * len(worst)
    split = data.splits[found.group]
    raw = np.empty((len(worst), split.x.shape[1]), np.uint8)
    split.x.take(found.numbers[worst], axis=0, out=raw, mode="clip")
    return [as_picture(row, data.about["shape"]) for row in raw.view(split.x_dtype)]


def picture_shape(shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return (height, width) or (height, width, channels) of rows that are images, or None."""
    sides, channels = list(shape), 1
    if len(shape) == 3 and shape[2] in _CHANNELS:
        *sides, channels = shape
    elif len(shape) == 3 and shape[0] in _CHANNELS:
        channels, *sides = shape
    if len(sides) != 2 or any(side not in _PICTURE_SIDES for side in sides):
        return None
    return (*sides, channels) if channels > 1 else tuple(sides)


def as_picture(row: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """Return the numbers of a row (n_0,) as an image, or None if it is none."""
    result = picture_shape(shape)
    if result is None:
        return None
    if len(shape) == 3 and tuple(shape) != result and len(result) == 3:
        return row.reshape(shape).transpose(1, 2, 0)  # channels first
    return row.reshape(result)
