"""Options of tables, and the columns that a list of names or numbers means.

`TableOptions` are options of every command that reads tables. What is not given is recognized
from the first lines of a file: see `csv_dialect`.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distbp.errors import ConfigError
from distbp.options import option
from distbp.terminal import printable_list

SEPARATOR_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}
NO_COMMENTS = "none"
STANDARD_STREAM = "-"  # standard input or output instead of a file
_NAMES_SHOWN = 20


def _table_option(help: str, default_text: str, **more: Any) -> Any:
    return option(None, help, group="tables", default_text=default_text, **more)


@dataclass(frozen=True)
class TableOptions:
    """What the user may say about a table; None: not given.

    Attributes
    ----------
    separator : str, optional
        CSV: the character between two cells, or its name: tab, comma, semicolon, space.
    decimal : {".", ","}, optional
        CSV: the decimal mark of numbers.
    encoding : str, optional
        CSV: a name that Python knows.
    header : bool, optional
        CSV: whether the first line names the columns.
    comment : str, optional
        CSV: what a line that is left out starts with; "none": no such lines.
    columns : str, optional
        Names or numbers of the columns to read, separated by commas.
    drop : str, optional
        Names or numbers of columns to leave out.
    """

    separator: str | None = _table_option(
        "character between two cells, or tab", "by the first lines: , ; tab or |", metavar="C"
    )
    decimal: str | None = _table_option(
        "decimal mark of numbers", "by the first lines", choices=(".", ",")
    )
    encoding: str | None = _table_option(
        "encoding of the text, such as latin-1", "by the bytes", metavar="NAME"
    )
    header: bool | None = _table_option(
        "whether the first line names the columns", "by the first lines"
    )
    comment: str | None = _table_option(
        "start of lines to leave out, or none", "# if such lines come first", metavar="TEXT"
    )
    columns: str | None = _table_option(
        "columns to use, by name or number from 0", "all", metavar="LIST"
    )
    drop: str | None = _table_option(
        "columns to leave out, by name or number from 0", "none", metavar="LIST"
    )


def select_columns(name: str, names: Sequence[str], options: TableOptions) -> list[str]:
    """Return the names of the columns that `--columns` and `--drop` leave, in the table's order.

    Raises
    ------
    ConfigError
        A column that is named is not there, or none is left.
    """
    kept = set(names)
    if options.columns is not None:
        kept = set(find_columns(name, names, "--columns", options.columns))
    if options.drop is not None:
        kept -= set(find_columns(name, names, "--drop", options.drop))
    if not kept:
        raise ConfigError(f"`--columns` and `--drop` leave no column of {name}. Keep one.")
    return [one for one in names if one in kept]


def find_columns(name: str, names: Sequence[str], flag: str, words: str) -> list[str]:
    """Return the columns that the value of an option means, such as `"a,b",-1`.

    Raises
    ------
    ConfigError
        One is not there, or named twice, or none is named.
    """
    # As a line of CSV, because a name with a comma can be quoted.
    found = [_find_column(name, names, flag, w) for w in next(csv.reader([words]), [])]
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"`{flag} {words}` names a column twice, or none. Name each once.")
    return found


def _find_column(name: str, names: Sequence[str], flag: str, word: str) -> str:
    """Return the column that has this name, or else this number."""
    word = word.strip()
    if word in names:  # first, as a column may be called "3"
        return word
    try:
        return names[int(word)]
    except (ValueError, IndexError):
        shown = printable_list(names, _NAMES_SHOWN)
        raise ConfigError(
            f"`{flag} {word}`: {name} has no such column. Name one of {shown}."
        ) from None
