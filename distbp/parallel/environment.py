"""What a launcher has told this process in its environment: how many ranks, and which one.

What ties a rank to the process that started it by `--ranks`.

The starter marks the environment of all that it starts with a token, and names two
files in which the ranks say that they have found each other, and how they have ended.
The launcher's exit status says neither: it is 0 after several kinds of disaster. A
rank that was started otherwise has nothing to say and nobody to follow.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError, DistbpError, StoppedError

# Where launchers say how many ranks they started, and which one a process is.
RANKS_VARIABLE = "DISTBP_RANKS"
SIZE_VARIABLES = (RANKS_VARIABLE, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# What Open MPI sets where a run may go on without ranks that have died (ULFM).
SURVIVES_VARIABLE = "OMPI_MCA_mpi_ft_enable"
LIMIT_VARIABLE = "DISTBP_START_LIMIT"
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def ranks_started(environment: Any) -> int:
    """Return how many ranks the launcher says it started; 1 without one."""
    for name in SIZE_VARIABLES:
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return 1


def launcher_rank(environment: Any) -> int:
    """Return the rank that the launcher gave this process, without starting MPI."""
    for name in RANK_VARIABLES:
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return 0


def ulfm_enabled() -> bool:
    """Return whether a run goes on when ranks die: Open MPI's `mpirun --with-ft ulfm`."""
    return os.environ.get(SURVIVES_VARIABLE) == "1"


def init_timeout() -> int:
    """Return how many seconds the ranks have to find each other.

    Raises
    ------
    ConfigError
        The environment has no number for it.
    """
    text = os.environ.get(LIMIT_VARIABLE, "120")
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{LIMIT_VARIABLE}={text}: expected seconds, at least 1.")
    return int(text)


def memory_plug(environment: Any) -> list[bytearray]:
    """Return what fills the gaps between this process's objects, under SLURM, while it is kept.

    MPICH sends its address and the memory behind it, 4 kB in all. If there is much text of
    Python's, such as docstrings, a message gets too long for SLURM's PMI, which cuts it, and
    no rank finds another. MPI's own objects, to which new memory goes now, are mostly zeros.
    """
    if "SLURM_STEP_ID" not in environment:
        return []
    return [bytearray(size) for size in range(4096, 512, -64) for _ in range(20)]


TOKEN_VARIABLE = "DISTBP_TOKEN"  # noqa: S105 (no secret: all may know it)
STARTED_VARIABLE = "DISTBP_STARTED"
DONE_VARIABLE = "DISTBP_DONE"

# The words of an end, which an exit status and, from the next line on, a sentence follow.
DONE = "done"
STOPPED = "stopped"  # saved, by request
REFUSED = "refused"  # starting again would not mend it
FAILED = "failed"  # starting again may


def die_with_parent() -> None:
    """End this rank when the launcher dies: a rank that computes would not notice."""
    if TOKEN_VARIABLE in os.environ:
        signal_on_parent_death(signal.SIGKILL)()


def write_started_file() -> None:
    """Say that the ranks have found each other."""
    _say(STARTED_VARIABLE, "started")


def write_completion_file() -> None:
    """Say that all that was asked for has been done."""
    _say(DONE_VARIABLE, f"{DONE} 0")


def write_error_file(error: DistbpError) -> None:
    """Say what all ranks have ended with."""
    kinds = {StoppedError: STOPPED, DistbpError: FAILED}
    _say(DONE_VARIABLE, f"{kinds.get(type(error), REFUSED)} {error.status}\n{error}")


def _say(variable: str, text: str) -> None:
    if variable in os.environ:
        Path(os.environ[variable]).write_text(f"{text}\n", encoding="utf-8")


def signal_on_parent_death(number: int) -> Callable[[], None]:
    """Return what lets the calling process have a signal when its parent dies, however it does.

    To be made before a fork and called behind it, where nothing may be loaded.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_parent_death_signal, number)
