"""The machine: its BLAS obeys --threads, and what determines rounding is known."""

import pytest
import threadpoolctl

from distbp.errors import ConfigError
from distbp.parallel import host


@pytest.fixture
def one_thread():
    yield
    host.set_blas_threads(1)


def test_blas_threads_are_set(one_thread):
    """Whatever the environment says."""
    host.set_blas_threads(2)
    assert {blas["num_threads"] for blas in host._blas_libraries()} == {2}


def test_a_blas_that_ignores_the_number_is_refused(monkeypatch, one_thread):
    """Other threads may round differently."""
    monkeypatch.setattr(threadpoolctl, "threadpool_limits", lambda *a, **k: None)
    with pytest.raises(ConfigError, match=r"--threads 7 has no effect: this BLAS still uses \d"):
        host.set_blas_threads(7)


def test_the_numeric_platform_is_known():
    """CPU, NumPy and BLAS by name; and at least one core may be used."""
    platform = host.numeric_platform()
    assert set(platform) == {"cpu", "numpy", "blas"}
    assert all(platform.values())
    assert "openblas" in platform["blas"].lower() or "mkl" in platform["blas"].lower()
    assert len(host.usable_cores()) >= 1
    assert set(host.software_versions()) == {"distbp", "python", "h5py", "hdf5"}
