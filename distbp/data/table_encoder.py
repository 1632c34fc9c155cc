"""From the numbers in a spool to a network's inputs, by statistics of the training rows.

`fit_preprocessing` decides what each column becomes. The `RowEncoder` of its result encodes rows
when they are read, so that all of them need not fit into memory.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distbp.data.profile import ColumnProfile, TableProfile
from distbp.data.spool import Spool
from distbp.data.table_columns import Column
from distbp.data.tables import ImportOptions
from distbp.errors import DataError
from distbp.storage.preprocessing import Feature, Locate, Preprocessing

_MEDIAN_NUMBERS = 1 << 24  # of several columns in memory at once
_LARGEST_BYTE = 255
_SHOWN = 8

logger = logging.getLogger(__name__)


class _TrainingStatistics:
    """What the training rows say of each column, in one pass over them.

    Attributes
    ----------
    rows : int
    count : (k,) int
        Cells that are not missing.
    low, high, mean : (k,) float
        NaN if there are none.
    frequencies : dict of arrays
        How often each word occurs, for columns of text.
    frequencies_elsewhere : dict of arrays
        The same in the other rows.
    """

    def __init__(self, spool: Spool, is_train: np.ndarray, n_words: Mapping[int, int]) -> None:
        width = spool.width
        self.rows = int(is_train.sum())
        self.count = np.zeros(width, np.int64)
        self.low, self.high = np.full(width, np.nan), np.full(width, np.nan)
        self.frequencies = {j: np.zeros(n, np.int64) for j, n in n_words.items()}
        self.frequencies_elsewhere = {j: np.zeros(n, np.int64) for j, n in n_words.items()}
        total, origin = np.zeros(width), np.zeros(width)
        for start, rows in spool.blocks():
            is_here = is_train[start : start + len(rows)]
            _count_words(self.frequencies_elsewhere, rows[~is_here])
            rows = rows[is_here]
            _count_words(self.frequencies, rows)
            if not len(rows):
                continue
            # Differences from the first row are added: sums of large numbers, as of dates, round.
            if not self.count.any():
                origin = np.nan_to_num(rows[0], posinf=0.0, neginf=0.0)
            there = ~np.isnan(rows)
            self.count += there.sum(axis=0)
            self.low = np.fmin(self.low, np.fmin.reduce(rows))
            self.high = np.fmax(self.high, np.fmax.reduce(rows))
            with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused later
                total += np.where(there, rows - origin, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            self.mean = origin + total / np.maximum(self.count, 1)

    def is_constant(self, j: int) -> bool:
        """Return whether all cells of a column that are not missing are equal, or none is left."""
        return bool(self.count[j] == 0 or self.low[j] == self.high[j])

    def has_missing(self, j: int) -> bool:
        """Return whether a cell of a column is missing."""
        return bool(self.count[j] < self.rows)


def _count_words(frequencies: Mapping[int, np.ndarray], rows: np.ndarray) -> None:
    """Add how often each word occurs in some rows."""
    for j, counts in frequencies.items():
        found = rows[~np.isnan(rows[:, j]), j]
        counts += np.bincount(found.astype(np.int64), minlength=len(counts))


@dataclass(frozen=True)
class FittedTable:
    """What the columns of a table become.

    Attributes
    ----------
    preprocessing : Preprocessing
        Of the features that are left.
    constant : list of str
        Names of the others, which are constant in the training rows.
    columns : dict
        Number in the spool and words of each feature; None instead of words for numbers.
    is_bytes : bool
        Whether all inputs are integers from 0 to 255, and the user wants them scaled as bytes.
    """

    preprocessing: Preprocessing
    constant: list[str]
    spool: Spool
    columns: dict[str, tuple[int, tuple[str, ...] | None]]
    is_bytes: bool

    def encoder(self, locate: Locate) -> "RowEncoder":
        """Return the encoder of the rows; `locate` says where a cell is, for messages."""
        return RowEncoder(self, locate)


class RowEncoder:
    """The inputs of the rows in a spool, as an array that is computed when it is read.

    Attributes
    ----------
    shape, dtype : of the array
    preprocessing : Preprocessing
    """

    def __init__(self, fitted: FittedTable, locate: Locate) -> None:
        self._spool, self._columns, self._locate = fitted.spool, fitted.columns, locate
        self.preprocessing = fitted.preprocessing
        self.shape = (len(fitted.spool), fitted.preprocessing.n_in)
        self.dtype = np.dtype(np.uint8 if fitted.is_bytes else np.float64)

    def __getitem__(self, wanted: slice) -> np.ndarray:
        rows = self._spool.read(wanted.start, wanted.stop)
        columns = {}
        for feature in self.preprocessing.features:
            j, words = self._columns[feature.name]
            values = rows[:, j]
            if words is not None:  # indices, -1 where missing, as a reader gives them
                values = np.where(np.isnan(values), -1, values).astype(np.int64)
            columns[feature.name] = Column(feature.name, values, words)
        # Categories that no training row has are those of test rows, and warned of.
        x = self.preprocessing.encode(
            columns, "ignore", lambda row, name: self._locate(wanted.start + row, name)
        )
        return x.astype(self.dtype, copy=False)


def fit_preprocessing(
    spool: Spool,
    profile: TableProfile,
    words: Mapping[str, tuple[str, ...]],
    is_train: np.ndarray,
    options: ImportOptions,
    labels: Sequence[str],
) -> FittedTable:
    """Return how to encode the features, with the statistics of the training rows.

    Parameters
    ----------
    spool : Spool
        A number for each column of `profile`.
    profile : TableProfile
    words : Mapping
        Of the columns of text.
    is_train : (n,) bool
    options : ImportOptions
        Says what is done about missing cells.
    labels : names of the label columns
    """
    features = {j: c for j, c in enumerate(profile.columns) if c.role == "feature"}
    n_words = {j: len(words[c.name]) for j, c in features.items() if c.name in words}
    found = _TrainingStatistics(spool, is_train, n_words)
    has_indicator = bool(options.missing_indicator)
    # A constant that is missing in places says something if the network is told where.
    constant = [
        j
        for j in features
        if found.is_constant(j) and not (has_indicator and found.count[j] and found.has_missing(j))
    ]
    kept = {j: c for j, c in features.items() if j not in constant}
    _warn_of_unseen(kept, words, found)
    fills = _fills(spool, kept, words, is_train, options, found)
    made = tuple(
        Feature(
            c.name,
            _categories(words[c.name], found.frequencies[j]) if c.name in words else None,
            fills.get(j),
            has_indicator and found.has_missing(j),
        )
        for j, c in kept.items()
    )
    return FittedTable(
        Preprocessing(made, tuple(labels), options.target_transform or "none"),
        [features[j].name for j in constant],
        spool,
        {c.name: (j, words.get(c.name)) for j, c in kept.items()},
        options.scaling == "bytes" and all(_fits_a_byte(c, fills.get(j)) for j, c in kept.items()),
    )


def _categories(words: Sequence[str], frequencies: np.ndarray) -> tuple[str, ...]:
    """Return the categories of the training rows: nothing could be learnt of others."""
    return tuple(sorted(w for w, count in zip(words, frequencies, strict=True) if count))


def _warn_of_unseen(
    kept: Mapping[int, ColumnProfile],
    words: Mapping[str, tuple[str, ...]],
    found: _TrainingStatistics,
) -> None:
    """Say which categories occur in rows of validation and test alone."""
    for j, counts in found.frequencies_elsewhere.items():
        unseen = np.flatnonzero((counts > 0) & (found.frequencies[j] == 0))
        if j not in kept or not len(unseen):
            continue
        name = kept[j].name
        shown = ", ".join(repr(words[name][i]) for i in unseen[:_SHOWN])
        logger.warning(
            "Column %r: no training row has %s%s, which %d other rows have. Their inputs of this "
            "column are 0, as with --unknown ignore.",
            name, shown, ", …" * (len(unseen) > _SHOWN), counts[unseen].sum(),
        )  # fmt: skip


def _fills(
    spool: Spool,
    kept: Mapping[int, ColumnProfile],
    words: Mapping[str, tuple[str, ...]],
    is_train: np.ndarray,
    options: ImportOptions,
    found: _TrainingStatistics,
) -> dict[int, float | str]:
    """Return what stands for a missing cell of each column."""
    if options.missing not in ("mean", "median"):
        return {}
    fills: dict[int, float | str] = {}
    numbers = [j for j, c in kept.items() if c.name not in words]
    for j, column in kept.items():
        if column.name in words:
            # The first of several in sorted order, whatever the order of the rows.
            counts, texts = found.frequencies[j], words[column.name]
            fills[j] = min(range(len(texts)), key=lambda i: (-counts[i], texts[i]))
            fills[j] = texts[int(fills[j])]
        elif options.missing == "mean":
            # A cell that is infinite is refused when it is encoded.
            is_finite = np.isfinite([found.low[j], found.high[j]]).all()
            if is_finite and not np.isfinite(found.mean[j]):
                raise DataError(
                    f"Column {column.name!r}: its numbers are too large for a mean. Use "
                    "--missing median, or smaller units."
                )
            fills[j] = float(found.mean[j]) if is_finite else 0.0
    if options.missing == "median":
        fills |= _medians(spool, numbers, is_train)
    return fills


def _medians(spool: Spool, numbers: Sequence[int], is_train: np.ndarray) -> dict[int, float]:
    """Return the medians of columns, of which as many are in memory as fit."""
    result = {}
    # A median, unlike a mean, takes all numbers of a column at once.
    step = max(1, _MEDIAN_NUMBERS // len(spool))
    for at in range(0, len(numbers), step):
        some = list(numbers[at : at + step])
        parts = [
            rows[is_train[start : start + len(rows)]][:, some] for start, rows in spool.blocks()
        ]
        values = np.concatenate(parts)
        for i, j in enumerate(some):
            column = values[:, i]
            result[j] = float(np.median(column[~np.isnan(column)]))
    return result


def _fits_a_byte(column: ColumnProfile, fill: float | str | None) -> bool:
    """Return whether all inputs of a column are integers from 0 to 255."""
    if column.kind == "text":
        return True
    if isinstance(fill, float) and column.missing and not fill.is_integer():
        return False
    return column.is_whole and column.low >= 0 and column.high <= _LARGEST_BYTE
