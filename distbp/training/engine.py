"""What makes steps: from row numbers to updated parameters, on all ranks together.

An `Engine` is handed the numbers of one or more consecutive mini-batches and makes their steps;
the loop decides how many at a time, and does everything else between two calls. `NumpyEngine` is
the reference: `BatchGradient` runs backprop in NumPy, step by step. `compiled_engine` has the one
that makes many steps in one call of machine code.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from distbp.parallel.step_totals import StepTotals
from distbp.training.gradient import BatchGradient
from distbp.training.timing import Timing

# Is called with the summed costs and the numbers of correct answers of steps that were applied.
Advance = Callable[[Sequence[float], Sequence[float]], None]
NO_ROWS = np.zeros(0, np.int64)


class Engine(ABC):
    """Makes steps, all ranks together.

    Parameters
    ----------
    gradient : BatchGradient

    Attributes
    ----------
    max_steps : int
        How many steps one call makes at most; the same on all ranks.
    timing : Timing
        Of the steps of this engine.
    """

    max_steps = 1

    def __init__(self, gradient: BatchGradient) -> None:
        self.gradient, self.reduction = gradient, gradient.reduction
        self.timing = Timing()

    @abstractmethod
    def run(
        self,
        numbers: np.ndarray,
        position: tuple[int, int],
        rates: Sequence[float],
        requests: tuple[float, float],
        advance: Advance,
        following: np.ndarray = NO_ROWS,
    ) -> StepTotals:
        """Make steps until one is not applied, or a rank requests something; collective.

        Parameters
        ----------
        numbers : (rows,) int64 array
            Row numbers of the mini-batches, one after the other, the same on all ranks.
        position : (epoch, step)
            Of the first of them, which dropout is a function of.
        rates : sequence of float
            The learning rate of each step.
        requests : (stop, save)
            This rank's, 1 or 0 each.
        advance : function
            Called for the steps that were applied, also if a later one raises an exception.
        following : (rows,) int64 array
            Row numbers of the mini-batch after them, if it is known.

        Returns
        -------
        StepTotals
            Of the last step made.
        """

    def repeat(self, numbers: np.ndarray, position: tuple[int, int], rate: float) -> StepTotals:
        """Make the step of one mini-batch again, after a roll-back; collective."""
        return self.run(numbers, position, [rate], (0, 0), lambda costs, correct: None)

    @property
    def looks_ahead(self) -> bool:
        """Return whether it is faster if it knows the mini-batch that follows; on all ranks."""
        return False

    def forget_ahead(self) -> None:
        """Drop what was computed of a later step, because θ has been changed since."""
        return


class NumpyEngine(Engine):
    """Makes one step at a time, in NumPy."""

    def run(
        self,
        numbers: np.ndarray,
        position: tuple[int, int],
        rates: Sequence[float],
        requests: tuple[float, float],
        advance: Advance,
        following: np.ndarray = NO_ROWS,
    ) -> StepTotals:
        del following
        began = perf_counter()
        with self.reduction.cancelling():
            self.gradient.compute(numbers, *position, requests)
            computed = perf_counter()
            totals = self.reduction.reduce_and_update(len(numbers), rates[0])
        self.timing.add_step(began, computed, perf_counter(), self.reduction.wait_s)
        if totals.applied:
            advance((totals.cost,), (totals.correct,))
        return totals
