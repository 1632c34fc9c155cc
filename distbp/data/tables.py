"""Tables of rows: what a reader of a source yields, and what the user says about it.

A reader opens a file or folder and yields a `Source`: for each split a table x and a table
y. A `Table` is an array, or an HDF5 dataset that is read block by block, and knows how to
name a row in an error message. Which kinds of files there are, and what the labels are, is
not known here.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.data.profile import TableProfile
from distbp.data.spool import Spool
from distbp.data.table_options import TableOptions
from distbp.errors import DataError
from distbp.options import option
from distbp.storage import atomic
from distbp.storage.preprocessing import TARGET_TRANSFORMS, Preprocessing

# What reading a file may raise, and what NumPy and h5py raise on a damaged one.
FILE_ERRORS = (OSError, EOFError, MemoryError, zlib.error)
_LIBRARY_ERRORS = (
    *FILE_ERRORS,
    KeyError,
    OverflowError,
    RuntimeError,  # and NotImplementedError: an unknown compression method
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


TASKS = ("classification", "multilabel", "regression")
NOT_UTF8 = "its text is not UTF-8: store it as UTF-8"
_MISSING_CHOICES = ("error", "mean", "median", "drop")
MAX_CATEGORIES = 256
SCALINGS = ("auto", "bytes", "standardize", "none")
TARGET_SCALINGS = ("auto", "standardize", "none")


def _dataset(contents: str) -> Any:
    return option(None, f"dataset with {contents}", group="HDF5 files", metavar="NAME")


def _of_table(default: Any, help: str, default_text: str | None = None, **more: Any) -> Any:
    return option(default, help, group="tables", default_text=default_text, **more)


@dataclass(frozen=True)
class ImportOptions(TableOptions):
    """What the user may say about a source; None: not given.

    Attributes
    ----------
    label : str, optional
        Tables: names or numbers of the label columns, separated by commas.
    categorical : str, optional
        Tables: names or numbers of columns of numbers that are categories.
    max_categories : int, optional
        Tables: how many categories a column may have.
    missing : {"error", "mean", "median", "drop"}, optional
        Tables: what to do with missing cells.
    missing_indicator : bool, optional
        Tables: whether an input says that a cell is missing.
    target_transform : {"none", "log"}, optional
        Tables: what is done to the targets of a regression.
    group, time, split : str, optional
        Tables: the column that says how rows are split.
    x, y, x_test, y_test, x_validation, y_validation : str, optional
        HDF5: names of datasets.
    transpose : bool, optional
        HDF5: whether the last dimension of x numbers the examples, not the first.
    task : {"classification", "multilabel", "regression"}, optional
    scaling : {"auto", "bytes", "standardize", "none"}
    target_scaling : {"auto", "standardize", "none"}
        Of a regression.
    weight : str, optional
        The column, dataset or array with the weights of the training rows.
    test_fraction, validation_fraction : float, optional
        Fraction of the rows to set aside as a test or validation set.
    seed : int, optional
        Of the random choice of these rows; 0 if not given.
    """

    label: str | None = _of_table(
        None, "label column, by name or number from 0; several, such as a,b, for a regression "
        "or multilabel",
        "the last column", metavar="LIST", is_common=True,
    )  # fmt: skip
    categorical: str | None = _of_table(
        None, "columns of numbers that are categories, such as codes", "columns of text",
        metavar="LIST",
    )  # fmt: skip
    max_categories: int | None = _of_table(
        None, "largest number of categories of a column", str(MAX_CATEGORIES), parse=int, least=2
    )
    missing: str | None = _of_table(
        None, "what to do with missing cells: fill in the mean or median of the training rows, "
        "and for text the most frequent one; or drop their rows", "error",
        choices=_MISSING_CHOICES, is_common=True,
    )  # fmt: skip
    missing_indicator: bool | None = _of_table(
        None, "give the network a further input that says that a cell was missing", "off"
    )
    target_transform: str | None = _of_table(
        None, "what to train on instead of the targets of a regression; log: their logarithm",
        "none", choices=TARGET_TRANSFORMS,
    )  # fmt: skip
    group: str | None = _of_table(
        None, "column whose rows of one value, such as a patient, stay in one split", "none",
        metavar="COLUMN",
    )  # fmt: skip
    time: str | None = _of_table(
        None, "column to order rows by: the latest are held out", "none",
        metavar="COLUMN",
    )  # fmt: skip
    split: str | None = _of_table(
        None, "column that says train, validation or test", "none", metavar="COLUMN"
    )
    x: str | None = _dataset("the training rows")
    y: str | None = _dataset("the training labels")
    x_test: str | None = _dataset("the test rows")
    y_test: str | None = _dataset("the test labels")
    x_validation: str | None = _dataset("the validation rows")
    y_validation: str | None = _dataset("the validation labels")
    transpose: bool | None = option(
        None, "whether x holds a column for each example, not a row", group="HDF5 files",
        default_text="only in MATLAB's files, by the number of labels",
    )  # fmt: skip
    task: str | None = option(
        None, "what the labels are", group="data set", is_common=True, choices=TASKS,
        default_text="by the labels: names and whole numbers are classes",
    )  # fmt: skip
    scaling: str = option(
        "auto", "scaling of the network's input: x/255, or to mean 0 and variance 1; auto: bytes "
        "for uint8, otherwise standardize",
        group="data set", choices=SCALINGS,
    )  # fmt: skip
    target_scaling: str = option(
        "auto", "scaling of a regression's targets in training, to mean 0 and variance 1, while "
        "costs and predictions stay in your units; auto: standardize",
        group="data set", choices=TARGET_SCALINGS,
    )  # fmt: skip
    weight: str | None = option(
        None, "column of a table, HDF5 dataset or array of an .npz file with the weights of the "
        "training rows: how often a row counts in the training, not in evaluations",
        group="data set", default_text="none: all rows alike", metavar="NAME",
    )  # fmt: skip
    test_fraction: float | None = option(
        None, "fraction of the rows to set aside as the test split, class by class", float,
        group="data set", is_common=True,
    )  # fmt: skip
    validation_fraction: float | None = option(
        None, "fraction of the rows to set aside as the validation split", float,
        group="data set",
    )  # fmt: skip
    seed: int | None = option(
        None, "seed of the random choice of these rows", int, group="data set",
        default_text="0",
    )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of numbers or names: x or y of a split.

    Attributes
    ----------
    values : (n, ...) array or h5py.Dataset
    name : str
        For messages: the file, and the array in it.
    find : function of a row's number, optional
        Returns where the row is, for messages; by default the number itself.
    columns : sequence, optional
        The names of the numbers in a row.
    words : tuple of str, optional
        The text that the numbers in `values` mean, by position; each is there once.
    """

    values: Any
    name: str
    find: Callable[[int], str] | None = None
    columns: Sequence[str] | None = None
    words: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return int(self.values.shape[0]) if self.values.shape else 0

    @property
    def dtype(self) -> np.dtype:
        """Type of a number, without HDF5's metadata."""
        return np.dtype(self.values.dtype.str)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row; (1,) if rows are single numbers."""
        return tuple(self.values.shape[1:]) or (1,)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop): (stop - start, ...)."""
        with wrap_source_errors(self.name):
            # HDF5 may give a subclass or a type with metadata.
            rows = np.asarray(self.values[start:stop], self.dtype)
        return rows.reshape(len(rows), *self.shape)

    def read_finite(self, start: int, stop: int, keep: np.ndarray | None) -> np.ndarray:
        """Return the rows [start, stop), or those for which `keep` is true: (m, ...).

        Raises
        ------
        DataError
            A number is not finite.
        """
        # Rows that are computed when they are read, which checks them, are computed if needed.
        if read_rows := getattr(self.values, "read_rows", None):
            computed: np.ndarray = read_rows(start, stop, keep)
            return computed
        rows = self.read(start, stop)
        self.check_finite(rows, start)
        return rows if keep is None else rows[keep]

    def check_finite(self, rows: np.ndarray, start: int) -> None:
        """Raise DataError if `rows`, from row `start` on, have a number that is not finite."""
        if rows.dtype.kind != "f" or np.isfinite(rows).all():
            return
        flat = rows.reshape(len(rows), -1)
        row, column = (int(number) for number in np.argwhere(~np.isfinite(flat))[0])
        raise DataError(
            f"{self.locate(start + row, column)}: expected a finite number, found "
            f"{flat[row, column]}. Correct the value or remove the row."
        )

    def check_not_transposed(self, labels: "Table", remedy: str) -> None:
        """Raise DataError if there are as many columns as labels, and another number of rows."""
        shape, n = self.values.shape, len(labels)
        if len(shape) > 1 and shape[0] != n == shape[-1]:
            raise DataError(
                f"{self.name} has the shape {shape}, and there are {n} labels: it holds a column "
                f"for each example, not a row. {remedy}"
            )

    def locate(self, row: int, column: int | None = None) -> str:
        """Return where a row is, or a number in it, for an error message."""
        text = f"{self.name}, row {row}" if self.find is None else self.find(int(row))
        if column is not None:
            text += f", column {column if self.columns is None else repr(self.columns[column])}"
        return text


@dataclass(frozen=True)
class TableContent:
    """What a source that is a table knows beside its rows.

    Attributes
    ----------
    encode : function of is_train (n,) bool
        Returns x as the network gets it, and how it was made; statistics are those of the rows
        for which `is_train` is true.
    profile : TableProfile
        What is in the columns.
    spool : Spool
        A number for each cell of these columns.
    keys : dict of (n,) arrays
        Of the columns that `--group`, `--time`, `--split` and `--weight` name: numbers.
    labels : tuple of str
        Names of the label columns.
    """

    encode: Callable[[np.ndarray], tuple[Table, Preprocessing]]
    profile: TableProfile
    spool: Spool
    keys: dict[str, np.ndarray]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What a reader yields: (x, y) of each split.

    Attributes
    ----------
    splits : dict of (x, y)
    content : TableContent, optional
        If it is a table; then there is one split, whose x is not encoded yet.
    weights : Table, optional
        Of the rows of train, one number each.
    """

    splits: dict[str, tuple[Table, Table]]
    content: TableContent | None = None
    weights: Table | None = None


@contextmanager
def wrap_source_errors(
    name: object, errors: tuple[type[Exception], ...] = _LIBRARY_ERRORS
) -> Iterator[None]:
    """Raise `errors` in the block as a DataError that says why `name` cannot be read."""
    try:
        yield
    except errors as failure:
        reason = atomic.failure_reason(failure)
        raise DataError(f"{name} cannot be read: {reason}.") from failure
