"""Where a run is, and one step back from there.

Ranks of several nodes can be a step, or the end of an epoch, apart when one of them dies.
They go on where the last of them is: so each knows how to undo what it did last.
"""

from typing import Any

from distbp.optimizers import Update
from distbp.progress import Progress


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
