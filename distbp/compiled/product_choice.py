"""Which forward product a layer takes: by BLAS, whole or in runs of rows, or as dot products.

A BLAS packs w before it computes a wᵀ, and OpenBLAS's kernels that need no packing take only small
products: dot products (see `dot_products`) are often faster. Measured on AMD, in µs, rows × n_in ×
n_out in float32, by OpenBLAS 0.3.31 whole / in runs / as dot products:

    kernels          5×784×30    32×784×100  128×784×100  32×1024×1024  128×784×1024
    SkylakeX, Zen 5  2.0/–/2.0   50/27/27    115/97/89    680/–/365     1109/–/944
    Haswell, Zen 5   8.8/–/2.6   52/–/40     173/–/158    647/–/545     1687/–/1646
    Haswell, Zen 3   14.7/–/4.7  97/–/122    304/–/505    995/–/1601    3172/–/5321

    kernels          128×100×10   128×64×64   128×64×3   8×1024×1024  16×784×30  16×64×64
    SkylakeX, Zen 5  4.4/2.5/3.0  6.5/7.1/10  1.2/–/1.1
    Haswell, Zen 5   4.2/–/3.6    9.6/–/12    2.5/–/1.1
    Haswell, Zen 3   8.0/–/9.7                4.2/–/2.1  559/–/389    23/–/19    3.6/–/4.0

The choice depends on shapes and on the kernels that are in use, never on the number of ranks nor
otherwise on the CPU, and so do the bits. For Haswell's kernels it follows Zen 3: on Zen 5 those
are used only where the user asks for them.
"""

import os
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from distbp.kernels import Cpu
from distbp.network.matmul import has_small_kernels

AS_DOT_PRODUCTS = 0  # instead of a number of rows
BLOCK = 4  # rows that dot products take at once, of one of the operands

# Products that OpenBLAS's small kernels take: multiplications, and numbers of the result.
_SMALL_PRODUCT, _SMALL_RESULT, _SMALL_INPUTS = 1_000_000, 1200, 32
_CACHED_BYTES = 1 << 19  # of a, which each block of w reads anew
_FEW_BYTES = 512  # of a column of a: with more rows, packing w is negligible
_MANY_INPUTS = 768  # from here on dot products are faster than runs


def lane_bytes() -> int:
    """Return the width of a sum of dot products: a register's, where kernels have such registers.

    OpenBLAS's kernels tell: those for AVX-512 have small ones.
    """
    return 64 if has_small_kernels() else 32


def run_lengths(
    sizes: Sequence[int], rows: int, dtype: np.dtype, is_numpy_blas: bool = True
) -> np.ndarray:
    """Return how many rows each layer's forward product takes at once: (L,) int64.

    `AS_DOT_PRODUCTS` stands for dot products; `is_numpy_blas` is False for a library that the user
    names, whose kernels are not known.
    """
    has_small = is_numpy_blas and has_small_kernels()
    return np.array(
        [_run_length(rows, *pair, dtype.itemsize, has_small) for pair in pairwise(sizes)], np.int64
    )


def _run_length(rows: int, n_in: int, n_out: int, itemsize: int, has_small: bool) -> int:
    """Return the run length of one layer."""
    if not (_can_fuse() and max(rows, n_out) >= BLOCK):
        return rows
    if n_out < BLOCK and n_in >= _SMALL_INPUTS:
        return AS_DOT_PRODUCTS
    if not has_small:
        return AS_DOT_PRODUCTS if _pays_without_small(rows, n_in, n_out) else rows
    run = min(_SMALL_PRODUCT // (n_in * n_out), _SMALL_RESULT // n_out) // 4 * 4
    if rows <= run or n_in < _SMALL_INPUTS:
        return rows
    is_cached = rows * n_in * itemsize <= _CACHED_BYTES and rows * itemsize <= _FEW_BYTES
    if is_cached and n_in >= (_MANY_INPUTS if run else 128):
        return AS_DOT_PRODUCTS
    is_worth_it = run and (rows <= 64 or (rows <= 128 and n_in >= 128) or n_out < 64)
    return run if is_worth_it else rows


def _pays_without_small(rows: int, n_in: int, n_out: int) -> bool:
    """Return whether dot products are faster than kernels that pack both operands."""
    return rows <= (16 if n_out <= 16 or n_in >= 512 else 8) and n_in >= 24


@cache
def _can_fuse() -> bool:
    """Return whether this CPU multiplies and adds in one instruction; without, it takes a call."""
    cpu = Cpu.detect(os.environ)
    return not cpu.vendor or "fma" in cpu.flags
