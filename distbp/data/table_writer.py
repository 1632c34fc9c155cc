"""Tables that are written block by block: CSV, Parquet and Arrow files, or arrays in HDF5.

    with create_table("out.csv") as table:
        table.write({"row": numbers, "class": Words(indices, names)})

The format follows from the end of the name. A file appears under its name when it is complete;
"-" is standard output. What the columns mean is not known here.
"""

import gzip
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from distbp.data.table_options import STANDARD_STREAM
from distbp.errors import ConfigError, DataError
from distbp.storage import hdf5_file
from distbp.storage.atomic import atomic_write

_MARK = {b"distbp": b"prediction"}  # in the schema of Parquet and Arrow files
PREDICTION_FORMAT, PREDICTION_VERSION = "distbp-prediction", 1  # of an HDF5 file
_CHUNK_BYTES = 1 << 20  # of a dataset in HDF5
_LEAST_ROWS, _MOST_ROWS, _BLOCK_BYTES = 1 << 10, 1 << 16, 1 << 25
_ENDINGS = {
    ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv", ".parquet": "parquet",
    ".feather": "arrow", ".arrow": "arrow", ".h5": "hdf5", ".hdf5": "hdf5",
}  # fmt: skip
_MUST_BE_QUOTED = '[",\t\r\n]'


class Words(NamedTuple):
    """A column of few different texts: indices (m,) into `names`."""

    indices: np.ndarray
    names: tuple[str, ...]


# Numbers (m,), text as objects (m,) with None where it is missing, or for HDF5 arrays (m, k).
Columns = Mapping[str, "np.ndarray | Words"]


def table_format(name: str) -> str | None:
    """Return the format that the end of a name means; None if it means none."""
    if name == STANDARD_STREAM:
        return "csv"
    return next((form for end, form in _ENDINGS.items() if name.lower().endswith(end)), None)


def check_format(name: str) -> str:
    """Return the format of a table to write; ConfigError if its name does not say it.

    Raises
    ------
    DataError
        It is one that pyarrow writes, which is not installed.
    """
    form = table_format(name)
    if form is None:
        raise ConfigError(
            f"`--out {name}` ends in no known format. Use a name that ends in one of "
            f"{', '.join(_ENDINGS)}."
        )
    if form != "hdf5":
        try:
            import pyarrow  # noqa: F401 - whether it is there
        except ImportError:
            raise DataError(
                f"Writing {name} needs pyarrow, which is not installed. Install it: "
                "pip install 'distbp[tables]', or use a name that ends in .h5."
            ) from None
    return form


def check_overwrite(path: Path, is_forced: bool) -> None:
    """Check that writing to `path` overwrites nothing but an output of distbp.

    A CSV file cannot say who has written it, and so needs `is_forced`.

    Raises
    ------
    ConfigError
        There is another file, or something that is no file.
    """
    if path.is_file() and (is_forced or _has_mark(path)):
        return
    remedy = "overwrite it with --force" if path.is_file() else "remove it first"
    hdf5_file.check_replaceable(path, PREDICTION_FORMAT, remedy)


def _has_mark(path: Path) -> bool:
    """Return whether a Parquet or Arrow file was written by this module."""
    form = table_format(path.name)
    if form not in ("parquet", "arrow"):
        return False
    with suppress(ImportError, OSError, ValueError):
        from pyarrow import ipc, parquet

        if form == "parquet":
            schema = parquet.read_schema(path)
        else:
            with ipc.open_file(path) as file:
                schema = file.schema
        return _MARK.items() <= (schema.metadata or {}).items()
    return False


class TableWriter(ABC):
    """Writes rows; all calls of `write` have the same columns.

    They are stored in blocks of the same number of rows, so that the bytes of the file do not
    depend on how many rows `write` gets.

    Attributes
    ----------
    is_broken : bool
        Whether writing has failed, as when the reader of a pipe has ended: then no more rows are
        needed. Standard output keeps the error, and the command line reports it.
    """

    def __init__(self) -> None:
        self.is_broken = False
        self._held: list[dict[str, np.ndarray | Words]] = []
        self._count = self._rows = 0

    def write(self, columns: Columns) -> None:
        """Append rows."""
        # By the first rows; all others have the same columns.
        self._rows = self._rows or _rows_a_block(columns)
        start, stop = 0, _length(columns)
        while start < stop:
            end = min(stop, start + self._rows - self._count)
            self._held.append({name: _slice(one, start, end) for name, one in columns.items()})
            self._count += end - start
            start = end
            if self._count == self._rows:
                self._flush()

    def _flush(self) -> None:
        if self._held:
            self._append({name: _join([one[name] for one in self._held]) for name in self._held[0]})
        self._held, self._count = [], 0

    def close(self) -> None:
        """Write what is left; the file is complete then."""
        self._flush()
        self._finish()

    @abstractmethod
    def _append(self, columns: Columns) -> None:
        """Store a block of rows."""

    @abstractmethod
    def _finish(self) -> None:
        """Store what comes after the rows."""


def _length(columns: Columns) -> int:
    first = next(iter(columns.values()))
    return len(first.indices if isinstance(first, Words) else first)


def _slice(values: "np.ndarray | Words", start: int, stop: int) -> "np.ndarray | Words":
    if isinstance(values, Words):
        return Words(values.indices[start:stop], values.names)
    return values[start:stop]


def _join(parts: "list[Any]") -> "np.ndarray | Words":
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Words):
        return Words(np.concatenate([part.indices for part in parts]), parts[0].names)
    return np.concatenate(parts)


def _rows_a_block(columns: Columns) -> int:
    """Return how many rows to store at once: so many that memory is bounded."""
    arrays = [one for one in columns.values() if not isinstance(one, Words)]
    row_bytes = 8 + sum(one.itemsize * int(np.prod(one.shape[1:])) for one in arrays)
    return max(_LEAST_ROWS, min(_MOST_ROWS, _BLOCK_BYTES // row_bytes))


class _CsvWriter(TableWriter):
    """Text with the names of the columns in the first line."""

    def __init__(self, file: BinaryIO, separator: str) -> None:
        super().__init__()
        self._file, self._separator = file, separator
        self._has_header = False

    def _append(self, columns: Columns) -> None:
        import pyarrow
        from pyarrow import compute, csv

        table = _as_arrow(columns)
        if not self._has_header:
            names = (_quoted(name, self._separator) for name in table.schema.names)
            self._file.write((self._separator.join(names) + "\n").encode())
            self._has_header = True
        texts = [one for one in table.columns if pyarrow.types.is_string(one.type)]
        # Arrow would quote all text, or refuse what has to be quoted.
        is_quoted = any(
            compute.any(compute.match_substring_regex(one, _MUST_BE_QUOTED)).as_py()
            for one in texts
        )
        sink = pyarrow.BufferOutputStream()
        options = csv.WriteOptions(
            include_header=False, delimiter=self._separator,
            quoting_style="needed" if is_quoted else "none",
        )  # fmt: skip
        csv.write_csv(table, sink, options)
        self._file.write(memoryview(sink.getvalue()))
        self._file.flush()
        self.is_broken = getattr(getattr(self._file, "raw", None), "error", None) is not None

    def _finish(self) -> None:
        self._file.flush()


def _quoted(name: str, separator: str) -> str:
    """Return a name as it stands in the first line."""
    needs_quotes = any(c in name for c in (separator, '"', "\r", "\n"))
    return '"{}"'.format(name.replace('"', '""')) if needs_quotes else name


class _ArrowWriter(TableWriter):
    """A Parquet or Arrow file; the types of the first block's columns are those of all."""

    def __init__(self, file: BinaryIO, form: str) -> None:
        super().__init__()
        self._file, self._form = file, form
        self._writer: Any = None

    def _append(self, columns: Columns) -> None:
        from pyarrow import ipc, parquet

        table = _as_arrow(columns)
        if self._writer is None:
            make = parquet.ParquetWriter if self._form == "parquet" else ipc.new_file
            self._writer = make(self._file, table.schema)
        self._writer.write_table(table)

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _ArrayWriter(TableWriter):
    """Datasets that grow with each block."""

    def __init__(self, file: h5py.File) -> None:
        super().__init__()
        self._file = file

    def _append(self, columns: Columns) -> None:
        for name, values in columns.items():
            rows = values
            if isinstance(rows, Words):
                rows = np.array(rows.names, object)[rows.indices]
            if name not in self._file:
                self._create(name, rows)
            dataset = self._file[name]
            start = len(dataset)
            dataset.resize(start + len(rows), axis=0)
            if rows.dtype == object:
                rows = np.array([text or "" for text in rows], object)
            dataset[start:] = rows

    def _create(self, name: str, rows: np.ndarray) -> None:
        kind = h5py.string_dtype() if rows.dtype == object else rows.dtype
        shape = rows.shape[1:]
        length = max(1, _CHUNK_BYTES // max(1, np.dtype(kind).itemsize * int(np.prod(shape))))
        self._file.create_dataset(
            name, (0, *shape), kind, maxshape=(None, *shape), chunks=(length, *shape),
            track_times=False,
        )  # fmt: skip

    def _finish(self) -> None:
        """Do nothing: the file is closed by whoever has opened it."""


def _as_arrow(columns: Columns) -> Any:
    """Return a block of rows as an Arrow table, marked as a prediction."""
    import pyarrow

    arrays = []
    for values in columns.values():
        if isinstance(values, Words):
            names = pyarrow.array(values.names, pyarrow.string())
            arrays.append(names.take(pyarrow.array(values.indices)))
        elif values.dtype == object:
            arrays.append(pyarrow.array(values, pyarrow.string()))
        else:
            arrays.append(pyarrow.array(values))
    return pyarrow.table(arrays, list(columns), metadata=_MARK)


@contextmanager
def create_table(name: str, about: Any = None) -> Iterator[TableWriter]:
    """Yield the writer of a table, which appears under its name when the block ends.

    Parameters
    ----------
    name : str
        A path, or "-" for standard output, to which CSV is written.
    about : anything that JSON can represent, optional
        Stored in an HDF5 file.

    Raises
    ------
    ConfigError
        The end of the name means no format.
    DataError
        The table cannot be written; an older file is unharmed.
    """
    form, path = check_format(name), Path(name)
    if name == STANDARD_STREAM:
        stream: Any = sys.stdout.buffer
        yield (to_stream := _CsvWriter(stream, ","))
        to_stream.close()
    elif form == "hdf5":
        with hdf5_file.create_file(path, PREDICTION_FORMAT, PREDICTION_VERSION, DataError) as hdf5:
            hdf5_file.write_json(hdf5, "about", about)
            yield (arrays := _ArrayWriter(hdf5))
            arrays.close()
    else:
        with atomic_write(path, DataError) as temporary, _open(temporary, path.name) as file:
            separator = "\t" if ".tsv" in path.name.lower()[-7:] else ","  # also .tsv.gz
            is_text = form == "csv"
            writer = _CsvWriter(file, separator) if is_text else _ArrowWriter(file, form)
            try:
                yield writer
            except BaseException:
                # While the file is open: Arrow would write to it later.
                with suppress(OSError, ValueError):
                    writer.close()
                raise
            writer.close()


@contextmanager
def _open(path: Path, name: str) -> Iterator[Any]:
    """Yield a new file to write to, which is compressed if `name` says so."""
    with path.open("xb") as raw:
        if not name.lower().endswith(".gz"):
            yield raw
            return
        # Without a name and time, so that equal content gives equal files.
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
            yield file
