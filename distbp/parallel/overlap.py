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
    THREAD   a thread that looks after it every 0.2 ms; it takes time from the rank's core

Which one is fastest depends on MPI, network, layers and cores. So the first steps of a run try all
of them in turns, and the ranks agree on the fastest (`ModeTrial`). No bit depends on it: the same
additions are made in the same order.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from statistics import fmean, median
from time import perf_counter

import numpy as np

from distbp.network.parameters import layer_runs, theta_size
from distbp.parallel.barrier import memory_fence
from distbp.parallel.internode import ExchangeQueue
from distbp.parallel.reduction_plan import group_layers

OFF, CALLS, THREAD = "off", "calls", "thread"
_POLL_S = 0.2e-3
_WARM_UP_STEPS = 2
_TURNS = 4  # steps of each mode that are compared
_MIN_GAIN = 0.05  # of a step's time; less may be chance


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
        OFF is the first.
    allgather : function
        Returns the value of every rank on all of them.

    Attributes
    ----------
    mode : str
        Of the next step.
    alone_s : float or None
        Seconds of the exchange without overlap; None before the end of the trial.
    """

    def __init__(self, modes: Sequence[str], allgather: Callable[[list[float]], list[list[float]]]):
        self._modes, self._allgather = modes, allgather
        self._steps: dict[str, list[float]] = {mode: [] for mode in modes}
        self._exchanges: list[float] = []  # seconds of those without overlap
        self._left = [OFF] * _WARM_UP_STEPS + list(modes) * _TURNS
        self.mode, self.alone_s = OFF, None if len(modes) > 1 else 0.0

    def next(self) -> None:
        """Choose the mode of the next step; collective in the step after the last one tried."""
        if self._left:
            self.mode = self._left.pop(0)
        elif self.alone_s is None:
            own = [median(self._steps[mode]) for mode in self._modes]
            ranks = self._allgather([*own, median(self._exchanges)])
            *seconds, self.alone_s = (fmean(times) for times in zip(*ranks, strict=True))
            best = min(range(len(own)), key=seconds.__getitem__)
            is_better = seconds[best] < (1.0 - _MIN_GAIN) * seconds[0]
            self.mode = self._modes[best] if is_better else OFF

    def add(self, step_s: float, exchange_s: float) -> None:
        """Take down the seconds of a step, and of waiting for its exchange."""
        tried = len(self._modes) * _TURNS
        if self.alone_s is None and len(self._left) < tried:
            self._steps[self.mode].append(step_s)
            if self.mode == OFF:
                self._exchanges.append(exchange_s)


class Overlap:
    """Runs the exchanges of a step, in a mode of its own.

    A step calls `begin`, `complete_layer` for each layer if `begin` said so, `finish` and `end`;
    `cancel` if it fails in between.

    Parameters
    ----------
    queue : ExchangeQueue
    progress : LayerProgress
    has_threads : bool
        Whether another thread may call MPI at the same time.
    allgather : function
        As of `ModeTrial`.
    """

    def __init__(
        self,
        queue: ExchangeQueue,
        progress: LayerProgress,
        has_threads: bool,
        allgather: Callable[[list[float]], list[list[float]]],
    ) -> None:
        self._queue, self.progress = queue, progress
        self._modes, self._allgather = [OFF, CALLS, *([THREAD] if has_threads else [])], allgather
        self._trial = ModeTrial(self._modes, allgather)
        self._pool = ThreadPoolExecutor(1, "distbp-exchange")
        self._stopped, self._running = threading.Event(), None
        self._steps, self._exposed_s = 0, 0.0
        self._began = self._waited_s = 0.0

    _running: "Future[None] | None"

    @property
    def mode(self) -> str:
        """Return the mode of the last step."""
        return self._trial.mode

    @property
    def hidden(self) -> float | None:
        """Return the fraction of the exchange's time that backprop has hidden so far.

        None before the modes were compared.
        """
        alone_s = self._trial.alone_s
        if not alone_s or not self._steps:
            return None
        if self.mode == OFF:  # what it waited less than in the trial is chance
            return 0.0
        return min(max(1.0 - self._exposed_s / self._steps / alone_s, 0.0), 1.0)

    def exclude_calls(self) -> None:
        """Do without the mode CALLS: before the first step, the same on all ranks."""
        self._modes = [mode for mode in self._modes if mode != CALLS]
        self._trial = ModeTrial(self._modes, self._allgather)

    def disable(self) -> None:
        """Begin every exchange after backprop from now on; the same on all ranks."""
        self._trial = ModeTrial([OFF], self._allgather)

    def begin(self) -> bool:
        """Begin a step; return whether its gradient is to be computed layer by layer."""
        self._trial.next()
        self._began = perf_counter()
        if self.mode == THREAD:
            self._stopped.clear()
            self._running = self._pool.submit(self._poll)
        return self.mode != OFF

    def complete_layer(self, layers: int) -> None:
        """Store that so many layers of the gradient are complete on this rank."""
        self.progress.store(layers)
        self.proceed()

    def proceed(self) -> None:
        """Give MPI time, between two products."""
        if self.mode == CALLS:
            self._queue.advance(self.progress.completed())

    def _poll(self) -> None:
        """Run the exchanges that can be run, until all are or `finish` takes over."""
        main = threading.main_thread()
        while not self._queue.is_complete and main.is_alive():
            self._queue.advance(self.progress.completed())
            if self._stopped.wait(_POLL_S):
                return

    def finish(self, on_end: Callable[[int], None]) -> float:
        """Complete the exchanges, all layers being complete on all ranks of the node.

        As `ExchangeQueue.finish`; what has failed in the thread is raised here.
        """
        began = perf_counter()
        self._stopped.set()
        if self._running is not None:
            running, self._running = self._running, None
            running.result()
        self._waited_s = perf_counter() - began + self._queue.finish(on_end)
        self.progress.store(0)  # the barrier at the end of the step comes before the next counts
        return self._waited_s

    def end(self) -> None:
        """Note how long the step has taken."""
        if self._trial.alone_s is not None:
            self._steps += 1
            self._exposed_s += self._waited_s
        self._trial.add(perf_counter() - self._began, self._waited_s)

    def cancel(self) -> None:
        """Leave a step that has failed."""
        self._stopped.set()


def hidden_seconds(sizes: Sequence[int], itemsize: int, compute: float, network: float) -> float:
    """Return how long an exchange of `network` seconds can go on during backprop.

    Layer by layer: each is sent when it is computed and those above it have been sent.

    Parameters
    ----------
    sizes : sequence of int
        Of the layers; none for an exchange that begins after backprop.
    itemsize : int
    compute : float
        Seconds of the forward pass and backprop.
    network : float
    """
    if len(sizes) < 2:
        return 0.0
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    # A third of the products is the forward pass; BP4 and BP2 take as long, but for the first BP2.
    second = compute / (3 * sum(products) - products[0])
    computed = sent = sum(products) * second
    parameters, layers = theta_size(sizes), layer_runs(sizes)
    last = len(products)
    for group in group_layers(layers, parameters, itemsize):
        first = len(products) - group.depth
        done = sum(products[first:last]) + sum(products[first + 1 : last + 1])
        computed += done * second
        sent = max(sent, computed) + (group.stop - group.start) / parameters * network
        last = first
    return max(compute + network - sent, 0.0)
