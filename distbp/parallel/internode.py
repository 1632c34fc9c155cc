"""How nodes that hold parts of a sum complete it: the only messages of a step.

An `ExchangePlan` says who sends which partial sums where; an `Exchange` is that plan bound
to arrays and to the ranks that own the same slice, one per node. An `ExchangeQueue` runs the
exchanges of a slice so that they overlap: the results of one travel with the sums of the next,
and they can begin one after the other, as the gradient of their layers is complete. The
additions of a plan, which are pairs of positions, are bound to arrays by `bind_additions`.
"""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, sleep

import numpy as np

from distbp.parallel import host
from distbp.parallel.comm import Group, is_complete
from distbp.parallel.reduction_plan import ExchangePlan, ReductionPlan
from distbp.parallel.shards import Addition

BoundAddition = tuple[np.ndarray, np.ndarray, np.ndarray]  # (one operand, the other, result)
# What `Group.start_alltoallv` takes: array, (counts, displacements), array, (the same).
_AlltoallvArguments = tuple[
    np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray]
]
ALL_LAYERS = 1 << 30  # more than a network has
# Exchanges that have begun and not ended. Of more, MPI might send the later ones first.
_MAX_IN_FLIGHT = 8
_NO_LIMIT = 1 << 30
# MPI keeps a core busy while it waits. Where others want that core, a rank sleeps in between.
_PAUSE_S = 0.5e-3
_PRESSURE_WINDOW_S = 0.25
# The fraction of the time for which this thread is denied a core. The thread of `overlap`, which
# polls, takes up to a tenth of it.
_HIGH_PRESSURE = 0.15


class Peers:
    """The ranks that own the same slice, in the order of their nodes.

    Two groups of the same ranks: the messages of one and the other may be started in any order,
    those of each in the order of the exchanges.

    Attributes
    ----------
    sums, results : Group
        For partial sums, and for what they add up to. Where they are the same, all sums are started
        before any result: else the order would depend on who is how fast.
    """

    def __init__(self, sums: Group, results: Group) -> None:
        self.sums, self.results = sums, results
        self.max_in_flight = _NO_LIMIT if sums is results else _MAX_IN_FLIGHT


class Exchange:
    """Completes one part of a slice between nodes.

    By Ialltoallv only, in which no peer sends itself anything: MPICH copies such a message in small
    pieces, as it is called, and passes the slices of an Iallgatherv on from peer to peer, in
    rounds. Both take long where a rank sleeps between its calls.

    Parameters
    ----------
    plan : ExchangePlan
    peers : Peers
    sums : list of (width,) arrays
        This peer's partial sums of the part.
    total : (width,) array
        Receives the sum.
    additions : sequence of BoundAddition
        Those of the node, which come first.
    """

    def __init__(
        self,
        plan: ExchangePlan,
        peers: Peers,
        sums: list[np.ndarray],
        total: np.ndarray,
        additions: Sequence[BoundAddition] = (),
    ) -> None:
        self.depth = plan.depth
        self._peers, self._total, self._node_additions = peers, total, additions
        self._is_direct = plan.is_direct
        if self._is_direct:
            other, size = np.empty_like(total), len(total)
            counts, places = np.array(plan.of_others([size, size])), np.array([0, 0])
            self._messages = [(sums[0], (counts, places), other, (counts, places))]
            operands = [sums[0], other] if plan.peer == 0 else [other, sums[0]]
            self._additions = list(bind_additions(plan.additions, operands, [total]))
            return
        share, before = slice(*plan.share), sum(plan.sums[: plan.peer])
        self._share = total[share]
        # This peer's share of the others' partial sums, from left to right in the tree.
        others = sum(plan.sums) - len(sums)
        self._received = np.empty((others, len(self._share)), total.dtype)
        own = [partial[share] for partial in sums]
        operands = [*self._received[:before], *own, *self._received[before:]]
        self._additions = list(bind_additions(plan.additions, operands))
        self._messages = [self._message(plan, k, sums) for k in range(max(plan.sums))]
        self._result = operands[0]
        self._result_message = self._message_of_result(plan)

    def _message(self, plan: ExchangePlan, k: int, sums: list[np.ndarray]) -> _AlltoallvArguments:
        """Return the arguments that exchange everybody's k-th sum, for those who have one."""
        return (
            sums[k] if k < len(sums) else self._total,  # which then sends 0 numbers
            (np.array(plan.send_counts(k)), np.array(plan.cuts[:-1])),
            self._received,
            (np.array(plan.receive_counts(k)), np.array(plan.receive_places(k))),
        )

    def _message_of_result(self, plan: ExchangePlan) -> _AlltoallvArguments:
        """Return the arguments that send this peer's result to the others, and receive theirs.

        From where it was added up: Open MPI takes a buffer that is sent and received for IN_PLACE.
        """
        peers = len(plan.sums)
        return (
            self._result,
            (np.array(plan.of_others([len(self._result)] * peers)), np.zeros(peers, int)),
            self._total,
            (np.array(plan.of_others(plan.share_sizes)), np.array(plan.cuts[:-1])),
        )

    def start(self) -> None:
        """Begin to send the partial sums to those who complete them."""
        add_all(self._node_additions)
        self._requests = [self._peers.sums.start_alltoallv(*message) for message in self._messages]

    def add(self) -> None:
        """Add up this peer's share, once it is there, and begin to send it to the others."""
        self.wait()
        add_all(self._additions)
        if self._is_direct:
            self._requests = []
            return
        np.copyto(self._share, self._result)
        self._requests = [self._peers.results.start_alltoallv(*self._result_message)]

    def is_complete(self) -> bool:
        """Return whether what was begun last has arrived, without waiting for it."""
        return all(map(is_complete, self._requests))

    def wait(self) -> None:
        """Wait for what was begun last."""
        for request in self._requests:
            request.Wait()


class CpuPressure:
    """Notices when this thread shares its core with others that compute.

    Attributes
    ----------
    is_high : bool
        Whether it did so in the last window of time.
    """

    def __init__(self) -> None:
        self.is_high = False
        self._began, self._delay_s = perf_counter(), host.cpu_delay_s()

    def update(self) -> None:
        """Look at it again, if a window of time is over."""
        seconds = perf_counter() - self._began
        if seconds >= _PRESSURE_WINDOW_S:
            delay_s = host.cpu_delay_s()
            self.is_high = delay_s - self._delay_s > _HIGH_PRESSURE * seconds
            self._began, self._delay_s = self._began + seconds, delay_s


class ExchangeQueue:
    """Runs the exchanges of a slice, which begin, are added up and end in their order.

    Its methods are called by one thread at a time.

    Parameters
    ----------
    exchanges : sequence of Exchange
        In the order of the layers of backprop.
    max_in_flight : int
        How many may have begun and not ended; see `Peers`.
    """

    def __init__(self, exchanges: Sequence[Exchange], max_in_flight: int = _NO_LIMIT) -> None:
        self._exchanges = self._in_backprop_order = exchanges
        self._max_in_flight = max_in_flight
        self._started = self._added = self._ended = 0
        self._pressure = CpuPressure()

    def reorder(self, numbers: Sequence[int]) -> None:
        """Run the exchanges in this order from now on, between two steps."""
        self._exchanges = [self._in_backprop_order[i] for i in numbers]

    @property
    def is_complete(self) -> bool:
        """Return whether all exchanges have ended."""
        return self._ended == len(self._exchanges)

    def advance(self, depth: int) -> None:
        """Do what can be done without waiting, `depth` layers of the gradient being complete."""
        exchanges, seen = self._exchanges, -1
        while seen < self._added + self._ended:  # what has ended lets others begin
            seen = self._added + self._ended
            while (
                self._started < min(len(exchanges), self._ended + self._max_in_flight)
                and exchanges[self._started].depth <= depth
            ):
                exchanges[self._started].start()
                self._started += 1
            while self._added < self._started and exchanges[self._added].is_complete():
                exchanges[self._added].add()
                self._added += 1
            while self._ended < self._added and exchanges[self._ended].is_complete():
                self._ended += 1

    def finish(self, on_end: Callable[[int], None]) -> float:
        """Run all exchanges to their end, and get ready for those of the next step.

        Calls `on_end` with the position of each that has ended in the order of this step, while
        others go on, and returns the seconds spent otherwise.
        """
        began, called_s, reported = perf_counter(), 0.0, 0
        while reported < len(self._exchanges):
            self.advance(ALL_LAYERS)
            if reported < self._ended:
                called = perf_counter()
                on_end(reported)
                called_s += perf_counter() - called
                reported += 1
            elif self._pressure.is_high:
                sleep(_PAUSE_S)
            else:  # while MPI waits for one of them, it makes progress with all
                is_added = self._added == self._started
                self._exchanges[self._ended if is_added else self._added].wait()
        self._pressure.update()
        self._started = self._added = self._ended = 0
        return perf_counter() - began - called_s


def make_exchanges(
    plan: ReductionPlan, peers: Peers, partials: Sequence[np.ndarray], total: np.ndarray
) -> list[Exchange]:
    """Return the exchanges that complete the owned slice.

    Parameters
    ----------
    plan : ReductionPlan
    peers : Peers
    partials : sequence of (n,) arrays
        The slice of the partial sums of this node's ranks.
    total : (n,) array
        Receives the sum.
    """
    exchanges = []
    for one in plan.exchanges:
        parts = [partial[slice(*one.part)] for partial in partials]
        additions = list(bind_additions(plan.node_additions, parts))
        sums = [parts[i] for i in plan.node_sums]
        exchanges.append(Exchange(one, peers, sums, total[slice(*one.part)], additions))
    return exchanges


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
