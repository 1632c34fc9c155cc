"""Sums of squares of targets about their mean, for R², in limited memory.

The order of additions is a function of the number of rows alone, and up to `_PART_NUMBERS` that
of NumPy's `sum`: so the result is the same on any number of ranks, wherever the targets are.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distbp.data.spool import Spool

_PART_NUMBERS = 1 << 22  # that are in memory at once, as float64

ReadRows = Callable[[int, int], np.ndarray]  # (start, stop) -> (stop - start, k)


def target_variation(read: ReadRows, rows: int, scale: np.ndarray | None = None) -> np.ndarray:
    """Return Σ(y − ȳ)² of each output: (k,).

    Parameters
    ----------
    read : function of (start, stop)
        Returns these rows of the targets y.
    rows : int
    scale : (k,) array, optional
        By which the targets are multiplied first.
    """
    first = read(0, 1).astype(np.float64)

    def values(start: int, stop: int) -> np.ndarray:
        y = read(start, stop).astype(np.float64)
        # The mean of equal numbers is not always that number, but the mean of zeros is 0.
        y -= first
        if scale is not None:
            y *= scale
        return y

    width = first.shape[1]
    mean = _sum(values, rows, width) / rows
    return _sum(lambda start, stop: np.square(values(start, stop) - mean), rows, width)


def _sum(term: ReadRows, rows: int, width: int) -> np.ndarray:
    """Return the sum of all rows of `term`, in NumPy's order since version 2.3: (width,)."""
    part = max(_PART_NUMBERS // width, 1)
    if width == 1:
        return _pairwise_sum(term, 0, rows, part)
    # One row after the other.
    total = term(0, min(part, rows)).sum(axis=0)
    for start in range(part, rows, part):
        block = term(start, min(start + part, rows))
        block[0] += total
        total = block.sum(axis=0)
    return total


def _pairwise_sum(term: ReadRows, start: int, count: int, part: int) -> np.ndarray:
    """Return the sum of `count` rows of one number, halved as NumPy's pairwise summation does."""
    if count <= part:
        return term(start, start + count).sum(axis=0)
    half = count // 2
    half -= half % 8
    return _pairwise_sum(term, start, half, part) + _pairwise_sum(
        term, start + half, count - half, part
    )


class CollectedRows:
    """Rows of numbers that are appended, in memory while they are few, and then in a file.

    Parameters
    ----------
    width : int
        Numbers per row.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._parts = [np.empty((0, width))]
        self._spool: Spool | None = None
        self._count = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows (m, width), or (m,), at the end."""
        self._count += len(rows)
        self._parts.append(rows.reshape(len(rows), self._width))
        if self._count * self._width > _PART_NUMBERS:
            if self._spool is None:
                self._spool = Spool(Path(tempfile.gettempdir()), self._width)
            for part in self._parts:
                self._spool.append([*part.T])
            self._parts.clear()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop) as float64: (stop - start, width)."""
        if self._spool is not None:
            # In C order, as that of additions depends on it.
            return np.ascontiguousarray(self._spool.read(start, stop).T)
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0][start:stop].astype(np.float64)

    def close(self) -> None:
        """Remove the file, if there is one."""
        if self._spool is not None:
            self._spool.close()
