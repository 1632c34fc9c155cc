"""Start N ranks on this host, with the launcher of the MPI library that mpi4py uses.

An `MpiLaunch` is `python -m distbp` with some arguments on N ranks, from finding `mpiexec`
and its options (a `Launcher`) until the last process that it started has exited.
`run_ranks` waits for one launch; `supervisor` restarts launches that fail. What the ranks
compute, and when a failure is worth a restart, is not known here.
"""

import contextlib
import functools
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TextIO

from distbp import terminal
from distbp.errors import LaunchError
from distbp.launch import processes
from distbp.parallel import environment, mpi
from distbp.parallel.environment import RANKS_VARIABLE
from distbp.training import stop_request

_LAUNCHER_NAMES = (
    *("mpiexec", "mpirun", "mpiexec.hydra", "mpiexec.mpich", "mpirun.openmpi", "mpiexec.openmpi"),
)
POLL_INTERVAL_S = 0.1  # between two checks of a launch
_STOP_SIGNAL_INTERVAL_S = 1.0  # between two signals that request a stop
_CLEANUP_TIMEOUT_S = 2.0  # for a launcher to exit after its stop signal, and for its output
_FIRST_ULFM_VERSION = 5  # of Open MPI
_VERSION_TIMEOUT_S = 20  # for `mpiexec --version`


class StopSignals:
    """Context that records the signals that request a stop, instead of dying from them.

    Attributes
    ----------
    received : list of int
        Signal numbers, in order.
    first_at : float
        When the first one arrived, by time.monotonic; 0 before that.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.first_at = 0.0

    def __enter__(self) -> "StopSignals":
        self._previous = stop_request.install_signal_handlers(self._record)
        return self

    def __exit__(self, *exception: object) -> None:
        stop_request.restore_signal_handlers(self._previous)

    def _record(self, number: int, frame: object) -> None:
        self.first_at = self.first_at or time.monotonic()
        self.received.append(number)

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def forced(self) -> bool:
        """Whether the last signal asks to stop immediately, without a checkpoint."""
        # Batch systems repeat SIGUSR1, and a closed terminal may send SIGHUP more than once.
        repeatable = signal.SIGUSR1, signal.SIGHUP
        return len(self.received) > 1 and self.received[-1] not in repeatable


class MpiLaunch:
    """Ranks that are started together; a context that leaves no process behind.

    Parameters
    ----------
    ranks : int
    arguments : sequence of str
        Of `distbp`, the same on every rank.
    fault_tolerant : bool
        Whether MPI should let the surviving ranks continue after a rank failure, where it can.
    stdin_file : path, optional
        What rank 0 gets as standard input.
    log : text file, optional
        Where the output goes, instead of the standard streams of this process.

    Attributes
    ----------
    started_at : float
        By time.monotonic.
    outcome : str
        How the ranks ended, one of the words in `parallel.environment`; empty as long as they
        have not written it to the completion file.
    outcome_at : float or None
        When the outcome was read, by time.monotonic.
    message : str
        The error message that goes with the outcome, or nothing.
    status : int
        The exit status that goes with the outcome.
    tag : str
        The entry of the environment that identifies the processes of this launch.

    Raises
    ------
    LaunchError
        There is no MPI, or no launcher that belongs to it.
    """

    def __init__(
        self,
        ranks: int,
        arguments: Sequence[str],
        fault_tolerant: bool = False,
        stdin_file: str | None = None,
        log: TextIO | None = None,
    ) -> None:
        launcher = make_launcher(ranks, fault_tolerant)
        self._ranks = ranks
        self.folder = Path(tempfile.mkdtemp(prefix="distbp_"))
        self._started_file, self._has_started = self.folder / "started", False
        token = secrets.token_hex(16)
        self.tag = f"{environment.TOKEN_VARIABLE}={token}"
        # The second one is compared with the times of files.
        self.started_at, self._started_at_unix = time.monotonic(), time.time()
        self._stop_sent_at = -math.inf
        self.outcome_at: float | None = None
        self.outcome, self.message, self.status = "", "", 0
        out, err = log or sys.stdout, log or sys.stderr
        widths = (0, 0) if log else terminal.terminal_widths()
        variables = launcher.variables | {
            RANKS_VARIABLE: str(ranks),
            environment.TOKEN_VARIABLE: token,
            environment.STARTED_FILE_VARIABLE: str(self._started_file),
            environment.COMPLETION_FILE_VARIABLE: str(self.folder / "done"),
            terminal.TERMINAL_WIDTHS_VARIABLE: "{},{}".format(*widths),
            "TMPDIR": str(self.folder),  # a launcher that is killed leaves files there
        }
        if stdin_file is not None:
            variables[environment.STDIN_FILE_VARIABLE] = stdin_file
        self.launcher = subprocess.Popen(
            [*launcher.command, sys.executable, "-m", "distbp", *arguments],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            # A launcher that cannot write to a closed terminal or a full disk kills the ranks.
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C on a terminal must reach only this process, which stops the ranks properly.
            start_new_session=True,
            preexec_fn=environment.signal_on_parent_death(launcher.stop_signal),
        )
        self._stop_signal = launcher.stop_signal
        streams = (self.launcher.stdout, out), (self.launcher.stderr, err)
        self._forwarders = [
            threading.Thread(target=_forward_stream, args=pair, daemon=True) for pair in streams
        ]
        for thread in self._forwarders:
            thread.start()

    def __enter__(self) -> "MpiLaunch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.terminate()

    def wait(self, timeout: float) -> int | None:
        """Return the launcher's exit status, or None if it runs for `timeout` more seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.wait(timeout)
        self._read_outcome()
        status = self.launcher.returncode
        return status if status is None or status >= 0 else 128 - status

    @property
    def has_started(self) -> bool:
        """Whether MPI has been initialized on all ranks."""
        # Once it has: a cleaner of temporary files may remove an old one during a long run.
        self._has_started = self._has_started or self._started_file.exists()
        return self._has_started

    def arrivals(self) -> dict[int, int]:
        """Return the process IDs of the ranks that have begun to connect, by rank."""
        found = {}
        for rank in range(self._ranks):
            with contextlib.suppress(OSError, ValueError):  # or it is being written
                found[rank] = int(environment.arrival_file(self._started_file, rank).read_text())
        return found

    def _read_outcome(self) -> None:
        try:
            text = (self.folder / "done").read_text(encoding="utf-8")
        except OSError:
            return
        # Without the last newline the file is still being written.
        if self.outcome_at is None and text.endswith("\n"):
            first, _, self.message = text.rstrip("\n").partition("\n")
            self.outcome, _, status = first.partition(" ")
            self.status = int(status)
            self.outcome_at = time.monotonic()

    def request_stop(self) -> bool:
        """Ask the ranks to save and stop; return whether any rank has been asked so far.

        A rank without a handler for the signal would be killed by it; it has not begun to
        train, and so has nothing to save. The request is repeated, because MPICH installs
        a handler before training does, and a signal that arrives in between is lost.
        """
        if time.monotonic() < self._stop_sent_at + _STOP_SIGNAL_INTERVAL_S:
            return True
        ranks = [
            pid
            for pid in processes.find_job_processes(self.tag)
            if processes.runs_program(pid, sys.executable)
            and processes.handles_signal(pid, signal.SIGUSR1)
        ]
        processes.send_signal(ranks, signal.SIGUSR1)
        if ranks:
            self._stop_sent_at = time.monotonic()
        return self._stop_sent_at > self.started_at

    def terminate(self) -> None:
        """Terminate all processes of this launch, and remove their files and shared memory."""
        self.launcher.send_signal(self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.wait(_CLEANUP_TIMEOUT_S)
        try:
            processes.kill_job_processes(self.tag)
        finally:  # a process that the kernel does not let die may remain
            self.launcher.kill()
            self.launcher.wait()
            for thread in self._forwarders:
                thread.join(_CLEANUP_TIMEOUT_S)
            processes.remove_segments(self._started_at_unix)
            shutil.rmtree(self.folder, ignore_errors=True)


def _forward_stream(source: IO[bytes], target: TextIO) -> None:
    """Copy a pipe to `target` as data arrives, until its last writer has closed it."""
    while data := os.read(source.fileno(), 1 << 16):
        # The pipe has to be drained also if the target is broken: a full one blocks the ranks.
        with contextlib.suppress(OSError, ValueError):
            target.buffer.write(data)
            target.flush()
    source.close()


def run_ranks(ranks: int, arguments: Sequence[str], reads_stdin: bool = False) -> int:
    """Run `distbp` with `arguments` on `ranks` ranks; return the exit status.

    With `reads_stdin`, rank 0 gets the standard input of this process.

    Raises
    ------
    LaunchError
        There is no MPI, or no launcher that belongs to it.
    """
    with _copied_stdin() if reads_stdin else contextlib.nullcontext() as stdin_file:
        return _run_ranks(ranks, arguments, stdin_file)


@contextlib.contextmanager
def _copied_stdin() -> Iterator[str]:
    """Yield the path of a temporary copy of standard input.

    MPICH's launcher forwards its own, but gives up if the rank does not keep pace.
    """
    with tempfile.NamedTemporaryFile(prefix="distbp_stdin_") as file:
        try:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        except OSError as failure:
            raise LaunchError(
                f"Standard input cannot be copied to {file.name}: {failure.strerror}. Set TMPDIR "
                "to a folder with more space, or name a file instead of -."
            ) from failure
        yield file.name


def _run_ranks(ranks: int, arguments: Sequence[str], stdin_file: str | None) -> int:
    """Run the ranks until they end; return the exit status."""
    with StopSignals() as signals, MpiLaunch(ranks, arguments, stdin_file=stdin_file) as launch:
        status = None
        while status is None and not signals:
            status = launch.wait(POLL_INTERVAL_S)
    if launch.outcome:
        return launch.status
    # Without an outcome the ranks have failed, even if the launcher has ended with status 0.
    return 128 + signals.received[0] if signals else status or 1


class Launcher(NamedTuple):
    """A program that starts ranks.

    Attributes
    ----------
    command : list of str
        To be followed by the program to start; empty for a single rank.
    variables : dict
        To be added to the environment.
    stop_signal : int
        The signal that terminates the launcher and its ranks.
    """

    command: list[str]
    variables: dict[str, str]
    stop_signal: int


def make_launcher(ranks: int, fault_tolerant: bool = False) -> Launcher:
    """Return the launcher for `ranks` ranks on this host; a single one needs no MPI.

    Parameters
    ----------
    ranks : int
    fault_tolerant : bool
        Whether the surviving ranks should continue after a rank failure, where the library can.

    Raises
    ------
    LaunchError
        There is no MPI, or no launcher that belongs to it.
    """
    if ranks == 1:
        return Launcher([], {}, signal.SIGKILL)
    library = mpi.library_version()
    if not library:
        raise LaunchError(
            f"--ranks {ranks} needs MPI, but no MPI library can be loaded. Install one: "
            f"pip install mpich."
        )
    command = [_find_launcher(library), "-n", str(ranks)]
    if not library.startswith("Open MPI"):
        # MPICH's ranks die with their launcher, however it ends. It would forward SIGTERM to
        # them, which they take as a request to save and stop.
        return Launcher(command, {}, signal.SIGKILL)
    return _open_mpi_launcher(command, fault_tolerant and has_ulfm(library))


def has_ulfm(library: str) -> bool:
    """Return whether an MPI library lets ranks continue after others have failed (ULFM)."""
    name, _, version = library.rpartition(" ")
    major = version.partition(".")[0]
    return name == "Open MPI" and major.isdecimal() and int(major) >= _FIRST_ULFM_VERSION


def _open_mpi_launcher(command: list[str], fault_tolerant: bool) -> Launcher:
    command += ["--oversubscribe", "--bind-to", "none"]
    # A rank that waits yields its core: there may be more ranks, or other programs, than cores.
    command += ["--mca", "mpi_yield_when_idle", "1"]
    if fault_tolerant:
        command += ["--with-ft", "ulfm"]
    # Open MPI refuses to start ranks as root without these. Whoever runs distbp as root with
    # --ranks has asked for that already.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # On SIGTERM Open MPI kills its ranks and removes its session files; on SIGKILL neither.
    return Launcher(command, root if os.geteuid() == 0 else {}, signal.SIGTERM)


@functools.cache
def _find_launcher(library: str) -> str:
    """Return the path of the launcher of an MPI library, next to this Python or on the PATH."""
    # A virtual environment with an MPI from PyPI need not be activated to be used.
    folders = (str(Path(sys.executable).parent), None)
    rejected = []
    for folder in folders:
        for name in _LAUNCHER_NAMES:
            path = shutil.which(name, path=folder)
            if path is None:
                continue
            if belongs_to(path, library):
                return path
            rejected.append(path)
    raise LaunchError(
        f"--ranks needs the mpiexec of {library}, the MPI library that Python uses, but "
        + (f"{', '.join(rejected)} belong to another MPI" if rejected else "the PATH has none")
        + ". Add its bin folder to the PATH."
    )


def belongs_to(path: str, library: str) -> bool:
    """Return whether the launcher at `path` is that of an MPI library.

    The launcher of another MPI would start N separate runs of one rank each.
    """
    try:
        version = subprocess.run(
            [path, "--version"],
            capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    is_open_mpi = "Open MPI" in version or "OpenRTE" in version or "PRRTE" in version
    return is_open_mpi == library.startswith("Open MPI")
