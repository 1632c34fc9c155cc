"""Finds out which software there is: Python, libraries, MPI and its launchers, Numba."""

import os
import platform
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

from distbp.doctor.facts import CompilerFacts, MpiFacts, Requirement, SoftwareFacts
from distbp.errors import LaunchError
from distbp.launch.mpiexec import belongs_to, make_launcher
from distbp.parallel import mpi
from distbp.parallel.environment import LaunchEnvironment
from distbp.version import __version__

# NAME>=LEAST; extra == "EXTRA", of which all but the name is optional
_NAME, _LEAST = re.compile(r"[\w.-]+"), re.compile(r">=\s*([\w.]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def software_facts() -> SoftwareFacts:
    """Return the versions of Python, distbp and the libraries that it knows."""
    found = [_installed(text) for text in _requirements()]
    return SoftwareFacts(platform.python_version(), __version__, found)


def _requirements() -> list[str]:
    """Return what distbp requires, as pip writes it; also if it is used without installation."""
    try:
        return metadata.requires("distbp") or []
    except metadata.PackageNotFoundError:
        pass
    try:
        project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return []
    extras = project.get("optional-dependencies", {})
    of_extras = [f'{text}; extra == "{name}"' for name, texts in extras.items() for text in texts]
    return [*project.get("dependencies", ()), *of_extras]


def _installed(text: str) -> Requirement:
    """Return a requirement, with the version that is installed."""
    before, _, condition = text.partition(";")
    found, least, extra = _NAME.match(before), _LEAST.search(before), _EXTRA.search(condition)
    name = found[0] if found else before
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = ""
    return Requirement(
        name, least[1] if least else "", extra[1] if extra else "", version
    )  # fmt: skip


def compiler_facts() -> CompilerFacts:
    """Return whether Numba compiles a function here."""
    try:
        import numba
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        return CompilerFacts("", "" if is_missing else str(error))
    try:
        result = numba.njit(lambda number: number + 1)(1)
    except Exception as error:  # whatever LLVM, a CPU or a cache folder may cause
        return CompilerFacts(numba.__version__, f"{type(error).__name__}: {error}")
    return CompilerFacts(numba.__version__, "" if result == 2 else "1 + 1 is not 2")


def mpi_facts() -> MpiFacts:
    """Return which MPI this Python has, which launcher belongs to it, and what has started it."""
    launch = LaunchEnvironment.from_environ()
    library, error, launcher = mpi.library_version(), "", ""
    if library:
        try:
            launcher = make_launcher(2).command[0]
        except LaunchError as failure:
            error = str(failure)
    else:
        error = mpi.load_error()
    return MpiFacts(
        library, error, launcher, _foreign_launchers(library), launch.ranks_started,
        launch.in_slurm_step, launch.ulfm_enabled,
    )  # fmt: skip


def _foreign_launchers(library: str) -> list[str]:
    """Return what a user would start as `mpirun` or `mpiexec` that belongs to another MPI."""
    paths = dict.fromkeys(filter(None, map(shutil.which, ("mpirun", "mpiexec"))))
    real = dict.fromkeys(os.path.abspath(path) for path in paths)
    return [path for path in real if library and not belongs_to(path, library)]
