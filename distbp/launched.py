"""What a launcher has told this process in its environment: how many ranks, and which one."""

import os
from typing import Any

from distbp.errors import ConfigError

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


def survives() -> bool:
    """Return whether a run goes on when ranks die: Open MPI's `mpirun --with-ft ulfm`."""
    return os.environ.get(SURVIVES_VARIABLE) == "1"


def start_limit() -> int:
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
