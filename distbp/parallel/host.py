"""The machine that a rank runs on: its cores, its BLAS, and what determines its rounding."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import threadpoolctl

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
    return {"cpu": cpu_model(), "numpy": np.__version__, "blas": blas or "unknown"}


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
