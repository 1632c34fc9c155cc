"""Tables of any format: `open_table` for files and streams, `frame_reader` for data frames.

    with open_table("new.csv") as table:
        for block in table.blocks():
            block.columns["age"].values     # float64, NaN where missing

The format is recognized by the first bytes. All readers yield the same `Block`s; see
`TableReader`.
"""

from pathlib import Path
from typing import Any, BinaryIO

from distbp.data.arrow_reader import ArrowReader
from distbp.data.csv_reader import CsvReader
from distbp.data.json_reader import JsonReader
from distbp.data.table_base import ReadCallback, TableReader, require_pyarrow, wrap_arrow_errors
from distbp.data.table_columns import Block, Column
from distbp.data.table_input import TableInput, stream_name
from distbp.data.table_options import TableOptions
from distbp.errors import DataError

__all__ = ["Block", "Column", "TableOptions", "TableReader", "frame_reader", "open_table"]

_DEFAULT_OPTIONS = TableOptions()


def open_table(
    source: str | Path | BinaryIO,
    options: TableOptions = _DEFAULT_OPTIONS,
    advance: ReadCallback | None = None,
) -> TableReader:
    """Return a reader of a file, or of a stream such as `sys.stdin.buffer`.

    Parameters
    ----------
    source : path or binary file
        A stream that is no file on disk is copied into a temporary file.
    options : TableOptions
    advance : function of a number of bytes, optional
        Called with the bytes read meanwhile; they add up to the size of the file.

    Raises
    ------
    ConfigError
        An option is not allowed, or does not fit the table.
    DataError
        The file cannot be read, or is no table; pyarrow is not installed.
    """
    require_pyarrow(stream_name(source))
    with wrap_arrow_errors(stream_name(source)):
        table = TableInput(source)
    try:
        if table.format == "csv":
            return CsvReader(table, options, advance)
        if table.format == "json":
            return JsonReader(table, options, advance)
        return ArrowReader(table, table.name, options, advance)
    except BaseException:
        table.close()
        raise


def frame_reader(
    frame: Any, name: str = "the data frame", options: TableOptions = _DEFAULT_OPTIONS
) -> TableReader:
    """Return a reader of a data frame of pandas or polars, or of an Arrow table.

    Parameters
    ----------
    frame : object with `__arrow_c_stream__`
    name : str
        For messages.
    options : TableOptions

    Raises
    ------
    ConfigError
        A column that is to be read or left out is not there.
    DataError
        It is no data frame, or one that Arrow cannot take; pyarrow is not installed.
    """
    require_pyarrow("data frames")
    is_table = len(getattr(frame, "shape", (0, 0))) == 2  # not one column
    if not hasattr(frame, "__arrow_c_stream__") or not is_table:
        raise DataError(
            f"{name} is a {type(frame).__name__}; expected a data frame of pandas or polars, or "
            "an Arrow table."
        )
    return ArrowReader(frame, name, options)
