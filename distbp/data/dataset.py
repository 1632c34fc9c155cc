"""A data set: one HDF5 file, read by row numbers.

A `DataSet` is the opened file, a `Split` one of its groups or part of one. Contiguous arrays
are memory-mapped, so that the ranks of a node share one copy and start without reading;
chunked or compressed ones are decoded into memory that the caller provides, or stay in the
file if they are large. The layout of the file is in the docstring of `distbp.data`. Which
rows a rank reads, and when, is not known here.
"""

import io
import math
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.data.row_file import FileRows
from distbp.data.weights import check_weights
from distbp.errors import ConfigError, DataError
from distbp.storage import hdf5_checks, hdf5_chunks, hdf5_file
from distbp.storage.preprocessing import Preprocessing, read_preprocessing
from distbp.storage.scaling import Scaling, TargetScaling

DATA_FORMAT = "distbp-data"
DATA_VERSION = 3  # the newest; see `version_for`
# From this size of x on, chunks are not decoded into memory when the file is opened. The same as
# BLOCK_SHUFFLE_BYTES of `distbp.training.defaults`, since only blocks can be read while training.
LARGE_BYTES = 4 << 30
# Chunks of y stay in the file if those of x do, from this size on.
LARGE_TARGET_BYTES = 1 << 28
_CHECK_BYTES = 1 << 24  # of y that are checked at once
_TASKS_WITH_CLASSES = ("classification", "multilabel")
SPLIT_NAMES = ("train", "validation", "test")
WEIGHTS = "train/weight"

_Fill = Callable[[np.ndarray], None]
_Allocate = Callable[[tuple[int, ...], np.dtype, _Fill], np.ndarray]


def _allocate_private(shape: tuple[int, ...], dtype: np.dtype, fill: _Fill) -> np.ndarray:
    """Return a filled array in the memory of this process."""
    array = np.empty(shape, dtype)
    fill(array)
    return array


class Split:
    """Rows of a data set: all rows of a group, or those with the numbers `rows`.

    Attributes
    ----------
    x, y : (n, bytes of a row) uint8
        All rows of the group, or `FileRows`, which stay in the file. They are bytes because
        numbers in an HDF5 file need not be aligned, and `np.take` copies the whole of an
        unaligned array to take one row.
    x_dtype, y_dtype : numpy.dtype
    n_in, n_out : int
        Numbers in a row of x, and in a row of y (1 for labels).
    rows : (m,) int array, optional
        Numbers of this split's rows in the group.
    weights : (n,) float64 array, optional
        Of all rows of the group.
    file_id : (int, int) or None
        `hdf5_file.file_id` of the file that they are in.
    """

    file_id: tuple[int, int] | None = None

    def __init__(
        self,
        x: np.ndarray | FileRows,
        y: np.ndarray | FileRows,
        rows: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.x, self.x_dtype, self.n_in = _rows_as_bytes(x)
        self.y, self.y_dtype, self.n_out = _rows_as_bytes(y)
        self.rows, self.weights = rows, weights

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def subset(self, rows: np.ndarray) -> "Split":
        """Return the part of a group's rows that has the numbers `rows`."""
        # Without __init__: the arrays are bytes already.
        part = object.__new__(Split)
        part.__dict__.update(self.__dict__, rows=rows)
        return part

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Return the numbers, in the group, of this split's rows [start, stop)."""
        return np.arange(start, stop) if self.rows is None else self.rows[start:stop]

    def file_rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers, in the file, of the rows `numbers` of x."""
        return numbers

    def targets(self) -> np.ndarray:
        """Return y as it is stored: (n, k), or (n, 1) for labels."""
        return self.target_rows(0, len(self))

    def target_rows(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop) of y as it is stored: (stop - start, k)."""
        if self.rows is None and isinstance(self.y, np.ndarray):
            return self.y[start:stop].view(self.y_dtype)
        y = np.empty((stop - start, self.y.shape[1]), np.uint8)
        if stop > start:
            self.y.take(self.numbers(start, stop), axis=0, out=y, mode="clip")
        return y.view(self.y_dtype)

    def target_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield y in blocks of limited size, each with the number of its first row."""
        step = max(1, _CHECK_BYTES // self.y.shape[1])
        for start in range(0, len(self), step):
            yield start, self.target_rows(start, min(start + step, len(self)))


class DataSet:
    """An opened data set, or with `in_memory` one of arrays.

    Parameters
    ----------
    path : path of the HDF5 file
    allocate : function of (shape, dtype, fill), optional
        Allocates memory for an array that cannot be mapped and calls `fill` on it.
    is_streamed : bool, optional
        Whether chunks of x, and of y if it is large, stay in the file until they are needed; by
        default if x is large.

    Attributes
    ----------
    path : Path
        Empty for a data set of arrays.
    about : dict
        As stored in the file.
    splits : dict of Split
        By name, at least one of `train` and `test`.
    scaling : Scaling
    target : TargetScaling or None
        Of a regression whose targets are scaled for the training.
    preprocessing : Preprocessing or None
        How rows of a table became those of x.

    Raises
    ------
    DataError
        The file cannot be read, or is not a valid data set.
    """

    def __init__(
        self,
        path: str | Path,
        allocate: _Allocate = _allocate_private,
        is_streamed: bool | None = None,
    ) -> None:
        self.path, self._is_streamed = Path(path), is_streamed
        with hdf5_file.open_unverified(self.path, DATA_FORMAT, DATA_VERSION, DataError) as opened:
            file, raw = opened
            self.about = _read_dataset_about(file, self.path)
            self.splits = {
                name: Split(*(self._array(file, raw, f"{name}/{part}", allocate) for part in "xy"))
                for name in SPLIT_NAMES
                if hdf5_checks.has_object(file, name)
            }
            for split in self.splits.values():
                split.file_id = hdf5_file.file_id(raw)
            self._check_arrays(file)
            self._check_splits()
            if hdf5_checks.has_object(file, WEIGHTS):
                self._read_weights(file, raw, allocate)
            self.scaling = Scaling.read(file, self.n_in)
            self.preprocessing: Preprocessing | None = read_preprocessing(self.about, self.n_in)
            self.target = TargetScaling.read_if_any(file, self.n_out)
            if self.target is not None and self.task != "regression":
                raise DataError(f"{self.path}: {self.task} has no targets to scale.")

    @classmethod
    def in_memory(
        cls,
        about: dict[str, Any],
        splits: dict[str, Split],
        scaling: Scaling,
        target: TargetScaling | None,
    ) -> "DataSet":
        """Return a data set of arrays; the parameters are the attributes."""
        data = object.__new__(cls)  # without __init__, which opens a file
        data.path, data.about, data.splits = Path(), about, splits
        data.scaling, data.target = scaling, target
        data.preprocessing = read_preprocessing(about, data.n_in)
        data._check_splits()
        return data

    @property
    def is_in_memory(self) -> bool:
        """Whether it is one of arrays."""
        return self.path == Path()

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "the data" if self.is_in_memory else str(self.path)

    def _array(self, file: h5py.File, raw: io.FileIO, name: str, allocate: _Allocate) -> Any:
        found = hdf5_chunks.open_array(file, name)
        if found.dtype.kind not in "iuf" or found.ndim < 1 or 0 in found.shape:
            raise DataError(f"{self.path}: {name!r} is {found.dtype} {found.shape}; expected rows.")
        if isinstance(found, h5py.Dataset):
            # Mapped memory is interpreted as NumPy's type; HDF5 would convert.
            if not hdf5_chunks.has_numpy_type(found):
                raise DataError(f"{self.path}: {name!r} has a number type that NumPy lacks.")
            return _map_array(raw, found.id.get_offset(), found.shape, found.dtype)

        if self._stays_in_file(file, name):
            return FileRows(
                self.path, name, DATA_FORMAT, DATA_VERSION, hdf5_file.file_id(raw), found.shape,
                found.dtype,
            )  # fmt: skip

        def fill(out: np.ndarray) -> None:
            # One rank fills memory that the node shares; only a DistbpError of it reaches all.
            with hdf5_file.wrap_read_errors(self.path, DATA_FORMAT, DataError):
                found.read_direct(out)

        return allocate(found.shape, found.dtype, fill)

    def _read_weights(self, file: h5py.File, raw: io.FileIO, allocate: _Allocate) -> None:
        """Give `train` its weights, or raise DataError unless they are valid."""
        weights, train = self._array(file, raw, WEIGHTS, allocate), self.splits["train"]
        if weights.shape != (len(train),) or weights.dtype != np.float64:
            raise DataError(
                f"{self.path}: {WEIGHTS!r} is {weights.dtype} {weights.shape}; expected "
                f"{len(train)} numbers of float64."
            )
        name = f"{self.path}: {WEIGHTS}"
        check_weights(weights, name, lambda row: f"{name}, row {row}")
        train.weights = weights

    def _stays_in_file(self, file: h5py.File, name: str) -> bool:
        """Return whether an array in chunks is not decoded now."""
        split, part = name.split("/")

        def size(part: str) -> int:
            found = hdf5_checks.open_dataset(file, f"{split}/{part}")
            return math.prod(found.shape) * found.dtype.itemsize

        is_streamed = self._is_streamed
        if is_streamed is None:
            is_streamed = size("x") >= LARGE_BYTES
        return is_streamed and (part == "x" or size("y") >= LARGE_TARGET_BYTES)

    def _check_arrays(self, file: h5py.File) -> None:
        """Raise DataError unless types and shapes are those that `about` says were written.

        Whoever wrote the file by other means need not have stored them.
        """
        names = [f"{name}/{part}" for name in self.splits for part in "xy"]
        names += [WEIGHTS] * hdf5_checks.has_object(file, WEIGHTS)
        found = {name: dtype_and_shape(hdf5_checks.open_dataset(file, name)) for name in names}
        expected = self.about.get("arrays", found)
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                raise DataError(
                    f"{self.path}: {name} was written as {expected.get(name)}, but is "
                    f"{found.get(name)}. Import it again."
                )

    def _check_splits(self) -> None:
        """Raise DataError unless the splits agree with `about` and with one another."""
        if "train" not in self.splits and "test" not in self.splits:
            raise DataError(f"{self.name} has neither 'train' nor 'test'.")
        n_in = {name: split.n_in for name, split in self.splits.items()}
        if len(set(n_in.values())) > 1:
            raise DataError(f"{self.name}: the rows of x differ in length: {n_in}.")
        if self.n_in != math.prod(self.about["shape"]):
            raise DataError(
                f"{self.name}: a row of x has {self.n_in} numbers; expected the shape "
                f"{self.about['shape']}."
            )
        for name, split in self.splits.items():
            if len(split.x) != len(split.y):
                raise DataError(
                    f"{self.name}: {name} has {len(split.x)} rows of x, but {len(split.y)} of y."
                )
            if self.task == "classification":
                self._check_labels(name, split)
            elif split.n_out != self.n_out:
                raise DataError(
                    f"{self.name}: {name}/y has {split.n_out} numbers per row; expected "
                    f"{self.n_out}."
                )
            elif self.task == "multilabel":
                self._check_binary(name, split)

    def _check_labels(self, name: str, split: Split) -> None:
        if split.n_out != 1 or split.y_dtype.kind not in "iu":
            raise DataError(f"{self.name}: {name}/y must be one integer per row.")
        for start, block in split.target_blocks():
            labels = block[:, 0]
            # A label out of range would index another row, or none, when it becomes one-hot.
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= len(self.classes):
                row = int(np.flatnonzero((labels < 0) | (labels >= len(self.classes)))[0])
                raise DataError(
                    f"{self.name}: {name}/y, row {start + row} is {labels[row]}; "
                    f"labels run from 0 to {len(self.classes) - 1}."
                )

    def _check_binary(self, name: str, split: Split) -> None:
        for start, labels in split.target_blocks():
            bad = np.argwhere((labels != 0) & (labels != 1))
            if len(bad):
                row, column = map(int, bad[0])
                raise DataError(
                    f"{self.name}: {name}/y, row {start + row}, column {column} is "
                    f"{labels[row, column]}; labels are 0 or 1."
                )

    @property
    def task(self) -> str:
        """`classification`, `multilabel` or `regression`."""
        return str(self.about["task"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels, or of the labels of multilabel.

        Empty for regression.
        """
        return list(self.about["classes"])

    @property
    def n_in(self) -> int:
        """Numbers in a row of x."""
        return next(iter(self.splits.values())).n_in

    @property
    def n_out(self) -> int:
        """Outputs of a network for this data set."""
        return len(self.classes) or next(iter(self.splits.values())).n_out

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 unless the task is classification."""
        return len(self.classes) if self.task == "classification" else 0

    @property
    def train_bytes(self) -> int:
        """Bytes of train/x, unpacked; 0 without it."""
        return self.splits["train"].x.nbytes if "train" in self.splits else 0

    @property
    def labels_per_row(self) -> int:
        """Labels of a row, each predicted rightly or wrongly; 0 for regression."""
        return {"classification": 1, "multilabel": self.n_out}.get(self.task, 0)

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies this data set, whatever its file is called."""
        return {
            "digest": self.about["digest"],
            "rows": {name: len(split) for name, split in self.splits.items()},
            "n_in": self.n_in,
            "n_out": self.n_out,
        }

    def split(self, name: str) -> Split:
        """Return a split by name; raise ConfigError if there is none."""
        if name not in self.splits:
            raise ConfigError(
                f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}."
            )
        return self.splits[name]


def version_for(task: str, has_other_targets: bool, has_weights: bool = False) -> int:
    """Return the oldest version of the format whose readers understand such a data set.

    `has_other_targets` says that targets are scaled, or were transformed.
    """
    if has_weights:
        return 3
    return 2 if has_other_targets or task == "multilabel" else 1


def check_readable(path: Path) -> None:
    """Raise DataError unless the file is a data set; no rows are read."""
    with hdf5_file.open_unverified(path, DATA_FORMAT, DATA_VERSION, DataError) as (file, _):
        _read_dataset_about(file, path)


def _read_dataset_about(file: h5py.File, path: Path) -> dict[str, Any]:
    """Return `about` after checking that its entries are there and of the right type."""
    about = hdf5_file.read_json(file, "about")
    if not isinstance(about, dict):
        raise DataError(f"{path}: 'about' is not a JSON object.")
    for name, kind in (
        ("task", str), ("classes", list), ("shape", list), ("scaling", str), ("source", dict),
        ("split", str), ("digest", str),
    ):  # fmt: skip
        if not isinstance(about.get(name), kind):
            raise DataError(f"{path}: 'about' has no {name!r} that is a {kind.__name__}.")
    if not all(isinstance(one, str) for one in about["classes"]):
        raise DataError(f"{path}: 'about' has classes that are no text. Write their names.")
    if about["task"] not in (*_TASKS_WITH_CLASSES, "regression"):
        raise DataError(f"{path}: unknown task {about['task']!r}.")
    if (about["task"] in _TASKS_WITH_CLASSES) != bool(about["classes"]):
        raise DataError(f"{path}: a {about['task']} with {len(about['classes'])} classes.")
    return about


def dtype_and_shape(array: Any) -> list[Any]:
    """Return dtype and shape of an array as `about` stores them."""
    return [array.dtype.str, *array.shape]


def _map_array(raw: io.FileIO, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a read-only memory map of an array at `offset` bytes in an open file."""
    # Not np.memmap, which cannot start at any offset; the map stays as long as the array.
    content = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)


def _rows_as_bytes(array: np.ndarray | FileRows) -> tuple[Any, np.dtype, int]:
    """Return rows as bytes (n, bytes of a row) uint8, type and count of the numbers in a row."""
    if isinstance(array, FileRows):
        return array, array.dtype, math.prod(array.row_shape)
    # NumPy's arrays are contiguous here.
    rows = array.reshape(len(array), -1).view(np.uint8).reshape(len(array), -1)
    return rows, array.dtype, math.prod(array.shape[1:])
