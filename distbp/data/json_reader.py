"""Files of JSON lines as tables: one object a line, whose keys are the names of the columns."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from distbp.data.csv_lines import MAX_ROW_BYTES, RawStream
from distbp.data.table_base import (
    BLOCK_ROWS,
    ReadAgain,
    ReadCallback,
    TableReader,
    wrap_arrow_errors,
)
from distbp.data.table_columns import MISSING, Block, Column
from distbp.data.table_input import TableInput
from distbp.data.table_options import TableOptions
from distbp.errors import DataError

_SAMPLE_ROWS = 1000
_SHOWN_CHARS = 40  # of a cell, in a message
_BLOCK_BYTES = 1 << 24
_SURROGATE = re.compile("[\ud800-\udfff]")
_Row = dict[str, Any]


class JsonReader(TableReader):
    """A file of JSON lines. Numbers and true and false are numbers; null is missing."""

    def __init__(
        self, source: TableInput, options: TableOptions, advance: ReadCallback | None
    ) -> None:
        super().__init__(source.name, advance)
        self._source = source
        self._line = 0
        kinds: dict[str, str] = {}
        for i, row in enumerate(self._rows()):
            for key, cell in row.items():
                # A column that has text somewhere is text, whatever its other cells are.
                is_number = kinds.get(key) != "text" and _is_number(cell)
                kinds[key] = "number" if is_number else "text"
            if i == _SAMPLE_ROWS:
                break
        if not kinds:
            raise DataError(f"{self.name} is empty; expected at least one row.")
        self._set_columns(kinds, options)

    def close(self) -> None:
        self._source.close()

    def _position(self, row: int) -> str:
        for i, _ in enumerate(self._rows()):
            if i == row:
                break
        return f"line {self._line}"

    def _rows(self) -> Iterator[_Row]:
        """Yield the object on each line that is not blank."""
        stream, self._view = self._source.open()
        self._line = 0
        file = io.BufferedReader(RawStream(stream), 1 << 18)
        while True:
            with wrap_arrow_errors(self.name):
                # A longer line is cut off here, and refused because its start is not JSON.
                text = file.readline(MAX_ROW_BYTES)
            if not text:
                return
            self._line += 1
            if not text.isspace():
                yield self._parse(text)

    def _parse(self, text: bytes) -> _Row:
        try:
            row = json.loads(text.decode("utf-8-sig" if self._line == 1 else "utf-8"))
        except (ValueError, RecursionError) as failure:  # also of bytes that are not UTF-8
            raise DataError(
                f"{self.name}, line {self._line} is not JSON: {str(failure)[:100]}. "
                "Correct it; expected one object a line."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{self.name}, line {self._line}: expected an object such as "
                '{"age": 41}; found another value. Write one object a line.'
            )
        if any(map(_SURROGATE.search, row)):
            raise DataError(
                f"{self.name}, line {self._line}: a name has half of a pair of surrogates, and so "
                "is no text. Correct it."
            )
        return row

    def _blocks(self, names: list[str], kinds: dict[str, str]) -> Iterator[Block]:
        start, position = 0, 0
        rows: list[tuple[int, _Row]] = []
        known = set(self.all_names)
        for row in self._rows():
            if not known.issuperset(row):
                key = next(key for key in row if key not in known)
                raise DataError(
                    f"{self.name}, line {self._line}: {key!r} is in none of the first "
                    f"{_SAMPLE_ROWS} rows. Write it in one of them, with null if it is missing."
                )
            rows.append((self._line, row))
            if len(rows) == BLOCK_ROWS or self._view.position - position > _BLOCK_BYTES:
                yield self._block(start, rows, names, kinds)
                start, rows, position = start + len(rows), [], self._view.position
                self._report(position)
        if rows:
            yield self._block(start, rows, names, kinds)
        self._report(self._view.position)

    def _block(
        self, start: int, rows: list[tuple[int, _Row]], names: list[str], kinds: dict[str, str]
    ) -> Block:
        columns = {}
        for name in names:
            cells = [row.get(name) for _, row in rows]
            if any(isinstance(cell, dict | list) for cell in cells):
                line = next(n for n, row in rows if isinstance(row.get(name), dict | list))
                raise DataError(
                    f"{self.name}, line {line}, column {name!r}: expected a number or text, "
                    f"found another value. Leave the column out with --drop {name}."
                )
            if kinds.get(name, self.kinds[name]) == "text":
                columns[name] = _text(name, cells)
                continue
            text = next((i for i, cell in enumerate(cells) if not _is_number(cell)), None)
            if text is not None and kinds.get(name) == "number":
                shown, line = repr(str(cells[text])[:_SHOWN_CHARS]), rows[text][0]
                raise DataError(
                    f"{self.name}, line {line}, column {name!r}: {shown} is not a number. "
                    "Correct it."
                )
            if text is not None:
                self.kinds[name] = "text"
                raise ReadAgain
            columns[name] = Column(name, _numbers(cells))
        return Block(start, columns)


def _is_number(cell: object) -> bool:
    """Return whether a cell is a number, or missing."""
    return (
        cell is None
        or isinstance(cell, int | float)
        or (isinstance(cell, str) and cell.strip() in MISSING)
    )


def _numbers(cells: list[Any]) -> np.ndarray:
    """Return cells that are numbers, or missing."""
    return np.array([_as_float(cell) for cell in cells])


def _as_float(cell: Any) -> float:
    if cell is None or isinstance(cell, str):
        return np.nan
    try:
        return float(cell)
    except OverflowError:  # an integer of more than 308 digits
        return np.inf if cell > 0 else -np.inf


def _text(name: str, cells: list[Any]) -> Column:
    """Return cells as text; a number as JSON writes it."""
    codes: dict[str, int] = {}
    values = np.full(len(cells), -1, np.int32)
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            # An unpaired surrogate is no text: an emoji was cut through.
            word = _SURROGATE.sub("\ufffd", cell).strip()
        else:
            word = "" if cell is None else json.dumps(cell)
        if word not in MISSING:
            values[i] = codes.setdefault(word, len(codes))
    return Column(name, values, tuple(codes))
