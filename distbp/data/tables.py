"""What an importer reads: tables of rows, and the words that say where a row is.

A reader opens what the user named and yields a `Source`: for each split a table x
and a table y. A `Table` is an array, or an HDF5 dataset that is read by blocks.
Which kinds of files there are, and what the rows mean, is not known here.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.errors import DataError
from distbp.storage import atomic

ProgressCallback = Callable[[float], None]  # told how many bytes of the source have been read

# What a file may do to its reader, and what a damaged one does to NumPy and h5py.
FILE_FAILS = (OSError, EOFError, MemoryError, zlib.error)
LIBRARY_FAILS = (
    *FILE_FAILS,
    KeyError,
    OverflowError,
    RuntimeError,  # so also NotImplementedError: an unknown way of packing
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class ImportOptions:
    """What a user may say about a source; None is "not said".

    Attributes
    ----------
    label : str, optional
        CSV: names or numbers of the label columns, separated by commas.
    header : bool, optional
        CSV: whether the first line names the columns.
    x, y, x_test, y_test, x_validation, y_validation : str, optional
        HDF5: names of datasets.
    task : {"classification", "regression"}, optional
    scaling : {"auto", "bytes", "standardize", "none"}
    test_fraction : float, optional
        Part of the rows to set aside as a test set.
    seed : int, optional
        Of the rows that `test_fraction` picks; 0 where it is not said.
    """

    label: str | None = None
    header: bool | None = None
    x: str | None = None
    y: str | None = None
    x_test: str | None = None
    y_test: str | None = None
    x_validation: str | None = None
    y_validation: str | None = None
    task: str | None = None
    scaling: str = "auto"
    test_fraction: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Table:
    """Rows of numbers or names: x or y of a split.

    Attributes
    ----------
    values : (n, ...) array or h5py.Dataset
    name : str
        What a user calls it.
    lines : sequence of int, optional
        The rows' line numbers in a CSV file.
    columns : sequence, optional
        The columns' names, or their numbers, in a CSV file.
    """

    values: Any
    name: str
    lines: Sequence[int] | None = None
    columns: Sequence[str | int] | None = None

    def __len__(self) -> int:
        return int(self.values.shape[0]) if self.values.shape else 0

    @property
    def dtype(self) -> np.dtype:
        """The type of a number, without HDF5's remarks on it."""
        return np.dtype(self.values.dtype.str)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row; (1,) where rows are single numbers."""
        return tuple(self.values.shape[1:]) or (1,)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop): (stop - start, ...)."""
        with reading(self.name):
            rows = np.asarray(self.values[start:stop], self.dtype)
        return rows.reshape(len(rows), *self.shape)

    def check_finite(self, rows: np.ndarray, start: int) -> None:
        """Raise DataError where a number in `rows`, which begin at row `start`, is not finite."""
        if rows.dtype.kind != "f" or np.isfinite(rows).all():
            return
        flat = rows.reshape(len(rows), -1)
        row, column = (int(number) for number in np.argwhere(~np.isfinite(flat))[0])
        raise DataError(
            f"{self.place(start + row, column)}: expected a finite number, found "
            f"{flat[row, column]}. Mend the value or leave out the row."
        )

    def place(self, row: int, column: int | None = None) -> str:
        """Say where a row is, or a number in it, for an error message."""
        text = f"row {row}" if self.lines is None else f"line {self.lines[row]}"
        if column is not None:
            text += f", column {column if self.columns is None else self.columns[column]!r}"
        return f"{self.name}, {text}"


@dataclass(frozen=True)
class Source:
    """What a reader found: (x, y) of each split, and the features' names if any."""

    splits: dict[str, tuple[Table, Table]]
    columns: list[str] | None = None


@contextmanager
def reading(name: object, fails: tuple[type[Exception], ...] = LIBRARY_FAILS) -> Iterator[None]:
    """Turn whatever goes wrong when bytes are read and unpacked into a DataError."""
    try:
        yield
    except fails as failure:
        why = "not enough memory" if isinstance(failure, MemoryError) else atomic.reason(failure)
        raise DataError(f"{name} cannot be read: {why}.") from failure
