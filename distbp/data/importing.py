"""From a source to a data set: what the rows mean, and one HDF5 file of them.

`import_data` settles what the labels are, which rows become a test set and how x
is to be scaled, checks every number on its way, and writes the file that `data`
describes. x is copied by blocks of rows, so that a source need not fit into
memory. Formats of sources are known to `sources` alone.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.data.dataset import FORMAT, SPLITS, VERSION, described
from distbp.data.labels import Meaning, infer_task
from distbp.data.sources import FORMATS, Format
from distbp.data.tables import FILE_FAILS, ImportOptions, Source, Table, reading
from distbp.errors import ConfigError, DataError
from distbp.network import rng
from distbp.storage import hdf5_file
from distbp.storage.scaling import Scaling

BLOCK = 1 << 20  # numbers of x that are copied at once
TEST_ROWS = 1  # position in the stream of held-out rows; 0 is for a part of `train`
GENERAL = {"scaling", "test_fraction", "seed"}  # options for every kind of source
SCALINGS = ("auto", "bytes", "standardize", "none")
TASKS = (None, "classification", "regression")
DEFAULTS = ImportOptions()

Report = Callable[[int, int], None]


class Meter:
    """A growing count of bytes for a progress bar, whatever the work is."""

    def __init__(self, report: Report | None, total: int) -> None:
        self.report = report or (lambda done, total: None)
        self.total = total
        self.done = 0.0

    def advance(self, amount: float) -> None:
        self.done = min(self.done + amount, self.total)
        self.report(int(self.done), self.total)


class Moments:
    """Mean and variance of each feature, block by block, in float64.

    Chan, Golub and LeVeque, The American Statistician 37 (1983) 242-247,
    doi:10.1080/00031305.1983.10483115: the pairwise update. Counted from the first
    row, so that the variance of a constant feature is exactly 0.
    """

    def __init__(self, n_in: int) -> None:
        self.count = 0
        self.origin: np.ndarray | None = None
        self.mean, self.squares = np.zeros(n_in), np.zeros(n_in)

    def add(self, block: np.ndarray) -> None:
        """Take in the rows of `block` (m, ...)."""
        rows = block.reshape(len(block), -1).astype(np.float64)  # (m, n_0)
        if self.origin is None:
            self.origin = rows[0].copy()
        # What overflows here is refused in `scaling`, by name.
        with np.errstate(over="ignore", invalid="ignore"):
            rows -= self.origin
            mean = rows.mean(axis=0)
            rows -= mean
            count = self.count + len(rows)
            delta = mean - self.mean
            self.squares += np.square(rows).sum(axis=0)
            self.squares += np.square(delta) * (self.count * len(rows) / count)
            self.mean += delta * (len(rows) / count)
        self.count = count

    def scaling(self, x: Table) -> Scaling:
        """Return the scaling to mean 0 and variance 1; a constant feature keeps its unit."""
        if self.origin is None:
            raise ValueError("no rows were added")
        with np.errstate(over="ignore", invalid="ignore"):
            shift, deviation = self.origin + self.mean, np.sqrt(self.squares / self.count)
        bad = np.flatnonzero(~np.isfinite(shift + deviation))
        if len(bad):
            column = bad[0] if x.columns is None else repr(x.columns[bad[0]])
            raise DataError(
                f"{x.name}, column {column}: its numbers are too large to standardize. "
                "Use smaller units, or --scaling none."
            )
        # Below `tiny`, 1 / deviation is no float32.
        varies = deviation > np.finfo(np.float32).tiny
        return Scaling(shift, 1.0 / np.where(varies, deviation, 1.0))


@dataclass(frozen=True)
class Piece:
    """A split to write: the rows of x and y where `keep` is true, or all."""

    name: str
    x: Table
    y: np.ndarray
    keep: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x) if self.keep is None else int(self.keep.sum())


def import_data(
    source: str | Path,
    out: str | Path,
    options: ImportOptions = DEFAULTS,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Write the data set `out` from `source`; `out` appears whole or not at all.

    Parameters
    ----------
    source : path of a folder of IDX files, or of an .npz, .csv or HDF5 file
    out : path of the HDF5 file to write; an older one of distbp's is replaced
    options : ImportOptions
    progress : function of (done, total), optional
        Told how far the work is, in bytes.

    Returns
    -------
    dict
        What `about` in the file says, and `rows`: the number of rows of each split.

    Raises
    ------
    ConfigError
        Options that contradict one another, or do not apply to the source.
    DataError
        The source cannot be read or is not what it should be, or `out` cannot
        be written.
    """
    source, out = Path(source), Path(out)
    form = format_of(source)
    check_options(options, source, form)
    files = form.files(source)
    check_out(out, files)
    size = total_bytes(files)
    meter = Meter(progress, size * (form.effort + 2))
    origin = {
        "files": [os.fsencode(file.name).decode("utf-8", "replace") for file in files],
        "sha256": digest_of(files, meter),
    }
    with form.read(source, options, lambda part: meter.advance(part * form.effort)) as found:
        check_rows(found)
        meaning = infer_task(found, options.task)
        pieces, split = split_test_set(found, meaning, options)
        about = {"task": meaning.task, "classes": meaning.classes, "source": origin, "split": split}
        if found.columns is not None:
            about["columns"] = found.columns
        share = size / sum(len(piece) for piece in pieces)
        with hdf5_file.create(out, FORMAT, VERSION, DataError) as file:
            about |= write(file, pieces, options.scaling, lambda rows: meter.advance(rows * share))
            hdf5_file.write_json(file, "about", about)
    meter.advance(meter.total)
    return {**about, "rows": {piece.name: len(piece) for piece in pieces}}


def format_of(source: Path) -> Format:
    """Return the kind of a source, by what it is and the ending of its name."""
    with reading(source, FILE_FAILS):
        source.stat()
    if not source.is_dir() and not source.is_file():
        raise DataError(f"{source} is neither a file nor a folder.")
    ending = "" if source.is_dir() else source.suffix.lower()
    if ending not in FORMATS or (not ending and source.is_file()):
        raise DataError(
            f"{source}: expected a name that ends in {', '.join(filter(None, FORMATS))}, or a "
            "folder of IDX files. Rename the file, or name its folder."
        )
    return FORMATS[ending]


def check_options(options: ImportOptions, source: Path, form: Format) -> None:
    """Refuse options that contradict one another, or that the source has no use for."""
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if value is not None and name not in GENERAL | form.options:
            flag = "no-header" if value is False else name.replace("_", "-")
            raise ConfigError(f"`--{flag}` does not apply to {form.name}: {source}. Leave it out.")
    if options.scaling not in SCALINGS:
        raise ConfigError(f"`--scaling {options.scaling}`: expected one of {', '.join(SCALINGS)}.")
    if options.task not in TASKS:
        raise ConfigError(f"`--task {options.task}`: expected classification or regression.")
    if options.test_fraction is not None and not 0 < options.test_fraction < 1:
        raise ConfigError(
            f"`--test-fraction {options.test_fraction}`: expected a number between 0 and 1."
        )
    if options.seed is not None and options.test_fraction is None:
        raise ConfigError("`--seed` is for `--test-fraction`, which is not there. Leave it out.")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ConfigError(f"`--seed {options.seed}`: expected 0 … 2^63 - 1.")


def check_out(out: Path, files: list[Path]) -> None:
    """Refuse a place that cannot take the output, or that is the source."""
    if not os.path.isdir(out.parent):
        raise DataError(f"{out} cannot be written: there is no folder {out.parent}. Make it first.")
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder; expected the name of a file to write.")
    if os.path.exists(out) and any(out.samefile(file) for file in files):
        raise ConfigError(f"{out} is the source itself. Give the output another name.")
    hdf5_file.check_replaceable(out)


def total_bytes(files: list[Path]) -> int:
    """Return the size of the files together."""
    with reading(files[0], FILE_FAILS):
        return sum(file.stat().st_size for file in files)


def digest_of(files: list[Path], meter: Meter) -> str:
    """Return the SHA-256 of the files' bytes, one after the other, in hex."""
    digest = hashlib.sha256()
    for path in files:
        with reading(path, FILE_FAILS), path.open("rb") as file:
            while piece := file.read(BLOCK):
                digest.update(piece)
                meter.advance(len(piece))
    return digest.hexdigest()


def check_rows(found: Source) -> None:
    """Raise DataError unless all splits have rows of x and y, of one shape and type."""
    first = found.splits["train"][0]
    for x, y in found.splits.values():
        for table, kinds in ((x, "iuf"), (y, "iufbUS")):
            if not len(table) or 0 in table.shape:
                raise DataError(f"{table.name} is empty; expected one row at least.")
            # Longer floats have bytes without a meaning, which no digest can cover.
            if table.dtype.kind not in kinds or table.dtype.str[1:] == "f16":
                raise DataError(f"{table.name} is of type {table.dtype}; expected plain numbers.")
        if len(x) != len(y):
            raise DataError(f"{x.name} has {len(x)} rows, but {y.name} has {len(y)}.")
        if (x.shape, x.dtype) != (first.shape, first.dtype):
            raise DataError(
                f"{x.name} has rows of {x.dtype} {x.shape}, but {first.name} of {first.dtype} "
                f"{first.shape}; expected the same in every split."
            )
        if len(y.shape) > 1:
            raise DataError(f"{y.name} has rows of shape {y.shape}; expected one label a row.")


def split_test_set(
    found: Source, meaning: Meaning, options: ImportOptions
) -> tuple[list[Piece], str]:
    """Return the splits to write, and the sentence that says where they come from."""
    pieces = [
        Piece(name, found.splits[name][0], meaning.y[name])
        for name in SPLITS
        if name in found.splits
    ]
    fraction = options.test_fraction
    if fraction is None:
        return pieces, "as in the source"
    if "test" in found.splits:
        raise ConfigError(
            f"`--test-fraction {fraction}`: the source has a test set already. Leave it out."
        )
    train, seed = pieces[0], options.seed or 0
    keep = test_rows(train.y, bool(meaning.classes), fraction, seed)
    if not keep.any():
        raise ConfigError(
            f"`--test-fraction {fraction}` of {len(keep)} rows is no row, as train needs one of "
            "each class. Use a larger fraction."
        )
    pieces[0] = Piece("train", train.x, train.y, ~keep)
    pieces.append(Piece("test", train.x, train.y, keep))
    stratified = ", stratified" if meaning.classes else ""
    return pieces, f"{100 * fraction:.12g} % of the rows{stratified}, seed {seed}"


def test_rows(y: np.ndarray, has_classes: bool, fraction: float, seed: int) -> np.ndarray:
    """Return which rows make up the test set: (n,) bool, `fraction` of each class.

    One row of each class, at least, is left for training.
    """
    labels = y if has_classes else np.zeros(len(y), np.int64)
    order = rng.permutation(len(y), seed, rng.HOLDOUT, TEST_ROWS)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class
    counts = np.bincount(labels)
    ends = np.cumsum(counts)
    # Rounded, because 0.29 * 100 is a little less than 29.
    marks = np.floor(np.round(fraction * np.append(0, ends), 6)).astype(np.int64)
    takes = np.minimum(np.diff(marks), counts - 1)
    place = np.arange(len(y)) - np.repeat(ends - counts, counts)  # in the row's class
    chosen = np.zeros(len(y), bool)
    chosen[order[place < np.repeat(takes, counts)]] = True
    return chosen


def write(
    file: h5py.File, pieces: list[Piece], scaling: str, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Write all splits and the scaling; return what `about` has to say of them."""
    x = pieces[0].x
    if scaling == "auto":
        scaling = "bytes" if x.dtype == np.uint8 else "standardize"
    moments = Moments(math.prod(x.shape)) if scaling == "standardize" else None
    digest = hashlib.sha256()
    for piece in pieces:
        y = piece.y if piece.keep is None else piece.y[piece.keep]
        copy_x(file, piece, digest, moments if piece.name == "train" else None, advance)
        announce(digest, f"{piece.name}/y", y.dtype, y.shape)
        digest.update(y.tobytes())
        hdf5_file.write_array(file, f"{piece.name}/y", y)
    if moments is not None:
        moments.scaling(x).write(file)
    else:
        Scaling(np.zeros(1), np.array([1 / 255 if scaling == "bytes" else 1.0])).write(file)
    names = [f"{piece.name}/{part}" for piece in pieces for part in "xy"]
    return {
        "shape": list(x.shape),
        "scaling": scaling,
        "digest": digest.hexdigest(),
        "arrays": {name: described(file[name]) for name in names},
    }


def copy_x(
    file: h5py.File,
    piece: Piece,
    digest: Any,
    moments: Moments | None,
    advance: Callable[[int], None],
) -> None:
    """Write x of one split, block by block, and tell `digest` and `moments` of it."""
    name, shape = f"{piece.name}/x", (len(piece), *piece.x.shape)
    dataset = file.create_dataset(name, shape, piece.x.dtype, track_times=False)
    announce(digest, name, dataset.dtype, shape)
    at = 0
    for block in blocks(piece):
        digest.update(block.data)
        if moments is not None:
            moments.add(block)
        dataset[at : at + len(block)] = block
        at += len(block)
        advance(len(block))


def blocks(piece: Piece) -> Iterator[np.ndarray]:
    """Yield the finite rows of a piece, in the source's order: (m, ...), never empty."""
    rows = max(1, BLOCK // math.prod(piece.x.shape))
    for start in range(0, len(piece.x), rows):
        stop = min(start + rows, len(piece.x))
        if piece.keep is not None and not piece.keep[start:stop].any():
            continue
        block = piece.x.read(start, stop)
        piece.x.check_finite(block, start)
        if piece.keep is not None:
            block = block[piece.keep[start:stop]]
        yield np.ascontiguousarray(block)


def announce(digest: Any, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Let `digest` cover what the bytes that follow are."""
    digest.update(f"{name} {dtype.str} {shape}\n".encode())
