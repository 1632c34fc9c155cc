"""The preprocessing of a table: from named columns to a row of numbers, the network's input.

A `Feature` is one column: a number, or categories of which each is an input of 0 or 1
(one-hot). A `Preprocessing` has all of them in the order of the inputs. It is stored as JSON in
`about` of a data set and of a checkpoint, so that a model takes new tables by the names of
their columns. How it is chosen is known to `distbp.data`; the inputs are scaled later, see
`scaling`.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from distbp.errors import DataError

TARGET_TRANSFORMS = ("none", "log")
UNKNOWN_CHOICES = ("error", "ignore")
_MAX_INPUTS = 1 << 24  # of a network; a damaged file must not take all memory
_FEATURE_KEYS = {"name", "categories", "fill", "has_indicator"}
_KEYS = {"features", "labels", "target_transform"}

Locate = Callable[[int, str], str]  # of row and column: where the cell is, for messages


class ColumnLike(Protocol):
    """Cells of a column: float64, or indices into `words`; NaN or -1 where missing."""

    @property
    def values(self) -> np.ndarray: ...
    @property
    def words(self) -> tuple[str, ...] | None: ...


@dataclass(frozen=True)
class Feature:
    """A column of a table that is an input of the network.

    Attributes
    ----------
    name : str
    categories : tuple of str, optional
        One input for each; None: the column is a number.
    fill : float or str, optional
        What stands for a missing cell; None: a missing cell is an error.
    has_indicator : bool
        Whether a further input says that the cell is missing.
    """

    name: str
    categories: tuple[str, ...] | None = None
    fill: float | str | None = None
    has_indicator: bool = False

    @property
    def input_names(self) -> list[str]:
        """Names of its inputs, in order."""
        names = [self.name]
        if self.categories is not None:
            names = [f"{self.name}={category}" for category in self.categories]
        return names + [f"{self.name} missing"] * self.has_indicator

    @property
    def n_in(self) -> int:
        """Number of its inputs."""
        return (1 if self.categories is None else len(self.categories)) + self.has_indicator

    @property
    def kind(self) -> str:
        """What the column holds: "number" or "text"."""
        return "number" if self.categories is None else "text"


@dataclass(frozen=True)
class Preprocessing:
    """How rows of a table become inputs of a network.

    Attributes
    ----------
    features : tuple of Feature
        In the order of the inputs.
    labels : tuple of str
        The label columns.
    target_transform : {"none", "log"}
        What was done to the targets of a regression; log: y is their natural logarithm.
    """

    features: tuple[Feature, ...]
    labels: tuple[str, ...]
    target_transform: str = "none"

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return sum(feature.n_in for feature in self.features)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order: `age`, `sex=female`, `sex=male`, `age missing`."""
        return [name for feature in self.features for name in feature.input_names]

    @property
    def kinds(self) -> dict[str, str]:
        """What each feature's column has to hold: "number" or "text"."""
        return {feature.name: feature.kind for feature in self.features}

    @cached_property
    def _positions(self) -> list[dict[str, int]]:
        """Number of each category, feature by feature."""
        return [{c: i for i, c in enumerate(f.categories or ())} for f in self.features]

    def encode(
        self,
        columns: Mapping[str, ColumnLike],
        unknown: str,
        locate: Locate,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the inputs for the rows of a block: (m, n_in) float64.

        Parameters
        ----------
        columns : Mapping of columns by name
            All features must be there; others are not used.
        unknown : {"error", "ignore"}
            What to do with a category that is not one of the feature's; ignore: all its inputs
            are 0.
        locate : function of (row of the block, column)
            Returns where a cell is, for a message.
        out : (m, n_in) float64 array, optional
            Filled and returned.

        Raises
        ------
        DataError
            A cell is missing, not finite, of the wrong kind, or an unknown category.
        """
        rows = len(columns[self.features[0].name].values)
        x = np.empty((rows, self.n_in)) if out is None else out
        start = 0
        for feature, positions in zip(self.features, self._positions, strict=True):
            column = columns[feature.name]
            part = x[:, start : start + feature.n_in]
            if (column.words is None) != (feature.categories is None):
                found = "numbers" if column.words is None else "text"
                wanted = "text" if column.words is None else "numbers"
                raise DataError(
                    f"{locate(0, feature.name)}: the column holds {found}; expected {wanted}, as "
                    "in the training data. Convert it."
                )
            if feature.categories is None:
                _encode_numbers(feature, column.values, locate, part)
            else:
                _encode_words(feature, positions, column, unknown, locate, part)
            start += feature.n_in
        return x

    def restore_targets(self, y: np.ndarray) -> np.ndarray:
        """Return targets, or outputs, in the unit of the table's label columns."""
        if self.target_transform == "none":
            return y
        with np.errstate(over="ignore"):
            return np.exp(y)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return found

    @classmethod
    def from_json(cls, found: Any) -> "Preprocessing":
        """Return the preprocessing that a file stores.

        Raises
        ------
        ValueError
            It is not what `to_json` returns.
        """
        _check(isinstance(found, dict) and set(found) == _KEYS, "it has other entries", found)
        features, labels = found["features"], found["labels"]
        _check(isinstance(features, list) and features, "no list of features", features)
        _check(_are_names(labels), "no list of labels", labels)
        _check(found["target_transform"] in TARGET_TRANSFORMS, "an unknown transform", found)
        parsed = tuple(_parse_feature(feature) for feature in features)
        _check(_are_names([f.name for f in parsed]), "two features of one name", features)
        result = cls(parsed, tuple(labels), found["target_transform"])
        _check(result.n_in <= _MAX_INPUTS, "too many inputs", result.n_in)
        return result


def read_preprocessing(about: Mapping[str, Any], n_in: int) -> Preprocessing | None:
    """Return the preprocessing in `about` of a file; None if the inputs are the row's numbers.

    Raises
    ------
    ValueError
        It is not valid, or its inputs are not `n_in`.
    """
    if "preprocessing" not in about:
        return None
    found = Preprocessing.from_json(about["preprocessing"])
    _check(found.n_in == n_in, f"expected {n_in} inputs", found.n_in)
    return found


def _encode_numbers(feature: Feature, values: np.ndarray, locate: Locate, out: np.ndarray) -> None:
    """Fill the inputs of a number."""
    out[:, 0] = values
    if feature.has_indicator:
        out[:, 1] = np.isnan(values)
    if np.isfinite(values).all():
        return
    missing = np.isnan(values)
    if missing.any():
        if feature.fill is None:
            raise _missing_cell(feature, locate(int(missing.argmax()), feature.name))
        out[missing, 0] = feature.fill
    # What is missing is filled in; what is left is infinite.
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(
            f"{locate(row, feature.name)}: expected a finite number, found {values[row]}. "
            "Correct the value or remove the row."
        )


def _encode_words(
    feature: Feature,
    positions: Mapping[str, int],
    column: ColumnLike,
    unknown: str,
    locate: Locate,
    out: np.ndarray,
) -> None:
    """Fill the inputs of a category: 1 for that of the row, otherwise 0."""
    words, n_categories = column.words or (), len(positions)
    fill = -1 if feature.fill is None else positions[str(feature.fill)]
    # The last entry is that of a missing cell, whose index is -1.
    codes = np.array([*(positions.get(w, -1) for w in words), fill])[column.values]
    bad = np.flatnonzero(codes < 0)
    for row in bad[:1] if unknown == "error" else bad[column.values[bad] < 0][:1]:
        where = locate(int(row), feature.name)
        if column.values[row] < 0:
            raise _missing_cell(feature, where)
        raise DataError(
            f"{where}: {words[column.values[row]]!r} is not one of the {n_categories} categories "
            f"{_shown(positions)}. Correct it, or use --unknown ignore."
        )
    out[...] = 0.0
    known = np.flatnonzero(codes >= 0)
    out[known, codes[known]] = 1.0
    if feature.has_indicator:
        out[:, n_categories] = column.values < 0


def _missing_cell(feature: Feature, where: str) -> DataError:
    """Return the error for a missing cell that nothing stands for."""
    return DataError(
        f"{where}: the value is missing, and no cell of {feature.name!r} was filled in for the "
        "training. Correct it or remove the row, or import the training data with --missing mean."
    )


def _shown(names: Iterable[str], limit: int = 8) -> str:
    """Return some names for a message."""
    found = list(names)
    return ", ".join(found[:limit]) + ", …" * (len(found) > limit)


def _check(is_valid: Any, problem: str, found: Any) -> None:
    """Raise ValueError about stored preprocessing."""
    if not is_valid:
        raise ValueError(f"the preprocessing is invalid, {problem}: {str(found)[:99]}")


def _is_text(found: Any) -> bool:
    """Return whether this is text that can be printed; JSON may have half a character."""
    return isinstance(found, str) and not re.search("[\ud800-\udfff]", found)


def _are_names(found: Any) -> bool:
    """Return whether this is a list of different texts."""
    return (
        isinstance(found, list)
        and all(_is_text(name) for name in found)
        and len(set(found)) == len(found)
    )


def _parse_feature(found: Any) -> Feature:
    """Return a feature that a file stores; ValueError if it is not valid."""
    _check(isinstance(found, dict) and set(found) == _FEATURE_KEYS, "in a feature", found)
    name, categories, fill = found["name"], found["categories"], found["fill"]
    _check(_is_text(name), "in a name", name)
    _check(type(found["has_indicator"]) is bool, "in an indicator", found)
    if categories is None:
        # Not math.isfinite, which a whole number may be too large for.
        is_number = type(fill) in (int, float) and abs(fill) <= sys.float_info.max
        _check(fill is None or is_number, "in a number to fill in", fill)
        return Feature(name, None, None if fill is None else float(fill), found["has_indicator"])
    _check(_are_names(categories) and categories, "in categories", categories)
    _check(fill is None or fill in categories, "in a category to fill in", fill)
    return Feature(name, tuple(categories), fill, found["has_indicator"])
