"""How labels are interpreted: as classes, as independent labels, or as targets of a regression.

One rule for every kind of source: text, integers in one column, and one-hot rows are
classes; rows of 0 and 1 that are not one-hot are independent labels; anything else is a target
of a regression; `--task` overrides all. The classes are those that occur in the training set,
in sorted order, or in that of an enumeration.

Text is looked at as numbers of words: a label is then one number, whatever its length.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.data.table_columns import is_number
from distbp.data.tables import NOT_UTF8, Source, Table
from distbp.errors import ConfigError, DataError

_COUNTED_RANGE = 1 << 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferredTask:
    """How the labels are interpreted.

    Attributes
    ----------
    task : {"classification", "multilabel", "regression"}
    classes : list of str
        Names of the classes, or of the labels of multilabel; empty for regression.
    y : dict of arrays
        Labels of each split as the data set stores them: (n,) int64 class numbers, (n, k) uint8
        of 0 and 1 for multilabel, or (n, k) floating-point targets.
    """

    task: str
    classes: list[str]
    y: dict[str, np.ndarray]


def infer_task(
    found: Source, wanted: str | None, classes: Sequence[Any] | None = None
) -> InferredTask:
    """Interpret the labels of a source.

    Parameters
    ----------
    found : Source
    wanted : {"classification", "multilabel", "regression"}, optional
        The task that the user asked for.
    classes : sequence of str, int, float or bool, optional
        All classes, in order, if they are known: those that the labels are, or names for labels
        0, 1, …; for multilabel, names of the labels.

    Raises
    ------
    ConfigError, DataError
        The labels do not fit the task, or one another.
    """
    values = {split: _label_values(y) for split, (_, y) in found.splits.items()}
    labels = found.splits["train"][1]
    is_one_hot = all(_is_one_hot(y) for y in values.values())
    if wanted == "multilabel" or (wanted is None and not is_one_hot and _is_multilabel(values)):
        if wanted is None:
            logger.info(
                "%s has rows of 0 and 1, not one-hot: a multilabel classification. If they are "
                "quantities, use --task regression.",
                labels.name,
            )
        names = _label_names(labels, classes)
        return InferredTask("multilabel", names, _binary_labels(found, values))
    # Only if all splits are one-hot: otherwise class numbers would be mixed with targets.
    if wanted != "regression" and is_one_hot:
        words = tuple(_label_names(labels, classes))
        values = {
            split: _Labels(y.numbers.argmax(axis=1)[:, np.newaxis], words)
            for split, y in values.items()
        }
    wanted = wanted or (None if classes is None else "classification")
    if _choose_task(labels, values["train"], wanted) == "regression":
        if classes is not None:
            raise ConfigError("A regression has no classes. Leave `classes` out.")
        return InferredTask("regression", [], _regression_targets(found, values))
    known = _Classes(values["train"]) if classes is None else _GivenClasses(classes)
    if len(known.names) < 2:
        raise DataError(
            f"{labels.name}: all labels are {known.names[0]}; expected at least two classes."
        )
    y = {split: known.numbers(table, values[split]) for split, (_, table) in found.splits.items()}
    return InferredTask("classification", known.names, y)


@dataclass(frozen=True)
class _Labels:
    """The labels of a split in memory.

    Attributes
    ----------
    numbers : (n, k) array
        Finite numbers.
    words : tuple of str, optional
        The text that the numbers mean, by position.
    """

    numbers: np.ndarray
    words: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        return int(self.numbers.shape[1])

    def name(self, row: int) -> str:
        """Return the label of a row as text."""
        value = self.numbers[row, 0]
        return number_name(value) if self.words is None else self.words[value]


def _label_values(y: Table) -> _Labels:
    """Return the labels of a split."""
    values = y.read(0, len(y))
    if y.words is not None:
        return _Labels(values, y.words)
    if values.dtype.kind in "US":
        different, numbers = np.unique(values, return_inverse=True)
        if different.dtype.kind == "S":  # fixed-length bytes of HDF5 or NumPy
            try:
                different = np.strings.decode(different, "utf-8")
            except UnicodeDecodeError as failure:
                raise DataError(f"{y.name} cannot be read: {NOT_UTF8}.") from failure
        # An unpaired surrogate could not be stored as UTF-8.
        words = (word.encode("utf-8", "replace").decode() for word in different.tolist())
        return _Labels(numbers.reshape(values.shape), tuple(words))
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    y.check_finite(values, 0)
    return _Labels(values)


def _is_binary(y: _Labels) -> bool:
    """Return whether there are several labels per row, all 0 or 1."""
    if y.words is not None or y.width < 2:
        return False
    return bool(((y.numbers == 0) | (y.numbers == 1)).all())


def _is_one_hot(y: _Labels) -> bool:
    """Return whether all rows of y are one-hot, as Keras encodes classes."""
    return _is_binary(y) and bool((y.numbers.sum(axis=1) == 1).all())


def _is_multilabel(values: dict[str, _Labels]) -> bool:
    """Return whether all splits are rows of 0 and 1, and some row of train has several 1."""
    train = values["train"]
    return all(map(_is_binary, values.values())) and bool((train.numbers.sum(axis=1) > 1).any())


def _choose_task(y: Table, values: _Labels, wanted: str | None) -> str:
    """Return the task: integers and text in one column are classes."""
    is_text = values.words is not None
    if values.width > 1 and wanted == "classification":
        raise ConfigError(
            f"`--task classification`: {y.name} has {values.width} labels per row; expected one, "
            "or one-hot rows."
        )
    if is_text and (values.width > 1 or wanted == "regression"):
        raise DataError(f"{y.name} has the text {values.name(0)!r}; expected a number.")
    if wanted or values.width > 1:
        return wanted or "regression"
    if is_text:
        return "classification"
    numbers = values.numbers
    if numbers.dtype.kind == "f" and (numbers != np.floor(numbers)).any():
        return "regression"
    _check_not_negative(y, values)
    return "classification"


def _check_not_negative(y: Table, values: _Labels) -> None:
    """Refuse negative integers, which often mean "unknown", unless the task is given."""
    bad = np.flatnonzero(values.numbers < 0)
    if len(bad):
        raise DataError(
            f"{y.locate(bad[0])}: the label {values.name(bad[0])} is negative. "
            "Use --task classification if it is a class, --task regression if it is a quantity."
        )


def _regression_targets(found: Source, values: dict[str, _Labels]) -> dict[str, np.ndarray]:
    """Return y (n, k) of each split for regression, as floating-point numbers."""
    _check_widths(found, values)
    return {
        split: y.numbers if y.numbers.dtype.kind == "f" else y.numbers.astype(np.float64)
        for split, y in values.items()
    }


def _check_widths(found: Source, values: dict[str, _Labels]) -> None:
    """Raise DataError unless all splits have as many numbers per row as train."""
    width = values["train"].width
    for split, (_, y) in found.splits.items():
        if values[split].width != width or values[split].words is not None:
            raise DataError(f"{y.name}: expected {width} numbers per row, as in train.")


def _binary_labels(found: Source, values: dict[str, _Labels]) -> dict[str, np.ndarray]:
    """Return y (n, k) uint8 of each split for multilabel."""
    _check_widths(found, values)
    for split, (_, y) in found.splits.items():
        numbers = values[split].numbers
        bad = np.argwhere((numbers != 0) & (numbers != 1))
        if len(bad):
            row, column = map(int, bad[0])
            raise DataError(
                f"{y.locate(row, column)}: expected 0 or 1 for multilabel, found "
                f"{number_name(numbers[row, column])}. Correct it, or use another --task."
            )
    return {split: y.numbers.astype(np.uint8) for split, y in values.items()}


def _label_names(y: Table, given: Sequence[Any] | None = None) -> list[str]:
    """Return the names of several labels: those given, or of the columns, or their numbers."""
    if given is not None:
        names = class_names(given)
        if len(names) != y.shape[0]:
            raise ConfigError(
                f"{y.name} has {y.shape[0]} labels per row, but {len(names)} classes were given."
            )
        return names
    columns = range(y.shape[0]) if y.columns is None else y.columns
    return [str(name) for name in columns]


class _Classes:
    """The classes: the different labels of train, in the order of their numbers.

    Attributes
    ----------
    names : list of str
    """

    def __init__(self, train: _Labels) -> None:
        self._is_text = train.words is not None
        self._values = _different(train.numbers)
        self._are_positions = np.array_equal(self._values, np.arange(len(self._values)))
        if train.words is None:
            self.names = [number_name(value) for value in self._values]
        else:
            self.names = [train.words[value] for value in self._values.tolist()]

    def numbers(self, y: Table, labels: _Labels) -> np.ndarray:
        """Return the number of the class of each label: (n,) int64."""
        if labels.width != 1 or (labels.words is not None) != self._is_text:
            raise DataError(f"{y.name}: expected one label per row, of the same kind as in train.")
        found = labels.numbers[:, 0]
        if labels.words is None and self._are_positions and found.dtype == np.int64:
            numbers = found
            bad = np.flatnonzero((found < 0) | (found >= len(self._values)))
        elif labels.words is None:
            # Those that are not there get the position of another, and are found below.
            numbers = np.searchsorted(self._values, found)
            np.minimum(numbers, len(self._values) - 1, out=numbers)
            bad = np.flatnonzero(self._values[numbers] != found)
        else:
            # The words of another split may be others, in another order.
            by_name = {name: number for number, name in enumerate(self.names)}
            numbers = np.array([by_name.get(word, -1) for word in labels.words])[found]
            bad = np.flatnonzero(numbers < 0)
        if len(bad):
            raise DataError(
                f"{y.locate(bad[0])}: the label {labels.name(bad[0])} is not one of the "
                f"{len(self.names)} classes of train. Correct it or remove the row."
            )
        return numbers.astype(np.int64, copy=False)


def _different(numbers: np.ndarray) -> np.ndarray:
    """Return the different numbers, in sorted order."""
    if numbers.dtype == np.int64:
        low = numbers.min()
        # In a small range, as of classes, it is faster to count than to sort.
        if 0 <= int(numbers.max()) - int(low) < _COUNTED_RANGE:
            numbers = numbers if low == 0 else numbers - low
            found: np.ndarray = np.flatnonzero(np.bincount(numbers.reshape(-1))) + low
            return found
    return np.unique(numbers)


class _GivenClasses:
    """Classes that the caller has named, in the caller's order.

    Attributes
    ----------
    names : list of str
    """

    def __init__(self, classes: Sequence[Any]) -> None:
        self.names = class_names(classes)
        self._number_of = {name: number for number, name in enumerate(self.names)}
        self._are_names = all(isinstance(one, str) for one in classes)

    def numbers(self, y: Table, labels: _Labels) -> np.ndarray:
        """Return the number of the class of each label: (n,) int64."""
        if labels.width != 1:
            raise DataError(f"{y.name}: expected one label per row.")
        found = labels.numbers[:, 0]
        if labels.words is None and self._are_names:  # of the labels 0, 1, …
            is_position = (found >= 0) & (found < len(self.names)) & (found == np.floor(found))
            numbers = np.where(is_position, found, -1)
        elif labels.words is None:
            values, indices = np.unique(found, return_inverse=True)
            known = [self._number_of.get(number_name(value), -1) for value in values]
            numbers = np.array(known)[indices]
        else:
            numbers = np.array([self._number_of.get(word, -1) for word in labels.words])[found]
        if (numbers < 0).any():
            row = int((numbers < 0).argmax())
            raise DataError(
                f"{y.locate(row)}: the label {labels.name(row)} is not one of the "
                f"{len(self.names)} classes that were given. Correct it or remove the row."
            )
        return numbers.astype(np.int64)


def class_names(classes: Sequence[Any]) -> list[str]:
    """Return the names of classes that a caller has given.

    Raises
    ------
    ConfigError
        They are not different names or numbers.
    """
    values = np.asarray(classes)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "biufU":
        raise ConfigError("`classes`: expected a list of names or numbers.")
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    names = [str(one) if values.dtype.kind == "U" else number_name(one) for one in values]
    if len(set(names)) < len(names):
        raise ConfigError("`classes` names a class twice. Name each once.")
    return names


def labels_for_model(y: Table, task: str, classes: Sequence[str], n_out: int) -> np.ndarray:
    """Return labels as a data set with these classes stores them.

    Parameters
    ----------
    y : Table
    task : {"classification", "multilabel", "regression"}
    classes : sequence of str
    n_out : int
        Outputs of the model.

    Raises
    ------
    DataError
        They are no labels of the model.
    """
    labels = _label_values(y)
    if task == "classification" and _is_one_hot(labels):
        labels = _Labels(labels.numbers.argmax(axis=1)[:, np.newaxis], tuple(_label_names(y)))
    width = 1 if task == "classification" else n_out
    if labels.width != width or (labels.words is not None and task != "classification"):
        raise DataError(
            f"{y.name} has {labels.width} {'texts' if labels.words else 'numbers'} a row; the "
            f"model is for {task} with {width} {'label' if width == 1 else 'numbers'} a row."
        )
    if task == "classification":
        return _positions(y, labels, classes)
    source, values = Source({"train": (y, y)}), {"train": labels}
    found = _binary_labels if task == "multilabel" else _regression_targets
    return found(source, values)["train"]


def _positions(y: Table, labels: _Labels, classes: Sequence[str]) -> np.ndarray:
    """Return the positions of labels among the classes of a model: (n,) int64."""
    words, numbers = labels.words, labels.numbers[:, 0]
    if words is None:
        different, numbers = np.unique(numbers, return_inverse=True)
        words = tuple(number_name(value) for value in different)
    positions = {name: i for i, name in enumerate(classes)}
    found = np.array([positions.get(word, -1) for word in words], np.int64)[numbers]
    if (found < 0).any():
        row = int((found < 0).argmax())
        raise DataError(
            f"{y.locate(row)}: the label {words[numbers[row]]} is not one of the model's "
            f"{len(classes)} classes. Correct it or remove the row."
        )
    return found


def is_value_name(name: str) -> bool:
    """Return whether a class is called as the number that it is: `7`, not `007` or `7.0`.

    Those can be compared by value; a large integer is not what float64 makes of it.
    """
    return is_number(name) and number_name(np.float64(name)) == name


def number_name(value: Any) -> str:
    """Return a number as text: 7 for 7.0."""
    value = value.item()
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
