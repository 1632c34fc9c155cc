"""Training: the loop over epochs and steps.

A step: all ranks compute the gradients of one mini-batch's shards, and together
they add them up and update θ. `train` assembles the parts from a `Config` and runs the loop. The
parts know nothing of each other: rows come from `data`, their order from
`philox`, the gradients from `gradient`, new parameters from `combine`; what is
kept and shown is the `recorder`'s.
"""

import math
import platform
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import DivergedError, StoppedError
from distbp.network import rng
from distbp.network.network import Network
from distbp.network.parameters import digest
from distbp.parallel import host
from distbp.parallel.environment import LaunchEnvironment
from distbp.parallel.rank_errors import abort_on_error, collective_errors, is_rank_failure
from distbp.parallel.reduction import make_reduction
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.step_totals import StepTotals
from distbp.parallel.topology import Topology, connect, shrink
from distbp.parallel.watchdog import Watchdog
from distbp.storage.checkpoint import Checkpoint
from distbp.training.config import Config
from distbp.training.evaluation import Evaluator, Score
from distbp.training.gradient import BatchGradient
from distbp.training.inputs import open_data, open_model
from distbp.training.messages import all_cores, final_report, introduction, lost, warnings
from distbp.training.recorder import RunRecorder
from distbp.training.sdc_check import SdcCheck
from distbp.training.setup import (
    check_identical_on_all_ranks,
    check_places,
    check_resumed,
    learning_rate,
    make_network,
    make_update,
    restore,
    split_validation,
)
from distbp.training.state import Place, Progress, costs_and_accuracies
from distbp.training.stop_request import StopRequest
from distbp.training.timing import RankTime, Timing, checkpoint_hint, summary

LEAST_FACTOR = 2.0**-10  # on the learning rate: a run that rolls back this often is given up


@dataclass(frozen=True)
class Result:
    """What a run ends with.

    Attributes
    ----------
    network : Network
    history : list of dict
        One record an epoch, as in metrics.jsonl.
    path : Path
        The run's directory.
    digest : str
        SHA-256 of θ.
    """

    network: Network
    history: list[dict[str, Any]]
    path: Path
    digest: str


def train(config: Config, resume: bool = False, comm: Topology | None = None) -> Result:
    """Train a network on all ranks of this run.

    Parameters
    ----------
    config : Config
    resume : bool
        Go on with the run in `config.out` where its last checkpoint is.
    comm : Topology, optional
        The ranks; by default those that this process was started with.

    Returns
    -------
    Result
        The same on every rank.

    Raises
    ------
    StoppedError
        On every rank, if one of them that has a shard got a signal, or its time was over:
        the run is saved and can be resumed.
    DistbpError
        On every rank, if any of them has one. Any other exception on one of
        several ranks ends all of them.
    """
    comm = comm or connect()
    with abort_on_error(comm):
        with collective_errors(comm):
            check_places(config)
        checkpoint = open_model(config.out, comm) if resume else None
        run = Run(config, comm, checkpoint)
        with run.stopping:
            while True:
                try:
                    return run.train()
                except Exception as failure:
                    launch = LaunchEnvironment.from_environ()
                    if not launch.ulfm_enabled or not is_rank_failure(failure, run.comm):
                        raise
                    run = run.recover_from_rank_failure(failure)


class Run:
    """The parts of a run, assembled.

    Parameters
    ----------
    config : Config
    comm : Topology
    checkpoint : Checkpoint, optional
        Where to go on.
    survivor_of : Run, optional
        The same run on more ranks, whose memory the checkpoint is.
    """

    def __init__(
        self,
        config: Config,
        comm: Topology,
        checkpoint: Checkpoint | None = None,
        survivor_of: "Run | None" = None,
    ) -> None:
        self.comm = comm
        with collective_errors(comm):
            host.set_blas_threads(config.threads)
        self.data = data = open_data(Path(config.data), comm)
        with collective_errors(comm):
            self.config = config = config.resolved(data)
            if checkpoint is not None:
                check_resumed(config, checkpoint)
            self.network = network = make_network(config, data, checkpoint is not None)
        check_identical_on_all_ranks(comm, config, data)
        self.rows, self.validation = split_validation(config, data, comm)
        self.batches = math.ceil(len(self.rows) / config.batch_size)
        self.order = SharedArray(comm, (len(self.rows),), np.dtype(np.int64))
        self.update = make_update(config, network, len(self.rows))
        self.reduction, trouble = make_reduction(
            config.combine, comm, config.shards or 1, self.update
        )
        self.gradient = BatchGradient(
            network, self.reduction, self.rows, data.scaling, len(data.classes),
            config.batch_size, config.shards or 1, config.dropout,
        )  # fmt: skip
        self.checker = SdcCheck(comm, self.update, self.reduction, self.gradient)
        self.progress, self.timing = Progress(), Timing()
        self.stopping: StopRequest = (
            survivor_of.stopping if survivor_of else StopRequest(config.seconds("time_limit"))
        )
        self.watch = Watchdog(comm, config.seconds("stall_limit") or math.inf)
        self.evaluators = {
            name: Evaluator(comm, network, split, data.scaling, data.task == "regression")
            for name, split in (("validation", self.validation), ("test", data.splits.get("test")))
            if split is not None
        }
        with collective_errors(comm):
            if checkpoint is not None:
                self.progress = restore(checkpoint, config, data, network, self.update)
        self.recorder = RunRecorder(
            config, data, network, self.update, self.progress, self.batches, comm.rank == 0
        )
        self.place = Place(self.progress, self.update, self.batches)
        self._repeated = self._gone_from = -1  # places where that was done
        with collective_errors(comm):
            self.recorder.open(is_new=checkpoint is None, is_saved=survivor_of is None)
        if survivor_of is None:
            self._introduce(checkpoint, trouble)

    def _introduce(self, checkpoint: Checkpoint | None, trouble: str | None) -> None:
        """Say what is trained, by what, and what may not be as the user thinks."""
        comm, config, show = self.comm, self.config, self.recorder
        own = [comm.node_index, host.usable_cores(), host.numeric_platform()]
        machines = comm.world.allgather(own)
        if comm.rank == 0:
            for text in [*warnings(config, machines, checkpoint), *([trouble] if trouble else [])]:
                show.warn(text)
            ulfm_enabled = LaunchEnvironment.from_environ().ulfm_enabled
            for text in introduction(
                config, self.network, machines, len(self.rows), self.progress, ulfm_enabled
            ):
                show.info(text)

    def recover_from_rank_failure(self, failure: Exception) -> "Run":
        """Return this run on the ranks that are left; where it was is in their memory.

        Raises `failure` again if no rank has died.
        """
        comm, dead = self.comm, list[int]()
        self.recorder.end()
        while True:
            try:
                comm, failed = shrink(comm)
                dead += failed
                if not dead:
                    raise failure
                # A node can be a step ahead of another one, whose last message was lost.
                if self.place.number() > comm.world.allgather_int(self.place.number()).min():
                    self.place.undo()
                run = Run(self.config, comm, self.recorder.checkpoint(), self)
                run._warn(lost(dead, comm.size, run.progress))
                return run
            except Exception as again:
                if again is failure or not is_rank_failure(again, comm):
                    raise

    def train(self) -> Result:
        """Train to the last epoch, or until patience ends."""
        began = time.monotonic()
        try:
            if self.config.on_nan == "rollback" and self.update.steps == 0:
                self.recorder.save()  # the first steps are those that most often go wrong
            with self.watch, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                while self.progress.epoch < self.config.epochs and not self._is_out_of_patience():
                    self._epoch()
            with collective_errors(self.comm):
                self.recorder.close()
            return self._result(time.monotonic() - began)
        finally:
            self.recorder.end()

    def _result(self, seconds: float) -> Result:
        """Return what the run has ended with after so many seconds, and say so."""
        if self.timing.steps:
            self.recorder.info(f"time   {self._where_time_went()}")
            hint = checkpoint_hint(self.recorder.checkpoint_wait_s, self.recorder.saves, seconds)
            if hint:
                self.recorder.info(f"saves  {hint}")
        for text in final_report(self.config, self.data, self.network, self._is_out_of_patience()):
            self.recorder.info(text)
        theta = self.network.theta.copy()  # the node's memory ends with the run
        self.network.bind(theta)
        return Result(
            self.network, self.progress.history.records, Path(self.config.out), digest(theta)
        )

    def _where_time_went(self) -> str:
        comm = self.comm
        mine = [
            platform.node(),
            comm.node_index,
            len(self.reduction.schedule),
            *self.timing.parts(),
        ]
        cores = all_cores(comm.world.allgather([comm.node_index, host.usable_cores(), None]))
        return summary([RankTime(*one) for one in comm.world.allgather(mine)], len(cores))

    def _epoch(self) -> None:
        progress, batch_size = self.progress, self.config.batch_size
        began, skipped = time.monotonic(), progress.step * batch_size
        self.order.fill(self._shuffle)
        self.recorder.begin_epoch(skipped)
        while progress.step < self.batches:
            start = progress.step * batch_size
            batch = self.order.array[start : start + batch_size]
            sums = self.step(batch)
            if not math.isfinite(sums.cost) or (self._is_check_due() and not self._check(batch)):
                if sums.stop:
                    self._stop()
                continue  # where the run is now: here, at the next step, or at a checkpoint
            if sums.save or self.recorder.is_due_by_steps():
                if self._replicas_differ():
                    continue
                self.recorder.save()
            self.recorder.after_step(start + len(batch))
            if sums.stop:
                self._stop()
        self._end_epoch(time.monotonic() - began, max(len(self.rows) - skipped, 0))

    def step(self, batch: np.ndarray) -> StepTotals:
        """Change θ by the gradient of one mini-batch, the same on all ranks."""
        progress, before = self.progress, self.place.now()
        requests = self.stopping.is_wanted(), self.recorder.is_due_by_time()
        rate = self._rate(progress.step)
        began = time.perf_counter()
        self.gradient.compute(batch, progress.epoch, progress.step, requests)
        computed = time.perf_counter()
        sums = self.reduction.reduce_and_update(len(batch), rate)
        self.timing.note(began, computed, time.perf_counter(), self.reduction.wait_s)
        self.place.before = before
        if not math.isfinite(sums.cost):
            self._on_nan(batch)
            return sums
        progress.step += 1
        progress.cost += sums.cost
        progress.correct += round(sums.correct)
        return sums

    def _is_check_due(self) -> bool:
        every = self.config.check_every
        return every > 0 and self.update.steps % every == 0 and self.reduction.is_exact

    def _check(self, batch: np.ndarray) -> bool:
        """Look for silent data corruption; return whether the run can go on here.

        If not, it is back at the last checkpoint.
        """
        step = self.progress.step - 1
        found = self.checker.check(batch, self.progress.epoch, step, self._rate(step))
        if not found.text:
            return True
        text = (
            f"Silent data corruption detected by epoch {self.progress.epoch + 1}, step {step + 1}: "
            f"{found.text}. Have the memory there tested."
        )
        if found.corrected:
            self._warn(f"{text} The step was made again, to the right result.")
        else:
            self._go_back(text, self.progress.rate_factor)
        return found.corrected

    def _on_nan(self, batch: np.ndarray) -> None:
        """Do what --on-nan says about a step that would not have ended in finite numbers.

        Nothing has changed so far, and all ranks are here.
        """
        progress, policy = self.progress, self.config.on_nan
        found = self.gradient.find_nan(batch, progress.epoch, progress.step)
        is_whole = all(self.comm.world.allgather(bool(np.isfinite(self.network.theta).all())))
        everywhere = self.comm.world.allgather(found)
        texts = [f"rank {r}: {text}" for r, text in enumerate(everywhere) if text]
        text = self._not_finite(texts[0] if texts else "in the sum, or in the new parameters")
        if not texts and self._repeated != self.place.number():  # perhaps it was a processor's slip
            self._repeated = self.place.number()
            self._warn(f"{text} All ranks compute it again.")
            return
        if policy == "stop" or (policy == "rollback" and progress.rate_factor <= LEAST_FACTOR):
            raise DivergedError(text)
        if policy == "skip" and is_whole:
            self._warn(f"{text} The step is skipped.")
            progress.step += 1
            progress.skipped += len(batch)
        else:
            self._go_back(text, progress.rate_factor / (2 if is_whole else 1))

    def _warn(self, text: str) -> None:
        if self.comm.rank == 0:
            self.recorder.warn(text)

    def _go_back(self, text: str, factor: float) -> None:
        """Go back to the last checkpoint, and on with that factor on the learning rate."""
        if factor == self.progress.rate_factor and self._gone_from == self.place.number():
            raise DivergedError(f"{text} It is so for the second time: this is not chance.")
        self._gone_from = self.place.number()
        self._warn(text)
        with collective_errors(self.comm):
            self.recorder.flush()
        checkpoint = open_model(self.config.out, self.comm)  # all see the last save now
        with collective_errors(self.comm):
            before = restore(checkpoint, self.config, self.data, self.network, self.update)
        vars(self.progress).update(vars(before) | {"rate_factor": factor})
        self.place.before = self.place.now()
        self.order.fill(self._shuffle)
        self._warn(
            f"The run is back at the last checkpoint, epoch {before.epoch + 1}, step "
            f"{before.step}; the learning rate has the factor {factor:g}."
        )

    def _stop(self) -> None:
        """Save where the run is, and end it on all ranks."""
        with collective_errors(self.comm):
            self.recorder.close()
        reason = next(filter(None, self.comm.world.allgather(self.stopping.reason)))
        progress = self.progress
        raise StoppedError(
            f"stopped by {reason} in epoch {progress.epoch + 1} after step {progress.step} of "
            f"{self.batches}, and saved. Go on with distbp train --resume "
            f"{shlex.quote(self.config.out)}."
        )

    def _rate(self, step: int) -> float:
        return learning_rate(self.config, self.progress, step, self.batches)

    def _shuffle(self, order: np.ndarray) -> None:
        """Write this epoch's order of the training rows."""
        chosen = rng.permutation(len(self.rows), self.config.seed, rng.SHUFFLE, self.progress.epoch)
        order[...] = chosen if self.rows.rows is None else self.rows.rows[chosen]

    def _end_epoch(self, seconds: float, trained: int) -> None:
        """Evaluate, record, and go on to the next epoch."""
        progress = self.progress
        if self._replicas_differ():
            return
        scores = {name: evaluator.score() for name, evaluator in self.evaluators.items()}
        before = self.place.now()
        progress.end_epoch(self._record(scores, seconds, trained / seconds))
        self.place.before = before
        self.recorder.after_epoch()

    def _record(self, scores: dict[str, Score], seconds: float, speed: float) -> dict[str, Any]:
        """Return what metrics.jsonl says of the epoch that ends here."""
        is_regression = self.data.task == "regression"
        return {
            "epoch": self.progress.epoch + 1,
            "step": self.update.steps,
            **costs_and_accuracies(self.progress, len(self.rows), scores, is_regression),
            "learning_rate": self._rate(self.batches - 1),
            "seconds": seconds,
            "samples_per_s": speed,
            "digest": digest(self.network.theta),
        }

    def _replicas_differ(self) -> bool:
        """Return whether θ has not the same bits on all ranks; then the run has gone back."""
        digests = self.comm.world.allgather_int(int(digest(self.network.theta)[:15], 16))
        odd = np.flatnonzero(digests != digests[0])
        if len(odd):
            self._go_back(
                f"After step {self.update.steps} the parameters of rank {odd[0]} differ from "
                f"those of rank 0.",
                self.progress.rate_factor,
            )
        return bool(len(odd))

    def _is_out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.progress.history.epochs_without_improvement >= patience

    def _not_finite(self, where: str) -> str:
        step = self.progress.step
        return (
            f"A number is not a finite number in epoch {self.progress.epoch + 1}, "
            f"step {step + 1} of {self.batches}: {where}. Use a lower --learning-rate (now "
            f"{self._rate(step):g}) or --clip-norm, or see --on-nan; what was saved is "
            f"from before."
        )
