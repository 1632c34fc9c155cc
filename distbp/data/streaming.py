"""Training rows that are read from the file while the training runs.

Each rank has a thread (`_WindowReader`) that reads its part of the blocks of a window into memory
that the node shares: a node reads and decodes a block once, chunks with as many threads as there
are cores for each rank. This memory is circular: while the batches of one window are taken, the
next one is read. The rows stay in the order of the file; those of a batch are found by the order
that `BlockOrder` gives, as rows in memory are, so that shuffling costs no copy. Ranks synchronize
twice a window, in `BlockShuffle.batches`.

Blocks of b rows in chunks of c rows are decoded a = (b + c − 1) / b times an epoch, or once if c
divides b. A core that trains on s bytes a second from memory, and decodes d bytes a second, trains
at 1 / (1 + a s / d) of that speed.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.dataset import DATA_FORMAT, DATA_VERSION, Split
from distbp.data.row_file import FileRows, RowFile
from distbp.data.shuffle import BlockOrder, Window
from distbp.parallel import host
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.topology import Topology

logger = logging.getLogger(__name__)

_ROWS = "train/x"  # in the file


class _Ring(Split):
    """The rows in circular memory, as a split with the length of the training set.

    Attributes
    ----------
    origins : (capacity,) int array
        The number of each row in the file.
    places : (capacity,) int array
        Which row belongs to each position, modulo the capacity.
    """

    def __init__(self, split: Split, x: np.ndarray, y: np.ndarray, origins: np.ndarray) -> None:
        self.__dict__.update(split.__dict__, x=x, y=y, rows=None)
        self.origins, self._length = origins, len(split)
        self.places = np.zeros(len(x), np.int64)

    def __len__(self) -> int:
        return self._length

    def file_rows(self, numbers: np.ndarray) -> np.ndarray:
        return self.origins[numbers]


class BlockShuffle:
    """Takes batches from windows of shuffled rows; see `shuffle.FullShuffle`.

    Making one is collective.

    Parameters
    ----------
    topology : Topology
    path : Path
        Of the data set.
    split : Split
        Its training rows.
    batch_size, seed : int
    epochs : int
        Nothing is read for later ones.
    """

    max_batches = 1  # more could be rows of several windows

    def __init__(
        self,
        topology: Topology,
        path: Path,
        split: Split,
        batch_size: int,
        seed: int,
        epochs: int,
    ) -> None:
        self._topology, self._path, self._source = topology, path, split
        self._batch_size, self._epochs, self._rows = batch_size, epochs, len(split)
        widths = split.x.shape[1], split.y.shape[1]
        self._order = BlockOrder(len(split), sum(widths), batch_size, seed)
        # A batch has rows of two windows at most; while those of one are taken, the next is read.
        capacity = 2 * self._order.window_rows
        byte, number = np.dtype(np.uint8), np.dtype(np.int64)
        x, y = (SharedArray(topology, (capacity, width), byte) for width in widths)
        origins = SharedArray(topology, (capacity,), number)
        # Without shared memory each rank reads all blocks.
        is_shared = x.is_shared and y.is_shared and origins.is_shared
        self._part = (topology.node.rank, topology.node.size) if is_shared else (0, 1)
        self._threads = max(1, host.usable_cores() // topology.node.size)
        self.split = _Ring(split, x.array, y.array, origins.array)
        self._reader: _WindowReader | None = None
        with collective_errors(topology):
            if topology.rank == 0:
                _warn_of_tall_chunks(path, split, self._order.block_rows)
        # Positions, counted over all epochs; see `_WindowReader`.
        self._next, self._available, self._kept_until = -1, 0, 0

    def start(self, epoch: int, step: int) -> None:
        """Prepare for the batches of an epoch, from `step` on; collective."""
        self._first = epoch * self._rows
        stops = self._order.window_stops(epoch) + self._first
        self._bounds = np.concatenate([[self._first], stops])
        position = self._first + step * self._batch_size
        if position != self._next:  # not where the reader is anyway
            self._restart(epoch, step * self._batch_size)
            self._available = self._kept_until = position
        self._next = position

    def _restart(self, epoch: int, position: int) -> None:
        self.close()
        # A barrier: other ranks may still take rows from the memory.
        with collective_errors(self._topology):
            pass
        if epoch < self._epochs:
            self._reader = _WindowReader(
                self._path, self._source, self._order, self.split, self._part,
                range(epoch, self._epochs), position, self._threads,
            )  # fmt: skip
            self._reader.start()

    def batches(self, step: int, count: int = 1) -> np.ndarray:
        """Return the numbers, in `split`, of the rows of a batch: `count` is 1; collective.

        Raises
        ------
        DataError
            On all ranks, if one of them cannot read its file.
        """
        start = self._first + step * self._batch_size
        stop = min(start + count * self._batch_size, self._first + self._rows)
        if start >= self._kept_until:
            self._release(start)
        if stop > self._available:
            with collective_errors(self._topology):
                if self._reader:
                    self._reader.wait(stop)
            self._available = self._bounds[np.searchsorted(self._bounds, stop)]
        self._next = stop
        places = self.split.places
        found: np.ndarray = places[np.arange(start, stop) % len(places)]
        return found

    def _release(self, position: int) -> None:
        """Let windows that end before `position` be overwritten; collective."""
        with collective_errors(self._topology):
            pass  # a barrier: all ranks have come so far, and nobody takes earlier rows any more
        following = np.searchsorted(self._bounds, position, side="right")
        if self._reader:
            self._reader.release(int(self._bounds[following - 1]))
        self._kept_until = self._bounds[following]

    def close(self) -> None:
        """Stop reading."""
        if self._reader:
            self._reader.stop()
        self._reader = None


class _WindowReader(threading.Thread):
    """Fills circular memory with a part of the rows of one window after the other.

    Positions are counted over all epochs: that of the first row of an epoch is epoch · rows.

    Parameters
    ----------
    path : Path
        Of the data set.
    split : Split
        The training rows.
    order : BlockOrder
    ring : _Ring
    part : (index, count)
        Which of so many equal parts of a window's blocks to read.
    epochs : range
    position : int
        Where to start in the first epoch.
    threads : int
        That decode chunks.
    """

    def __init__(
        self,
        path: Path,
        split: Split,
        order: BlockOrder,
        ring: _Ring,
        part: tuple[int, int],
        epochs: range,
        position: int,
        threads: int,
    ) -> None:
        super().__init__(name="distbp window reader", daemon=True)
        self._path, self._split, self._order, self._ring = path, split, order, ring
        self._part, self._epochs, self._position = part, epochs, position
        self._threads = threads
        self._map: Callable[..., Iterable[Any]] = map  # or that of a pool of threads
        self._changed = threading.Condition()
        # Positions; -1 until the first window says where the memory begins.
        self._filled, self._released, self._stopped = 0, -1, False
        self._failure: BaseException | None = None
        self._y_file: RowFile | None = None  # if y is not in memory

    def wait(self, position: int) -> None:
        """Wait until all rows before `position` are there; raise the error that prevents it."""
        with self._changed:
            self._changed.wait_for(lambda: self._filled >= position or self._failure is not None)
            if self._filled < position and self._failure is not None:
                raise self._failure

    def release(self, position: int) -> None:
        """Let the rows before `position` be overwritten."""
        with self._changed:
            self._released = position
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        """Read until the last epoch, an error or `stop`."""
        try:
            with (
                closing(_open_rows(self._path, self._split)) as file,
                ThreadPoolExecutor(self._threads, "distbp decoder") as pool,
            ):
                if file.chunk_rows > 1:
                    _keep_freed_memory()
                    if self._threads > 1:
                        self._map = pool.map
                # Another than the one that an evaluation may be reading.
                if isinstance(self._split.y, FileRows):
                    self._y_file = self._split.y.open()
                self._read(file)
        except BaseException as failure:  # `wait` raises it
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
        finally:
            if self._y_file is not None:
                self._y_file.close()

    def _read(self, file: RowFile) -> None:
        for base, window in self._windows():
            if not self._has_room(base + window.start, base + window.stop):
                return
            self._fill(file, base, window)
            with self._changed:
                self._filled = base + window.stop
                self._changed.notify_all()

    def _windows(self) -> Iterator[tuple[int, Window]]:
        """Yield windows, each with the position at which its epoch starts."""
        position = self._position
        for epoch in self._epochs:
            for window in self._order.windows(epoch, position):
                yield epoch * self._order.rows, window
            position = 0  # only the first epoch may begin in the middle, after a resume

    def _has_room(self, start: int, stop: int) -> bool:
        """Wait until the memory before `stop` can be overwritten; return False at the end."""
        with self._changed:
            if self._released < 0:
                self._released = start
            self._changed.wait_for(
                lambda: self._stopped or stop - self._released <= len(self._ring.x)
            )
            return not self._stopped

    def _fill(self, file: RowFile, base: int, window: Window) -> None:
        """Read this part of the blocks of a window, and note where its rows are."""
        index, count = self._part
        low, high = (len(window.blocks) * i // count for i in (index, index + 1))
        ranges = [self._order.block(int(number)) for number in window.blocks]
        capacity, start = len(self._ring.x), base + window.start
        self._ring.places[(window.positions + base) % capacity] = (
            np.arange(start, base + window.stop) % capacity
        )
        blocks = [self._split.numbers(*rows) for rows in ranges[low:high]]
        # All of them first, so that the system reads the next blocks while one is copied.
        for numbers in blocks:
            file.expect(int(numbers[0]), int(numbers[-1]) + 1)
        start += sum(stop - first for first, stop in ranges[:low])
        places = start + np.cumsum([0, *map(len, blocks)])[:-1]
        for _ in self._map(partial(self._load, file), blocks, (places % capacity).tolist()):
            pass  # an error is raised here

    def _load(self, file: RowFile, numbers: np.ndarray, place: int) -> None:
        """Read the rows with ascending numbers to `place` in the memory, and on.

        Several threads may do so at the same time.
        """
        if self._stopped:
            return
        ring, before_end = self._ring, len(self._ring.x) - place
        if len(numbers) > before_end:  # the rest goes to the beginning
            self._load(file, numbers[before_end:], 0)
            numbers = numbers[:before_end]
        target = slice(place, place + len(numbers))
        ring.origins[target] = numbers
        if self._y_file is not None:
            self._y_file.take(numbers, ring.y[target])
        else:
            self._split.y.take(numbers, axis=0, out=ring.y[target], mode="clip")
        file.take(numbers, ring.x[target])


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory, where a new page for every 4 KiB would halve the speed.

    Once it has freed a mapping of 32 MiB, it returns memory to the system in larger pieces only.
    """
    np.empty((1 << 25) - (1 << 16), np.uint8)


def _open_rows(path: Path, split: Split) -> RowFile:
    """Return x of a split in a data set, opened once more."""
    return RowFile(path, _ROWS, DATA_FORMAT, DATA_VERSION, split.file_id)


def _warn_of_tall_chunks(path: Path, split: Split, block_rows: int) -> None:
    """Log a warning if each chunk would be decoded for many blocks."""
    file = _open_rows(path, split)
    if file.chunk_rows > 2 * block_rows:
        logger.warning(
            "%s: train/x is stored in chunks of %s rows, but read in blocks of %s, so that rows "
            "are decoded up to %d times an epoch. Store it in chunks of %s rows, or contiguous.",
            path, f"{file.chunk_rows:,}", f"{block_rows:,}",
            (block_rows + file.chunk_rows - 1) // block_rows, f"{block_rows:,}",
        )  # fmt: skip
    file.close()
