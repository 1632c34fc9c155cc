"""From the numbers in a spool to a network's inputs, by statistics of the training rows.

`fit_preprocessing` decides what each column becomes. The `RowEncoder` of its result encodes rows
when they are read, so that all of them need not fit into memory.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distbp.data.profile import ColumnProfile, ColumnSummary, TableProfile
from distbp.data.spool import Spool
from distbp.data.table_columns import Column
from distbp.data.tables import ImportOptions
from distbp.errors import DataError
from distbp.storage.preprocessing import Feature, Locate, Preprocessing

_MEDIAN_NUMBERS = 1 << 24  # of several columns in memory at once
_LARGEST_BYTE = 255
_SHOWN = 8

logger = logging.getLogger(__name__)


class _TrainingColumn(ColumnSummary):
    """What the training rows say of a column, while its cells are added block by block.

    Attributes
    ----------
    frequencies, frequencies_elsewhere : (number of words,) int
        How often each word occurs in the training rows, and in the others.
    """

    def __init__(self, n_words: int, with_mean: bool) -> None:
        super().__init__()
        self.frequencies = np.zeros(n_words, np.int64)
        self.frequencies_elsewhere = np.zeros(n_words, np.int64)
        self._with_mean = with_mean
        self._origin: float | None = None
        self._count, self._total = 0, 0.0

    def add_rows(self, cells: np.ndarray, is_train: np.ndarray) -> None:
        """Add cells (m,) of rows of which some are training rows."""
        _count_words(self.frequencies_elsewhere, cells[~is_train])
        cells = cells[is_train]
        _count_words(self.frequencies, cells)
        self.add(cells)
        if self._with_mean and len(cells):
            self._add_to_mean(cells)

    def _add_to_mean(self, cells: np.ndarray) -> None:
        # Differences from the first row are added: sums of large numbers, as of dates, round.
        if self._origin is None:
            self._origin = float(np.nan_to_num(cells[0], posinf=0.0, neginf=0.0))
        there = ~np.isnan(cells)
        self._count += int(there.sum())
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused later
            # One after the other, unlike `sum`: no other order may change a data set.
            self._total += np.add.accumulate(np.where(there, cells - self._origin, 0.0))[-1]

    @property
    def mean(self) -> float:
        """Of the cells that are not missing, if it was asked for."""
        with np.errstate(invalid="ignore"):
            return float((self._origin or 0.0) + np.float64(self._total) / max(self._count, 1))

    @property
    def is_constant(self) -> bool:
        """Whether all cells that are not missing are equal, or none is left."""
        return not self.low < self.high


def _count_words(frequencies: np.ndarray, cells: np.ndarray) -> None:
    """Add how often each word occurs in some cells; nothing if there are no words."""
    if len(frequencies):
        found = cells[~np.isnan(cells)].astype(np.int64)
        frequencies += np.bincount(found, minlength=len(frequencies))


def _training_columns(
    spool: Spool,
    features: Mapping[int, ColumnProfile],
    words: Mapping[str, tuple[str, ...]],
    is_train: np.ndarray,
    with_mean: bool,
) -> dict[int, _TrainingColumn]:
    """Return what the training rows say of each feature, by its number in the spool."""
    found = {
        j: _TrainingColumn(len(words.get(c.name, ())), with_mean and c.kind == "number")
        for j, c in features.items()
    }
    pending = list(found)
    for start in range(0, len(spool), spool.block_rows):
        if not pending:
            break
        rows = spool.read(start, start + spool.block_rows, pending)
        is_here = is_train[start : start + rows.shape[1]]
        for j, cells in zip(pending, rows, strict=True):
            found[j].add_rows(cells, is_here)
        # Whether they are constant is all there is to know of numbers none of which is missing.
        pending = [
            j for j in pending
            if found[j].is_constant or with_mean or features[j].missing
            or features[j].kind == "text"
        ]  # fmt: skip
    return found


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
        return self.read_rows(wanted.start, wanted.stop)

    def read_rows(self, start: int, stop: int, keep: np.ndarray | None = None) -> np.ndarray:
        """Return the rows [start, stop), or those of them for which `keep` is true."""
        cells = self._spool.read(start, stop, [j for j, _ in self._columns.values()])
        columns = {}
        for values, (name, (_, words)) in zip(cells, self._columns.items(), strict=True):
            if keep is not None:
                values = values[keep]
            if words is not None:  # indices, -1 where missing, as a reader gives them
                values = np.where(np.isnan(values), -1, values).astype(np.int64)
            columns[name] = Column(name, values, words)

        def locate(row: int, name: str) -> str:
            return self._locate(start + int(row if keep is None else keep.nonzero()[0][row]), name)

        # Categories that no training row has are those of test rows, and warned of.
        x = self.preprocessing.encode(columns, "ignore", locate)
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
    found = _training_columns(spool, features, words, is_train, options.missing == "mean")
    has_indicator = bool(options.missing_indicator)
    # A constant that is missing in places says something if the network is told where.
    constant = [
        j for j, one in found.items()
        if one.is_constant
        and not (has_indicator and one.missing and not math.isnan(one.low))
    ]  # fmt: skip
    kept = {j: c for j, c in features.items() if j not in constant}
    _warn_of_unseen(kept, words, found)
    fills = _fills(spool, kept, words, is_train, options, found)
    made = tuple(
        Feature(
            c.name,
            _categories(words[c.name], found[j].frequencies) if c.name in words else None,
            fills.get(j),
            has_indicator and found[j].missing > 0,
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
    """Return the categories of the training rows: nothing could be learned of others."""
    return tuple(sorted(w for w, count in zip(words, frequencies, strict=True) if count))


def _warn_of_unseen(
    kept: Mapping[int, ColumnProfile],
    words: Mapping[str, tuple[str, ...]],
    found: Mapping[int, _TrainingColumn],
) -> None:
    """Say which categories occur in rows of validation and test alone."""
    for j, column in kept.items():
        counts = found[j].frequencies_elsewhere
        unseen = np.flatnonzero((counts > 0) & (found[j].frequencies == 0))
        if not len(unseen):
            continue
        name = column.name
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
    found: Mapping[int, _TrainingColumn],
) -> dict[int, float | str]:
    """Return what stands for a missing cell of each column."""
    if options.missing not in ("mean", "median"):
        return {}
    fills: dict[int, float | str] = {}
    numbers = [j for j, c in kept.items() if c.name not in words]
    for j, column in kept.items():
        if column.name in words:
            # The first of several in sorted order, whatever the order of the rows.
            counts, texts = found[j].frequencies, words[column.name]
            fills[j] = min(range(len(texts)), key=lambda i: (-counts[i], texts[i]))
            fills[j] = texts[int(fills[j])]
        elif options.missing == "mean":
            # A cell that is infinite is refused when it is encoded.
            is_finite = np.isfinite([found[j].low, found[j].high]).all()
            if is_finite and not np.isfinite(found[j].mean):
                raise DataError(
                    f"Column {column.name!r}: its numbers are too large for a mean. Use "
                    "--missing median, or smaller units."
                )
            fills[j] = found[j].mean if is_finite else 0.0
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
            rows[:, is_train[start : start + rows.shape[1]]] for start, rows in spool.blocks(some)
        ]
        for j, cells in zip(some, np.concatenate(parts, axis=1), strict=True):
            result[j] = float(np.median(cells[~np.isnan(cells)]))
    return result


def _fits_a_byte(column: ColumnProfile, fill: float | str | None) -> bool:
    """Return whether all inputs of a column are integers from 0 to 255."""
    if column.kind == "text":
        return True
    if isinstance(fill, float) and column.missing and not fill.is_integer():
        return False
    return column.is_whole and column.low >= 0 and column.high <= _LARGEST_BYTE
