"""Costs: what training minimizes, each with its own δ of the output layer (BP1).

A `Cost` has `fn(z, a, y)`, its value summed over the rows, and `delta(a, y, out)`. It knows the
activation of the output layer in front of it; the pairs that make sense are in `OUTPUTS`:

    quadratic, sigmoid or linear     C = ½‖a − y‖²                      δ = (a − y) ⊙ σ′(z)
    cross-entropy, sigmoid           C = −Σ y ln a + (1−y) ln(1−a)      δ = a − y
    log-likelihood, softmax          C = −Σ y ln a                      δ = a − y
    huber, linear                    C = Σ h(a − y)                     δ = clip(a − y, −1, 1)
    mae, linear                      C = Σ |a − y|                      δ = sign(a − y)

In cross-entropy and log-likelihood, σ′ cancels. There a saturates long before C does: in float32
σ(20) is 1. So their values are computed from z, without the logarithm of a rounded 0. h(e) is
½ e² for |e| ≤ 1 and |e| − ½ beyond. Like ½‖a − y‖², huber and mae are sums over the outputs.
Sources: M. Nielsen, Neural Networks and Deep Learning, chapters 2 and 3; P. J. Huber, Ann. Math.
Statist. 35 (1964). `find_cost` finds them by name in `COSTS`.

A regression may be trained on standardized targets and still report a `RegressionCost` in the
user's units: `fn` then returns it in multiples of `unit`, which keeps it within float32.

Rows may have weights, by which their costs and δ are multiplied: `weighted_fn` is `fn` with them,
and `Network.backprop` applies them to δ^L. Without weights neither is called or computed.
"""

from abc import ABC, abstractmethod

import numpy as np

from distbp import own_parts
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
    tasks : tuple of str
        Of a user's own cost: what it is for. That of a regression is a `RegressionCost`.
    outputs : tuple of str
        Of a user's own cost: the output layers that go with it; the first is the default.
    """

    unit = 1.0
    tasks: tuple[str, ...] = ("classification", "multilabel", "regression")
    outputs: tuple[str, ...] = ("sigmoid", "linear")

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


class RegressionCost(Cost):
    """A cost of errors a − y, summed over the outputs, each in its unit after `use_units`.

    Attributes
    ----------
    unit_power : {1, 2}
        The cost is measured in this power of the unit of the targets.
    unit_weights : (n_L,) float64 array or None
        Factors on the costs of the outputs, relative to that with the largest unit; None if all
        have the same unit.
    """

    unit_power = 2
    unit_weights: np.ndarray | None = None

    def use_units(self, units: np.ndarray, dtype: np.dtype) -> None:
        """Let `fn` measure the error of each output, of type `dtype`, in `units` (n_L,).

        δ stays as it is without units: all outputs are learned alike, whatever their units.
        """
        largest = float(units.max())
        self.unit = largest * largest if self.unit_power == 2 else largest
        if (units != largest).any():
            self.unit_weights = (units / largest) ** self.unit_power
            self._sums, self._wide = np.empty(len(units), dtype), np.empty(len(units))

    def _sum(self, values: np.ndarray, weights: np.ndarray | None = None) -> float:
        """Return the sum over the rows and, in their units, over the outputs; overwrites `values`.

        `weights` are those of the rows, as for `weighted_fn`.
        """
        if weights is not None:
            np.multiply(values, weights, out=values)
        if self.unit_weights is None:
            return float(np.add.reduce(values, axis=None))
        np.add.reduce(values, axis=0, out=self._sums)
        np.copyto(self._wide, self._sums)
        return float(np.dot(self._wide, self.unit_weights))


class QuadraticCost(RegressionCost):
    """C = ½‖a − y‖², or ½‖(a − y) ⊙ units‖²."""

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        error = np.subtract(a, y, out=spare)
        if self.unit_weights is None:
            return 0.5 * float(np.vdot(error, error))
        return 0.5 * self._sum(np.square(error, out=error))

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        error = np.subtract(a, y, out=spare)
        return 0.5 * self._sum(np.square(error, out=error), weights)

    def delta(
        self,
        a: np.ndarray,
        y: np.ndarray,
        out: np.ndarray | None = None,
        spare: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return δ^L = (a − y) ⊙ σ′(z^L) (BP1)."""
        delta = np.subtract(a, y, out=out)
        prime = self.output.prime(a, np.empty_like(a) if spare is None else spare, a)
        return np.multiply(delta, prime, out=delta)


class HuberCost(RegressionCost):
    """C = Σ h(a − y): quadratic up to an error of 1, linear beyond.

    1 is the standard deviation of a target if the targets are standardized. With units u, it is
    PyTorch's HuberLoss(delta=u), Σ u² h((a − y) / u) in terms of targets in these units.
    """

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        return self._value(a, y, spare)

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        return self._value(a, y, spare, weights)

    def _value(
        self,
        a: np.ndarray,
        y: np.ndarray,
        spare: np.ndarray | None,
        weights: np.ndarray | None = None,
    ) -> float:
        # h(e) = max(|e| − 1, 0) + ½ min(|e|, 1)²: both terms are positive, so nothing cancels.
        rest = np.subtract(a, y, out=spare)
        np.subtract(np.abs(rest, out=rest), 1.0, out=rest)
        linear = self._sum(np.maximum(rest, 0.0, out=rest), weights)
        inner = self.delta(a, y, rest)
        return linear + 0.5 * self._sum(np.square(inner, out=inner), weights)

    def delta(
        self,
        a: np.ndarray,
        y: np.ndarray,
        out: np.ndarray | None = None,
        spare: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return δ^L = clip(a − y, −1, 1) (BP1): the output is linear, so σ′ is 1."""
        error = np.subtract(a, y, out=out)
        return np.maximum(np.minimum(error, 1.0, out=error), -1.0, out=error)


class MeanAbsoluteCost(RegressionCost):
    """C = Σ |a − y|, with the slope 0 at 0, as PyTorch's L1Loss."""

    unit_power = 1

    def fn(
        self, z: np.ndarray, a: np.ndarray, y: np.ndarray, spare: np.ndarray | None = None
    ) -> float:
        error = np.subtract(a, y, out=spare)
        return self._sum(np.abs(error, out=error))

    def weighted_fn(
        self,
        z: np.ndarray,
        a: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        spare: np.ndarray | None = None,
    ) -> float:
        error = np.subtract(a, y, out=spare)
        return self._sum(np.abs(error, out=error), weights)

    def delta(
        self,
        a: np.ndarray,
        y: np.ndarray,
        out: np.ndarray | None = None,
        spare: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return δ^L = sign(a − y) (BP1): the output is linear, so σ′ is 1."""
        error = np.subtract(a, y, out=out)
        return np.sign(error, out=error)


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
    "huber": HuberCost,
    "mae": MeanAbsoluteCost,
}
# The output layers that go with a cost; the first is the default.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "quadratic": ("sigmoid", "linear"),
    "cross-entropy": ("sigmoid",),
    "log-likelihood": ("softmax",),
    "huber": ("linear",),
    "mae": ("linear",),
}


def find_cost(name: str) -> type[Cost]:
    """Return the class of a cost; raise ConfigError if there is none of that name."""
    found: type[Cost] = own_parts.find_in(COSTS, name, Cost, "cost")
    return found


def outputs_of(name: str) -> tuple[str, ...]:
    """Return the output layers that go with a cost; the first is the default."""
    return find_cost(name).outputs if own_parts.is_own(name) else OUTPUTS[name]
