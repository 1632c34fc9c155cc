"""Start distbp from outside, with a time limit, and make sure that no process is left behind.

A `Job` is a command in a session of its own. All processes that descend from it carry a
token in their environment, whatever launcher is in between: by it they are found, asked
for their stacks, and killed. A job that exceeds its time limit or leaves a process behind fails
the test, with everything it has printed. `distbp` runs the command line, on one rank or
several, and returns how it `Ended`.
"""

import contextlib
import functools
import json
import os
import re
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
LIMIT = 300.0  # seconds for a command, many times what any takes on an idle machine
EXIT_TIMEOUT_S = 5.0  # for the processes of a command to exit after it
STACKS_TIMEOUT_S = 10.0  # for processes to print their stacks
FULL = os.environ.get("DISTBP_TEST_FULL") == "1"

INSIDE = Path(__file__).parent / "inside"
ROOT = Path(__file__).parents[2]
running: list["Job"] = []  # jobs that have not been waited for
SHARED_MEMORY = Path("/dev/shm")
MPI_SEGMENTS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*")


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
        The working directory.
    environment : dict, optional
        Variables in addition to those of `base_environment`.
    limit : float
        Time limit in seconds.
    files : (stdout, stderr), optional
        File descriptors to write to; by default the output is kept for `Ended`.
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
        # A short path, because Unix sockets are created in it.
        self.scratch = Path(tempfile.mkdtemp(prefix="job"))
        self.scratch.chmod(0o777)
        stacks = self.scratch / "stacks"
        stacks.mkdir()
        stacks.chmod(0o777)
        variables = base_environment() | {
            TOKEN: self.token,
            "TMPDIR": str(self.scratch),
            "DISTBP_TEST_STACKS": str(stacks),
        }
        self._segments_before = mpi_segments()
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
        # Processes that are older cannot belong to this job, and need not be examined.
        self._oldest = start_time(self.process.pid) or 0

    def _file(self, name: str) -> Path:
        return self.scratch / f"{name}.txt"

    def processes(self) -> list[int]:
        """Return the running processes that carry the token."""
        entry = f"{TOKEN}={self.token}".encode()
        return [pid for pid in processes_since(self._oldest) if entry in environment_of(pid)]

    def ranks(self) -> list[int]:
        """Return the processes that are ranks: the Pythons started by a launcher."""
        names = (b"\0OMPI_COMM_WORLD_RANK=", b"\0PMI_RANK=")
        return [
            pid
            for pid in self.processes()
            if any(name in b"\0" + environment_of(pid) for name in names)
            and name_of(pid).startswith("python")
        ]

    def wait(self) -> Ended:
        """Wait until all processes have exited; fail the test if they do not in time."""
        failure = ""
        try:
            self.process.wait(max(0.0, self.began + self.limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            failure = f"did not end within {self.limit:g} s\n" + self._stacks()
        ended_at = time.time()
        left = [] if failure else self._processes_left()
        if left:
            failure = f"left {len(left)} processes behind: {', '.join(left)}\n" + self._stacks()
        self.end()
        result = Ended(
            command=" ".join(self.command),
            status=self.process.returncode,
            out=self._file("out").read_text(errors="replace"),
            err=self._file("err").read_text(errors="replace"),
            seconds=time.monotonic() - self.began,
            ended_at=ended_at,
        )
        left_files = [*self.scratch.glob("distbp-*"), *orphaned_segments()]
        for path in left_files:  # reported here, and not by all later jobs as well
            path.unlink(missing_ok=True)
        self.clear()
        if left_files:
            failure += f"left {', '.join(map(str, left_files))} behind\n"
        if failure:
            pytest.fail(f"{failure}\n{result}", pytrace=False)
        return result

    def _processes_left(self) -> list[str]:
        """Return the processes that are still running a while after the command has ended."""
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        while (pids := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return [f"{name_of(pid)} ({pid})" for pid in pids]

    def _stacks(self) -> str:
        """Return the stacks of all Pythons that can still print them."""
        pids = [pid for pid in self.processes() if handles_signal(pid, signal.SIGUSR2)]
        # A stopped process prints its stack once it continues; others may continue then, too.
        awaited = [pid for pid in pids if state_of(pid) != "T"]
        for number in (signal.SIGUSR2, signal.SIGCONT):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            self._wait_for_stacks(awaited)
            awaited = pids
        files = sorted((self.scratch / "stacks").iterdir())
        texts = {path.name: path.read_text() for path in files}
        return "".join(f"{name}:\n{text}\n" for name, text in texts.items() if text)

    def _wait_for_stacks(self, pids: Sequence[int]) -> None:
        """Wait until Pythons, many of which may share a core, have printed their stacks.

        Of other processes, such as a launcher that forwards signals, there is no file.
        """
        deadline, before, folder = time.monotonic() + STACKS_TIMEOUT_S, -1, self.scratch / "stacks"
        while time.monotonic() < deadline:
            sizes = {int(path.name.rpartition("-")[2]): path.stat().st_size
                     for path in folder.iterdir()}  # fmt: skip
            if all(sizes.get(pid, 1) for pid in pids) and sum(sizes.values()) == before:
                return
            before = sum(sizes.values())
            time.sleep(0.1)

    def end(self) -> None:
        """Kill all processes of this job; none is running when this returns."""
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {pids} do not exit after SIGKILL")
            time.sleep(0.02)
        self.process.wait(EXIT_TIMEOUT_S)

    def clear(self) -> None:
        """Remove the files of this job, and shared memory that a killed MPI left behind."""
        running.remove(self)
        shutil.rmtree(self.scratch, ignore_errors=True)
        for path in unused_segments(mpi_segments() - self._segments_before):
            path.unlink(missing_ok=True)


def base_environment() -> dict[str, str]:
    """Return the environment of a shell from which a user starts distbp.

    It does not have the variables by which this process might be mistaken for a rank, and it
    has those that let Open MPI start ranks as root, and more of them than there are cores.
    """
    foreign = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "DISTBP_", "PYTEST_", "OPENBLAS_", "OMP_", "MPI")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    variables.pop("COLUMNS", None)
    return variables | {
        "DISTBP_ENGINE": os.environ.get("DISTBP_ENGINE", "auto"),  # see conftest.py
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
    """Return the launcher of the MPI that this Python uses."""
    path = shutil.which("mpiexec", path=str(bin)) or shutil.which("mpiexec")
    if path is None:
        pytest.fail("there is no mpiexec next to Python or on the PATH")
    return path


@functools.cache
def is_open_mpi() -> bool:
    version = subprocess.run([mpiexec(), "--version"], capture_output=True, text=True, check=True)
    return "Open MPI" in version.stdout


def fault_tolerant_launcher(n: int) -> list[str]:
    """Return the start of a command on `n` ranks that continue when one dies, if MPI lets them."""
    return [mpiexec(), *(("--with-ft", "ulfm") if is_open_mpi() else ()), "-n", str(n)]


def command_of(
    arguments: Sequence[Any], n: int | None = None, python: str = sys.executable
) -> list[str]:
    """Return the command that runs distbp without a launcher, or by mpiexec on `n` ranks."""
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
    """Run `distbp` without a launcher, or on `n` ranks; check its exit status.

    `status` None stands for any status but 0.
    """
    ended = Job(command_of(arguments, n), folder, environment, limit, **options).wait()
    assert ended.status == status if status is not None else ended.status != 0, str(ended)
    return ended


def fault(folder: Path, rank: int | str, place: str, kind: str, call: int = 1) -> dict[str, str]:
    """Return the environment that injects a fault into a rank, at the given call of a place.

    See inside/inject_fault.py; the time of the fault is written to the file `fault` in `folder`.
    """
    return {
        "DISTBP_TEST_FAULT": f"{rank}:{place}:{kind}:{call}",
        "DISTBP_TEST_FAULT_TIME": str(folder / "fault"),
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl, without those that depend on time."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(record.pop("seconds") >= 0 for record in records)
    assert all(record.pop("samples_per_s") >= 0 for record in records)
    return records


def newest_step(run: Path) -> int:
    """Return the step of the newest checkpoint that was written within an epoch; 0 without one."""
    return max((int(path.stem[5:]) for path in run.glob("checkpoints/step-*.h5")), default=0)


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes; the end of the first may already have ended the others."""
    assert pids, "there is no process to kill"
    os.kill(pids[0], number)
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def distbp_messages(text: str) -> str:
    """Return the lines of standard error that distbp itself has written.

    Open MPI's launcher adds a box of text when a rank ends with a status other than 0.
    """
    lines = text.splitlines()
    return "\n".join(line for line in lines if line.startswith("distbp: "))


# Processes, from /proc


def processes_since(oldest: int) -> Iterator[int]:
    """Yield the running processes that were started at that clock tick or later."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (start_time(int(entry)) or -1) >= oldest:
            yield int(entry)


def start_time(pid: int) -> int | None:
    """Return when a running process was started, in clock ticks; None if it has exited."""
    fields = status_of(pid)
    return None if fields[0] in "ZX" else int(fields[19])


def state_of(pid: int) -> str:
    """Return the letter of a process's state: T if it is stopped, X if it has exited."""
    return status_of(pid)[0]


def status_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; ["X"] if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X"]


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "exited"


def handles_signal(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal, which would kill it otherwise."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def mpi_segments() -> set[Path]:
    """Return the shared memory segments of MPI libraries."""
    return {path for pattern in MPI_SEGMENTS for path in SHARED_MEMORY.glob(pattern)}


def orphaned_segments() -> list[Path]:
    """Return the shared memory segments of distbp whose process has exited."""
    found = {path: re.match(r"distbp-(\d+)-", path.name) for path in SHARED_MEMORY.iterdir()}
    return [path for path, pid in found.items() if pid and start_time(int(pid[1])) is None]


def unused_segments(segments: set[Path]) -> set[Path]:
    """Return those that no process uses, nor will use: it may have created one a moment ago."""
    unused = segments
    for delay_s in (0.0, 0.2):
        if unused:
            time.sleep(delay_s)
            mapped = mapped_segments()
            unused = {path for path in unused if str(path) not in mapped}
    return unused


def mapped_segments() -> str:
    """Return the lines of all running processes' memory mappings that name shared memory."""
    mapped, folder = [], f"{SHARED_MEMORY}/"
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            mapped += [line for line in path.read_text().splitlines() if folder in line]
    return "\n".join(mapped)
