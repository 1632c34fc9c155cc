"""Training rows that are read from the file while the training runs.

Each rank has a thread (`_WindowReader`) that reads its part of the blocks of a window and scatters
their rows to the places that `BlockOrder` gives them, in memory that the node shares: a node reads
and decodes a block once. This memory is circular: while the batches of one window are taken, the
next one is read. A batch is then a range of consecutive rows. Ranks synchronize once a window, in
`BlockShuffle.batch`.
"""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distbp.data.dataset import DATA_FORMAT, DATA_VERSION, Split
from distbp.data.row_file import RowFile
from distbp.data.shuffle import BlockOrder, Window
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.topology import Topology

logger = logging.getLogger(__name__)

_ROWS = "train/x"  # in the file


class _Ring(Split):
    """The rows in circular memory, as a split with the length of the training set."""

    def __init__(self, split: Split, x: np.ndarray, y: np.ndarray, origins: np.ndarray) -> None:
        self.__dict__.update(split.__dict__, x=x, y=y, rows=None)
        self.origins, self._length = origins, len(split)

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
        capacity = 2 * self._order.window_rows + batch_size
        byte, number = np.dtype(np.uint8), np.dtype(np.int64)
        x, y = (SharedArray(topology, (capacity, width), byte) for width in widths)
        origins = SharedArray(topology, (capacity,), number)
        # Without shared memory each rank reads all blocks.
        is_shared = x.is_shared and y.is_shared and origins.is_shared
        self._part = (topology.node.rank, topology.node.size) if is_shared else (0, 1)
        self.split = _Ring(split, x.array, y.array, origins.array)
        self._reader: _WindowReader | None = None
        with collective_errors(topology):
            if topology.rank == 0:
                _warn_of_tall_chunks(path, self._order.block_rows)
        self._epoch, self._next, self._available = 0, -1, 0

    def start(self, epoch: int, step: int) -> None:
        """Prepare for the batches of an epoch, from `step` on; collective."""
        self._stops = self._order.window_stops(epoch) + epoch * self._rows
        position = epoch * self._rows + step * self._batch_size
        if position != self._next:  # not where the reader is anyway
            self._restart(epoch, step * self._batch_size)
            self._available = position
        self._epoch, self._next = epoch, position

    def _restart(self, epoch: int, position: int) -> None:
        self.close()
        # A barrier: other ranks may still take rows from the memory.
        with collective_errors(self._topology):
            pass
        if epoch < self._epochs:
            self._reader = _WindowReader(
                self._path, self._source, self._order, self.split, self._part,
                range(epoch, self._epochs), position,
            )  # fmt: skip
            self._reader.start()

    def batch(self, step: int) -> np.ndarray:
        """Return the numbers (m,), in `split`, of the rows of a batch; collective.

        Raises
        ------
        DataError
            On all ranks, if one of them cannot read its file.
        """
        start = step * self._batch_size
        stop = min(start + self._batch_size, self._rows)
        start, stop = (position + self._epoch * self._rows for position in (start, stop))
        if stop > self._available:
            with collective_errors(self._topology):
                if self._reader:
                    self._reader.wait(stop)
            # All ranks have come so far: nobody takes earlier rows any more.
            if self._reader:
                self._reader.release(start)
            self._available = int(self._stops[np.searchsorted(self._stops, stop)])
        self._next = stop
        return np.arange(start, stop) % len(self.split.x)

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
    ) -> None:
        super().__init__(name="distbp window reader", daemon=True)
        self._path, self._split, self._order, self._ring = path, split, order, ring
        self._part, self._epochs, self._position = part, epochs, position
        self._changed = threading.Condition()
        # Positions; -1 until the first window says where the memory begins.
        self._filled, self._released, self._stopped = 0, -1, False
        self._failure: BaseException | None = None
        # As items of one type, rows are scattered several times faster than as rows of bytes.
        self._x, self._y = _as_items(ring.x), _as_items(ring.y)
        self._buffer = np.empty((order.block_rows, ring.x.shape[1]), np.uint8)

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
            file = RowFile(self._path, _ROWS, DATA_FORMAT, DATA_VERSION)
            try:
                self._read(file)
            finally:
                file.close()
        except BaseException as failure:  # `wait` raises it
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

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
        """Read this part of the blocks of a window, and put each row where it belongs."""
        index, count = self._part
        low, high = (len(window.blocks) * i // count for i in (index, index + 1))
        ranges = [self._order.block(int(number)) for number in window.blocks]
        places = (window.positions + base) % len(self._ring.x)
        done = sum(stop - start for start, stop in ranges[:low])
        # All of them first, so that the system reads the next blocks while one is scattered.
        for start, stop in ranges[low:high]:
            numbers = self._split.numbers(start, stop)
            file.expect(int(numbers[0]), int(numbers[-1]) + 1)
        for start, stop in ranges[low:high]:
            if self._stopped:
                return
            own = places[done : done + stop - start]
            self._scatter(file, self._split.numbers(start, stop), own)
            done += stop - start

    def _scatter(self, file: RowFile, numbers: np.ndarray, places: np.ndarray) -> None:
        """Read rows with ascending numbers, and write them to these places of the memory."""
        self._ring.origins[places] = numbers
        self._y[places] = _as_items(self._split.y[numbers])
        # Rows that are held out may lie between them: read as many as fit in the buffer.
        done, height = 0, len(self._buffer)
        while done < len(numbers):
            first = int(numbers[done])
            stop = int(np.searchsorted(numbers, first + height))
            count = int(numbers[stop - 1]) + 1 - first
            file.read(first, self._buffer[:count])
            rows = _as_items(self._buffer)[numbers[done:stop] - first]
            self._x[places[done:stop]] = rows
            done = stop


def _as_items(rows: np.ndarray) -> np.ndarray:
    """Return rows of bytes (m, b) as items of one type (m,)."""
    return rows.view(f"V{rows.shape[1]}")[:, 0]


def _warn_of_tall_chunks(path: Path, block_rows: int) -> None:
    """Log a warning if each chunk would be decoded for many blocks."""
    file = RowFile(path, _ROWS, DATA_FORMAT, DATA_VERSION)
    if file.chunk_rows > 2 * block_rows:
        logger.warning(
            "%s: train/x is stored in chunks of %s rows, but read in blocks of %s, so that each "
            "chunk is decoded several times. Store it in chunks of fewer rows, or contiguous.",
            path, f"{file.chunk_rows:,}", f"{block_rows:,}",
        )  # fmt: skip
    file.close()
