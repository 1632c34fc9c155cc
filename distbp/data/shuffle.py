"""The order of the training rows in an epoch, as a function of seed and epoch.

A full shuffle (`FullShuffle`) puts all rows in random order; they are taken from memory one by
one. A shuffle in two levels (`BlockOrder`) shuffles blocks of consecutive rows, which can be read
from a disk quickly, and then the rows within windows of many blocks, which fit in memory. The
sizes of blocks and windows depend on the data set and the batch size, never on ranks or memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distbp.data.dataset import Split
from distbp.network import rng
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.topology import Topology

# A block is one read of a disk or of a stripe of a parallel file system; a window is what is
# mixed. Both are part of what determines the order, and so the bits of a run.
BLOCK_BYTES = 1 << 20
MAX_BLOCK_ROWS = 1 << 13  # limits the numbers that are sorted for a window of short rows
WINDOW_BLOCKS = 128


class FullShuffle:
    """Takes batches from all rows in random order.

    Making one is collective.

    Parameters
    ----------
    topology : Topology
    split : Split
        The training rows.
    batch_size, seed : int
    in_blocks : bool
        Whether the order is that of a `BlockOrder`.

    Attributes
    ----------
    max_batches : int
        How many batches can be asked for in one call.
    split : Split
        The rows that the numbers of a batch refer to.
    array : (n,) int64
        Row numbers in the order of this epoch.
    """

    max_batches = 1 << 30

    def __init__(
        self,
        topology: Topology,
        split: Split,
        batch_size: int,
        seed: int,
        in_blocks: bool = False,
    ) -> None:
        self.split, self._batch_size, self._seed = split, batch_size, seed
        self._blocks: BlockOrder | None = None
        if in_blocks:
            row_bytes = split.x.shape[1] + split.y.shape[1]
            self._blocks = BlockOrder(len(split), row_bytes, batch_size, seed)
        # The last rank makes the next order while the first one records the epoch.
        self._shared = SharedArray(topology, (len(split),), np.dtype(np.int64), owner=-1)
        self.array = self._shared.array

    def start(self, epoch: int, step: int) -> None:
        """Prepare for the batches of an epoch, from `step` on; collective."""
        del step

        def write(order: np.ndarray) -> None:
            if self._blocks is None:
                chosen = rng.permutation(len(order), self._seed, rng.SHUFFLE, epoch)
            else:
                chosen = self._blocks.permutation(epoch)
            order[...] = chosen if self.split.rows is None else self.split.rows[chosen]

        self._shared.fill(write)

    def batches(self, step: int, count: int = 1) -> np.ndarray:
        """Return the row numbers of `count` batches from `step` on, one after the other."""
        return self.array[step * self._batch_size : (step + count) * self._batch_size]

    def close(self) -> None:
        """Do nothing: the rows are in memory."""


@dataclass(frozen=True)
class Window:
    """Rows that are shuffled together.

    Attributes
    ----------
    start, stop : int
        Their positions in the epoch are [start, stop).
    blocks : (k,) int array
        The numbers of their blocks, ascending.
    positions : (stop - start,) int array
        The position in the epoch of each row of the blocks.
    """

    start: int
    stop: int
    blocks: np.ndarray
    positions: np.ndarray


class BlockOrder:
    """A shuffle of `rows` rows in two levels.

    Parameters
    ----------
    rows, row_bytes : int
        Of the training set; the bytes are those of x and y.
    batch_size, seed : int

    Attributes
    ----------
    block_rows : int
        Rows of a block; the last one may have fewer.
    window_rows : int
        Most rows of a window, at least two batches.
    """

    def __init__(self, rows: int, row_bytes: int, batch_size: int, seed: int) -> None:
        self.rows, self._seed = rows, seed
        self.block_rows = min(max(BLOCK_BYTES // row_bytes, 1), MAX_BLOCK_ROWS, rows)
        self._blocks = -(-rows // self.block_rows)
        # So a batch has rows of two windows at most.
        self._window_blocks = max(WINDOW_BLOCKS, -(-2 * batch_size // self.block_rows))
        self.window_rows = min(self._window_blocks * self.block_rows, rows)

    def block(self, number: int) -> tuple[int, int]:
        """Return the range of rows of a block."""
        return number * self.block_rows, min((number + 1) * self.block_rows, self.rows)

    def windows(self, epoch: int, position: int = 0) -> Iterator[Window]:
        """Yield the windows of an epoch, from that with `position` on."""
        order = rng.permutation(self._blocks, self._seed, rng.BLOCKS, epoch)
        stops = self.window_stops(epoch)
        first = int(np.searchsorted(stops, position, side="right"))
        for number in range(first, len(stops)):
            start, stop = (int(stops[number - 1]) if number else 0), int(stops[number])
            low = number * self._window_blocks
            positions = rng.permutation(stop - start, self._seed, rng.WINDOW, epoch, number)
            positions += start
            yield Window(start, stop, np.sort(order[low : low + self._window_blocks]), positions)

    def permutation(self, epoch: int) -> np.ndarray:
        """Return the numbers of all rows in the order of an epoch: (rows,) int64."""
        order = np.empty(self.rows, np.int64)
        for window in self.windows(epoch):
            ranges = [np.arange(*self.block(block)) for block in window.blocks.tolist()]
            order[window.positions] = np.concatenate(ranges)
        return order

    def window_stops(self, epoch: int) -> np.ndarray:
        """Return the position at which each window of an epoch ends."""
        order = rng.permutation(self._blocks, self._seed, rng.BLOCKS, epoch)
        sizes = np.full(self._blocks, self.block_rows)
        start, stop = self.block(self._blocks - 1)
        sizes[order == self._blocks - 1] = stop - start
        ends = np.cumsum(sizes)
        return np.append(ends[self._window_blocks - 1 : -1 : self._window_blocks], ends[-1])
