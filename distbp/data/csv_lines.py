"""Lines of a CSV file, for error messages: where a row, a byte or a mistake is.

The file is read once more, line by line. That is slower than the parser, and stricter: it also
finds quotes that are never closed.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from distbp.data.csv_dialect import Dialect
from distbp.data.table_columns import MISSING, is_number
from distbp.errors import DataError

MAX_ROW_BYTES = 1 << 26
_MAX_CELLS = 1_000_000  # more of them in a row than expected are not looked at
_SHOWN_CHARS = 40  # of a cell, in a message
_LONG_CELL = "field larger"  # of csv's message about its own limit


class _Lines:
    """The lines of a file that are no comments; `number` is that of the latest one, from 1."""

    def __init__(self, stream: Any, dialect: Dialect) -> None:
        # Bytes that are not in the encoding are reported elsewhere; the search goes on.
        self._file = io.TextIOWrapper(
            io.BufferedReader(RawStream(stream)), dialect.encoding, errors="replace", newline=""
        )
        self._comment = dialect.comment
        # The lines of a file that has \n are not ended by \r alone, although csv needs them apart.
        self._end = ("\r", "\n") if dialect.has_cr_lines else "\n"
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        is_start = True
        while line := self._file.readline(MAX_ROW_BYTES):
            if self.number == 0:
                line = line.removeprefix("\ufeff")
            self.number += is_start
            is_start = line.endswith(self._end)
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
    lines, complete = _Lines(stream, dialect), _line_pattern(dialect)
    in_quotes, wanted = False, row + (1 if dialect.header_lines else 0)
    for line in lines:
        if not in_quotes and line.strip("\r\n"):
            if wanted == 0:
                return lines.number
            wanted -= 1
        if in_quotes or '"' in line:
            text = '"' * in_quotes + line.rstrip("\r\n")
            in_quotes = complete.fullmatch(text) is None
    return None


def _line_pattern(dialect: Dialect) -> re.Pattern[str]:
    """Return the pattern of a line that does not end inside quotes.

    They are special only at the start of a cell, unlike in `5" disk`.
    """
    separator = re.escape(dialect.separator)
    space = " *+" if dialect.has_spaced_quotes else ""
    first, other = (
        rf'(?:{before}"[^"]*+(?:""[^"]*+)*+"|(?!{before}"))[^{separator}]*+'
        for before in ("", space)
    )
    return re.compile(f"{first}(?:{separator}{other})*+")


def find_offset(stream: Any, dialect: Dialect, offset: int) -> int:
    """Return the number of the line that the byte at `offset` is on, from 1."""
    line, end = 1, b"\r" if dialect.has_cr_lines else b"\n"
    while offset > 0 and (part := stream.read(min(offset, 1 << 20))):
        line += part.count(end)
        offset -= len(part)
    return line


def explain(name: str, stream: Any, dialect: Dialect) -> None:
    """Raise DataError for the first row that has more or fewer cells, or an unclosed quote."""
    width = len(dialect.names)
    is_header = dialect.header_lines > 0
    for line, cells in _records(name, stream, dialect):
        if len(cells) != width and not is_header:
            raise DataError(
                f"{name}, line {line}: expected {width} values, found {len(cells)}. "
                "Correct the line or remove it."
            )
        is_header = False


def not_a_number(
    name: str, stream: Any, dialect: Dialect, column: int, column_name: str
) -> DataError:
    """Return the error for the first cell of a column that is not a number."""
    is_header = dialect.header_lines > 0
    for line, cells in _records(name, stream, dialect):
        cell = cells[column].strip() if column < len(cells) else ""
        if not is_header and cell not in MISSING and not is_number(cell, dialect.decimal):
            shown = repr(cell[:_SHOWN_CHARS])
            return DataError(
                f"{name}, line {line}, column {column_name!r}: {shown} is not a number. Correct it."
            )
        is_header = False
    return DataError(f"{name}, column {column_name!r} holds text; expected numbers. Correct it.")


def _limited(name: str, lines: _Lines, dialect: Dialect) -> Iterator[str]:
    """Yield the lines; DataError at one with so many cells that they might not fit into memory."""
    width = len(dialect.names)
    for line in lines:
        if (found := line.count(dialect.separator)) > width + _MAX_CELLS:
            raise DataError(
                f"{name}, line {lines.number}: expected {width} values, found {found + 1}. "
                "Correct the line or remove it."
            )
        yield line


def _records(name: str, stream: Any, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of every record that is not empty."""
    lines = _Lines(stream, dialect)
    # By default, csv accepts text after a closing quote and a quote that is never closed.
    reader = csv.reader(
        _limited(name, lines, dialect),
        delimiter=dialect.separator,
        skipinitialspace=True,
        strict=True,
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
