"""The dialect of a CSV file: encoding, comments, separator, decimal mark, names of columns.

`recognize` finds out from the first bytes of a file what the user does not say. `Dialect`
holds the result and says it in sentences. The file itself is not known here.
"""

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from distbp.data.table_columns import MISSING, is_number
from distbp.data.table_options import NO_COMMENTS, SEPARATOR_WORDS, TableOptions
from distbp.errors import ConfigError, DataError

SAMPLE_BYTES = 1 << 18
_SAMPLE_ROWS = 500
_SEPARATORS = ",;\t|"
_SEPARATOR_NAMES = {"\t": "tabs", " ": "spaces", ",": "commas", ";": "';'", "|": "'|'"}
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ENCODING_NAMES = {"cp1252": "Windows-1252, which includes Latin-1", "latin-1": "Latin-1"}
_CONTROL = re.compile(r"[\x00-\x06\x0e-\x1a\x1c-\x1f]")  # besides spaces, a bell and an escape
_COMMA_DECIMAL = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_LIKE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_YEAR = re.compile(r"(1[5-9]|2[01])\d\d")
_Rows = list[list[str]]


@dataclass(frozen=True)
class Dialect:
    """How the text of a file is divided into cells, and what they are called.

    Attributes
    ----------
    encoding : str
    comment : str
        What a line to leave out starts with; "" if there are none.
    separator, decimal : str
    names : tuple of str
        Names of all columns; "" where a column has none.
    header_lines : int
        How many lines the names of the columns take; 0 if there are none.
    has_spaced_quotes : bool
        Whether a space precedes quotes, as in `1, "a"`.
    has_cr_lines : bool
        Whether lines end with \\r alone.
    notes : tuple of str
        Sentences about what was recognized, where it differs from the common form.
    """

    encoding: str
    comment: str
    separator: str
    decimal: str
    names: tuple[str, ...]
    header_lines: int
    has_spaced_quotes: bool
    has_cr_lines: bool = False
    notes: tuple[str, ...] = field(default=())


def recognize(name: str, sample: bytes, options: TableOptions) -> Dialect:
    """Return the dialect of a file that starts with `sample`.

    Parameters
    ----------
    name : str
        For messages.
    sample : bytes
        The first `SAMPLE_BYTES` of the file, or all of a shorter one.
    options : TableOptions
        What is given here is not recognized.

    Raises
    ------
    ConfigError
        An option is not allowed.
    DataError
        The bytes are no text, or there is no row.
    """
    encoding = _check_encoding(options.encoding) or _encoding(sample)
    text = _decode_sample(name, sample, encoding)
    comment = _comment(text, options)
    lines = [line for line in _lines(text) if not comment or not line.startswith(comment)]
    separator = _check_separator(options) or _separator(lines)
    rows = _parse(lines, separator)
    if not rows:
        raise DataError(f"{name} is empty; expected at least one row.")
    decimal = options.decimal or _decimal(rows, separator)
    if decimal == separator:
        raise ConfigError(
            f"The separator and the decimal mark are both {decimal!r}. Choose another one with "
            "--separator or --decimal."
        )
    has_header = _has_header(rows, decimal) if options.header is None else options.header
    if has_header and len(rows) == 1 and len(sample) < SAMPLE_BYTES:
        raise DataError(f"{name} is empty but for the names of its columns; expected rows.")
    dialect = Dialect(
        encoding, comment, separator, decimal, _names(rows, has_header),
        _first_record_end(lines, separator) if has_header else 0,
        _has_spaced_quotes(lines, separator),
        "\r" in text and "\n" not in text,
    )  # fmt: skip
    doubtful = "" if options.decimal or decimal != "," else _like_thousands(rows)
    return _with_notes(dialect, doubtful)


def _with_notes(dialect: Dialect, doubtful: str) -> Dialect:
    """Return the dialect with a sentence about what differs from UTF-8 with commas and a header.

    `doubtful` is a number whose comma may be no decimal one, if all are such.
    """
    parts = []
    if dialect.separator != ",":
        named = _SEPARATOR_NAMES.get(dialect.separator, repr(dialect.separator))
        parts.append(f"columns are separated by {named}")
    if dialect.decimal != ".":
        parts.append("numbers have a decimal comma")
        if doubtful:
            parts[-1] += f", so that {doubtful} is {float(doubtful.replace(',', '.')):g}"
    if dialect.encoding != "utf-8":
        parts.append(describe_encoding(dialect.encoding))
    if dialect.comment:
        parts.append(f"lines that start with {dialect.comment!r} are left out")
    if dialect.header_lines and _are_years([n for n in dialect.names if is_number(n)]):
        parts.append("the years in the first line name the columns")
    if not dialect.header_lines:
        parts.append("no line names the columns: they are numbered from 0")
    sentence = "; ".join(parts)
    return replace(dialect, notes=(sentence[0].upper() + sentence[1:] + ".",) if parts else ())


def describe_encoding(encoding: str) -> str:
    """Return a clause that names the encoding."""
    return f"the text is {_ENCODING_NAMES.get(encoding, encoding)}"


def _check_encoding(encoding: str | None) -> str | None:
    """Return Python's name of an encoding; ConfigError if it is no text encoding."""
    if encoding is None:
        return None
    try:
        with contextlib.suppress(UnicodeError):
            b" ".decode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise ConfigError(
            f"`--encoding {encoding}` is unknown. Use utf-8, utf-16, latin-1, cp1252 or another "
            "name that Python has."
        ) from None


def _check_separator(options: TableOptions) -> str | None:
    """Return the separator that the user gave; ConfigError if it cannot be one."""
    given = options.separator
    if given is None:
        return None
    separator = SEPARATOR_WORDS.get(given, given)
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n\0':
        raise ConfigError(
            f"`--separator {given}`: expected one character such as ; or | or the word tab."
        )
    return separator


def _encoding(sample: bytes) -> str:
    """Return the encoding by the byte-order mark, by the zero bytes, or by whether it is UTF-8."""
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    # ASCII characters in UTF-16 have a zero as every other byte; some may be other characters.
    head = sample[:1000]
    if head[1::2].count(0) > 0.4 * len(head) and not head[::2].count(0):
        return "utf-16-le"
    if head[::2].count(0) > 0.4 * len(head) and not head[1::2].count(0):
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError as failure:
        # After text in UTF-8 it is damaged UTF-8, not another encoding.
        if sample[: failure.start].isascii():
            return _single_byte_encoding(sample)
    return "utf-8"


def _single_byte_encoding(sample: bytes) -> str:
    """Return the encoding of bytes that are not UTF-8: that of Windows if they can be."""
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _decode_sample(name: str, sample: bytes, encoding: str) -> str:
    """Return the text of the first bytes, without a byte-order mark."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError as failure:
        line = _line_at(sample.decode("latin-1"), failure.start)
        raise DataError(
            f"{name}, line {line} is not {encoding} text. Name the right one with --encoding."
        ) from None
    except ValueError as failure:
        raise DataError(f"{name} is not {encoding} text: {failure}.") from None
    if found := _CONTROL.search(text):
        line = _line_at(text, found.start())
        raise DataError(
            f"{name}, line {line}: expected text, found the character {found[0]!r}. Correct the "
            "line, or give the file the name of the format that it has."
        )
    return text.removeprefix("\ufeff")


def _line_at(text: str, end: int) -> int:
    """Return the number of the line of a position, from 1; without \\n, lines end with \\r."""
    return text.count("\n" if "\n" in text else "\r", 0, end) + 1


def _lines(text: str) -> list[str]:
    """Return the lines with their ends; str.splitlines would split at other characters too."""
    return list(io.StringIO(text, newline=""))


def _comment(text: str, options: TableOptions) -> str:
    """Return what comment lines start with; by default # if such a line comes first."""
    if options.comment is not None:
        return "" if options.comment == NO_COMMENTS else options.comment
    lines = _lines(text)
    first = next((line for line in lines if line.strip()), "")
    if not first.startswith("#"):
        return ""
    # Where every line starts with #, such as with colours, none is a comment.
    return "#" if any(line.strip() and not line.startswith("#") for line in lines) else ""


def _parse(lines: list[str], separator: str) -> _Rows:
    """Return the cells of the first rows that are not empty; the last may be incomplete."""
    rows: _Rows = []
    # A cell of more characters than csv accepts, a limit of the whole process, ends the sample.
    with contextlib.suppress(csv.Error):
        for cells in csv.reader(lines, delimiter=separator, skipinitialspace=separator != " "):
            if cells:
                rows.append(cells)
            if len(rows) == _SAMPLE_ROWS:
                break
    return rows


def _first_record_end(lines: list[str], separator: str) -> int:
    """Return how many lines there are up to the end of the first record."""
    reader = csv.reader(lines, delimiter=separator)
    next(filter(None, reader))
    return reader.line_num


def _has_spaced_quotes(lines: list[str], separator: str) -> bool:
    """Return whether a cell in quotes has a space before them."""
    if separator == " ":
        return False
    reader = csv.reader(lines, delimiter=separator)
    with contextlib.suppress(csv.Error):
        rows = itertools.islice(reader, _SAMPLE_ROWS)
        return any(re.match(r' +"', cell) for row in rows for cell in row)
    return False


def _separator(lines: list[str]) -> str:
    """Return the separator by which most rows have as many cells as the first one."""
    scores = {one: _separator_score(_parse(lines, one), one) for one in _SEPARATORS}
    return max(scores, key=lambda one: scores[one])  # the first of equal ones


def _separator_score(rows: _Rows, separator: str) -> tuple[float, int]:
    """Return how well the rows fit together: the fraction of good rows, and their cells."""
    # The last row may be cut off at the end of the sample.
    rows = rows[:-1] if len(rows) > 2 else rows
    if not rows:
        return 0.0, 0
    width = len(rows[0])
    # R writes names of rows, but no name above them.
    if len(rows) > 1 and {len(row) for row in rows[1:]} == {width + 1}:
        width += 1
    if width == 1:
        return 0.0, 0
    good = sum(len(row) in (width, len(rows[0])) for row in rows) / len(rows)
    # A cell with another separator in it speaks against this one, unless it is a decimal comma.
    others = set(_SEPARATORS) - {separator}
    cells = [cell for row in rows for cell in row]
    foreign = sum(
        bool(others.intersection(cell)) and not (separator != "," and _COMMA_DECIMAL.match(cell))
        for cell in cells
    )
    return round(good - foreign / len(cells), 2), width


def _decimal(rows: _Rows, separator: str) -> str:
    """Return the decimal mark: a comma if numbers have it, and none has a point."""
    if separator == ",":
        return "."
    cells = [cell for row in rows for cell in row]
    commas = sum(_COMMA_DECIMAL.fullmatch(cell) is not None for cell in cells)
    points = sum("." in cell and is_number(cell, ".") for cell in cells)
    return "," if commas > points else "."


def _like_thousands(rows: _Rows) -> str:
    """Return a number such as 1,200 if all that have a comma look like it, otherwise ""."""
    cells = [cell.strip() for row in rows for cell in row if _COMMA_DECIMAL.fullmatch(cell)]
    return cells[0] if cells and all(map(_LIKE_THOUSANDS.fullmatch, cells)) else ""


def _has_header(rows: _Rows, decimal: str) -> bool:
    """Return whether the first row names the columns.

    Its cells are 0, 1, 2 …, as pandas writes columns that have no names; or one of them is no
    number, but all below it are; or none of them is a number or occurs below, where others
    are repeated; or its numbers are years in a row, unlike those below.
    """
    first, below = [cell.strip() for cell in rows[0]], rows[1:]
    numbers = [cell for cell in first if is_number(cell, decimal)]
    if len(numbers) > 2 and numbers == [str(number) for number in range(len(numbers))]:
        return True
    if not below:  # there is no line below to compare with
        return not numbers
    columns = [
        [cell.strip() for cell in cells if cell and cell.strip() not in MISSING]
        for cells in itertools.zip_longest(*below)
    ][-len(first) :]  # names of rows may have no name
    for cell, cells in zip(first, columns, strict=False):
        is_name = cell not in MISSING and not is_number(cell, decimal)
        if is_name and cells and all(is_number(one, decimal) for one in cells):
            return True
    if numbers:
        return _are_years(numbers) and _years_are_names(first, columns)
    return _names_of_text(first, columns)


def _are_years(numbers: Sequence[str]) -> bool:
    """Return whether these are at least two years at equal distances."""
    if len(numbers) < 2 or not all(map(_YEAR.fullmatch, numbers)):
        return False
    steps = {int(b) - int(a) for a, b in itertools.pairwise(numbers)}
    return len(steps) == 1 and 0 not in steps


def _years_are_names(first: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """Return whether the years in the first row name columns: others do not occur below them."""
    pairs = list(zip(first, columns, strict=False))
    if any(cell in cells for cell, cells in pairs if not _YEAR.fullmatch(cell)):
        return False
    below = [cell for year, cells in pairs if _YEAR.fullmatch(year) for cell in cells]
    found = sum(_YEAR.fullmatch(cell) is not None for cell in below)
    # Two numbers are at equal distances by chance, but hardly three.
    n_years = sum(_YEAR.fullmatch(cell) is not None for cell in first)
    return found < len(below) if n_years > 2 else found == 0


def _names_of_text(first: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """Return whether the cells of the first row are names of columns that hold text."""
    counts = [Counter(cells) for cells in columns]
    if any(cell in count for cell, count in zip(first, counts, strict=False)):
        return False
    named = [cell for cell in first if cell]
    repeats = any(len(count) < sum(count.values()) for count in counts)
    return repeats and len(set(named)) == len(named)


def _names(rows: _Rows, has_header: bool) -> tuple[str, ...]:
    """Return the names of all columns: those of the header, or else their numbers."""
    if not has_header:
        return tuple(str(number) for number in range(len(rows[0])))
    names = [cell.strip() for cell in rows[0]]
    below = rows[1 : max(2, len(rows) - 1)]
    if {len(row) for row in below} == {len(names) + 1}:
        # Either every row ends with a separator, or R has written names of rows.
        names.insert(0 if any(row[-1] for row in below) else len(names), "")
    return tuple(names)
