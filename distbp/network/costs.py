"""Costs: what training minimizes, each with its own δ of the output layer (BP1).

A `Cost` has `fn(z, a, y)`, its value summed over the rows, and `delta(a, y, out)`. It knows the
activation of the output layer in front of it; the pairs that make sense are in `OUTPUTS`:

    quadratic, sigmoid or linear     C = ½‖a − y‖²                      δ = (a − y) ⊙ σ′(z)
    cross-entropy, sigmoid           C = −Σ y ln a + (1−y) ln(1−a)      δ = a − y
    log-likelihood, softmax          C = −Σ y ln a                      δ = a − y

In the last two, σ′ cancels. There a saturates long before C does: in float32 σ(20) is 1. So
their values are computed from z, without the logarithm of a rounded 0. Source: M. Nielsen,
Neural Networks and Deep Learning, chapters 2 and 3.

A regression may be trained on standardized targets and still report the quadratic cost in the
user's units: `fn` then returns it in multiples of `unit`, which keeps it within float32.

Rows may have weights, by which their costs and δ are multiplied: `weighted_fn` is `fn` with them,
and `Network.backprop` applies them to δ^L. Without weights neither is called or computed.
"""

from abc import ABC, abstractmethod

import numpy as np

from distbp.network.activations import Activation


class Cost(ABC):
    """The cost of an output layer; arrays (m, n_L).

    Parameters
    ----------
    output : Activation
        Of the output layer, because BP1 needs its σ′.

    Attributes
    ----------
    unit : float
        The result of `fn` is in multiples of it.
    """

    unit = 1.0

    def __init__(self, output: Activation) -> None:
        self.output = output

    @abstractmethod
    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        """Return the cost summed over the rows; `spare` is overwritten.

        `z` is what the output layer's `fill` has left, which for softmax is ln a.
        """

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        """Return the cost of each row times its weight, summed; `spare` is overwritten.

        `weights` (m, n_L) has the weight of a row in each of its columns, as NumPy allocates
        memory to broadcast one. Here row by row, for any cost; subclasses are faster.
        """
        costs = (self.fn(z[i : i + 1], a[i : i + 1], y[i : i + 1]) for i in range(len(y)))
        return float(sum(cost * float(w) for cost, w in zip(costs, weights[:, 0], strict=True)))

    def delta(
        self,
        a: np.ndarray,
        y: np.ndarray,
        out: np.ndarray | None = None,
        spare: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return δ^L = ∇_a C ⊙ σ′(z^L) (BP1): here a − y, because σ′ cancels."""
        return np.subtract(a, y, out=out)


class QuadraticCost(Cost):
    """C = ½‖a − y‖², or ½‖(a − y) ⊙ units‖² after `use_units`, which changes `fn` alone."""

    _unit_weights: np.ndarray | None = None  # of the outputs

    def use_units(self, units: np.ndarray, dtype: np.dtype) -> None:
        """Let `fn` measure the error of each output, of type `dtype`, in `units` (n_L,).

        δ stays that of ½‖a − y‖²: all outputs are learnt alike, whatever their units.
        """
        largest = float(units.max())
        self.unit = largest * largest
        if (units != largest).any():
            self._unit_weights = np.square(units / largest)
            self._squares, self._wide = np.empty(len(units), dtype), np.empty(len(units))

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        error = np.subtract(a, y, out=spare)
        if self._unit_weights is None:
            return 0.5 * float(np.vdot(error, error))
        return self._half_sum(np.square(error, out=error))

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        error = np.subtract(a, y, out=spare)
        np.square(error, out=error)
        return self._half_sum(np.multiply(error, weights, out=error))

    def _half_sum(self, squares: np.ndarray) -> float:
        """Return half the sum of squared errors (m, n_L), each output in its units."""
        if self._unit_weights is None:
            return 0.5 * float(squares.sum())
        np.add.reduce(squares, axis=0, out=self._squares)
        np.copyto(self._wide, self._squares)
        return 0.5 * float(np.dot(self._wide, self._unit_weights))

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
        # ln(1 + e^z) − y z = z (H(z) − y) + ln(1 + e^−|z|), where H is the Heaviside step:
        # large terms cancel before they are summed, and e^−|z| cannot overflow.
        rest = np.heaviside(z, 0.0, out=spare)
        np.subtract(rest, y, out=rest)
        np.multiply(rest, z, out=rest)
        total = rest.sum()
        np.abs(z, out=rest)
        np.negative(rest, out=rest)
        np.exp(rest, out=rest)
        return float(total + np.log1p(rest, out=rest).sum())

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        # As in `fn`.
        rest = np.heaviside(z, 0.0, out=spare)
        np.subtract(rest, y, out=rest)
        np.multiply(rest, z, out=rest)
        total = np.multiply(rest, weights, out=rest).sum()
        np.abs(z, out=rest)
        np.negative(rest, out=rest)
        np.exp(rest, out=rest)
        np.log1p(rest, out=rest)
        return float(total + np.multiply(rest, weights, out=rest).sum())


class LogLikelihoodCost(Cost):
    """C = −Σ y ln a, for a = softmax(z), whose `fill` leaves ln a in z."""

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        return -float(np.vdot(y, z))

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        return -float(np.vdot(np.multiply(y, weights, out=spare), z))


COSTS: dict[str, type[Cost]] = {
    "quadratic": QuadraticCost,
    "cross-entropy": CrossEntropyCost,
    "log-likelihood": LogLikelihoodCost,
}
# The output layers that go with a cost; the first is the default.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "quadratic": ("sigmoid", "linear"),
    "cross-entropy": ("sigmoid",),
    "log-likelihood": ("softmax",),
}
