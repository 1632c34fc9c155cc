"""metrics.jsonl: one line of JSON per epoch.

A line is appended after each epoch; where epochs are short, the lines of a tenth of a second
together. Where that is impossible, because an earlier write failed, the file was removed, or the
run was rolled back, the whole file is rewritten.
"""

import math
import time

from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training.run_records import METRICS_NAME

_MIN_INTERVAL_S = 0.1  # between two writes, each of which takes as long as a few small steps


class MetricsFile:
    """The file of a run's epoch records, written only while the run holds its lock.

    Parameters
    ----------
    directory : RunDirectory
    lock : RunLock
    """

    def __init__(self, directory: RunDirectory, lock: RunLock) -> None:
        self._directory, self._lock = directory, lock
        self._written = 0  # lines in the file; -1 if that is unknown
        self._written_at = -math.inf
        self._lines: list[str] = []

    def rewrite(self, lines: list[str]) -> None:
        """Replace the file by these lines; they are on the disk when this returns.

        Raises
        ------
        CheckpointError
            The file cannot be written, or another run owns the directory.
        """
        self._lock.check_not_fenced()
        self._lines, self._written = lines, -1
        self._directory.write_text(METRICS_NAME, "".join(lines))
        self._written = len(lines)

    def append(self, lines: list[str]) -> None:
        """Write what the file lacks of `lines`, one of which is new, if it is time for that.

        Raises
        ------
        CheckpointError
            The file cannot be written, or another run owns the directory.
        """
        if len(lines) <= self._written:  # the run was rolled back: others replace some lines
            self._written = -1
        self._lines = lines
        if time.monotonic() - self._written_at >= _MIN_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Write the lines that are not in the file yet; raise what `append` raises."""
        if self._written == len(self._lines):
            return
        self._lock.check_not_fenced()
        self._written_at = time.monotonic()
        written, self._written = self._written, -1
        rest = "".join(self._lines[written:])
        if written >= 0 and self._directory.append_text(METRICS_NAME, rest):
            self._written = len(self._lines)
        else:
            self.rewrite(self._lines)
