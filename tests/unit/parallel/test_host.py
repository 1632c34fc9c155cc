"""The machine: its BLAS obeys --threads, and what determines rounding is known."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from distbp.errors import ConfigError
from distbp.parallel import host


@pytest.fixture
def one_thread():
    yield
    host.set_blas_threads(1)


def test_blas_threads_are_set(one_thread):
    """Whatever the environment says."""
    host.set_blas_threads(2)
    assert set(host._blas_thread_counts().values()) == {2}


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_the_number_of_blas_threads_is_restored(one_thread):
    """By nested blocks, each to what it was, and by the last of several threads."""
    host.set_blas_threads(2)
    with host.preserve_blas_threads():
        host.set_blas_threads(1)
        with host.preserve_blas_threads():
            host.set_blas_threads(2)
        assert set(host._blas_thread_counts().values()) == {1}
        in_a_thread(lambda: use_threads(1))
        assert set(host._blas_thread_counts().values()) == {1}
    assert set(host._blas_thread_counts().values()) == {2}
    in_a_thread(lambda: use_threads(1))
    assert set(host._blas_thread_counts().values()) == {2}
    assert not host._ThreadUse.depths
    assert not host._ThreadUse.counts


def use_threads(count):
    with host.preserve_blas_threads():
        host.set_blas_threads(count)
        assert set(host._blas_thread_counts().values()) == {count}


def test_threads_that_need_another_number_are_refused(one_thread):
    """The number is that of the whole process, and would change the other's last bits."""
    with host.preserve_blas_threads():
        host.set_blas_threads(2)
        with pytest.raises(ConfigError, match=r"--threads 1: another thread .* computes with 2"):
            in_a_thread(lambda: use_threads(1))
    in_a_thread(lambda: use_threads(1))


def test_a_forked_process_does_not_wait_for_threads_of_its_parent(one_thread):
    """They do not exist there."""
    with host.preserve_blas_threads():
        host.set_blas_threads(2)
        pid = os.fork()
        if pid == 0:
            os._exit(len(host._ThreadUse.depths) + len(host._ThreadUse.counts))
        assert os.waitpid(pid, 0)[1] == 0


def test_a_blas_that_ignores_the_number_is_refused(monkeypatch, one_thread):
    """Other threads may round differently."""
    monkeypatch.setattr(host, "_set_blas_thread_counts", lambda counts: None)
    with pytest.raises(ConfigError, match=r"--threads 7 has no effect: this BLAS still uses \d"):
        host.set_blas_threads(7)


def test_the_numeric_platform_is_known():
    """CPU, NumPy and BLAS by name; and at least one core may be used."""
    platform = host.numeric_platform()
    assert set(platform) == {"cpu", "numpy", "simd", "blas"}
    assert all(platform.values())
    assert "openblas" in platform["blas"].lower() or "mkl" in platform["blas"].lower()
    assert host.usable_cores() >= 1
    assert set(host.software_versions()) == {"distbp", "python", "h5py", "hdf5"}


def test_a_blas_of_another_package_is_not_part_of_the_platform():
    """SciPy's computes nothing here: a run would be said to round unlike one without it."""
    before = host.numeric_platform(), host.loaded_kernels()
    import_module("scipy.linalg")
    host.forget_blas_libraries()
    assert any(Path(one).parent.name == "scipy.libs" for one in host._blas_thread_counts())
    assert (host.numeric_platform(), host.loaded_kernels()) == before


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("/env/site-packages/scipy.libs/libopenblas.so", "scipy"),
        ("/env/site-packages/numpy/.dylibs/libopenblas64_.0.dylib", "numpy"),
        ("/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3", ""),
    ],
)
def test_the_package_that_brought_a_library_is_known(path, package):
    assert host._package(Path(path)) == package


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


def test_memory_limit(monkeypatch):
    """The least of the machine's memory and the limits of the cgroups that a process is in."""
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 20)
    monkeypatch.setattr(host.cgroup, "memory_limits", list)
    assert host.memory_limit() == 1 << 40
    monkeypatch.setattr(host.cgroup, "memory_limits", lambda: [1 << 62, 7])
    assert host.memory_limit() == 7


@pytest.mark.parametrize(
    ("shares", "cores"),
    [
        ([], 1),
        ([([0, 1], None, "a"), ([0, 1], None, "a")], 2),
        ([([0], None, "a"), ([3], None, "a")], 2),
        ([([0, 1, 2, 3], 2.5, "a"), ([0, 1, 2, 3], 2.5, "a")], 2),
        ([([0, 1], 0.5, "a")], 1),
        ([([0, 1, 2, 3], 1.0, "a"), ([0, 1, 2, 3], 1.0, "b")], 2),  # a container each
        ([([0, 1, 2, 3], 1.0, "a"), ([0, 1, 2, 3], None, "b")], 4),
    ],
)
def test_the_cores_of_a_node(shares, cores):
    """Those that any of its processes may run on, within the quotas of their groups."""
    assert host.count_cores(host.CpuShare(*share) for share in shares) == cores


def test_states_of_processes():
    assert host.process_state(os.getpid()) in ("running", "sleeping")
    assert host.process_state(2**22 + 1) == "state unknown"


def test_waiting_for_a_core_is_counted():
    """With more processes that compute than cores, this one has to wait for one."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        before, end = host.cpu_delay_s(), time.monotonic() + 60.0
        while host.cpu_delay_s() < before + 0.05 and time.monotonic() < end:
            pass
        assert host.cpu_delay_s() >= before + 0.05
    finally:
        for one in busy:
            one.kill()
            one.wait()


def test_a_kernel_that_does_not_count_it(monkeypatch):
    def refuse(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert host.cpu_delay_s() == 0.0
