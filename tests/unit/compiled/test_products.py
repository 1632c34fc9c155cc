"""Matrix products by address: which BLAS, and dot products of rows."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distbp.compiled import blas, product_choice
from distbp.compiled.dot_products import make_multiply_rows
from distbp.compiled.products import make_products
from distbp.errors import ConfigError

from .calls import python_function

REALS = [np.float32, np.float64]


def check_products(function, real):
    """Compare the products of a layer with NumPy's."""
    rng = np.random.default_rng(0)
    m, n_in, n = 13, 21, 9
    a, w, delta = (rng.standard_normal(shape).astype(real)
                   for shape in ((m, n_in), (n, n_in), (m, n)))  # fmt: skip
    b, tolerance = rng.standard_normal(n).astype(real), 50 * np.finfo(real).eps
    made = make_products(real, 32)
    products = made._make(map(python_function, made))
    z, nabla_w, below = (np.full(size, np.nan, real) for size in (m * n, n * n_in, m * n_in))
    flat = [one.ravel() for one in (a, w, delta)]
    for run in (m, 4, product_choice.AS_DOT_PRODUCTS):
        products.weighted_input(function, *flat[:2], b, z, m, n_in, n, run)
        np.testing.assert_allclose(z.reshape(m, n), a @ w.T + b, atol=tolerance)
    for adds in (0, 1):  # the second time to itself
        products.weight_gradient(function, flat[2], flat[0], nabla_w, m, n_in, n, adds)
        np.testing.assert_allclose(
            nabla_w.reshape(n, n_in), (1 + adds) * (delta.T @ a), atol=tolerance
        )
    products.propagate(function, flat[2], flat[1], below, m, n_in, n)
    np.testing.assert_allclose(below.reshape(m, n_in), delta @ w, atol=tolerance)


@pytest.mark.parametrize("real", REALS)
def test_products_by_the_blas_of_numpy(real):
    check_products(blas.find_gemm(np.dtype(real)), real)


@pytest.mark.parametrize("real", REALS)
def test_products_by_a_library_with_32_bit_integers(real):
    """SciPy's OpenBLAS has them; its functions are called with 64-bit integers."""
    scipy = pytest.importorskip("scipy.linalg")
    folder = Path(scipy.__file__).parents[2] / "scipy.libs"
    library = next(folder.glob("libscipy_openblas-*"), None)
    if library is None:
        pytest.skip("this SciPy has another BLAS")
    assert hasattr(ctypes.CDLL(str(library)), "scipy_cblas_sgemm")
    check_products(blas.find_gemm(np.dtype(real), str(library)), real)


def test_a_library_that_cannot_be_used():
    """The messages say what to do instead."""
    single = np.dtype(np.float32)
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*\)\. Give the path of a shared"):
        blas.find_gemm(single, "/no/such/library.so")
    with pytest.raises(ConfigError, match=r"it has no function cblas_sgemm\. Name a library with"):
        blas.find_gemm(single, "libm.so.6")


def test_a_numpy_without_cblas(monkeypatch):
    monkeypatch.setattr(blas, "_numpy_blas", lambda: ctypes.CDLL("libm.so.6"))
    with pytest.raises(ConfigError, match=r"has no CBLAS interface\. Name a library"):
        blas.find_gemm(np.dtype(np.float64))


@pytest.mark.parametrize("real", REALS)
def test_products_that_are_added_exactly(real):
    """OpenBLAS adds up a few hundred rows before it touches the result; of more, it does not."""
    gemm = blas.find_gemm(np.dtype(real))
    assert blas.adds_exactly(gemm, np.dtype(real), 16, 784, 100)
    assert blas.adds_exactly(gemm, np.dtype(real), 64, 8, 3)
    assert not blas.adds_exactly(gemm, np.dtype(real), 5000, 64, 64)


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.sampled_from(REALS),
       st.sampled_from([32, 64]))  # fmt: skip
def test_dot_products_of_rows(m, n, k, real, lanes):
    """Of any number of rows, if there are four of one operand; nothing else is read or written."""
    if max(m, n) < product_choice.BLOCK:
        m += product_choice.BLOCK
    rng = np.random.default_rng(m * 100 + n)
    a, b = (np.full(rows * k + 70, np.nan, real) for rows in (m, n))
    a[: m * k], b[: n * k] = rng.standard_normal(m * k), rng.standard_normal(n * k)
    c = np.full(m * n + 16, 7, real)
    python_function(make_multiply_rows(real, lanes))(a, b, c, m, n, k)
    expected = a[: m * k].reshape(m, k) @ b[: n * k].reshape(n, k).T
    np.testing.assert_allclose(c[: m * n].reshape(m, n), expected, atol=99 * np.finfo(real).eps)
    assert c[m * n :].tolist() == [7] * 16


@pytest.mark.parametrize("lanes", [32, 64])
def test_the_bits_of_a_dot_product_depend_on_its_row_alone(lanes):
    """Not on how many rows there are, nor on the block that it is in."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((11, 50)).astype(np.float32) for _ in range(2))
    multiply, found = python_function(make_multiply_rows(np.float32, lanes)), []
    for m, n in ((11, 11), (1, 4), (4, 1), (2, 9), (3, 5)):
        c = np.empty(m * n, np.float32)
        multiply(a.ravel(), b.ravel(), c, m, n, 50)
        found.append(c[0])
    assert len({one.tobytes() for one in found}) == 1


@given(st.integers(1, 600), st.integers(1, 3000), st.integers(1, 2000), st.booleans(),
       st.sampled_from([np.float32, np.float64]))  # fmt: skip
def test_every_shape_has_a_product(rows, n_in, n_out, has_small, real):
    """Dot products have enough rows, and a run is at least one row and at most all."""
    run = product_choice._run_length(rows, n_in, n_out, real(0).itemsize, has_small)
    if run == product_choice.AS_DOT_PRODUCTS:
        assert max(rows, n_out) >= product_choice.BLOCK
    else:
        assert 1 <= run <= rows


def test_what_is_chosen(monkeypatch):
    """As measured; without an instruction that multiplies and adds, nothing but the BLAS."""
    monkeypatch.setattr(product_choice, "_can_fuse", lambda: True)
    monkeypatch.setattr(product_choice, "has_small_kernels", lambda: True)
    sizes, single = (512, 100, 10), np.dtype(np.float32)
    assert product_choice.lane_bytes() == 64
    assert product_choice.run_lengths(sizes, 32, single).tolist() == [12, 32]
    assert product_choice.run_lengths((784, 100, 10), 32, single).tolist() == [0, 32]
    assert product_choice.run_lengths((1024, 1024, 3), 32, single).tolist() == [0, 0]
    assert product_choice.run_lengths(sizes, 16, single, is_numpy_blas=False).tolist() == [0, 0]
    monkeypatch.setattr(product_choice, "has_small_kernels", lambda: False)
    assert product_choice.lane_bytes() == 32
    assert product_choice.run_lengths((512, 100, 100, 10), 16, single).tolist() == [0, 16, 0]
    assert product_choice.run_lengths((512, 100, 100, 10), 8, single).tolist() == [0, 0, 0]
    assert product_choice.run_lengths(sizes, 128, single).tolist() == [128, 128]
    monkeypatch.setattr(product_choice, "_can_fuse", lambda: False)
    assert product_choice.run_lengths(sizes, 16, single).tolist() == [16, 16]
