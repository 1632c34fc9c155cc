"""The arrays that kernels are handed together: a data set's rows, and the work of a shard.

They are vectors, in which matrices stand row by row, and layers of a shard of m rows one behind
the other: those of layer l (the book's index, from 1) begin at m (n_1 + … + n_{l−1}).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CACHE_LINE = 64  # bytes


class Work(NamedTuple):
    """The buffers of a shard, for `rows` rows at most; `real` is the type of the network.

    Attributes
    ----------
    x : (rows n_0,) real
    y : (rows n_L,) real
    labels : (rows,) int64
        Classes; 0 in other tasks.
    weights : (rows,) real
        Of the rows; not used without weights.
    z, a, delta : (rows (n_1 + … + n_L),) real
        z of a hidden layer is used only if the activation `needs_z`: else it becomes a in place.
    fed, keep : (rows (n_1 + … + n_{L−1}),) real
        With dropout, a · keep, which is the next layer's input, and the factors.
    """

    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    z: np.ndarray
    a: np.ndarray
    delta: np.ndarray
    fed: np.ndarray
    keep: np.ndarray


def allocate_work(sizes: Sequence[int], rows: int, dtype: np.dtype, has_dropout: bool) -> Work:
    """Return the buffers for shards of up to `rows` rows."""
    units, hidden = sum(sizes[1:]), sum(sizes[1:-1]) if has_dropout else 0

    def zeros(per_row: int) -> np.ndarray:
        return allocate_vector(rows * per_row, dtype)

    return Work(
        x=zeros(sizes[0]),
        y=zeros(sizes[-1]),
        labels=np.zeros(rows, np.int64),
        weights=zeros(1),
        z=zeros(units),
        a=zeros(units),
        delta=zeros(units),
        fed=zeros(hidden),
        keep=zeros(hidden),
    )


def allocate_vector(count: int, dtype: np.dtype) -> np.ndarray:
    """Return zeros that begin at a cache line, so that no vector in a loop lies in two."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(count + _CACHE_LINE // itemsize, dtype)
    start = -raw.ctypes.data % _CACHE_LINE // itemsize
    return raw[start : start + count]


class Table(NamedTuple):
    """Rows of a data set, and how they become x and y; what a run does not use may be empty.

    Attributes
    ----------
    x, y : (n, bytes of a row) uint8
        As in `data.dataset.Split`.
    shift, scale : (n_0,) of the type `wide_type(x_dtype, real)`
    one_hot : (k k,) real
        The targets of each class.
    y_shift, y_scale : (n_L,) float64
    weights : (n,) float64
    """

    x: np.ndarray
    y: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    one_hot: np.ndarray
    y_shift: np.ndarray
    y_scale: np.ndarray
    weights: np.ndarray


def can_load(dtype: np.dtype) -> bool:
    """Return whether kernels read numbers of a type: of 1 to 8 bytes, in any byte order."""
    return dtype.kind in "iuf" and dtype.itemsize <= 8
