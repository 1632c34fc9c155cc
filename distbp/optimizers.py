"""From a summed gradient to new parameters.

An `Optimizer` applies one rule to flat arrays: parameters, their mean gradient
and its own state, which are arrays of the same length. `Update` is what a step
calls: it divides the sum by the number of rows, clips, adds the derivative of the
L1 and L2 penalties of the weights (not of the biases) and lets the optimizer do
the rest, in pieces that stay in the cache. Every operation works element by
element, and IEEE arithmetic rounds +, −, ×, / and √ alike everywhere, so the
result does not depend on where θ is cut.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

# Numbers in a piece of θ: with gradient, state and spare arrays it fits in the L2 cache.
PIECE = 32768
# Whatever is summed over θ is summed over blocks of this size first, then in order.
BLOCK = 4096


class Optimizer(ABC):
    """A rule for one step; the arrays are slices of θ's length.

    Parameters
    ----------
    momentum : float
        μ, for the rules that have one.

    Attributes
    ----------
    state_names : tuple of str
        The arrays that it keeps from step to step, zeros at first.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, momentum: float = 0.0) -> None:
        self.momentum = momentum

    @abstractmethod
    def apply(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        state: Sequence[np.ndarray],
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        """Change `theta` and `state` by the mean gradient `g`; `g` and `spare` are used up.

        `t` counts the steps from 1.
        """


class Sgd(Optimizer):
    """θ ← θ − η g (the book's equations 20 and 21)."""

    def apply(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        state: Sequence[np.ndarray],
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        np.multiply(g, learning_rate, out=g)
        np.subtract(theta, g, out=theta)


class Momentum(Optimizer):
    """v ← μ v − η g, θ ← θ + v (the book's equations 107 and 108)."""

    state_names = ("velocity",)

    def apply(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        state: Sequence[np.ndarray],
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        (v,) = state
        np.multiply(v, self.momentum, out=v)
        np.multiply(g, learning_rate, out=g)
        np.subtract(v, g, out=v)
        np.add(theta, v, out=theta)


class Nesterov(Momentum):
    """v ← μ v − η g, θ ← θ + μ v − η g (Sutskever et al., ICML 2013)."""

    def apply(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        state: Sequence[np.ndarray],
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        (v,) = state
        np.multiply(v, self.momentum, out=v)
        np.multiply(g, learning_rate, out=g)
        np.subtract(v, g, out=v)
        np.subtract(theta, g, out=theta)
        np.add(theta, np.multiply(v, self.momentum, out=spare), out=theta)


class Adam(Optimizer):
    """Adam with bias correction (Kingma and Ba, ICLR 2015, algorithm 1)."""

    state_names = ("first_moment", "second_moment")
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def apply(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        state: Sequence[np.ndarray],
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        m, v = state
        np.multiply(m, self.beta1, out=m)
        np.add(m, np.multiply(g, 1 - self.beta1, out=spare), out=m)
        np.multiply(v, self.beta2, out=v)
        np.multiply(g, g, out=g)
        np.add(v, np.multiply(g, 1 - self.beta2, out=g), out=v)
        np.sqrt(v, out=g)
        np.divide(g, (1 - self.beta2**t) ** 0.5, out=g)
        np.add(g, self.epsilon, out=g)
        np.multiply(m, learning_rate / (1 - self.beta1**t), out=spare)
        np.subtract(theta, np.divide(spare, g, out=spare), out=theta)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
}


class Update:
    """Apply summed gradients to θ.

    Parameters
    ----------
    theta : (P,) array
        Changed in place by every call.
    sizes : layer sizes that θ belongs to
    optimizer : Optimizer
    l1, l2 : float
        λ/n of the book: the mean gradient of the weights gets l1·sign(w) + l2·w.
    clip_norm : float, optional
        Largest norm of the mean gradient, before the penalties.

    Attributes
    ----------
    state : dict of (P,) arrays
        The optimizer's, by name.
    steps : int
        Updates made so far.
    """

    def __init__(
        self,
        theta: np.ndarray,
        sizes: Sequence[int],
        optimizer: Optimizer,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.theta, self.optimizer = theta, optimizer
        self.l1, self.l2, self.clip_norm = l1, l2, clip_norm
        self.state = {name: np.zeros_like(theta) for name in optimizer.state_names}
        self.steps = 0
        self._spare = np.empty(min(PIECE, theta.size), theta.dtype)
        self._block = np.empty(BLOCK, np.float64)
        self._pieces = [self._piece(slice(i, i + PIECE)) for i in range(0, theta.size, PIECE)]
        self._weights = [
            [
                np.s_[max(lo - i, 0) : hi - i]
                for lo, hi in weight_runs(sizes)
                if lo < i + PIECE and hi > i
            ]
            for i in range(0, theta.size, PIECE)
        ]

    def _piece(self, part: slice) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, slice]:
        theta = self.theta[part]
        return theta, [s[part] for s in self.state.values()], self._spare[: theta.size], part

    def apply(self, total: np.ndarray, rows: int, learning_rate: float) -> None:
        """Change θ by the gradient `total` (P,), summed over `rows` rows; it is used up."""
        self.steps += 1
        scale = 1.0 / rows
        if self.clip_norm is not None:
            norm = scale * blocked_norm(total, self._block)
            scale *= min(1.0, self.clip_norm / norm) if norm > 0 else 1.0
        for (theta, state, spare, part), weights in zip(self._pieces, self._weights, strict=True):
            g = total[part]
            np.multiply(g, scale, out=g)
            for run in weights if self.l1 or self.l2 else ():
                self._penalize(theta[run], g[run], spare[run])
            self.optimizer.apply(theta, g, state, spare, learning_rate, self.steps)

    def _penalize(self, w: np.ndarray, g: np.ndarray, spare: np.ndarray) -> None:
        """Add the derivative of the penalties to the gradient of some weights."""
        if self.l2:
            np.add(g, np.multiply(w, self.l2, out=spare), out=g)
        if self.l1:
            np.sign(w, out=spare)
            np.add(g, np.multiply(spare, self.l1, out=spare), out=g)


def weight_runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the runs [start, stop) of θ that are weights, in order."""
    runs, start = [], 0
    for n_in, n_out in pairwise(sizes):
        runs.append((start, start + n_out * n_in))
        start += n_out * (n_in + 1)
    return runs


def blocked_norm(vector: np.ndarray, spare: np.ndarray) -> float:
    """Return the Euclidean norm, summed by blocks of `BLOCK` and then in order.

    `spare` (BLOCK,) is float64, so that squares of float32 numbers cannot overflow.
    """
    total = 0.0
    for i in range(0, vector.size, BLOCK):
        block = spare[: min(BLOCK, vector.size - i)]
        np.copyto(block, vector[i : i + BLOCK])
        total += float(np.dot(block, block))
    return total**0.5
