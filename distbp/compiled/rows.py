"""Rows of a data set as x and y in the network's type: what `data.batches.BatchLoader` returns.

A row's numbers are converted to a type wide enough, shifted, scaled, and rounded to the type of
the network, in this order: so the bits are those of the loader. Rows that stay in a file, and
numbers that no CPU computes with (see `arrays.can_load`), are the loader's.
"""

import sys
from functools import cache

import numpy as np

from distbp.compiled.intrinsics import (
    address_of,
    bits_of,
    byte_swapped,
    inlined,
    kernel,
    number_of,
    numbers_at,
    part,
    signed,
)
from distbp.compiled.vector_math import Real, Scalar

LABELS, SCALED, PLAIN = "labels", "scaled", "plain"  # kinds of targets


def wide_type(x_dtype: np.dtype, real: Real) -> np.dtype:
    """Return the type in which x is shifted and scaled, that of `Table.shift`."""
    return np.result_type(x_dtype, real)


@cache
def make_load_rows(
    real: Real,
    x_dtype: np.dtype,
    y_dtype: np.dtype,
    targets: str,
    is_shifted: bool,
    is_scaled: bool,
    has_weights: bool,
) -> Scalar:
    """Return the kernel load_rows(table, numbers, file_numbers, m, sizes, work).

    It loads the m rows with these numbers of `table` to `work`; `file_numbers` are their numbers
    among the weights.

    Parameters
    ----------
    x_dtype, y_dtype : numpy.dtype
        Those of the split, such that `arrays.can_load`.
    targets : {'labels', 'scaled', 'plain'}
        Whether y is a class, numbers that are shifted and scaled, or numbers as they are.
    is_shifted, is_scaled : bool
        Whether x is.
    """
    load_x = _make_load_x(real, x_dtype, is_shifted, is_scaled)
    load_y = _make_load_labels(real, y_dtype) if targets == LABELS else (
        _make_load_targets(real, y_dtype, targets == SCALED)
    )  # fmt: skip

    @kernel
    def load_rows(table, numbers, file_numbers, m, sizes, work):
        n_in, n_out = sizes[0], sizes[sizes.size - 1]
        for i in range(m):
            load_x(table, numbers[i], part(work.x, i * n_in, n_in))
            work.labels[i] = load_y(table, numbers[i], part(work.y, i * n_out, n_out))
            if has_weights:
                work.weights[i] = real(table.weights[file_numbers[i]])

    return load_rows


def _make_load_x(real: Real, dtype: np.dtype, is_shifted: bool, is_scaled: bool) -> Scalar:
    """Return the kernel that loads the x of a row to `out` (n_0,)."""
    stored, read = _make_reader(dtype)
    wide, itemsize = wide_type(dtype, real).type, dtype.itemsize

    @inlined
    def load_x(table, number, out):
        count = out.size
        row = numbers_at(address_of(table.x) + number * count * itemsize, count, stored)
        if is_shifted and is_scaled:
            for j in range(count):
                out[j] = real((wide(read(row[j])) - table.shift[j]) * table.scale[j])
        elif is_shifted:
            for j in range(count):
                out[j] = real(wide(read(row[j])) - table.shift[j])
        elif is_scaled:
            for j in range(count):
                out[j] = real(wide(read(row[j])) * table.scale[j])
        else:
            for j in range(count):
                out[j] = real(wide(read(row[j])))

    return load_x


def _make_load_labels(real: Real, dtype: np.dtype) -> Scalar:
    """Return the kernel that writes the targets of a row's class to `out`, and returns it."""
    stored, read = _make_reader(dtype)
    itemsize = dtype.itemsize

    @inlined
    def load_labels(table, number, out):
        label = np.int64(read(numbers_at(address_of(table.y) + number * itemsize, 1, stored)[0]))
        target = part(table.one_hot, label * out.size, out.size)
        for j in range(out.size):
            out[j] = target[j]
        return label

    return load_labels


def _make_load_targets(real: Real, dtype: np.dtype, is_scaled: bool) -> Scalar:
    """Return the kernel that loads the y of a row to `out` (n_L,)."""
    stored, read = _make_reader(dtype)
    itemsize, double = dtype.itemsize, np.float64

    @inlined
    def load_targets(table, number, out):
        count = out.size
        row = numbers_at(address_of(table.y) + number * count * itemsize, count, stored)
        for j in range(count):
            if is_scaled:
                out[j] = real((double(read(row[j])) - table.y_shift[j]) * table.y_scale[j])
            else:
                out[j] = real(read(row[j]))
        return 0

    return load_targets


def _make_reader(dtype: np.dtype) -> tuple[type[np.generic], Scalar]:
    """Return the type that is read from memory, and the function from it to a number."""
    order = "<" if sys.byteorder == "little" else ">"
    is_native = dtype.itemsize == 1 or dtype.newbyteorder(order) == dtype
    if is_native and dtype != np.float16:
        return dtype.type, _identity
    bits: type[np.generic] = {2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.itemsize]
    swap = _identity if is_native else byte_swapped
    if dtype.kind == "u":
        return bits, swap
    convert = signed if dtype.kind == "i" else _half_value if dtype.itemsize == 2 else _value

    @inlined
    def read(number):
        return convert(swap(number))

    return bits, read


@inlined
def _identity(number):
    return number


@inlined
def _value(bits):
    """Return the floating-point number that has the bits of an unsigned integer."""
    return number_of(signed(bits))


_HALF_SCALE = np.float32(2.0**112)  # of the exponents of float16 in the bits of float32


@inlined
def _half_value(half):
    """Return the number, as float32, that has the bits of a uint16 in float16; exact."""
    moved = np.uint32(np.uint32(half & 0x7FFF) << 13)
    # The product makes numbers below the smallest normal float16 right as well.
    size = bits_of(number_of(signed(moved)) * _HALF_SCALE)
    is_special = half & 0x7C00 == 0x7C00  # infinite, or NaN
    size = np.int32(signed(moved) | np.int32(0x7F800000)) if is_special else size
    sign = signed(np.uint32(np.uint32(half & 0x8000) << 16))
    return number_of(np.int32(size | sign))
