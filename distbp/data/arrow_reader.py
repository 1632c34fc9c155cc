"""Parquet and Arrow files, and data frames, as tables: the columns have names and types already.

An `_ArrowSource` yields rows as batches of Arrow arrays; there is one for each format.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from distbp.data.table_base import (
    BLOCK_ROWS,
    ReadCallback,
    TableReader,
    unique_names,
    usable_threads,
    wrap_arrow_errors,
)
from distbp.data.table_columns import Block, Column, is_date_type, kind_of, to_column
from distbp.data.table_input import TableInput
from distbp.data.table_options import TableOptions
from distbp.errors import DataError

_READ_BYTES = 1 << 20
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # pandas' name for an index without one


class _ArrowSource(ABC):
    """Rows of Arrow arrays: their schema, and as often as needed the rows."""

    schema: Any

    @abstractmethod
    def batches(self, columns: list[int], threads: bool) -> Iterator[tuple[Any, float]]:
        """Yield batches of some columns, and the fraction that was read by then."""


class _ParquetSource(_ArrowSource):
    """A Parquet file, of which a row group is read piece by piece."""

    def __init__(self, source: TableInput) -> None:
        from pyarrow import parquet

        # Not pre-buffered: a row group, which may be the whole file, would be read at once.
        self._file = parquet.ParquetFile(
            source.open()[1], buffer_size=_READ_BYTES, pre_buffer=False
        )
        self.schema = self._file.schema_arrow
        self._rows = self._file.metadata.num_rows

    def batches(self, columns: list[int], threads: bool) -> Iterator[tuple[Any, float]]:
        names, done = [self.schema.names[i] for i in columns], 0
        # Arrow finds columns by name only: where names are repeated, all are read.
        is_unique = len(set(self.schema.names)) == len(self.schema.names)
        options = {"columns": names} if is_unique else {}
        for batch in self._file.iter_batches(BLOCK_ROWS, use_threads=threads, **options):
            done += batch.num_rows
            yield batch.select(names if is_unique else columns), done / self._rows


class _IpcFileSource(_ArrowSource):
    """An Arrow file, which is Feather's version 2."""

    def __init__(self, source: TableInput) -> None:
        from pyarrow import ipc

        self._file = ipc.open_file(source.open()[1])
        self.schema = self._file.schema

    def batches(self, columns: list[int], threads: bool) -> Iterator[tuple[Any, float]]:
        count = self._file.num_record_batches
        for i in range(count):
            batch = self._file.get_batch(i)
            # Arrow trusts the offsets of text in a file; a damaged one would crash the process.
            batch.validate(full=True)
            yield batch.select(columns), (i + 1) / count


class _IpcStreamSource(_ArrowSource):
    """A stream of Arrow batches in a file, or as it comes from another program."""

    def __init__(self, source: TableInput) -> None:
        from pyarrow import ipc

        self._source = source
        self.schema = ipc.open_stream(source.open()[1]).schema

    def batches(self, columns: list[int], threads: bool) -> Iterator[tuple[Any, float]]:
        from pyarrow import ipc

        _, view = self._source.open()
        for batch in ipc.open_stream(view):
            batch.validate(full=True)  # as above
            yield batch.select(columns), view.position / self._source.size


class _FrameSource(_ArrowSource):
    """A data frame in memory."""

    def __init__(self, frame: Any) -> None:
        import pyarrow

        # pandas names columns by any object, which Arrow refuses.
        if type(frame).__module__.partition(".")[0] == "pandas":
            frame = frame.rename(columns=str)
        self._table = pyarrow.table(frame)
        self.schema = self._table.schema

    def batches(self, columns: list[int], threads: bool) -> Iterator[tuple[Any, float]]:
        for batch in self._table.select(columns).to_batches(BLOCK_ROWS):
            yield batch, 0.0  # nothing is read, so there is no progress to show


_SOURCES: dict[str, Callable[[TableInput], _ArrowSource]] = {
    "parquet": _ParquetSource,
    "arrow": _IpcFileSource,
    "arrow-stream": _IpcStreamSource,
}


class ArrowReader(TableReader):
    """A table whose cells Arrow has already: a Parquet or Arrow file, or a data frame."""

    def __init__(
        self,
        source: TableInput | Any,
        name: str,
        options: TableOptions,
        advance: ReadCallback | None = None,
    ) -> None:
        super().__init__(name, advance)
        self._input = source if isinstance(source, TableInput) else None
        with wrap_arrow_errors(name):
            if self._input is not None:
                self._source: _ArrowSource = _SOURCES[self._input.format](self._input)
            else:
                self._source = _FrameSource(source)
            given = dict(enumerate(self._source.schema.names))
        index = [i for i, one in given.items() if _PANDAS_INDEX.fullmatch(one)]
        if index:
            self.notes.append("The index of the data frame is left out.")
        names = {i: one or f"column {i}" for i, one in given.items() if i not in index}
        self._fields, notes = unique_names(names)
        self.notes += notes
        if not self._fields:
            raise DataError(f"{name} has no columns; expected at least one.")
        types = self._source.schema.types
        kinds = {one: kind_of(types[i]) or "text" for one, i in self._fields.items()}
        self.dates = {one for one, i in self._fields.items() if is_date_type(types[i])}
        self._set_columns(kinds, options)

    def close(self) -> None:
        if self._input is not None:
            self._input.close()

    def _blocks(self, names: list[str], kinds: dict[str, str]) -> Iterator[Block]:
        columns = [self._fields[name] for name in names]
        for name, i in zip(names, columns, strict=True):
            self._check_type(name, self._source.schema.types[i], kinds.get(name))
        size = self._input.size if self._input is not None else 0
        start = 0
        with usable_threads() as threads:
            batches = self._source.batches(columns, threads)
            while True:
                with wrap_arrow_errors(self.name):
                    batch, fraction = next(batches, (None, 1.0))
                if batch is None:
                    break
                for at in range(0, batch.num_rows, BLOCK_ROWS):
                    part = batch.slice(at, BLOCK_ROWS)
                    yield Block(start, self._columns(names, part, kinds))
                    start += len(part)
                self._report(int(fraction * size))
        self._report(size)
        if not start:
            raise DataError(f"{self.name} is empty; expected at least one row.")

    def _columns(self, names: list[str], part: Any, kinds: dict[str, str]) -> dict[str, Column]:
        with wrap_arrow_errors(self.name):
            return {
                name: to_column(name, part.column(i), kinds.get(name, self.kinds[name]))
                for i, name in enumerate(names)
            }

    def _check_type(self, name: str, found: Any, wanted: str | None) -> None:
        """Raise DataError if a column cannot be read, or not as the kind that is wanted."""
        kind = kind_of(found)
        if kind is None:
            raise DataError(
                f"{self.name}, column {name!r} holds {found}; expected numbers or text. "
                f"Leave it out with --drop {name}."
            )
        if kind == "text" and wanted == "number":
            raise DataError(
                f"{self.name}, column {name!r} holds text; expected numbers. Convert it."
            )
