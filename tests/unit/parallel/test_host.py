"""The machine: its BLAS obeys --threads, and what determines rounding is known."""

import os
from pathlib import Path

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
    assert set(platform) == {"cpu", "numpy", "simd", "blas"}
    assert all(platform.values())
    assert "openblas" in platform["blas"].lower() or "mkl" in platform["blas"].lower()
    assert len(host.usable_cores()) >= 1
    assert set(host.software_versions()) == {"distbp", "python", "h5py", "hdf5"}


def test_the_kernels_that_are_loaded_are_accepted():
    """By their name, in any case; `native` always is."""
    loaded = host.loaded_kernels()
    assert loaded
    assert loaded in host.numeric_platform()["blas"]
    host.check_kernels("native")
    host.check_kernels(loaded.lower())
    assert host.kernels_in_use() == loaded


@pytest.mark.parametrize(
    ("choice", "loaded", "simd", "message"),
    [
        ("Zen", "Haswell", "AVX2", "--kernels Zen has no effect: OpenBLAS uses"),
        ("portable", "Haswell", "AVX-512", "the kernels Haswell, and NumPy those for AVX-512."),
        ("portable", "SkylakeX", "AVX2", "Set OPENBLAS_CORETYPE=Haswell and NPY_DISABLE_CPU"),
        ("portable", "", "", "--kernels portable needs OpenBLAS, but NumPy uses mkl 2025"),
        ("portable", "Haswell", "AVX2", None),
        ("native", "", "", None),
    ],
)  # fmt: skip
def test_other_kernels_are_refused(monkeypatch, choice, loaded, simd, message):
    """Also those of a library that does not let them be chosen."""
    monkeypatch.setattr(host, "loaded_kernels", lambda: loaded)
    monkeypatch.setattr(host, "simd_level", lambda: simd)
    monkeypatch.setattr(host, "numeric_platform", lambda: {"blas": "mkl 2025"})
    if message is None:
        host.check_kernels(choice)
        return
    with pytest.raises(ConfigError) as caught:
        host.check_kernels(choice)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("names", "level"),
    [
        ({"baseline": ["X86_V2"], "found": ["X86_V3", "X86_V4"]}, "AVX-512"),
        ({"baseline": ["SSE3"], "found": ["AVX2", "AVX512F", "AVX512_SKX"]}, "AVX-512"),
        ({"baseline": ["X86_V2"], "found": ["X86_V3"]}, "AVX2"),
        ({"baseline": ["NEON", "ASIMD"], "found": []}, "ASIMD"),
        ({}, ""),
    ],
)
def test_the_vectors_of_numpy(monkeypatch, names, level):
    """By the names of NumPy until version 2.3, since then, and on ARM."""
    monkeypatch.setattr(host.np, "show_config", lambda mode: {"SIMD Extensions": names})
    assert host.simd_level() == level


@pytest.mark.parametrize(
    ("table", "files", "limit"),
    [
        ("", {}, 1 << 40),
        ("0::/a/b\n", {"a/memory.max": "5000\n", "a/b/memory.max": "max\n"}, 5000),
        ("0::/../other\n", {"memory.max": "6000\n"}, 6000),  # in a container
        (
            "4:memory:/a\n3:cpu:/\n0::/\n",
            {"memory/memory.limit_in_bytes": f"{1 << 62}", "memory/a/memory.limit_in_bytes": "7"},
            7,
        ),
    ],
    ids=["none", "v2", "container", "v1"],
)
def test_memory_limit(tmp_path, monkeypatch, table, files, limit):
    """The least of the machine's memory and the limits of the cgroups that a process is in."""
    (tmp_path / "cgroup").write_text(table)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    places = {"/proc/self/cgroup": tmp_path / "cgroup", "/sys/fs/cgroup": tmp_path}
    monkeypatch.setattr(host, "Path", lambda path, *more: Path(places[path], *more))
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 20)
    assert host.memory_limit() == limit
