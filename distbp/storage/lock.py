"""One run a directory: a lock, and a token for where a lock does not reach.

Who writes to a run's directory holds a lock on the file `lock` in it, which the system
opens when a process has ended. A host that lost the network may go on believing that it
holds the lock, while a batch queue has started the job again elsewhere: so the file also
has a token, the last one to take the lock writes its own, and who does not find its own
any more writes nothing.
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
from distbp.storage.atomic import reason

JOB, RESTART = "SLURM_JOB_ID", "SLURM_RESTART_COUNT"
MOST = 4096  # bytes of the file that are read


class RunLock:
    """The right to write to a run's directory.

    Parameters
    ----------
    folder : Path
    environment : mapping
        In which SLURM says which job this is, and how often it was started again.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.path = folder / "lock"
        self._descriptor: int | None = None
        self._mine = {
            "token": secrets.token_hex(8),
            "host": platform.node(),
            "process": os.getpid(),
            "job": environment.get(JOB, ""),
            "restart": int(environment.get(RESTART, "0") or 0),
        }

    def take(self) -> None:
        """Take the lock.

        Raises
        ------
        CheckpointError
            Another run has it, or there can be none.
        """
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            holder = self._read()
            if not self._lock() and not self.is_requeue_of(holder):
                os.close(self._descriptor)
                self._descriptor = None
                raise CheckpointError(
                    f"{self.path.parent} is in use by process {holder.get('process')} on "
                    f"{holder.get('host')}. Wait until that run has ended, or choose another --out."
                )
            self._write()
        except OSError as failure:
            raise CheckpointError(f"{self.path} cannot be written: {reason(failure)}.") from failure

    def _lock(self) -> bool:
        """Return whether nobody else has the lock, as far as the file system knows locks."""
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: the token has to do
        return True

    def is_requeue_of(self, holder: dict[str, Any]) -> bool:
        """Return whether this is the holder's own job, started again by SLURM."""
        mine = self._mine
        is_same = bool(mine["job"]) and holder.get("job") == mine["job"]
        return is_same and holder.get("restart", 0) < mine["restart"]

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                found = json.loads(file.read(MOST))
        except ValueError:  # nothing yet
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(self._mine).encode() + b"\n", 0)
            os.fsync(self._descriptor)

    def check(self) -> None:
        """Raise FencedError if another run has taken over."""
        try:
            holder = self._read()
        except OSError:  # a file system that is away now may be back for the next save
            return
        if holder.get("token") != self._mine["token"]:
            raise FencedError(
                f"{self.path.parent} was taken over by process {holder.get('process')} on "
                f"{holder.get('host')}. This run ends and writes nothing more."
            )

    def release(self) -> None:
        """Let others have the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
