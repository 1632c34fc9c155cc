"""How labels are interpreted: as classes, or as the targets of a regression.

One rule for every kind of source: text, integers in one column, and one-hot rows are
classes; anything else is a target of a regression; `--task` overrides both. The classes are
those that occur in the training set, in sorted order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.data.tables import Source, Table, wrap_source_errors
from distbp.errors import ConfigError, DataError


@dataclass(frozen=True)
class InferredTask:
    """How the labels are interpreted.

    Attributes
    ----------
    task : {"classification", "regression"}
    classes : list of str
        Names of the classes; empty for regression.
    y : dict of arrays
        Labels of each split as the data set stores them: (n,) int64 class numbers, or
        (n, k) floating-point targets.
    """

    task: str
    classes: list[str]
    y: dict[str, np.ndarray]


def infer_task(found: Source, wanted: str | None) -> InferredTask:
    """Interpret the labels of a source.

    Parameters
    ----------
    found : Source
    wanted : {"classification", "regression"}, optional
        The task that the user asked for.

    Raises
    ------
    ConfigError, DataError
        The labels do not fit the task, or one another.
    """
    values = {split: _label_values(y) for split, (_, y) in found.splits.items()}
    labels = found.splits["train"][1]
    # Only if all splits are one-hot: otherwise class numbers would be mixed with targets.
    if wanted != "regression" and all(_is_one_hot(y) for y in values.values()):
        values = {split: y.argmax(axis=1)[:, np.newaxis] for split, y in values.items()}
    if _choose_task(labels, values["train"], wanted) == "regression":
        return InferredTask("regression", [], _regression_targets(found, values))
    classes = np.unique(values["train"])
    if len(classes) < 2:
        raise DataError(f"{labels.name}: all labels are {classes[0]}; expected two classes.")
    y = {
        split: _class_numbers(table, values[split], classes)
        for split, (_, table) in found.splits.items()
    }
    return InferredTask("classification", [_class_name(value) for value in classes], y)


def _label_values(y: Table) -> np.ndarray:
    """Return the labels of a split in memory: finite numbers (n, k), or text (n, 1)."""
    values = y.read(0, len(y))
    if values.dtype.kind == "S":  # fixed-length bytes of HDF5 or NumPy
        with wrap_source_errors(y.name):
            values = np.strings.decode(values, "utf-8")
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    y.check_finite(values, 0)
    return values


def _is_one_hot(y: np.ndarray) -> bool:
    """Return whether all rows of y (n, k) are one-hot, as Keras encodes classes."""
    if y.dtype.kind == "U" or y.shape[1] < 2:
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _choose_task(y: Table, values: np.ndarray, wanted: str | None) -> str:
    """Return the task: integers and text in one column are classes."""
    is_text, width = values.dtype.kind == "U", values.shape[1]
    if width > 1 and wanted == "classification":
        raise ConfigError(
            f"`--task classification`: {y.name} has {width} labels per row; expected one, or "
            "one-hot rows."
        )
    if is_text and (width > 1 or wanted == "regression"):
        raise DataError(f"{y.name} has the text {str(values[0, 0])!r}; expected a number.")
    if wanted or width > 1:
        return wanted or "regression"
    if is_text:
        return "classification"
    if (values != np.floor(values)).any():
        return "regression"
    _check_not_negative(y, values)
    return "classification"


def _check_not_negative(y: Table, values: np.ndarray) -> None:
    """Refuse negative integers, which often mean "unknown", unless the task is given."""
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise DataError(
            f"{y.locate(bad[0])}: the label {_class_name(values[bad[0], 0])} is negative. "
            "Use --task classification if it is a class, --task regression if it is a quantity."
        )


def _regression_targets(found: Source, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return y (n, k) of each split for regression, as floating-point numbers."""
    width = values["train"].shape[1]
    for split, (_, y) in found.splits.items():
        if values[split].shape[1] != width or values[split].dtype.kind == "U":
            raise DataError(f"{y.name}: expected {width} numbers per row, as in train.")
    return {
        split: y if y.dtype.kind == "f" else y.astype(np.float64) for split, y in values.items()
    }


def _class_numbers(y: Table, values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the position of each label in the sorted `classes`: (n,) int64."""
    if values.shape[1] != 1 or (values.dtype.kind == "U") != (classes.dtype.kind == "U"):
        raise DataError(f"{y.name}: expected one label per row, of the same kind as in train.")
    labels = values[:, 0]
    # Those that are not in `classes` get the position of another, and are found below.
    numbers = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    bad = np.flatnonzero(classes[numbers] != labels)
    if len(bad):
        raise DataError(
            f"{y.locate(bad[0])}: the label {_class_name(labels[bad[0]])} is none of the "
            f"{len(classes)} classes of train."
        )
    return numbers.astype(np.int64)


def _class_name(value: Any) -> str:
    """Return a label as text: 7 for 7.0."""
    value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # An unpaired surrogate could not be stored as UTF-8.
    return str(value).encode("utf-8", "replace").decode()
