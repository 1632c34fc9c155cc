"""σ and σ′ of one number, in the formulas of `distbp.network.activations`, and softmax of rows.

`make_activation(name, real)` returns both for a type of number. σ′ is `prime(a, z)`, where z
counts only if the activation `needs_z`. Kernels call them in loops, which vectorize. A NaN in
z becomes a NaN in a.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from distbp.compiled.intrinsics import inlined, kernel, part
from distbp.compiled.vector_math import Real, Scalar, exp_of, log_of, tanh_of


class ScalarActivation(NamedTuple):
    """σ(z) and σ′ as `prime(a, z)`, of one number."""

    sigma: Scalar
    prime: Scalar


@cache
def make_activation(name: str, real: Real) -> ScalarActivation:
    """Return σ and σ′ of the activation with this name in `network.activations`."""
    return _MAKERS[name](real)


def _sigmoid(real: Real) -> ScalarActivation:
    exp, one, lowest = exp_of(real), real(1), real(-87 if real is np.float32 else -708)

    @inlined
    def sigma(z):
        # For smaller z e^−z overflows; there σ is below the smallest normal number anyway.
        return one / (one + exp(-(lowest if z < lowest else z)))

    @inlined
    def prime(a, z):
        return (one - a) * a

    return ScalarActivation(sigma, prime)


def _tanh(real: Real) -> ScalarActivation:
    one = real(1)

    @inlined
    def prime(a, z):
        return one - a * a

    return ScalarActivation(tanh_of(real), prime)


def _relu(real: Real) -> ScalarActivation:
    zero, one = real(0), real(1)

    @inlined
    def sigma(z):
        return zero if z < zero else z

    @inlined
    def prime(a, z):
        return one if a > zero else zero

    return ScalarActivation(sigma, prime)


def _leaky_relu(real: Real) -> ScalarActivation:
    zero, one, slope = real(0), real(1), real(0.01)

    @inlined
    def sigma(z):
        return slope * z if z < zero else z

    @inlined
    def prime(a, z):
        return one if a > zero else slope

    return ScalarActivation(sigma, prime)


def _elu(real: Real) -> ScalarActivation:
    exp, zero, one = exp_of(real), real(0), real(1)

    @inlined
    def sigma(z):
        return exp(z) - one if z < zero else z

    @inlined
    def prime(a, z):
        return a + one if a < zero else one

    return ScalarActivation(sigma, prime)


def _softplus(real: Real) -> ScalarActivation:
    exp, log, zero, one = exp_of(real), log_of(real), real(0), real(1)

    @inlined
    def sigma(z):
        # max(z, 0) + ln(1 + e^−|z|), in which nothing overflows.
        return (zero if z < zero else z) + log(one + exp(z if z < zero else -z))

    @inlined
    def prime(a, z):
        return one - exp(-a)

    return ScalarActivation(sigma, prime)


def _silu(real: Real) -> ScalarActivation:
    logistic, one = make_activation("sigmoid", real).sigma, real(1)
    lowest = real(-87 if real is np.float32 else -708)

    @inlined
    def sigma(z):
        # Where σ is not below its value at −87, a smaller z would make the product large again.
        bounded = lowest if z < lowest else z
        return logistic(bounded) * bounded

    @inlined
    def prime(a, z):
        s = logistic(z)
        return s + a * (one - s)

    return ScalarActivation(sigma, prime)


def _gelu(real: Real) -> ScalarActivation:
    tanh, half, one = tanh_of(real), real(0.5), real(1)
    linear, cubic, bound = math.sqrt(2.0 / math.pi), 0.044715 * math.sqrt(2.0 / math.pi), real(30)
    linear, cubic, slope = real(linear), real(cubic), real(3.0 * cubic)

    @inlined
    def bounded(z):
        z = bound if z > bound else z  # tanh u is ±1 beyond, and z² must not overflow
        return -bound if z < -bound else z

    @inlined
    def tanh_u(z):
        b = bounded(z)
        return tanh((b * b * cubic + linear) * z)

    @inlined
    def sigma(z):
        return z * ((tanh_u(z) + one) * half)

    @inlined
    def prime(a, z):
        # With t = tanh u, ½ (1 + t) + (1 − t) a u′(z) = 1 + (1 − t) (a u′(z) − ½).
        b = bounded(z)
        return one + (one - tanh_u(z)) * ((b * b * slope + linear) * a - half)

    return ScalarActivation(sigma, prime)


def _linear(real: Real) -> ScalarActivation:
    one = real(1)

    @inlined
    def sigma(z):
        return z

    @inlined
    def prime(a, z):
        return one

    return ScalarActivation(sigma, prime)


_MAKERS = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "leaky-relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
    "linear": _linear,
}


@cache
def make_softmax(real: Real) -> Scalar:
    """Return the kernel softmax(z, a, spare, rows, n), on rows of n numbers, one after the other.

    It writes a, and leaves ln a in z, finite even where a underflows to 0; `spare` (rows,) is
    overwritten.
    """
    exp, log = exp_of(real), log_of(real)
    zero, one = real(0), real(1)

    @kernel
    def softmax(z, a, spare, rows, n):
        for i in range(rows):
            row = part(z, i * n, n)
            top = row[0]
            for j in range(n):
                top = row[j] if row[j] > top else top
            for j in range(n):
                row[j] -= top  # e^z cannot overflow now
        for i in range(rows * n):
            a[i] = exp(z[i])
        for i in range(rows):
            row, total = part(a, i * n, n), zero
            for j in range(n):
                total += row[j]
            spare[i], inverse = total, one / total
            for j in range(n):
                row[j] *= inverse
        for i in range(rows):
            spare[i] = log(spare[i])
        for i in range(rows):
            row, log_total = part(z, i * n, n), spare[i]
            for j in range(n):
                row[j] -= log_total

    return softmax
