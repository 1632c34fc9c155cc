"""From a summed gradient to new parameters: scale, clip, penalize, decay, apply, average.

θ is updated in chunks that stay in the cache. Every operation works element by element,
and IEEE arithmetic rounds +, −, ×, / and √ alike everywhere, so the bits do not depend on
where θ is cut. The one sum, the norm for clipping, is made block by block in a fixed order.
The versions that a step reads and writes are the `ParameterStore`'s.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distbp.network.network import Network
from distbp.network.optimizers import Arrays, Optimizer
from distbp.network.parameter_store import ParameterStore
from distbp.network.parameters import THETA_BLOCK, weight_runs

# Numbers of θ in a chunk: with gradient, state and scratch arrays it fits in the L2 cache.
UPDATE_CHUNK = 32768


class ChunkUpdate(Protocol):
    """Updates θ chunk by chunk: `Update`, or the same in machine code."""

    def measure_squares(self, total: np.ndarray) -> None:
        """Write the squared norm of each block of the owned slice's gradient, for `begin`."""

    def begin(self, rows: int, learning_rate: float) -> None:
        """Set what the chunks of a step share; to clip, all blocks have been measured."""

    def apply_chunk(self, i: int, g: np.ndarray) -> bool:
        """Update the i-th chunk by its summed gradient, which may be overwritten.

        Returns whether a number of its new θ and state is not finite although all were
        before. As all owners of a chunk compute the same bits, they all return the same.
        """


class Update(ChunkUpdate):
    """Apply summed gradients to θ.

    Parameters
    ----------
    network : Network
        Its θ is changed; with two versions it is bound to the current one after each step.
    optimizer : Optimizer
    l1, l2 : float
        λ/n of the book: the mean gradient of the weights gets l1·sign(w) + l2·w. Biases
        are not penalized.
    clip_norm : float, optional
        Largest norm of the mean gradient, before the penalties.
    weight_decay : float
        λ of an optimizer that `decays_weights`; not used by others.
    ema : float
        β of an exponential moving average of θ; 0 for none. With bias correction, as Adam's
        moments have it: after t steps it is Σ β^(t−i) θ_i / Σ β^(t−i) over i = 1 … t, a mean of
        the steps so far, in which the initial θ does not linger.

    Attributes
    ----------
    store : ParameterStore
    chunks : list of slices of θ
        Each is updated in one go.
    squares : (blocks,) float64 array
        The squared norms of the gradient's blocks.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        weight_decay: float = 0.0,
        ema: float = 0.0,
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self.l1, self.l2, self.clip_norm = l1, l2, clip_norm
        self.decay = weight_decay if optimizer.decays_weights else 0.0
        self.ema = ema
        self.store = ParameterStore(network, optimizer.state_names, has_average=ema > 0)
        self._make_views(np.zeros(-(-network.theta.size // THETA_BLOCK)))

    def move(self, versions: Sequence[Arrays], owned: tuple[int, int], squares: np.ndarray) -> None:
        """Move θ and state to `versions` (see `ParameterStore.move`), and update a slice only.

        `squares` (blocks,) float64 receives the squared norms of the gradient's blocks, from
        each process those of its slice.
        """
        self.store.move(versions, owned)
        self._make_views(squares)

    def _make_views(self, squares: np.ndarray) -> None:
        """Cut all arrays into chunks once, so that a step makes no views."""
        versions, (start, stop) = self.store.versions, self.store.owned
        self.chunks = [
            slice(i, min(i + UPDATE_CHUNK, stop)) for i in range(start, stop, UPDATE_CHUNK)
        ]
        # By the version that is current: (θ, *state) of every chunk, to read and to write.
        self._views = [
            [([a[chunk] for a in old], [a[chunk] for a in new]) for chunk in self.chunks]
            for old, new in zip(versions, reversed(versions), strict=True)
        ]
        self._weights = [
            [
                np.s_[max(lo - chunk.start, 0) : hi - chunk.start]
                for lo, hi in weight_runs(self.network.sizes)
                if lo < chunk.stop and hi > chunk.start
            ]
            for chunk in self.chunks
        ]
        self._spare = np.empty(min(UPDATE_CHUNK, stop - start), self.network.dtype)
        self._spares = [self._spare[: chunk.stop - chunk.start] for chunk in self.chunks]
        self.squares, self._square_sums = squares, np.empty_like(squares)
        self._block = np.empty(THETA_BLOCK, np.float64)

    def apply(
        self,
        total: np.ndarray,
        rows: int,
        learning_rate: float,
        chunk_update: ChunkUpdate | None = None,
    ) -> bool:
        """Make a step by the gradient `total` (P,), summed over `rows` rows; overwrites it.

        Returns whether that is committed. It is not if a number is no longer finite after it, as
        far as there are two versions: a single one is overwritten.
        """
        chunk_update = chunk_update or self
        if self.clip_norm is not None:
            chunk_update.measure_squares(total)
        chunk_update.begin(rows, learning_rate)
        bad = [chunk_update.apply_chunk(i, total[chunk]) for i, chunk in enumerate(self.chunks)]
        if any(bad):
            return False
        self.store.commit()
        return True

    def measure_squares(self, total: np.ndarray) -> None:
        first = self.store.owned[0] // THETA_BLOCK
        for i in range(-(-total.size // THETA_BLOCK)):
            block = total[i * THETA_BLOCK : (i + 1) * THETA_BLOCK]
            # In float64, where squares of large float32 numbers do not overflow.
            wide = self._block[: block.size]
            np.copyto(wide, block)
            self.squares[first + i] = np.dot(wide, wide)

    def begin(self, rows: int, learning_rate: float) -> None:
        self._scale, self._learning_rate = 1.0 / rows, learning_rate
        self._step, self._step_views = self.store.steps + 1, self._views[self.store.current]
        if self.clip_norm is not None:
            norm = self._scale * _blocked_norm(self.squares, self._square_sums)
            self._scale *= min(1.0, self.clip_norm / norm) if norm > 0 else 1.0

    def apply_chunk(self, i: int, g: np.ndarray) -> bool:
        old, new = self._step_views[i]
        learning_rate = self._learning_rate
        if self.l1 or self.l2 or not self.optimizer.takes_rate_times_g:
            np.multiply(g, self._scale, out=g)
            for run in self._weights[i] if self.l1 or self.l2 else ():
                self._penalize(old[0][run], g[run], self._spare[: g[run].size])
        else:
            learning_rate *= self._scale  # saves a pass over g
        before = self._decay_weights(i, old, new) if self.decay else old
        self.optimizer.apply(before, new, g, self._spares[i], learning_rate, self._step)
        if self.ema:
            self._update_average(old, new, self._spares[i])
        return not all(map(is_finite, new)) and all(map(is_finite, old))

    def _decay_weights(self, i: int, old: Arrays, new: Arrays) -> Arrays:
        """Write θ of the i-th chunk, its weights decayed, to `new`; return what the rule reads."""
        theta, factor = new[0], 1.0 - self._learning_rate * self.decay
        np.copyto(theta, old[0])
        for run in self._weights[i]:
            np.multiply(theta[run], factor, out=theta[run])
        return [theta, *old[1:]]

    def _update_average(self, old: Arrays, new: Arrays, spare: np.ndarray) -> None:
        """Take the new θ into the average, the last array of a version."""
        share = average_share(self.ema, self._step)
        average = np.multiply(old[-1], share, out=new[-1])
        np.add(average, np.multiply(new[0], 1.0 - share, out=spare), out=average)

    def _penalize(self, w: np.ndarray, g: np.ndarray, spare: np.ndarray) -> None:
        """Add the derivative of the penalties to the gradient of some weights."""
        if self.l2:
            np.add(g, np.multiply(w, self.l2, out=spare), out=g)
        if self.l1:
            np.sign(w, out=spare)
            np.add(g, np.multiply(spare, self.l1, out=spare), out=g)


def average_share(beta: float, step: int) -> float:
    """Return the share of the average so far in that after a step, counted from 1."""
    # β (1 − β^(t−1)) / (1 − β^t): 0 in the first step.
    return beta * (1.0 - beta ** (step - 1)) / (1.0 - beta**step)


def is_finite(array: np.ndarray) -> bool:
    """Return whether all numbers of a contiguous array are finite.

    The product of a vector with itself is not finite if one of its numbers is not, and costs
    next to nothing. It may also overflow: only then is each number looked at.
    """
    return math.isfinite(np.dot(array, array)) or bool(np.isfinite(array).all())


def _blocked_norm(squares: np.ndarray, spare: np.ndarray) -> float:
    """Return the Euclidean norm of a vector from the squares of its blocks, summed in order."""
    return float(np.add.accumulate(squares, out=spare)[-1]) ** 0.5
