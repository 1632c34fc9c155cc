"""New rows for a model from a table: columns found by name, rows encoded, block by block.

A `ModelTable` needs no label: that column is only used where a score is asked for. Rows come
as `Rows`, blocks of the same number of rows whatever the blocks of the file are. What is done
with them is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.data.labels import is_value_name, number_name
from distbp.data.table_columns import Block, Column
from distbp.data.table_reader import TableReader
from distbp.errors import ConfigError, DataError
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.terminal import printable_list

_NAMES_SHOWN = 8
_LEAST_ROUNDED = 2.0**53  # from here on float64 does not have every integer


@dataclass(frozen=True)
class Rows:
    """Rows for a model.

    Attributes
    ----------
    x : (m, n_in) array
    y : (m,) int64, (m, k) float64 or uint8 array, optional
        As a data set stores it.
    ids : (m,) int64 array, or array of str objects, optional
        What identifies the rows; None where it is missing.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def part(self, start: int, stop: int) -> "Rows":
        """Return the rows [start, stop), as views."""
        arrays = (self.x, self.y, self.ids)
        return Rows(*(None if one is None else one[start:stop] for one in arrays))  # type: ignore[arg-type]

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        """Return the rows of all parts, which have the same arrays."""
        if len(parts) == 1:
            return parts[0]
        arrays: list[Any] = [
            None if getattr(parts[0], name) is None else
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("x", "y", "ids")
        ]  # fmt: skip
        return Rows(*arrays)


def regroup(parts: Iterator[Rows], rows: int) -> Iterator[Rows]:
    """Yield the same rows in groups of `rows`; the last one may be smaller."""
    held: list[Rows] = []
    count = 0
    for part in parts:
        start = 0
        while count + len(part) - start >= rows:
            stop = start + rows - count
            yield Rows.join([*held, part.part(start, stop)])
            held, count, start = [], 0, stop
        if start < len(part):
            held.append(part.part(start, len(part)))
            count += len(part) - start
    if held:
        yield Rows.join(held)


class ModelTable:
    """The columns of a table that a model takes.

    Parameters
    ----------
    reader : TableReader
        Opened; it stays the caller's.
    model : Checkpoint
    unknown : {"error", "ignore"}
        What to do with categories that the model does not know.
    id_column : str, optional
        Identifies the rows.
    has_labels : bool
        Whether the rows have to have their labels.
    keeps_integers : bool
        Whether identifiers that are all integers stay numbers, for which they are read twice; in
        CSV both look alike.

    Attributes
    ----------
    notes : list of str
        Sentences to say: what the reader has recognized, which columns are not used.

    Raises
    ------
    ConfigError, DataError
        The table lacks a column.
    """

    def __init__(
        self,
        reader: TableReader,
        model: Checkpoint,
        *,
        unknown: str = "error",
        id_column: str | None = None,
        has_labels: bool = False,
        keeps_integers: bool = False,
    ) -> None:
        self._reader, self._unknown, self._id = reader, unknown, id_column
        self._task, self._classes = model.about["task"], list(model.about["classes"])
        self.notes = list(reader.notes)
        found = model.preprocessing
        if found is None:
            found = self._by_position(model.network.sizes[0], has_labels)
        self._preprocessing = found
        self._labels = self._preprocessing.labels if has_labels else ()
        self._check_columns()
        self._has_integers = (
            keeps_integers and id_column is not None and reader.holds_integers(id_column)
        )

    def _by_position(self, n_in: int, has_labels: bool) -> Preprocessing:
        """Return the columns in order, for a model that was trained on arrays."""
        names, name = self._reader.names, self._reader.name
        if self._id is not None:
            names = [one for one in names if one != self._id]
        if has_labels:
            raise ConfigError(
                f"The model was trained on arrays and does not know which column of {name} is the "
                "label. Convert the file with distbp import, and evaluate the data set."
            )
        if len(names) != n_in:
            raise ConfigError(
                f"The model was trained on rows of {n_in} numbers without names; {name} has "
                f"{len(names)} columns. Choose those to use, in order, with --columns or --drop."
            )
        self.notes.append("The model was trained on arrays: columns are used in their order.")
        return Preprocessing(tuple(Feature(one) for one in names), ())

    def _check_columns(self) -> None:
        """Raise DataError if a column is missing; note which ones are not used."""
        features, reader = [one.name for one in self._preprocessing.features], self._reader
        for role, names in (("takes", features), ("needs as the label", self._labels)):
            missing = [one for one in names if one not in reader.names]
            if missing:
                raise DataError(
                    f"{reader.name} has no {_listed('column', missing)}, which the model {role}; "
                    f"it has {_shown(reader.names)}. Add it, or name the columns as in the "
                    "training data."
                )
        if self._id is not None and self._id not in reader.all_names:
            raise ConfigError(
                f"`--id {self._id}`: {reader.name} has no such column. Name one of "
                f"{_shown(reader.all_names)}."
            )
        used = {*features, *self._labels, self._id}
        if extra := [one for one in reader.names if one not in used]:
            self.notes.append(f"{reader.name}: not used: {_listed('column', extra)}.")

    def rows(self, most: int) -> Iterator[Rows]:
        """Yield all rows in groups of up to `most`.

        Raises
        ------
        DataError
            A cell is not what the model takes, or the file is damaged.
        """
        kinds: dict[str, str] = dict(self._preprocessing.kinds)
        kinds |= {name: self._label_kind(name) for name in self._labels}
        if self._id is not None and self._id not in kinds:
            kinds[self._id] = "text"  # as it is written: 007 is not 7
        for block in self._reader.blocks(list(kinds), kinds):
            for start in range(0, len(block), most):
                yield self._encoded(_part(block, start, start + most))

    def _encoded(self, block: Block) -> Rows:
        x = self._preprocessing.encode(
            block.columns,
            self._unknown,
            lambda row, column: self._reader.locate(block.start + row, column),
        )
        y = self._encoded_labels(block) if self._labels else None
        return Rows(x, y, self._ids(block))

    def _ids(self, block: Block) -> np.ndarray | None:
        """Return what identifies the rows of a block."""
        if self._id is None:
            return None
        column = block.columns[self._id]
        if column.words is None and (is_large := np.abs(column.values) >= _LEAST_ROUNDED).any():
            where = self._reader.locate(block.start + int(is_large.argmax()), self._id)
            raise DataError(
                f"{where}: identifiers from 2^53 on are rounded in a column that the model takes "
                "as numbers. Copy the column under another name, and give that to --id."
            )
        ids = _as_text(column)
        return ids.astype(np.int64) if self._has_integers else ids

    def _label_kind(self, name: str) -> str:
        """Return what a label column has to hold."""
        if self._task != "classification" or len(self._labels) > 1:
            return "number"
        # Numbers are compared by value, so that 1.0 is the class 1.
        is_text = self._reader.kinds[name] == "text" or not all(map(is_value_name, self._classes))
        return "text" if is_text else "number"

    def _encoded_labels(self, block: Block) -> np.ndarray:
        """Return y of a block, as a data set stores it."""
        columns = [block.columns[name] for name in self._labels]
        for column in columns:
            missing = np.isnan(column.values) if column.words is None else column.values < 0
            if missing.any():
                where = self._reader.locate(block.start + int(missing.argmax()), column.name)
                raise DataError(f"{where}: the label is missing. Correct it or remove the row.")
        if self._task == "classification" and len(columns) == 1:
            return self._class_numbers(columns[0], block.start)
        y = np.stack([column.values for column in columns], axis=1)  # (m, k)
        if self._task == "regression":
            return self._transformed(y, block.start)
        wrong = (y != 0) & (y != 1)
        if self._task == "classification":  # one-hot
            wrong |= (y.sum(axis=1) != 1)[:, np.newaxis]
        if wrong.any():
            row, k = (int(one) for one in np.argwhere(wrong)[0])
            where = self._reader.locate(block.start + row, self._labels[k])
            raise DataError(f"{where}: {y[row, k]:g} is not a label of the model.")
        if self._task == "multilabel":
            return y.astype(np.uint8)
        words = Column(self._labels[0], y.argmax(axis=1), self._labels)
        return self._class_numbers(words, block.start)

    def _class_numbers(self, column: Column, start: int) -> np.ndarray:
        """Return the positions of labels among the model's classes: (m,) int64."""
        number_of = {name: i for i, name in enumerate(self._classes)}
        if column.words is None:
            values, indices = np.unique(column.values, return_inverse=True)
            words = [number_name(value) for value in values]
        else:
            words, indices = list(column.words), column.values
        found = np.array([number_of.get(word, -1) for word in words], np.int64)[indices]
        if (found < 0).any():
            row = int((found < 0).argmax())
            raise DataError(
                f"{self._reader.locate(start + row, column.name)}: {words[indices[row]]!r} is "
                f"not one of the model's {len(self._classes)} classes {_shown(self._classes)}. "
                "Correct it or remove the row."
            )
        return found

    def _transformed(self, y: np.ndarray, start: int) -> np.ndarray:
        """Return targets as they were transformed for the training."""
        is_log = self._preprocessing.target_transform == "log"
        wrong = ~np.isfinite(y) | (is_log & (y <= 0))
        if wrong.any():
            row, column = (int(one) for one in np.argwhere(wrong)[0])
            where = self._reader.locate(start + row, self._labels[column])
            raise DataError(
                f"{where}: expected a {'positive' if is_log else 'finite'} number, found "
                f"{y[row, column]:g}. Correct the value or remove the row."
            )
        return np.log(y) if is_log else y


def _part(block: Block, start: int, stop: int) -> Block:
    """Return the rows [start, stop) of a block."""
    parts = {
        name: Column(name, column.values[start:stop], column.words)
        for name, column in block.columns.items()
    }
    return Block(block.start + start, parts)


def _as_text(column: Column) -> np.ndarray:
    """Return the cells of a column as (m,) objects: str, or None where they are missing."""
    if column.words is None:  # a number that the model takes, too
        texts = [None if np.isnan(one) else number_name(one) for one in column.values]
        return np.array(texts, object)
    return np.array([*column.words, None], object)[column.values]


def _shown(names: Sequence[str]) -> str:
    """Return some of the names, for a message."""
    return printable_list(names, _NAMES_SHOWN)


def _listed(noun: str, names: Sequence[str]) -> str:
    """Return names with a noun before them: `columns 'a', 'b'`."""
    return f"{noun}{'s' * (len(names) > 1)} {_shown([repr(name) for name in names])}"
