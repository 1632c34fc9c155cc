"""From a summed gradient to new parameters."""

import math
from collections.abc import Sequence

import numpy as np

from distbp.network.network import Network
from distbp.network.optimizers import Arrays, Optimizer
from distbp.network.parameters import THETA_BLOCK, layer_views, weight_runs

# Numbers in a piece of θ: with gradient, state and spare arrays it fits in the L2 cache.
UPDATE_CHUNK = 32768


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
            np.zeros(-(-theta.size // THETA_BLOCK)),
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
        self.pieces = [
            slice(i, min(i + UPDATE_CHUNK, stop)) for i in range(start, stop, UPDATE_CHUNK)
        ]
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
        self._spare = np.empty(min(UPDATE_CHUNK, stop - start), self.network.dtype)
        self._spares = [self._spare[: piece.stop - piece.start] for piece in self.pieces]
        self._squares, self._sums = squares, np.empty_like(squares)
        self._block = np.empty(THETA_BLOCK, np.float64)
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
        first = self._start // THETA_BLOCK
        for i in range(-(-total.size // THETA_BLOCK)):
            block = total[i * THETA_BLOCK : (i + 1) * THETA_BLOCK]
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


def blocked_norm(squares: np.ndarray, spare: np.ndarray) -> float:
    """Return the Euclidean norm of a vector from the squares of its blocks, summed in order."""
    return float(np.add.accumulate(squares, out=spare)[-1]) ** 0.5
