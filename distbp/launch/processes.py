"""Find and kill the processes of a launch, and remove shared memory that they leave behind.

MPI launchers put ranks into sessions and process groups of their own, so neither identifies
the processes of a launch. All of them inherit the environment, though: a launch puts a unique
entry NAME=value, its tag, into it and finds its processes by that in /proc. On systems without
/proc nothing is found. Which tag is used, and why something is killed, is not known here.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from distbp.errors import LaunchError

_KILL_TIMEOUT_S = 5.0  # for a process to exit after SIGKILL
_SHM_FOLDER = Path("/dev/shm")  # noqa: S108 (nothing is created there)
# A segment of distbp has a name only where it needs one, and only until all ranks have mapped it:
# it is left behind by ranks that died in between. It is named after the process that created it.
_DISTBP_SEGMENT = re.compile(r"distbp-([0-9]+)-\w+")
_MPI_SEGMENTS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*")
_MAPPING_DELAY_S = 0.1  # from the creation of a segment until some process has mapped it


def find_job_processes(tag: str) -> list[int]:
    """Return the ids of the processes that have `tag`, as NAME=value, in their environment."""
    return [pid for pid in _all_processes() if tag.encode() in _environment_of(pid)]


def _all_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _environment_of(pid: int) -> list[bytes]:
    """Return the environment of a process; empty if it is exiting or another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    """Return whether a process exists and has not exited; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def runs_program(pid: int, program: str) -> bool:
    """Return whether the executable of a process is `program`."""
    try:
        return Path(f"/proc/{pid}/exe").samefile(program)
    except OSError:
        return False


def handles_signal(pid: int, number: int) -> bool:
    """Return whether a process has installed a handler for a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return any(mask >> (number - 1) & 1 for mask in masks)


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to each of the processes that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_job_processes(tag: str) -> None:
    """Kill all processes with a tag, and return when none of them is left.

    Parameters
    ----------
    tag : str
        An entry NAME=value of their environment.

    Raises
    ------
    LaunchError
        A process has not exited `_KILL_TIMEOUT_S` after SIGKILL.
    """
    seen: set[int] = set()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        pids = find_job_processes(tag)
        send_signal(pids, signal.SIGKILL)
        seen.update(pids)
        # An exiting process loses its environment before it closes files and releases locks,
        # which the next launch needs: wait for the processes themselves.
        remaining = [pid for pid in seen if _is_running(pid)]
        if not pids and not remaining:
            return
        if time.monotonic() > deadline:
            raise LaunchError(
                f"Processes {', '.join(map(str, remaining))} of this run do not exit after "
                f"SIGKILL; they are probably blocked in the kernel, for example by a network file "
                f"system that does not respond. Terminate them, then continue with --resume."
            )
        time.sleep(0.01)


def remove_segments(since: float) -> None:
    """Remove unused shared memory segments that distbp or MPI has created since a time.

    Parameters
    ----------
    since : float
        In seconds since 1970, as `time.time` returns it.
    """
    for path in lasting_unused_segments(since):
        path.unlink(missing_ok=True)


def lasting_unused_segments(since: float) -> set[Path]:
    """Return this user's segments, created since a time, that nobody uses and will use."""
    unused = _unused_segments(since)
    if unused:
        # A process of another job may have created one and not mapped it yet.
        time.sleep(_MAPPING_DELAY_S)
        unused &= _unused_segments(since)
    return unused


def _unused_segments(since: float) -> set[Path]:
    """Return this user's segments, created since a time, that no process uses or may yet use."""
    of_distbp = {
        path
        for path in _SHM_FOLDER.glob("distbp-*")
        if (match := _DISTBP_SEGMENT.fullmatch(path.name)) and not _is_running(int(match[1]))
    }
    of_mpi = {path for pattern in _MPI_SEGMENTS for path in _SHM_FOLDER.glob(pattern)}
    found = {path for path in of_distbp | of_mpi if _is_own_and_newer(path, since)}
    used = "".join(map(_mapped_files, _all_processes())) if found else ""
    return {path for path in found if str(path) not in used}


def _is_own_and_newer(path: Path, since: float) -> bool:
    """Return whether a file belongs to this user and was modified at or after a time."""
    try:
        about = path.stat()
    except OSError:
        return False
    return about.st_uid == os.geteuid() and about.st_mtime >= since


def _mapped_files(pid: int) -> str:
    """Return the memory mappings of a process, in the format of /proc/PID/maps."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""
