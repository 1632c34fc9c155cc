"""Which products are cut into runs of rows: a function of shapes and processor only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.network import matmul
from distbp.network.matmul import _SMALL_PRODUCT_LIMIT, row_runs

SINGLE = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def _small_kernels(monkeypatch):
    monkeypatch.setattr(matmul, "has_small_kernels", lambda: True)


@given(st.integers(1, 600), st.integers(1, 3000), st.integers(1, 300))
def test_runs_cover_all_rows_once(rows, n_in, n_out):
    """In order; of several, each is a small product."""
    runs = row_runs(rows, n_in, n_out, SINGLE)
    assert [i for run in runs for i in range(rows)[run]] == list(range(rows))
    if len(runs) > 1:
        assert max(run.stop - run.start for run in runs) * n_in * n_out <= _SMALL_PRODUCT_LIMIT


@pytest.mark.parametrize(
    ("shape", "is_cut"),
    [
        ((32, 784, 100), True),
        ((64, 784, 100), True),
        ((128, 784, 100), False),  # with so many rows packing w is negligible
        ((128, 784, 30), True),  # but packing the rows is not
        ((32, 100, 10), False),  # a small product already
        ((32, 784, 1024), False),  # a run of 8 rows would be too large
    ],
)
def test_what_is_cut(shape, is_cut):
    assert (len(row_runs(*shape, SINGLE)) > 1) is is_cut
    assert len(row_runs(*shape, np.dtype(np.float64))) == 1


def test_without_such_kernels_nothing_is_cut(monkeypatch):
    monkeypatch.setattr(matmul, "has_small_kernels", lambda: False)
    assert row_runs(32, 784, 100, SINGLE) == [slice(0, 32)]
