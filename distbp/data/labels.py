"""What the labels of a source are: classes with names, or quantities.

One rule for every kind of source: names, whole numbers in one column, and rows with a
single 1 among zeros are classes; anything else is a quantity; what the user says goes
before both. The classes are those of the training set, in sorted order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.data.tables import Source, Table, reading
from distbp.errors import ConfigError, DataError


@dataclass(frozen=True)
class Meaning:
    """What the labels are: the task, the classes' names, and y of each split as stored."""

    task: str
    classes: list[str]
    y: dict[str, np.ndarray]


def infer_task(found: Source, wanted: str | None) -> Meaning:
    """Return what the labels are; `wanted` is the task that the user asked for."""
    values = {split: label_values(y) for split, (_, y) in found.splits.items()}
    labels = found.splits["train"][1]
    if wanted != "regression" and all(is_one_hot(y) for y in values.values()):
        values = {split: y.argmax(axis=1)[:, np.newaxis] for split, y in values.items()}
    if task_of(labels, values["train"], wanted) == "regression":
        return Meaning("regression", [], targets(found, values))
    classes = np.unique(values["train"])
    if len(classes) < 2:
        raise DataError(f"{labels.name}: all labels are {classes[0]}; expected two classes.")
    y = {
        split: class_numbers(table, values[split], classes)
        for split, (_, table) in found.splits.items()
    }
    return Meaning("classification", [class_name(value) for value in classes], y)


def label_values(y: Table) -> np.ndarray:
    """Return the labels of a split in memory: finite numbers (n, k), or text (n, 1)."""
    values = y.read(0, len(y))
    if values.dtype.kind == "S":
        with reading(y.name):
            values = np.strings.decode(values, "utf-8")
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    y.check_finite(values, 0)
    return values


def is_one_hot(y: np.ndarray) -> bool:
    """Return whether all rows of y (n, k) are a single 1 among zeros, as Keras has classes."""
    if y.dtype.kind == "U" or y.shape[1] < 2:
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def task_of(y: Table, values: np.ndarray, wanted: str | None) -> str:
    """Return the task: whole numbers and names in one column are classes."""
    is_text, width = values.dtype.kind == "U", values.shape[1]
    if width > 1 and wanted == "classification":
        raise ConfigError(
            f"`--task classification`: {y.name} has {width} labels a row; expected one, or a "
            "single 1 among zeros."
        )
    if is_text and (width > 1 or wanted == "regression"):
        raise DataError(f"{y.name} has the name {str(values[0, 0])!r}, where a quantity has to be.")
    if wanted or width > 1:
        return wanted or "regression"
    if is_text:
        return "classification"
    if (values != np.floor(values)).any():
        return "regression"
    check_not_negative(y, values)
    return "classification"


def check_not_negative(y: Table, values: np.ndarray) -> None:
    """Refuse whole numbers below 0, which often mean "unknown", unless the task is said."""
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise DataError(
            f"{y.place(bad[0])}: the label {class_name(values[bad[0], 0])} is negative. "
            "Use --task classification if it is a class, --task regression for a quantity."
        )


def targets(found: Source, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return y (n, k) of each split for regression, as floating-point numbers."""
    width = values["train"].shape[1]
    for split, (_, y) in found.splits.items():
        if values[split].shape[1] != width or values[split].dtype.kind == "U":
            raise DataError(f"{y.name}: expected {width} numbers a row, as in train.")
    return {
        split: y if y.dtype.kind == "f" else y.astype(np.float64) for split, y in values.items()
    }


def class_numbers(y: Table, values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the place of each label in the sorted `classes`: (n,) int64."""
    if values.shape[1] != 1 or (values.dtype.kind == "U") != (classes.dtype.kind == "U"):
        raise DataError(f"{y.name}: expected one label a row, of the same kind as in train.")
    labels = values[:, 0]
    numbers = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    bad = np.flatnonzero(classes[numbers] != labels)
    if len(bad):
        raise DataError(
            f"{y.place(bad[0])}: the label {class_name(labels[bad[0]])} is none of the "
            f"{len(classes)} classes of train."
        )
    return numbers.astype(np.int64)


def class_name(value: Any) -> str:
    """Return a label as text: 7 for 7.0."""
    value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).encode("utf-8", "replace").decode()
