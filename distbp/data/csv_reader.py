"""CSV files as tables, parsed by Arrow.

The dialect and the kinds of the columns are recognized from the start of the file. Arrow's
parser says neither the line of an error nor that a quote was never closed: `csv_lines` looks
for it then.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from distbp.data import csv_lines
from distbp.data.csv_dialect import SAMPLE_BYTES, describe_encoding, recognize
from distbp.data.table_base import (
    BLOCK_ROWS,
    AdvanceCallback,
    TableReader,
    read_failure,
    unique_names,
    usable_threads,
)
from distbp.data.table_columns import MISSING, Block, Column, kind_of, to_column, words_to_numbers
from distbp.data.table_input import MAX_ROW_BYTES, TableInput, TextStream
from distbp.data.table_options import TableOptions
from distbp.errors import DataError

_BLOCK_BYTES = 1 << 22
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
_CONVERSION = re.compile(r"In CSV column #(\d+): CSV conversion error")


class _Again(Exception):  # noqa: N818 - it is no error
    """What was recognized at the start does not hold: read from the first row again."""


class CsvReader(TableReader):
    """A CSV file.

    Each column has a mode: an Arrow type to convert its cells to, "words" for numbers that
    only Python can read, such as +5, or "text".
    """

    def __init__(
        self, source: TableInput, options: TableOptions, advance: AdvanceCallback | None
    ) -> None:
        super().__init__(source.name, advance)
        self._source = source
        self._options = options
        self._block_bytes = _BLOCK_BYTES
        self._dialect = recognize(source.name, source.head(SAMPLE_BYTES), options)
        self.notes += self._dialect.notes
        first = self._first_batch()
        self._fields = self._name_columns(first)
        self._modes = {name: self._mode(first.column(i)) for name, i in self._fields.items()}
        kinds = {name: "text" if mode == "text" else "number" for name, mode in self._modes.items()}
        self._set_columns(kinds, options)

    def close(self) -> None:
        self._source.close()

    def locate(self, row: int, column: str | None = None) -> str:
        """Return the line of a row, and the column, for an error message."""
        line = csv_lines.find_line(self._source.open()[0], self._dialect, row)
        return f"{self.name}, line {line}" + (f", column {column!r}" if column is not None else "")

    # Recognizing the columns

    def _first_batch(self) -> Any:
        """Return the first rows, of the types that Arrow finds for them."""
        while True:
            try:
                with usable_threads() as threads:
                    return self._parser({}, None, threads)[1].read_next_batch()
            except _Again:
                continue
            except StopIteration:
                raise DataError(f"{self.name} is empty; expected at least one row.") from None

    def _name_columns(self, first: Any) -> dict[str, int]:
        """Return the names of the columns, without an index, and their numbers in the file."""
        names: dict[int, str] = {}
        for i, given in enumerate(self._dialect.names):
            cells = first.column(i)
            if not given and i == 0 and _is_index(cells):
                self.notes.append(
                    "The first column has no name and numbers the rows: it is left out as an index."
                )
            elif not given and cells.null_count == len(cells):
                self.notes.append(f"Column {i} has no name and no values: it is left out.")
            else:
                names[i] = given or f"column {i}"
        if not names:
            raise DataError(f"{self.name} has no columns besides an index; expected at least one.")
        fields, notes = unique_names(names)
        self.notes += notes
        return fields

    def _mode(self, cells: Any) -> Any:
        """Return how to read a column, by its first cells."""
        import pyarrow
        from pyarrow import types

        kind = cells.type
        if types.is_null(kind) or types.is_integer(kind) or types.is_floating(kind):
            return pyarrow.float64()
        if kind_of(kind) == "number":
            return kind
        try:
            words_to_numbers(to_column("", cells, "text"), self._dialect.decimal)
        except ValueError:
            return "text"
        return "words"

    # Reading

    def _blocks(self, names: list[str], kinds: dict[str, str]) -> Iterator[Block]:
        while True:
            try:
                with usable_threads() as threads:
                    yield from self._read(names, kinds, threads)
                return
            except _Again:
                continue

    def _read(self, names: list[str], kinds: dict[str, str], threads: bool) -> Iterator[Block]:
        """Yield all blocks once; raise _Again if the modes do not fit."""
        modes = {name: _wanted(self._modes[name], kinds.get(name)) for name in names}
        stream, batches = self._parser(modes, kinds, threads)
        start = 0
        while (batch := self._next(stream, batches, kinds)) is not None:
            for at in range(0, batch.num_rows, BLOCK_ROWS):
                part = batch.slice(at, BLOCK_ROWS)
                columns = {
                    name: self._column(name, part.column(i), modes[name], kinds)
                    for i, name in enumerate(names)
                }
                yield Block(start, columns)
                start += part.num_rows
            self._report(stream.position)
        # Arrow takes the rest of the file for the text of a quote that is not closed.
        if stream.quotes % 2:
            csv_lines.explain(self.name, self._source.open()[0], self._dialect)

    def _column(self, name: str, cells: Any, mode: Any, kinds: dict[str, str]) -> Column:
        column = to_column(name, cells, "text" if mode in ("text", "words") else "number")
        if mode != "words":
            return column
        try:
            return words_to_numbers(column, self._dialect.decimal)
        except ValueError:
            raise self._not_numbers(name, kinds) from None

    def _parser(
        self, modes: dict[str, Any], kinds: dict[str, str] | None, threads: bool
    ) -> tuple[TextStream, Any]:
        """Return a new stream and Arrow's parser of it; the columns are those of `modes`."""
        from pyarrow import csv

        dialect, ids = self._dialect, [f"c{i}" for i in range(len(self._dialect.names))]
        arrow, view = self._source.open()
        stream = TextStream(arrow, view, dialect)
        wanted = {ids[self._fields[name]]: _arrow_type(mode) for name, mode in modes.items()}
        read = csv.ReadOptions(
            use_threads=threads, block_size=self._block_bytes, column_names=ids,
            skip_rows=dialect.header_lines,
        )  # fmt: skip
        parse = csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True)
        convert = csv.ConvertOptions(
            column_types=wanted, include_columns=list(wanted), null_values=sorted(MISSING),
            true_values=_TRUE, false_values=_FALSE, decimal_point=dialect.decimal,
            strings_can_be_null=not modes,
        )  # fmt: skip
        try:
            return stream, csv.open_csv(stream, read, parse, convert)
        except (ValueError, OSError, MemoryError, EOFError) as failure:
            raise self._explained(failure, stream, list(modes), kinds or {}) from failure

    def _next(self, stream: TextStream, batches: Any, kinds: dict[str, str]) -> Any:
        """Return the next batch; None at the end."""
        try:
            return batches.read_next_batch()
        except StopIteration:
            return None
        except (ValueError, OSError, MemoryError, EOFError) as failure:
            names = [self._name_of(field.name) for field in batches.schema]
            raise self._explained(failure, stream, names, kinds) from failure

    def _name_of(self, identifier: str) -> str:
        number = int(identifier[1:])
        return next(name for name, i in self._fields.items() if i == number)

    # Errors

    def _explained(
        self, failure: Exception, stream: TextStream, names: list[str], kinds: dict[str, str]
    ) -> Exception:
        """Return the error to raise: a sentence, or _Again after something was changed."""
        if stream.failure is not None:
            return self._not_text(stream)
        if "straddl" in str(failure) or "out of sync" in str(failure):
            self._block_bytes *= 4
            if self._block_bytes <= MAX_ROW_BYTES:
                return _Again()
            return DataError(f"{self.name} has a row of more than {MAX_ROW_BYTES >> 20} MB.")
        if found := _CONVERSION.match(str(failure)):
            return self._not_numbers(names[int(found[1])], kinds)
        csv_lines.explain(self.name, self._source.open()[0], self._dialect)
        return read_failure(self.name, failure)

    def _not_numbers(self, name: str, kinds: dict[str, str]) -> Exception:
        """Make a column text that holds one, or return the error if it must hold numbers."""
        if kinds.get(name) == "number":
            where = self._source.open()[0], self._dialect, self._fields[name]
            found = csv_lines.find_text(self.name, *where)
            if found is not None:
                return DataError(
                    f"{self.name}, line {found[0]}, column {name!r}: {found[1]!r} is not a number. "
                    "Correct it."
                )
        is_first = self._modes[name] not in ("words", "text")
        self._modes[name] = "words" if is_first else "text"
        self.kinds[name] = "number" if is_first else "text"
        return _Again()

    def _not_text(self, stream: TextStream) -> Exception:
        """Take the bytes for another encoding, or return the error if the user gave one."""
        given, encoding = self._options.encoding, self._dialect.encoding
        # Text in UTF-8 up to here is damaged UTF-8, not another encoding.
        if given is None and (encoding == "cp1252" or (encoding == "utf-8" and stream.is_ascii)):
            other = "cp1252" if encoding == "utf-8" else "latin-1"
            self._dialect = replace(self._dialect, encoding=other)
            self.notes.append(f"{describe_encoding(other).capitalize()}.")
            return _Again()
        line = csv_lines.find_offset(self._source.open()[0], stream.offset)
        return DataError(
            f"{self.name}, line {line} is not {encoding} text: {stream.failure}. "
            "Name the right encoding with --encoding, such as latin-1."
        )


def _is_index(cells: Any) -> bool:
    """Return whether cells are different whole numbers, as the numbers of rows are."""
    from pyarrow import types

    is_whole = types.is_integer(cells.type) and not cells.null_count
    return bool(is_whole and len(cells.unique()) == len(cells))


def _wanted(mode: Any, kind: str | None) -> Any:
    """Return how to read a column that is to be of some kind."""
    if kind == "text":
        return "text"
    return "words" if kind == "number" and mode == "text" else mode


def _arrow_type(mode: Any) -> Any:
    import pyarrow

    if mode in ("text", "words"):
        return pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    return mode
