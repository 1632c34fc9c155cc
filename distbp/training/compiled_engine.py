"""Steps as machine code: the engine that makes many of them in one call, without the GIL.

`CompiledEngine` binds a run's arrays to the descriptor of `compiled.step`, once, and then only
calls it. On one node a call makes whole steps, sums and updates included. Where a reduction sums by
messages, a call computes the gradient of one step, and the reduction calls `CompiledUpdate`; while
it waits for the sums of other layers, it has layers of the next step's forward pass computed.
"""

import base64
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from distbp import own_parts
from distbp.compiled import objects
from distbp.compiled.arrays import can_load
from distbp.compiled.blas import find_gemm
from distbp.compiled.choice import Choice
from distbp.compiled.descriptor import COMPUTE, FORWARD_AHEAD, LATE, Binding, address
from distbp.compiled.step_constants import COUNT
from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.parallel import host
from distbp.parallel.barrier import Barrier
from distbp.parallel.overlap import AHEAD, Overlap
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.reduction import OrderedReduction
from distbp.parallel.step_totals import StepTotals
from distbp.parallel.topology import Topology
from distbp.training.compiled_update import CompiledUpdate, constants_of
from distbp.training.config import ENGINES, Config
from distbp.training.engine import NO_ROWS, Advance, Engine
from distbp.training.step_binding import (
    StepParts,
    bind_barrier,
    bind_step,
    bind_sum,
    make_choice,
)

logger = logging.getLogger(__name__)

# Steps of one call: signals, and ranks that are late, are handled between calls. As many
# multiplications take about 10 ms.
_MULTIPLICATIONS_A_CALL, _MAX_STEPS_A_CALL = 500_000_000, 256
_TIMES = ("compute_ns", "wait_ns", "update_ns")  # of the descriptor


class _Batch(NamedTuple):
    """The rows of one or more mini-batches, and the (epoch, step) of the first of them."""

    numbers: np.ndarray
    file_numbers: np.ndarray
    position: tuple[int, int]

    def is_same(self, other: "_Batch") -> bool:
        return self.position == other.position and np.array_equal(self.numbers, other.numbers)


class CompiledEngine(Engine):
    """Makes steps by machine code; making one is collective.

    Parameters
    ----------
    parts : StepParts
    comm : Topology

    Raises
    ------
    ConfigError
        On all ranks: the step cannot be compiled, or there is no such BLAS library.
    """

    def __init__(self, parts: StepParts, comm: Topology) -> None:
        super().__init__(parts.gradient)
        self._split, self._update = parts.gradient.loader.split, parts.update
        reduction, plan = self.reduction, self.reduction.plan
        is_on_one_node = not plan.exchanges and plan.node_size == comm.size
        whole = reduction if is_on_one_node and isinstance(reduction, OrderedReduction) else None
        self._is_whole = whole is not None
        self._ahead: _Batch | None = None  # of which the forward pass has been computed
        self._ahead_s = 0.0  # seconds that this took in a step
        choice = make_choice(parts, has_messages=whole is None)
        self._function = _load_step(choice, comm, parts.config.quiet)
        self._binding = Binding()
        self._fields = self._binding.fields
        self._barrier: Barrier | None = None  # of whole steps of several ranks
        with collective_errors(comm):
            self._fields.gemm = find_gemm(parts.gradient.network.dtype, parts.config.blas)
            if parts.config.blas:  # loaded only now, with as many threads as it likes
                host.forget_blas_libraries()
                host.set_blas_threads(parts.config.threads)
        bind_step(self._binding, parts)
        if whole is not None:
            self._bind_sum(whole, parts, comm)
        else:
            reduction.chunk_update = CompiledUpdate(self._binding, self._function, parts.update)
        if isinstance(reduction, OrderedReduction) and reduction.overlap is not None:
            reduction.overlap.exclude_calls()  # it makes none between two products
            self._include_ahead(reduction, reduction.overlap, comm, parts.config.batch_size)

    def _include_ahead(
        self, reduction: OrderedReduction, overlap: Overlap, comm: Topology, batch_size: int
    ) -> None:
        """Let the forward pass of the next step begin early, where that is possible; collective."""
        has_buffers = len(reduction.schedule) <= len(self.gradient.loaders)  # for all its shards
        has_next = len(self._split) > batch_size  # in an epoch
        # To clip, θ is updated at the end, all at once.
        is_at_once = self._update.clip_norm is not None
        can_be_ahead = overlap.has_threads and has_buffers and has_next and not is_at_once
        if all(comm.world.allgather(can_be_ahead)):
            overlap.include_ahead(reduction.order_ahead)

    @property
    def looks_ahead(self) -> bool:
        overlap = self.reduction.overlap
        return overlap is not None and overlap.may_be_ahead

    def forget_ahead(self) -> None:
        self._ahead = None

    def _bind_sum(self, reduction: OrderedReduction, parts: StepParts, comm: Topology) -> None:
        """Bind what whole steps need, of which one call makes many."""
        self._barrier = comm.barrier if comm.size > 1 else None
        bind_sum(self._binding, reduction, parts.update)
        bind_barrier(self._binding, self._barrier)
        work = 3 * self.reduction.plan.size * parts.config.batch_size
        self.max_steps = min(max(_MULTIPLICATIONS_A_CALL // work, 1), _MAX_STEPS_A_CALL)
        self._costs, self._correct = np.zeros(self.max_steps), np.zeros(self.max_steps)
        self._constants = np.zeros((self.max_steps, COUNT))
        self._binding.put(constants=self._constants, costs=self._costs, correct=self._correct)

    def run(
        self,
        numbers: np.ndarray,
        position: tuple[int, int],
        rates: Sequence[float],
        requests: tuple[float, float],
        advance: Advance,
        following: np.ndarray = NO_ROWS,
    ) -> StepTotals:
        fields, batch = self._fields, self._batch(numbers, position)
        self._bind_batch(batch)
        fields.steps = len(rates)
        fields.wants_stop, fields.wants_save = map(int, requests)
        fields.phase, fields.step = COMPUTE, 0
        fields.version = self._update.store.current
        if self._is_whole:
            return self._make_steps(rates, advance)
        ahead, self._ahead = self._ahead, None
        fields.has_forward = ahead is not None and ahead.is_same(batch)
        after = self._batch(following, (position[0], position[1] + 1)) if len(following) else None
        return self._make_step_with_messages(len(numbers), rates[0], advance, after)

    def _batch(self, numbers: np.ndarray, position: tuple[int, int]) -> "_Batch":
        file_numbers = self._split.file_rows(numbers)
        return _Batch(
            np.ascontiguousarray(numbers, np.int64),
            np.ascontiguousarray(file_numbers, np.int64),
            position,
        )

    def _bind_batch(self, batch: "_Batch") -> None:
        """Bind the rows of a call, which the caller keeps alive."""
        fields = self._fields
        fields.numbers, fields.file_numbers = map(address, batch[:2])
        fields.n_numbers = len(batch.numbers)
        fields.epoch, fields.first_step = batch.position

    def call(self) -> int:
        """Call the compiled code; return DONE or LATE."""
        return int(self._function(self._binding.address))

    def record_spans(self, spans: np.ndarray | None) -> None:
        """Add a span for each part of a step to a circular array (n, 3) of a profile, or stop."""
        if spans is None:
            self._fields.spans = 0
            return
        self._binding.put(spans=spans)
        self._fields.spans_size = spans.size

    @property
    def span_place(self) -> tuple[int, int]:
        """The place of the next span, in numbers, and how often the array was full."""
        return self._fields.spans_place, self._fields.spans_rounds

    @span_place.setter
    def span_place(self, value: tuple[int, int]) -> None:
        self._fields.spans_place, self._fields.spans_rounds = value

    def _make_steps(self, rates: Sequence[float], advance: Advance) -> StepTotals:
        """Make whole steps in compiled code."""
        fields = self._fields
        self._set_constants(rates)
        before = [getattr(fields, name) for name in _TIMES]
        try:
            while self.call() == LATE and self._barrier is not None:
                self._barrier.finish_wait()
        finally:  # also if another rank has died: the steps before that are made
            made = fields.step
            applied = made - (made > 0 and not fields.applied)
            self._update.store.commit(applied)
            times = [getattr(fields, name) - was for name, was in zip(_TIMES, before, strict=True)]
            self.timing.add_steps(made, *(ns * 1e-9 for ns in times))
            advance(self._costs[:applied].tolist(), self._correct[:applied].tolist())
        return StepTotals(
            float(self._costs[made - 1]), float(self._correct[made - 1]),
            fields.stop, fields.save, bool(fields.applied),
        )  # fmt: skip

    def _make_step_with_messages(
        self, rows: int, rate: float, advance: Advance, after: "_Batch | None"
    ) -> StepTotals:
        """Compute the gradients in compiled code; the reduction sums them and has θ updated."""
        began = perf_counter()
        overlap, fields, forward_ahead = self.reduction.overlap, self._fields, None
        fields.layered = fields.progress = 0
        if overlap is not None and overlap.begin():
            fields.layered = min(len(self.gradient.loaders), len(self.reduction.schedule))
            fields.progress = address(overlap.progress.own)
            if overlap.mode == AHEAD and after is not None:
                forward_ahead = partial(self._forward_ahead, after)
        with self.reduction.cancelling():
            self.call()
            computed, self._ahead_s = perf_counter(), 0.0
            totals = self.reduction.reduce_and_update(rows, rate, forward_ahead)
        computed += self._ahead_s
        self.timing.add_step(began, computed, perf_counter(), self.reduction.wait_s)
        if totals.applied:
            self._ahead = after if forward_ahead is not None else None
            advance((totals.cost,), (totals.correct,))
        return totals

    def _forward_ahead(self, batch: "_Batch", layer: int) -> None:
        """Compute a layer of the forward pass of the next batch, by the θ that is being made."""
        began, fields = perf_counter(), self._fields
        rows, version = fields.n_numbers, fields.version
        self._bind_batch(batch)
        fields.version, fields.layer = 1 - version, layer
        fields.phase = FORWARD_AHEAD
        self.call()
        fields.n_numbers, fields.version = rows, version  # for the chunks still to update
        self._ahead_s += perf_counter() - began

    def _set_constants(self, rates: Sequence[float]) -> None:
        """Set what the elements of an update share, for each step of a call."""

        def constants(i: int) -> list[float]:
            return constants_of(self._update, rates[i], self._update.store.steps + i)

        first, last = constants(0), constants(len(rates) - 1)
        # What depends on t grows or falls with it: if the ends are equal, so is all in between.
        is_constant = first == last and min(rates) == max(rates)
        self._constants[: len(rates)] = (
            first if is_constant else [constants(i) for i in range(len(rates))]
        )


def choose_engine(
    config: Config,
    comm: Topology,
    data: DataSet | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Return `numpy` or `compiled` for `--engine auto`, the same on all ranks; collective.

    Parameters
    ----------
    config : Config
    comm : Topology
    data : DataSet, optional
        To train on.
    environ : mapping
        DISTBP_ENGINE of rank 0, if it is set, is what `auto` stands for.

    Raises
    ------
    ConfigError
        On all ranks: the engine that was asked for is not available.
    """
    names = (config.activation, config.cost or "", config.optimizer)
    for_numpy = [name for name in names if own_parts.is_own(name)]
    train = data.splits.get("train") if data is not None else None
    if train is not None:
        types = (train.x_dtype, train.y_dtype)
        for_numpy += [f"rows of {dtype}" for dtype in types if not can_load(dtype)]
    lacking = np.flatnonzero(comm.world.allgather_int(objects.is_available()) == 0)
    wanted = config.engine
    if wanted == "auto":
        wanted = comm.world.broadcast(environ.get("DISTBP_ENGINE")) or wanted
    if wanted not in ENGINES:
        raise ConfigError(f"DISTBP_ENGINE is {wanted}. Use one of {', '.join(ENGINES)}.")
    if wanted == "compiled" and for_numpy:
        raise ConfigError(
            f"--engine compiled is not for {for_numpy[0]}, which only NumPy can compute with. Use "
            "--engine numpy."
        )
    if wanted == "compiled" and lacking.size:
        where = f" on rank {lacking[0]}" if comm.size > 1 else ""
        raise ConfigError(
            f"--engine compiled needs numba, which is not installed{where}. Install it (pip "
            f"install 'distbp[fast]'), or start a new run with --engine numpy."
        )
    if wanted == "auto":
        wanted = "numpy" if for_numpy or lacking.size else "compiled"
    if config.blas and wanted == "numpy":
        raise ConfigError(
            "--blas is for the compiled engine, but this run has NumPy's. Leave it out, or "
            "install numba: pip install 'distbp[fast]'."
        )
    return wanted


def _load_step(choice: Choice, comm: Topology, is_quiet: bool) -> objects.Function:
    """Return the compiled step: read from a file, or compiled once a node; collective."""
    name, node = objects.object_name(json.dumps(choice)), comm.node
    content, text = b"", ""
    if not node.allgather_int(objects.is_loaded(name)).all():
        with collective_errors(comm):
            if node.rank == 0:
                content = objects.read_object(name) or b""
                if not content:
                    if not is_quiet and comm.rank == 0:
                        logger.info(
                            "compiling the step, once for this kind of network and machine; kept "
                            "in %s", objects.cache_folder(),
                        )  # fmt: skip
                    content = _compile(choice)
                    objects.write_object(name, content)
                text = base64.b64encode(content).decode()
        content = base64.b64decode(node.broadcast(text))
    return objects.load_object(name, content)


def _compile(choice: Choice) -> bytes:
    """Return the object file of a step.

    Raises
    ------
    ConfigError
        numba cannot be imported.
    """
    try:
        from distbp.compiled.step import make_step
    except ImportError as error:
        raise ConfigError(
            f"--engine compiled: numba cannot be imported ({error}). Install a version that fits "
            f"NumPy's, or start a new run with --engine numpy."
        ) from error
    return objects.build_object(make_step(choice))
