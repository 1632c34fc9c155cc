"""events.jsonl: what happened to a run, one JSON object per line, for whoever reads it later.

    {"event": "start", "time": …, "epoch": 0, "step": 0, "ranks": 4, "nodes": 1}
    {"event": "stop", "time": …, "reason": "SIGTERM"}
    {"event": "warning", "time": …, "text": "rank 2 died. …"}
    {"event": "times", "time": …, "is_end": true, "seconds": …, "steps": …,
     "ranks": [{"host": …}, …]}

`time` is in seconds since 1970. The times of a step of each rank, over all steps since the start,
or since a rank was lost, are recorded after 1, 2, 4, 8, … epochs and at the end. Unlike
metrics.jsonl, a roll-back removes nothing. It is a log: a run does not fail because a line cannot
be written.
"""

import json
import time
from typing import Any

from distbp.errors import CheckpointError
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training.run_records import EVENTS_NAME, Event, read_events

# Lines of one start of a run: `--on-nan skip` may warn in every step.
_MOST_LINES = 10_000


class EventLog:
    """Appends to the events of a run, while the run holds its lock.

    Parameters
    ----------
    directory : RunDirectory
    lock : RunLock
    """

    def __init__(self, directory: RunDirectory, lock: RunLock) -> None:
        self._directory, self._lock, self._left = directory, lock, 0

    def open(self, is_new: bool) -> None:
        """Begin an empty file, or complete the one of an earlier start."""
        try:
            self._lock.check_not_fenced()
            before = [] if is_new else read_events(self._directory.path)
            # A process that was killed may have left half a line.
            self._directory.write_text(EVENTS_NAME, "".join(map(_line, before)))
            self._left = _MOST_LINES
        except CheckpointError:
            self._left = 0

    def add(self, event: str, **values: Any) -> None:
        """Write an event with the time of now."""
        if self._left <= 0:
            return
        self._left -= 1
        try:
            self._lock.check_not_fenced()
        except CheckpointError:
            self._left = 0
            return
        line = _line({"event": event, "time": round(time.time(), 3), **values})
        self._directory.append_text(EVENTS_NAME, line)


def _line(event: Event) -> str:
    return f"{json.dumps(event)}\n"
