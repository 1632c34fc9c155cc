"""The exchange between nodes while the gradient is still being computed.

Backprop completes the gradient layer by layer, from the output to the input, and the exchange
of a layer can begin as soon as all ranks of the node have completed it. They tell each other by
`LayerProgress`: an int64 counter per rank, in memory that the node shares. This is the whole
interface of what computes a gradient:

    progress[0] = number of layers of the gradient that are complete, counted from the output

which is stored after each layer, behind the numbers of that layer (a release). It is set back to
0 by `Overlap.finish`. Who makes MPI proceed meanwhile is the *mode* of a step:

    OFF      nobody: the exchange begins after backprop
    CALLS    what computes, between two products
    THREAD   a thread that looks after it every ms; it takes time from the rank's core
    AHEAD    the thread, also during the forward pass of the next step, of which each layer is
             computed as soon as its θ is updated, while those above are still being exchanged

Which one is fastest depends on MPI, network, layers and cores. So the first steps of a run try all
of them in turns, and the ranks agree on the fastest (`ModeTrial`). No bit depends on it: the same
additions are made in the same order.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from statistics import fmean, median
from time import perf_counter

import numpy as np

from distbp.network.parameters import layer_runs, theta_size
from distbp.parallel.barrier import memory_fence
from distbp.parallel.exchange_order import ExchangeOrder, completion_times, forward_times
from distbp.parallel.internode import ALL_LAYERS, ExchangeQueue
from distbp.parallel.reduction_plan import group_layers

OFF, CALLS, THREAD, AHEAD = "off", "calls", "thread", "ahead"
_POLL_S = 1e-3
_CANCEL_S = 1.0  # calls that do not wait for messages take less
_WARM_UP_STEPS = 2
_TURNS = 4  # steps of each mode that are compared
_AHEAD_TURNS, _AHEAD_STEPS = 4, 5  # in turns of several steps, as one ahead shortens the next
# Of a step's time; less may be chance. A second one, for where a thread has been worth it already.
_MIN_GAIN, _MIN_AHEAD_GAIN = 0.05, 0.02


class LayerProgress:
    """How many layers of the gradient the ranks of a node have completed, from the output.

    Parameters
    ----------
    counters : (ranks, n) int64 array
        Zeros at first; the first number of a row is that rank's counter.
    rank : int
        On the node.

    Attributes
    ----------
    own : (1,) int64 array
        This rank's counter, `progress[0]`.
    """

    def __init__(self, counters: np.ndarray, rank: int) -> None:
        self._counters, self.own = counters[:, 0], counters[rank, :1]
        self._is_alone = len(counters) == 1

    def store(self, layers: int) -> None:
        """Let the others see this rank's counter, and what it has written before."""
        memory_fence()
        self.own[0] = layers

    def completed(self) -> int:
        """Return how many layers all ranks have completed, whose numbers can be read then."""
        layers = int(self.own[0] if self._is_alone else self._counters.min())
        memory_fence()
        return layers


class ModeTrial:
    """Finds the fastest mode: all take turns in the first steps, then the ranks agree on one.

    Parameters
    ----------
    modes : sequence of str
    turns : sequence of (mode, whether it counts)
        Of each step of the trial.
    min_gain : float
        The fraction of a step's time by which a mode has to be faster than the first of `modes`.
    allgather : function
        Returns the value of every rank on all of them.

    Attributes
    ----------
    mode : str
        Of the next step.
    is_over : bool
    seconds, wait_s : list of float
        Of a step in each mode, and of waiting for its exchange, once it is over; the same on all
        ranks.
    """

    def __init__(
        self,
        modes: Sequence[str],
        turns: Sequence[tuple[str, bool]],
        min_gain: float,
        allgather: Callable[[list[float]], list[list[float]]],
    ) -> None:
        self._modes, self._allgather, self._min_gain = modes, allgather, min_gain
        self._left = list(turns)
        self._steps: dict[str, list[tuple[float, float]]] = {mode: [] for mode in modes}
        self.mode, self._counts, self.is_over = modes[0], False, not turns
        self.seconds: list[float] = []
        self.wait_s: list[float] = []

    def next(self) -> None:
        """Choose the mode of the next step; collective in the step after the last one tried."""
        if self._left:
            self.mode, self._counts = self._left.pop(0)
        elif not self.is_over:
            own = [median(column) for mode in self._modes
                   for column in zip(*self._steps[mode], strict=True)]  # fmt: skip
            means = [fmean(times) for times in zip(*self._allgather(own), strict=True)]
            self.seconds, self.wait_s = means[::2], means[1::2]
            best = min(range(len(self._modes)), key=self.seconds.__getitem__)
            is_better = self.seconds[best] < (1.0 - self._min_gain) * self.seconds[0]
            self.mode = self._modes[best if is_better else 0]
            self.is_over = True

    def add(self, step_s: float, wait_s: float) -> None:
        """Take down the seconds of a step, and of waiting for its exchange."""
        if self._counts and not self.is_over:
            self._steps[self.mode].append((step_s, wait_s))


def _compare_all(modes: Sequence[str], allgather: Callable[..., list[list[float]]]) -> ModeTrial:
    """Return the first trial, of modes that take turns step by step; OFF is the first of them."""
    turns = [(OFF, False)] * _WARM_UP_STEPS + [(mode, True) for mode in modes] * _TURNS
    return ModeTrial(modes, turns if len(modes) > 1 else [], _MIN_GAIN, allgather)


def _compare_ahead(best: str, allgather: Callable[..., list[list[float]]]) -> ModeTrial:
    """Return the second trial, of AHEAD against the best of the other modes."""
    turns = [
        (mode, step > 0)
        for _ in range(_AHEAD_TURNS) for mode in (best, AHEAD) for step in range(_AHEAD_STEPS)
    ]  # fmt: skip
    min_gain = _MIN_GAIN if best == OFF else _MIN_AHEAD_GAIN
    return ModeTrial((best, AHEAD), turns, min_gain, allgather)


class Overlap:
    """Runs the exchanges of a step, in a mode of its own.

    A step calls `begin`, `complete_layer` for each layer if `begin` said so, `finish` and `end`;
    `cancel` if it fails in between.

    Parameters
    ----------
    queue : ExchangeQueue
    order : ExchangeOrder
        That of backprop.
    progress : LayerProgress
    has_threads : bool
        Whether another thread may call MPI at the same time.
    allgather : function
        As of `ModeTrial`.

    Attributes
    ----------
    order : ExchangeOrder
        Of this step.
    """

    def __init__(
        self,
        queue: ExchangeQueue,
        order: ExchangeOrder,
        progress: LayerProgress,
        has_threads: bool,
        allgather: Callable[[list[float]], list[list[float]]],
    ) -> None:
        self._queue, self.progress, self._allgather = queue, progress, allgather
        self.order = self._backprop_order = self._ahead_order = order
        self._make_ahead_order: Callable[[float, float], ExchangeOrder] | None = None
        self._modes = [OFF, CALLS, *([THREAD] if has_threads else [])]
        self._trial = _compare_all(self._modes, allgather)
        self._alone_s = 0.0  # seconds of the exchange without overlap, once they are known
        self._pool = ThreadPoolExecutor(1, "distbp-exchange")
        self._stopped, self._running = threading.Event(), None
        self._steps, self._exposed_s, self._began = 0, 0.0, 0.0

    _running: "Future[None] | None"

    @property
    def mode(self) -> str:
        """Return the mode of this step."""
        return self._trial.mode

    @property
    def hidden(self) -> float | None:
        """Return the fraction of the exchange's time that computation has hidden so far.

        None before the modes were compared.
        """
        if not self._alone_s or not self._steps:
            return None
        if self.mode == OFF:  # what it waited less than in the trial is chance
            return 0.0
        return min(max(1.0 - self._exposed_s / self._steps / self._alone_s, 0.0), 1.0)

    @property
    def has_threads(self) -> bool:
        """Return whether there are modes with a thread; the same on all ranks."""
        return THREAD in self._modes

    @property
    def is_settled(self) -> bool:
        """Return whether the modes have been compared: the mode does not change any more."""
        return self._trial.is_over

    @property
    def may_be_ahead(self) -> bool:
        """Return whether the next step can be in the mode AHEAD; the same on all ranks."""
        return self._make_ahead_order is not None and (self.mode == AHEAD or not self.is_settled)

    def exclude_calls(self) -> None:
        """Do without the mode CALLS: before the first step, the same on all ranks."""
        self._modes = [mode for mode in self._modes if mode != CALLS]
        self._trial = _compare_all(self._modes, self._allgather)

    def include_ahead(self, make_order: Callable[[float, float], ExchangeOrder]) -> None:
        """Try AHEAD as well: before the first step, the same on all ranks.

        `make_order` returns its order, given the seconds of a step's computation and exchange.
        """
        self._make_ahead_order = make_order

    def disable(self) -> None:
        """Begin every exchange after backprop from now on; the same on all ranks."""
        self._trial, self._make_ahead_order = _compare_all([OFF], self._allgather), None

    def begin(self) -> bool:
        """Begin a step; return whether its gradient is to be computed layer by layer."""
        self._choose_mode()
        order = self._ahead_order if self.mode == AHEAD else self._backprop_order
        if order is not self.order:
            self.order = order
            self._queue.reorder(order.numbers)
        self._began = perf_counter()
        if self.mode in (THREAD, AHEAD):
            self._start_thread(self.progress.completed)
        return self.mode != OFF

    def _choose_mode(self) -> None:
        trial = self._trial
        trial.next()
        if trial.is_over and trial.seconds and not self._alone_s:
            self._alone_s = trial.wait_s[0]
            if self._make_ahead_order is not None:
                compute_s = trial.seconds[0] - self._alone_s
                self._ahead_order = self._make_ahead_order(compute_s, self._alone_s)
                self._trial = _compare_ahead(trial.mode, self._allgather)
                self._trial.next()

    def complete_layer(self, layers: int) -> None:
        """Store that so many layers of the gradient are complete on this rank."""
        self.progress.store(layers)
        self.proceed()

    def proceed(self) -> None:
        """Give MPI time, between two products."""
        if self.mode == CALLS:
            self._queue.advance(self.progress.completed())

    def _start_thread(self, completed: Callable[[], int]) -> None:
        self._stopped.clear()
        self._running = self._pool.submit(self._poll, completed)

    def _stop_thread(self) -> None:
        """Let the thread end; what has failed in it is raised here."""
        self._stopped.set()
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def _poll(self, completed: Callable[[], int]) -> None:
        """Run the exchanges that can be run, until all are or another thread takes over."""
        main = threading.main_thread()
        while not self._queue.is_complete and main.is_alive():
            self._queue.advance(completed())
            if self._stopped.wait(_POLL_S):
                return

    def finish(self, on_end: Callable[[int], None]) -> float:
        """Complete the exchanges, all layers being complete on all ranks of the node.

        As `ExchangeQueue.finish`; what has failed in the thread is raised here.
        """
        began = perf_counter()
        self._stop_thread()
        waited_s = perf_counter() - began + self._queue.finish(on_end)
        self.progress.store(0)  # the barrier at the end of the step comes before the next counts
        return waited_s

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """Have the thread run the exchanges meanwhile: in a call of `on_end`, for AHEAD."""
        self._start_thread(lambda: ALL_LAYERS)
        try:
            yield
        finally:
            self._stop_thread()

    def end(self, waited_s: float) -> None:
        """Note how long the step has taken, and how long it has waited for its exchange."""
        if self.is_settled:
            self._steps += 1
            self._exposed_s += waited_s
        self._trial.add(perf_counter() - self._began, waited_s)

    def cancel(self) -> None:
        """Leave a step that has failed: nothing is sent any more when this returns."""
        self._stopped.set()
        if self._running is not None:
            wait([self._running], _CANCEL_S)  # what failed in it is not the first failure


def hidden_seconds(
    sizes: Sequence[int], itemsize: int, compute: float, network: float, is_ahead: bool = False
) -> float:
    """Return how long an exchange of `network` seconds can go on during computation.

    Layer by layer: each is sent when it is computed and those above it have been sent; in the mode
    AHEAD, what is left after backprop in the order of the next forward pass.

    Parameters
    ----------
    sizes : sequence of int
        Of the layers; none for an exchange that begins after backprop.
    itemsize : int
    compute : float
        Seconds of the forward pass and backprop.
    network : float
    is_ahead : bool
    """
    if len(sizes) < 2:
        return 0.0
    complete = completion_times(sizes, compute)
    parameters, sent = theta_size(sizes), 0.0
    for group in group_layers(layer_runs(sizes), parameters, itemsize):
        sent = max(sent, complete[group.depth - 1])
        sent += (group.stop - group.start) / parameters * network
    hidden = max(compute + network - sent, 0.0)
    if not is_ahead:
        return hidden
    early, late = hidden, []  # seconds sent before the end of backprop, and those after it
    for start, stop in reversed(layer_runs(sizes)):
        seconds = (stop - start) / parameters * network
        late.append(max(seconds - early, 0.0))
        early = max(early - seconds, 0.0)
    forward = forward_times(sizes, compute)
    received = ended = 0.0
    for seconds, layer in zip(reversed(late), forward, strict=True):
        received += seconds
        ended = max(ended, received) + layer
    return hidden + received + sum(forward) - ended
