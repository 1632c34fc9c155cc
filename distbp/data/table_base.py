"""What every reader of tables has in common.

A `TableReader` knows the names and kinds of the columns when it is opened, says in `notes`
what it recognized, and yields blocks of rows, in bounded memory, as often as `blocks` is
called. What columns mean is not known here.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from distbp.data.table_columns import Block, Column
from distbp.data.table_options import TableOptions, select_columns
from distbp.errors import DataError
from distbp.parallel import host
from distbp.storage import atomic

BLOCK_ROWS = 1 << 16  # 512 KB for a column of numbers
_INTEGER = re.compile("0|-?[1-9][0-9]{0,17}")
ReadCallback = Callable[[float], None]  # called with the number of bytes that were read


class ReadAgain(Exception):  # noqa: N818 - it is no error
    """A column that looked like numbers holds text: read from the first row again."""


class TableReader(ABC):
    """A table whose rows can be read several times; a context manager.

    Attributes
    ----------
    name : str
        For messages.
    all_names : list of str
        Names of all columns, without an index; numbers from 0 where the table has no names.
    names : list of str
        Those of them that `--columns` and `--drop` leave.
    kinds : dict
        "number" or "text" for each of `all_names`. A column may become text while it is read.
    dates : set of str
        Columns of dates, of which the numbers are seconds since 1970.
    notes : list of str
        Sentences to say: what was recognized, what was left out.
    """

    def __init__(self, name: str, advance: ReadCallback | None) -> None:
        self.name = name
        self.all_names: list[str] = []
        self.names: list[str] = []
        self.kinds: dict[str, str] = {}
        self.dates: set[str] = set()
        self.notes: list[str] = []
        self._advance = advance or (lambda count: None)
        self._reported = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def blocks(
        self, columns: Sequence[str] | None = None, kinds: Mapping[str, str] | None = None
    ) -> Iterator[Block]:
        """Yield all rows from the first one, some 64k at a time.

        If a column that looked like numbers turns out to hold text, it is text from the first
        row on: `kinds` changes, and blocks start again from row 0. So a block with `start` 0
        replaces all that came before.

        Parameters
        ----------
        columns : names of `all_names`, optional
            All of `names` if not given.
        kinds : dict, optional
            "number" or "text" for columns that are to be read as such. Then rows never start
            again because of them: text in a column of numbers is an error.

        Raises
        ------
        DataError
            The file is damaged, a row is not what it should be, or a text is not a number.
        """
        names = self.names if columns is None else list(columns)
        while True:
            try:
                yield from self._blocks(names, dict(kinds or {}))
                return
            except ReadAgain:
                continue

    def holds_integers(self, name: str) -> bool:
        """Return whether each cell of a column is an integer, as Python writes it; reads them all.

        A column of type text holds none, 007 is not one, and a missing cell makes it False.
        """
        if self.kinds[name] != "number":
            return False
        # The rows will be read again, which is what progress is about.
        advance, self._advance = self._advance, lambda count: None
        try:
            return all(map(_are_integers, self._cells(name)))
        finally:
            self._advance, self._reported = advance, 0

    def _cells(self, name: str) -> Iterator[Column]:
        """Yield a column as text, block by block."""
        for block in self.blocks([name], {name: "text"}):
            yield block.columns[name]

    @abstractmethod
    def _blocks(self, names: list[str], kinds: dict[str, str]) -> Iterator[Block]:
        """Yield all blocks of these columns once; raise ReadAgain if one becomes text."""

    def locate(self, row: int, column: str | None = None) -> str:
        """Return where a row is, or a cell in it, for an error message."""
        where = f"{self.name}, {self._position(row)}"
        return where if column is None else f"{where}, column {column!r}"

    def _position(self, row: int) -> str:
        """Return where a row is in the file; a file of lines has a line for it."""
        return f"row {row}"

    def _set_columns(self, kinds: dict[str, str], options: TableOptions) -> None:
        self.kinds, self.all_names = kinds, list(kinds)
        self.names = select_columns(self.name, self.all_names, options)

    def _report(self, position: int) -> None:
        """Report progress up to this position in the file, each byte once."""
        if position > self._reported:
            self._advance(position - self._reported)
            self._reported = position


def _are_integers(column: Column) -> bool:
    """Return whether no cell is missing, and each is an integer of 64 bits, as Python writes it."""
    words = column.words or ()
    return bool((column.values >= 0).all()) and all(map(_INTEGER.fullmatch, words))


def read_failure(name: str, failure: Exception) -> DataError:
    """Return the error for what Arrow or the system raised."""
    return DataError(f"{name} cannot be read: {atomic.failure_reason(failure)}.")


@contextmanager
def wrap_arrow_errors(name: str) -> Iterator[None]:
    """Raise what Arrow and the system raise on a damaged file as a DataError."""
    import pyarrow

    try:
        yield
    except (
        pyarrow.ArrowException, OSError, ValueError, EOFError, MemoryError, LookupError, TypeError,
        NotImplementedError, OverflowError,
    ) as failure:  # fmt: skip
        raise read_failure(name, failure) from failure


def unique_names(names: dict[int, str]) -> tuple[dict[str, int], list[str]]:
    """Return the columns by unique names, and sentences about those that were renamed."""
    fields: dict[str, int] = {}
    notes = []
    for i, given in names.items():
        name, copies = given, 0
        while name in fields or (copies and name in names.values()):
            copies += 1
            name = f"{given}.{copies}"
        if copies:
            notes.append(f"Two columns are called {given!r}: the later one is {name!r}.")
        fields[name] = i
    return fields, notes


@contextmanager
def usable_threads() -> Iterator[bool]:
    """Keep Arrow to the cores that this process may use; yield whether there are several."""
    import pyarrow

    # Arrow counts all cores of the machine, also those that the process is not allowed to use.
    cores, before = host.usable_cores(), pyarrow.cpu_count()
    if before > cores:
        pyarrow.set_cpu_count(cores)
    try:
        yield cores > 1
    finally:
        if before > cores:
            pyarrow.set_cpu_count(before)


def require_pyarrow(name: str) -> Any:
    """Import pyarrow; DataError that says how to install it if it is missing."""
    try:
        import pyarrow
    except ImportError:
        raise DataError(
            f"Reading {name} needs pyarrow, which is not installed. "
            "Install it: pip install 'distbp[tables]'."
        ) from None
    return pyarrow
