"""How nodes that have parts of a sum complete it together.

A sum is planned as additions in tree order (see `shards`), and each node owns a part of
the vectors: an `Exchange` sends every partial sum of a part to its owner, who adds them
up and sends the result to all.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from distbp.network.parameters import THETA_BLOCK
from distbp.parallel.comm import Group
from distbp.parallel.shards import Addition, Interval, additions

CHUNK, CHUNKS = 500_000, 4  # bytes from which an exchange is cut, and into how many at most

Additions = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # (one, other, where to)
# What `Group.start_alltoallv` takes: array, (counts, places), array, (counts, places).
Message = tuple[
    np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray]
]


class Exchange:
    """Completes a sum between nodes, each of which has some of its partial sums.

    Every peer owns a part of the sum: it is sent that part of all partial sums, adds
    them up in tree order, and sends the result to all.

    Parameters
    ----------
    lane : Group
    trees : list of lists of subtrees
        Whose sums each peer has.
    root : subtree
        Whose sum is wanted.
    sums : list of (width,) arrays
        This peer's.
    total : (width,) array
        Gets the sum.
    """

    def __init__(
        self,
        lane: Group,
        trees: Sequence[Sequence[Interval]],
        root: Interval,
        sums: list[np.ndarray],
        total: np.ndarray,
    ) -> None:
        self._lane, self._total = lane, total
        cuts = np.array(slice_cuts(total.size, lane.size))
        start, stop = cuts[lane.rank : lane.rank + 2]
        self._own = total[start:stop]
        self._counts = np.diff(cuts)
        numbers = np.array([len(of_peer) for of_peer in trees])
        # This peer's part of all sums, from left to right in the tree.
        self._received = np.empty((numbers.sum(), stop - start), total.dtype)
        steps = additions([tree for of_peer in trees for tree in of_peer], root)
        self._additions = list(planned(steps, list(self._received), []))
        self._messages = [
            self._message(sums[k] if k < len(sums) else None, k, numbers, cuts)
            for k in range(numbers.max())
        ]

    def _message(
        self, own: np.ndarray | None, k: int, numbers: np.ndarray, cuts: np.ndarray
    ) -> Message:
        """Return how everybody's k-th sum is exchanged, for those who have one."""
        width = len(self._own)
        receive_counts = np.where(k < numbers, width, 0)
        receive_places = (np.cumsum(numbers) - numbers + k) * width
        return (
            self._total if own is None else own,
            (self._counts if own is not None else np.zeros_like(self._counts), cuts[:-1]),
            self._received,
            (receive_counts, np.minimum(receive_places, self._received.size)),
        )

    def start(self) -> None:
        """Begin to send the partial sums to the owners of their parts."""
        self._requests = [self._lane.start_alltoallv(*message) for message in self._messages]

    def add(self) -> None:
        """Add up this peer's part, and begin to send it to all."""
        for request in self._requests:
            request.Wait()
        add(self._additions)
        np.copyto(self._own, self._received[0])
        self._requests = [self._lane.start_allgatherv(self._total, self._counts)]

    def end(self) -> None:
        """Wait until all parts are there."""
        for request in self._requests:
            request.Wait()


def make_exchanges(
    lane: Group,
    trees: Sequence[Sequence[Interval]],
    root: Interval,
    sums: Sequence[np.ndarray],
    total: np.ndarray,
) -> list[Exchange]:
    """Return the exchanges that complete a sum: several if it is large, which then overlap."""
    cuts = slice_cuts(total.size, max(1, min(CHUNKS, total.nbytes // CHUNK)))
    return [
        Exchange(lane, trees, root, [s[lo:hi] for s in sums], total[lo:hi])
        for lo, hi in pairwise(cuts)
    ]


def exchange(exchanges: Sequence[Exchange]) -> None:
    """Let several exchanges overlap: the results of one travel with the sums of the next."""
    for one in exchanges:
        one.start()
    for one in exchanges:
        one.add()
    for one in exchanges:
        one.end()


def planned(
    steps: Sequence[Addition], parts: Sequence[np.ndarray], outs: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield additions of `parts`, by position, each into its `outs`, or in place without any."""
    now = list(parts)
    for i, (into, other) in enumerate(steps):
        out = outs[i] if outs else now[into]
        yield now[into], now[other], out
        now[into] = out


def add(additions: Additions) -> None:
    """Add what each of them says."""
    for one, other, out in additions:
        np.add(one, other, out=out)


def slice_cuts(size: int, parts: int) -> list[int]:
    """Return where a vector is cut into parts, of which there are one less, at whole blocks."""
    blocks = -(-size // THETA_BLOCK)
    return [min(blocks * part // parts * THETA_BLOCK, size) for part in range(parts + 1)]
