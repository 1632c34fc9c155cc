"""A CSV file as a source: numbers in all columns but the labels'.

Every row keeps its line number, so that an error can name it. Whether numbers in
the label column are classes or quantities is decided in `importing`; here they are
numbers if all of them are, and otherwise names.
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

from distbp.data.tables import FILE_FAILS, ImportOptions, ProgressCallback, Source, Table, reading
from distbp.errors import ConfigError, DataError

Record = tuple[int, list[str]]  # line number and cells

REPORT_BYTES = 1 << 20  # between two reports of progress


@contextmanager
def read_csv(path: Path, options: ImportOptions, advance: ProgressCallback) -> Iterator[Source]:
    """Yield the one split of a CSV file: numbers in all columns but the labels'."""
    with reading(path, FILE_FAILS), path.open("rb") as file:
        source = parse_csv(path, file, options, advance)
    yield source


def parse_csv(
    path: Path, file: BinaryIO, options: ImportOptions, advance: ProgressCallback
) -> Source:
    """Read a whole CSV file."""
    lines = decoded(path, file, advance)
    records = numbered(path, csv.reader(lines, strict=True, skipinitialspace=True))
    head = list(itertools.islice(records, 2))
    if not head:
        raise DataError(f"{path} is empty.")
    has_header = looks_like_header(head) if options.header is None else options.header
    names: list[str] | list[int] = list(range(len(head[0][1])))
    if has_header:
        names = [cell.strip() for cell in head.pop(0)[1]]
    labels = label_columns(path, options.label, names)
    x, cells = parse_rows(path, itertools.chain(head, records), names, labels)
    if options.scaling == "bytes":
        x = narrowed(x)
    y = parse_labels(x, cells, [names[i] for i in labels], options.task)
    return Source({"train": (x, y)}, [str(c) for c in x.columns or ()] if has_header else None)


def decoded(path: Path, file: BinaryIO, advance: ProgressCallback) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; each is decoded alone, to know its number."""
    unreported = 0
    for number, raw in enumerate(file, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as failure:
            raise DataError(f"{path}, line {number} is not UTF-8 text.") from failure
        unreported += len(raw)
        if unreported >= REPORT_BYTES:
            advance(unreported)
            unreported = 0


def numbered(path: Path, reader: Any) -> Iterator[Record]:
    """Yield the records that are not blank, with their line numbers."""
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as failure:
        raise DataError(f"{path}, line {reader.line_num}: {failure}.") from failure


def looks_like_header(head: list[Record]) -> bool:
    """Is there a cell in the first line that is no number, above one that is?

    Or are its numbers 0, 1, 2 and so on, as pandas calls columns that have no names?
    """
    numbers = [cell.strip() for cell in head[0][1] if is_number(cell)]
    if len(numbers) > 2 and numbers == [str(number) for number in range(len(numbers))]:
        return True
    if len(head) < 2:
        return not numbers
    pairs = zip(head[0][1], head[1][1], strict=False)
    return any(is_number(below) and not is_number(cell) for cell, below in pairs)


def is_number(text: str) -> bool:
    """Is `text` a number in a CSV file? Python's 1_000 is not."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def label_columns(path: Path, label: str | None, names: list[str] | list[int]) -> list[int]:
    """Return the numbers of the label columns, by default the last."""
    words = "-1" if label is None else label
    numbers = [column_number(path, word.strip(), names) for word in words.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"`--label {label}` names a column twice. Name each once.")
    if len(numbers) == len(names):
        raise DataError(
            f"{path} has no column besides the labels: expected one feature at least. Its columns "
            "have to be separated by commas, from the first line on."
        )
    return numbers


def column_number(path: Path, word: str, names: Sequence[str | int]) -> int:
    """Return the number of the column with this name, or else with this number."""
    if names.count(word) > 1:
        raise ConfigError(f"`--label {word}`: {path} has {names.count(word)} columns of that name.")
    if word in names:
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


def parse_rows(
    path: Path, records: Iterable[Record], names: Sequence[str | int], labels: list[int]
) -> tuple[Table, list[str]]:
    """Return x (n, n_0) float64, and the label cells of all rows, row by row."""
    features = [name for i, name in enumerate(names) if i not in labels]
    last_first = sorted(labels, reverse=True)
    values, lines, cells = array("d"), array("q"), list[str]()
    for line, record in records:
        if len(record) != len(names):
            raise DataError(
                f"{path}, line {line}: expected {len(names)} values, found {len(record)}. "
                "Mend the line or remove it."
            )
        cells.extend([record[i].strip() for i in labels])
        for i in last_first:
            del record[i]
        try:
            values.extend(map(float, record))
            if "_" in "".join(record):
                raise ValueError
        except ValueError:
            raise not_a_number(path, line, record, features) from None
        lines.append(line)
    x = np.frombuffer(values).reshape(len(lines), len(features)) if lines else np.empty((0, 1))
    return Table(x, str(path), lines, features), cells


def not_a_number(
    path: Path, line: int, record: list[str], features: Sequence[str | int]
) -> DataError:
    """Return the error for a line with a cell that is no number."""
    column = next(i for i, cell in enumerate(record) if not is_number(cell))
    return DataError(
        f"{path}, line {line}, column {features[column]!r}: {record[column]!r} is not a number. "
        "Mend it, or name the label column with --label."
    )


def narrowed(x: Table) -> Table:
    """Return x as bytes if each number is a whole one from 0 to 255."""
    values = x.values
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        return x
    return Table(values.astype(np.uint8), x.name, x.lines, x.columns)


def parse_labels(x: Table, cells: list[str], names: list[Any], task: str | None) -> Table:
    """Return y of a CSV file: (n,) or (n, k) numbers, or (n,) names."""
    place = Table(np.empty(0), x.name, x.lines, names).place
    lost = next((i for i, cell in enumerate(cells) if cell.lower() in ("", "nan")), None)
    if lost is not None:
        raise DataError(f"{place(*divmod(lost, len(names)))}: the label is missing.")
    values = as_numbers(cells)
    if values is None:
        odd = [i for i, cell in enumerate(cells) if not is_number(cell)]
        # Names among whole numbers may be classes; among fractions they are mistakes.
        fractions = task is None and any(is_fraction(cell) for cell in cells)
        if task == "regression" or len(names) > 1 or fractions:
            raise DataError(
                f"{place(*divmod(odd[0], len(names)))}: {cells[odd[0]]!r} is not a number, "
                "as a quantity has to be. Mend it, or use --task classification for classes."
            )
        values = np.array(cells)
    shape = (-1,) if len(names) == 1 else (-1, len(names))
    return Table(values.reshape(shape), x.name, x.lines, names)


def as_numbers(cells: list[str]) -> np.ndarray | None:
    """Return the cells as int64, or else as float64, or None."""
    if any("_" in cell for cell in cells):
        return None
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        try:
            return np.array([kind(cell) for cell in cells], dtype)
        except (ValueError, OverflowError):
            continue
    return None


def is_fraction(cell: str) -> bool:
    """Is `cell` a number, but not a whole one?"""
    return is_number(cell) and math.isfinite(float(cell)) and not float(cell).is_integer()
