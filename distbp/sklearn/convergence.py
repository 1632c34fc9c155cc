"""When the training of an estimator ends, as scikit-learn defines it.

A `Convergence` is asked after each epoch. It compares the training cost, or with early stopping
the validation score, with the best so far; if that has not improved by `tol` for
`n_iter_no_change` epochs, the training ends, or with `learning_rate="adaptive"` goes on at a fifth
of the rate.
"""

import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from distbp.training.loop import Run

_LEAST_RATE = 1e-6  # of `adaptive`, which ends below it


class Convergence:
    """Decides after each epoch whether the training has ended; the same on all ranks.

    Parameters
    ----------
    parameters : mapping
        Of an estimator.
    is_partial : bool
        Whether one epoch is made, whatever it brings.
    best_loss : float
        Of earlier calls.
    rows_seen : int
        Rows of all epochs of earlier calls.
    rows : int
        Of the training set.
    is_verbose : bool
        Whether this rank prints.

    Attributes
    ----------
    losses, scores : list of float
        The training cost of each epoch, and the validation score of each if there is one.
    best_loss, best_score : float
    best_theta : array or None
        θ at the best score.
    has_converged : bool
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        is_partial: bool,
        best_loss: float,
        rows_seen: int,
        rows: int,
        is_verbose: bool,
    ) -> None:
        self._tol = float(parameters["tol"])
        self._patience = int(parameters["n_iter_no_change"])
        self._rate = float(parameters["learning_rate_init"])
        # Only sgd of scikit-learn has these; here all rules have.
        self._kind, self._power = parameters["learning_rate"], float(parameters["power_t"])
        self._is_partial, self._is_verbose = is_partial, is_verbose
        self._rows_seen, self._rows = rows_seen, rows
        self._waited = 0
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.best_loss, self.best_score = best_loss, -math.inf
        self.best_theta: np.ndarray | None = None
        self.has_converged = False

    def __call__(self, run: Run) -> bool:
        """Return whether a run has ended, and set the learning rate of the next epoch."""
        records = run.progress.history.records
        if len(records) == len(self.losses):  # before the first epoch
            self._set_rate(run)
            return False
        # None is a cost that is not finite.
        losses = (record["train_cost"] for record in records[len(self.losses) :])
        self.losses += [math.nan if one is None else one for one in losses]
        self._say(f"Iteration {len(self.losses)}, loss = {self.losses[-1]:.8f}")
        if "validation" in run.parts.evaluators:
            self._compare_score(run, records[-1]["validation_accuracy"])
        else:
            self._compare_loss(run.parts.network.cost.unit)
        self._set_rate(run)
        if self._waited > self._patience and not self._is_partial:
            self.has_converged = not self._lowers_rate(run)
        return self.has_converged

    def _compare_loss(self, unit: float) -> None:
        """Note whether the cost is lower; `tol` is for targets as the network learns them."""
        loss = self.losses[-1]
        self._waited = 0 if loss <= self.best_loss - self._tol * unit else self._waited + 1
        if loss < self.best_loss:
            self.best_loss = loss

    def _compare_score(self, run: Run, score: float) -> None:
        self.scores.append(score)
        self._say(f"Validation score: {score:f}")
        self._waited = 0 if score >= self.best_score + self._tol else self._waited + 1
        if score > self.best_score:
            self.best_score, self.best_theta = score, run.parts.network.theta.copy()

    def _set_rate(self, run: Run) -> None:
        """Set the rate of `invscaling` for the next epoch."""
        if self._kind == "invscaling":
            seen = self._rows_seen + len(self.losses) * self._rows
            factor = (seen + 1) ** -self._power if seen else 1.0
            run.progress = run.progress._replace(rate_factor=factor)

    def _lowers_rate(self, run: Run) -> bool:
        """Return whether the training goes on at a lower rate."""
        factor = run.progress.rate_factor / 5
        if self._kind != "adaptive" or self._rate * run.progress.rate_factor <= _LEAST_RATE:
            return False
        run.progress = run.progress._replace(rate_factor=factor)
        self._say(f"No improvement: learning rate {self._rate * factor:g}")
        self._waited = 0
        return True

    def _say(self, text: str) -> None:
        # On one rank only: where that cannot be written, the others must not wait for it.
        if self._is_verbose:
            with suppress(OSError, ValueError):
                sys.stdout.write(f"{text}\n")
