"""A data set: one HDF5 file, read by row numbers.

    about              uint8 JSON: task, classes, shape, scaling, source, split, digest, arrays
    scaling/shift      (1,) or (n_0,) float64
    scaling/scale      (1,) or (n_0,) float64: a network is fed (x - shift) * scale
    train/x            (n, ...) in the source's own dtype
    train/y            (n,) integer labels, or (n, k) numbers for regression
    validation, test   like train, where there are any

A `DataSet` is the opened file, a `Split` is one of its groups or part of one, and
a `BatchLoader` turns row numbers into the arrays that backprop takes, in buffers made
once. Contiguous arrays are memory-mapped, so that all ranks of a node share one
copy and start at once; chunked or compressed ones are unpacked into memory that
the caller provides. Which rows a rank reads, and when, is not known here.
"""

import io
import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.errors import ConfigError, DataError
from distbp.storage import hdf5_checks, hdf5_chunks, hdf5_file
from distbp.storage.scaling import Scaling

FORMAT = "distbp-data"
VERSION = 1
SPLITS = ("train", "validation", "test")

Fill = Callable[[np.ndarray], None]
Allocate = Callable[[tuple[int, ...], np.dtype, Fill], np.ndarray]


def private(shape: tuple[int, ...], dtype: np.dtype, fill: Fill) -> np.ndarray:
    """Return a filled array of this process's own."""
    array = np.empty(shape, dtype)
    fill(array)
    return array


class Split:
    """Rows of a data set: all of a group's, or those with the numbers `rows`.

    Attributes
    ----------
    x : (n, bytes of a row) uint8
    y : (n, bytes of a row) uint8
        Bytes, because an HDF5 file may place numbers at odd addresses, and
        `np.take` copies a whole array that is not aligned before it takes a row.
    x_dtype, y_dtype : numpy.dtype
    n_in, n_out : int
        Numbers in a row of x, and in a row of y (1 for labels).
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.x_dtype, self.n_in = x.dtype, math.prod(x.shape[1:])
        self.y_dtype, self.n_out = y.dtype, math.prod(y.shape[1:])
        self.x, self.y = as_bytes(x), as_bytes(y)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def subset(self, rows: np.ndarray) -> "Split":
        """Return the part of a whole group that has the row numbers `rows`."""
        part = object.__new__(Split)
        part.__dict__.update(self.__dict__, rows=rows)
        return part

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Return the row numbers, in the group, of this split's rows [start, stop)."""
        return np.arange(start, stop) if self.rows is None else self.rows[start:stop]

    def targets(self) -> np.ndarray:
        """Return y as stored: (n, k), of labels (n, 1)."""
        y = self.y if self.rows is None else self.y[self.rows]
        return y.view(self.y_dtype)


class DataSet:
    """An opened data set.

    Parameters
    ----------
    path : path of the HDF5 file
    allocate : function of (shape, dtype, fill), optional
        Makes the memory for arrays that cannot be mapped and calls `fill` on it.

    Raises
    ------
    DataError
        The file cannot be read, or is not what the module's first lines describe.
    """

    def __init__(self, path: str | Path, allocate: Allocate = private) -> None:
        self.path = Path(path)
        with hdf5_file.open_unverified(self.path, FORMAT, VERSION, DataError) as (file, raw):
            self.about = read_about(file, self.path)
            self.splits = {
                name: Split(*(self._array(file, raw, f"{name}/{part}", allocate) for part in "xy"))
                for name in SPLITS
                if hdf5_checks.has(file, name)
            }
            self._check_arrays(file)
            self._check()
            self.scaling = Scaling.read(file, self.n_in)

    def _array(self, file: h5py.File, raw: io.FileIO, name: str, allocate: Allocate) -> np.ndarray:
        found = hdf5_chunks.array(file, name)
        if found.dtype.kind not in "iuf" or found.ndim < 1 or 0 in found.shape:
            raise DataError(f"{self.path}: {name!r} is {found.dtype} {found.shape}, not rows.")
        if isinstance(found, h5py.Dataset):
            if not hdf5_chunks.is_plain(found):
                raise DataError(f"{self.path}: {name!r} holds numbers that NumPy has no type for.")
            return mapped(raw, found.id.get_offset(), found.shape, found.dtype)

        def fill(out: np.ndarray) -> None:
            # One rank of a node fills what all see, so the error has to be one they agree on.
            with hdf5_file.wrap_read_errors(self.path, FORMAT, DataError):
                found.read_direct(out)

        return allocate(found.shape, found.dtype, fill)

    def _check_arrays(self, file: h5py.File) -> None:
        """Raise DataError unless the arrays are those that were written, if that is known."""
        names = [f"{name}/{part}" for name in self.splits for part in "xy"]
        found = {name: described(hdf5_checks.dataset(file, name)) for name in names}
        expected = self.about.get("arrays", found)
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                raise DataError(
                    f"{self.path}: expected {name} as it was written, {expected.get(name)}; "
                    f"found {found.get(name)}. Import it again."
                )

    def _check(self) -> None:
        """Raise DataError unless the splits agree with `about` and with each other."""
        if "train" not in self.splits and "test" not in self.splits:
            raise DataError(f"{self.path} has neither 'train' nor 'test'.")
        n_in = {name: split.n_in for name, split in self.splits.items()}
        if len(set(n_in.values())) > 1:
            raise DataError(f"{self.path}: the rows of x differ in length: {n_in}.")
        if self.n_in != math.prod(self.about["shape"]):
            raise DataError(
                f"{self.path}: a row of x has {self.n_in} numbers; expected the shape "
                f"{self.about['shape']}."
            )
        for name, split in self.splits.items():
            if len(split.x) != len(split.y):
                raise DataError(
                    f"{self.path}: {name} has {len(split.x)} rows of x, but {len(split.y)} of y."
                )
            if self.task == "classification":
                self._check_labels(name, split)
            elif split.n_out != self.n_out:
                raise DataError(
                    f"{self.path}: {name}/y has {split.n_out} numbers a row; expected {self.n_out}."
                )

    def _check_labels(self, name: str, split: Split) -> None:
        labels = split.targets()[:, 0]
        if split.n_out != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{self.path}: {name}/y has to be one integer a row.")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            row = int(np.flatnonzero((labels < 0) | (labels >= len(self.classes)))[0])
            raise DataError(
                f"{self.path}: {name}/y, row {row} is {labels[row]}; "
                f"labels run from 0 to {len(self.classes) - 1}."
            )

    @property
    def task(self) -> str:
        """`classification` or `regression`."""
        return str(self.about["task"])

    @property
    def classes(self) -> list[str]:
        """The classes' names, in the order of their labels; empty for regression."""
        return list(self.about["classes"])

    @property
    def n_in(self) -> int:
        """Numbers in a row of x."""
        return next(iter(self.splits.values())).n_in

    @property
    def n_out(self) -> int:
        """Numbers a network has to put out."""
        return len(self.classes) or next(iter(self.splits.values())).n_out

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this the same data set under another name or on another host."""
        return {
            "digest": self.about["digest"],
            "rows": {name: len(split) for name, split in self.splits.items()},
            "n_in": self.n_in,
            "n_out": self.n_out,
        }

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise ConfigError(
                f"{self.path} has no split {name!r}; it has {', '.join(self.splits)}."
            )
        return self.splits[name]


def check_readable(path: Path) -> None:
    """Raise DataError unless the file is a data set; reads no rows."""
    with hdf5_file.open_unverified(path, FORMAT, VERSION, DataError) as (file, _):
        read_about(file, path)


def read_about(file: h5py.File, path: Path) -> dict[str, Any]:
    """Return `about`, once it is known to have what is asked of it."""
    about = hdf5_file.read_json(file, "about")
    if not isinstance(about, dict):
        raise DataError(f"{path}: 'about' is not an object.")
    for name, kind in (
        ("task", str), ("classes", list), ("shape", list), ("scaling", str), ("source", dict),
        ("split", str), ("digest", str),
    ):  # fmt: skip
        if not isinstance(about.get(name), kind):
            raise DataError(f"{path}: 'about' has no {name!r}, or not as a {kind.__name__}.")
    if about["task"] not in ("classification", "regression"):
        raise DataError(f"{path}: unknown task {about['task']!r}.")
    if (about["task"] == "classification") != bool(about["classes"]):
        raise DataError(f"{path}: a {about['task']} with {len(about['classes'])} classes.")
    return about


def described(array: Any) -> list[Any]:
    """Return dtype and shape of an array in words of JSON."""
    return [array.dtype.str, *array.shape]


def mapped(raw: io.FileIO, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a read-only memory map of an array at `offset` bytes in an open file."""
    whole = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(whole, dtype, math.prod(shape), offset).reshape(shape)


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Return the rows of a contiguous array as bytes: (n, bytes of a row) uint8."""
    return array.reshape(len(array), -1).view(np.uint8).reshape(len(array), -1)
