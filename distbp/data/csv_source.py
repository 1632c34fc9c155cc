"""CSV files as a source: numbers in all columns except those of the labels.

Every row keeps its line number, so that an error message can name it. Labels are numbers
here if all of them are, otherwise text; whether they are classes is decided in `labels`.
"""

import csv
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distbp.data.tables import (
    FILE_ERRORS,
    ImportOptions,
    ReadCallback,
    Source,
    Table,
    wrap_source_errors,
)
from distbp.errors import ConfigError, DataError

_CsvRecord = tuple[int, list[str]]  # line number and cells

_REPORT_BYTES = 1 << 20  # between two reports of progress


@contextmanager
def read_csv(path: Path, options: ImportOptions, advance: ReadCallback) -> Iterator[Source]:
    """Yield the one split of a CSV file.

    Raises
    ------
    ConfigError
        The label columns that the user named are not there.
    DataError
        The file cannot be read, or a line is not what it should be.
    """
    with wrap_source_errors(path, FILE_ERRORS), path.open("rb") as file:
        source = _parse_csv(path, file, options, advance)
    yield source


def _parse_csv(path: Path, file: BinaryIO, options: ImportOptions, advance: ReadCallback) -> Source:
    """Read a whole CSV file."""
    lines = _decode_lines(path, file, advance)
    # By default, csv accepts text after a closing quote and a quote that is never closed.
    records = _number_records(path, csv.reader(lines, strict=True, skipinitialspace=True))
    head = list(itertools.islice(records, 2))
    if not head:
        raise DataError(f"{path} is empty.")
    has_header = _looks_like_header(head) if options.header is None else options.header
    names: list[str] | list[int] = list(range(len(head[0][1])))
    if has_header:
        names = [cell.strip() for cell in head.pop(0)[1]]
    labels = _label_columns(path, options.label, names)
    x, cells = _parse_rows(path, itertools.chain(head, records), names, labels)
    # Only on request, as whether the values are bytes is not known before the last line.
    if options.scaling == "bytes":
        x = _to_uint8_if_exact(x)
    y = _parse_labels(x, cells, [names[i] for i in labels], options.task)
    return Source({"train": (x, y)}, [str(c) for c in x.columns or ()] if has_header else None)


def _decode_lines(path: Path, file: BinaryIO, advance: ReadCallback) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; each is decoded by itself, to name it in an error."""
    unreported = 0
    for number, raw in enumerate(file, 1):
        try:
            # Excel writes a byte-order mark, which would become part of the first name.
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as failure:
            raise DataError(f"{path}, line {number} is not UTF-8 text.") from failure
        unreported += len(raw)
        if unreported >= _REPORT_BYTES:
            advance(unreported)
            unreported = 0


def _number_records(path: Path, reader: Any) -> Iterator[_CsvRecord]:
    """Yield the records that are not empty, with their line numbers."""
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as failure:
        raise DataError(f"{path}, line {reader.line_num}: {failure}.") from failure


def _looks_like_header(head: list[_CsvRecord]) -> bool:
    """Return whether a cell of the first line is no number, but the one below it is.

    Or whether its numbers are 0, 1, 2 …, as pandas writes columns that have no names.
    """
    numbers = [cell.strip() for cell in head[0][1] if _is_number(cell)]
    if len(numbers) > 2 and numbers == [str(number) for number in range(len(numbers))]:
        return True
    if len(head) < 2:  # there is no line below to compare with
        return not numbers
    pairs = zip(head[0][1], head[1][1], strict=False)
    return any(_is_number(below) and not _is_number(cell) for cell, below in pairs)


def _is_number(text: str) -> bool:
    """Return whether `text` is a number in a CSV file; Python's 1_000 is not."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _label_columns(path: Path, label: str | None, names: list[str] | list[int]) -> list[int]:
    """Return the numbers of the label columns; by default the last one."""
    words = "-1" if label is None else label
    numbers = [_column_number(path, word.strip(), names) for word in words.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"`--label {label}` names a column twice. Name each once.")
    if len(numbers) == len(names):
        raise DataError(
            f"{path} has no columns besides the labels; expected at least one feature. Separate "
            "its columns by commas, in every line."
        )
    return numbers


def _column_number(path: Path, word: str, names: Sequence[str | int]) -> int:
    """Return the number of the column that has this name, or else this number."""
    if names.count(word) > 1:
        raise ConfigError(f"`--label {word}`: {path} has {names.count(word)} columns of that name.")
    if word in names:  # first, as a column may be called "3"
        return names.index(word)
    try:
        number = int(word)
        names[number]
    except (ValueError, IndexError):
        wanted = "a name or a number" if isinstance(names[0], str) else "without a header, a number"
        raise ConfigError(
            f"`--label {word}`: {path} has no such column; expected {wanted} "
            f"of {', '.join(str(name) for name in names[:20])}{', …' * (len(names) > 20)}."
        ) from None
    return number % len(names)


def _parse_rows(
    path: Path, records: Iterable[_CsvRecord], names: Sequence[str | int], labels: list[int]
) -> tuple[Table, list[str]]:
    """Return x (n, n_0) float64, and the label cells of all rows, row by row."""
    features = [name for i, name in enumerate(names) if i not in labels]
    last_first = sorted(labels, reverse=True)  # so that deleting a cell moves no later one
    # Arrays take 8 bytes a number, lists of Python's numbers 32.
    values, lines, cells = array("d"), array("q"), list[str]()
    for line, record in records:
        if len(record) != len(names):
            raise DataError(
                f"{path}, line {line}: expected {len(names)} values, found {len(record)}. "
                "Correct the line or remove it."
            )
        cells.extend([record[i].strip() for i in labels])
        for i in last_first:
            del record[i]
        try:
            values.extend(map(float, record))
            if "_" in "".join(record):  # once a row, as a test of each cell is slow
                raise ValueError
        except ValueError:
            raise _not_a_number(path, line, record, features) from None
        lines.append(line)
    x = np.frombuffer(values).reshape(len(lines), len(features)) if lines else np.empty((0, 1))
    return Table(x, str(path), lines, features), cells


def _not_a_number(
    path: Path, line: int, record: list[str], features: Sequence[str | int]
) -> DataError:
    """Return the error for a line that has a cell that is no number."""
    column = next(i for i, cell in enumerate(record) if not _is_number(cell))
    return DataError(
        f"{path}, line {line}, column {features[column]!r}: {record[column]!r} is not a number. "
        "Correct it, or name the label column with --label."
    )


def _to_uint8_if_exact(x: Table) -> Table:
    """Return x as bytes if all numbers are integers from 0 to 255."""
    values = x.values
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        return x
    return Table(values.astype(np.uint8), x.name, x.lines, x.columns)


def _parse_labels(x: Table, cells: list[str], names: list[Any], task: str | None) -> Table:
    """Return y of a CSV file: (n,) or (n, k) numbers, or (n,) text."""
    locate = Table(np.empty(0), x.name, x.lines, names).locate
    missing = next((i for i, cell in enumerate(cells) if cell.lower() in ("", "nan")), None)
    if missing is not None:
        raise DataError(f"{locate(*divmod(missing, len(names)))}: the label is missing.")
    values = _as_numbers(cells)
    if values is None:
        first = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        # Text among integers may be a class; among fractions it is a mistake.
        has_fractions = task is None and any(_is_fraction(cell) for cell in cells)
        if task == "regression" or len(names) > 1 or has_fractions:
            raise DataError(
                f"{locate(*divmod(first, len(names)))}: {cells[first]!r} is not a number, which "
                "a regression requires. Correct it, or use --task classification for classes."
            )
        values = np.array(cells)
    shape = (-1,) if len(names) == 1 else (-1, len(names))
    return Table(values.reshape(shape), x.name, x.lines, names)


def _as_numbers(cells: list[str]) -> np.ndarray | None:
    """Return the cells as int64, or else as float64, or None."""
    if any("_" in cell for cell in cells):
        return None
    # Integers first: identifiers above 2^53 are not exact as float64.
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        try:
            return np.array([kind(cell) for cell in cells], dtype)
        except (ValueError, OverflowError):
            continue
    return None


def _is_fraction(cell: str) -> bool:
    """Return whether `cell` is a finite number, but not an integer."""
    return _is_number(cell) and math.isfinite(float(cell)) and not float(cell).is_integer()
