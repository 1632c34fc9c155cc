"""A table as a source: CSV, Parquet, Arrow or JSON lines, with columns of numbers and of text.

`read_rows` parses the file once, into a `Spool` of a number per cell; different texts of a column
are numbered as they occur. Missing cells are counted, and a column that cannot be a feature is
refused, before a row is encoded. Then `importing` decides how the rows are split; what is filled
in for missing cells, and which columns are constant, follows from the training rows alone.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.dataset import SPLIT_NAMES
from distbp.data.profile import ColumnProfile, ColumnSummary, TableProfile
from distbp.data.spool import Spool, SpoolColumns
from distbp.data.table_columns import is_date, is_fraction, is_number, is_written_number
from distbp.data.table_encoder import fit_preprocessing
from distbp.data.table_reader import Block, TableReader
from distbp.data.table_roles import ColumnRoles, choose_columns
from distbp.data.tables import (
    MAX_CATEGORIES,
    ImportOptions,
    Source,
    Table,
    TableContent,
)
from distbp.errors import DataError

logger = logging.getLogger(__name__)

_EXACT = 2.0**53  # below this float64 tells all whole numbers apart
_SPLIT_WORDS = {
    "train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2,
    "testing": 2,
}  # fmt: skip
_BOOLEANS = {"true", "false"}


@contextmanager
def read_rows(reader: TableReader, options: ImportOptions, scratch: Path) -> Iterator[Source]:
    """Yield the one split of a table.

    Parameters
    ----------
    reader : TableReader
        Is closed at the end.
    options : ImportOptions
    scratch : Path
        Folder for temporary files.

    Raises
    ------
    ConfigError
        Columns that the user named are not there.
    DataError
        The table cannot be read, or a cell is not what it should be.
    """
    with ExitStack() as stack:
        stack.enter_context(reader)
        columns = choose_columns(reader, options)
        content = _Content(reader, columns, options, scratch)
        # A lambda, as rows that are dropped lead to a new spool.
        stack.callback(lambda: content.spool.close())
        content.scan()
        # Reading may have added notes, such as one on the encoding.
        for note in reader.notes:
            logger.info("%s", note)
        content.handle_missing()
        content.check_features()
        yield content.source()


class _Words:
    """The different texts of a column, numbered as they occur.

    Attributes
    ----------
    overflows : bool
        Whether there are more than may be kept.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {}
        self.overflows = False

    def encode(self, values: np.ndarray, words: tuple[str, ...]) -> np.ndarray:
        """Return indices into `words` as numbers of this column's words, NaN for -1."""
        return np.array([*map(self._number, words), np.nan])[values]

    def _number(self, word: str) -> float:
        if len(self._numbers) >= self._limit and word not in self._numbers:
            self.overflows = True
            return 0.0  # any number: the column is refused
        return float(self._numbers.setdefault(word, len(self._numbers)))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self._numbers)


class _Content:
    """The cells of a table, and how they become x and y.

    Attributes
    ----------
    spool : Spool
        A number for each cell of the columns that are used.
    """

    def __init__(
        self, reader: TableReader, columns: ColumnRoles, options: ImportOptions, scratch: Path
    ) -> None:
        self._reader, self._columns, self._options = reader, columns, options
        self._names = columns.names
        self._words: dict[str, _Words] = {}
        self._summaries: dict[str, ColumnSummary] = {}
        self._rows: np.ndarray | None = None  # numbers of those kept, if not all
        self._profile = TableProfile(0)
        self.spool = Spool(scratch, len(self._names))

    def locate(self, row: int, column: str | None = None) -> str:
        """Return where a row of the spool is in the file, for messages."""
        return self._reader.locate(int(row if self._rows is None else self._rows[row]), column)

    # Reading

    def scan(self) -> None:
        """Read the file into the spool, and summarize the columns."""
        kinds = dict.fromkeys(self._columns.categorical & set(self._names), "text")
        kinds |= {name: "text" for name in self._columns.labels if self._holds_booleans(name)}
        for block in self._reader.blocks(self._names, kinds):
            if block.start == 0:  # again, as a column turned out to hold text
                self.spool.clear()
                self._words = {}
                self._summaries = {name: ColumnSummary() for name in self._names}
            self._add(block)
        if not len(self.spool):
            raise DataError(f"{self._reader.name} is empty; expected at least one row.")
        self._new_profile(self._columns.roles)

    def _holds_booleans(self, name: str) -> bool:
        """Return whether a column begins with true and false: as labels, they are names."""
        if self._reader.kinds[name] != "number":
            return False
        blocks = self._reader.blocks([name], {name: "text"})
        first = next(blocks, None)
        words = (first.columns[name].words if first else None) or ()
        return bool(words) and {word.lower() for word in words} <= _BOOLEANS

    def _add(self, block: Block) -> None:
        cells = []
        for name, summary in self._summaries.items():
            column = block.columns[name]
            values = column.values
            if column.words is not None:
                values = self._known_words(name).encode(values, column.words)
            cells.append(values)
            summary.add(values)
        self.spool.append(cells)

    def _known_words(self, name: str) -> _Words:
        """Return the words of a column."""
        if name not in self._words:
            # Labels and groups may have any number of different texts.
            is_feature = name in self._columns.features
            limit = self._options.max_categories or MAX_CATEGORIES
            self._words[name] = _Words(limit if is_feature else np.inf)
        return self._words[name]

    def _new_profile(self, roles: Mapping[str, str]) -> None:
        """Make the profile of what was summarized."""
        words = self._all_words()
        self._profile = TableProfile(
            len(self.spool),
            [one.column(name, roles[name], words.get(name), name in self._reader.dates)
             for name, one in self._summaries.items()],
        )  # fmt: skip

    def _all_words(self) -> dict[str, tuple[str, ...]]:
        return {name: found.words for name, found in self._words.items()}

    # Checks

    def _column(self, name: str) -> ColumnProfile:
        return self._profile.columns[self._names.index(name)]

    def _leave_out(self, name: str, why: str) -> None:
        """Leave a feature out, and log why."""
        j = self._names.index(name)
        logger.info("Column %r is left out: %s.", name, why)
        self._columns.features.remove(name)
        self._profile.columns[j] = replace(self._profile.columns[j], role="left out")

    def handle_missing(self) -> None:
        """Drop rows with missing cells, or refuse them, as the user wants it."""
        for name in list(self._columns.features):
            if self._column(name).missing == self._profile.rows:
                self._leave_out(name, "it has no values")
        choice = self._options.missing or "error"
        if choice == "drop":
            self._drop_rows()
        self._check_labels_are_there()
        counts = {name: self._column(name).missing for name in self._columns.features}
        counts = {name: count for name, count in counts.items() if count}
        if choice == "error" and counts:
            shown = [f"{count:,} in {name!r}" for name, count in list(counts.items())[:8]]
            name = next(iter(counts))
            first = self.locate(self._first_missing(name), name)
            raise DataError(
                f"{first}: the value is missing. Missing are {', '.join(shown)}"
                f"{', …' * (len(counts) > len(shown))}. Fill them in with "
                "--missing mean or --missing median, or leave the rows out with --missing drop."
            )

    def _first_missing(self, name: str) -> int:
        return int(np.isnan(self.spool.column(self._names.index(name))).argmax())

    def _check_labels_are_there(self) -> None:
        """Raise DataError if a label, or a cell that says how to split, is missing."""
        for name, role in self._columns.roles.items():
            if role != "feature" and self._column(name).missing:
                where = self.locate(self._first_missing(name), name)
                what = "label" if role == "label" else f"value for --{role}"
                raise DataError(
                    f"{where}: the {what} is missing. Correct it, or leave such rows out with "
                    "--missing drop."
                )

    def _drop_rows(self) -> None:
        """Keep the rows without a missing cell."""
        used = [j for j, name in enumerate(self._names) if name in self._columns.roles]
        kept = np.empty(len(self.spool), bool)
        for start, rows in self.spool.blocks(used):
            kept[start : start + rows.shape[1]] = ~np.isnan(rows).any(axis=0)
        if kept.all():
            return
        if not kept.any():
            raise DataError(
                f"{self._reader.name}: every row has a missing cell. Use --missing mean, or leave "
                "columns out with --drop."
            )
        self._rows = np.flatnonzero(kept)
        self.spool = self.spool.keep(kept)
        logger.info("%d of %d rows have missing cells and are dropped.", (~kept).sum(), len(kept))
        self._summaries = {name: ColumnSummary() for name in self._names}
        for _, rows in self.spool.blocks():
            for summary, cells in zip(self._summaries.values(), rows, strict=True):
                summary.add(cells)
        self._new_profile({column.name: column.role for column in self._profile.columns})

    def check_features(self) -> None:
        """Raise DataError for text that is a mistyped number, or too many different texts."""
        features = self._columns.features
        many = [name for name in features if name in self._words and self._words[name].overflows]
        for name in features:
            if name in self._words and name not in self._columns.categorical:
                self._check_words(name)
        if many:
            limit = self._options.max_categories or MAX_CATEGORIES
            shown = ", ".join(map(repr, many[:8])) + ", …" * (len(many) > 8)
            verb = "Each of the columns" if len(many) > 1 else "Column"
            raise DataError(
                f"{self._reader.name}: {verb} {shown} has more than {limit:,} different texts, as "
                f"names and free text have. Leave such columns out with --drop {','.join(many)}, "
                "or raise --max-categories."
            )
        if not features:
            raise DataError(f"{self._reader.name} has no feature with values. Add a column.")

    def _check_words(self, name: str) -> None:
        """Raise DataError for a column of text most of which is numbers: it has a mistake."""
        words = self._words[name].words
        self._check_marks(name, f"--categorical {name}")
        wrong = [word for word in words if not (is_number(word) or is_date(word))]
        # Without any, the file says that its numbers are text, as Parquet can.
        if wrong and len(wrong) <= len(words) / 2:
            where = self.locate(self._row_of(name, wrong[0]), name)
            raise DataError(
                f"{where}: {wrong[0]!r} is not a number or date, as other cells of the column are. "
                f"Correct it, or use --categorical {name} if they are categories, or name the "
                "label column with --label."
            )

    def _check_marks(self, name: str, remedy: str) -> None:
        """Raise DataError for a column of numbers with marks that are not read."""
        words = self._words[name].words
        written = next(filter(is_written_number, words), None)
        if written and all(is_number(one) or is_written_number(one) for one in words):
            raise DataError(
                f"{self.locate(self._row_of(name, written), name)}: {written!r} is a number with "
                "marks that are not read. Write digits and a decimal mark alone (pandas.read_csv "
                f"removes others: thousands=','), or use {remedy} if they are categories."
            )

    def _row_of(self, name: str, word: str) -> int:
        """Return the first row with a word."""
        number = self._words[name].words.index(word)
        return int((self.spool.column(self._names.index(name)) == number).argmax())

    # The result

    def source(self) -> Source:
        """Return the rows, and how to encode them."""
        features = [self._names.index(name) for name in self._columns.features]
        name = self._reader.name
        x = Table(SpoolColumns(self.spool, features), name, self.locate, self._columns.features)
        keys, weights = self._keys(), None
        content = TableContent(
            self._encode, self._profile, self.spool, keys, tuple(self._columns.labels)
        )
        if "weight" in keys:
            weights = Table(keys["weight"], f"{name}, column {self._columns.keys['weight']!r}",
                            self.locate)  # fmt: skip
        return Source({"train": (x, self._labels())}, content, weights)

    def _encode(self, is_train: np.ndarray) -> Any:
        """Return x and its preprocessing, with the statistics of the training rows."""
        fitted = fit_preprocessing(
            self.spool, self._profile, self._all_words(), is_train, self._options,
            self._columns.labels,
        )  # fmt: skip
        for name in fitted.constant:
            self._leave_out(name, "it is constant in the training rows")
        if not self._columns.features:
            raise DataError(
                f"{self._reader.name}: every feature is constant in the training rows. Add a "
                "column."
            )
        encoder = fitted.encoder(self.locate)
        table = Table(encoder, self._reader.name, self.locate, encoder.preprocessing.input_names)
        return table, encoder.preprocessing

    def _labels(self) -> Table:
        """Return y: (n,) or (n, k) numbers, or (n,) text as numbers of words."""
        names = self._columns.labels
        table = Table(np.empty(0), self._reader.name, self.locate, names)
        for name in names:
            if name in self._words:
                return self._text_labels(table, name)
        profiles = [self._column(name) for name in names]
        is_whole = all(one.is_whole for one in profiles)
        large = [one.name for one in profiles if max(-one.low, one.high) >= _EXACT]
        if is_whole and large and self._options.task != "regression":
            cells = self.spool.column(self._names.index(large[0]))
            row = int((np.abs(cells) >= _EXACT).argmax())
            raise DataError(
                f"{self.locate(row, large[0])}: numbers from 2^53 on cannot be told apart. Use "
                f"--task regression for quantities, or --categorical {large[0]} for classes."
            )
        dtype = np.int64 if is_whole and not large else np.float64
        columns = [self.spool.column(self._names.index(name), dtype) for name in names]
        values = columns[0] if len(names) == 1 else np.stack(columns, axis=1)  # (n,) or (n, k)
        return replace(table, values=values)

    def _text_labels(self, table: Table, name: str) -> Table:
        """Return labels of text, with their words sorted."""
        names, words, task = self._columns.labels, self._words[name].words, self._options.task
        if task is None and name not in self._columns.categorical:
            self._check_marks(name, "--task classification")
        # Text among integers may be a class; among fractions it is a mistake.
        has_fractions = task is None and any(map(is_fraction, words))
        wrong = next((word for word in words if not is_number(word)), None)
        if wrong is not None and (task == "regression" or len(names) > 1 or has_fractions):
            raise DataError(
                f"{self.locate(self._row_of(name, wrong), name)}: {wrong!r} is not a number, which "
                "a regression requires. Correct it, or use --task classification for classes."
            )
        order = sorted(range(len(words)), key=words.__getitem__)
        rank = np.empty(len(words), np.int64)
        rank[order] = np.arange(len(words))
        values = rank[self.spool.column(self._names.index(name), np.int64)]
        return replace(table, values=values, words=tuple(words[i] for i in order))

    def _keys(self) -> dict[str, np.ndarray]:
        """Return the columns that say how rows are split."""
        keys = {}
        for key, name in self._columns.keys.items():
            values = self.spool.column(self._names.index(name))
            if key == "time" and name in self._words:
                raise DataError(
                    f"{self.locate(0, name)}: {self._words[name].words[0]!r} is neither a number "
                    "nor a date such as 2024-12-31. Convert the column."
                )
            if key == "weight" and name in self._words:
                raise DataError(
                    f"{self.locate(0, name)}: {self._words[name].words[0]!r} is not a number, as a "
                    "weight has to be. Correct it."
                )
            keys[key] = self._split_numbers(name, values) if key == "split" else values
        return keys

    def _split_numbers(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return the position in SPLIT_NAMES that each row's word means."""
        words = self._words[name].words if name in self._words else ()
        numbers = np.array([_SPLIT_WORDS.get(word.lower(), -1) for word in words] or [-1])
        found = numbers[values.astype(np.int64) if words else np.zeros(len(values), np.int64)]
        bad = np.flatnonzero(found < 0)
        if len(bad):
            text = words[int(values[bad[0]])] if words else f"{values[bad[0]]:g}"
            raise DataError(
                f"{self.locate(bad[0], name)}: expected {', '.join(SPLIT_NAMES[:2])} or "
                f"{SPLIT_NAMES[2]} for --split, found {text!r}. Correct it."
            )
        return found
