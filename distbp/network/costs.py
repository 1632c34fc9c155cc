"""Costs: what training minimizes, each with its own δ (BP1)."""

from abc import ABC, abstractmethod

import numpy as np

from distbp.network.activations import Activation


class Cost(ABC):
    """A cost behind an output layer; arrays (m, n_L).

    Parameters
    ----------
    output : Activation
        Of the output layer, because BP1 needs its σ′.
    """

    def __init__(self, output: Activation) -> None:
        self.output = output

    @abstractmethod
    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        """Return the cost summed over the rows; `spare` (m, n_L) is overwritten.

        `z` is as the output layer's `fill` has left it.
        """

    def delta(
        self,
        a: np.ndarray,
        y: np.ndarray,
        out: np.ndarray | None = None,
        spare: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return δ^L = ∇_a C ⊙ σ′(z^L) (BP1), here a − y, because σ′ cancels."""
        return np.subtract(a, y, out=out)


class QuadraticCost(Cost):
    """C = ½‖a − y‖²."""

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        error = np.subtract(a, y, out=spare)
        return 0.5 * float(np.vdot(error, error))

    def delta(
        self,
        a: np.ndarray,
        y: np.ndarray,
        out: np.ndarray | None = None,
        spare: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return δ^L = (a − y) ⊙ σ′(z^L) (BP1)."""
        delta = np.subtract(a, y, out=out)
        prime = self.output.prime(a, np.empty_like(a) if spare is None else spare)
        return np.multiply(delta, prime, out=delta)


class CrossEntropyCost(Cost):
    """C = −Σ y ln a + (1 − y) ln(1 − a) = Σ ln(1 + e^z) − y z, for a = σ(z)."""

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        # ln(1 + e^z) − y z = z (H(z) − y) + ln(1 + e^−|z|), H the step from 0 to 1:
        # large terms cancel before anything is summed.
        rest = np.heaviside(z, 0.0, out=spare)
        np.subtract(rest, y, out=rest)
        np.multiply(rest, z, out=rest)
        total = rest.sum()
        np.abs(z, out=rest)
        np.negative(rest, out=rest)
        np.exp(rest, out=rest)
        return float(total + np.log1p(rest, out=rest).sum())


class LogLikelihoodCost(Cost):
    """C = −Σ y ln a, for a = softmax(z), which leaves ln a in z."""

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        return -float(np.vdot(y, z))


COSTS: dict[str, type[Cost]] = {
    "quadratic": QuadraticCost,
    "cross-entropy": CrossEntropyCost,
    "log-likelihood": LogLikelihoodCost,
}
# The output layers a cost goes with, the first one by default.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "quadratic": ("sigmoid", "linear"),
    "cross-entropy": ("sigmoid",),
    "log-likelihood": ("softmax",),
}
