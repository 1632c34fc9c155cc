"""Ranks started from outside, under a deadline, of which nothing is left behind.

A `Job` is a command in a session of its own. All processes that come of it carry a
token in their environment, whatever launcher stands between: so they are found,
asked for their stacks and ended. A job that passes its deadline, or leaves a process
behind, fails the test with all that it wrote. `distbp` runs the command line, alone
or on several ranks, and returns how it `Ended`.
"""

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TOKEN = "DISTBP_TEST_TOKEN"
LIMIT = 120.0  # seconds for a command, many times of what any takes on a quiet machine
PATIENCE = 5.0  # seconds for the processes of a command that has ended to go
FULL = os.environ.get("DISTBP_TEST_FULL") == "1"

INSIDE = Path(__file__).parent / "inside"
ROOT = Path(__file__).parents[2]
running: list["Job"] = []  # what has not been waited for yet
SEGMENTS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*")  # what MPIs leave in /dev/shm


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    command: str
    status: int
    out: str
    err: str
    seconds: float
    ended_at: float

    def __str__(self) -> str:
        return (
            f"$ {self.command}\nended with status {self.status} after {self.seconds:.1f} s\n"
            f"--- standard output\n{self.out}\n--- standard error\n{self.err}\n---"
        )

    @property
    def digest(self) -> str:
        """The digest that `train` prints."""
        lines = [line for line in self.out.splitlines() if line.startswith("digest ")]
        assert len(lines) == 1, str(self)
        return lines[0].split()[1]


class Job:
    """A running command.

    Parameters
    ----------
    command : sequence of str
    folder : path
        Where it runs.
    environment : dict, optional
        Variables beside those of `base_environment`.
    limit : float
        Seconds until it has to have ended.
    files : (stdout, stderr), optional
        File descriptors to write to; by default what it writes is kept for `Ended`.
    options
        For subprocess.Popen.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        limit: float = LIMIT,
        files: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        self.command, self.limit = list(map(str, command)), limit
        self.folder = Path(folder)
        self.token = secrets.token_hex(16)
        self.scratch = Path(tempfile.mkdtemp(prefix="job"))  # short: sockets are put in it
        self.scratch.chmod(0o777)
        stacks = self.scratch / "stacks"
        stacks.mkdir()
        stacks.chmod(0o777)
        variables = base_environment() | {
            TOKEN: self.token,
            "TMPDIR": str(self.scratch),
            "DISTBP_TEST_STACKS": str(stacks),
        }
        self._segments = segments()
        self.began = time.monotonic()
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=variables | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=files[0] if files else out,
                stderr=files[1] if files else err,
                **{"start_new_session": True} | options,
            )
        running.append(self)
        # Nothing that is older can come of this job: other people's processes are not read.
        self._oldest = started(self.process.pid) or 0

    def _file(self, name: str) -> Path:
        return self.scratch / f"{name}.txt"

    def processes(self) -> list[int]:
        """Return the living processes that carry the token."""
        mark = f"{TOKEN}={self.token}".encode()
        return [pid for pid in newer_than(self._oldest) if mark in environment_of(pid)]

    def ranks(self) -> list[int]:
        """Return the processes that are ranks: Pythons that a launcher has started."""
        names = (b"\0OMPI_COMM_WORLD_RANK=", b"\0PMI_RANK=")
        return [
            pid
            for pid in self.processes()
            if any(name in b"\0" + environment_of(pid) for name in names)
            and name_of(pid).startswith("python")
        ]

    def wait(self) -> Ended:
        """Wait for the end of all its processes; fail the test if it does not come in time."""
        trouble = ""
        try:
            self.process.wait(max(0.0, self.began + self.limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            trouble = f"has not ended after {self.limit:g} s\n" + self._stacks()
        ended_at = time.time()
        left = [] if trouble else self._left()
        if left:
            trouble = f"has left {len(left)} processes: {', '.join(left)}\n" + self._stacks()
        self.end()
        result = Ended(
            command=" ".join(self.command),
            status=self.process.returncode,
            out=self._file("out").read_text(errors="replace"),
            err=self._file("err").read_text(errors="replace"),
            seconds=time.monotonic() - self.began,
            ended_at=ended_at,
        )
        files = [str(path) for path in [*self.scratch.glob("distbp-*"), *orphaned_memory()]]
        self.clear()
        if files:
            trouble += f"has left {', '.join(files)}\n"
        if trouble:
            pytest.fail(f"{trouble}\n{result}", pytrace=False)
        return result

    def _left(self) -> list[str]:
        """Return what is still there a while after the end."""
        until = time.monotonic() + PATIENCE
        while (pids := self.processes()) and time.monotonic() < until:
            time.sleep(0.02)
        return [f"{name_of(pid)} ({pid})" for pid in pids]

    def _stacks(self) -> str:
        """Return the stacks of all Pythons that can still say them."""
        asked = [pid for pid in self.processes() if catches(pid, signal.SIGUSR2)]
        # One that is stopped says where it stood as soon as it goes on, and then all may go on.
        for number in (signal.SIGUSR2, signal.SIGCONT):
            for pid in asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.3)
        files = sorted((self.scratch / "stacks").iterdir())
        return "".join(f"{path.name}:\n{text}\n" for path in files if (text := path.read_text()))

    def end(self) -> None:
        """Kill all processes of this job; there are none when this returns."""
        until = time.monotonic() + PATIENCE
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > until:
                raise RuntimeError(f"cannot be ended: {pids}")
            time.sleep(0.02)
        self.process.wait(PATIENCE)

    def clear(self) -> None:
        """Remove the files of this job, and the memory that MPI left when it was killed."""
        running.remove(self)
        shutil.rmtree(self.scratch, ignore_errors=True)
        if new := segments() - self._segments:
            used = maps()
            for path in new:
                if str(path) not in used:
                    path.unlink(missing_ok=True)


def base_environment() -> dict[str, str]:
    """Return the environment of a shell from which somebody starts distbp.

    Without what would say that this process is itself a rank; with what lets root,
    and more ranks than cores, be started by Open MPI.
    """
    foreign = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "DISTBP_", "PYTEST_", "OPENBLAS_", "OMP_", "MPI")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    variables.pop("COLUMNS", None)
    return variables | {
        "PYTHONPATH": os.pathsep.join([str(INSIDE), str(ROOT)]),
        "PYTHONWARNINGS": "error",
        "TERM": "xterm-256color",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }


# Commands


@functools.cache
def mpiexec(bin: Path = Path(sys.executable).parent) -> str:
    """Return the launcher of this Python's MPI."""
    path = shutil.which("mpiexec", path=str(bin)) or shutil.which("mpiexec")
    if path is None:
        pytest.fail("there is no mpiexec beside Python or on the PATH")
    return path


@functools.cache
def is_open_mpi() -> bool:
    answer = subprocess.run([mpiexec(), "--version"], capture_output=True, text=True, check=True)
    return "Open MPI" in answer.stdout


def command_of(
    arguments: Sequence[Any], n: int | None = None, python: str = sys.executable
) -> list[str]:
    """Return the command that runs distbp alone, or by mpiexec on `n` ranks."""
    launcher = [mpiexec(), "-n", str(n)] if n else []
    return [*launcher, python, "-m", "distbp", *map(str, arguments)]


def distbp(
    *arguments: Any,
    folder: Path,
    n: int | None = None,
    status: int | None = 0,
    environment: dict[str, str] | None = None,
    limit: float = LIMIT,
    **options: Any,
) -> Ended:
    """Run `distbp` with the arguments, alone or on `n` ranks; check its exit status.

    `status` None stands for any that is not 0.
    """
    ended = Job(command_of(arguments, n), folder, environment, limit, **options).wait()
    assert ended.status == status if status is not None else ended.status != 0, str(ended)
    return ended


def fault(folder: Path, rank: int | str, place: str, kind: str, call: int = 1) -> dict[str, str]:
    """Return the environment that makes a rank fail in that call of a place's function.

    See inside/faulty.py; the moment is written to the file `fault` in the folder.
    """
    return {
        "DISTBP_TEST_FAULT": f"{rank}:{place}:{kind}:{call}",
        "DISTBP_TEST_FAULT_TIME": str(folder / "fault"),
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl, without what is measured by a clock."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(record.pop("seconds") >= 0 for record in records)
    assert all(record.pop("samples_per_s") >= 0 for record in records)
    return records


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes, of which the end of the first may be that of the others."""
    assert pids, "there is nobody to be killed"
    os.kill(pids[0], number)
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def plain(text: str) -> str:
    """Return what distbp itself has written to standard error under a launcher.

    Open MPI's launcher adds a box of its own when a rank ends with a status.
    """
    lines = text.splitlines()
    return "\n".join(line for line in lines if line.startswith("distbp: "))


# Processes, by what Linux says of them


def newer_than(oldest: int) -> Iterator[int]:
    """Yield the processes that were started at that clock tick or later, and live."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (started(int(entry)) or -1) >= oldest:
            yield int(entry)


def started(pid: int) -> int | None:
    """Return when a living process was started, in clock ticks; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal, which would kill it otherwise."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def segments() -> set[Path]:
    """Return the files that MPIs share memory through."""
    return {path for pattern in SEGMENTS for path in Path("/dev/shm").glob(pattern)}


def orphaned_memory() -> list[Path]:
    """Return the files of distbp's in /dev/shm whose process has ended."""
    found = Path("/dev/shm").glob("distbp-*")
    return [path for path in found if started(int(path.name.split("-")[1])) is None]


def maps() -> str:
    """Return what all living processes have mapped of /dev/shm."""
    used = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            used += [line for line in path.read_text().splitlines() if "/dev/shm/" in line]
    return "\n".join(used)
