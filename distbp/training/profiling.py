"""Recording what the parts of a run do, for `profile_trace`.

A `Profile` replaces some methods of a run's parts, of these objects alone, by ones that record a
span: so the step of a run without a profile has no trace of it, and of one with a profile neither
where the recorder leaves steps out. Spans contain each other: `backprop` has `forward` in it, and
`update` has `wait` and `exchange`.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distbp.compiled.descriptor import BACKPROP, EXCHANGE, FORWARD, ROWS, UPDATE_SPAN, WAIT
from distbp.errors import DistbpError
from distbp.parallel.rank_errors import abort_unless_all_arrive, collective_errors
from distbp.parallel.reduction import OrderedReduction
from distbp.parallel.topology import Topology, latest
from distbp.training.compiled_engine import CompiledEngine
from distbp.training.profile_trace import (
    CHECKPOINT,
    EVALUATION,
    SpanRecorder,
    capacity_for,
    gather_lanes,
    in_common_time,
    read_clocks,
    write_trace,
)
from distbp.training.setup import RunParts

_CALIBRATION_CALLS = 1000
_COMPILED_SPAN_NS = 20.0  # with a reading of the clock; `SpanRecorder` counts it twice
# Object, name of the method, and what takes its place.
_Replaced = list[tuple[Any, str, Callable[..., Any]]]


@contextmanager
def profiled(parts: RunParts) -> Iterator[Callable[[RunParts], None]]:
    """Record what the parts of a run do, if it has a profile, and write it at the end; collective.

    Yields a function to be called with the parts that replace them after a rank failure. It is
    written after a DistbpError, too, if all ranks have it; an error of one alone aborts them.
    """
    if not parts.config.profile:
        yield lambda parts: None
        return
    profile = Profile(Path(parts.config.profile), parts.comm)
    profile.attach(parts)
    try:
        yield profile.attach
    except DistbpError as error:
        profile.detach()
        abort_unless_all_arrive(latest(parts.comm), error)
        with suppress(DistbpError):  # the first is the one to report
            profile.write()
        raise
    finally:
        profile.detach()
    profile.write()


class Profile:
    """The spans of a run; making it is collective.

    Parameters
    ----------
    path : Path
        The file to write.
    comm : Topology
    """

    def __init__(self, path: Path, comm: Topology) -> None:
        self._path, self.recorder = path, SpanRecorder(capacity_for(comm.size))
        self.recorder.span_cost = self._measure_cost()
        self._comm, self._first = comm, read_clocks(comm)
        self._rare_methods: _Replaced = []  # replaced all the time: their calls are few
        self._methods: _Replaced = []  # replaced while steps are recorded

    def _measure_cost(self) -> float:
        """Return how many nanoseconds it takes to record a call."""
        recorded = self._recording(ROWS)(lambda argument: None)
        began = time.perf_counter_ns()
        for _ in range(_CALIBRATION_CALLS):
            recorded(None)
        cost = (time.perf_counter_ns() - began) / _CALIBRATION_CALLS
        self.recorder.clear()
        return cost

    def attach(self, parts: RunParts) -> None:
        """Record what these parts do from now on."""
        self.detach()
        self._comm = parts.comm
        gradient, reduction = parts.gradient, parts.reduction
        frequent: list[tuple[Any, str, Callable[[Any], Any]]] = [
            *((one, "load", self._recording(ROWS)) for one in gradient.loaders),
            (parts.network, "backprop", self._recording(BACKPROP)),
            (parts.network, "_feedforward", self._recording(FORWARD)),
            (reduction, "reduce_and_update", self._recording(UPDATE_SPAN)),
            (reduction, "_timed_wait", self._recording(WAIT)),
        ]
        if isinstance(reduction, OrderedReduction):
            frequent.append((reduction, "_exchange", self._recording(EXCHANGE)))
        if reduction.overlap is not None:
            frequent.append((parts.network, "backprop_layer", self._recording(BACKPROP)))
        rare: list[tuple[Any, str, Callable[[Any], Any]]] = [
            (parts.engine, "run", self._starting_steps),
            (parts.recorder, "save", self._recording(CHECKPOINT)),
            *((one, "score", self._recording(EVALUATION)) for one in parts.evaluators.values()),
        ]
        if isinstance(parts.engine, CompiledEngine):
            self.recorder.span_cost = _COMPILED_SPAN_NS
            make = functools.partial(self._recording_compiled, parts.engine)
            frequent.append((parts.engine, "call", make))
        self._methods, self._rare_methods = (
            [(one, name, make(getattr(one, name))) for one, name, make in group]
            for group in (frequent, rare)
        )
        _replace(self._rare_methods)
        if self.recorder.is_recording:  # parts that replace others, in the middle of a burst
            _replace(self._methods)

    def detach(self) -> None:
        """Record nothing any more: the parts are as they were."""
        if self.recorder.is_recording:
            _restore(self._methods)
        _restore(self._rare_methods)
        self._methods, self._rare_methods = [], []

    def write(self) -> None:
        """Write the spans of all ranks on rank 0; collective.

        Raises
        ------
        DataError
            On all ranks: the file cannot be written.
        """
        comm = self._comm
        spans = in_common_time(self.recorder.spans(), self._first, read_clocks(comm))
        lanes = gather_lanes(comm, spans)
        with collective_errors(comm):
            if comm.rank == 0:
                write_trace(self._path, lanes)

    def _recording(self, index: int) -> Callable[[Any], Any]:
        """Return a decorator that records a span for each call."""
        recorder = self.recorder
        clock, add = recorder.clock, recorder.add

        def decorate(function: Any) -> Any:
            @functools.wraps(function)
            def call(*arguments: Any, **named: Any) -> Any:
                began = clock()
                result = function(*arguments, **named)
                add(index, began, clock())
                return result

            return call

        return decorate

    def _recording_compiled(self, engine: CompiledEngine, function: Any) -> Any:
        """Let compiled code add its spans behind those that are there.

        The reduction may add others after it, so this is about each call of the compiled code.
        """
        recorder = self.recorder

        def call() -> Any:
            engine.record_spans(recorder.array)
            engine.span_place = recorder.place
            try:
                return function()
            finally:
                recorder.place = engine.span_place
                engine.record_spans(None)

        return call

    def _starting_steps(self, run: Any) -> Any:
        """Decide before each call of the engine whether its steps are recorded."""
        begin_steps = self.recorder.begin_steps

        def call(numbers: Any, position: Any, rates: Any, *arguments: Any) -> Any:
            if begin_steps(len(rates)):
                (_replace if self.recorder.is_recording else _restore)(self._methods)
            return run(numbers, position, rates, *arguments)

        return call


def _replace(methods: _Replaced) -> None:
    for one, name, method in methods:
        setattr(one, name, method)


def _restore(methods: _Replaced) -> None:
    for one, name, _ in methods:
        delattr(one, name)
