"""status.json: where a run is between two epochs, and how it ended.

The recorder writes it when a run starts, every few seconds while it trains, and at its end, for
those who look on, such as `distbp watch`; the run itself never reads it. It is overwritten in
place and not forced to the disk, so a reader may find it incomplete; a process that was killed
leaves the state `running`, with a time that grows old.
"""

import json
import time
from typing import Any

from distbp.errors import CheckpointError, DistbpError, StoppedError
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training.state import Progress

STATUS_NAME = "status.json"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
STATUS_INTERVAL_S = 5.0  # a job array of a thousand tasks writes 200 of them a second
_MAX_TEXT_CHARS = 500


class StatusFile:
    """The status of a run that this process records.

    A write error is ignored: nothing depends on the file.

    Parameters
    ----------
    directory : RunDirectory
    lock : RunLock
        Without which nothing is written.
    epochs, steps : int
        Of the run, and of an epoch.

    Attributes
    ----------
    next_write : float
        When `write_step` is due, by time.monotonic.
    """

    def __init__(self, directory: RunDirectory, lock: RunLock, epochs: int, steps: int) -> None:
        self._path, self._lock = directory.path / STATUS_NAME, lock
        self._about: dict[str, Any] = {"epochs": epochs, "steps_per_epoch": steps}
        self._warnings, self._last_warning = 0, ""
        self._began = time.monotonic()
        self.next_write = 0.0

    def start(self, progress: Progress) -> None:
        """Write that the run starts, or goes on, at `progress`."""
        self._began = time.monotonic()
        self._about["first"] = progress.position.batch
        self._write(RUNNING, progress)

    def write_step(self, progress: Progress, samples_per_s: float) -> None:
        """Write where the run is, and the speed in this epoch."""
        self._write(RUNNING, progress, samples_per_s=samples_per_s)

    def note_warning(self, text: str) -> None:
        """Have the next write tell of a warning."""
        self._warnings += 1
        self._last_warning = text

    def note_position(self, progress: Progress) -> None:
        """Have the next write tell of this position, unless it has one of its own."""
        self._about["epoch"], self._about["step"] = progress.position.batch

    def end(self, failure: BaseException | None) -> None:
        """Write how the run has ended; `failure` is what it was ended by, if anything."""
        if failure is None:
            self._write(FINISHED)
        elif isinstance(failure, StoppedError):
            self._write(STOPPED, message=str(failure))
        else:
            text = str(failure) if isinstance(failure, DistbpError) else repr(failure)
            self._write(FAILED, message=text[:_MAX_TEXT_CHARS], error=type(failure).__name__)

    def _write(self, state: str, progress: Progress | None = None, **more: Any) -> None:
        now = time.monotonic()
        self.next_write = now + STATUS_INTERVAL_S
        if progress is not None:
            self.note_position(progress)
        status = {
            "state": state,
            "time": time.time(),
            "seconds": now - self._began,
            **self._about,
            "warnings": self._warnings,
            "last_warning": self._last_warning[:_MAX_TEXT_CHARS],
            **more,
        }
        try:
            self._lock.check_not_fenced()
            self._path.write_text(f"{json.dumps(status)}\n", encoding="utf-8")
        except (OSError, CheckpointError):
            pass
