"""Where a run is, and the results of its epochs.

A `Progress` is immutable: it consists of a `Position`, the totals of the epoch under way and
the `History` of the completed epochs, and every step replaces it by another one. So the state
of one step ago is simply the `Progress` of one step ago, and rolling back is an assignment.
Nothing here knows of parameters, files or other ranks.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, overload

from distbp.errors import CheckpointError
from distbp.network.schedules import plateau_factor
from distbp.training.evaluation import Score

EpochRecord = dict[str, Any]
STANDARDIZED_COST = "standardized_cost"  # of several targets, each in units of its deviation


class Position(NamedTuple):
    """A point between two steps of a run; positions compare in the order they are reached.

    Attributes
    ----------
    epoch, step : int
        Completed epochs, and completed steps of the epoch after them.
    updates : int
        Updates of the parameters so far: the steps of all epochs but the skipped ones.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0

    @property
    def batch(self) -> tuple[int, int]:
        """Identify the mini-batch that comes next, however many steps before it were skipped."""
        return self.epoch, self.step

    def ordinal(self, steps_per_epoch: int) -> int:
        """Return a number that grows with each step and with each end of an epoch."""
        return self.epoch * (steps_per_epoch + 1) + self.step


class Monitor(NamedTuple):
    """What decides which epoch is best: a number of each record.

    Attributes
    ----------
    name : str
        Its key in a record.
    is_maximized : bool
        Whether more is better.
    """

    name: str
    is_maximized: bool = False

    def score(self, record: EpochRecord) -> float:
        """Return what is better if it is lower; infinity for what is undefined or not finite."""
        value: float | None = record[self.name]
        return score_of(value if value is None or not self.is_maximized else -value)


class Lines(Sequence[str]):
    """The present lines of a list that only grows: a copy would take longer than a short epoch."""

    def __init__(self, lines: list[str]) -> None:
        self._lines, self._count = lines, len(lines)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return islice(self._lines, self._count)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._lines[: self._count][index]


class History:
    """The records of all epochs, and what follows from them.

    Serialized and compared as they are appended: after thousands of short epochs, doing so for
    all of them at the end of each would take longer than the epoch.

    Parameters
    ----------
    records : iterable of dict
    monitor : Monitor, optional
        By default the validation cost, or the training cost where there is no validation.

    Attributes
    ----------
    records : list of dict
        One per epoch, as in metrics.jsonl.
    scores : list of float
        What plateau, patience and best.h5 go by: the monitor's score, lower is better.
    epochs_without_improvement : int
        Epochs since the best score.
    """

    def __init__(self, records: Iterable[EpochRecord] = (), monitor: Monitor | None = None) -> None:
        self._monitor = monitor
        self.records: list[EpochRecord] = []
        self._lines: list[str] = []
        self.scores: list[float] = []
        self.epochs_without_improvement, self._best = 0, math.inf
        self._plateau: tuple[int, float, int, float] | None = None
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return len(self.records)

    def append(self, record: EpochRecord) -> None:
        """Add the record of an epoch that has ended."""
        has_validation = record["validation_accuracy"] is not None
        # Never anything of the test set: it must not influence the training.
        default = Monitor("validation_cost" if has_validation else "train_cost")
        score = (self._monitor or default).score(record)
        self.epochs_without_improvement = (
            0 if not self.scores or score < self._best else self.epochs_without_improvement + 1
        )
        self._best = min(self._best, score)
        self.records.append(record)
        self.scores.append(score)

    @property
    def lines(self) -> list[str]:
        """The records as JSON, each with its newline; only a rank that asks for them makes them."""
        for record in self.records[len(self._lines) :]:
            self._lines.append(f"{json.dumps(record)}\n")
        return self._lines

    def truncated(self, epochs: int) -> "History":
        """Return the history as it was after so many epochs."""
        return History(self.records[:epochs], self._monitor)

    @property
    def is_best(self) -> bool:
        """Whether the last score is better than all before it."""
        return len(self) > 0 and self.epochs_without_improvement == 0

    @property
    def best_epoch(self) -> int:
        """The number of the epoch with the best score, from 1; 0 if there is none."""
        return len(self) - self.epochs_without_improvement

    def plateau_factor(self, decay: float, patience: int) -> float:
        """Return `schedules.plateau_factor` of the scores, computed once per epoch."""
        if self._plateau is None or self._plateau[:3] != (len(self), decay, patience):
            factor = plateau_factor(self.scores, decay, patience)
            self._plateau = len(self), decay, patience, factor
        return self._plateau[3]


class Progress(NamedTuple):
    """The state of a run, but for parameters and optimizer state.

    Attributes
    ----------
    position : Position
    cost, correct : float, int
        Summed over the rows of the epoch under way.
    skipped : int
        Rows of the epoch whose step was skipped because of a NaN; not in the sums.
    rate_factor : float
        Multiplies the learning rate: halved by each roll-back because of a NaN.
    history : History
        Of the completed epochs. Shared by successive progresses: it grows in place.
    """

    position: Position
    cost: float
    correct: int
    skipped: int
    rate_factor: float
    history: History

    @classmethod
    def at_start(cls, monitor: Monitor | None = None) -> "Progress":
        """Return the progress of a run before its first step."""
        return cls(Position(), 0.0, 0, 0, 1.0, History(monitor=monitor))

    def after_step(self, cost: float, correct: float) -> "Progress":
        """Return the progress after a step that was applied, given its sums over the rows."""
        # Unpacked, not `_replace`d: this runs in every step, and a small step takes 50 µs in all.
        (epoch, step, updates), total, total_correct, skipped, rate_factor, history = self
        return Progress(
            Position(epoch, step + 1, updates + 1),
            total + cost,
            total_correct + round(correct),
            skipped,
            rate_factor,
            history,
        )

    def after_steps(self, costs: Sequence[float], correct: Sequence[float]) -> "Progress":
        """Return the progress after several such steps; the sums are the same."""
        (epoch, step, updates), total, total_correct, skipped, rate_factor, history = self
        for cost in costs:
            total += cost
        return Progress(
            Position(epoch, step + len(costs), updates + len(costs)),
            total,
            total_correct + sum(map(round, correct)),
            skipped,
            rate_factor,
            history,
        )

    def after_skip(self, rows: int) -> "Progress":
        """Return the progress after a step of `rows` rows that was skipped."""
        epoch, step, updates = self.position
        return self._replace(
            position=Position(epoch, step + 1, updates), skipped=self.skipped + rows
        )

    def after_epoch(self, record: EpochRecord) -> "Progress":
        """Append the epoch's record and return the progress at the start of the next epoch."""
        self.history.append(record)
        epoch, _, updates = self.position
        return Progress(Position(epoch + 1, 0, updates), 0.0, 0, 0, self.rate_factor, self.history)

    def restored(self) -> "Progress":
        """Return this progress without the records that were appended after it."""
        return self._replace(history=self.history.truncated(self.position.epoch))

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint's `about` holds under "progress": all but the history."""
        # Part of the file format: older versions of distbp expect exactly these keys.
        epoch, step, updates = self.position
        return {
            "epoch": epoch,
            "step": step,
            "cost": self.cost,
            "correct": self.correct,
            "skipped": self.skipped,
            "rate_factor": self.rate_factor,
            "steps": updates,
        }


def read_progress(
    stored: Mapping[str, Any], lines: Iterable[str], source: str, monitor: Monitor | None = None
) -> Progress:
    """Return the progress that a checkpoint holds.

    Parameters
    ----------
    stored : dict
        As written by `Progress.to_dict`.
    lines : iterable of str
        Of metrics.jsonl.
    source : str
        What to call the checkpoint in an error message.
    monitor : Monitor, optional
        That of `History`.

    Raises
    ------
    CheckpointError
        The checkpoint has a valid checksum, but its content makes no sense.
    """
    # Whoever wrote the file, its values are used as counters and limits of loops: check them.
    start = Progress.at_start().to_dict()
    if stored.keys() != start.keys() or any(
        type(value) is not type(start[name])
        or not 0 <= value < (math.inf if isinstance(value, float) else 2**63)
        for name, value in stored.items()
    ):
        raise CheckpointError(f"{source}: the checkpoint holds no valid position of a run.")
    try:
        history = History(map(json.loads, lines), monitor)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{source}: the checkpoint's history is not valid.") from error
    if len(history) != stored["epoch"]:
        raise CheckpointError(
            f"{source}: the checkpoint's history has {len(history)} records for "
            f"{stored['epoch']} epochs."
        )
    position = Position(stored["epoch"], stored["step"], stored["steps"])
    return Progress(
        position,
        stored["cost"],
        stored["correct"],
        stored["skipped"],
        stored["rate_factor"],
        history,
    )


def score_of(cost: float | None) -> float:
    """Return the cost, or infinity, the worst score, for one that was not finite."""
    return math.inf if cost is None else cost


def costs_and_accuracies(
    progress: Progress, rows: int, scores: Mapping[str, Score], labels_per_row: int
) -> EpochRecord:
    """Return the costs, accuracies and metrics of an epoch of `rows` rows.

    None where there is none. `labels_per_row` is that of `DataSet`.
    """
    rows = max(rows - progress.skipped, 1)
    record: EpochRecord = {
        "train_cost": _json_cost(progress.cost / rows),
        "train_accuracy": progress.correct / (rows * labels_per_row) if labels_per_row else None,
    }
    for name in ("validation", "test"):
        record[f"{name}_cost"] = _json_cost(scores[name].cost) if name in scores else None
        record[f"{name}_accuracy"] = scores[name].accuracy if name in scores else None
    for name, score in scores.items():
        if score.standardized_cost is not None:
            record[f"{name}_{STANDARDIZED_COST}"] = _json_cost(score.standardized_cost)
        record |= {f"{name}_{key}": value for key, value in score.measured.values.items()}
    return record


def _json_cost(cost: float) -> float | None:
    """Return the cost, or None if it is not finite: JSON has neither NaN nor infinity."""
    return cost if math.isfinite(cost) else None
