"""Activations: σ and σ′, element by element (softmax: row by row).

An `Activation` has `fill(z, out)`, which writes σ(z), and `prime(a, out, z)`, which writes σ′.
For most, σ′ is a function of the output a = σ(z), so a hidden layer's z and a are one array;
gelu and silu, which are not monotonic, need z as well. All work on a batch of rows, float32 or
float64, and allocate nothing if they are given `spare`. `find_activation` finds them by name in
`ACTIVATIONS`; `HIDDEN` names those for hidden layers.

Values and slopes are those of PyTorch's modules of these names, with their default parameters
(gelu: `approximate="tanh"`). elu and softplus use e^z − 1 and ln(1 + e^z) instead of expm1 and
log1p, whose last bits differ from one C library to the next; the difference is below the
rounding error of 1. Source: M. Nielsen, Neural Networks and Deep Learning, chapters 1 and 3, and
the papers that the classes name.
"""

import math
from abc import ABC, abstractmethod

import numpy as np

from distbp import own_parts


class Activation(ABC):
    """σ of one layer; arrays (m, n_l), float32 or float64.

    Attributes
    ----------
    gain : float
        Factor on the variance 1/n of initial weights, such that E[σ(z)²] = 1 for z ~ N(0, gain):
        then layers neither damp nor amplify inputs of variance 1 (as for relu in He et al.,
        ICCV 2015, section 2.2). sigmoid and tanh have 1.
    needs_z : bool
        Whether `prime` reads z, which then has an array of its own.
    """

    gain = 1.0
    needs_z = False

    @abstractmethod
    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        """Write σ(z) to `out`, which may be z itself, and return it; `spare` is overwritten."""

    @abstractmethod
    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Write σ′(z), where a = σ(z), to `out`, which must not be a, and return it.

        `z` is not used unless `needs_z`, and is overwritten then; otherwise it may be a itself.
        """


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

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        np.subtract(1.0, a, out=out)
        return np.multiply(out, a, out=out)


class Tanh(Activation):
    """tanh(z)."""

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        return np.tanh(z, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        np.multiply(a, a, out=out)
        return np.subtract(1.0, out, out=out)


class Relu(Activation):
    """max(z, 0), with σ′(0) = 0."""

    gain = 2.0

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        return np.maximum(z, 0.0, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        # 1 where a > 0, else 0, in two passes that allocate no mask.
        return np.ceil(np.minimum(a, 1.0, out=out), out=out)


class LeakyRelu(Activation):
    """z, or 0.01 z for z ≤ 0 (Maas et al., ICML 2013)."""

    slope = 0.01
    gain = 2.0 / (1.0 + slope * slope)

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        return np.maximum(z, np.multiply(z, self.slope, out=spare), out=out)

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        np.ceil(np.minimum(a, 1.0, out=out), out=out)  # 1 where a > 0, else at most 0
        return np.maximum(out, self.slope, out=out)


class Elu(Activation):
    """z, or e^z − 1 for z ≤ 0 (Clevert et al., ICLR 2016)."""

    gain = 1.6332

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        below = np.minimum(z, 0.0, out=spare)
        np.subtract(np.exp(below, out=below), 1.0, out=below)
        return np.add(np.maximum(z, 0.0, out=out), below, out=out)  # one of the two is 0

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.add(np.minimum(a, 0.0, out=out), 1.0, out=out)


class Softplus(Activation):
    """ln(1 + e^z) (Glorot et al., AISTATS 2011)."""

    gain = 1.1732

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        # As max(z, 0) + ln(1 + e^−|z|), in which nothing overflows.
        rest = np.abs(z, out=spare)
        np.exp(np.negative(rest, out=rest), out=rest)
        np.log(np.add(rest, 1.0, out=rest), out=rest)
        return np.add(np.maximum(z, 0.0, out=out), rest, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        np.exp(np.negative(a, out=out), out=out)
        return np.subtract(1.0, out, out=out)


class Silu(Activation):
    """z / (1 + e^−z) (Elfwing et al., Neural Networks 107, 2018)."""

    gain = 2.4297
    needs_z = True
    _sigmoid = Sigmoid()

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        # Where σ is not below its value at −87, a smaller z would make the product large again.
        bounded = np.maximum(z, -87.0 if z.dtype == np.float32 else -708.0, out=spare)
        return np.multiply(self._sigmoid.fill(bounded, out), bounded, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        # With s = 1 / (1 + e^−z), a = z s and σ′ = s + a (1 − s).
        s = self._sigmoid.fill(z, out)
        np.multiply(np.subtract(1.0, s, out=z), a, out=z)
        return np.add(s, z, out=out)


class Gelu(Activation):
    """½ z (1 + tanh u), u = √(2/π) (z + 0.044715 z³) (Hendrycks and Gimpel, 2016).

    The tanh form, PyTorch's `approximate="tanh"`: NumPy has no erf for the exact one, from which
    it differs by at most 0.0005.
    """

    gain = 2.1549
    needs_z = True
    # u = z (_LINEAR + _CUBIC z²).
    _LINEAR = math.sqrt(2.0 / math.pi)
    _CUBIC = 0.044715 * _LINEAR
    _BOUND = 30.0  # tanh u is ±1 beyond, and z² must not overflow

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        t = self._tanh(z, np.empty_like(z) if spare is None else spare)
        np.multiply(np.add(t, 1.0, out=t), 0.5, out=t)
        return np.multiply(z, t, out=out)

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        # With t = tanh u, σ′ = ½ (1 + t) + (1 − t) a u′(z) = 1 + (1 − t) (a u′(z) − ½).
        t = self._tanh(z, out)
        np.maximum(np.minimum(z, self._BOUND, out=z), -self._BOUND, out=z)
        np.multiply(np.multiply(z, z, out=z), 3.0 * self._CUBIC, out=z)
        np.multiply(np.add(z, self._LINEAR, out=z), a, out=z)  # a u′(z)
        np.multiply(np.subtract(1.0, t, out=out), np.subtract(z, 0.5, out=z), out=out)
        return np.add(out, 1.0, out=out)

    def _tanh(self, z: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write tanh u to `out`, which must not be z."""
        bounded = np.maximum(np.minimum(z, self._BOUND, out=out), -self._BOUND, out=out)
        np.multiply(bounded, bounded, out=out)
        np.add(np.multiply(out, self._CUBIC, out=out), self._LINEAR, out=out)
        return np.tanh(np.multiply(out, z, out=out), out=out)


class Linear(Activation):
    """z itself: the output of a regression."""

    def fill(self, z: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
        np.copyto(out, z)
        return out

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
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

    def prime(self, a: np.ndarray, out: np.ndarray, z: np.ndarray) -> np.ndarray:
        raise TypeError("softmax has no elementwise derivative: use the log-likelihood cost")


ACTIVATIONS: dict[str, type[Activation]] = {
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "relu": Relu,
    "leaky-relu": LeakyRelu,
    "elu": Elu,
    "gelu": Gelu,
    "silu": Silu,
    "softplus": Softplus,
    "linear": Linear,
    "softmax": Softmax,
}
HIDDEN = ("sigmoid", "tanh", "relu", "leaky-relu", "elu", "gelu", "silu", "softplus")


def find_activation(name: str) -> type[Activation]:
    """Return the class of an activation; raise ConfigError if there is none of that name."""
    found: type[Activation] = own_parts.find_in(ACTIVATIONS, name, Activation, "activation", HIDDEN)
    return found


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return σ(z) = 1 / (1 + e^−z), element by element, without overflow."""
    z = np.asarray(z)
    z = z if z.dtype in (np.float32, np.float64) else z.astype(np.float64)
    return Sigmoid().fill(z, np.empty_like(z))


def sigmoid_prime(z: np.ndarray) -> np.ndarray:
    """Return σ′(z) = σ(z) (1 − σ(z)), element by element."""
    a = sigmoid(z)
    return Sigmoid().prime(a, np.empty_like(a), a)
