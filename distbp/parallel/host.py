"""The machine that a rank runs on: its cores, its BLAS, and what determines its rounding."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import threadpoolctl

from distbp import kernels
from distbp.errors import ConfigError
from distbp.version import __version__


def set_blas_threads(threads: int) -> None:
    """Make BLAS use `threads` threads from now on, whatever the environment says.

    Raises
    ------
    ConfigError
        The BLAS in use ignores it. Another number of threads may round differently.
    """
    threadpoolctl.threadpool_limits(threads, user_api="blas")
    used = [blas["num_threads"] for blas in _blas_libraries()]
    if any(count != threads for count in used):
        raise ConfigError(
            f"--threads {threads} has no effect: this BLAS still uses "
            f"{', '.join(map(str, used))}. Use another build of NumPy, or that number."
        )


@contextmanager
def preserve_blas_threads() -> Iterator[None]:
    """Restore the number of BLAS threads at the end of the block, whatever it was.

    For what a library user calls: the number belongs to the host process.
    """
    with threadpoolctl.threadpool_limits(limits=None, user_api="blas"):  # changes nothing yet
        yield


def _blas_libraries() -> list[dict[str, Any]]:
    """Return what threadpoolctl knows about the BLAS libraries that are loaded."""
    return [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]


def loaded_kernels() -> str:
    """Return the name of the kernels that OpenBLAS uses; '' if NumPy uses no OpenBLAS."""
    libraries = [one for one in _blas_libraries() if one["internal_api"] == "openblas"]
    return " + ".join(sorted({str(one.get("architecture", "")) for one in libraries}))


def kernels_in_use() -> str:
    """Return the value of `--kernels` that gives those of this process; '' without OpenBLAS."""
    is_portable = kernels.selected(os.environ) == kernels.PORTABLE
    return kernels.PORTABLE if is_portable else loaded_kernels()


def check_kernels(choice: str) -> None:
    """Raise ConfigError if other kernels are loaded than those chosen; `native` may be any."""
    if choice == kernels.NATIVE:
        return
    loaded, expected = loaded_kernels(), kernels.openblas_name(choice)
    if not loaded:
        raise ConfigError(
            f"--kernels {choice} needs OpenBLAS, but NumPy uses {numeric_platform()['blas']}, "
            f"whose kernels cannot be chosen. Use NumPy from PyPI, or --kernels native."
        )
    variables = f"{kernels.CORETYPE_VARIABLE}={expected}"
    if choice == kernels.PORTABLE:
        variables += f" and {kernels.NUMPY_VARIABLE}='{kernels.numpy_avx512_names()}'"
        if loaded == expected and simd_level() == "AVX-512":
            loaded += ", and NumPy those for AVX-512"
    if loaded.lower() != expected.lower():
        raise ConfigError(
            f"--kernels {choice} has no effect: OpenBLAS uses the kernels {loaded}. It has no "
            f"others here, or a variable says so, or it was loaded before. Set {variables} before "
            f"NumPy is loaded, or use --kernels native."
        )


def simd_level() -> str:
    """Return the widest vectors that NumPy's own code uses: AVX-512, AVX2, or another's name."""
    info: Any = np.show_config(mode="dicts")
    extensions = info.get("SIMD Extensions", {})
    names = [*extensions.get("baseline", []), *extensions.get("found", [])]
    levels = {"AVX-512": ("X86_V4", "AVX512_SKX"), "AVX2": ("X86_V3", "AVX2")}
    widest = (level for level, known in levels.items() if set(known) & set(names))
    return next(widest, names[-1] if names else "")


def usable_cores() -> list[int]:
    """Return the IDs of the CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def numeric_platform() -> dict[str, str]:
    """Return what the last bits of a result depend on, besides configuration and data."""
    blas = " + ".join(
        f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip()
        for info in _blas_libraries()
    )
    return {
        "cpu": cpu_model(), "numpy": np.__version__, "simd": simd_level(), "blas": blas or "unknown"
    }  # fmt: skip


def software_versions() -> dict[str, str]:
    """Return the versions of the software that writes a checkpoint."""
    return {
        "distbp": __version__,
        "python": platform.python_version(),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }


def cpu_model() -> str:
    """Return the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):  # x86-64, ARM
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_limit() -> int:
    """Return how many bytes this process may use at most: those of the machine, or of a cgroup."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                limits += _cgroup_limits(controllers, path)
    return min(limits)


def _cgroup_limits(controllers: str, path: str) -> list[int]:
    """Return the limits of a cgroup and those above it; v2 names no controllers."""
    mount = Path("/sys/fs/cgroup", controllers)
    name = "memory.limit_in_bytes" if controllers else "memory.max"
    folder, limits = mount / path.lstrip("/"), []
    # In a container the path may be that of the host: the limit is then at the root.
    for one in (folder, *folder.parents):
        with suppress(OSError, ValueError):  # `max` is no number
            limits.append(int((one / name).read_text()))
        if one == mount:
            break
    return limits
