"""Data frames in memory as one table: features, labels, and the split that a row belongs to.

`join_frames` puts the frames of all splits below each other, with their labels, so that they are
read and encoded like a table of a file in which a column says how it is split.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distbp.data.array_checks import feature_array, label_array
from distbp.data.arrow_reader import ArrowReader
from distbp.data.table_base import TableReader, require_pyarrow, wrap_arrow_errors
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError


@dataclass(frozen=True)
class JoinedFrames:
    """The frames of all splits as one Arrow table.

    Attributes
    ----------
    table : pyarrow.Table
    options : ImportOptions
        Those of the user, and which columns are labels and say how to split.
    starts : dict of int
        The first row of each split.
    label_type : str
        "bool", "int", "float" or "text".
    """

    table: Any
    options: ImportOptions
    starts: dict[str, int]
    label_type: str

    def reader(self) -> TableReader:
        """Return a reader of the table."""
        return _JoinedReader(self.table, "x", self.options, self.starts)


class _JoinedReader(ArrowReader):
    """Reads the table, and says in messages which row of which frame one is."""

    def __init__(
        self, table: Any, name: str, options: ImportOptions, starts: dict[str, int]
    ) -> None:
        self._starts = starts
        super().__init__(table, name, options)

    def _position(self, row: int) -> str:
        split = max((start, name) for name, start in self._starts.items() if start <= row)[1]
        of = "" if split == "train" else f" of {split}"
        return f"row {row - self._starts[split]}{of}"


def is_frame(x: Any) -> bool:
    """Return whether x has named columns: a data frame of pandas or polars, or an Arrow table."""
    return hasattr(x, "__arrow_c_stream__") and len(getattr(x, "shape", ())) == 2


def join_frames(
    splits: Mapping[str, tuple[Any, Any]], options: ImportOptions, sample_weight: Any = None
) -> JoinedFrames:
    """Return the frames of all splits as one table.

    Parameters
    ----------
    splits : dict of (x, y)
        y holds labels, or the names of their columns in x, or is None if an option names them.
    options : ImportOptions
    sample_weight : (n,) array or str, optional
        Of the rows of train; or the name of its column.

    Raises
    ------
    ConfigError, DataError
        Frames lack a column, have other columns than train, or no labels are given.
    """
    pyarrow = require_pyarrow("data frames")
    for split, (x, _) in splits.items():
        if not is_frame(x):
            raise DataError(f"x of {split} is a {type(x).__name__}; expected a data frame.")
    tables = {split: _to_arrow(x) for split, (x, _) in splits.items()}
    first, y = tables["train"], splits["train"][1]
    names = _named_columns(first, y)
    if y is None and options.label is None:
        raise ConfigError("There are no labels. Pass y, or the name of the column that holds them.")
    if y is not None and options.label is not None:
        raise ConfigError(f"Labels are given twice: y, and label={options.label!r}. Give one.")
    if y is not None:
        if names is None:
            names, tables["train"] = _append_labels(first, y)
        options = replace(options, label=_as_words(tables["train"].schema.names, names))
    columns = tables["train"].schema.names
    for split, (_, y) in list(splits.items())[1:]:
        tables[split] = _like_train(tables[split], y, columns, names or [], split, sample_weight)
    if isinstance(sample_weight, str):
        options = replace(options, weight=sample_weight)
    elif sample_weight is not None:
        options, tables["train"] = _append_weights(tables["train"], sample_weight, options)
    if options.weight is not None:
        for split in list(tables)[1:]:
            tables[split] = _with_weights(tables[split], options.weight)
    if len(tables) > 1:
        options, tables = _mark_splits(tables, options)
    with wrap_arrow_errors("x"):
        joined = pyarrow.concat_tables(list(tables.values()), promote_options="permissive")
    ends = np.cumsum([0, *(table.num_rows for table in tables.values())]).tolist()
    starts = dict(zip(tables, ends, strict=False))
    return JoinedFrames(joined, options, starts, _label_type(joined, names or []))


def _to_arrow(frame: Any) -> Any:
    """Return a data frame as an Arrow table, without pandas' index."""
    import pyarrow

    with wrap_arrow_errors("x"):
        if type(frame).__module__.partition(".")[0] != "pandas":
            return pyarrow.table(frame)
        # pandas names columns by any object, which Arrow refuses.
        frame = frame.rename(columns=str)
        return pyarrow.Table.from_pandas(frame, preserve_index=False)


def _named_columns(table: Any, y: Any) -> list[str] | None:
    """Return the names of columns that y consists of; None if it holds labels.

    Raises
    ------
    DataError
        y is a name that no column has.
    """
    if isinstance(y, str):
        if y not in table.schema.names:
            raise DataError(
                f"x has no column {y!r} for y; it has {', '.join(table.schema.names)}. Name one."
            )
        return [y]
    is_list = isinstance(y, list | tuple) and len(y) > 0
    return list(y) if is_list and all(one in table.schema.names for one in y) else None


def _append_labels(table: Any, y: Any, names: Sequence[str] = ()) -> tuple[list[str], Any]:
    """Return the names of the label columns, and a table with them at its end."""
    import pyarrow

    values = label_array(y, "y")
    if values.ndim > 2 or len(values) != table.num_rows:
        raise DataError(f"x has {table.num_rows} rows, but y has the shape {values.shape}.")
    values = values.reshape(len(values), -1)
    wanted = list(names) or _label_names(y, values.shape[1])
    for i, name in enumerate(wanted):
        while wanted[i] in table.schema.names and not names:
            wanted[i] = f"{wanted[i]} label" if wanted[i] == name else f"{wanted[i]}'"
    if len(wanted) != values.shape[1]:
        raise DataError(f"y has {values.shape[1]} columns; expected {len(wanted)}, as in train.")
    for name, column in zip(wanted, values.T, strict=True):
        table = table.append_column(name, pyarrow.array(np.ascontiguousarray(column)))
    return wanted, table


def _append_weights(
    table: Any, sample_weight: Any, options: ImportOptions
) -> tuple[ImportOptions, Any]:
    """Return options that name the column of the weights, and a table with it at its end."""
    import pyarrow

    values = feature_array(sample_weight, "sample_weight")
    if values.shape != (table.num_rows,):
        raise DataError(
            f"sample_weight has the shape {values.shape}; expected a number for each of the "
            f"{table.num_rows} rows of train."
        )
    name = _new_name("sample_weight", [table])
    column = pyarrow.array(np.ascontiguousarray(values, np.float64))
    return replace(options, weight=name), table.append_column(name, column)


def _with_weights(table: Any, name: str) -> Any:
    """Return a table with a column of weights, which only train needs."""
    import pyarrow

    if name in table.schema.names:
        return table
    return table.append_column(name, pyarrow.array(np.ones(table.num_rows)))


def _new_name(name: str, tables: Iterable[Any]) -> str:
    """Return a name that no column has."""
    while any(name in table.schema.names for table in tables):
        name += "'"
    return name


def _label_names(y: Any, width: int) -> list[str]:
    """Return names for the columns of labels: those that y has, or `label`."""
    columns = getattr(y, "columns", None)  # of a data frame
    if is_frame(y) and columns is not None and len(columns) == width:
        return [str(getattr(one, "_name", one)) for one in columns]
    name = getattr(y, "name", None)  # of a series
    if width == 1:
        return [name if isinstance(name, str) and name else "label"]
    return [f"label {i}" for i in range(width)]


def _like_train(
    table: Any, y: Any, columns: list[str], names: list[str], split: str, weight: Any
) -> Any:
    """Return a table with the columns of train, and its labels among them.

    It need not have the column `weight`.
    """
    if y is not None and _named_columns(table, y) is None:
        kept = [name for name in table.schema.names if name not in names]
        _, table = _append_labels(table.select(kept), y, names)
    if isinstance(weight, str) and weight not in table.schema.names:
        columns = [name for name in columns if name != weight]
    missing = [name for name in columns if name not in table.schema.names]
    if missing:
        raise DataError(
            f"x of {split} has no column {missing[0]!r}, which train has; it has "
            f"{', '.join(table.schema.names)}. Add it."
        )
    return table.select(columns)


def _mark_splits(
    tables: dict[str, Any], options: ImportOptions
) -> tuple[ImportOptions, dict[str, Any]]:
    """Return the tables with a column that says which split they are, and options that name it."""
    import pyarrow

    if options.split is not None:
        raise ConfigError(
            f"split={options.split!r} and sets of their own contradict each other. Give one."
        )
    name = _new_name("split", list(tables.values()))
    marked = {
        split: table.append_column(
            name, pyarrow.array(np.full(table.num_rows, split)).dictionary_encode()
        )
        for split, table in tables.items()
    }
    return replace(options, split=name), marked


def _as_words(columns: Sequence[str], names: Sequence[str]) -> str:
    """Return names of columns as the value of an option; see `find_columns`."""
    # Spaces around a name would be ignored: such a column is named by its number.
    words = [name if name == name.strip() else str(columns.index(name)) for name in names]
    text = io.StringIO()
    csv.writer(text).writerow(words)
    return text.getvalue().rstrip("\r\n")


def _label_type(table: Any, names: Sequence[str]) -> str:
    """Return what the first label column holds."""
    from pyarrow import types

    if not names:
        return "text"
    kind = table.schema.field(names[0]).type
    tests = {"bool": types.is_boolean, "int": types.is_integer, "float": types.is_floating}
    return next((name for name, test in tests.items() if test(kind)), "text")
