"""Columns of a table, block by block: what every reader yields, whatever the file's format.

A `Column` holds numbers, or text as indices into its words. `to_column` makes one of an Arrow
array, and knows what a missing cell is, and which number stands for a date.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from distbp.errors import DataError

# An empty cell is missing, and one of these words; in numbers NaN as well.
MISSING = frozenset(
    ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NAN", "null", "NULL", "?"]
)
# A number that is written for people: 1,000.50, 1.000,5, $7, 12 %, 1 000.
_WRITTEN_NUMBER = re.compile(
    r"[+-]?[$€£¥]? ?(\d+|\d{1,3}([.,' \xa0\u202f]\d{3})+)([.,]\d+)?([eE][+-]?\d+)?[ \xa0]?[%$€£¥]?"
)
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_SECONDS_A_DAY = 86400


@dataclass(frozen=True)
class Column:
    """The cells of a column in one block of rows.

    Attributes
    ----------
    name : str
    values : (m,) array, which may be read-only
        float64, NaN where a cell is missing; or int32 indices into `words`, -1 where missing.
        Booleans are 0 and 1; dates are seconds since 1970.
    words : tuple of str, optional
        The different texts in this block, without spaces around them; None for numbers.
    """

    name: str
    values: np.ndarray
    words: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        """What it holds: "number" or "text"."""
        return "number" if self.words is None else "text"


@dataclass(frozen=True)
class Block:
    """Rows of a table, of which the first is row number `start`; at least one column."""

    start: int
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values)


def kind_of(kind: Any) -> str | None:
    """Return whether an Arrow type holds a "number" or "text"; None for any other."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or kind == _string_view():
        return "text"
    tests = (
        types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_date,
        types.is_timestamp, types.is_time, types.is_duration, types.is_null,
    )  # fmt: skip
    return "number" if any(test(kind) for test in tests) else None


def is_date_type(kind: Any) -> bool:
    """Return whether an Arrow type holds dates, of which numbers are seconds since 1970."""
    from pyarrow import types

    return bool(types.is_date(kind) or types.is_timestamp(kind))


def _string_view() -> Any:
    import pyarrow

    return pyarrow.string_view()


def to_column(name: str, cells: Any, kind: str) -> Column:
    """Return an Arrow array as a column of numbers or text."""
    if kind == "number":
        return Column(name, _numbers(cells))
    return _text_column(name, cells)


def _numbers(cells: Any) -> np.ndarray:
    """Return an Arrow array of numbers, booleans or times as (m,) float64."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind, unit = cells.type, 1.0
    if types.is_null(kind):
        return np.full(len(cells), np.nan)
    if types.is_boolean(kind):
        cells = cells.cast(pyarrow.uint8())
    elif types.is_date(kind):
        # Days, or milliseconds.
        unit = 1 / _SECONDS_A_DAY if types.is_date32(kind) else _UNITS["ms"]
        cells = cells.view(pyarrow.int32() if types.is_date32(kind) else pyarrow.int64())
    elif types.is_temporal(kind):
        unit = _UNITS[kind.unit]
        cells = cells.view(pyarrow.int32() if types.is_time32(kind) else pyarrow.int64())
    elif types.is_float16(kind):
        return np.asarray(cells.to_numpy(zero_copy_only=False), np.float64)
    if cells.type != pyarrow.float64():
        cells = cells.cast(pyarrow.float64(), safe=False)  # beyond 2^53 it rounds
    values = _to_numpy(cells, np.float64, np.nan)
    return values if unit == 1.0 else values / unit


def _to_numpy(cells: Any, dtype: Any, missing: float) -> np.ndarray:
    """Return an Arrow array of numbers of type `dtype`: (m,), with `missing` where there is none.

    Arrow's own function imports pandas where it is installed, which takes longer than to read a
    small table.
    """
    if not len(cells):
        return np.empty(0, dtype)
    validity, numbers = cells.buffers()
    start, stop = cells.offset, cells.offset + len(cells)
    values = np.frombuffer(numbers, dtype, len(cells), start * np.dtype(dtype).itemsize)
    if not cells.null_count:
        return values
    some = np.frombuffer(validity, np.uint8)[start // 8 : -(-stop // 8)]
    is_there = np.unpackbits(some, bitorder="little")[start % 8 :][: len(cells)]
    return np.where(is_there, values, np.array(missing, dtype))


def _text_column(name: str, cells: Any) -> Column:
    """Return an Arrow array as a column of text."""
    import pyarrow
    from pyarrow import types

    # Rows of a larger table bring its whole dictionary.
    if types.is_dictionary(cells.type) and len(cells.dictionary) > len(cells):
        cells = cells.dictionary_decode()
    if not types.is_dictionary(cells.type):
        cells = cells.cast(pyarrow.large_string()).dictionary_encode()
    indices, dictionary = cells.indices, cells.dictionary
    if indices.type != pyarrow.int32():
        indices = indices.cast(pyarrow.int32())
    if not types.is_string(dictionary.type):
        dictionary = dictionary.cast(pyarrow.large_string())
    try:
        found = dictionary.to_pylist()
    except UnicodeDecodeError:
        raise DataError(f"column {name!r} holds text that is not UTF-8") from None
    return _encode_words(name, _to_numpy(indices, np.int32, -1), found)


def _encode_words(name: str, indices: np.ndarray, found: list[str | None]) -> Column:
    """Return the column of words of which some have spaces around them, are missing, or unused."""
    used = np.zeros(len(found) + 1, bool)
    used[indices] = True  # the last one is that of index -1
    codes: dict[str, int] = {}
    table = np.full(len(found) + 1, -1, np.int32)
    for i, word in enumerate(found):
        if word is None or not used[i] or (stripped := word.strip()) in MISSING:
            continue
        table[i] = codes.setdefault(stripped, len(codes))
    return Column(name, table[indices], tuple(codes))


def words_to_numbers(column: Column, decimal: str) -> Column:
    """Return a column of text such as "+5" as numbers; ValueError unless every word is one."""
    values = [parse_number(word, decimal) for word in column.words or ()]
    return Column(column.name, np.array([*values, np.nan])[column.values])


def parse_number(text: str, decimal: str = ".") -> float:
    """Return the number that a cell holds; ValueError if none, or one that only Python reads."""
    if "_" in text or not text.isascii() or (decimal == "," and "." in text):
        raise ValueError(text)
    return float(text.replace(decimal, "."))  # which ignores spaces around it


def is_number(text: str, decimal: str = ".") -> bool:
    """Return whether a cell holds a number."""
    try:
        parse_number(text, decimal)
    except ValueError:
        return False
    return True


def is_written_number(text: str) -> bool:
    """Return whether a cell is a number with marks that are not read, such as 1,000 or 5 %."""
    return not is_number(text) and _WRITTEN_NUMBER.fullmatch(text) is not None


def is_fraction(text: str) -> bool:
    """Return whether text is a finite number, but not an integer."""
    value = parse_number(text) if is_number(text) else math.nan
    return math.isfinite(value) and not value.is_integer()


def is_date(text: str) -> bool:
    """Return whether a cell holds a date such as 2024-12-31, with or without a time."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
