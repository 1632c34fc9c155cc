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

import numpy as np

Arrays = Sequence[np.ndarray]


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
    takes_rate_times_g : bool
        Whether g enters only as η g, so that a factor of g can be one of η instead.
    """

    state_names: tuple[str, ...] = ()
    takes_rate_times_g = True

    def __init__(self, momentum: float = 0.0) -> None:
        self.momentum = momentum

    @abstractmethod
    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        """Write θ and state after a step with the mean gradient `g` to `new`.

        `old` and `new` are (θ, *state), and may be the same; `g` and `spare` are used
        up. `t` counts the steps from 1.
        """


class Sgd(Optimizer):
    """θ ← θ − η g (the book's equations 20 and 21)."""

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        np.multiply(g, learning_rate, out=g)
        np.subtract(old[0], g, out=new[0])


class Momentum(Optimizer):
    """v ← μ v − η g, θ ← θ + v (the book's equations 107 and 108)."""

    state_names = ("velocity",)

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        v = np.multiply(old[1], self.momentum, out=new[1])
        np.multiply(g, learning_rate, out=g)
        np.subtract(v, g, out=v)
        np.add(old[0], v, out=new[0])


class Nesterov(Momentum):
    """v ← μ v − η g, θ ← θ + μ v − η g (Sutskever et al., ICML 2013)."""

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        v = np.multiply(old[1], self.momentum, out=new[1])
        np.multiply(g, learning_rate, out=g)
        np.subtract(v, g, out=v)
        theta = np.subtract(old[0], g, out=new[0])
        np.add(theta, np.multiply(v, self.momentum, out=spare), out=theta)


class Adam(Optimizer):
    """Adam with bias correction (Kingma and Ba, ICLR 2015, algorithm 1)."""

    state_names = ("first_moment", "second_moment")
    takes_rate_times_g = False
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        m = np.multiply(old[1], self.beta1, out=new[1])
        np.add(m, np.multiply(g, 1 - self.beta1, out=spare), out=m)
        v = np.multiply(old[2], self.beta2, out=new[2])
        np.multiply(g, g, out=g)
        np.add(v, np.multiply(g, 1 - self.beta2, out=g), out=v)
        np.sqrt(v, out=g)
        np.divide(g, (1 - self.beta2**t) ** 0.5, out=g)
        np.add(g, self.epsilon, out=g)
        np.multiply(m, learning_rate / (1 - self.beta1**t), out=spare)
        np.subtract(old[0], np.divide(spare, g, out=spare), out=new[0])


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
}
