"""Start N ranks here, with the launcher that belongs to the installed MPI.

A `Launch` is `python -m distbp` with some arguments on N ranks, from finding `mpiexec`
and its options to the end of the last process that came of it. `run_ranks` is one
launch that is waited for; `supervise` makes more of it.
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
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, TextIO

from distbp import terminal
from distbp.errors import LaunchError
from distbp.launch import processes
from distbp.parallel import comm, environment
from distbp.parallel.environment import RANKS_VARIABLE
from distbp.training import stop_request

NAMES = ("mpiexec", "mpirun", "mpiexec.hydra", "mpiexec.mpich", "mpirun.openmpi", "mpiexec.openmpi")
POLL_INTERVAL_S = 0.1  # seconds between two looks
STOP_SIGNAL_INTERVAL_S = 1.0  # seconds between two requests to stop
CLEANUP_TIMEOUT_S = 2.0  # seconds for a launcher to end by itself when it is told to


class Requests:
    """The signals by which somebody asks this process to stop; a context in which they are kept.

    Attributes
    ----------
    received : list of int
    since : float
        When the first one came, by time.monotonic.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.since = 0.0

    def __enter__(self) -> "Requests":
        self._before = stop_request.take_signals(self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        stop_request.give_back(self._before)

    def _receive(self, number: int, frame: object) -> None:
        self.since = self.since or time.monotonic()
        self.received.append(number)

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def forced(self) -> bool:
        """Whether somebody does not want to wait for what has to be saved."""
        # A terminal that is closed may say so more than once.
        patient = signal.SIGUSR1, signal.SIGHUP
        return len(self.received) > 1 and self.received[-1] not in patient


class Launch:
    """Ranks that are started together; a context at whose end nothing of them is left.

    Parameters
    ----------
    ranks : int
    arguments : sequence of str
        Of `distbp`, on each of them.
    fault_tolerant : bool
        Whether MPI is to let the others go on when a rank is killed, where it can.

    Attributes
    ----------
    began : float
        By time.monotonic.
    end_said_at : float or None
        When the ranks were found to have said how they ended.
    outcome, text : str
        How, and why: one of the words in `tether`, and a sentence. Empty if they have not.
    status : int
        The exit status that goes with it.
    """

    def __init__(self, ranks: int, arguments: Sequence[str], fault_tolerant: bool = False) -> None:
        launcher = make_launcher(ranks, fault_tolerant)
        self.folder = Path(tempfile.mkdtemp(prefix="distbp_"))
        token = secrets.token_hex(16)
        self.mark = f"{environment.TOKEN_VARIABLE}={token}"
        self.began, self._began = time.monotonic(), time.time()
        self._asked_at = -math.inf
        self.end_said_at: float | None = None
        self.outcome, self.text, self.status = "", "", 0
        variables = launcher.variables | {
            RANKS_VARIABLE: str(ranks),
            environment.TOKEN_VARIABLE: token,
            environment.STARTED_VARIABLE: str(self.folder / "started"),
            environment.DONE_VARIABLE: str(self.folder / "done"),
            terminal.TERMINAL_WIDTHS_VARIABLE: "{},{}".format(*terminal.terminal_widths()),
            "TMPDIR": str(self.folder),  # a launcher that is killed leaves files there
        }
        self.launcher = subprocess.Popen(
            [*launcher.command, sys.executable, "-m", "distbp", *arguments],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            # A launcher whose terminal is closed, or whose disk is full, would end the ranks.
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C of a terminal is for this process, which knows how to stop the ranks.
            start_new_session=True,
            preexec_fn=environment.signal_on_parent_death(launcher.ending),
        )
        self._ending = launcher.ending
        streams = (self.launcher.stdout, sys.stdout), (self.launcher.stderr, sys.stderr)
        self._copies = [
            threading.Thread(target=forward_stream, args=pair, daemon=True) for pair in streams
        ]
        for thread in self._copies:
            thread.start()

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def wait(self, seconds: float) -> int | None:
        """Return the launcher's exit status, or None if it is still there after that long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.wait(seconds)
        self._read_end()
        status = self.launcher.returncode
        return status if status is None or status >= 0 else 128 - status

    @property
    def has_started(self) -> bool:
        """Whether the ranks have found each other."""
        return (self.folder / "started").exists()

    def _read_end(self) -> None:
        try:
            said = (self.folder / "done").read_text(encoding="utf-8")
        except OSError:
            return
        if self.end_said_at is None and said.endswith("\n"):
            first, _, self.text = said.rstrip("\n").partition("\n")
            self.outcome, _, status = first.partition(" ")
            self.status = int(status)
            self.end_said_at = time.monotonic()

    def ask_to_stop(self) -> bool:
        """Let the ranks save and stop; return whether there is, or was, one that can.

        A rank that does not catch the signal yet, and would be killed by it, has nothing to
        save. One may have been asked in vain: MPICH catches the signal before training does.
        """
        if time.monotonic() < self._asked_at + STOP_SIGNAL_INTERVAL_S:
            return True
        ranks = [
            pid
            for pid in processes.find_job_processes(self.mark)
            if processes.runs(pid, sys.executable) and processes.handles_signal(pid, signal.SIGUSR1)
        ]
        processes.send(ranks, signal.SIGUSR1)
        if ranks:
            self._asked_at = time.monotonic()
        return self._asked_at > self.began

    def end(self) -> None:
        """End all that came of it, and remove what it has left behind."""
        self.launcher.send_signal(self._ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.wait(CLEANUP_TIMEOUT_S)
        processes.kill_job_processes(self.mark)
        self.launcher.kill()
        self.launcher.wait()
        for thread in self._copies:
            thread.join(CLEANUP_TIMEOUT_S)
        processes.remove_segments(self._began)
        shutil.rmtree(self.folder, ignore_errors=True)


def forward_stream(source: IO[bytes], target: TextIO) -> None:
    """Copy what comes from a pipe, as it comes, until nobody is left to write to it."""
    while piece := os.read(source.fileno(), 1 << 16):
        with contextlib.suppress(OSError, ValueError):  # or the ranks would wait for ever
            target.buffer.write(piece)
            target.flush()
    source.close()


def run_ranks(ranks: int, arguments: Sequence[str]) -> int:
    """Run `distbp` with `arguments` on `ranks` ranks; return the exit status.

    Raises
    ------
    LaunchError
        There is no MPI, or no launcher that belongs to it.
    """
    with Requests() as requests, Launch(ranks, arguments) as launch:
        status = None
        while status is None and not requests:
            status = launch.wait(POLL_INTERVAL_S)
    if launch.outcome:
        return launch.status
    return 128 + requests.received[0] if requests else status or 1


class Launcher(NamedTuple):
    """What starts ranks: the command's beginning, variables, and the signal that ends it."""

    command: list[str]
    variables: dict[str, str]
    ending: int


def make_launcher(ranks: int, fault_tolerant: bool = False) -> Launcher:
    """Return what starts `ranks` ranks; a single one needs no MPI."""
    if ranks == 1:
        return Launcher([], {}, signal.SIGKILL)
    library = comm.mpi_library()
    if not library:
        raise LaunchError(
            f"--ranks {ranks} needs MPI, and no MPI library can be loaded. Install one: "
            f"pip install mpich."
        )
    command = [find_launcher(library), "-n", str(ranks)]
    if not library.startswith("Open MPI"):
        # Without it its ranks are ended; by SIGTERM they would only be asked.
        return Launcher(command, {}, signal.SIGKILL)
    command += ["--oversubscribe", "--bind-to", "none"]
    # A waiting rank leaves its core to whatever else this machine does.
    command += ["--mca", "mpi_yield_when_idle", "1"]
    if fault_tolerant:
        command += ["--with-ft", "ulfm"]
    # Who starts ranks as root here has said so by starting this as root.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # By this signal it tidies up behind itself.
    return Launcher(command, root if os.geteuid() == 0 else {}, signal.SIGTERM)


@functools.cache
def find_launcher(library: str) -> str:
    """Return the path of the launcher of an MPI library, beside this Python or on the PATH."""
    folders = (str(Path(sys.executable).parent), None)
    seen = []
    for folder in folders:
        for name in NAMES:
            path = shutil.which(name, path=folder)
            if path is None:
                continue
            if launches(path, library):
                return path
            seen.append(path)
    raise LaunchError(
        f"--ranks needs the mpiexec of {library}, which Python uses; "
        + (f"{', '.join(seen)} belong to another MPI." if seen else "there is none on the PATH.")
    )


def launches(path: str, library: str) -> bool:
    """Return whether the launcher at `path` belongs to an MPI library."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    is_open_mpi = "Open MPI" in answer or "OpenRTE" in answer or "PRRTE" in answer
    return is_open_mpi == library.startswith("Open MPI")
