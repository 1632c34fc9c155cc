"""Update rules: SGD, momentum, Nesterov, Adam.

An `Optimizer` applies one rule, element by element, to flat arrays of equal length:
parameters, their mean gradient, and the optimizer's own state. It keeps no arrays itself, so a
slice of θ, or a chunk that fits in the cache, can be updated by itself with the same bits.
`OPTIMIZERS` finds them by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

Arrays = Sequence[np.ndarray]


class Optimizer(ABC):
    """The rule for one step.

    Parameters
    ----------
    momentum : float
        μ, for the rules that have one.

    Attributes
    ----------
    state_names : tuple of str
        The arrays that are carried from step to step, zeros at first.
    takes_rate_times_g : bool
        Whether g occurs only as η g, so that η can be scaled instead of g.
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
        """Write θ and state after a step to `new`.

        Parameters
        ----------
        old, new : (θ, *state), arrays (n,)
            Before and after the step; they may be the same arrays.
        g : (n,) array
            The mean gradient; overwritten, like `spare` (n,).
        learning_rate : float
            η.
        t : int
            The number of the step, from 1.
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
