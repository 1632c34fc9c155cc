"""Where something is in a CSV file: line by line, when an error has to name it.

Slower than the parser, and strict: it also finds quotes that are never closed.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

from distbp.data.csv_dialect import Dialect
from distbp.data.table_columns import MISSING, parse_number
from distbp.errors import DataError

_LONG_CELL = "field larger"  # of csv's message about its own limit


class _Lines:
    """The lines of a file that are no comments; `number` is that of the latest one, from 1."""

    def __init__(self, stream: Any, dialect: Dialect) -> None:
        self._file = io.TextIOWrapper(
            io.BufferedReader(RawStream(stream)), dialect.encoding, errors="replace", newline=""
        )
        self._comment = dialect.comment
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            if self.number == 0:
                line = line.removeprefix("\ufeff")
            self.number += 1
            if not (self._comment and line.startswith(self._comment)):
                yield line


class RawStream(io.RawIOBase):
    """An Arrow stream as a raw file of Python."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._stream.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def find_line(stream: Any, dialect: Dialect, row: int) -> int | None:
    """Return the number of the line on which a row of cells begins, from 1."""
    lines = _Lines(stream, dialect)
    in_quotes, wanted = False, row + (1 if dialect.header_lines else 0)
    for line in lines:
        if not in_quotes and line.strip("\r\n"):
            if wanted == 0:
                return lines.number
            wanted -= 1
        in_quotes ^= line.count('"') % 2 == 1
    return None


def find_offset(stream: Any, offset: int) -> int:
    """Return the number of the line that the byte at `offset` is on, from 1."""
    line = 1
    while offset > 0 and (part := stream.read(min(offset, 1 << 20))):
        line += part.count(b"\n")
        offset -= len(part)
    return line


def explain(name: str, stream: Any, dialect: Dialect) -> None:
    """Raise a DataError about the first row that is not as long as the others, or unfinished."""
    width = len(dialect.names)
    is_header = dialect.header_lines > 0
    for line, cells in _records(name, stream, dialect):
        if len(cells) != width and not is_header:
            raise DataError(
                f"{name}, line {line}: expected {width} values, found {len(cells)}. "
                "Correct the line or remove it."
            )
        is_header = False


def find_text(name: str, stream: Any, dialect: Dialect, column: int) -> tuple[int, str] | None:
    """Return line and text of the first cell of a column that is not a number."""
    is_header = dialect.header_lines > 0
    for line, cells in _records(name, stream, dialect):
        cell = cells[column].strip() if column < len(cells) else ""
        if not is_header and cell not in MISSING:
            try:
                parse_number(cell, dialect.decimal)
            except ValueError:
                return line, cell
        is_header = False
    return None


def _records(name: str, stream: Any, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of every record that is not empty."""
    lines = _Lines(stream, dialect)
    # By default, csv accepts text after a closing quote and a quote that is never closed.
    reader = csv.reader(
        iter(lines), delimiter=dialect.separator, skipinitialspace=True, strict=True
    )
    end = 0
    try:
        for cells in reader:
            if cells:
                yield end + 1, cells
            end = lines.number
    except csv.Error as failure:
        if _LONG_CELL in str(failure):
            return
        if "unexpected end" in str(failure):
            reason = "a quote is opened here and never closed"
        else:
            reason = str(failure)
        raise DataError(
            f"{name}, line {end + 1}: {reason}. Correct the line or remove it."
        ) from None
