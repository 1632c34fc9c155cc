"""Rows of numbers in a temporary file.

For sources that take long to parse and need not fit into memory: they are parsed once, and the
numbers are read as often as needed. What the numbers mean is not known here.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from distbp.errors import DataError
from distbp.storage import atomic

BLOCK_NUMBERS = 1 << 20  # to read at once
_ITEM_BYTES = np.dtype(np.float64).itemsize


class Spool:
    """Rows of float64 numbers in a file without a name; a context manager.

    Parameters
    ----------
    folder : Path
        Where the file is, as the usual place for temporary files may be in memory.
    width : int
        Numbers per row.

    Raises
    ------
    DataError
        The file cannot be written, as when the disk is full.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self._folder, self.width = folder, width
        self._rows = 0
        with self._errors():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - see close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: np.ndarray) -> None:
        """Add rows (m, width) at the end."""
        if not len(rows):
            return
        content = np.ascontiguousarray(rows, np.float64).data.cast("B")
        with self._errors():
            # The system writes at most 2 GiB at once.
            while content:
                content = content[self._file.write(content) :]
        self._rows += len(rows)

    def clear(self) -> None:
        """Remove all rows."""
        self._rows = 0
        with self._errors():
            self._file.seek(0)
            self._file.truncate()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop): (stop - start, width)."""
        rows = np.empty((max(0, min(stop, self._rows) - start), self.width))
        content, offset = rows.reshape(-1).data.cast("B"), start * self.width * _ITEM_BYTES
        with self._errors():
            while content:
                count = os.preadv(self._file.fileno(), [content], offset)
                if not count:
                    raise OSError("the temporary file is too short")
                content, offset = content[count:], offset + count
        return rows

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows in blocks, each with the number of its first row."""
        step = max(1, BLOCK_NUMBERS // self.width)
        for start in range(0, self._rows, step):
            yield start, self.read(start, start + step)

    def column(self, number: int) -> np.ndarray:
        """Return one number of each row: (n,)."""
        values = np.empty(self._rows)
        for start, rows in self.blocks():
            values[start : start + len(rows)] = rows[:, number]
        return values

    def keep(self, kept: np.ndarray) -> "Spool":
        """Return a spool of the rows for which `kept` (n,) is true; this one is closed."""
        with self:
            result = Spool(self._folder, self.width)
            for start, rows in self.blocks():
                result.append(rows[kept[start : start + len(rows)]])
        return result

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise DataError(
                f"A temporary file in {self._folder} cannot be used: "
                f"{atomic.failure_reason(failure)}. Free space there, or write elsewhere."
            ) from failure


class SpoolColumns:
    """Some columns of a spool, as an array of rows."""

    dtype = np.dtype(np.float64)

    def __init__(self, spool: Spool, columns: list[int]) -> None:
        self._spool, self._columns = spool, columns
        self.shape = (len(spool), len(columns))

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._spool.read(rows.start, rows.stop)[:, self._columns]
