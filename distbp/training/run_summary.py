"""What came out of runs, read from their directories: for comparing many of them.

`summarize_run` reads one directory, `summarize_trial` a choice of options: a run, or the runs
`fold-1`, `fold-2`, … of a cross-validation. The score is the run's monitor, in the epoch with the
best one; never anything of the test set. How a directory came about is not known here.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distbp.errors import CheckpointError, ConfigError
from distbp.storage.run_directory import list_checkpoints, read_newest_checkpoint
from distbp.training.config import FIRST_MONITOR, Config
from distbp.training.config_file import read_toml
from distbp.training.monitor import is_maximized
from distbp.training.run_records import read_epochs
from distbp.training.state import EpochRecord, Monitor

COMPLETION_NAME = ".done"  # the completion file of a run that belongs to a sweep or a batch job
FOLD_PREFIX = "fold-"

FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


@dataclass(frozen=True)
class RunSummary:
    """What came out of a run.

    Attributes
    ----------
    config : Config or None
        None if the run has not been started.
    state : str
        FINISHED, FAILED or UNFINISHED.
    monitor : Monitor or None
        What decides which epoch is best.
    score : float or None
        The best value of the monitor; None if there is none.
    epoch : int or None
        That it is of, counted from 1.
    message : str
        Why the run failed.
    folder : Path
    """

    config: Config | None
    state: str
    monitor: Monitor | None
    score: float | None
    epoch: int | None
    message: str
    folder: Path

    def digest(self) -> str:
        """Return the digest of the run's newest checkpoint; empty if there is none."""
        try:
            return read_newest_checkpoint(self.folder)[0].digest
        except CheckpointError:
            return ""


@dataclass(frozen=True)
class TrialSummary:
    """What came out of a choice of options: one run, or one for each fold.

    Attributes
    ----------
    name : str
        Of its directory.
    runs : tuple of RunSummary
    """

    name: str
    runs: tuple[RunSummary, ...]

    @property
    def state(self) -> str:
        """FINISHED if all its runs are; FAILED if one has failed."""
        states = {run.state for run in self.runs}
        return next((one for one in (FAILED, UNFINISHED) if one in states), FINISHED)

    @property
    def score(self) -> float | None:
        """The mean of its runs' scores; None if one of them has none."""
        scores = self._scores()
        return statistics.fmean(scores) if scores else None

    @property
    def deviation(self) -> float | None:
        """The population standard deviation of the scores of the folds."""
        scores = self._scores()
        return statistics.pstdev(scores) if len(scores) > 1 else None

    def _scores(self) -> list[float]:
        scores = [run.score for run in self.runs if run.score is not None]
        return scores if len(scores) == len(self.runs) else []

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Sort key: finished trials by their score, the best first, and then the others."""
        score, monitor = self.score, self.runs[0].monitor
        if score is None or monitor is None:
            return True, 0.0, self.name
        return self.state != FINISHED, -score if monitor.is_maximized else score, self.name


def summarize_trial(folder: Path) -> TrialSummary:
    """Read the directory of a trial.

    Raises
    ------
    ConfigError
        The configuration of a run in it cannot be read.
    """
    runs = list(map(summarize_run, fold_folders(folder) or [folder]))
    fold = next((run.config.fold for run in runs if run.config), None)
    if fold is not None and runs[0].folder != folder:
        # Those that have not been started are missing.
        count = int(fold.partition("/")[2])
        runs = [summarize_run(folder / f"{FOLD_PREFIX}{k}") for k in range(1, count + 1)]
    return TrialSummary(folder.name, tuple(runs))


def fold_folders(folder: Path) -> list[Path]:
    """Return the directories of the runs of a cross-validation, in order; none if it is no such."""
    found = [path for path in folder.glob(f"{FOLD_PREFIX}*") if path.is_dir()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def summarize_run(folder: Path, records: Sequence[EpochRecord] | None = None) -> RunSummary:
    """Read the directory of a run, which may be empty.

    Parameters
    ----------
    folder : Path
    records : sequence of dict, optional
        What `read_epochs` has returned for it.

    Raises
    ------
    ConfigError
        Its configuration cannot be read.
    """
    path = folder / "config.toml"
    config = Config(**read_toml(path)) if path.exists() else None
    records = read_epochs(folder) if records is None else records
    outcome, message = read_completion(folder)
    if outcome in ("refused", "failed"):
        state = FAILED
    elif outcome == "done" or (not outcome and config and _has_ended(config, records)):
        state = FINISHED
    else:
        state = UNFINISHED
    monitor = _monitor_of(config, records)
    best = min(records, key=monitor.score, default=None) if monitor else None
    score = best[monitor.name] if monitor and best else None
    epoch = best["epoch"] if best and score is not None else None
    return RunSummary(config, state, monitor, score, epoch, message, folder)


def read_completion(folder: Path) -> tuple[str, str]:
    """Return how the last start of a run ended, and why; empty without a completion file."""
    try:
        text = (folder / COMPLETION_NAME).read_text(encoding="utf-8")
    except OSError:
        return "", ""
    first, _, message = text.partition("\n")
    return first.partition(" ")[0], message.strip()


def _monitor_of(config: Config | None, records: Sequence[EpochRecord]) -> Monitor | None:
    """Return what decides which epoch is best; None if the records do not have it."""
    if config is None or not records:
        return None
    name = config.monitor
    if name in (None, FIRST_MONITOR):  # the run has not got so far, or is an old one
        has_validation = records[0].get("validation_accuracy") is not None
        name = "validation_cost" if has_validation else "train_cost"
    if name not in records[0]:  # records have `_` where an option may have `-`
        name = str(name).replace("-", "_")
    if name is None or any(name not in record for record in records):
        return None
    return Monitor(name, is_maximized(name))


def _has_ended(config: Config, records: Sequence[EpochRecord]) -> bool:
    """Return whether a run without a completion file has trained all its epochs."""
    return len(records) >= config.epochs


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run can be resumed."""
    return folder.is_dir() and bool(list_checkpoints(folder))


def summarize_folder(folder: Path) -> list[TrialSummary]:
    """Return what came out of all trials, or other runs, in a folder; the best first.

    Raises
    ------
    ConfigError
        There are none, or the configuration of one cannot be read.
    """
    try:
        names = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as failure:
        raise ConfigError(f"{folder} cannot be read: {failure.strerror}.") from failure
    kept = [path for path in names if _is_trial(path)]
    if not kept:
        raise ConfigError(f"{folder} has no runs in it. Name the --out of a sweep.")
    return sorted(map(summarize_trial, kept), key=lambda one: one.rank)


def _is_trial(path: Path) -> bool:
    own = [path / "config.toml", path / COMPLETION_NAME]
    return bool(fold_folders(path)) or any(one.exists() for one in own)
