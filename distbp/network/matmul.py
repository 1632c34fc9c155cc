"""Cutting a matrix product into several where that is faster.

OpenBLAS copies w into another order before it multiplies a wᵀ, which for a wide
input and few rows takes almost as long as the product. On processors with AVX-512
it has kernels for small float32 products that need no copy: runs of rows that stay
below their limit take 0.6 to 0.9 of the time. Elsewhere, and for other shapes, one
product is best: with many rows the copy of w does not count, nor that of a with many
units. The cut depends on shapes and processor alone, as do its bits.
"""

from functools import cache

import numpy as np
import threadpoolctl

SMALL_PRODUCT_LIMIT = 1_000_000  # multiplications of a small product, OpenBLAS's own limit
MIN_ROWS, MIN_INPUTS = 8, 512  # below, more calls cost more than the copy
MANY_ROWS, MANY_UNITS = 128, 64  # from both on, one large product is faster
ARCHITECTURES = ("SkylakeX", "Cooperlake", "SapphireRapids")


def row_runs(rows: int, n_in: int, n_out: int, dtype: np.dtype) -> list[slice]:
    """Return the runs of rows in which a (rows, n_in) wᵀ (n_in, n_out) is best computed."""
    run = SMALL_PRODUCT_LIMIT // (n_in * n_out) // 4 * 4
    fits = dtype == np.float32 and n_in >= MIN_INPUTS and MIN_ROWS <= run < rows
    is_worth_it = fits and (rows < MANY_ROWS or n_out < MANY_UNITS)
    if not (is_worth_it and has_small_kernels()):
        return [slice(0, rows)]
    return [slice(i, min(i + run, rows)) for i in range(0, rows, run)]


@cache
def has_small_kernels() -> bool:
    """Return whether NumPy's BLAS is an OpenBLAS that multiplies small matrices in place."""
    names = {i.get("architecture") for i in threadpoolctl.threadpool_info()}
    return not names.isdisjoint(ARCHITECTURES)
