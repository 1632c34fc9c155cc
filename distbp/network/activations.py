"""Activations and costs.

An activation has `fill(z, out)`, which writes σ(z), and `prime(a, out)`, which
writes σ′ as a function of the output a, so that z need not be kept. A cost has
`fn(z, a, y)`, its value summed over the rows, and `delta(a, y, out)`, the error
δ of the output layer (BP1). A cost knows the activation of the output layer it
stands behind; the pairs that make sense are listed in `OUTPUTS`:

    quadratic, sigmoid or linear     C = ½‖a − y‖²            δ = (a − y) ⊙ σ′(z)
    cross-entropy, sigmoid           C = −Σ y ln a + (1−y) ln(1−a)      δ = a − y
    log-likelihood, softmax          C = −Σ y ln a                      δ = a − y

In the last two σ′ cancels. There a is saturated long before C is: in float32
σ(20) is 1, so their values are computed from z and never see a logarithm of 0. (Softmax
does not mind a constant added to all z of a row: `fill` leaves the z that is ln a.)
All work on a batch of rows, float32 or float64, and allocate nothing in `fill`,
`prime` and `delta`. Source: M. Nielsen, Neural Networks and Deep Learning, ch. 1-3.
"""

from abc import ABC, abstractmethod

import numpy as np


class Activation(ABC):
    """A function of z, row by row; shapes (m, n_l)."""

    # Variance of a layer's input over that of its weights' sum (He et al. 2015).
    gain = 1.0

    @abstractmethod
    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        """Write σ(z) to `out`, which may be z itself; `spare` (m, n_l) is overwritten."""

    @abstractmethod
    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write σ′(z), where a = σ(z), to `out`, which must not be a."""


class Sigmoid(Activation):
    """σ(z) = 1 / (1 + e^−z)."""

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        # Below, e^−z would overflow; σ is smaller than the smallest number anyway.
        lowest = -87.0 if z.dtype == np.float32 else -708.0
        np.maximum(z, lowest, out=out)
        np.negative(out, out=out)
        np.exp(out, out=out)
        np.add(out, 1.0, out=out)
        return np.reciprocal(out, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        np.subtract(1.0, a, out=out)
        return np.multiply(out, a, out=out)


class Tanh(Activation):
    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        return np.tanh(z, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        np.multiply(a, a, out=out)
        return np.subtract(1.0, out, out=out)


class Relu(Activation):
    """max(z, 0), with σ′(0) = 0."""

    gain = 2.0

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        return np.maximum(z, 0.0, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        return np.ceil(np.minimum(a, 1.0, out=out), out=out)


class Linear(Activation):
    """z itself: the output of a regression."""

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        np.copyto(out, z)
        return out

    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        out.fill(1.0)
        return out


class Softmax(Activation):
    """a_j = e^z_j / Σ_k e^z_k, an output layer only: each a_j depends on every z_k.

    `fill` also subtracts ln Σ_k e^z_k from z, which then is ln a, exact where a is 0.
    """

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        # Whole rows of the same number, because NumPy allocates to broadcast one.
        rows = np.empty_like(z) if spare is None else spare
        np.copyto(rows, np.maximum.reduce(z, axis=1, keepdims=True))
        np.subtract(z, rows, out=z)
        np.exp(z, out=out)
        sums = np.add.reduce(out, axis=1, keepdims=True)  # (m, 1)
        np.copyto(rows, sums)
        np.divide(out, rows, out=out)
        np.copyto(rows, np.log(sums, out=sums))
        np.subtract(z, rows, out=z)
        return out

    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        raise TypeError("softmax has no elementwise derivative: use the log-likelihood cost")


ACTIVATIONS: dict[str, type[Activation]] = {
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "relu": Relu,
    "linear": Linear,
    "softmax": Softmax,
}
HIDDEN = ("sigmoid", "tanh", "relu")


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return σ(z) = 1 / (1 + e^−z), element by element, without overflow."""
    z = np.asarray(z)
    z = z if z.dtype in (np.float32, np.float64) else z.astype(np.float64)
    return Sigmoid().fill(z, np.empty_like(z))


def sigmoid_prime(z: np.ndarray) -> np.ndarray:
    """Return σ′(z) = σ(z) (1 − σ(z)), element by element."""
    a = sigmoid(z)
    return Sigmoid().prime(a, np.empty_like(a))
