"""ROC AUC in bounded memory: the distinct scores, with the rows of each.

The area under the ROC curve is the fraction of the pairs of a positive and a negative row in
which the positive one has the higher score; equal scores count one half (J. Hanley and B.
McNeil, Radiology 143, 1982). For it `ScoreCounts` holds the distinct scores in order, with the
number of positive and of negative rows of each: integers, from which the area is computed with
one division. So the result has the same bits in whatever order, and on whatever rank, the rows
were added.

Of all classes together about a million distinct scores are held. If there are more, the lowest
bits of all of them are dropped, as few as possible. Pairs whose scores have thereby become equal
may be counted wrongly by one half: that is the error that is returned with the area. It is below
10⁻⁶ for 10 million rows of two classes, and below 10⁻⁵ for a million rows of ten.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from distbp.parallel.topology import Topology

# Distinct scores of all classes together, of 24 bytes each; twice as many while some are merged.
_MOST_SCORES = 1 << 20
_LEAST_SCORES = 1 << 10  # for each of many classes
_POWERS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def _ordered_integers(scores: np.ndarray) -> np.ndarray:
    """Return integers in the same order as the scores: the bits of float64."""
    bits = (scores.astype(np.float64) + 0.0).view(np.int64)  # -0.0 becomes 0.0
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))


class ScoreCounts:
    """The distinct scores of some rows, and how many positive and negative rows each has.

    Parameters
    ----------
    most : int
        Distinct scores that are held.
    """

    def __init__(self, most: int) -> None:
        self._most, self._shift, self._has_nan = most, 0, False
        # Scores in ascending order, and the positive and negative rows of each.
        self._table = np.empty((3, 0), np.int64)
        self._added: list[np.ndarray] = []
        self._added_count = 0

    def add(self, scores: np.ndarray, is_positive: np.ndarray) -> None:
        """Add rows, given their scores (m,) and which of them are positive (m,) bool."""
        if np.isnan(scores).any():
            self._has_nan = True
            return
        self._add_table(np.stack([_ordered_integers(scores), is_positive, ~is_positive]))

    def _add_table(self, table: np.ndarray) -> None:
        self._added.append(table)
        self._added_count += table.shape[1]
        if self._added_count >= self._most:
            self._merge_added()

    def _merge_added(self) -> None:
        """Merge what was added, and drop bits while there are too many distinct scores.

        The number of bits follows from all the scores, whatever the order they are added in: it
        is the least with which their distinct values fit, and some of them never need more.
        """
        if not self._added:
            return
        table = np.concatenate([self._table, *self._added], axis=1)
        self._added, self._added_count = [], 0
        table = _merged(table, self._shift)
        if table.shape[1] > self._most:
            differing = (table[0, 1:] ^ table[0, :-1]).view(np.uint64)
            lengths = np.searchsorted(_POWERS, differing, side="right")  # in bits
            # By shift: neighbours that still differ are those with more bits than that.
            distinct = 1 + len(lengths) - np.cumsum(np.bincount(lengths, minlength=65))
            self._shift = int(np.argmax(distinct <= self._most))
            table = _merged(table, self._shift)
        self._table = table

    def packed(self, number: int) -> np.ndarray:
        """Return everything as (k, 4) int64, with `number` in front of each row."""
        self._merge_added()
        rows = np.empty((1 + self._table.shape[1], 4), np.int64)
        rows[:, 0] = number
        rows[0, 1:] = self._shift, self._has_nan, 0
        rows[1:, 1:] = self._table.T
        return rows

    def add_packed(self, rows: np.ndarray) -> None:
        """Add what `packed` has returned."""
        self._shift = max(self._shift, int(rows[0, 1]))
        self._has_nan = self._has_nan or bool(rows[0, 2])
        self._add_table(np.ascontiguousarray(rows[1:, 1:].T))

    def auc(self) -> tuple[float, float]:
        """Return the area under the ROC curve, and by how much it may be wrong.

        It is NaN if there are no positive or no negative rows, or if a score is NaN.
        """
        self._merge_added()
        # Bits may have been dropped elsewhere since.
        _, positive, negative = _merged(self._table, self._shift)
        pairs = int(positive.sum()) * int(negative.sum())
        if self._has_nan or not pairs:
            return np.nan, 0.0
        below = np.cumsum(negative) - negative
        if pairs >= 2**62:  # Python's integers are slower, but of any size
            positive, negative, below = (x.astype(object) for x in (positive, negative, below))
        tied = int(np.dot(positive, negative))
        area = (2 * int(np.dot(positive, below)) + tied) / (2 * pairs)
        return area, tied / (2 * pairs) if self._shift else 0.0


def _merged(table: np.ndarray, shift: int) -> np.ndarray:
    """Return the scores without their lowest `shift` bits, in order and each once."""
    scores = table[0] >> shift << shift
    order = np.argsort(scores)
    scores = scores[order]
    starts = np.flatnonzero(np.diff(scores, prepend=scores[:1] - 1))
    counts = [np.add.reduceat(column[order], starts) for column in table[1:]] if len(starts) else []
    return np.stack([scores[starts], *counts]) if counts else table[:, :0]


class ClassScores:
    """The scores of each class against the others, or of each label.

    Parameters
    ----------
    task : {'classification', 'multilabel'}
    n_out : int
        Of two classes only the second is looked at: what holds for it holds for the other.
    most : int
        Distinct scores that are held, of all classes together.
    """

    def __init__(self, task: str, n_out: int, most: int = _MOST_SCORES) -> None:
        self._is_binary = task == "classification" and n_out == 2
        self._task, self._most, self._n_out = task, most, n_out
        self._classes = [1] if self._is_binary else list(range(n_out))
        share = max(most // len(self._classes), min(_LEAST_SCORES, most))
        self._counts = [ScoreCounts(share) for _ in self._classes]

    def add(self, output: np.ndarray, y: np.ndarray) -> None:
        """Add rows, given outputs (m, n_L) and classes (m,) or labels (m, n_L)."""
        for k, counts in zip(self._classes, self._counts, strict=True):
            counts.add(output[:, k], y == k if self._task == "classification" else y[:, k] == 1)

    def gather(self, comm: Topology) -> None:
        """Add those of all other ranks on rank 0; collective."""
        nothing = np.empty((0, 4), np.int64)
        # One rank after the other, for the memory of rank 0.
        for rank in range(1, comm.size):
            own = np.concatenate(list(self._packed())) if rank == comm.rank else nothing
            rows = comm.world.gather_rows(own)
            if comm.rank == 0:
                starts = np.searchsorted(rows[:, 0], range(1, len(self._counts)))
                for counts, part in zip(self._counts, np.split(rows, starts), strict=True):
                    counts.add_packed(part)

    def _packed(self) -> Iterator[np.ndarray]:
        for number, counts in enumerate(self._counts):
            yield counts.packed(number)

    @cached_property
    def areas(self) -> tuple[np.ndarray, float]:
        """The area of each class or label (n_L,), and the largest error of them; at the end."""
        found = np.array([counts.auc() for counts in self._counts])
        areas = np.repeat(found[:, 0], 2) if self._is_binary else found[:, 0]
        return areas, float(found[:, 1].max())

    def pooled(self) -> tuple[float, float]:
        """Return the area of all classes' scores taken together, and its error."""
        together = ScoreCounts(self._most)
        for part in self._packed():
            together.add_packed(part)
        return together.auc()
