"""What a launcher tells a rank by environment variables, and what the rank reports back.

Launchers (mpirun, srun, `distbp train --ranks N`) say how many ranks they started and which
one a process is. `LaunchEnvironment` is the only reader of these variables. With `--ranks`,
the supervising process also marks the environment with a token, by which it finds all
processes of the job, and names two files: the ranks write one when they have connected, the
other when they end; beside the first, each rank writes one when it begins to connect. The
launcher's exit status cannot replace them: it is 0 after several kinds of failure.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from distbp.console import write_stderr
from distbp.errors import ConfigError, DistbpError, LaunchError, StoppedError

RANKS_VARIABLE = "DISTBP_RANKS"  # set by --ranks
TOKEN_VARIABLE = "DISTBP_TOKEN"  # noqa: S105 (a mark, not a secret)
STARTED_FILE_VARIABLE = "DISTBP_STARTED"
COMPLETION_FILE_VARIABLE = "DISTBP_DONE"
STDIN_FILE_VARIABLE = "DISTBP_STDIN"
INIT_TIMEOUT_VARIABLE = "DISTBP_START_LIMIT"
_DEFAULT_INIT_TIMEOUT_S = 120
_OPEN_MPI_SIZE = "OMPI_COMM_WORLD_SIZE"
# In order of precedence: --ranks knows best, and inside a SLURM job srun may see only mpirun.
_SIZE_VARIABLES = (RANKS_VARIABLE, _OPEN_MPI_SIZE, "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_LOCAL_RANK_VARIABLES = (
    "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "SLURM_LOCALID",
)  # fmt: skip
# How names of variables begin that launchers set for their ranks: those of MPICH, Intel MPI,
# MVAPICH, Open MPI, PMIx, PALS, Flux, JSM, ALPS and srun.
_LAUNCHER_PREFIXES = (
    "PMI_", "PMIX_", "MPI_LOCAL", "HYDI_", "MV2_COMM_", "OMPI_COMM_", "PALS_", "FLUX_TASK_",
    "JSM_", "ALPS_APP_", "SLURM_STEP_", RANKS_VARIABLE,
)  # fmt: skip
_PR_SET_PDEATHSIG = 1  # of prctl(2)


class Outcome(StrEnum):
    """How the ranks ended: the first word of the completion file."""

    DONE = "done"
    STOPPED = "stopped"  # on request, after a checkpoint
    REFUSED = "refused"  # a restart would end the same way
    FAILED = "failed"  # by an exception: a restart may succeed, but probably ends the same way


@dataclass(frozen=True)
class LaunchEnvironment:
    """The environment variables of a launch, parsed.

    Attributes
    ----------
    ranks_started : int
        By the launcher; 1 without one.
    ranks_requested : int or None
        By `--ranks`; None if another launcher started this process.
    launcher_rank : int
        The launcher's number of this process, known before MPI starts; 0 without a launcher.
    local_rank : int
        The launcher's number of this process on its host; 0 if it does not say.
    has_launcher : bool
        Whether this process may have been started by a launcher, perhaps an unknown one.
    has_open_mpi_launcher : bool
    ulfm_enabled : bool
        Whether Open MPI lets the survivors continue when a rank fails (`--with-ft ulfm`).
    in_slurm_step : bool
        Whether srun started this process.
    init_timeout_text : str or None
        As the user wrote it; see `init_timeout`.
    is_supervised : bool
        Whether `--ranks` started this process.
    started_file, completion_file : Path or None
        Where a supervised rank reports to.
    stdin_file : Path or None
        The standard input of the process that started a supervised rank, if it is read.
    """

    ranks_started: int = 1
    ranks_requested: int | None = None
    launcher_rank: int = 0
    local_rank: int = 0
    has_launcher: bool = False
    has_open_mpi_launcher: bool = False
    ulfm_enabled: bool = False
    in_slurm_step: bool = False
    init_timeout_text: str | None = None
    is_supervised: bool = False
    started_file: Path | None = None
    completion_file: Path | None = None
    stdin_file: Path | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "LaunchEnvironment":
        """Return what the variables say, by default those of this process as they are now."""
        size = _first_number(environ, _SIZE_VARIABLES)
        started, completion, stdin = (
            Path(environ[name]) if name in environ else None
            for name in (STARTED_FILE_VARIABLE, COMPLETION_FILE_VARIABLE, STDIN_FILE_VARIABLE)
        )
        return cls(
            ranks_started=1 if size is None else size,
            ranks_requested=_first_number(environ, [RANKS_VARIABLE]),
            launcher_rank=_first_number(environ, _RANK_VARIABLES) or 0,
            local_rank=_first_number(environ, _LOCAL_RANK_VARIABLES) or 0,
            has_launcher=any(name.startswith(_LAUNCHER_PREFIXES) for name in environ),
            has_open_mpi_launcher=_OPEN_MPI_SIZE in environ,
            ulfm_enabled=environ.get("OMPI_MCA_mpi_ft_enable") == "1",
            in_slurm_step="SLURM_STEP_ID" in environ,
            init_timeout_text=environ.get(INIT_TIMEOUT_VARIABLE),
            is_supervised=TOKEN_VARIABLE in environ,
            started_file=started,
            completion_file=completion,
            stdin_file=stdin,
        )

    @property
    def init_timeout(self) -> int:
        """Return how many seconds the ranks have to connect to each other.

        Raises
        ------
        ConfigError
            The variable is not a positive number. (Not raised before the value is needed:
            verbs that start no ranks ignore it.)
        """
        text = self.init_timeout_text
        if text is None:
            return _DEFAULT_INIT_TIMEOUT_S
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                f"{INIT_TIMEOUT_VARIABLE}={text}: expected a number of seconds, at least 1."
            )
        return int(text)

    def die_with_parent(self) -> None:
        """Have the kernel kill this rank when its launcher dies: MPI does not on its own."""
        if self.is_supervised:
            signal_on_parent_death(signal.SIGKILL)()

    def open_stdin(self) -> BinaryIO:
        """Return standard input, or the copy of it that was made for a supervised rank."""
        # In place of the descriptor that the launcher gave, so that sys.stdin reads it as well.
        if self.stdin_file is not None:
            os.dup2(descriptor := os.open(self.stdin_file, os.O_RDONLY), sys.stdin.fileno())
            os.close(descriptor)
        return sys.stdin.buffer

    def write_arrival_file(self) -> None:
        """Report that this rank begins to connect, and its process ID."""
        if self.started_file is not None:
            with suppress(OSError):  # it only serves to name the ranks that are late
                _write(arrival_file(self.started_file, self.launcher_rank), str(os.getpid()))

    def write_started_file(self) -> None:
        """Report that all ranks have connected; raise LaunchError if that is not possible."""
        if self.started_file is None:
            return
        try:
            _write(self.started_file, "started")
        except OSError as error:
            raise LaunchError(
                f"{self.started_file} cannot be written: {error.strerror}. What started the ranks "
                f"waits for it: free space there, or choose another folder by TMPDIR."
            ) from error

    def write_completion_file(self) -> None:
        """Report that the command has succeeded."""
        self._report(f"{Outcome.DONE} 0")

    def write_error_file(self, error: DistbpError) -> None:
        """Report the error that all ranks have ended with."""
        outcomes = {StoppedError: Outcome.STOPPED, DistbpError: Outcome.FAILED}
        outcome = outcomes.get(type(error), Outcome.REFUSED)
        self._report(f"{outcome} {error.status}\n{error}")

    def write_failure_file(self, error: BaseException) -> None:
        """Report an exception that this rank alone has raised, and that ends all ranks."""
        text = f"{type(error).__name__}: {error}".strip().rstrip(":")
        self._report(f"{Outcome.FAILED} 1\n{text.splitlines()[0]}")

    def _report(self, text: str) -> None:
        """Write the completion file, if there is one to write.

        Its failure is a message: it must neither keep a rank that has failed from ending the
        others, nor make a command fail that has succeeded.
        """
        if self.completion_file is None:
            return
        try:
            _write(self.completion_file, text)
        except OSError as error:
            write_stderr(
                f"distbp: {self.completion_file} cannot be written: {error.strerror}. What started "
                f"the ranks does not see how they ended.\n"
            )


def arrival_file(started_file: Path, rank: int) -> Path:
    """Return the file that a supervised rank writes when it begins to connect."""
    return started_file.with_name(f"arrived-{rank}")


def _first_number(environ: Mapping[str, str], names: Iterable[str]) -> int | None:
    """Return the first of the variables that is a number."""
    values = (environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), None)


def _write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n", encoding="utf-8")


def signal_on_parent_death(number: int) -> Callable[[], None]:
    """Return a function after whose call the kernel sends this process a signal on parent death.

    Make it before a fork and call it in the child, where nothing may be imported any more.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, number)
