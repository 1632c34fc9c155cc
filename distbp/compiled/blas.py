"""The CBLAS function that multiplies matrices, as an address that kernels are given.

`find_gemm` finds it: in the BLAS that NumPy has loaded, so that no second one is, or in a library
that the user names. How many threads that library uses is the caller's concern. It is called in
`products`; nothing here needs numba.
"""

import ctypes
from importlib import import_module

import numpy as np

from distbp.errors import ConfigError

ROW_MAJOR, AS_IS, TRANSPOSED = 101, 111, 112  # CblasRowMajor, CblasNoTrans, CblasTrans

# What builders of NumPy's wheels, and others with 64-bit integers, add to the name.
_AFFIXES = (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", ""))


def find_gemm(dtype: np.dtype, library: str | None = None) -> int:
    """Return the address of cblas_sgemm or cblas_dgemm.

    Parameters
    ----------
    dtype : float32 or float64
    library : str, optional
        Name or path of a shared library with the CBLAS interface, such as libmkl_rt.so.2; by
        default the one that NumPy uses.

    Raises
    ------
    ConfigError
        There is no such library, or it lacks the function.
    """
    name = "cblas_sgemm" if np.dtype(dtype) == np.float32 else "cblas_dgemm"
    opened = _numpy_blas() if library is None else _open(library)
    for prefix, suffix in _AFFIXES:
        if hasattr(opened, f"{prefix}{name}{suffix}"):
            function = getattr(opened, f"{prefix}{name}{suffix}")
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise ConfigError(
        "NumPy's BLAS has no CBLAS interface. Name a library that has one with --blas, such as "
        "libopenblas.so.0, or use --engine numpy."
        if library is None
        else f"--blas {library}: it has no function {name}. Name a library with the CBLAS "
        f"interface, such as libopenblas.so.0 or libmkl_rt.so.2."
    )


def adds_exactly(function: int, dtype: np.dtype, rows: int, n_in: int, n_out: int) -> bool:
    """Return whether BLAS adds a product of BP4 as if it were computed first, and added then.

    So it is where a sum over all rows is added to the result at once, which depends on the shape
    and not on the numbers: random ones tell.

    Parameters
    ----------
    function : int
        From `find_gemm`.
    dtype : float32 or float64
    rows, n_in, n_out : int
        The product is (n_out, rows) (rows, n_in).
    """
    random, kind = np.random.default_rng(0), np.dtype(dtype).type
    product, total = (np.empty((n_out, n_in), dtype) for _ in range(2))
    deltas = random.random((2, rows, n_out), dtype=kind) - kind(0.5)
    inputs = random.random((2, rows, n_in), dtype=kind) - kind(0.5)
    real = ctypes.c_float if kind is np.float32 else ctypes.c_double
    enum, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    gemm = ctypes.CFUNCTYPE(
        None, enum, enum, enum, size, size, size, real, pointer, size, pointer, size, real,
        pointer, size,
    )(function)  # fmt: skip

    def multiply(i: int, factor: float, result: np.ndarray) -> None:
        gemm(
            ROW_MAJOR, TRANSPOSED, AS_IS, n_out, n_in, rows, 1.0, deltas[i].ctypes.data, n_out,
            inputs[i].ctypes.data, n_in, factor, result.ctypes.data, n_in,
        )  # fmt: skip

    multiply(0, 0.0, total)
    multiply(1, 0.0, product)
    expected = total + product
    multiply(1, 1.0, total)
    return bool(np.array_equal(total, expected))


def _numpy_blas() -> ctypes.CDLL:
    """Return NumPy's module that is linked to its BLAS: the search covers what it is linked to."""
    return ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)


def _open(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise ConfigError(
            f"--blas {library}: it cannot be loaded ({error}). Give the path of a shared library, "
            f"or leave the option out to use NumPy's."
        ) from error
