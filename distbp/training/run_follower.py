"""Follow a run from outside, by the files of its directory.

A `RunFollower` reads what is new in the directory each time it is polled: the records of
metrics.jsonl, and the small files that tell where the run is and how it ended. From these, and
from the age of the files, it finds the `state`. It writes nothing, takes no lock, and expects any
file to be absent, incomplete, or replaced; how a run is shown is not known here.
"""

import json
import math
import os
import platform
import time
import tomllib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distbp.errors import ERRORS_BY_NAME, ConfigError, DistbpError
from distbp.parallel.host import process_state
from distbp.training.config import FIRST_MONITOR
from distbp.training.metric_names import find_average
from distbp.training.monitor import is_maximized
from distbp.training.run_summary import FAILED, FINISHED, UNFINISHED, read_completion
from distbp.training.state import STANDARDIZED_COST, Monitor
from distbp.training.status_file import RUNNING, STATUS_INTERVAL_S, STATUS_NAME, STOPPED

# States of a run besides those that it records itself.
WAITING = "waiting"  # it has not been started
SILENT = "silent"  # it should have given a sign of life
DIED = "died"
STATES = (RUNNING, SILENT, WAITING, STOPPED, UNFINISHED, DIED, FAILED, FINISHED)

_COSTS = ("cost", STANDARDIZED_COST)
_CHUNK_BYTES = 1 << 20
_SILENCE_S = 60.0  # evaluations and checkpoints give no sign, either
_DEFAULT_STALL_LIMIT_S = 600.0
_RESTART_S = 60.0  # within which a supervisor or batch system has started a failed run again
_RECENT = 10  # epochs, whose mean duration predicts the next ones


class RunFollower:
    """A run, as far as it is known from its directory.

    Parameters
    ----------
    folder : Path
        It need not exist yet.

    Attributes
    ----------
    config, status : dict
        Of config.toml and status.json; empty without them.
    series : dict of array
        The values of each number of the records, NaN where there is none; by its key.
    best : int or None
        Index of the epoch with the best value of the monitor.
    has_changed : bool
        Whether the last poll found something new.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.has_changed = True
        self._lock: dict[str, Any] = {}
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._forget_records()

    def _forget_records(self) -> None:
        self.series: dict[str, array[float]] = {}
        self.best: int | None = None
        self._epochs, self._offset, self._last_line = 0, 0, b""
        self._monitor: Monitor | None = None
        self._has_monitor = False

    def poll(self) -> None:
        """Read what has changed since the last call."""
        self.has_changed = False
        if self._has_new("config.toml"):
            self.config = _read_toml(self.folder / "config.toml") or self.config
        if self._has_new(STATUS_NAME):
            self.status = _read_json(self.folder / STATUS_NAME) or self.status
        if self._has_new("lock"):
            self._lock = _read_json(self.folder / "lock") or self._lock
        if self._has_new("metrics.jsonl"):
            for line in self._new_lines():
                self._add(line)

    def _has_new(self, name: str) -> bool:
        """Return whether a file of the run is not as it was at the last call."""
        try:
            found = (self.folder / name).stat()
        except OSError:
            return False
        stamp = found.st_mtime_ns, found.st_size, found.st_ino
        is_new = self._stamps.get(name) != stamp
        self._stamps[name] = stamp
        self.has_changed |= is_new
        return is_new

    def _new_lines(self) -> Iterator[bytes]:
        """Yield the complete lines that were appended; all, if the file is another one."""
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                # It is rewritten when a run is resumed or ends, mostly with the same records.
                file.seek(self._offset - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    self._forget_records()
                    file.seek(0)
                rest = b""
                while chunk := file.read(_CHUNK_BYTES):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        self._last_line = line + b"\n"
                        self._offset += len(self._last_line)
                        yield line
        except OSError:
            return

    def _add(self, line: bytes) -> None:
        """Add the record in a line; what is no record is left out."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or "epoch" not in record:
            return
        for key, value in record.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number or (value is None and key not in self.series):
                if key not in self.series:
                    self.series[key] = array("d", [math.nan]) * self._epochs
                self.series[key].append(_as_float(value))
        self._epochs += 1
        for values in self.series.values():
            if len(values) < self._epochs:
                values.append(math.nan)
        self._note_best()

    def _note_best(self) -> None:
        if not self._has_monitor:
            self._monitor, self._has_monitor = self._find_monitor(), True
        if self._monitor is None:
            return
        value = self.series[self._monitor.name][-1]
        before = math.nan if self.best is None else self.series[self._monitor.name][self.best]
        is_better = value > before if self._monitor.is_maximized else value < before
        if is_better or (math.isnan(before) and not math.isnan(value)):
            self.best = self._epochs - 1

    def _find_monitor(self) -> Monitor | None:
        name = self.config.get("monitor", FIRST_MONITOR)
        if name == FIRST_MONITOR:  # the run has not got so far, or is an old one
            has_validation = not math.isnan(self.last("validation_cost"))
            name = "validation_cost" if has_validation else "train_cost"
        if name not in self.series:  # records have `_` where an option may have `-`
            name = str(name).replace("-", "_")
        key = name.partition("_")[2]
        try:
            # Of somebody's own metric, whose code is not run here, nothing is known.
            is_known = key in _COSTS or is_maximized(name) or find_average(key) is not None
        except ConfigError:
            is_known = False
        return Monitor(name, is_maximized(name)) if is_known and name in self.series else None

    @property
    def monitor(self) -> Monitor | None:
        """What decides which epoch is best, once that is known."""
        return self._monitor

    @property
    def epochs(self) -> int:
        """How many epochs have ended."""
        return self._epochs

    @property
    def total_epochs(self) -> int:
        """How many epochs the run is to have; 0 if that is not known."""
        return _as_int(self.status.get("epochs")) or _as_int(self.config.get("epochs"))

    @property
    def step(self) -> tuple[int, int]:
        """Completed steps of the epoch under way, and steps of an epoch; zeros if unknown."""
        steps = _as_int(self.status.get("steps_per_epoch"))
        is_of_this = _as_int(self.status.get("epoch")) == self._epochs
        return _as_int(self.status.get("step")) * is_of_this, steps

    @property
    def fraction(self) -> float:
        """What part of all epochs is done."""
        step, steps = self.step
        done = self._epochs + (step / steps if steps else 0.0)
        return min(done / self.total_epochs, 1.0) if self.total_epochs else 0.0

    def last(self, key: str) -> float:
        """Return the last value of a number of the records; NaN if there is none."""
        values = self.series.get(key)
        return values[-1] if values else math.nan

    @property
    def samples_per_s(self) -> float:
        """The speed now, or in the last epoch; NaN before that is known."""
        found = _as_float(self.status.get("samples_per_s"))
        return self.last("samples_per_s") if math.isnan(found) else found

    def seconds_left(self) -> float:
        """Return the time to the last epoch, if all goes on as before; NaN if it is unknown."""
        first, steps = self.status.get("first"), _as_int(self.status.get("steps_per_epoch"))
        rate = math.nan  # epochs per second
        if isinstance(first, list) and len(first) == 2 and steps:
            began = _as_int(first[0]) + _as_int(first[1]) / steps
            now = _as_int(self.status.get("epoch")) + _as_int(self.status.get("step")) / steps
            seconds = _as_float(self.status.get("seconds"))
            rate = (now - began) / seconds if seconds > 0 else math.nan
        if not rate > 0 and (durations := self.series.get("seconds")):
            recent = durations[-_RECENT:]
            rate = len(recent) / sum(recent) if sum(recent) > 0 else math.nan
        return (1 - self.fraction) * self.total_epochs / rate if rate > 0 else math.nan

    def age(self, name: str) -> float:
        """Return how many seconds ago a file of the run was written; NaN without it."""
        try:
            return max(time.time() - (self.folder / name).stat().st_mtime, 0.0)
        except OSError:
            return math.nan

    def silence(self) -> float:
        """Return for how many seconds the run has written nothing; NaN if it never has."""
        ages = map(self.age, (STATUS_NAME, "metrics.jsonl", "last.h5", "lock"))
        return min((one for one in ages if not math.isnan(one)), default=math.nan)

    @property
    def process(self) -> str:
        """Where the run is, or was: its host, process and job."""
        if not self._lock:
            return ""
        job = f", job {self._lock['job']}" if self._lock.get("job") else ""
        return f"{self._lock.get('host')}, process {self._lock.get('process')}{job}"

    def state(self) -> tuple[str, str]:
        """Return the state of the run, one of `STATES`, and what more is known about it."""
        recorded = self.status.get("state")
        if recorded in (FINISHED, STOPPED, FAILED):
            return str(recorded), str(self.status.get("message", ""))
        outcome, message = read_completion(self.folder)
        state, text = self._liveness()
        is_complete = 0 < self.total_epochs <= self._epochs
        if state == RUNNING or (state == SILENT and (self.status or not is_complete)):
            return state, text
        if outcome in ("refused", "failed"):
            return FAILED, message
        if recorded == RUNNING or state == WAITING:
            return state, text
        return (FINISHED, "") if outcome == "done" or is_complete else (UNFINISHED, text)

    def _liveness(self) -> tuple[str, str]:
        """Return whether the process that records the run is there."""
        silence = self.silence()
        if math.isnan(silence):
            return WAITING, ""
        since = f"no sign of life for {silence:.0f} s"
        if silence <= STATUS_INTERVAL_S * 1.5:
            return RUNNING, ""
        if self._lock.get("host") == platform.node():
            # A process cannot be asked for from another host, and may have another number in
            # another container; but that one would have written something.
            process = _as_int(self._lock.get("process"))
            if not _exists(process):
                return DIED, f"its process {process} is gone"
            if process_state(process) == "stopped":
                return SILENT, f"its process {process} is stopped; {since}"
            if not self.status:  # of an older version, which wrote nothing within an epoch
                return RUNNING, ""
        if silence <= _SILENCE_S:
            return RUNNING, ""
        return (SILENT if silence <= self._stall_limit() + _SILENCE_S else DIED), since

    def _stall_limit(self) -> float:
        """Return after how many seconds without progress a rank of this run is killed."""
        text = str(self.config.get("stall-limit", ""))
        number, unit = text.rstrip("sminh "), text.lstrip("0123456789. ")
        try:
            return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
        except (ValueError, KeyError):
            return _DEFAULT_STALL_LIMIT_S

    def is_over(self) -> bool:
        """Return whether nothing more is to be expected: a run that stopped may be resumed."""
        state, _ = self.state()
        if state != FAILED:
            return state == FINISHED
        error = ERRORS_BY_NAME.get(str(self.status.get("error")), DistbpError)
        return error is not DistbpError or self.silence() > _RESTART_S


def _exists(process: int) -> bool:
    """Return whether there is a process on this host, of whatever user."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty if it is not complete."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the keys of a file, whatever version wrote them; empty if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _as_float(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _as_int(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
