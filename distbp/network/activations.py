"""Activations: σ and σ′, element by element (softmax: row by row).

An `Activation` has `fill(z, out)`, which writes σ(z), and `prime(a, out)`, which writes σ′ as
a function of the output a = σ(z): so a hidden layer's z need not be kept. Both work on a
batch of rows, float32 or float64, and allocate nothing. `ACTIVATIONS` finds them by name;
`HIDDEN` names those for hidden layers. Source: M. Nielsen, Neural Networks and Deep
Learning, chapters 1 and 3.
"""

from abc import ABC, abstractmethod

import numpy as np


class Activation(ABC):
    """σ of one layer; arrays (m, n_l), float32 or float64."""

    # Factor on the variance of initial weights that keeps that of z from layer to layer
    # (He et al., ICCV 2015): relu halves it.
    gain = 1.0

    @abstractmethod
    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        """Write σ(z) to `out`, which may be z itself, and return it; `spare` is overwritten."""

    @abstractmethod
    def prime(self, a: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write σ′(z), where a = σ(z), to `out`, which must not be a, and return it."""


class Sigmoid(Activation):
    """σ(z) = 1 / (1 + e^−z)."""

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        # For smaller z e^−z overflows; there σ is below the smallest normal number anyway.
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
    """tanh(z)."""

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
        # 1 where a > 0, else 0, in two passes that allocate no mask.
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
    """a_j = e^z_j / Σ_k e^z_k, for output layers only: each a_j depends on every z_k.

    `fill` also subtracts ln Σ_k e^z_k from z. That changes no a, and leaves ln a in z, finite
    even where a underflows to 0: the log-likelihood cost needs it.
    """

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        # Rows filled with one number, because broadcasting a column makes NumPy allocate.
        rows = np.empty_like(z) if spare is None else spare
        np.copyto(rows, np.maximum.reduce(z, axis=1, keepdims=True))
        np.subtract(z, rows, out=z)  # e^z cannot overflow now
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
