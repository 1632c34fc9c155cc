"""Judges the software: from facts to findings, without looking at anything else."""

import re
from collections.abc import Iterable

from distbp.doctor.facts import CompilerFacts, MpiFacts, Requirement, SoftwareFacts
from distbp.doctor.finding import Finding, problem, warning

_LEAST_PYTHON = "3.11"
# The extras of which another check speaks, and of those who work on distbp.
_NO_EXTRAS = ("mpich", "openmpi", "fast", "test")


def check_python(facts: SoftwareFacts) -> Finding:
    """Judge the versions of Python and distbp."""
    found = f"Python {facts.python}, distbp {facts.distbp}"
    if _is_older(facts.python, _LEAST_PYTHON):
        return problem("python", found, f"Use Python {_LEAST_PYTHON} or newer.")
    return Finding("python", found)


def check_libraries(facts: SoftwareFacts) -> Finding:
    """Judge the libraries that distbp always needs."""
    needed = [one for one in facts.requirements if not one.extra]
    bad = [one for one in needed if not _is_usable(one)]
    found = ", ".join(map(_describe, bad or needed))
    if bad:
        return problem("libraries", found, _install(bad))
    return Finding("libraries", found or "not known: distbp was not installed by pip")


def check_extras(facts: SoftwareFacts) -> Finding:
    """Judge the libraries that distbp can use: none has to be there, but an old one misleads."""
    optional = [one for one in facts.requirements if one.extra and one.extra not in _NO_EXTRAS]
    old = [one for one in optional if one.installed and not _is_usable(one)]
    if old:
        return warning("extras", ", ".join(map(_describe, old)), _install(old))
    missing = {one.extra for one in optional if not one.installed}
    there = dict.fromkeys(one.extra for one in optional if one.extra not in missing)
    found = ", ".join(there) or "none"
    if missing:
        found += f"; not installed: {', '.join(sorted(missing))}"
    return Finding("extras", found)


def check_compiler(facts: CompilerFacts) -> Finding:
    """Judge Numba, which the extra `fast` installs."""
    if facts.error:
        return warning(
            "compiler", f"Numba {facts.numba} cannot compile: {facts.error}",
            "Install it again: pip install --force-reinstall numba.",
        )  # fmt: skip
    if not facts.numba:
        return Finding(
            "compiler", "no Numba, so steps are not compiled: pip install 'distbp[fast]'"
        )
    return Finding("compiler", f"Numba {facts.numba} compiles")


def check_mpi_library(facts: MpiFacts, ranks: int) -> Finding:
    """Judge the MPI library; `ranks` that were asked for need one."""
    if facts.library:
        return Finding("mpi library", facts.library)
    found = f"none: {facts.error}" if facts.error else "none"
    remedy = "Install one: pip install mpich."
    if ranks > 1:
        return problem("mpi library", found, remedy)
    return warning("mpi library", f"{found}; distbp runs on one rank only", remedy)


def check_launcher(facts: MpiFacts) -> Finding:
    """Judge the launcher that belongs to the library, and those that a user would find."""
    if not facts.library:
        return Finding("mpi launcher", "not needed without an MPI library")
    if not facts.launcher:
        return warning(
            "mpi launcher", facts.error.partition(". ")[0],
            "Add the bin folder of that MPI to the PATH; under SLURM, srun does without.",
        )  # fmt: skip
    if facts.foreign_launchers:
        return warning(
            "mpi launcher",
            f"{' and '.join(facts.foreign_launchers)} belongs to another MPI than Python's "
            f"{facts.library}: it would start separate runs of one rank each",
            f"Use {facts.launcher}, or --ranks.",
        )
    return Finding("mpi launcher", facts.launcher)


def check_fault_tolerance(facts: MpiFacts) -> Finding:
    """Judge what happens when a rank dies."""
    if facts.ulfm_enabled:
        return Finding("fault tolerance", "if a rank dies, the others continue (ULFM)")
    version = facts.library.removeprefix("Open MPI ")
    if facts.library.startswith("Open MPI ") and not _is_older(version, "5"):
        found = "available (ULFM)"
        if facts.ranks_started > 1:
            return warning(
                "fault tolerance", f"{found}, but not enabled: a dead rank ends the run",
                "Start with mpirun --with-ft ulfm, or with --ranks.",
            )  # fmt: skip
        return Finding("fault tolerance", found)
    how = f"{facts.library} has none that distbp uses" if facts.library else "no MPI"
    return Finding("fault tolerance", f"{how}: after a dead rank, runs resume from a checkpoint")


def _is_usable(one: Requirement) -> bool:
    return bool(one.installed) and not _is_older(one.installed, one.least)


def _is_older(version: str, least: str) -> bool:
    """Return whether a version comes before another, by the numbers in both."""
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> list[int]:
    found = re.match(r"[\d.]*", version)
    return [int(part) for part in found[0].split(".") if part] if found else []


def _describe(one: Requirement) -> str:
    if not one.installed:
        return f"{one.name} is missing"
    text = f"{one.name} {one.installed}"
    return text if _is_usable(one) else f"{text} is older than {one.least}"


def _install(missing: Iterable[Requirement]) -> str:
    words = [f"'{one.name}>={one.least}'" if one.least else one.name for one in missing]
    return f"pip install --upgrade {' '.join(dict.fromkeys(words))}"
