"""How nodes that hold parts of a sum complete it: the only messages of a step.

An `ExchangePlan` says who sends which partial sums where; an `Exchange` is that plan bound
to arrays and to the ranks that own the same slice, one per node. The additions of a plan,
which are pairs of positions, are bound to arrays by `bind_additions`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from distbp.parallel.comm import Group
from distbp.parallel.reduction_plan import ExchangePlan
from distbp.parallel.shards import Addition

BoundAddition = tuple[np.ndarray, np.ndarray, np.ndarray]  # (one operand, the other, result)
# What `Group.start_alltoallv` takes: array, (counts, displacements), array, (the same).
_AlltoallvArguments = tuple[
    np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray]
]


class Exchange:
    """Completes one part of a slice between nodes.

    Parameters
    ----------
    plan : ExchangePlan
    peers : Group
        The ranks that own the slice, in the order of their nodes.
    sums : list of (width,) arrays
        This peer's partial sums of the part.
    total : (width,) array
        Receives the sum.
    """

    def __init__(
        self, plan: ExchangePlan, peers: Group, sums: list[np.ndarray], total: np.ndarray
    ) -> None:
        self._peers, self._total = peers, total
        self._share = total[slice(*plan.share)]
        self._share_sizes = np.array(plan.share_sizes)
        # This peer's share of all partial sums, from left to right in the tree.
        self._received = np.empty((sum(plan.sums), len(self._share)), total.dtype)
        self._additions = list(bind_additions(plan.additions, list(self._received)))
        self._messages = [self._message(plan, k, sums) for k in range(max(plan.sums))]

    def _message(self, plan: ExchangePlan, k: int, sums: list[np.ndarray]) -> _AlltoallvArguments:
        """Return the arguments that exchange everybody's k-th sum, for those who have one."""
        return (
            sums[k] if k < len(sums) else self._total,  # which then sends 0 numbers
            (np.array(plan.send_counts(k)), np.array(plan.cuts[:-1])),
            self._received,
            (np.array(plan.receive_counts(k)), np.array(plan.receive_places(k))),
        )

    def start(self) -> None:
        """Begin to send the partial sums to those who complete them."""
        self._requests = [self._peers.start_alltoallv(*message) for message in self._messages]

    def add(self) -> None:
        """Add up this peer's share, and begin to send it to all."""
        for request in self._requests:
            request.Wait()
        add_all(self._additions)
        np.copyto(self._share, self._received[0])
        self._requests = [self._peers.start_allgatherv(self._total, self._share_sizes)]

    def end(self) -> None:
        """Wait for all shares."""
        for request in self._requests:
            request.Wait()


def make_exchanges(
    plans: Sequence[ExchangePlan], peers: Group, sums: Sequence[np.ndarray], total: np.ndarray
) -> list[Exchange]:
    """Return the exchanges that complete a slice, of which this peer has some partial sums."""
    return [
        Exchange(plan, peers, [s[slice(*plan.part)] for s in sums], total[slice(*plan.part)])
        for plan in plans
    ]


def run_exchanges(exchanges: Sequence[Exchange]) -> None:
    """Run exchanges that overlap: the results of one travel with the sums of the next."""
    for exchange in exchanges:
        exchange.start()
    for exchange in exchanges:
        exchange.add()
    for exchange in exchanges:
        exchange.end()


def bind_additions(
    additions: Sequence[Addition],
    operands: Sequence[np.ndarray],
    results: Sequence[np.ndarray] = (),
) -> Iterator[BoundAddition]:
    """Yield additions of `operands`, each into its own of `results`, or in place without any."""
    current = list(operands)
    for i, (into, other) in enumerate(additions):
        result = results[i] if results else current[into]
        yield current[into], current[other], result
        current[into] = result


def add_all(additions: Sequence[BoundAddition]) -> None:
    """Make additions, in order."""
    for one, other, result in additions:
        np.add(one, other, out=result)
