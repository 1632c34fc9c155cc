"""The machine that a rank runs on: its cores, its BLAS, what fixes its bits."""

import os
import platform
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import threadpoolctl

from distbp.errors import ConfigError
from distbp.version import __version__


def use_threads(threads: int) -> None:
    """Let BLAS use `threads` threads from now on, whatever the environment says.

    Raises
    ------
    ConfigError
        The BLAS in use does not do as it is told: other threads, other bits.
    """
    threadpoolctl.threadpool_limits(threads, user_api="blas")
    used = [blas["num_threads"] for blas in blas_libraries()]
    if any(count != threads for count in used):
        raise ConfigError(
            f"--threads {threads} cannot be had: BLAS uses {', '.join(map(str, used))}."
        )


def blas_libraries() -> list[dict[str, Any]]:
    """Return what threadpoolctl knows of the BLAS libraries that are loaded."""
    return [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def bits() -> dict[str, str]:
    """Return what a result's last bits depend on, beside configuration and data."""
    blas = " + ".join(
        f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip()
        for info in blas_libraries()
    )
    return {"cpu": cpu(), "numpy": np.__version__, "blas": blas or "unknown"}


def versions() -> dict[str, str]:
    """Return the versions of what writes a checkpoint."""
    return {
        "distbp": __version__,
        "python": platform.python_version(),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }


def cpu() -> str:
    """Return the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
