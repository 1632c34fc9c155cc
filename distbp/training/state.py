"""Where a run is, and what its epochs have brought.

Where a run is, and one step back from there.

Ranks of several nodes can be a step, or the end of an epoch, apart when one of them dies.
They go on where the last of them is: so each knows how to undo what it did last.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distbp.network.schedules import plateau_factor
from distbp.network.update import Update
from distbp.training.evaluation import Score

EpochRecord = dict[str, Any]


class History:
    """The records of all epochs, and what follows from them.

    They are turned into text and compared as they come: after thousands of short epochs, to
    do that with all of them at the end of each would take longer than the epoch.

    Attributes
    ----------
    records : list of dict
        One an epoch, as in metrics.jsonl.
    lines : list of str
        The same as JSON, each with its end of line.
    scores : list of float
        What plateau, patience and best look at: the validation cost, or the training cost.
    epochs_without_improvement : int
        How many epochs have gone by since the best score.
    """

    def __init__(self, records: Iterable[EpochRecord] = ()) -> None:
        self.records: list[EpochRecord] = []
        self.lines: list[str] = []
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
        score = score_of(record["validation_cost" if has_validation else "train_cost"])
        self.epochs_without_improvement = (
            0 if not self.scores or score < self._best else self.epochs_without_improvement + 1
        )
        self._best = min(self._best, score)
        self.records.append(record)
        self.lines.append(f"{json.dumps(record)}\n")
        self.scores.append(score)

    def first(self, epochs: int) -> "History":
        """Return what it was after that many epochs."""
        return History(self.records[:epochs])

    @property
    def is_best(self) -> bool:
        """Whether the last score is better than all before it."""
        return len(self) > 0 and self.epochs_without_improvement == 0

    def plateau_factor(self, decay: float, patience: int) -> float:
        """Return that of `schedules`; every step asks for it, but it changes with an epoch."""
        if self._plateau is None or self._plateau[:3] != (len(self), decay, patience):
            factor = plateau_factor(self.scores, decay, patience)
            self._plateau = len(self), decay, patience, factor
        return self._plateau[3]


@dataclass
class Progress:
    """Where a run is.

    Attributes
    ----------
    epoch, step : int
        Whole epochs done, and steps done in the one after them.
    cost, correct : float, int
        Summed over the rows of those steps.
    skipped : int
        Of those rows, the ones that changed nothing, because of a NaN.
    rate_factor : float
        On the learning rate: halved by each roll back.
    history : History
        Of the whole epochs.
    """

    epoch: int = 0
    step: int = 0
    cost: float = 0.0
    correct: int = 0
    skipped: int = 0
    rate_factor: float = 1.0
    history: History = field(default_factory=History)

    def end_epoch(self, record: EpochRecord) -> None:
        """Go on to the next epoch."""
        self.history.append(record)
        self.epoch += 1
        self.step, self.cost, self.correct, self.skipped = 0, 0.0, 0, 0

    def position(self) -> dict[str, Any]:
        """Return all but the history."""
        return {name: value for name, value in vars(self).items() if name != "history"}


def score_of(cost: float | None) -> float:
    """Return the cost, or the worst of scores for one that was not a finite number."""
    return math.inf if cost is None else cost


def costs_and_accuracies(
    progress: Progress, rows: int, scores: Mapping[str, Score], is_regression: bool
) -> EpochRecord:
    """Return those of an epoch of `rows` rows that ends here, None where there is none."""
    rows = max(rows - progress.skipped, 1)
    record: EpochRecord = {
        "train_cost": finite(progress.cost / rows),
        "train_accuracy": None if is_regression else progress.correct / rows,
    }
    for name in ("validation", "test"):
        record[f"{name}_cost"] = finite(scores[name].cost) if name in scores else None
        record[f"{name}_accuracy"] = scores[name].accuracy if name in scores else None
    return record


def finite(cost: float) -> float | None:
    """Return the cost, or None if it is not a finite number: JSON has no other word for it."""
    return cost if math.isfinite(cost) else None


class Place:
    """Where a run is.

    Parameters
    ----------
    progress : Progress
    update : Update
        In two versions, or there is no way back.
    batches : int
        Steps of an epoch.

    Attributes
    ----------
    before : dict
        What `now` was before the last step, or the last end of an epoch.
    """

    def __init__(self, progress: Progress, update: Update, batches: int) -> None:
        self._progress, self._update, self._batches = progress, update, batches
        self.before = self.now()

    def number(self) -> int:
        """Return a number that grows with each step and with each end of an epoch."""
        return self._progress.epoch * (self._batches + 1) + self._progress.step

    def now(self) -> dict[str, Any]:
        """Return where the run is."""
        return vars(self._progress) | {"steps": self._update.steps}

    def undo(self) -> None:
        """Be where the run was `before`."""
        before = dict(self.before)
        if before.pop("steps") < self._update.steps:
            self._update.undo()
        vars(self._progress).update(before)
        self._progress.history = self._progress.history.first(self._progress.epoch)
