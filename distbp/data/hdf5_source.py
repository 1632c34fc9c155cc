"""HDF5 files as sources: datasets by name, whichever program has written them.

x and y are named by options, in any group, also through soft links in the file. Features are
numbers or booleans and are read in blocks, later; labels are read at once, and text and
enumerated labels become numbers with words. What is dangerous in a file is known to
`distbp.storage`, and what the conventions of other programs mean to `hdf5_writers`.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5t

from distbp.data import hdf5_writers
from distbp.data.table_base import ReadCallback
from distbp.data.tables import (
    NOT_UTF8,
    ImportOptions,
    Source,
    Table,
    wrap_source_errors,
)
from distbp.errors import ConfigError, DataError
from distbp.storage import atomic, hdf5_checks, hdf5_chunks, hdf5_strings

# HDF5 type classes of features and labels; `importing` refuses text as x, for example.
_CELL_TYPES = frozenset({h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.STRING, h5t.BITFIELD})
_LISTED_NAMES, _LISTED_DEPTH, _LISTED_CHARACTERS = 8, 3, 40
# Names that people give to features and labels.
_PAIRS = (
    ("x", "y"), ("x_train", "y_train"), ("features", "labels"), ("images", "labels"),
    ("data", "labels"), ("data", "label"), ("inputs", "targets"), ("features", "targets"),
)  # fmt: skip


class _CheckedRows:
    """Rows of a dataset, booleans as integers, none of them a missing number.

    Parameters
    ----------
    values : h5py.Dataset or ChunkedArray
    is_boolean : bool
    fill_value : number, optional
        Stands for a missing number.
    """

    def __init__(self, values: Any, is_boolean: bool, fill_value: Any) -> None:
        self.shape, self._values, self._fill_value = values.shape, values, fill_value
        # Not uint8, which would be scaled like the bytes of an image.
        self.dtype = np.dtype(np.int8) if is_boolean else values.dtype
        self._is_boolean = is_boolean

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = np.asarray(self._values[rows])
        if self._is_boolean:  # true may be stored as any number
            return (found.view(np.uint8) != 0).view(np.int8)
        if self._fill_value is not None and (found == self._fill_value).any():
            row = np.argwhere(found == self._fill_value)[0, 0] + (rows.start or 0)
            raise ValueError(
                f"row {row} has the fill value {self._fill_value:.6g}, which stands for a missing "
                "number: replace it or remove the row"
            )
        return found


@contextmanager
def read_hdf5(path: Path, options: ImportOptions, advance: ReadCallback) -> Iterator[Source]:
    """Yield the named datasets of an HDF5 file, which is open inside the block."""
    with _open_source(path) as opened:
        yield Source(
            {
                split: _read_split(opened, x, y, options.transpose)
                for split, x, y in _dataset_names(opened, options)
            },
            weights=None if options.weight is None else _read_weights(opened, options.weight),
        )


@contextmanager
def read_hdf5_features(path: Path, name: str, n_in: int) -> Iterator[Table]:
    """Yield a dataset of rows of `n_in` numbers, of a file that is open inside the block."""
    with _open_source(path) as opened:
        rows = _open_features(opened, name)
        shape = rows.values.shape
        # MATLAB stores all dimensions in reverse, but images mostly are numbered by their last.
        is_last = math.prod(shape[:-1]) == n_in
        is_first = len(shape) > 2 and math.prod(shape[1:]) == n_in
        if hdf5_writers.is_matlab(opened.raw) and is_last and not is_first:
            with opened.wrap_errors(rows.name, name):
                rows = replace(rows, values=rows.values[:].T)
        yield rows


@contextmanager
def _open_source(path: Path) -> "Iterator[_OpenedFile]":
    """Yield a file of any origin that holds no model."""
    with contextlib.ExitStack() as stack:
        with wrap_source_errors(path, hdf5_checks.HDF5_READ_ERRORS):
            # Kept beside HDF5's file, for what is read without libhdf5: signatures and text.
            raw = stack.enter_context(hdf5_checks.open_regular_file(path))
            hdf5_writers.check_no_older_format(raw)
            file = stack.enter_context(hdf5_checks.open_untrusted(raw))
            hdf5_writers.check_no_model(file)
        yield _OpenedFile(path, file, raw)


@dataclass(frozen=True)
class _OpenedFile:
    """An HDF5 file, and the same file opened as plain bytes."""

    path: Path
    file: h5py.File
    raw: io.FileIO

    def resolve(self, name: str) -> str:
        """Return the path by hard links to a dataset; DataError if it is missing."""
        with wrap_source_errors(self.path, hdf5_checks.HDF5_READ_ERRORS):
            found = hdf5_checks.resolve_soft_links(self.file, name)
            if hdf5_checks.has_object(self.file, found):
                return found
        if found != name.strip("/"):
            raise DataError(
                f"{self.path}: {name} leads through soft links to {found}, which is missing."
            )
        raise DataError(f"{self.path}: {name} is missing; {self.path} has {_describe(self)}.")

    @contextmanager
    def wrap_errors(self, where: str, name: str) -> Iterator[None]:
        """Raise what reading a dataset raises as a DataError, with a remedy if one is known."""
        try:
            yield
        except hdf5_checks.HDF5_READ_ERRORS as failure:
            with wrap_source_errors(where, hdf5_checks.HDF5_READ_ERRORS):
                remedy = hdf5_writers.remedy(self.file, name)
            raise DataError(
                f"{where} cannot be read: {atomic.failure_reason(failure)}. {remedy}".rstrip()
            ) from failure


def _dataset_names(opened: _OpenedFile, options: ImportOptions) -> Iterator[tuple[str, str, str]]:
    """Yield (split, name of x, name of y) as the options give them."""
    for split, end in (("train", ""), ("validation", "_validation"), ("test", "_test")):
        x, y = getattr(options, f"x{end}"), getattr(options, f"y{end}")
        if x and y:
            yield split, x, y
        elif x or y or split == "train":
            missing = f"{'y' if x else 'x'}{end}".replace("_", "-")
            raise ConfigError(
                f"`--{missing}` is missing: an HDF5 file is imported by the names of its "
                f"datasets. {opened.path} has {_describe(opened)}.{_suggest(opened)}"
            )


def _read_split(opened: _OpenedFile, x: str, y: str, wanted: bool | None) -> tuple[Table, Table]:
    """Return features and labels of a split, an example per row.

    `wanted` says whether they are stored with an example per column, if the user has said so.
    """
    is_matlab = hdf5_writers.is_matlab(opened.raw)
    rows, labels = _open_features(opened, x), _read_labels(opened, y)
    shape, y_shape = rows.values.shape, labels.values.shape
    transposed = _is_transposed(shape, y_shape) if is_matlab and wanted is None else bool(wanted)
    n = shape[-1] if transposed else shape[0]
    if (is_matlab or transposed) and labels.values.ndim == 2:
        upright = labels.values if y_shape[0] == n else labels.values.T
        labels = replace(labels, values=upright)
    if transposed and len(shape) > 1:
        with opened.wrap_errors(rows.name, x):
            values = rows.values[:]
        # MATLAB stores all dimensions in reverse.
        rows = replace(rows, values=values.T if is_matlab else np.moveaxis(values, -1, 0))
    else:
        rows.check_not_transposed(
            labels, "Use distbp import --transpose, or store x.T (NumPy) instead."
        )
    return rows, labels


def _is_transposed(shape: tuple[int, ...], y_shape: tuple[int, ...]) -> bool:
    """Return whether x of MATLAB, a matrix or images, has the examples in its last dimension.

    A matrix has a row per example in MATLAB, and is stored with its dimensions in reverse.
    Images mostly are numbered by their last dimension, which is stored as the first.
    """
    is_last = shape[-1] > 1 and shape[-1] in y_shape
    return is_last and (len(shape) == 2 or shape[0] not in y_shape)


def _open_rows(opened: _OpenedFile, name: str) -> tuple[Table, h5py.Dataset]:
    """Return a dataset of numbers or fixed-length text, to be read in blocks."""
    where, found = f"{opened.path}: {name}", opened.resolve(name)
    with opened.wrap_errors(where, found):
        values = hdf5_chunks.open_array(opened.file, found, _CELL_TYPES)
        dataset = hdf5_checks.get_dataset(opened.file, found)
        hdf5_writers.check_conventions(dataset)
        is_bits = dataset.id.get_type().get_class() == h5t.BITFIELD
        if is_bits and values.dtype != np.uint8:  # one byte, as PyTables stores booleans
            raise ValueError("it holds bit fields of several bytes, not plain numbers")
        is_boolean = is_bits or values.dtype == bool
        missing = hdf5_writers.fill_value(dataset)
    if not values.ndim:
        raise DataError(f"{where} is {values.dtype} (); expected rows. Store it as an array.")
    if is_boolean or missing is not None:
        values = _CheckedRows(values, is_boolean, missing)
    return Table(values, where), dataset


def _open_features(opened: _OpenedFile, name: str) -> Table:
    """Return a dataset of rows of numbers, to be read in blocks."""
    rows, dataset = _open_rows(opened, name)
    if hdf5_writers.matlab_class(dataset) == "char":
        raise DataError(f"{rows.name} holds text; expected plain numbers.")
    return rows


def _read_weights(opened: _OpenedFile, name: str) -> Table:
    """Return the weights of the training rows in memory."""
    rows = _open_features(opened, name)
    with opened.wrap_errors(rows.name, opened.resolve(name)):
        values = np.asarray(rows.values[:])
    # MATLAB has no arrays of one dimension.
    return replace(rows, values=values.reshape(-1) if values.size == max(values.shape) else values)


def _read_labels(opened: _OpenedFile, name: str) -> Table:
    """Return the labels of a split in memory, as they are stored, but text in one column."""
    where, found = f"{opened.path}: {name}", opened.resolve(name)
    with opened.wrap_errors(where, found):
        dataset = hdf5_checks.get_dataset(opened.file, found)
        if hdf5_checks.is_variable_text(dataset):
            descriptor = opened.raw.fileno()
            codes, texts = hdf5_strings.read_strings(opened.file, descriptor, found)
            if not codes.ndim:
                raise ValueError("it is a single text; expected one for each row")
            return Table(codes, where, words=_decode(codes, texts))
    rows, dataset = _open_rows(opened, name)
    with opened.wrap_errors(where, found):
        values = np.asarray(rows.values[:])
        if dataset.id.get_type().get_class() == h5t.ENUM and dataset.dtype != bool:
            codes, words = _number_members(values, dataset.id.get_type())
            return Table(codes, where, words=words)
        if hdf5_writers.matlab_class(dataset) == "char":
            return Table(_join_characters(values), where)
        if values.dtype == "S1" and values.ndim == 2:  # as netCDF stores text
            values = np.ascontiguousarray(values).view(f"S{values.shape[1]}")
    return Table(values, where)


def _decode(codes: np.ndarray, texts: tuple[bytes, ...]) -> tuple[str, ...]:
    """Return texts as UTF-8; one that is empty, as those never written are, is refused."""
    if b"" in texts:
        row = int(np.flatnonzero(codes == texts.index(b""))[0])
        raise ValueError(f"row {row} has no text: write a label or remove the row")
    try:
        return tuple(text.decode() for text in texts)
    except UnicodeDecodeError:
        raise ValueError(NOT_UTF8) from None


def _number_members(values: np.ndarray, kind: h5t.TypeEnumID) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return enumerated values as numbers of the enumeration's names, in the order of values."""
    members = {
        kind.get_member_value(i): kind.get_member_name(i).decode()
        for i in range(kind.get_nmembers())
    }
    names = tuple(members[value] for value in sorted(members))
    if not names or len(set(names)) != kind.get_nmembers():
        raise ValueError("its enumeration has no names, or one twice")
    known = np.array(sorted(members))
    codes = np.searchsorted(known, values).clip(max=len(known) - 1)
    bad = np.argwhere(known[codes] != values)
    if len(bad):
        raise ValueError(
            f"row {bad[0, 0]} is {values[tuple(bad[0])]}, which its enumeration does not name"
        )
    return codes, names


def _join_characters(values: np.ndarray) -> np.ndarray:
    """Return the rows of a char array of MATLAB, which stores them as columns, as text."""
    rows = np.ascontiguousarray(values.T, "<u2").reshape(len(values.T), -1)
    return np.array([row.tobytes().decode("utf-16-le").rstrip(" \0") for row in rows])


def _find_datasets(opened: _OpenedFile) -> list[tuple[str, Any]]:
    """Return path and dataset of each one in the file, down to a few levels of groups."""
    found: list[tuple[str, Any]] = []
    groups = [("", opened.file["/"])]
    for prefix, group in groups:  # which grows, breadth first
        for name in hdf5_checks.list_children(group, 10 * _LISTED_NAMES):
            item = group[name]
            if isinstance(item, h5py.Dataset):
                found.append((prefix + name, item))
            elif isinstance(item, h5py.Group) and prefix.count("/") + 1 < _LISTED_DEPTH:
                groups.append((f"{prefix}{name}/", item))
        # A file may have millions of groups, and a message shows a few names.
        if len(groups) > 10 * _LISTED_NAMES or len(found) > 10 * _LISTED_NAMES:
            break
    return found


def _describe(opened: _OpenedFile) -> str:
    """Return names and shapes of some datasets, for an error message."""
    with wrap_source_errors(opened.path, hdf5_checks.HDF5_READ_ERRORS):
        found = _find_datasets(opened)
        names = []
        for name, dataset in found[:_LISTED_NAMES]:
            short = name if name.isprintable() else ascii(name)
            short = short if len(short) <= _LISTED_CHARACTERS else f"{short[:_LISTED_CHARACTERS]}…"
            names.append(f"{short} {dataset.shape or ''}".rstrip())
    return ", ".join(names) + ", …" * (len(found) > _LISTED_NAMES) or "none"


def _suggest(opened: _OpenedFile) -> str:
    """Return an example of the options, or what else to do, if the datasets show it."""
    with wrap_source_errors(opened.path, hdf5_checks.HDF5_READ_ERRORS):
        found = _find_datasets(opened)
        remedy = hdf5_writers.remedy(opened.file, found[0][0]) if found else ""
        names = {name.lower(): name for name, _ in reversed(found)}
    for x, y in _PAIRS:
        for lower, name in sorted(names.items()):
            other = names.get(lower.removesuffix(x) + y)
            if other and lower.rpartition("/")[2] == x:
                return f" For example: --x {name} --y {other}."
    return f" {remedy}".rstrip()
