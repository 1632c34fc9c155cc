"""Columns of numbers in a temporary file.

For sources that take long to parse and need not fit into memory: they are parsed once, and the
numbers are read as often as needed. They are stored in blocks of rows, in each column by column:
what is done to a column is done to contiguous numbers. What they mean is not known here.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from distbp.errors import DataError
from distbp.storage import atomic

BLOCK_NUMBERS = 1 << 20  # of a block
_LONG_COLUMN = 1 << 13  # numbers of a column in a block that are worth a reading of their own


class Spool:
    """Columns of float64 numbers in a file without a name; a context manager.

    All blocks have the same number of rows. The rows of the last one, while it is not full, are
    in memory.

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
        self._last = np.empty((width, max(1, BLOCK_NUMBERS // width)))
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

    @property
    def block_rows(self) -> int:
        """Rows of a block, the last of which may have fewer."""
        return self._last.shape[1]

    def append(self, columns: Sequence[np.ndarray]) -> None:
        """Add rows at the end, given as one array (m,) for each column."""
        rows, done = len(columns[0]), 0
        while done < rows:
            at = self._rows % self.block_rows
            count = min(rows - done, self.block_rows - at)
            for numbers, new in zip(self._last, columns, strict=True):
                numbers[at : at + count] = new[done : done + count]
            if at + count == self.block_rows:
                self._write(self._last.reshape(-1).data.cast("B"))
            self._rows += count
            done += count

    def _write(self, content: memoryview) -> None:
        with self._errors():
            while content:
                content = content[self._file.write(content[: atomic.WRITE_BYTES]) :]

    def clear(self) -> None:
        """Remove all rows."""
        self._rows = 0
        with self._errors():
            self._file.seek(0)
            self._file.truncate()

    def read(self, start: int, stop: int, columns: Sequence[int] | None = None) -> np.ndarray:
        """Return some columns, or all, of the rows [start, stop): (columns, stop - start)."""
        wanted = list(range(self.width) if columns is None else columns)
        stop = min(stop, self._rows)
        found = np.empty((len(wanted), max(0, stop - start)))
        done = 0
        while start + done < stop:
            number, at = divmod(start + done, self.block_rows)
            count = min(self.block_rows - at, stop - start - done)
            self._read_block(number, wanted, at, found[:, done : done + count])
            done += count
        return found

    def _read_block(self, number: int, columns: list[int], at: int, out: np.ndarray) -> None:
        """Fill `out` (columns, m) with rows of a block, from its row `at` on."""
        stop = at + out.shape[1]
        if number == self._rows // self.block_rows:
            out[...] = self._last[columns, at:stop]
            return
        start = number * self.width * self.block_rows
        if self.block_rows >= _LONG_COLUMN:
            for numbers, j in zip(out, columns, strict=True):
                self._fill(numbers, start + j * self.block_rows + at)
        elif columns:
            # Of many columns with few numbers, all are read at once.
            first = min(columns)
            part = np.empty((max(columns) + 1 - first, self.block_rows))
            self._fill(part.reshape(-1), start + first * self.block_rows)
            out[...] = part[[j - first for j in columns], at:stop]

    def _fill(self, out: np.ndarray, number: int) -> None:
        """Read numbers of the file from the one at `number` on."""
        content, offset = out.data.cast("B"), number * out.itemsize
        with self._errors():
            while content:
                count = os.preadv(self._file.fileno(), [content], offset)
                if not count:
                    raise OSError("the temporary file is too short")
                content, offset = content[count:], offset + count

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows in blocks, each with the number of its first row."""
        for start in range(0, self._rows, self.block_rows):
            yield start, self.read(start, start + self.block_rows, columns)

    def column(self, number: int, dtype: Any = np.float64) -> np.ndarray:
        """Return one number of each row: (n,)."""
        values = np.empty(self._rows, dtype)
        for start, rows in self.blocks([number]):
            values[start : start + rows.shape[1]] = rows[0]
        return values

    def keep(self, kept: np.ndarray) -> "Spool":
        """Return a spool of the rows for which `kept` (n,) is true; this one is closed."""
        with self:
            result = Spool(self._folder, self.width)
            for start, rows in self.blocks():
                result.append([*rows[:, kept[start : start + rows.shape[1]]]])
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
        return self._spool.read(rows.start, rows.stop, self._columns).T
