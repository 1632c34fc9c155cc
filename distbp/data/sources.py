"""The formats that can be imported: folders of IDX files, .npz and HDF5 files, and tables.

`SOURCE_FORMATS` has one reader for each. A reader checks what belongs to its format
(headers, names, storage) and yields a `Source`. What labels mean, and how x is scaled, is
known to `labels` and `importing`. To add a format, write a reader and add a line to the table.
"""

import gzip
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distbp.data.hdf5_source import read_hdf5, read_hdf5_features
from distbp.data.table_base import ReadCallback
from distbp.data.table_options import TableOptions
from distbp.data.table_reader import open_table
from distbp.data.table_source import read_rows
from distbp.data.tables import (
    FILE_ERRORS,
    ImportOptions,
    Source,
    Table,
    wrap_source_errors,
)
from distbp.errors import DataError

_IDX_READ_BYTES = 1 << 20

_Reader = Callable[..., AbstractContextManager[Source]]


class SourceFormat(NamedTuple):
    """A format that can be imported.

    Attributes
    ----------
    name : str
        For messages.
    read : function of (path, options, advance)
        Context manager that yields a Source. For a table there is a fourth parameter, the folder
        for a temporary file.
    files : function of path
        Returns the files that make up the source.
    options : set of str
        The import options it takes besides those of every format.
    effort : int
        Time to read a byte, relative to copying it, for the progress bar.
    """

    name: str
    read: _Reader
    files: Callable[[Path], list[Path]]
    options: frozenset[str]
    effort: int

    @property
    def is_table(self) -> bool:
        """Whether it has named columns."""
        return self.read is _read_table


def _idx_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the (images, labels) files of each split in `folder`."""
    with wrap_source_errors(folder, FILE_ERRORS):
        present = {path.name: path for path in sorted(folder.iterdir())}
    splits = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images = _idx_file(present, f"{stem}-images", 3)
        labels = _idx_file(present, f"{stem}-labels", 1)
        if images and labels:
            splits[split] = (images, labels)
        elif images or labels or split == "train":
            missing = f"{stem}-{'labels-idx1' if images else 'images-idx3'}-ubyte"
            raise DataError(
                f"{folder} has no {missing}, plain or .gz: a folder is imported by the names "
                "of MNIST's files. Add the file, or name one .npz, .csv or HDF5 file."
            )
    return splits


def _idx_file(present: dict[str, Path], stem: str, ndim: int) -> Path | None:
    """Return the file of one array in any of its spellings, uncompressed before .gz."""
    # Downloads have "-" before "idx", files unpacked by some programs ".".
    spellings = (f"{stem}{dash}idx{ndim}-ubyte{pack}" for pack in ("", ".gz") for dash in "-.")
    return next((present[name] for name in spellings if name in present), None)


@contextmanager
def _read_idx(folder: Path, options: ImportOptions, advance: ReadCallback) -> Iterator[Source]:
    """Yield the splits of a folder of IDX files."""
    yield Source(
        {
            split: (
                Table(_read_idx_array(images, 3, advance), str(images)),
                Table(_read_idx_array(labels, 1, advance), str(labels)),
            )
            for split, (images, labels) in _idx_files(folder).items()
        }
    )


def _read_idx_array(path: Path, ndim: int, advance: ReadCallback) -> np.ndarray:
    """Return the bytes of an IDX file, shaped as its header says (LeCun's MNIST page)."""
    with wrap_source_errors(path, FILE_ERRORS), path.open("rb") as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        header = file.read(4 * (ndim + 1))
        shape = _idx_shape(path, header, ndim)
        # One byte more, to notice a file that is too long.
        data = _read_at_most(math.prod(shape) + 1, file, raw, advance)
    if len(data) != math.prod(shape):
        found = "more" if len(data) > math.prod(shape) else f"only {len(data)}"
        raise DataError(
            f"{path}: expected {math.prod(shape)} bytes by its header {shape}; there are {found}. "
            "Download the file again."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    """Return the shape in the IDX header of an array of unsigned bytes."""
    if len(header) < 4 * (ndim + 1):
        raise DataError(f"{path} ends inside its header. Download the file again.")
    magic, *shape = struct.unpack(f">{ndim + 1}I", header)
    if magic != 0x800 + ndim:
        raise DataError(
            f"{path}: expected the magic number {0x800 + ndim} "
            f"({'images' if ndim == 3 else 'labels'} as bytes), found {magic}. "
            "Download the file again."
        )
    return tuple(shape)


def _read_at_most(count: int, file: BinaryIO, raw: BinaryIO, advance: ReadCallback) -> bytearray:
    """Return up to `count` bytes of `file`, which decompresses `raw`.

    In small blocks: by a damaged header, `count` may be more than fits into memory.
    """
    data = bytearray()
    position = 0
    while len(data) < count:
        block = file.read(min(_IDX_READ_BYTES, count - len(data)))
        if not block:
            break
        data += block
        advance(raw.tell() - position)
        position = raw.tell()
    return data


_NPZ_NAMES = {
    "train": [("x_train", "y_train"), ("x", "y")],
    "validation": [("x_val", "y_val"), ("x_valid", "y_valid"), ("x_validation", "y_validation")],
    "test": [("x_test", "y_test")],
}


@contextmanager
def _read_npz(path: Path, options: ImportOptions, advance: ReadCallback) -> Iterator[Source]:
    """Yield the splits of an .npz file; names are not case-sensitive."""
    with _open_npz(path) as archive:
        splits, weights = _npz_splits(path, archive), None
        if options.weight is not None:
            if options.weight not in archive.files:
                raise DataError(
                    f"{path} has no array {options.weight!r}, as `--weight` says; it has "
                    f"{', '.join(archive.files)}. Name one of them."
                )
            weights = _npz_features(path, archive, options.weight)
    yield Source(splits, weights=weights)


@contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """Yield an .npz file as an archive of arrays; what is raised in the block is a DataError."""
    with wrap_source_errors(path):
        # np.load would take any other file for a pickle.
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an .npz file, which is a zip archive of arrays.")
        # Opened here, because NumPy leaves its own file open if it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            yield archive


def _npz_splits(path: Path, archive: Any) -> dict[str, tuple[Table, Table]]:
    """Return the tables of an opened archive."""
    names = {name.lower(): name for name in archive.files}
    splits = {}
    for split, pairs in _NPZ_NAMES.items():
        for x, y in pairs:
            if x in names and y in names:
                rows = _npz_features(path, archive, names[x])
                labels = _npz_table(path, archive, names[y])
                rows.check_not_transposed(labels, f"Save {x}.T instead.")
                splits[split] = (rows, labels)
                break
            # A single "y" may be anything; a single x, or y_test, is half a split.
            if x in names or (y in names and "_" in y):
                found, missing = (x, y) if x in names else (y, x)
                raise DataError(f"{path} has {found!r}, but no {missing!r}. Add it.")
    if "train" not in splits:
        raise DataError(
            f"{path} has the arrays {', '.join(archive.files) or '(none)'}; expected "
            "x_train and y_train, or x and y. Save it again with these names."
        )
    return splits


def _npz_table(path: Path, archive: Any, name: str) -> Table:
    """Return one array of an archive; an array of Python objects is refused."""
    try:
        return Table(archive[name], f"{path}: {name}")
    except ValueError as failure:
        if "allow_pickle" not in str(failure):
            raise
        raise DataError(
            f"{path}: {name} holds Python objects; loading them could execute arbitrary code. "
            "Save it as one array of numbers."
        ) from failure


def _npz_features(path: Path, archive: Any, name: str) -> Table:
    """Return an array of rows, booleans as integers."""
    rows = _npz_table(path, archive, name)
    if rows.dtype != bool:
        return rows
    # Not as uint8, which would be scaled like the bytes of an image.
    return replace(rows, values=rows.values.view(np.int8))


@contextmanager
def _read_table(
    path: Path, options: ImportOptions, advance: ReadCallback, scratch: Path
) -> Iterator[Source]:
    """Yield the one split of a table; `scratch` is the folder for a temporary file."""
    with read_rows(open_table(path, options, advance), options, scratch) as source:
        yield source


@contextmanager
def read_features(path: Path, name: str | None, n_in: int) -> Iterator[Table]:
    """Yield an array of rows without labels, of an .npz or HDF5 file.

    Parameters
    ----------
    path : Path
    name : str, optional
        Of the array; for .npz by default `x`, or the only one.
    n_in : int
        Numbers of a row, by which a matrix of MATLAB is read.
    """
    if path.suffix.lower() != ".npz":
        with read_hdf5_features(path, name or "x", n_in) as table:
            yield table
        return
    with _open_npz(path) as archive:
        wanted = name or (archive.files[0] if len(archive.files) == 1 else "x")
        if wanted not in archive.files:
            raise DataError(
                f"{path} has no array {wanted!r}; it has {', '.join(archive.files) or 'none'}. "
                "Name the one with the rows: --x NAME."
            )
        rows = _npz_features(path, archive, wanted)
    yield rows


@contextmanager
def read_labelled_rows(path: Path, x: str | None, y: str | None) -> Iterator[tuple[Table, Table]]:
    """Yield arrays of rows and of their labels, of an .npz or HDF5 file; by default `x` and `y`."""
    x, y = x or "x", y or "y"
    if path.suffix.lower() != ".npz":
        with read_hdf5(path, ImportOptions(x=x, y=y), lambda count: None) as found:
            yield found.splits["train"]
        return
    with _open_npz(path) as archive:
        for option, name in (("x", x), ("y", y)):
            if name not in archive.files:
                raise DataError(
                    f"{path} has no array {name!r}; it has {', '.join(archive.files) or 'none'}. "
                    f"Name the right one: --{option} NAME."
                )
        rows, labels = _npz_features(path, archive, x), _npz_table(path, archive, y)
    rows.check_not_transposed(labels, f"Save {x}.T instead.")
    yield rows, labels


def _single_file(path: Path) -> list[Path]:
    """Return the files of a source that is a single file."""
    return [path]


def _files_in_folder(folder: Path) -> list[Path]:
    """Return the files of a source that is a folder."""
    return [path for pair in _idx_files(folder).values() for path in pair]


_HDF5 = SourceFormat(
    "an HDF5 file",
    read_hdf5,
    _single_file,
    frozenset(
        {
            "task", "weight", "x", "y", "x_test", "y_test", "x_validation", "y_validation",
            "transpose",
        }
    ),
    0,
)  # fmt: skip
_TABLE = SourceFormat(
    "a table",
    _read_table,
    _single_file,
    frozenset(
        {
            "task", "label", "categorical", "max_categories", "missing", "missing_indicator",
            "target_transform", "group", "time", "split", "weight",
            *(one.name for one in fields(TableOptions)),
        }
    ),
    3,
)  # fmt: skip
# What a table is compressed with is recognized by its content.
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2")
# By the suffix of the name; a folder has none.
SOURCE_FORMATS = {
    "": SourceFormat("a folder of IDX files", _read_idx, _files_in_folder, frozenset(), 4),
    ".npz": SourceFormat("an .npz file", _read_npz, _single_file, frozenset({"task", "weight"}), 1),
    ".csv": _TABLE,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".mat": _HDF5,
    ".nc": _HDF5,
    **dict.fromkeys(
        (
            ".tsv",
            ".tab",
            ".txt",
            ".parquet",
            ".feather",
            ".arrow",
            ".ipc",
            ".jsonl",
            ".ndjson",
        ),
        _TABLE,
    ),
}
