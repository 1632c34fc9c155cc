"""From a summed gradient to new parameters.

An `Optimizer` applies one rule to flat arrays: parameters, their mean gradient
and its own state, which are arrays of the same length. `Update` is what a step
calls: it divides the sum by the number of rows, clips, adds the derivative of the
L1 and L2 penalties of the weights (not of the biases) and lets the optimizer do
the rest, in pieces that stay in the cache. Every operation works element by
element, and IEEE arithmetic rounds +, −, ×, / and √ alike everywhere, so the
result does not depend on where θ is cut.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from distbp.network import Network, layer_views

Arrays = Sequence[np.ndarray]

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


class Update:
    """Apply summed gradients to θ.

    θ and state exist in one version, which a step changes in place, or in two: then a
    step reads one and writes the other, and until `commit` nothing has happened.

    Parameters
    ----------
    network : Network
        Its θ is changed; with two versions it gets the current one after each step.
    optimizer : Optimizer
    l1, l2 : float
        λ/n of the book: the mean gradient of the weights gets l1·sign(w) + l2·w.
    clip_norm : float, optional
        Largest norm of the mean gradient, before the penalties.

    Attributes
    ----------
    steps : int
        Updates made so far.
    pieces : list of slices of θ
        Each is updated in one go, and fits in the cache.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self.l1, self.l2, self.clip_norm = l1, l2, clip_norm
        self.steps = 0
        self._versions: Sequence[Arrays] = []
        theta = network.theta
        self._lay_out(
            [[theta, *(np.zeros_like(theta) for _ in optimizer.state_names)]],
            (0, theta.size),
            np.zeros(-(-theta.size // BLOCK)),
        )

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's arrays (P,), by name."""
        return dict(zip(self.optimizer.state_names, self._versions[self._now][1:], strict=True))

    def move(self, versions: Sequence[Arrays], part: tuple[int, int], squares: np.ndarray) -> None:
        """Keep θ and state in two versions (θ, *state), and update only a part of them.

        `part` is copied there from where they were: with others that have the other
        parts, all of it. `squares` (blocks,) float64 is where they meet to clip.
        """
        for array, new in zip(self._versions[self._now], versions[0], strict=True):
            np.copyto(new[slice(*part)], array[slice(*part)])
        self._lay_out(versions, part, squares)

    def _lay_out(
        self, versions: Sequence[Arrays], part: tuple[int, int], squares: np.ndarray
    ) -> None:
        start, stop = part
        self._versions, self._now = versions, 0
        sizes = self.network.sizes
        self._bindings = [(arrays[0], *layer_views(arrays[0], sizes)) for arrays in versions]
        self._bind()
        self.pieces = [slice(i, min(i + PIECE, stop)) for i in range(start, stop, PIECE)]
        # By version that is read: (θ, *state) of every piece, before and after a step.
        self._views = [
            [([a[piece] for a in old], [a[piece] for a in new]) for piece in self.pieces]
            for old, new in zip(versions, reversed(versions), strict=True)
        ]
        self._weights = [
            [
                np.s_[max(lo - piece.start, 0) : hi - piece.start]
                for lo, hi in weight_runs(sizes)
                if lo < piece.stop and hi > piece.start
            ]
            for piece in self.pieces
        ]
        self._spare = np.empty(min(PIECE, stop - start), self.network.dtype)
        self._spares = [self._spare[: piece.stop - piece.start] for piece in self.pieces]
        self._squares, self._sums = squares, np.empty_like(squares)
        self._block = np.empty(BLOCK, np.float64)
        self._start = start

    def _bind(self) -> None:
        network = self.network
        network.theta, network.biases, network.weights = self._bindings[self._now]

    def apply(self, total: np.ndarray, rows: int, learning_rate: float) -> None:
        """Make a step by the gradient `total` (P,), summed over `rows` rows; it is used up."""
        if self.clip_norm is not None:
            self.measure(total)
        self.begin(rows, learning_rate)
        for i, piece in enumerate(self.pieces):
            self.apply_piece(i, total[piece])
        self.commit()

    def measure(self, total: np.ndarray) -> None:
        """Note the squared norm of each block of this part of the gradient, for `begin`."""
        first = self._start // BLOCK
        for i in range(-(-total.size // BLOCK)):
            block = total[i * BLOCK : (i + 1) * BLOCK]
            wide = self._block[: block.size]  # squares of large float32 numbers overflow there
            np.copyto(wide, block)
            self._squares[first + i] = np.dot(wide, wide)

    def begin(self, rows: int, learning_rate: float) -> None:
        """Settle what the gradients of a step are multiplied by; all are `measure`d to clip."""
        self._scale, self._learning_rate = 1.0 / rows, learning_rate
        if self.clip_norm is not None:
            norm = self._scale * blocked_norm(self._squares, self._sums)
            self._scale *= min(1.0, self.clip_norm / norm) if norm > 0 else 1.0

    def apply_piece(self, i: int, g: np.ndarray) -> bool:
        """Update the i-th piece by its summed gradient, which is used up.

        Returns whether a number of its new θ and state is not finite that was finite before:
        then it is so for all who have this piece.
        """
        old, new = self._views[self._now][i]
        learning_rate = self._learning_rate
        if self.l1 or self.l2 or not self.optimizer.takes_rate_times_g:
            np.multiply(g, self._scale, out=g)
            for run in self._weights[i] if self.l1 or self.l2 else ():
                self._penalize(old[0][run], g[run], self._spare[: g[run].size])
        else:
            learning_rate *= self._scale  # a pass over g less
        self.optimizer.apply(old, new, g, self._spares[i], learning_rate, self.steps + 1)
        return not all(map(is_finite, new)) and all(map(is_finite, old))

    def _penalize(self, w: np.ndarray, g: np.ndarray, spare: np.ndarray) -> None:
        """Add the derivative of the penalties to the gradient of some weights."""
        if self.l2:
            np.add(g, np.multiply(w, self.l2, out=spare), out=g)
        if self.l1:
            np.sign(w, out=spare)
            np.add(g, np.multiply(spare, self.l1, out=spare), out=g)

    def undo(self) -> None:
        """Let the last step not have happened: the version before it is still there."""
        self.steps -= 1
        self._now = 1 - self._now
        self._bind()

    def commit(self) -> None:
        """Let what was written be what is: the step has happened."""
        self.steps += 1
        if len(self._versions) > 1:
            self._now = 1 - self._now
            self._bind()


def is_finite(array: np.ndarray) -> bool:
    """Return whether all numbers of a contiguous array are finite.

    A product with itself is not finite if one of them is not, and costs next to nothing;
    only where it is not, because a square was too large perhaps, all are looked at.
    """
    return math.isfinite(np.dot(array, array)) or bool(np.isfinite(array).all())


def weight_runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the runs [start, stop) of θ that are weights, in order."""
    runs, start = [], 0
    for n_in, n_out in pairwise(sizes):
        runs.append((start, start + n_out * n_in))
        start += n_out * (n_in + 1)
    return runs


def blocked_norm(squares: np.ndarray, spare: np.ndarray) -> float:
    """Return the Euclidean norm of a vector from the squares of its blocks, summed in order."""
    return float(np.add.accumulate(squares, out=spare)[-1]) ** 0.5
