"""Where the rows to predict or evaluate come from: a table, arrays, or a split of a data set.

Each source is a context manager, opened on rank 0 only. It yields a function that takes the
largest number of rows wanted at once, and yields `Rows`, part by part.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from distbp.data.dataset import Split
from distbp.data.labels import labels_for_model
from distbp.data.model_table import ModelTable, Rows
from distbp.data.row_options import RowOptions
from distbp.data.sources import read_features, read_labelled_rows
from distbp.data.table_options import STANDARD_STREAM, TableOptions
from distbp.data.table_reader import open_table
from distbp.data.tables import Table
from distbp.errors import ConfigError, DataError
from distbp.parallel.environment import LaunchEnvironment
from distbp.storage import hdf5_checks
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.checksum import HDF5_SIGNATURE, MAGIC
from distbp.storage.preprocessing import Preprocessing

RowSource = AbstractContextManager[Callable[[int], Iterator[Rows]]]

_HDF5_ENDINGS = (".h5", ".hdf5", ".mat", ".nc")


def kind_of_rows(data: str, options: RowOptions) -> str:
    """Return what a file is by its name and first bytes: "table", "arrays" or "data set".

    Raises
    ------
    ConfigError
        `--x` is given for a table, an HDF5 file is no data set and it is not given, or it is a
        folder.
    """
    path = Path(data)
    if data != STANDARD_STREAM and data.lower().endswith(".npz"):
        return "arrays"
    if data != STANDARD_STREAM and path.is_dir():
        raise ConfigError(
            f"{data} is a folder. Convert the files in it with distbp import, and name the data "
            "set."
        )
    if data != STANDARD_STREAM and _is_hdf5(path):
        if options.x is not None:
            return "arrays"
        _check_data_set(path)
        return "data set"
    if options.x is not None:
        raise ConfigError(
            f"`--x {options.x}` names an array of an HDF5 or .npz file, which {data} is not. Leave "
            "it out."
        )
    return "table"


def _is_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5, by its first bytes or, as if there is none, by its name."""
    head = b""
    if path.is_file():
        # Whoever reads the file reports an error.
        with suppress(OSError), path.open("rb") as file:
            head = file.read(len(HDF5_SIGNATURE))
    return head in (MAGIC, HDF5_SIGNATURE) or path.suffix.lower() in _HDF5_ENDINGS


def _check_data_set(path: Path) -> None:
    """Raise ConfigError if an HDF5 file is of no format of distbp; others are checked later."""
    has_format = True
    with (
        suppress(*hdf5_checks.HDF5_READ_ERRORS),
        hdf5_checks.open_regular_file(path) as raw,
        hdf5_checks.open_untrusted(raw) as file,
    ):
        has_format = hdf5_checks.read_text_attribute(file, "format") is not None
    if not has_format:
        raise ConfigError(
            f"{path} is an HDF5 file, but not a data set. Convert it with distbp import, or name "
            "its array of rows with --x NAME and, for evaluate, that of labels with --y NAME."
        )


@contextmanager
def table_rows(
    data: str,
    checkpoint: Checkpoint,
    options: TableOptions,
    *,
    unknown: str = "error",
    id_column: str | None = None,
    has_labels: bool = False,
    keeps_integers: bool = False,
    say: Callable[[str], None] = lambda text: None,
    advance: Callable[[float], None] | None = None,
) -> Iterator[Callable[[int], Iterator[Rows]]]:
    """Yield the rows of a table; "-" is standard input.

    Parameters
    ----------
    data : str
    checkpoint : Checkpoint
        The model that takes the rows.
    options : TableOptions
    unknown, id_column, has_labels, keeps_integers
        See `ModelTable`.
    say : function of str
        Called with what was recognized.
    advance : function of a number of bytes, optional
        Called with the bytes read meanwhile.
    """
    is_stream = data == STANDARD_STREAM
    source = LaunchEnvironment.from_environ().open_stdin() if is_stream else data
    with open_table(source, _with_header(options, checkpoint), advance) as reader:
        table = ModelTable(
            reader, checkpoint, unknown=unknown, id_column=id_column, has_labels=has_labels,
            keeps_integers=keeps_integers,
        )  # fmt: skip
        for note in table.notes:
            say(note)
        yield table.rows


def _with_header(options: TableOptions, model: Checkpoint) -> TableOptions:
    """Return options that say whether the first line names the columns, if the model knows.

    A file of a few rows of text does not show it.
    """
    found = model.preprocessing
    if options.header is not None or found is None:
        return options
    # Numbers are what columns are called where no line names them.
    has_names = not all(feature.name.isdecimal() for feature in found.features)
    return replace(options, header=True) if has_names else options


@contextmanager
def split_rows(split: Split) -> Iterator[Callable[[int], Iterator[Rows]]]:
    """Yield the rows of a split of a data set."""

    def rows(most: int) -> Iterator[Rows]:
        for start in range(0, len(split), most):
            numbers = split.numbers(start, min(start + most, len(split)))
            raw = np.empty((len(numbers), split.n_in * split.x_dtype.itemsize), np.uint8)
            split.x.take(numbers, axis=0, out=raw, mode="clip")  # as a `BatchLoader` does
            yield Rows(raw.view(split.x_dtype))

    yield rows


@contextmanager
def array_rows(
    data: str, name: str | None, checkpoint: Checkpoint
) -> Iterator[Callable[[int], Iterator[Rows]]]:
    """Yield the rows of an array in an .npz or HDF5 file, as they were before the import."""
    with read_features(Path(data), name, checkpoint.network.sizes[0]) as table:
        yield partial(_rows_of_array, table, None, checkpoint)


@contextmanager
def labelled_array_rows(
    data: str, x: str | None, y: str | None, checkpoint: Checkpoint
) -> Iterator[Callable[[int], Iterator[Rows]]]:
    """Yield the rows of an array as `array_rows` does, with their labels from another one."""
    about, n_out = checkpoint.about, checkpoint.network.sizes[-1]
    with read_labelled_rows(Path(data), x, y) as (table, labels):
        if len(labels) != len(table):
            raise DataError(f"{table.name} has {len(table)} rows, but {labels.name} {len(labels)}.")
        if len(labels.shape) > 1 or labels.dtype.kind not in "iufbUS":
            raise DataError(
                f"{labels.name} is {labels.dtype} {labels.values.shape}; expected labels."
            )
        targets = labels_for_model(labels, about["task"], about["classes"], n_out)
        if checkpoint.preprocessing is not None and len(targets):
            targets = _transformed(targets, labels, checkpoint.preprocessing)
        yield partial(_rows_of_array, table, targets, checkpoint)


def _transformed(y: np.ndarray, labels: Table, preprocessing: Preprocessing) -> np.ndarray:
    """Return targets as they were transformed for the training."""
    if preprocessing.target_transform == "none":
        return y
    if (y <= 0).any():
        row, column = (int(one) for one in np.argwhere(y <= 0)[0])
        raise DataError(
            f"{labels.locate(row, column)}: expected a positive number, found {y[row, column]:g}. "
            "Correct the value or remove the row."
        )
    return np.asarray(np.log(y))


def _rows_of_array(
    table: Table, y: np.ndarray | None, checkpoint: Checkpoint, most: int
) -> Iterator[Rows]:
    """Yield rows of numbers in groups of up to `most`."""
    n_in = checkpoint.network.sizes[0]
    if table.dtype.kind not in "iuf" or math.prod(table.shape) != n_in:
        is_turned = math.prod(table.values.shape[:-1]) == n_in
        raise DataError(
            f"{table.name} is {table.dtype} {table.values.shape}; the model takes rows of "
            f"{n_in} numbers.{' Store x.T (NumPy) instead.' * is_turned}"
        )
    for start in range(0, len(table), most):
        part = table.read(start, min(start + most, len(table)))
        table.check_finite(part, start)
        labels = None if y is None else y[start : start + len(part)]
        yield Rows(np.ascontiguousarray(part).reshape(len(part), n_in), labels)
