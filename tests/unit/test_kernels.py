"""The choice of kernels: by the CPU, for several CPUs together, and in the environment."""

import re
import subprocess
import sys
from importlib import metadata

import pytest

from distbp import kernels
from distbp.errors import ConfigError
from distbp.kernels import Cpu, common_kernels, native_kernels, select

AVX2 = "avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"
ZEN_3 = Cpu.from_text(f"AuthenticAMD 25 {AVX2}")
ZEN_4 = Cpu.from_text(f"AuthenticAMD 25 {AVX512}")
ZEN_5 = Cpu.from_text(f"AuthenticAMD 26 {AVX512}")
HASWELL = Cpu.from_text(f"GenuineIntel 6 {AVX2}")
XEON = Cpu.from_text(f"GenuineIntel 6 {AVX512}")
SANDY_BRIDGE = Cpu.from_text("GenuineIntel 6 avx sse4_2")
ARM = Cpu()


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (ZEN_3, "Haswell"),
        (ZEN_4, "Haswell"),
        (ZEN_5, "SkylakeX"),
        (HASWELL, "Haswell"),
        (XEON, "SkylakeX"),
        (SANDY_BRIDGE, ""),
        (Cpu.from_text(f"HygonGenuine 24 {AVX2}"), "Haswell"),
        (ARM, ""),
    ],
)
def test_the_table(cpu, expected):
    """The measured choice; '' is that of OpenBLAS."""
    assert native_kernels(cpu) == expected


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [
        ([ZEN_4, ZEN_4], "Haswell"),
        ([XEON, ZEN_5, XEON], "SkylakeX"),
        ([HASWELL, ZEN_3, ZEN_4], "Haswell"),
        ([XEON, ZEN_4], "portable"),
        ([HASWELL, XEON], "portable"),
        ([XEON, SANDY_BRIDGE], ""),
        ([ARM, XEON], ""),
        ([ARM, ARM], ""),
    ],
)
def test_the_choice_for_several_cpus(cpus, expected):
    """In whatever order."""
    assert common_kernels(cpus) == expected
    assert common_kernels(cpus[::-1]) == expected


@pytest.mark.parametrize("cpu", [ZEN_4, SANDY_BRIDGE, ARM])
def test_a_cpu_as_text(cpu):
    assert Cpu.from_text(cpu.to_text()) == cpu
    assert len(cpu.to_text()) < 256
    assert cpu.to_text().isascii()


def test_the_cpu_in_cpuinfo():
    """Of several cores' descriptions, which are alike; on ARM nothing is known."""
    core = (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
        f"model name\t: AMD EPYC\nflags\t\t: fpu sse2 {AVX512} sse4_2\nbogomips\t: 5000\n\n"
    )
    found = Cpu.from_cpuinfo(2 * core)
    assert found == Cpu("AuthenticAMD", 25, ZEN_4.flags | {"sse2", "sse4_2"})
    assert Cpu.from_cpuinfo("processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd40\n") == ARM
    assert Cpu.from_cpuinfo("") == ARM


def test_the_cpu_of_this_machine_and_of_a_test():
    assert Cpu.detect({}) == Cpu.from_text(Cpu.detect({}).to_text())
    assert Cpu.detect({"DISTBP_TEST_CPU": ZEN_4.to_text()}) == ZEN_4


def test_native_sets_the_fastest():
    environ = {"HOME": "/"}
    select("native", [ZEN_4], environ)
    assert environ == {"HOME": "/", "OPENBLAS_CORETYPE": "Haswell", "DISTBP_KERNELS": "Haswell"}


def test_native_leaves_the_choice_to_openblas():
    environ = {}
    select("native", [SANDY_BRIDGE], environ)
    assert environ == {}


@pytest.mark.parametrize("cpus", [[XEON], [XEON, HASWELL], [HASWELL, ZEN_4]])
def test_portable_disables_avx512_in_numpy(cpus):
    environ = {}
    select("portable", cpus, environ)
    assert environ.pop("NPY_DISABLE_CPU_FEATURES") == kernels.numpy_avx512_names()
    assert environ == {"OPENBLAS_CORETYPE": "Haswell", "DISTBP_KERNELS": "portable"}


def test_portable_without_avx512():
    """NumPy would warn about a feature that the CPU does not have."""
    environ = {}
    select("portable", [HASWELL], environ)
    assert environ == {"OPENBLAS_CORETYPE": "Haswell", "DISTBP_KERNELS": "portable"}


@pytest.mark.parametrize("choice", ["native", "portable", "Nehalem"])
def test_a_variable_of_the_user_is_left_alone(choice):
    environ = {"OPENBLAS_CORETYPE": "SkylakeX"}
    select(choice, [ZEN_4], environ)
    assert environ == {"OPENBLAS_CORETYPE": "SkylakeX"}


def test_the_user_may_disable_features_of_numpy():
    environ = {"NPY_DISABLE_CPU_FEATURES": "AVX512_SPR"}
    select("portable", [XEON], environ)
    assert environ["NPY_DISABLE_CPU_FEATURES"] == "AVX512_SPR"


@pytest.mark.parametrize("first", ["native", "portable", "SkylakeX"])
def test_a_child_chooses_anew(first):
    """What the process has selected that started it is not a choice of the user."""
    environ = {}
    select(first, [ZEN_4], environ)
    assert not kernels.is_set_by_user(environ)
    select("native", [ARM], environ)
    assert environ == {}


@pytest.mark.parametrize(
    ("choice", "cpus", "named"),
    [
        ("SkylakeX", [ZEN_4, ZEN_3], "avx512f"),
        ("skylakex", [HASWELL], "avx512f"),
        ("portable", [SANDY_BRIDGE], "avx2"),
    ],
)
def test_kernels_that_a_cpu_cannot_run_are_refused(choice, cpus, named):
    """OpenBLAS does not check: the process would be killed by SIGILL."""
    environ = {}
    with pytest.raises(ConfigError, match=rf"--kernels {choice} needs a CPU with .*{named}"):
        select(choice, cpus, environ)
    assert environ == {}


def test_the_names_of_numpy_by_its_version(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "2.3.5")
    assert "AVX512_SKX" in kernels.numpy_avx512_names()
    monkeypatch.setattr(metadata, "version", lambda name: "2.10.0.dev1")
    assert "X86_V4" in kernels.numpy_avx512_names()


def test_the_module_does_not_load_numpy():
    """It would be too late to choose."""
    code = (
        "import os, sys; from distbp.cli import kernel_selection as k; "
        "k.select_kernels(['train', 'x.h5', '--out', 'y', '--kernels', 'portable']); "
        "print('numpy' in sys.modules, os.environ.get('OPENBLAS_CORETYPE'))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.match(r"False (Haswell|\w+)", ended.stdout), ended
