"""Update rules: SGD, momentum, Nesterov, Adam, AdamW, NAdam, RMSprop.

An `Optimizer` applies one rule, element by element, to flat arrays of equal length:
parameters, their mean gradient, and the optimizer's own state. It keeps no arrays itself, so a
slice of θ, or a chunk that fits in the cache, can be updated by itself with the same bits.
`find_optimizer` finds them by name in `OPTIMIZERS`. Rules and constants are those of PyTorch's
optimizers of these names, with their default parameters but for the rates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from distbp import own_parts

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
    decays_weights : bool
        Whether weights are multiplied by 1 − η λ before the rule, which `Update` does.
    default_rate : float, optional
        The default of η, if it does not depend on the data.
    """

    state_names: tuple[str, ...] = ()
    takes_rate_times_g = True
    decays_weights = False
    default_rate: float | None = None

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

    def coefficients(self, learning_rate: float, t: int) -> tuple[float, ...]:
        """Return the numbers beside η that all elements share in a step: here none."""
        return ()


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

    def coefficients(self, learning_rate: float, t: int) -> tuple[float, ...]:
        """Return μ."""
        return (self.momentum,)

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
    default_rate = 0.001
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def coefficients(self, learning_rate: float, t: int) -> tuple[float, ...]:
        """Return √(1 − β₂^t), ε, the factor on m, then β₁, 1 − β₁, β₂ and 1 − β₂."""
        return (
            (1 - self.beta2**t) ** 0.5, self.epsilon, learning_rate / (1 - self.beta1**t),
            self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2,
        )  # fmt: skip

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        root, epsilon, factor, *_ = self.coefficients(learning_rate, t)
        m = np.multiply(old[1], self.beta1, out=new[1])
        np.add(m, np.multiply(g, 1 - self.beta1, out=spare), out=m)
        v = np.multiply(old[2], self.beta2, out=new[2])
        np.multiply(g, g, out=g)
        np.add(v, np.multiply(g, 1 - self.beta2, out=g), out=v)
        np.sqrt(v, out=g)
        np.divide(g, root, out=g)
        np.add(g, epsilon, out=g)
        np.multiply(m, factor, out=spare)
        np.subtract(old[0], np.divide(spare, g, out=spare), out=new[0])


class AdamW(Adam):
    """w ← (1 − η λ) w, then Adam, whose moments do not see λ (Loshchilov and Hutter, ICLR 2019).

    As with the penalties, biases do not decay.
    """

    decays_weights = True


class NAdam(Adam):
    """Adam with Nesterov's look-ahead (Dozat, ICLR Workshop 2016, algorithm 2).

    μ_t = β₁ (1 − ½ · 0.96^(t ψ)) with ψ = 0.004 rises from ½ β₁ to β₁.
    """

    def coefficients(self, learning_rate: float, t: int) -> tuple[float, ...]:
        """Return those of Adam, with another factor on m, and behind them that on g."""
        root, epsilon, _, *betas = super().coefficients(learning_rate, t)
        mu, after = _nadam_mu(self.beta1, t), _nadam_mu(self.beta1, t + 1)
        product = _nadam_mu_product(self.beta1, t)
        factor = learning_rate * after / (1 - product * after)
        return root, epsilon, factor, *betas, learning_rate * (1 - mu) / (1 - product)

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        root, epsilon, factor, *_, factor_of_g = self.coefficients(learning_rate, t)
        m = np.multiply(old[1], self.beta1, out=new[1])
        np.add(m, np.multiply(g, 1 - self.beta1, out=spare), out=m)
        v = np.multiply(old[2], self.beta2, out=new[2])
        np.multiply(np.multiply(g, g, out=spare), 1 - self.beta2, out=spare)
        np.add(v, spare, out=v)
        np.multiply(g, factor_of_g, out=g)
        np.multiply(m, factor, out=spare)
        np.add(g, spare, out=g)
        np.sqrt(v, out=spare)
        np.divide(spare, root, out=spare)
        np.divide(g, np.add(spare, epsilon, out=spare), out=g)
        np.subtract(old[0], g, out=new[0])


def _nadam_mu(beta1: float, t: int) -> float:
    """Return NAdam's momentum coefficient of step t."""
    return beta1 * (1.0 - 0.5 * 0.96 ** (t * 0.004))


@lru_cache(maxsize=4)  # every chunk of a step asks for the same one
def _nadam_mu_product(beta1: float, t: int) -> float:
    """Return the product of NAdam's momentum coefficients of the steps 1 … t."""
    # A function of t alone, so that a run that is resumed or rolled back needs no state. After
    # 1000 steps it is below 0.9^1000, which 1 − product does not see.
    return math.prod(_nadam_mu(beta1, i) for i in range(1, t + 1)) if t <= 1000 else 0.0


class RmsProp(Optimizer):
    """v ← α v + (1 − α) g², θ ← θ − η g / (√v + ε) (Hinton, lecture 6e, 2012)."""

    state_names = ("mean_square",)
    takes_rate_times_g = False
    default_rate = 0.001
    alpha, epsilon = 0.99, 1e-8

    def coefficients(self, learning_rate: float, t: int) -> tuple[float, ...]:
        """Return α, 1 − α and ε."""
        return self.alpha, 1 - self.alpha, self.epsilon

    def apply(
        self,
        old: Arrays,
        new: Arrays,
        g: np.ndarray,
        spare: np.ndarray,
        learning_rate: float,
        t: int,
    ) -> None:
        v = np.multiply(old[1], self.alpha, out=new[1])
        np.multiply(np.multiply(g, g, out=spare), 1 - self.alpha, out=spare)
        np.add(v, spare, out=v)
        np.add(np.sqrt(v, out=spare), self.epsilon, out=spare)
        np.multiply(g, learning_rate, out=g)
        np.subtract(old[0], np.divide(g, spare, out=g), out=new[0])


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "rmsprop": RmsProp,
}


def find_optimizer(name: str) -> type[Optimizer]:
    """Return the class of an optimizer; raise ConfigError if there is none of that name."""
    found: type[Optimizer] = own_parts.find_in(OPTIMIZERS, name, Optimizer, "optimizer")
    return found
