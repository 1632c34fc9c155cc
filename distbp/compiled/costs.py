"""The value of each cost, and δ^L (BP1), for one output; summed over a shard in a fixed order.

The formulas are those of `distbp.network.costs`. `make_output_layer` makes the kernel that turns
z^L into a^L, cost, number of correct answers (see `training.accuracy`) and δ^L.
"""

from functools import cache
from typing import NamedTuple

from distbp.compiled.activations import make_activation, make_softmax
from distbp.compiled.intrinsics import inlined, kernel, part
from distbp.compiled.vector_math import Real, Scalar, exp_of, log1p_of

CLASSIFICATION, MULTILABEL, REGRESSION = "classification", "multilabel", "regression"


class ScalarCost(NamedTuple):
    """The cost of one output as `value(z, a, y)`, and its δ^L as `delta(a, y)`."""

    value: Scalar
    delta: Scalar


@cache
def make_cost(name: str, output: str, real: Real) -> ScalarCost:
    """Return a cost by its name in `network.costs`, behind an output layer."""
    return _MAKERS[name](output, real)


def _quadratic(output: str, real: Real) -> ScalarCost:
    half, prime = real(0.5), make_activation(output, real).prime

    @inlined
    def value(z, a, y):
        return half * ((a - y) * (a - y))

    @inlined
    def delta(a, y):
        return (a - y) * prime(a, a)

    return ScalarCost(value, delta)


def _cross_entropy(output: str, real: Real) -> ScalarCost:
    exp, log1p, zero, one = exp_of(real), log1p_of(real), real(0), real(1)

    @inlined
    def value(z, a, y):
        # ln(1 + e^z) − y z as z (H(z) − y) + ln(1 + e^−|z|), in which nothing overflows.
        return ((one if z > zero else zero) - y) * z + log1p(exp(-z if z > zero else z))

    @inlined
    def delta(a, y):
        return a - y

    return ScalarCost(value, delta)


def _log_likelihood(output: str, real: Real) -> ScalarCost:
    @inlined
    def value(log_a, a, y):  # softmax leaves ln a in z
        return -(y * log_a)

    @inlined
    def delta(a, y):
        return a - y

    return ScalarCost(value, delta)


def _huber(output: str, real: Real) -> ScalarCost:
    zero, half, one = real(0), real(0.5), real(1)

    @inlined
    def delta(a, y):
        error = a - y
        error = one if error > one else error
        return -one if error < -one else error

    @inlined
    def value(z, a, y):
        # max(|e| − 1, 0) + ½ min(|e|, 1)²: both terms are positive, so nothing cancels.
        rest, inner = abs(a - y) - one, delta(a, y)
        return (zero if rest < zero else rest) + half * (inner * inner)

    return ScalarCost(value, delta)


def _mean_absolute(output: str, real: Real) -> ScalarCost:
    zero, one = real(0), real(1)

    @inlined
    def value(z, a, y):
        return abs(a - y)

    @inlined
    def delta(a, y):
        error = a - y
        sign = one if error > zero else -one
        return sign if abs(error) > zero else error  # 0, or NaN

    return ScalarCost(value, delta)


_MAKERS = {
    "quadratic": _quadratic,
    "cross-entropy": _cross_entropy,
    "log-likelihood": _log_likelihood,
    "huber": _huber,
    "mae": _mean_absolute,
}


@cache
def make_sum(real: Real) -> Scalar:
    """Return the kernel total(v), the sum of a vector in an order that its length alone decides.

    Eight partial sums: one would wait for each addition, and vectors would have a width.
    """
    zero = real(0)

    @kernel
    def total(v):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
        whole = v.size & ~7
        for i in range(0, whole, 8):
            s0 += v[i]
            s1 += v[i + 1]
            s2 += v[i + 2]
            s3 += v[i + 3]
            s4 += v[i + 4]
            s5 += v[i + 5]
            s6 += v[i + 6]
            s7 += v[i + 7]
        s = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
        for i in range(whole, v.size):
            s += v[i]
        return s

    return total


@cache
def make_output_layer(
    output: str, cost: str, real: Real, task: str, has_units: bool, has_weights: bool
) -> Scalar:
    """Return the kernel output_layer(units, y, labels, weights, z, a, delta, m, n).

    It writes a^L and δ^L of m rows of n outputs, and returns (cost, correct): their sums over the
    rows. z^L is overwritten by ln a if the output is softmax. All arrays are vectors.

    Parameters
    ----------
    has_units : bool
        Whether the cost of each output is multiplied by one of `units` (n,), float64: see
        `network.costs.RegressionCost`.
    has_weights : bool
        Whether rows have weights (m,).
    """
    fill = _make_fill(output, real)
    value, delta_of = make_cost(cost, output, real)
    total, count = make_sum(real), _make_count(task, real)

    @kernel
    def output_layer(units, y, labels, weights, z, a, delta, m, n):
        fill(z, a, delta, m, n)
        for i in range(m * n):
            delta[i] = value(z[i], a[i], y[i])  # until the costs are summed
        cost = 0.0
        for i in range(m):
            row = part(delta, i * n, n)
            if has_units:
                for j in range(n):
                    row[j] *= units[j]
            cost += total(row) * weights[i] if has_weights else total(row)
        for i in range(m * n):
            delta[i] = delta_of(a[i], y[i])  # BP1
        if has_weights:
            for i in range(m):
                row = part(delta, i * n, n)
                for j in range(n):
                    row[j] *= weights[i]
        return cost, count(a, y, labels, m, n)

    return output_layer


@cache
def _make_fill(output: str, real: Real) -> Scalar:
    """Return the kernel that writes a^L of rows."""
    if output == "softmax":
        return make_softmax(real)
    sigma = make_activation(output, real).sigma

    @kernel
    def fill(z, a, spare, rows, n):
        for i in range(rows * n):
            a[i] = sigma(z[i])

    return fill


@cache
def _make_count(task: str, real: Real) -> Scalar:
    """Return the kernel that counts the right answers of a shard."""
    half = real(0.5)
    is_classification, is_multilabel = task == CLASSIFICATION, task == MULTILABEL

    @kernel
    def count(a, y, labels, m, n):
        correct = 0
        if is_classification:
            for i in range(m):
                row, best = part(a, i * n, n), 0
                for j in range(1, n):
                    best = j if row[j] > row[best] else best
                correct += 1 if best == labels[i] else 0
        elif is_multilabel:
            for i in range(m * n):
                correct += 1 if (a[i] > half) == (y[i] > half) else 0
        return correct

    return count
