"""Importing: from a source to a data set in one HDF5 file.

`import_data` lets `labels` interpret the labels, splits off a test set if asked to, computes
the scaling of x, checks that all numbers are finite, and writes the file. x is copied in
blocks of rows, so that a source need not fit into memory. The formats of sources are known
to `sources` alone.
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

from distbp.data.dataset import DATA_FORMAT, SPLIT_NAMES, dtype_and_shape, version_for
from distbp.data.labels import InferredTask, infer_task
from distbp.data.sources import SOURCE_FORMATS, SourceFormat
from distbp.data.tables import (
    FILE_ERRORS,
    SCALINGS,
    TARGET_SCALINGS,
    TASKS,
    ImportOptions,
    Source,
    Table,
    wrap_source_errors,
)
from distbp.errors import ConfigError, DataError
from distbp.network import rng
from distbp.storage import hdf5_file
from distbp.storage.scaling import Scaling, TargetScaling

_BLOCK_NUMBERS = 1 << 20  # numbers of x to copy at once
_HASH_BYTES = 1 << 20
_TEST_STREAM = 1  # of the generator of held-out rows; 0 is for the validation part of `train`
_GENERAL_OPTIONS = {"scaling", "target_scaling", "test_fraction", "seed"}  # those of every format
# Of targets to standardize: costs are multiplied by the square of their deviation.
_LEAST_DEVIATION, _LARGEST_TARGET = 1e-150, 1e100
_DEFAULT_OPTIONS = ImportOptions()

_ProgressReport = Callable[[int, int], None]


class _ProgressMeter:
    """Adds up the bytes processed, by reading, hashing or copying, for a progress bar."""

    def __init__(self, report: _ProgressReport | None, total: int) -> None:
        self.report = report or (lambda done, total: None)
        self.total = total
        self.done = 0.0

    def advance(self, amount: float) -> None:
        self.done = min(self.done + amount, self.total)
        self.report(int(self.done), self.total)


class _RunningMoments:
    """Mean and variance of each feature, block by block, in float64.

    The pairwise update of Chan, Golub and LeVeque, The American Statistician 37 (1983)
    242-247, doi:10.1080/00031305.1983.10483115. The first row is subtracted from all, so that
    the variance of a constant feature is exactly 0.
    """

    def __init__(self, n_in: int) -> None:
        self.count = 0
        self.origin: np.ndarray | None = None
        self.mean, self.squares = np.zeros(n_in), np.zeros(n_in)

    def add(self, block: np.ndarray) -> None:
        """Add the rows of `block` (m, ...)."""
        rows = block.reshape(len(block), -1).astype(np.float64)  # (m, n_0)
        if self.origin is None:
            self.origin = rows[0].copy()
        # An overflow here is refused in `scaling`, which names the column.
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

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of each feature; not finite if they are too large."""
        if self.origin is None:
            raise ValueError("no rows were added")
        with np.errstate(over="ignore", invalid="ignore"):
            return self.origin + self.mean, np.sqrt(self.squares / self.count)

    def scaling(self, x: Table) -> Scaling:
        """Return the scaling to mean 0 and variance 1; a constant feature keeps its unit."""
        shift, deviation = self.mean_and_deviation()
        bad = np.flatnonzero(~np.isfinite(shift) | ~np.isfinite(deviation))
        if len(bad):
            column = bad[0] if x.columns is None else repr(x.columns[bad[0]])
            raise DataError(
                f"{x.name}, column {column}: its numbers are too large to standardize. "
                "Use smaller units, or --scaling none."
            )
        # Below `tiny`, 1 / deviation overflows float32.
        varies = deviation > np.finfo(np.float32).tiny
        return Scaling(shift, 1.0 / np.where(varies, deviation, 1.0))


@dataclass(frozen=True)
class _OutputSplit:
    """A split to write: the rows of x and y where `keep` is true, or all rows."""

    name: str
    x: Table
    y: np.ndarray
    keep: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x) if self.keep is None else int(self.keep.sum())


def import_data(
    source: str | Path,
    out: str | Path,
    options: ImportOptions = _DEFAULT_OPTIONS,
    progress: _ProgressReport | None = None,
) -> dict[str, Any]:
    """Write the data set `out` from `source`, atomically.

    Parameters
    ----------
    source : path of a folder of IDX files, or of an .npz, .csv or HDF5 file
    out : path of the HDF5 file to write; an older output of distbp is replaced
    options : ImportOptions
    progress : function of (done, total), optional
        Called with the bytes processed so far.

    Returns
    -------
    dict
        `about` of the file, and `rows`: the number of rows of each split.

    Raises
    ------
    ConfigError
        Options contradict one another, or do not apply to the source.
    DataError
        The source cannot be read or is invalid, or `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    form = _find_format(source)
    # All that can be refused early is, as reading a large source takes minutes.
    _check_options(options, source, form)
    files = form.files(source)
    _check_output(out, files)
    size = _total_bytes(files)
    meter = _ProgressMeter(progress, size * (form.effort + 2))  # to read, hash and copy
    origin = {
        # Names need not be UTF-8, but JSON must be.
        "files": [os.fsencode(file.name).decode("utf-8", "replace") for file in files],
        "sha256": _sha256_of(files, meter),
    }
    with form.read(source, options, lambda part: meter.advance(part * form.effort)) as found:
        _check_rows(found)
        inferred = infer_task(found, options.task)
        target_scaling = _choose_target_scaling(inferred.task, options.target_scaling)
        splits, split = _split_test_set(found, inferred, options)
        about = {
            "task": inferred.task, "classes": inferred.classes, "source": origin, "split": split,
        }  # fmt: skip
        if found.columns is not None:
            about["columns"] = found.columns
        row_bytes = size / sum(len(one) for one in splits)
        # Inside the block: x of an HDF5 source is read from its file while it is copied.
        version = version_for(inferred.task, target_scaling is not None)
        with hdf5_file.create_file(out, DATA_FORMAT, version, DataError) as file:
            about |= _write_splits(
                file, splits, options.scaling, target_scaling,
                lambda rows: meter.advance(rows * row_bytes),
            )  # fmt: skip
            hdf5_file.write_json(file, "about", about)
    meter.advance(meter.total)
    return {**about, "rows": {one.name: len(one) for one in splits}}


def _find_format(source: Path) -> SourceFormat:
    """Return the format of a source, by the suffix of its name."""
    with wrap_source_errors(source, FILE_ERRORS):
        source.stat()
    if not source.is_dir() and not source.is_file():
        raise DataError(f"{source} is neither a file nor a folder.")
    suffix = "" if source.is_dir() else source.suffix.lower()
    if suffix not in SOURCE_FORMATS or (not suffix and source.is_file()):
        suffixes = ", ".join(filter(None, SOURCE_FORMATS))
        raise DataError(
            f"{source}: expected a name that ends in {suffixes}, or a folder of IDX files. "
            "Rename the file, or name its folder."
        )
    return SOURCE_FORMATS[suffix]


def _check_options(options: ImportOptions, source: Path, form: SourceFormat) -> None:
    """Refuse options that contradict one another, or do not apply to the format."""
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if value is not None and name not in _GENERAL_OPTIONS | form.options:
            flag = "no-header" if value is False else name.replace("_", "-")
            raise ConfigError(f"`--{flag}` does not apply to {form.name}: {source}. Leave it out.")
    if options.scaling not in SCALINGS:
        raise ConfigError(f"`--scaling {options.scaling}`: expected one of {', '.join(SCALINGS)}.")
    if options.target_scaling not in TARGET_SCALINGS:
        raise ConfigError(
            f"`--target-scaling {options.target_scaling}`: expected one of "
            f"{', '.join(TARGET_SCALINGS)}."
        )
    if options.task not in (None, *TASKS):
        raise ConfigError(f"`--task {options.task}`: expected one of {', '.join(TASKS)}.")
    if options.test_fraction is not None and not 0 < options.test_fraction < 1:
        raise ConfigError(
            f"`--test-fraction {options.test_fraction}`: expected a number between 0 and 1."
        )
    if options.seed is not None and options.test_fraction is None:
        raise ConfigError("`--seed` is for `--test-fraction`, which is not given. Leave it out.")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ConfigError(f"`--seed {options.seed}`: expected 0 … 2^63 - 1.")


def _check_output(out: Path, files: list[Path]) -> None:
    """Refuse a path that cannot be written to, or is the source itself."""
    if not os.path.isdir(out.parent):
        raise DataError(
            f"{out} cannot be written: there is no folder {out.parent}. Create it first."
        )
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder; expected the name of a file to write.")
    if os.path.exists(out) and any(out.samefile(file) for file in files):
        raise ConfigError(f"{out} is the source itself. Give the output another name.")
    hdf5_file.check_replaceable(out)


def _total_bytes(files: list[Path]) -> int:
    """Return the size of the files together."""
    with wrap_source_errors(files[0], FILE_ERRORS):
        return sum(file.stat().st_size for file in files)


def _sha256_of(files: list[Path], meter: _ProgressMeter) -> str:
    """Return the SHA-256 of the files' bytes, one after the other, in hex."""
    digest = hashlib.sha256()
    for path in files:
        with wrap_source_errors(path, FILE_ERRORS), path.open("rb") as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
                meter.advance(len(block))
    return digest.hexdigest()


def _check_rows(found: Source) -> None:
    """Raise DataError unless all splits have rows of x and y, of the same shape and type."""
    first = found.splits["train"][0]
    for x, y in found.splits.values():
        for table, kinds in ((x, "iuf"), (y, "iufbUS")):
            if not len(table) or 0 in table.shape:
                raise DataError(f"{table.name} is empty; expected at least one row.")
            # Long doubles have padding bytes of any value, which would change the digest.
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
            raise DataError(f"{y.name} has rows of shape {y.shape}; expected one label per row.")


def _split_test_set(
    found: Source, inferred: InferredTask, options: ImportOptions
) -> tuple[list[_OutputSplit], str]:
    """Return the splits to write, and a description of where they come from."""
    splits = [
        _OutputSplit(name, found.splits[name][0], inferred.y[name])
        for name in SPLIT_NAMES
        if name in found.splits
    ]
    fraction = options.test_fraction
    if fraction is None:
        return splits, "as in the source"
    if "test" in found.splits:
        raise ConfigError(
            f"`--test-fraction {fraction}`: the source has a test set already. Leave it out."
        )
    train, seed = splits[0], options.seed or 0
    has_classes = inferred.task == "classification"
    is_test = _choose_test_rows(train.y, has_classes, fraction, seed)
    if not is_test.any():
        raise ConfigError(
            f"`--test-fraction {fraction}` of {len(is_test)} rows is no row, as train needs one "
            "of each class. Use a larger fraction."
        )
    splits[0] = _OutputSplit("train", train.x, train.y, ~is_test)
    splits.append(_OutputSplit("test", train.x, train.y, is_test))
    stratified = ", stratified" if has_classes else ""
    return splits, f"{100 * fraction:.12g} % of the rows{stratified}, seed {seed}"


def _choose_test_rows(y: np.ndarray, has_classes: bool, fraction: float, seed: int) -> np.ndarray:
    """Return which rows make up the test set, stratified by class: (n,) bool.

    At least one row of each class is left for training.
    """
    # A regression is a single class.
    labels = y if has_classes else np.zeros(len(y), np.int64)
    order = rng.permutation(len(y), seed, rng.HOLDOUT, _TEST_STREAM)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class
    counts = np.bincount(labels)
    ends = np.cumsum(counts)
    # Cumulative, so that the rounding errors of many small classes do not add up.
    # Rounded before `floor`, because 0.29 * 100 is a little less than 29.
    marks = np.floor(np.round(fraction * np.append(0, ends), 6)).astype(np.int64)
    takes = np.minimum(np.diff(marks), counts - 1)
    rank_in_class = np.arange(len(y)) - np.repeat(ends - counts, counts)
    chosen = np.zeros(len(y), bool)
    chosen[order[rank_in_class < np.repeat(takes, counts)]] = True
    return chosen


def _choose_target_scaling(task: str, wanted: str) -> str | None:
    """Return how targets are scaled, by `--target-scaling`; None if they are not.

    Raises
    ------
    ConfigError
        There are no targets.
    """
    if task != "regression" and wanted != "auto":
        raise ConfigError(
            f"`--target-scaling {wanted}` is for a regression; this is a {task}. Leave it out."
        )
    return "standardize" if task == "regression" and wanted != "none" else None


def _standardized(y: np.ndarray) -> TargetScaling:
    """Return the scaling of targets (n, k) to mean 0 and variance 1; a constant keeps its unit."""
    moments = _RunningMoments(y.shape[1])
    for start in range(0, len(y), _BLOCK_NUMBERS):
        moments.add(y[start : start + _BLOCK_NUMBERS])
    shift, deviation = moments.mean_and_deviation()
    # Not so for a NaN, which is what too large numbers give.
    if not ((np.abs(shift) < _LARGEST_TARGET) & (deviation < _LARGEST_TARGET)).all():
        raise DataError(
            "The targets are too large to standardize. Use other units, or --target-scaling none."
        )
    varies = deviation > _LEAST_DEVIATION
    return TargetScaling(shift, 1.0 / np.where(varies, deviation, 1.0))


def _write_splits(
    file: h5py.File,
    splits: list[_OutputSplit],
    scaling: str,
    target_scaling: str | None,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Write all splits and the scaling; return their entries of `about`."""
    x = splits[0].x
    if scaling == "auto":
        scaling = "bytes" if x.dtype == np.uint8 else "standardize"
    moments = _RunningMoments(math.prod(x.shape)) if scaling == "standardize" else None
    digest = hashlib.sha256()
    target: TargetScaling | None = None
    for one in splits:
        y = one.y if one.keep is None else one.y[one.keep]
        if one.name == "train" and target_scaling is not None:
            target = _standardized(y)
        # The scaling must not depend on the rows that measure generalization.
        _copy_x(file, one, digest, moments if one.name == "train" else None, advance)
        _hash_description(digest, f"{one.name}/y", y.dtype, y.shape)
        digest.update(y.tobytes())
        hdf5_file.write_array(file, f"{one.name}/y", y)
    if moments is not None:
        moments.scaling(x).write(file)
    else:
        Scaling(np.zeros(1), np.array([1 / 255 if scaling == "bytes" else 1.0])).write(file)
    if target is not None:
        target.write(file)
        # A run that is resumed must find the same targets.
        digest.update(target.shift.tobytes() + target.scale.tobytes())
    names = [f"{one.name}/{part}" for one in splits for part in "xy"]
    about = {
        "shape": list(x.shape),
        "scaling": scaling,
        "digest": digest.hexdigest(),
        "arrays": {name: dtype_and_shape(file[name]) for name in names},
    }
    return about if target_scaling is None else about | {"target_scaling": target_scaling}


def _copy_x(
    file: h5py.File,
    split: _OutputSplit,
    digest: Any,
    moments: _RunningMoments | None,
    advance: Callable[[int], None],
) -> None:
    """Write x of one split block by block; update `digest` and `moments` with each."""
    name, shape = f"{split.name}/x", (len(split), *split.x.shape)
    dataset = file.create_dataset(name, shape, split.x.dtype, track_times=False)
    _hash_description(digest, name, dataset.dtype, shape)
    start = 0
    for block in _read_blocks(split):
        digest.update(block.data)
        if moments is not None:
            moments.add(block)
        dataset[start : start + len(block)] = block
        start += len(block)
        advance(len(block))


def _read_blocks(split: _OutputSplit) -> Iterator[np.ndarray]:
    """Yield the rows of a split, all finite, in the source's order: (m, ...), never empty."""
    rows = max(1, _BLOCK_NUMBERS // math.prod(split.x.shape))
    for start in range(0, len(split.x), rows):
        stop = min(start + rows, len(split.x))
        if split.keep is not None and not split.keep[start:stop].any():
            continue
        block = split.x.read(start, stop)
        split.x.check_finite(block, start)
        if split.keep is not None:
            block = block[split.keep[start:stop]]
        yield np.ascontiguousarray(block)  # in C order, as it is hashed and stored


def _hash_description(digest: Any, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Add name, type and shape of an array to the digest, before its bytes."""
    digest.update(f"{name} {dtype.str} {shape}\n".encode())
