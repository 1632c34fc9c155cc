"""Writing the splits of a data set, and the scaling that is computed meanwhile.

x is copied in blocks of rows, so that it need not fit into memory; each block is checked,
hashed and added to the moments as it passes, in threads of their own. Where the rows come from is
known to `importing`.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np

from distbp.data.background_calls import BackgroundCalls
from distbp.data.dataset import WEIGHTS, dtype_and_shape
from distbp.data.splits import RowHashes
from distbp.data.tables import Table
from distbp.errors import DataError
from distbp.storage import hdf5_file
from distbp.storage.scaling import Scaling, TargetScaling

_BLOCK_NUMBERS = 1 << 20  # numbers of x to copy at once
# Of targets to standardize: costs are multiplied by the square of their deviation, which must
# neither underflow nor overflow.
_LEAST_DEVIATION, _LARGEST_TARGET = 1e-150, 1e100

logger = logging.getLogger(__name__)

_Consumer = Callable[[np.ndarray, np.ndarray], object]  # of a block of x and its labels


class RunningMoments:
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
            self.squares += np.square(rows, out=rows).sum(axis=0)
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
class OutputSplit:
    """A split to write: the rows of x where `keep` is true, or all rows, and their labels y.

    `weights` (n,) are those of the rows that are written.
    """

    name: str
    x: Table
    y: np.ndarray
    keep: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)


def _standardized(y: np.ndarray) -> TargetScaling:
    """Return the scaling of targets (n, k) to mean 0 and variance 1; a constant keeps its unit."""
    moments = RunningMoments(y.shape[1])
    for start in range(0, len(y), _BLOCK_NUMBERS):
        moments.add(y[start : start + _BLOCK_NUMBERS])
    shift, deviation = moments.mean_and_deviation()
    # Written so that NaN, the result of an overflow, is refused too.
    if not ((np.abs(shift) < _LARGEST_TARGET) & (deviation < _LARGEST_TARGET)).all():
        raise DataError(
            "The targets are too large to standardize. Use other units, or --target-scaling none."
        )
    varies = deviation > _LEAST_DEVIATION
    return TargetScaling(shift, 1.0 / np.where(varies, deviation, 1.0))


class Output(Protocol):
    """Where the arrays of a data set go: a file, or memory."""

    def create(self, name: str, split: OutputSplit) -> Any:
        """Return an array for x of a split, to be filled by rows; None if it is there already."""

    def write(self, name: str, array: np.ndarray) -> None:
        """Store an array."""


class FileOutput:
    """Stores arrays in an HDF5 file."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def create(self, name: str, split: OutputSplit) -> Any:
        shape = (len(split), *split.x.shape)
        return self._file.create_dataset(name, shape, split.x.dtype, track_times=False)

    def write(self, name: str, array: np.ndarray) -> None:
        hdf5_file.write_array(self._file, name, array)


class MemoryOutput:
    """Keeps arrays in memory; a plain array of all rows is used as it is, without a copy.

    Attributes
    ----------
    arrays : dict of arrays
        By name.
    is_copied : bool
        Whether x of a split is a copy.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.is_copied = False

    def create(self, name: str, split: OutputSplit) -> Any:
        values, shape = split.x.values, (len(split), *split.x.shape)
        is_whole = split.keep is None and isinstance(values, np.ndarray)
        if is_whole and values.flags.c_contiguous:
            self.arrays[name] = values.reshape(shape)
            return None
        self.is_copied = True
        self.arrays[name] = np.empty(shape, split.x.dtype)
        return self.arrays[name]

    def write(self, name: str, array: np.ndarray) -> None:
        self.arrays[name] = np.ascontiguousarray(array)


def write_splits(
    output: Output,
    splits: list[OutputSplit],
    scaling: str,
    target_scaling: str | None,
    advance: Callable[[int], None],
) -> tuple[dict[str, Any], Scaling, TargetScaling | None]:
    """Write all splits; return their entries of `about`, and the scaling of x and of targets."""
    x = splits[0].x
    if scaling == "auto":
        scaling = "bytes" if x.dtype == np.uint8 else "standardize"
    moments = RunningMoments(math.prod(x.shape)) if scaling == "standardize" else None
    digest = hashlib.sha256()
    hashes = RowHashes(len(splits[0])) if len(splits) > 1 else None
    target: TargetScaling | None = None
    for one in splits:
        if one.name == "train" and target_scaling is not None:
            target = _standardized(one.y)
        # The scaling must not depend on the rows that measure generalization.
        _copy_x(output, one, digest, moments if one.name == "train" else None, hashes, advance)
        _write_array(output, f"{one.name}/y", one.y, digest)
        if one.weights is not None:
            _write_array(output, WEIGHTS, one.weights, digest)
    scaled = (
        Scaling(np.zeros(1), np.array([1 / 255 if scaling == "bytes" else 1.0]))
        if moments is None
        else moments.scaling(x)
    )
    if target is not None:
        # A run that is resumed must find the same targets.
        digest.update(target.shift.tobytes() + target.scale.tobytes())
    arrays = {}
    for one in splits:
        arrays[f"{one.name}/x"] = [x.dtype.str, len(one), *one.x.shape]
        arrays[f"{one.name}/y"] = dtype_and_shape(one.y)
        if one.weights is not None:
            arrays[WEIGHTS] = dtype_and_shape(one.weights)
    about = {
        "shape": list(x.shape), "scaling": scaling, "digest": digest.hexdigest(), "arrays": arrays,
    }  # fmt: skip
    if target_scaling is not None:
        about["target_scaling"] = target_scaling
    return about, scaled, target


def _copy_x(
    output: Output,
    split: OutputSplit,
    digest: Any,
    moments: RunningMoments | None,
    hashes: RowHashes | None,
    advance: Callable[[int], None],
) -> None:
    """Write x of one split block by block; update `digest`, `moments` and `hashes` with each."""
    name, shape = f"{split.name}/x", (len(split), *split.x.shape)
    stored = output.create(name, split)
    _hash_description(digest, name, split.x.dtype, shape)
    known: list[int] = []
    consumers: list[_Consumer] = [lambda x, y: digest.update(x.data)]
    if moments is not None:
        consumers.append(lambda x, y: moments.add(x))
    if hashes is not None:
        consumers.append(lambda x, y: known.append(hashes.add(split.name, x, y)))
    _write_blocks(stored, split, consumers, advance)
    if any(known):
        logger.warning(
            "%d of the %d %s rows occur in train too, with the same label: scores on them are too "
            "optimistic. Remove duplicates, or keep them together with --group.",
            sum(known), len(split), split.name,
        )  # fmt: skip


def _write_blocks(
    stored: Any,
    split: OutputSplit,
    consumers: list[_Consumer],
    advance: Callable[[int], None],
) -> None:
    """Copy x of one split to `stored`, if any; give each block and its labels to all consumers."""
    start = 0
    # Each in a thread of its own, while the block is written and the next one is read.
    with ExitStack() as stack:
        calls = [stack.enter_context(BackgroundCalls(one)) for one in consumers]
        for block in _read_blocks(split):
            stop = start + len(block)
            for call in calls:
                call(block, split.y[start:stop])
            if stored is not None:
                stored[start:stop] = block
            start = stop
            advance(len(block))


def _write_array(output: Output, name: str, array: np.ndarray, digest: Any) -> None:
    """Write labels or weights; update `digest`."""
    array = np.ascontiguousarray(array)
    _hash_description(digest, name, array.dtype, array.shape)
    with BackgroundCalls(digest.update) as update:
        update(array.data)
        output.write(name, array)


def _read_blocks(split: OutputSplit) -> Iterator[np.ndarray]:
    """Yield the rows of a split, all finite, in the source's order: (m, ...), never empty."""
    rows = max(1, _BLOCK_NUMBERS // math.prod(split.x.shape))
    for start in range(0, len(split.x), rows):
        stop = min(start + rows, len(split.x))
        keep = None if split.keep is None else split.keep[start:stop]
        if keep is not None and not keep.any():
            continue
        block = split.x.read_finite(start, stop, keep)
        yield np.ascontiguousarray(block)  # in C order, as it is hashed and stored


def _hash_description(digest: Any, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Add name, type and shape of an array to the digest, before its bytes."""
    digest.update(f"{name} {dtype.str} {shape}\n".encode())
