"""The exchange during backprop: when parts begin, who makes them proceed, and which mode is taken.

Exchanges are simulated; tests/mpi/test_overlap.py has real ones.
"""

import gc
import threading
import time
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.parallel import internode
from distbp.parallel.comm import Group
from distbp.parallel.exchange_order import ExchangeOrder
from distbp.parallel.internode import ALL_LAYERS, CpuPressure, ExchangeQueue, Peers
from distbp.parallel.overlap import (
    AHEAD,
    CALLS,
    OFF,
    THREAD,
    LayerProgress,
    ModeTrial,
    Overlap,
    _compare_ahead,
    _compare_all,
    hidden_seconds,
)

MODES = (OFF, CALLS, THREAD)


def in_order(numbers):
    """Return an order of exchanges that complete nothing."""
    return ExchangeOrder(numbers, [[] for _ in numbers], [])


class Fake:
    """An exchange of which each half takes some number of looks to arrive; it logs its steps."""

    def __init__(self, name, depth, looks, log, error=None):
        self.name, self.depth, self.looks, self.log, self.error = name, depth, looks, log, error
        self.left = 0

    def start(self):
        self.log.append(("start", self.name))
        self.left = self.looks

    def is_complete(self):
        if self.error:
            raise self.error
        self.left -= 1
        return self.left < 0

    def add(self):
        self.log.append(("add", self.name))
        self.left = self.looks

    def wait(self):
        if self.error:
            raise self.error
        self.left = 0


def make(depths, mode, looks=3, error=None):
    """Return an overlap in a fixed mode, and the log of its exchanges."""
    log = []
    queue = ExchangeQueue([Fake(i, depth, looks, log, error) for i, depth in enumerate(depths)])
    progress = LayerProgress(np.zeros((1, 16), np.int64), 0)
    order = in_order(range(len(depths)))
    overlap = Overlap(queue, order, progress, True, lambda value: [value])
    overlap._trial = ModeTrial([mode], [], 0.0, lambda value: [value])
    return overlap, log


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("looks", [0, 1, 50])
def test_all_exchanges_run_in_order_in_every_step(mode, looks):
    overlap, log = make([1, 1, 2, 3], mode, looks)
    for _ in range(3):
        log.clear()
        ended = []
        if overlap.begin():
            for layers in (1, 2, 3):
                overlap.complete_layer(layers)
        assert overlap.finish(ended.append) >= 0.0
        overlap.end(0.0)
        assert ended == [0, 1, 2, 3]
        for kind in ("start", "add"):
            assert [name for found, name in log if found == kind] == ended
        assert overlap.progress.own[0] == 0


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 20), st.integers(0, 6))
def test_an_exchange_begins_when_its_layers_are_complete(depths, looks, layers):
    """And not before, however often it is asked."""
    log = []
    depths = sorted(depths)
    queue = ExchangeQueue([Fake(i, depth, looks, log) for i, depth in enumerate(depths)])
    for _ in range(400):
        queue.advance(layers)
    begun = [name for kind, name in log if kind == "start"]
    assert begun == [i for i, depth in enumerate(depths) if depth <= layers]
    assert queue.is_complete == (len(begun) == len(depths))


def test_pressure_is_the_time_without_a_core(monkeypatch):
    """Of the last window: it is high as long as others use the core, and no longer."""
    clock, delay = [0.0], [7.0]
    monkeypatch.setattr(internode, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(internode.host, "cpu_delay_s", lambda: delay[0])
    pressure, found = CpuPressure(), []
    for seconds, without_core in ((0.1, 0.1), (0.2, 0.0), (0.3, 0.03), (1.0, 0.2), (0.3, 0.0)):
        clock[0] += seconds
        delay[0] += without_core
        pressure.update()
        found.append(pressure.is_high)
    assert found == [False, True, False, True, False]


@pytest.mark.parametrize("is_high", [False, True])
def test_a_rank_waits_in_mpi_unless_others_want_its_core(is_high, monkeypatch):
    overlap, _ = make([1, 2], OFF, looks=50)
    waits, pauses, ended = [], [], []
    wait = Fake.wait
    monkeypatch.setattr(Fake, "wait", lambda fake: (waits.append(fake.name), wait(fake)))
    monkeypatch.setattr(internode, "sleep", pauses.append)
    overlap._queue._pressure.is_high = is_high
    overlap.begin()
    overlap.finish(ended.append)
    assert ended == [0, 1]
    assert (bool(waits), bool(pauses)) == (not is_high, is_high)


def test_without_overlap_nothing_begins_before_the_end():
    overlap, log = make([1, 2], OFF)
    assert not overlap.begin()
    assert log == []


@pytest.mark.parametrize("mode", [CALLS, THREAD])
def test_an_exchange_begins_during_backprop(mode):
    """By a call, or in a thread that nobody calls."""
    overlap, log = make([1, 2], mode)
    assert overlap.begin()
    overlap.complete_layer(1)
    deadline = time.monotonic() + 60
    while ("add", 0) not in log and time.monotonic() < deadline:
        time.sleep(0.001)
        overlap.proceed()
    assert ("add", 0) in log
    assert ("start", 1) not in log
    overlap.finish(lambda _: None)


def test_all_ranks_of_a_node_must_have_completed_a_layer():
    """Each has a counter of its own."""
    counters = np.zeros((3, 16), np.int64)
    ranks = [LayerProgress(counters, rank) for rank in range(3)]
    for rank, layers in zip(ranks, (2, 3, 1), strict=True):
        rank.store(layers)
    assert [rank.completed() for rank in ranks] == [1, 1, 1]
    ranks[2].own[0] = 5  # as compiled code does
    assert ranks[0].completed() == 2


@pytest.mark.parametrize("mode", MODES)
def test_what_fails_is_raised_in_the_thread_that_trains(mode):
    overlap, _ = make([1, 2], mode, error=ValueError("a peer has died"))
    if overlap.begin() and mode == THREAD:
        overlap.complete_layer(1)
        time.sleep(0.01)
    with pytest.raises(ValueError, match="a peer has died"):
        overlap.finish(lambda _: None)


def test_a_step_that_fails_leaves_no_running_thread():
    overlap, _ = make([1, 2], THREAD)
    overlap.begin()
    running = overlap._running
    overlap.cancel()
    running.result(timeout=60)


def test_the_thread_ends_with_the_overlap():
    """Many runs in one process do not collect threads."""

    def count_threads():
        gc.collect()
        return sum(one.name.startswith("distbp-exchange") for one in threading.enumerate())

    for _ in range(3):
        overlap, _ = make([1], THREAD)
        overlap.begin()
        overlap.complete_layer(1)
        overlap.finish(lambda _: None)
        del overlap
    deadline = time.monotonic() + 60
    while count_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count_threads() == 0


def run_trial(seconds, exchange=0.01, others=()):
    """Return the mode and the exchange's time after a trial with given seconds of a step."""
    calls = []

    def allgather(value):
        calls.append(value)
        return [value, *others]

    trial = _compare_all(list(seconds), allgather)
    noise = count()
    for _ in range(40):
        trial.next()
        trial.add(seconds[trial.mode] * (1 + 0.001 * (next(noise) % 3)), exchange)
    assert len(calls) == 1
    assert trial.is_over
    return trial.mode, trial.wait_s[0]


@pytest.mark.parametrize(
    ("seconds", "mode"),
    [((1.0, 0.8, 0.9), CALLS), ((1.0, 0.9, 0.8), THREAD), ((1.0, 1.1, 1.2), OFF),
     ((1.0, 0.99, 0.995), OFF)],
)  # fmt: skip
def test_the_fastest_mode_is_taken(seconds, mode):
    """Without a clear gain it is the one without overlap."""
    found, alone_s = run_trial(dict(zip(MODES, seconds, strict=True)))
    assert found == mode
    assert alone_s == pytest.approx(0.01)


def test_all_ranks_take_the_same_mode():
    """That which is fastest on average; a rank whose own clock says otherwise follows."""
    seconds = dict(zip(MODES, (1.0, 0.8, 0.9), strict=True))
    others = [[1.0, 0.01, 1.5, 0.01, 0.7, 0.01]]
    assert run_trial(seconds, others=others)[0] == THREAD


@pytest.mark.parametrize(("ahead_s", "mode"), [(0.9, AHEAD), (0.99, THREAD), (1.1, THREAD)])
def test_a_forward_pass_that_was_computed_ahead_does_not_count_for_the_next_mode(ahead_s, mode):
    """The first step of a turn is shorter, or longer, than the others of its mode."""
    trial, before = _compare_ahead(THREAD, lambda value: [value]), THREAD
    for _ in range(50):
        trial.next()
        seconds = {THREAD: 1.0, AHEAD: ahead_s}[trial.mode]
        if before != trial.mode:
            seconds += 0.5 if trial.mode == AHEAD else -0.5
        before = trial.mode
        trial.add(seconds, 0.0)
    assert trial.is_over
    assert trial.mode == mode


def test_the_second_trial_follows_the_first():
    """With an order that is made of what the first one has measured; others have their own."""
    overlap, log = make([1, 1, 2, 3], OFF)
    overlap._trial = _compare_all([OFF, THREAD], overlap._allgather)
    made = []

    def make_order(compute_s, exchange_s):
        made.append((compute_s, exchange_s))
        return in_order([0, 3, 2, 1])

    overlap.include_ahead(make_order)
    modes, starts = [], {OFF: set(), THREAD: set(), AHEAD: set()}
    for _ in range(60):
        log.clear()
        may_be_ahead = overlap.may_be_ahead
        if overlap.begin():
            for layers in (1, 2, 3):
                overlap.complete_layer(layers)
        overlap.finish(lambda _: None)
        modes.append(overlap.mode)
        assert may_be_ahead or overlap.mode != AHEAD
        starts[overlap.mode].add(tuple(name for kind, name in log if kind == "start"))
        overlap.end(0.001)
    assert len(made) == 1
    assert made[0][1] == pytest.approx(0.001)
    assert starts == {OFF: {(0, 1, 2, 3)}, THREAD: {(0, 1, 2, 3)}, AHEAD: {(0, 3, 2, 1)}}
    assert AHEAD not in modes[:10]
    assert modes[-1] == modes[-9]


def test_exchanges_go_on_in_the_thread_while_a_layer_is_computed_ahead():
    """In a call from `finish`, which goes on itself after it."""
    overlap, log = make([1] * 12, AHEAD, looks=2)
    overlap.begin()
    overlap.complete_layer(1)
    ended = []

    def on_end(i):
        ended.append(i)
        if i == 0:
            with overlap.in_thread():
                deadline = time.monotonic() + 60
                while ("add", 11) not in log and time.monotonic() < deadline:
                    time.sleep(0.001)
            assert ("add", 11) in log

    overlap.finish(on_end)
    assert ended == list(range(12))


def test_few_exchanges_are_in_flight():
    """So that the first ones end first."""
    log = []
    one, other = Group(), Group()
    exchanges = [Fake(i, 1, 10**6, log) for i in range(20)]
    ExchangeQueue(exchanges, Peers(one, other).max_in_flight).advance(ALL_LAYERS)
    assert log == [("start", i) for i in range(8)]


def test_with_one_group_all_sums_are_started_before_any_result():
    """For messages of a group have to be started in the same order by all."""
    log, group = [], Group()
    queue = ExchangeQueue(
        [Fake(i, 1, 0, log) for i in range(20)], Peers(group, group).max_in_flight
    )
    queue.finish(lambda _: None)
    assert log == [(kind, i) for kind in ("start", "add") for i in range(20)]


def test_the_hidden_fraction():
    """Of the time that the exchange takes alone: what the steps did not wait for."""
    overlap, _ = make([1], OFF)
    assert overlap.hidden is None
    overlap._alone_s = 0.1
    overlap._steps, overlap._exposed_s = 10, 0.4
    assert overlap.hidden == 0.0
    overlap._trial.mode = THREAD
    assert overlap.hidden == pytest.approx(0.6)
    overlap._exposed_s = 2.0  # the other ranks were late
    assert overlap.hidden == 0.0


def test_the_seconds_that_an_exchange_can_hide():
    """Of three equal layers: sent as they are computed, or one after the other if that is slow."""
    sizes = (512, 512, 512, 512)
    compute = 8.0  # a second for each product: 3 forward, 3 times BP4, twice BP2
    # Complete after 4, 6 and 8 s: with a quick network all but the last third is hidden.
    assert hidden_seconds(sizes, 4, compute, 3.0) == pytest.approx(2.0)
    # With a slow one it never pauses once it has begun.
    assert hidden_seconds(sizes, 4, compute, 30.0) == pytest.approx(4.0)
    assert hidden_seconds((), 4, compute, 3.0) == 0.0
    assert hidden_seconds((20, 10, 5), 4, compute, 3.0) == 0.0


def test_the_seconds_that_the_next_forward_pass_can_hide():
    """Of three equal layers, a second each; backprop alone does not hide the exchange."""
    sizes, compute = (512, 512, 512, 512), 8.0
    # 4 s pass between the first gradient and the end of backprop: 12 of 30 s are left for each of
    # layers 1 and 2, and 2 s for the third. The forward pass of the last one comes after them.
    assert hidden_seconds(sizes, 4, compute, 30.0, is_ahead=True) == pytest.approx(4.0 + 2.0)
    # 1 s for the last layer of the gradient: layers 2 and 3 of the forward pass are not delayed.
    assert hidden_seconds(sizes, 4, compute, 3.0, is_ahead=True) == pytest.approx(2.0)
    assert hidden_seconds((), 4, compute, 3.0, is_ahead=True) == 0.0
