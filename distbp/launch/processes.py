"""Processes and the memory that they leave behind, by what Linux says of them.

Launchers put ranks into sessions and process groups of their own; what all of them
inherit is the environment. So whoever starts something writes a mark there, and
finds by it, in /proc, all that came of it. Where there is no /proc nothing is found.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from distbp.errors import LaunchError

KILL_TIMEOUT_S = 5.0  # seconds for a process that was killed to be gone
MEMORY = Path("/dev/shm")  # noqa: S108 (nothing is written there)
OUR_SEGMENTS = "distbp-*"  # named by the process that makes them, until all have mapped them
MPI_SEGMENTS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*")


def find_job_processes(mark: str) -> list[int]:
    """Return the processes that have `mark`, as in NAME=value, in their environment."""
    return [pid for pid in all_processes() if mark.encode() in environment_of(pid)]


def all_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def environment_of(pid: int) -> list[bytes]:
    """Return a process's environment; nothing of one that is ending."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Return whether a process has not ended; one that is only not waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def runs(pid: int, program: str) -> bool:
    """Return whether a process runs that very program."""
    try:
        return Path(f"/proc/{pid}/exe").samefile(program)
    except OSError:
        return False


def handles_signal(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return any(mask >> (number - 1) & 1 for mask in masks)


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_job_processes(mark: str) -> None:
    """Kill all processes with a mark; none of them is left when this returns.

    Raises
    ------
    LaunchError
        One of them cannot be ended.
    """
    seen: set[int] = set()
    until = time.monotonic() + KILL_TIMEOUT_S
    while True:
        pids = find_job_processes(mark)
        send(pids, signal.SIGKILL)
        seen.update(pids)
        # An ending process loses its environment before its files and locks.
        left = [pid for pid in seen if is_running(pid)]
        if not pids and not left:
            return
        if time.monotonic() > until:
            raise LaunchError(
                f"Processes {', '.join(map(str, left))} of this run cannot be ended: the kernel "
                f"holds them, as when a network file system does not answer. End them, and go on "
                f"with --resume."
            )
        time.sleep(0.01)


def remove_segments(since: float) -> None:
    """Remove shared memory made since a time by distbp and MPI that no process uses any more."""
    if unused := unused_segments(since):
        time.sleep(0.1)  # somebody else's may have been made, and not mapped, at that moment
        for path in unused & unused_segments(since):
            path.unlink(missing_ok=True)


def unused_segments(since: float) -> set[Path]:
    """Return this user's segments made since a time that no process has mapped, or is about to."""
    ours = {
        path for path in MEMORY.glob(OUR_SEGMENTS) if not is_running(int(path.name.split("-")[1]))
    }
    of_mpi = {path for pattern in MPI_SEGMENTS for path in MEMORY.glob(pattern)}
    found = {path for path in ours | of_mpi if is_mine(path, since)}
    used = "".join(map(maps_of, all_processes())) if found else ""
    return {path for path in found if str(path) not in used}


def is_mine(path: Path, since: float) -> bool:
    """Return whether a file is this user's, and not older than that."""
    try:
        about = path.stat()
    except OSError:
        return False
    return about.st_uid == os.geteuid() and about.st_mtime >= since


def maps_of(pid: int) -> str:
    """Return the files that a process has mapped, as Linux lists them."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""
