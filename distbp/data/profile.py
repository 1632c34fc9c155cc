"""What is in the columns of a table, and what usually goes wrong with such a column.

A `ColumnSummary` looks at all cells of a column once, as they are read; the resulting
`TableProfile` is shown at the end of an import. The functions with `warnings` in their names yield
sentences about features, classes and targets.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from distbp.data.spool import Spool
from distbp.terminal import printable

_EPOCH = datetime(1970, 1, 1)
_FEW_ROWS = 20  # in fewer, values may be different, or equal the labels, by chance
_LARGE_SHARE = 0.95  # of the largest class
_WIDE_RATIO = 1000.0  # of the 99th percentile of targets to the first
_SHOWN_ROWS = 40
_MAX_CLASSES = 1000
_SHOWN_CLASSES = 8


@dataclass(frozen=True)
class ColumnProfile:
    """What is in a column.

    Attributes
    ----------
    name, role, kind : str
        role: feature, label, group, time, split, weight, or why it is left out; kind: number or
        text.
    missing : int
        Cells that are missing.
    low, high : float
        Bounds of the numbers.
    is_whole : bool
        Whether all numbers are integers.
    n_words : int
        Different texts.
    is_date : bool
        Whether the numbers are seconds since 1970.
    """

    name: str
    role: str
    kind: str
    missing: int
    low: float = math.nan
    high: float = math.nan
    is_whole: bool = False
    n_words: int = 0
    is_date: bool = False

    @property
    def shown_kind(self) -> str:
        """What the column holds, for people."""
        return "date" if self.is_date and self.kind == "number" else self.kind

    @property
    def values(self) -> str:
        """The range of the numbers, or the number of categories."""
        if self.kind == "text":
            return f"{self.n_words:,} {'category' if self.n_words == 1 else 'categories'}"
        if math.isnan(self.low):
            return "none"
        return " … ".join(self._shown(value) for value in (self.low, self.high))

    def _shown(self, value: float) -> str:
        """Return a number of the column as people write it."""
        if self.is_date:
            with suppress(OverflowError):  # a year that Python does not know
                moment = _EPOCH + timedelta(seconds=round(value))
                return moment.isoformat(" ").removesuffix(" 00:00:00")
        return f"{value:g}"


@dataclass
class TableProfile:
    """What is in a table.

    Attributes
    ----------
    rows : int
    columns : list of ColumnProfile
    """

    rows: int
    columns: list[ColumnProfile] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return a table for a user: a line for each column."""
        rows = [("column", "use", "kind", "missing", "values")]
        shown = self.columns[:_SHOWN_ROWS]
        rows += [
            (printable(c.name), c.role, c.shown_kind, f"{c.missing:,}", c.values) for c in shown
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        text = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        rest = len(self.columns) - len(shown)
        return text + [f"… and {rest:,} more columns"] * (rest > 0)


class ColumnSummary:
    """What is in a column, while its cells are added block by block.

    Attributes
    ----------
    missing : int
    low, high : float
        Bounds of the numbers; NaN if there are none.
    is_whole : bool
        Whether all numbers are integers.
    """

    def __init__(self) -> None:
        self.missing = 0
        self.low = self.high = math.nan
        self.is_whole = True

    def add(self, cells: np.ndarray) -> None:
        """Add cells (m,), of which NaN are missing."""
        if not len(cells):
            return
        low = cells.min()
        if np.isnan(low):
            there = cells[~np.isnan(cells)]
            self.missing += len(cells) - len(there)
            self.add(there)
            return
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, cells.max())
        # Most columns of fractions need not be looked at any more after their first rows.
        self.is_whole = self.is_whole and bool((cells == np.floor(cells)).all())

    def column(
        self, name: str, role: str, words: Sequence[str] | None, is_date: bool = False
    ) -> ColumnProfile:
        """Return the profile of the column.

        `words` are those of text; `is_date` is whether numbers are seconds since 1970.
        """
        if words is not None:
            return ColumnProfile(name, role, "text", self.missing, n_words=len(words))
        low, high = float(self.low), float(self.high)
        is_whole = self.is_whole and math.isfinite(low) and math.isfinite(high)
        return ColumnProfile(
            name, role, "number", self.missing, low, high, is_whole, is_date=is_date
        )


def column_warnings(spool: Spool, profile: TableProfile, y: np.ndarray) -> Iterator[str]:
    """Yield a sentence for each feature that looks like an identifier or a copy of the label.

    Parameters
    ----------
    spool : Spool
        Of the columns of `profile`.
    profile : TableProfile
    y : (n,) class numbers, or (n, k) targets
    """
    if profile.rows < _FEW_ROWS:
        return
    for j in _identifiers(spool, profile):
        name = profile.columns[j].name
        yield (
            f"Column {name!r} is different in every row and looks like an identifier, from which "
            f"nothing can be learned. Leave it out with --drop {name}."
        )
    for j in _copies_of_label(spool, profile, y):
        name = profile.columns[j].name
        yield (
            f"Column {name!r} equals the label in every row: a model would learn to copy it. "
            f"Leave it out with --drop {name} unless it is known before the label is."
        )


def _identifiers(spool: Spool, profile: TableProfile) -> list[int]:
    """Return the features whose texts are all different, or that number the rows."""
    found, candidates = [], []
    for j, column in enumerate(profile.columns):
        if column.role != "feature" or column.missing:
            continue
        if column.kind == "text" and column.n_words == profile.rows:
            found.append(j)
        if column.is_whole and column.high - column.low == profile.rows - 1:
            candidates.append(j)
    # One column at a time, with a byte per row: there are hardly ever several.
    for j in candidates:
        is_there = np.zeros(profile.rows, bool)
        for _, (cells,) in spool.blocks([j]):
            is_there[(cells - profile.columns[j].low).astype(np.int64)] = True
        if is_there.all():
            found.append(j)
    return sorted(found)


def _copies_of_label(spool: Spool, profile: TableProfile, y: np.ndarray) -> list[int]:
    """Return the features that determine the label, and that the label determines."""
    features = [j for j, column in enumerate(profile.columns) if column.role == "feature"]
    if y.ndim == 2 and y.shape[1] > 1:
        return []
    if y.ndim == 2:
        return _copies_of_targets(spool, features, y[:, 0])
    return _copies_of_classes(spool, features, y)


def _copies_of_targets(spool: Spool, features: list[int], y: np.ndarray) -> list[int]:
    """Return the features that equal the targets (n,)."""
    # Most differ in the first rows already.
    for start in range(0, len(spool), spool.block_rows):
        if not features:
            break
        rows = spool.read(start, start + spool.block_rows, features)
        expected = y[start : start + rows.shape[1]]
        features = [j for j, cells in zip(features, rows, strict=True) if (cells == expected).all()]
    return features


def _copies_of_classes(spool: Spool, features: list[int], y: np.ndarray) -> list[int]:
    """Return the features that have one value for each class, another for every class."""
    counts = np.bincount(y)
    # Where hardly any class has a second row, every identifier would be a copy.
    if np.count_nonzero(counts) > min(_MAX_CLASSES, len(y) / 2):
        return []
    # A copy has in all rows of a class what it has in the first.
    values = {j: np.empty(len(counts)) for j in features}
    is_known = np.zeros(len(counts), bool)
    for start in range(0, len(spool), spool.block_rows):
        if not values:
            break
        rows = spool.read(start, start + spool.block_rows, list(values))
        labels = y[start : start + rows.shape[1]]
        numbers, first = np.unique(labels, return_index=True)
        first, new = first[~is_known[numbers]], numbers[~is_known[numbers]]
        is_known[new] = True
        for j, cells in zip(list(values), rows, strict=True):
            values[j][new] = cells[first]
            if not (cells == values[j][labels]).all():
                del values[j]
    return [j for j, found in values.items() if _are_different(found[is_known])]


def _are_different(numbers: np.ndarray) -> bool:
    return len(np.unique(numbers)) == len(numbers)


def class_warnings(y: np.ndarray, classes: Sequence[str]) -> Iterator[str]:
    """Yield a sentence if nearly all training rows (n,) are of one class, or none of some."""
    counts = np.bincount(y, minlength=len(classes))
    if not counts.all():
        absent = [repr(name) for name, count in zip(classes, counts, strict=True) if not count]
        shown = ", ".join(absent[:_SHOWN_CLASSES]) + ", …" * (len(absent) > _SHOWN_CLASSES)
        yield f"No training row is of class {shown}: a model cannot learn it. Split other rows."
    largest, share = int(counts.argmax()), counts.max() / len(y)
    # A single row of another class in a small table is not odd.
    if share >= _LARGE_SHARE and len(y) >= _FEW_ROWS:
        yield (
            f"{share:.1%} of the training rows are of class {classes[largest]!r}: a model that "
            "always predicts it has that accuracy. Compare with it."
        )


def target_warnings(y: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each target of y (n, k) that spans several orders of magnitude."""
    if len(y) < _FEW_ROWS:
        return
    for target, name in zip(y.T, names, strict=True):
        low, high = np.quantile(target, (0.01, 0.99))
        if target.min() > 0 and high / low >= _WIDE_RATIO:
            yield (
                f"The targets {name!r} range from {target.min():g} to {target.max():g}: the "
                "largest determine the cost. Consider --target-transform log."
            )
