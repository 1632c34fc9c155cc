"""The kinds of sources: folders of IDX files, .npz, .csv and HDF5 files, in one table.

A reader checks what belongs to its format (headers, names, kinds of storage) and
yields a `Source`. What the rows mean (classes, scaling, a test set cut off) is
known to `importing` alone.
"""

import contextlib
import gzip
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from h5py import h5t

from distbp.data.csv_source import read_csv
from distbp.data.tables import FILE_FAILS, ImportOptions, ProgressCallback, Source, Table, reading
from distbp.errors import ConfigError, DataError
from distbp.storage import hdf5_checks, hdf5_chunks

READ_BYTES = 1 << 20  # at once, from an IDX file
# What a dataset to import may hold; `importing` refuses what is no number and no label.
CELLS = frozenset({h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.STRING})

Read = Callable[[Path, ImportOptions, ProgressCallback], AbstractContextManager[Source]]


class Format(NamedTuple):
    """One kind of source.

    `options` are those it takes besides the general ones, and `effort` is how much
    longer it takes to read a byte than to copy it, for the progress bar.
    """

    name: str
    read: Read
    files: Callable[[Path], list[Path]]
    options: frozenset[str]
    effort: int


def idx_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the (images, labels) files of each split in `folder`."""
    with reading(folder, FILE_FAILS):
        present = {path.name: path for path in sorted(folder.iterdir())}
    splits = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images = idx_file(present, f"{stem}-images", 3)
        labels = idx_file(present, f"{stem}-labels", 1)
        if images and labels:
            splits[split] = (images, labels)
        elif images or labels or split == "train":
            missing = f"{stem}-{'labels-idx1' if images else 'images-idx3'}-ubyte"
            raise DataError(
                f"{folder} has no {missing}, plain or .gz: a folder is imported by the names "
                "of MNIST's files. Add the file, or name one .npz, .csv or HDF5 file."
            )
    return splits


def idx_file(present: dict[str, Path], stem: str, ndim: int) -> Path | None:
    """Return the file of one array in any of its spellings, plain before packed."""
    spellings = (f"{stem}{dash}idx{ndim}-ubyte{pack}" for pack in ("", ".gz") for dash in "-.")
    return next((present[name] for name in spellings if name in present), None)


@contextmanager
def read_idx(folder: Path, options: ImportOptions, advance: ProgressCallback) -> Iterator[Source]:
    """Yield the splits of a folder of IDX files."""
    yield Source(
        {
            split: (
                Table(read_idx_array(images, 3, advance), str(images)),
                Table(read_idx_array(labels, 1, advance), str(labels)),
            )
            for split, (images, labels) in idx_files(folder).items()
        }
    )


def read_idx_array(path: Path, ndim: int, advance: ProgressCallback) -> np.ndarray:
    """Return the bytes of an IDX file, shaped as its header says (LeCun's MNIST page)."""
    with reading(path, FILE_FAILS), path.open("rb") as raw:
        unpacked: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        header = unpacked.read(4 * (ndim + 1))
        shape = idx_shape(path, header, ndim)
        data = read_at_most(math.prod(shape) + 1, unpacked, raw, advance)
    if len(data) != math.prod(shape):
        found = "more" if len(data) > math.prod(shape) else f"only {len(data)}"
        raise DataError(
            f"{path}: its header promises {math.prod(shape)} bytes {shape}, there are {found}. "
            "Get the file again."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def idx_shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    """Return the shape that an IDX header gives for unsigned bytes."""
    if len(header) < 4 * (ndim + 1):
        raise DataError(f"{path} ends inside its header. Get the file again.")
    magic, *shape = struct.unpack(f">{ndim + 1}I", header)
    if magic != 0x800 + ndim:
        raise DataError(
            f"{path}: expected the magic number {0x800 + ndim} "
            f"({'images' if ndim == 3 else 'labels'} as bytes), found {magic}. "
            "Get the file again."
        )
    return tuple(shape)


def read_at_most(count: int, file: BinaryIO, raw: BinaryIO, advance: ProgressCallback) -> bytearray:
    """Return up to `count` bytes of `file`, which unpacks `raw`.

    By small pieces: a damaged header may promise more than fits into memory.
    """
    data = bytearray()
    position = 0
    while len(data) < count:
        piece = file.read(min(READ_BYTES, count - len(data)))
        if not piece:
            break
        data += piece
        advance(raw.tell() - position)
        position = raw.tell()
    return data


NPZ_NAMES = {
    "train": [("x_train", "y_train"), ("x", "y")],
    "validation": [("x_val", "y_val"), ("x_valid", "y_valid"), ("x_validation", "y_validation")],
    "test": [("x_test", "y_test")],
}


@contextmanager
def read_npz(path: Path, options: ImportOptions, advance: ProgressCallback) -> Iterator[Source]:
    """Yield the splits of an .npz file; small and capital letters are the same."""
    with reading(path):
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an .npz file, which is a zip archive of arrays.")
        # NumPy leaves a file that it opened itself open when it finds damage.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            splits = npz_splits(path, archive)
    yield Source(splits)


def npz_splits(path: Path, archive: Any) -> dict[str, tuple[Table, Table]]:
    """Return the tables of an opened archive."""
    names = {name.lower(): name for name in archive.files}
    splits = {}
    for split, pairs in NPZ_NAMES.items():
        for x, y in pairs:
            if x in names and y in names:
                splits[split] = (
                    npz_table(path, archive, names[x]),
                    npz_table(path, archive, names[y]),
                )
                break
            # A lone "y" may be anything; a lone x, or y_test, is half a split.
            if x in names or (y in names and "_" in y):
                raise DataError(f"{path} has {x if x in names else y!r} without its other half.")
    if "train" not in splits:
        raise DataError(
            f"{path} has the arrays {', '.join(archive.files) or 'of nothing'}; expected "
            "x_train and y_train, or x and y. Save it again with these names."
        )
    return splits


def npz_table(path: Path, archive: Any, name: str) -> Table:
    """Return one array of an archive; one of Python objects is refused."""
    try:
        return Table(archive[name], f"{path}: {name}")
    except ValueError as failure:
        if "allow_pickle" not in str(failure):
            raise
        raise DataError(
            f"{path}: {name} holds Python objects, and loading them could run foreign code. "
            "Save it as one array of numbers."
        ) from failure


@contextmanager
def read_hdf5(path: Path, options: ImportOptions, advance: ProgressCallback) -> Iterator[Source]:
    """Yield the named datasets of an HDF5 file, which stays open meanwhile."""
    with contextlib.ExitStack() as stack:
        with reading(path, hdf5_checks.HDF5_READ_ERRORS):
            raw = stack.enter_context(hdf5_checks.open_file(path))
            file = stack.enter_context(h5py.File(raw, "r"))
        splits = {}
        for split, x, y in hdf5_names(path, file, options):
            labels = hdf5_table(path, file, y)
            with reading(labels.name):
                labels = Table(labels.values[:], labels.name)
            splits[split] = (hdf5_table(path, file, x), labels)
        yield Source(splits)


def hdf5_names(
    path: Path, file: h5py.File, options: ImportOptions
) -> Iterator[tuple[str, str, str]]:
    """Yield (split, name of x, name of y) as the options give them."""
    for split, end in (("train", ""), ("validation", "_validation"), ("test", "_test")):
        x, y = getattr(options, f"x{end}"), getattr(options, f"y{end}")
        if x and y:
            yield split, x, y
        elif x or y or split == "train":
            missing = f"{'y' if x else 'x'}{end}".replace("_", "-")
            raise ConfigError(
                f"`--{missing}` is missing: an HDF5 file is imported by the names of its "
                f"datasets. {path} holds {held(path, file)}."
            )


def held(path: Path, file: h5py.File, most: int = 12) -> str:
    """Name some datasets of a file and of its groups, for an error message."""
    names: list[str] = []
    with reading(path, hdf5_checks.HDF5_READ_ERRORS):
        for name in hdf5_checks.children(file["/"], 10 * most):
            found = file[name]
            if isinstance(found, h5py.Group):
                inside = hdf5_checks.children(found, most)
                names += [f"{name}/{n}" for n in inside if isinstance(found[n], h5py.Dataset)]
            elif isinstance(found, h5py.Dataset):
                names.append(name)
    return ", ".join(names[:most]) + ", …" * (len(names) > most) or "none"


def hdf5_table(path: Path, file: h5py.File, name: str) -> Table:
    """Return a dataset whose bytes are rows inside this file."""
    where = f"{path}: {name}"
    with reading(path, hdf5_checks.HDF5_READ_ERRORS):
        if not hdf5_checks.has(file, name):
            raise DataError(f"{where} is missing; {path} holds {held(path, file)}.")
        rows = hdf5_chunks.array(file, name, CELLS)
    if not rows.ndim:
        raise DataError(f"{where} is {rows.dtype} (); expected rows. Store it as an array.")
    return Table(rows, where)


def alone(path: Path) -> list[Path]:
    """Return the files of a source that is one file."""
    return [path]


def in_folder(folder: Path) -> list[Path]:
    """Return the files of a source that is a folder."""
    return [path for pair in idx_files(folder).values() for path in pair]


HDF5 = Format(
    "an HDF5 file",
    read_hdf5,
    alone,
    frozenset({"task", "x", "y", "x_test", "y_test", "x_validation", "y_validation"}),
    0,
)
# By the ending of the name; a folder has none.
FORMATS = {
    "": Format("a folder of IDX files", read_idx, in_folder, frozenset(), 4),
    ".npz": Format("an .npz file", read_npz, alone, frozenset({"task"}), 1),
    ".csv": Format("a .csv file", read_csv, alone, frozenset({"label", "header", "task"}), 30),
    ".h5": HDF5,
    ".hdf5": HDF5,
}
