"""CSV files as tables, parsed by Arrow.

The dialect and the kinds of the columns are recognized from the start of the file. Arrow
parses chunks of whole rows, several at once where there are several cores: its own streaming
reader parses with one thread, and names neither the line of an error nor a quote that was
never closed. `csv_lines` looks for them.
"""

import contextlib
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from distbp.data import csv_lines
from distbp.data.csv_chunks import TextChunks
from distbp.data.csv_dialect import SAMPLE_BYTES, recognize
from distbp.data.table_base import (
    BLOCK_ROWS,
    ReadAgain,
    ReadCallback,
    TableReader,
    read_failure,
    unique_names,
    wrap_arrow_errors,
)
from distbp.data.table_columns import (
    MISSING,
    Block,
    Column,
    is_date_type,
    kind_of,
    to_column,
    words_to_numbers,
)
from distbp.data.table_input import TableInput
from distbp.data.table_options import TableOptions
from distbp.errors import DataError
from distbp.parallel import host

_CHUNK_BYTES = 1 << 21
_FIRST_CHUNK_BYTES = 1 << 20
_MAX_THREADS = 8  # more would be waiting for the one that reads
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
_CONVERSION = re.compile(r"In CSV column #(\d+):.*CSV conversion error")

_Columns = dict[str, Column]


class _NotNumbers(Exception):  # noqa: N818 - it is no error
    """A text in a column was not converted; `args` has the name."""


class CsvReader(TableReader):
    """A CSV file.

    Each column has a mode: an Arrow type to convert its cells to, "words" for numbers that
    only Python can read, such as +5, or "text".
    """

    def __init__(
        self, source: TableInput, options: TableOptions, advance: ReadCallback | None
    ) -> None:
        super().__init__(source.name, advance)
        self._source = source
        self._may_change_encoding = options.encoding is None
        with wrap_arrow_errors(source.name):
            sample = source.head(SAMPLE_BYTES)
        self._dialect = recognize(source.name, sample, options)
        self.notes += self._dialect.notes
        self._ids = [f"c{i}" for i in range(len(self._dialect.names))]
        first = self._first_rows()
        self._fields = self._name_columns(first)
        self._modes = {name: self._mode(first.column(i)) for name, i in self._fields.items()}
        kinds = {name: "text" if mode == "text" else "number" for name, mode in self._modes.items()}
        self.dates = {
            name
            for name, mode in self._modes.items()
            if mode not in ("text", "words") and is_date_type(mode)
        }
        self._set_columns(kinds, options)

    def close(self) -> None:
        self._source.close()

    def _position(self, row: int) -> str:
        with wrap_arrow_errors(self.name):
            line = csv_lines.find_line(self._source.open()[0], self._dialect, row)
        return f"row {row}" if line is None else f"line {line}"

    # Recognizing the columns

    def _first_rows(self) -> Any:
        """Return the first rows, of the types that Arrow finds for them."""
        header_lines = self._dialect.header_lines
        for text in self._chunks(_FIRST_CHUNK_BYTES):
            try:
                table = self._parse(text, {}, header_lines)
            except ValueError as failure:
                raise self._explained(failure) from failure
            if table.num_rows:
                return table
            header_lines = 0
        raise DataError(f"{self.name} is empty; expected at least one row.")

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
            words_to_numbers(to_column("", cells.combine_chunks(), "text"), self._dialect.decimal)
        except ValueError:
            return "text"
        return "words"

    # Reading

    def _chunks(self, chunk_bytes: int) -> TextChunks:
        return TextChunks(
            self._source, self._dialect, chunk_bytes, self._may_change_encoding, self.notes
        )

    def _blocks(self, names: list[str], kinds: dict[str, str]) -> Iterator[Block]:
        modes = {name: _wanted(self._modes[name], kinds.get(name)) for name in names}
        chunks = self._chunks(_CHUNK_BYTES)
        start = 0
        with contextlib.closing(
            _parsed_in_order(chunks, partial(self._columns, modes), self._dialect.header_lines)
        ) as parsed:
            for parse, result, position in parsed:
                for columns in self._settled(parse, result, modes, kinds):
                    block = Block(start, columns)
                    yield block
                    start += len(block)
                self._report(position)

    def _settled(
        self,
        parse: Callable[[], list[_Columns]],
        result: Callable[[], list[_Columns]],
        modes: dict[str, Any],
        kinds: dict[str, str],
    ) -> list[_Columns]:
        """Return the result of a chunk; it is parsed again if the mode of a column changes."""
        while True:
            try:
                return result()
            except _NotNumbers as failure:
                self._change_mode(failure.args[0], modes, kinds)
                result = parse
            except (ValueError, MemoryError) as failure:
                raise self._explained(failure) from failure

    def _columns(
        self, modes: dict[str, Any], text: memoryview, header_lines: int
    ) -> list[_Columns]:
        """Return the columns of a chunk, block by block. Several threads are here at once."""
        modes = dict(modes)
        try:
            table = self._parse(text, modes, header_lines)
        except ValueError as failure:
            if found := _CONVERSION.match(str(failure)):
                names = {i: name for name, i in self._fields.items()}
                raise _NotNumbers(names[int(found[1])]) from None
            raise
        # One batch, as the parser was given all in one block; none without rows.
        return [
            {
                name: self._column(name, part.column(i), mode)
                for i, (name, mode) in enumerate(modes.items())
            }
            for batch in table.to_batches()
            for part in (batch.slice(at, BLOCK_ROWS) for at in range(0, len(batch), BLOCK_ROWS))
        ]

    def _column(self, name: str, cells: Any, mode: Any) -> Column:
        column = to_column(name, cells, "text" if mode in ("text", "words") else "number")
        if mode != "words":
            return column
        try:
            return words_to_numbers(column, self._dialect.decimal)
        except ValueError:
            raise _NotNumbers(name) from None

    def _parse(self, text: memoryview, modes: dict[str, Any], header_lines: int) -> Any:
        """Return the rows of a chunk; of all columns, as Arrow finds them, without modes."""
        import pyarrow
        from pyarrow import csv

        wanted = {self._ids[self._fields[name]]: _arrow_type(mode) for name, mode in modes.items()}
        # One block, as the text is cut at ends of rows already.
        read = csv.ReadOptions(
            use_threads=False, block_size=len(text) + 1, column_names=self._ids,
            skip_rows=header_lines,
        )  # fmt: skip
        parse = csv.ParseOptions(delimiter=self._dialect.separator, newlines_in_values=True)
        # With modes, missing text is found by `to_column`, which also strips spaces.
        convert = csv.ConvertOptions(
            column_types=wanted, include_columns=list(wanted), null_values=sorted(MISSING),
            true_values=_TRUE, false_values=_FALSE, decimal_point=self._dialect.decimal,
            strings_can_be_null=not modes,
        )  # fmt: skip
        return csv.read_csv(pyarrow.BufferReader(pyarrow.py_buffer(text)), read, parse, convert)

    # Errors

    def _explained(self, failure: Exception) -> DataError:
        """Return the error for what Arrow could not parse, which names the line."""
        try:
            with wrap_arrow_errors(self.name):
                csv_lines.explain(self.name, self._source.open()[0], self._dialect)
        except DataError as found:
            return found
        return read_failure(self.name, failure)

    def _change_mode(self, name: str, modes: dict[str, Any], kinds: dict[str, str]) -> None:
        """Read a column as words; ReadAgain if it is text, DataError if it must be numbers."""
        if modes[name] != "words":
            modes[name] = "words"
            return
        if kinds.get(name) == "number":
            stream = self._source.open()[0]
            raise csv_lines.not_a_number(self.name, stream, self._dialect, self._fields[name], name)
        self._modes[name] = "text"
        self.kinds[name] = "text"
        raise ReadAgain


def _parsed_in_order(
    chunks: TextChunks, parse: Callable[[memoryview, int], list[_Columns]], header_lines: int
) -> Generator[tuple[Callable[[], list[_Columns]], Callable[[], list[_Columns]], int], None, None]:
    """Yield for each chunk how to parse it again, how to get the result, and the position.

    As many chunks are parsed at once as there are cores.
    """
    threads = min(host.usable_cores(), _MAX_THREADS)
    waiting: deque[Any] = deque()
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    try:
        for text in chunks:
            again = partial(parse, text, header_lines)
            header_lines = 0  # only the first chunk has them
            result = pool.submit(again).result if pool else again
            waiting.append((again, result, chunks.position))
            # No more at once, which bounds memory, however slowly the results are used.
            if len(waiting) > threads or not pool:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


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
