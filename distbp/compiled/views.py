"""The arrays that a descriptor d has the addresses of, as kernels take them.

Without numba's runtime a function can return arrays in a tuple, but not one array: of those the
functions return the address.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distbp.compiled.arrays import Table, Work
from distbp.compiled.choice import Choice
from distbp.compiled.intrinsics import inlined, kernel, vector_at
from distbp.compiled.rows import wide_type

_View = Callable[..., Any]


class Views(NamedTuple):
    """Functions of a descriptor, for the types of a run.

    Attributes
    ----------
    table : function of (d, sizes)
        Returns the rows of the data set, a `Table`.
    work : function of (d, sizes, k)
        Returns the k-th buffers of a shard, a `Work`.
    slot_address : function of (d, place)
        Of the vector of this rank at a place: a gradient and the statistics behind it.
    """

    table: _View
    work: _View
    slot_address: _View


def make_views(choice: Choice) -> Views:
    """Return the views of a run's descriptor."""
    return Views(_make_table(choice), _make_work(choice), _make_slot_address(choice))


@inlined
def theta_address(d):
    """Return the address of the current θ."""
    return vector_at(d.versions, 2 * d.arrays, np.int64)[d.version * d.arrays]


@kernel
def runs_address(d, m):
    """Return the address of the runs of rows of each layer's product, for shards of m rows."""
    width = d.layers + 1
    table, at = vector_at(d.runs, d.shard_sizes * width, np.int64), 0
    while table[at] != m:
        at += width
    return d.runs + 8 * (at + 1)


def _make_table(choice: Choice) -> _View:
    real, wide = choice.real, wide_type(np.dtype(choice.x_dtype), choice.real).type

    @inlined
    def table(d, sizes):
        n_in, n_out = sizes[0], sizes[sizes.size - 1]
        return Table(
            vector_at(d.x, d.x_bytes, np.uint8),
            vector_at(d.y, d.y_bytes, np.uint8),
            vector_at(d.shift, n_in, wide),
            vector_at(d.scale, n_in, wide),
            vector_at(d.one_hot, n_out * n_out, real),
            vector_at(d.y_shift, n_out, np.float64),
            vector_at(d.y_scale, n_out, np.float64),
            vector_at(d.weights, 1, np.float64),
        )

    return table


def _make_work(choice: Choice) -> _View:
    real, itemsize = choice.real, choice.real(0).itemsize

    @inlined
    def work(d, sizes, k):
        rows, units = d.rows, 0
        for l in range(1, sizes.size):
            units += sizes[l]
        n_out = sizes[sizes.size - 1]
        skipped = k * rows * itemsize
        return Work(
            vector_at(d.work_x + skipped * sizes[0], rows * sizes[0], real),
            vector_at(d.work_y + skipped * n_out, rows * n_out, real),
            vector_at(d.work_labels + 8 * k * rows, rows, np.int64),
            vector_at(d.work_weights + skipped, rows, real),
            vector_at(d.work_z + skipped * units, rows * units, real),
            vector_at(d.work_a + skipped * units, rows * units, real),
            vector_at(d.work_delta + skipped * units, rows * units, real),
            vector_at(d.work_fed + skipped * (units - n_out), rows * (units - n_out), real),
            vector_at(d.work_keep + skipped * (units - n_out), rows * (units - n_out), real),
        )

    return work


def _make_slot_address(choice: Choice) -> _View:
    itemsize = choice.real(0).itemsize

    @inlined
    def slot_address(d, place):
        return d.slots + place * d.stride * itemsize

    return slot_address
