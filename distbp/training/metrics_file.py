"""metrics.jsonl: one line of JSON per epoch.

A line is appended after each epoch. Where that is impossible, because an earlier write failed,
the file was removed, or the run was rolled back, the whole file is rewritten.
"""

from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory

_NAME = "metrics.jsonl"


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

    def rewrite(self, lines: list[str]) -> None:
        """Replace the file by these lines; they are on the disk when this returns.

        Raises
        ------
        CheckpointError
            The file cannot be written, or another run owns the directory.
        """
        self._lock.check_not_fenced()
        self._directory.write_text(_NAME, "".join(lines))
        self._written = len(lines)

    def append(self, lines: list[str]) -> None:
        """Write the last of the `lines`, or all of them where the file lacks others, too."""
        self._lock.check_not_fenced()
        is_next, self._written = self._written == len(lines) - 1, -1
        if is_next and self._directory.append_line(_NAME, lines[-1]):
            self._written = len(lines)
        else:
            self.rewrite(lines)
