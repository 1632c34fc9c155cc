"""Training: the loop over epochs and steps.

In a step all ranks compute the gradients of one mini-batch's shards, sum them and update θ.
`train` has the parts assembled by `setup` and starts a `Run`, which is the only place where time
passes: it moves the `Progress` on, and does what `recovery` decides if a step went wrong.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.arrays import Arrays
from distbp.errors import ConfigError, DivergedError, StoppedError
from distbp.network.parameters import digest
from distbp.parallel import host
from distbp.parallel.environment import LaunchEnvironment
from distbp.parallel.rank_errors import abort_on_error, collective_errors, is_rank_failure
from distbp.parallel.step_totals import StepTotals
from distbp.parallel.topology import Topology, connect
from distbp.training.callbacks import SAVE, STOP, check_requests, start_callbacks
from distbp.training.config import Config
from distbp.training.engine import NO_ROWS
from distbp.training.inputs import (
    check_same_source,
    check_source,
    import_options,
    open_arrays,
    open_model,
)
from distbp.training.messages import (
    final_report,
    node_cores,
    rolled_back_message,
    stopped_message,
)
from distbp.training.model import Model, Result
from distbp.training.profiling import profiled
from distbp.training.rates import learning_rate, learning_rates
from distbp.training.recovery import (
    Action,
    Attempts,
    Diagnosis,
    FaultDetector,
    decide,
    is_repeated,
    last_checkpoint,
    rate_factor_after,
    recover_from_rank_failure,
)
from distbp.training.setup import RunParts, assemble, restart, restore
from distbp.training.state import costs_and_accuracies
from distbp.training.timing import RankTime, checkpoint_hint, timing_summary


def train(
    config: Config,
    x: Any = None,
    y: Any = None,
    *,
    resume: bool = False,
    comm: Topology | None = None,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    sample_weight: Any = None,
    classes: Sequence[Any] | None = None,
    distribute: bool = False,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> Result:
    """Train a network on all ranks of this run, on the data set of `config` or on arrays.

    Parameters
    ----------
    config : Config
        Arrays need neither `data` nor `out`: without `out` nothing is written.
    x, y : arrays, optional
        Rows (n, …) of numbers, and their labels (n,) or (n, k), which are interpreted as
        `distbp import` does: text, booleans and whole numbers are classes, rows of 0 and 1
        are one-hot or several labels, other numbers are targets of a regression. Or a data
        frame, and the name of its column with the labels; or the path of a data set, without y.
    resume : bool
        Continue the run in `config.out` from its last checkpoint; on the same arrays.
    comm : Topology, optional
        The ranks; by default those that this process was started with.
    validation, test : (x, y), optional
    sample_weight : (n,) array, optional
        How often each row of x counts in the training; not in evaluations.
    classes : sequence, optional
        All classes in the order of the outputs, if y may lack some; or names of the labels
        0, 1, …
    distribute : bool
        Whether rank 0 alone has the arrays, and the others pass None. By default all ranks pass
        the same ones.
    callbacks : sequence, optional
        Called after each epoch with its record and the network, besides those of `config`; see
        `distbp.training.callbacks`. Any function of two arguments will do.
    **options
        Options of `distbp import` by their names in Python, such as `task="regression"`,
        `scaling="none"`, or for data frames `missing="mean"`.

    Returns
    -------
    Result
        The same on every rank.

    Raises
    ------
    StoppedError
        On every rank, if one of them that has a shard got a signal or reached its time limit:
        the run is saved and can be resumed.
    DistbpError
        On every rank, if any of them raises one. Any other exception on one of several ranks
        aborts all of them.
    """
    comm = comm or connect()
    with host.preserve_blas_threads(), abort_on_error(comm):
        is_path = isinstance(x, str | Path)
        arrays = Arrays((None if is_path else x, y), validation, test, sample_weight, classes)
        # First of all, as it has the better advice for a rank that was passed nothing.
        check_same_source(
            comm, [distribute, bool(config.data) or is_path, arrays.is_empty or distribute]
        )
        with collective_errors(comm):
            if is_path:
                config = _with_data(config, str(x))
            check_source(config, arrays, resume, distribute or is_path, options)
        data = None
        if not config.data:
            data = open_arrays(arrays, import_options(options), comm, distribute)
        checkpoint = open_model(config.out, comm) if resume else None
        run = Run(assemble(config, comm, checkpoint, data=data, callbacks=callbacks))
        with run.parts.stop_request, profiled(run.parts) as attach_profile:
            while True:
                try:
                    return run.train()
                except Exception as failure:
                    launch = LaunchEnvironment.from_environ()
                    if not launch.ulfm_enabled or not is_rank_failure(failure, run.parts.comm):
                        raise
                    parts = recover_from_rank_failure(
                        run.parts, run.progress, run.previous, failure
                    )
                    run = Run(parts)
                    attach_profile(parts)


def _with_data(config: Config, path: str) -> Config:
    """Return the configuration for a data set that was passed instead of arrays."""
    if config.data:
        raise ConfigError(f"There are two data sets, {config.data} and {path}. Give one of them.")
    return replace(config, data=path)


class Run:
    """A run in progress.

    Parameters
    ----------
    parts : RunParts

    Attributes
    ----------
    progress : Progress
        Where the run is.
    previous : Progress
        Where it was before the last step or end of an epoch. Ranks of several nodes can be that
        far apart when one of them dies, and restart from the earlier of the two.
    """

    def __init__(self, parts: RunParts) -> None:
        self.parts = parts
        self.progress = self.previous = parts.start
        self._detector, self._attempts = FaultDetector(parts), Attempts()
        self._began = time.monotonic()  # again when it trains, as making it may have taken long
        self._is_stopped = False  # by a time limit, without a directory to save to
        self._is_stopped_by_callback = False

    def train(self, has_ended: "Callable[[Run], bool] | None" = None) -> Result:
        """Train to the last epoch, or until early stopping.

        `has_ended` is asked before the first epoch and after each one; it has to answer the same on
        all ranks.
        """
        parts, self._began = self.parts, time.monotonic()
        try:
            start_callbacks(parts.comm, parts.callbacks, parts.config)
            if parts.config.on_nan == "rollback" and self.progress.position.updates == 0:
                parts.recorder.save(self.progress)  # a run diverges most often in its first steps
            with parts.watchdog:  # to the last message: a rank may hang after the last epoch too
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    while (
                        not (has_ended is not None and has_ended(self))
                        and self.progress.position.epoch < parts.config.epochs
                        and not self._is_out_of_patience()
                        and not (self._is_stopped or self._is_stopped_by_callback)
                    ):
                        self._epoch()
                with collective_errors(parts.comm):
                    parts.recorder.on_end(self.progress)
                self._report()
        finally:
            parts.order.close()
            parts.recorder.close()
        parts.update.store.leave_shared_memory()  # which ends with the run
        checkpoint = parts.builder.build(self.progress)
        state = {name: array.copy() for name, array in checkpoint.state.items()}
        model = Model(replace(checkpoint, state=state))
        path = Path(parts.config.out) if parts.config.out else None
        best = None if parts.recorder.best is None else Model(parts.recorder.best)
        records = self.progress.history.records
        return Result(model.network, records, path, model.digest, model, best)

    def _epoch(self) -> None:
        """Make the remaining steps of an epoch; a roll-back may lead to an earlier one."""
        parts, batch_size = self.parts, self.parts.config.batch_size
        began, done_before = time.monotonic(), self.progress.position.step * batch_size
        parts.order.start(*self.progress.position[:2])
        parts.recorder.on_epoch_start(self.progress)
        while (first := self.progress.position.step) < parts.steps_per_epoch:
            numbers, following = self._next_batches(first)
            totals, progress = self.step(numbers, following), self.progress
            updates, step = progress.position.updates, progress.position.step - totals.applied
            batch = numbers[(step - first) * batch_size : (step - first + 1) * batch_size]
            is_due = totals.save > 0 or parts.schedule.is_due_after_step(updates)
            diagnosis = self._detector.inspect_step(progress, batch, totals.applied, is_due)
            if diagnosis is None or self._recover(diagnosis, len(batch)) is Action.CONTINUE:
                if is_due:  # the replicas were compared: no checkpoint holds a corrupt one
                    parts.recorder.save(progress)
                parts.recorder.on_step(progress)
            if totals.stop:
                self._stop()
                return
        self._end_epoch(time.monotonic() - began, max(len(parts.rows) - done_before, 0))

    def step(self, numbers: np.ndarray, following: np.ndarray = NO_ROWS) -> StepTotals:
        """Update θ by the gradients of one or more consecutive mini-batches; collective.

        The engine makes fewer steps if one is not applied, or if a rank requests something.

        Parameters
        ----------
        numbers : (rows,) int64 array
            Row numbers, batch by batch, the same on all ranks.
        following : (rows,) int64 array
            Those of the batch after them, if the engine `looks_ahead`.

        Returns
        -------
        StepTotals
            Of the last step made.
        """
        parts, progress = self.parts, self.progress
        epoch, step, _ = progress.position
        # Requests of one rank travel with the gradient: all ranks see them after the same step.
        requests = parts.stop_request.is_pending(), parts.schedule.is_due_by_time()
        count = -(-len(numbers) // parts.config.batch_size)
        rates = learning_rates(parts.config, progress, count, parts.steps_per_epoch)
        return parts.engine.run(numbers, (epoch, step), rates, requests, self._advance, following)

    def _advance(self, costs: Sequence[float], correct: Sequence[float]) -> None:
        """Move on by steps that were applied, given their sums over the rows."""
        if costs:
            unit = self.parts.network.cost.unit
            costs = [cost * unit for cost in costs]
            self.previous = self.progress.after_steps(costs[:-1], correct[:-1])
            self.progress = self.previous.after_step(costs[-1], correct[-1])

    def _next_batches(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the next steps, and of the step after them if the engine wants it."""
        parts, count = self.parts, self._steps_at_once()
        limit = min(parts.steps_per_epoch - first, parts.order.max_batches)
        ahead = 1 if parts.engine.looks_ahead and count < limit else 0
        numbers = parts.order.batches(first, count + ahead)
        rows = count * parts.config.batch_size
        return numbers[:rows], numbers[rows:]

    def _steps_at_once(self) -> int:
        """Return how many steps can be made before anything else has to be done."""
        parts, (_, step, updates) = self.parts, self.progress.position
        return min(
            parts.steps_per_epoch - step,
            parts.engine.max_steps,
            parts.order.max_batches,
            parts.schedule.steps_until_due(updates),
            self._detector.steps_until_check(updates),
        )

    def _recover(self, diagnosis: Diagnosis, rows: int) -> Action:
        """Do what is to be done about a fault, in a step of so many rows; return it."""
        self.parts.engine.forget_ahead()
        progress, recorder, text = self.progress, self.parts.recorder, diagnosis.message
        batch = progress.position.batch
        action = decide(self.parts.config.on_nan, diagnosis, progress, self._attempts)
        match action:
            case Action.CONTINUE:
                recorder.warn(f"{text} The step was recomputed; the result is now correct.")
            case Action.RETRY:
                self._attempts = replace(self._attempts, retried=batch)
                recorder.warn(f"{text} All ranks recompute the step.")
            case Action.SKIP:
                self.previous, self.progress = progress, progress.after_skip(rows)
                recorder.warn(f"{text} The step is skipped.")
            case Action.ROLL_BACK:
                self._attempts = replace(self._attempts, rolled_back=batch)
                recorder.warn(text)
                self._roll_back(rate_factor_after(diagnosis, progress.rate_factor))
            case Action.STOP:
                if is_repeated(diagnosis, progress, self._attempts):
                    text += " It is the second time at this step: the fault is not transient."
                raise DivergedError(text)
        return action

    def _roll_back(self, rate_factor: float) -> None:
        """Return to the last checkpoint, or the beginning if there is none yet; collective."""
        parts = self.parts
        with collective_errors(parts.comm):
            parts.recorder.flush()
        # Only now can every rank read the last checkpoint. Without a directory, each keeps it.
        out, kept = parts.config.out, parts.recorder.kept
        checkpoint = last_checkpoint(Path(out), parts.comm) if out else kept
        state = parts.config, parts.data, parts.network, parts.update
        with collective_errors(parts.comm):
            progress = restart(*state) if checkpoint is None else restore(checkpoint, *state)
        # The version of θ before the last step is overwritten: there is no going back further.
        self.progress = self.previous = progress._replace(rate_factor=rate_factor)
        parts.order.start(*progress.position[:2])
        parts.recorder.warn(rolled_back_message(self.progress))

    def _stop(self) -> None:
        """Save the state and raise StoppedError on all ranks; without a directory, only stop."""
        parts = self.parts
        if not parts.config.out:
            self._is_stopped = True
            return
        with collective_errors(parts.comm):
            parts.recorder.on_end(self.progress)
        # Only the rank that was asked knows why.
        reason = next(filter(None, parts.comm.world.allgather(parts.stop_request.reason)))
        parts.recorder.record("stop", reason=reason)
        raise StoppedError(
            stopped_message(reason, self.progress.position, parts.steps_per_epoch, parts.config.out)
        )

    def _end_epoch(self, seconds: float, rows: int) -> None:
        """Evaluate and record an epoch, `rows` of which were trained on in so many seconds."""
        parts, progress = self.parts, self.progress
        diagnosis = self._detector.compare_replicas(progress)
        if diagnosis:  # no record of this epoch: it is repeated from the checkpoint
            self._recover(diagnosis, 0)
            return
        choices = parts.metrics.choices
        scores = {name: one.score(choices) for name, one in parts.evaluators.items()}
        steps = parts.steps_per_epoch
        record = {
            "epoch": progress.position.epoch + 1,
            "step": progress.position.updates,
            **costs_and_accuracies(progress, len(parts.rows), scores, parts.data.labels_per_row),
            "learning_rate": learning_rate(parts.config, progress, steps - 1, steps),
            "seconds": seconds,
            "samples_per_s": rows / seconds,
            "digest": digest(parts.network.theta),
        }
        self.previous, self.progress = progress, progress.after_epoch(record)
        parts.recorder.on_epoch(self.progress)
        epochs = self.progress.position.epoch
        if (
            epochs.bit_count() == 1  # after 1, 2, 4, 8, …
            and epochs < parts.config.epochs
            and parts.engine.timing.steps  # a run may be resumed behind the last step of an epoch
        ):
            self._record_times(is_end=False)
        if parts.callbacks:
            self._call_back(record)

    def _call_back(self, record: dict[str, Any]) -> None:
        """Let the user's callbacks see an epoch's record, and do what they ask for."""
        parts = self.parts
        with collective_errors(parts.comm):
            requests = [(one, one(dict(record), parts.network)) for one in parts.callbacks]
            check_requests(requests)
        wanted = {request for _, request in requests}
        if parts.comm.world.allgather_int(SAVE in wanted).any():
            parts.recorder.save(self.progress)
        self._is_stopped_by_callback |= bool(parts.comm.world.allgather_int(STOP in wanted).any())

    def _is_out_of_patience(self) -> bool:
        """Return whether --patience ends the run."""
        patience = self.parts.config.patience
        waited = self.progress.history.epochs_without_improvement
        return patience is not None and waited >= patience

    def _record_times(self, is_end: bool) -> list[RankTime]:
        """Record, and return, what the steps of each rank have spent their time on; collective."""
        parts, comm, timing = self.parts, self.parts.comm, self.parts.engine.timing
        n_shards, hidden = len(parts.reduction.schedule), parts.reduction.hidden
        own = [platform.node(), comm.node_index, n_shards, *timing.per_step(), hidden]
        ranks = [RankTime(*one) for one in comm.world.allgather(own)]
        parts.recorder.record(
            "times",
            is_end=is_end,
            seconds=time.monotonic() - self._began,
            steps=timing.steps,
            ranks=[asdict(one) for one in ranks],
        )
        return ranks

    def _report(self) -> None:
        """Log where the run spent its time, and its result; collective."""
        parts, comm, recorder = self.parts, self.parts.comm, self.parts.recorder
        if parts.engine.timing.steps:
            ranks = self._record_times(is_end=True)
            cores = node_cores(comm.world.allgather([comm.node_index, host.cpu_share()]))
            recorder.info(f"time   {timing_summary(ranks, cores, parts.config.batch_size)}")
            seconds, waited = time.monotonic() - self._began, recorder.checkpoint_wait_s
            hint = checkpoint_hint(waited, recorder.saves, seconds)
            if hint:
                recorder.info(f"saves  {hint}")
        for text in final_report(
            parts.config,
            parts.data,
            parts.network,
            self._is_out_of_patience(),
            self._is_stopped_by_callback,
        ):
            recorder.info(text)
