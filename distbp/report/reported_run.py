"""What a run has left in its directory, read without a lock: also of one that is going on.

A `ReportedRun` has the configuration, the records of all epochs, the events, and the newest valid
checkpoint. What is not there, or cannot be read, is left out: a report shows the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distbp.errors import CheckpointError, ConfigError, DistbpError
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.run_directory import read_newest_checkpoint
from distbp.training.config import Config
from distbp.training.run_follower import RunFollower
from distbp.training.run_records import Event, read_epochs, read_events
from distbp.training.run_summary import RunSummary, fold_folders, summarize_run
from distbp.training.status_file import FINISHED

_TIME_PARTS = ("compute", "wait", "exchange", "update")  # of a step, in their order


@dataclass(frozen=True)
class RankTimes:
    """The mean seconds of a rank's steps, by what they were spent on."""

    host: str
    parts: dict[str, float]


@dataclass(frozen=True)
class ReportedRun:
    """A run as its directory shows it.

    Attributes
    ----------
    name : str
        Unlike that of the other runs of a report.
    folder : Path
    config : Config
    state, detail : str
        One of `run_follower.STATES`, and what more is known about it.
    summary : RunSummary
    epochs : list of dict
        The numbers of metrics.jsonl, and the digests.
    events : list of dict
        Those of events.jsonl; empty for a run of an older version.
    checkpoint : Checkpoint or None
    problems : list of str
        Why there is no checkpoint, or an older one.
    """

    name: str
    folder: Path
    config: Config
    state: str
    detail: str
    summary: RunSummary
    epochs: list[dict[str, Any]]
    events: list[Event]
    checkpoint: Checkpoint | None
    problems: list[str]

    @property
    def has_ended(self) -> bool:
        """Whether the run has trained all it was to train."""
        return self.state == FINISHED

    @property
    def ranks(self) -> int | None:
        """The number of ranks that the run was last started with, if it is recorded."""
        counts = [one.get("ranks") for one in self.events if one["event"] == "start"]
        return next((one for one in reversed(counts) if isinstance(one, int)), None)

    @property
    def step_times(self) -> list[RankTimes]:
        """The times of the steps of each rank, of the last start that has recorded them."""
        found = [one.get("ranks") for one in self.events if one["event"] == "times"]
        ranks = found[-1] if found and isinstance(found[-1], list) else []
        return [_rank_times(one) for one in ranks if isinstance(one, dict)]

    def values(self, key: str) -> list[float]:
        """Return a number of each epoch's record; NaN where there is none."""
        return [as_number(record.get(key)) for record in self.epochs]


def as_number(value: Any) -> float:
    """Return a number, or NaN for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _rank_times(found: dict[str, Any]) -> RankTimes:
    parts = {name: as_number(found.get(name)) for name in _TIME_PARTS}
    finite = {name: seconds for name, seconds in parts.items() if math.isfinite(seconds)}
    return RankTimes(str(found.get("host", "")), finite)


def read_runs(folders: Sequence[str]) -> list[ReportedRun]:
    """Read the runs of some directories; those of a cross-validation are a run for each fold.

    Raises
    ------
    ConfigError
        One of them has no run, or a configuration that cannot be read.
    """
    paths = [run for name in folders for run in (fold_folders(Path(name)) or [Path(name)])]
    unique = list(dict.fromkeys(paths))
    names = [path.resolve().name for path in unique]
    return [
        _read_run(path, name if names.count(name) == 1 else str(path))
        for path, name in zip(unique, names, strict=True)
    ]


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
    """Return an epoch's record without what a report does not show, such as matrices."""
    return {
        key: value
        for key, value in record.items()
        if value is None or isinstance(value, int | float) or key == "digest"
    }


def _read_run(folder: Path, name: str) -> ReportedRun:
    epochs = [_numbers(record) for record in read_epochs(folder) if type(record["epoch"]) is int]
    summary = summarize_run(folder, epochs)
    if summary.config is None:
        raise ConfigError(
            f"{folder} is not the directory of a run: it has no config.toml. Name the --out of a "
            "training."
        )
    checkpoint, problems = None, list[str]()
    try:
        checkpoint, problems = read_newest_checkpoint(folder)
    except CheckpointError as error:  # a run that has just been started has none
        problems = [str(error)] if epochs else ["The run has not saved a checkpoint yet."]
    except DistbpError as error:
        problems = [str(error)]
    events = read_events(folder)
    follower = RunFollower(folder)
    follower.poll()
    return ReportedRun(
        name, folder, summary.config, *follower.state(), summary, epochs, events, checkpoint,
        problems,
    )  # fmt: skip
