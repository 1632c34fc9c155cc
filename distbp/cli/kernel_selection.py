"""Selecting BLAS kernels for a command, before NumPy is loaded.

At that time the command line is not parsed yet, because its parsers load NumPy: so `--kernels`
is looked up among the words, and the kernels of a run in its `config.toml`. Ranks that a
launcher has started tell each other their CPUs first. Whether the kernels were loaded in the
end is checked by `distbp.training.setup`.
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

from distbp import kernels
from distbp.kernels import Cpu
from distbp.parallel.environment import LaunchEnvironment

_COMPUTING_VERBS = ("train", "evaluate", "predict", "plan", "verify", "report")
_TRAINING_VERBS = ("train", "verify")  # whose kernels are those of a configuration

# Where the runs of a directory are: it is one itself, or those of a cross-validation.
_RUNS = ("", "fold-1", "trial-0001/fold-1")


def select_kernels(argv: Sequence[str]) -> None:
    """Select the kernels of a command; collective if a launcher has started several ranks.

    Raises
    ------
    ConfigError
        On all ranks: the CPU of one of them cannot run the kernels that were asked for.
    """
    if not argv or argv[0] not in _COMPUTING_VERBS or {"-h", "--help"} & set(argv):
        return
    cpus = _cpus_of_all_ranks()
    choice = option_value(argv, "--kernels")
    if choice is None:
        file = option_value(argv, "--config") if argv[0] in _TRAINING_VERBS else None
        choice = _stored_kernels(Path(file)) if file else _kernels_of_run(argv)
        # A model or run from another machine: what differs is reported when it has been read.
        if not file and not all(cpu.can_run(choice) for cpu in cpus):
            choice = kernels.NATIVE
    kernels.select(choice, cpus, os.environ)


def option_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value of an option among the words of a command line."""
    value = None
    for i, word in enumerate(argv):
        name, has_value, rest = word.partition("=")
        if name == flag and (has_value or i + 1 < len(argv)):
            value = rest if has_value else argv[i + 1]
    return value


def _kernels_of_run(argv: Sequence[str]) -> str:
    """Return the kernels of the run that is resumed, or of the model that is used."""
    # A checkpoint is in the run's directory, or in `checkpoints` below it.
    is_training = argv[0] in _TRAINING_VERBS
    words = [option_value(argv, "--resume") or ""] if is_training else argv[1:]
    folders = [folder for word in words if word for folder in (Path(word), *Path(word).parents[:2])]
    files = (folder / name / "config.toml" for folder in folders for name in _RUNS)
    return next((_stored_kernels(file) for file in files if file.is_file()), kernels.NATIVE)


def _stored_kernels(file: Path) -> str:
    """Return the kernels in a TOML file; whoever reads all of it reports what is wrong with it."""
    try:
        value = tomllib.loads(file.read_text("utf-8")).get("kernels", kernels.NATIVE)
    except (OSError, ValueError):
        value = kernels.NATIVE
    return value if isinstance(value, str) else kernels.NATIVE


def _cpus_of_all_ranks() -> list[Cpu]:
    """Return the CPU of each rank, on all ranks; collective."""
    own, launch = Cpu.detect(os.environ), LaunchEnvironment.from_environ()
    if launch.ranks_started == 1:
        return [own]
    from distbp.parallel import mpi

    try:
        if mpi.is_launcher_refused(launch):
            return [own]
        return [Cpu.from_text(text) for text in mpi.allgather_text(own.to_text())]
    except (ImportError, RuntimeError):  # `connect` reports it
        return [own]
