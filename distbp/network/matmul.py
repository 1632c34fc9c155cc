"""Cutting a matrix product into several where that is faster.

OpenBLAS packs w (copies it into another order) before it computes a wᵀ, which for a wide
input and few rows takes almost as long as the product. On processors with AVX-512 it has
kernels for small float32 products that need no packing: runs of rows below their limit take
0.6 to 0.9 of the time. Elsewhere, and for other shapes, one product is best: with many rows
the packing of w is negligible, with many units that of a. The cut, and so the bits of the
result, depends on shapes and processor only.
"""

from functools import cache

import numpy as np
import threadpoolctl

_SMALL_PRODUCT_LIMIT = 1_000_000  # multiplications of a small product, OpenBLAS's own limit
_MIN_ROWS, _MIN_INPUTS = 8, 512  # below, the additional calls cost more than packing
_MANY_ROWS, _MANY_UNITS = 128, 64  # with at least both, one large product is faster
_SMALL_KERNEL_CPUS = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names


def row_runs(rows: int, n_in: int, n_out: int, dtype: np.dtype) -> list[slice]:
    """Return the runs of rows in which a (rows, n_in) wᵀ (n_in, n_out) is best computed."""
    run = _SMALL_PRODUCT_LIMIT // (n_in * n_out) // 4 * 4
    fits = dtype == np.float32 and n_in >= _MIN_INPUTS and _MIN_ROWS <= run < rows
    is_worth_it = fits and (rows < _MANY_ROWS or n_out < _MANY_UNITS)
    if not (is_worth_it and has_small_kernels()):
        return [slice(0, rows)]
    return [slice(i, min(i + run, rows)) for i in range(0, rows, run)]


@cache
def has_small_kernels() -> bool:
    """Return whether NumPy's BLAS is an OpenBLAS that multiplies small matrices without packing."""
    names = {i.get("architecture") for i in threadpoolctl.threadpool_info()}
    return not names.isdisjoint(_SMALL_KERNEL_CPUS)
