"""One writing run per directory: a file lock, and a fencing token where locks do not reach.

The process that writes to a run's directory holds a lock (flock) on the file `lock` in it;
the operating system releases it when the process ends. A host that is cut off from the
network may still believe that it holds the lock while the batch system has requeued the job
elsewhere. So the file also holds a token: whoever acquires the lock writes its own, and a
process that finds another token than its own writes nothing more.
"""

import fcntl
import json
import os
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distbp.errors import CheckpointError, FencedError
from distbp.storage.atomic import failure_reason

_MAX_LOCK_FILE_BYTES = 4096


class RunLock:
    """The right to write to a run's directory.

    Parameters
    ----------
    folder : Path
    environment : mapping
        SLURM_JOB_ID and SLURM_RESTART_COUNT in it identify a job that was requeued.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.path = folder / "lock"
        self._descriptor: int | None = None
        self._own = {
            "token": secrets.token_hex(8),
            "host": platform.node(),
            "process": os.getpid(),
            "job": environment.get("SLURM_JOB_ID", ""),
            "restart": int(environment.get("SLURM_RESTART_COUNT", "0") or 0),
        }

    def acquire(self) -> None:
        """Acquire the lock, or take it over from an earlier start of the same SLURM job.

        Raises
        ------
        CheckpointError
            Another run holds it, or the file cannot be written.
        """
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            holder = self._read()
            # SLURM requeues a job whose host it lost: that host may hold the lock, but is fenced.
            if not self._try_flock() and not self._is_requeue_of(holder):
                self.release()
                raise CheckpointError(
                    f"{self.path.parent} is in use by {_process_text(holder)}. Wait until that run "
                    f"has ended, or choose another --out."
                )
            self._write()
        except OSError as failure:
            self.release()  # this process may try again
            raise CheckpointError(
                f"{self.path} cannot be written: {failure_reason(failure)}."
            ) from failure

    def _try_flock(self) -> bool:
        """Return whether no other process holds the lock, as far as the file system has locks."""
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: the token has to suffice
        return True

    def _is_requeue_of(self, holder: dict[str, Any]) -> bool:
        """Return whether this is the job of `holder`, requeued by SLURM."""
        is_same_job = bool(self._own["job"]) and holder.get("job") == self._own["job"]
        return is_same_job and holder.get("restart", 0) < self._own["restart"]

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                found = json.loads(file.read(_MAX_LOCK_FILE_BYTES))
        except ValueError:  # a new file, or no JSON: there is no holder
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        if self._descriptor is not None:  # written in place: a rename would drop the lock
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(self._own).encode() + b"\n", 0)
            os.fsync(self._descriptor)

    def check_not_fenced(self) -> None:
        """Raise FencedError if another run has taken over the directory."""
        try:
            holder = self._read()
        except OSError:  # a file system that is unavailable now may be back for the next save
            return
        if holder.get("token") != self._own["token"]:
            raise FencedError(
                f"{self.path.parent} was taken over by {_process_text(holder)}. This run ends and "
                f"writes nothing more."
            )

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def _process_text(holder: dict[str, Any]) -> str:
    """Return what names the process that has written the lock file."""
    if {"process", "host"} <= holder.keys():
        return f"process {holder['process']} on {holder['host']}"
    return "another process"
