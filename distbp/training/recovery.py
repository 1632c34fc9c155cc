"""What to do when a step went wrong, and after the loss of a rank.

A `FaultDetector` inspects a step and returns a `Diagnosis` if something is wrong; `decide`, a
pure function, chooses the `Action` by --on-nan and by earlier `Attempts`; the loop executes it.
Ranks compute the same diagnosis from what they exchange, so they act alike without asking.

    NaN or infinity      --on-nan; recomputed first if only the sum of the shards shows it
    silent corruption    corrected by the recomputation that detected it
    replicas that differ roll back to the last checkpoint
    death of a rank      `recover_from_rank_failure`: the run continues from memory (ULFM); from the
                         newest checkpoint, if rank 0 took the best one with it before it was due
"""

import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from distbp.errors import CheckpointError
from distbp.network.parameters import digest
from distbp.parallel.rank_errors import is_rank_failure, run_on_rank_0
from distbp.parallel.topology import Topology, shrink
from distbp.storage.checkpoint import Checkpoint, read_progress_unverified
from distbp.storage.run_directory import list_checkpoints
from distbp.training.config import Config
from distbp.training.inputs import open_model
from distbp.training.messages import (
    corruption_message,
    not_finite_message,
    rank_failure_message,
    replicas_message,
)
from distbp.training.rates import learning_rate
from distbp.training.setup import RunParts, assemble
from distbp.training.state import Progress

_MIN_RATE_FACTOR = 2.0**-10  # ten roll-backs: the learning rate is not what makes it diverge


class Action(Enum):
    """What the loop does after a diagnosis."""

    CONTINUE = "the step is valid"
    RETRY = "compute the same mini-batch again"
    SKIP = "go on to the next mini-batch without an update"
    ROLL_BACK = "return to the last checkpoint"
    STOP = "end the run with an error"


class Fault(Enum):
    """What an inspection found."""

    NOT_FINITE_SHARD = "a shard has a NaN or an infinity, also when computed again"
    NOT_FINITE_SUM = "only the sum or the new parameters have one: perhaps a transient error"
    CORRECTED = "recomputing the step gave another result, which was then confirmed on all replicas"
    NOT_CORRECTED = "parameters differ between ranks, or each time that a step is computed"


@dataclass(frozen=True)
class Diagnosis:
    """A fault, the same on all ranks.

    Attributes
    ----------
    fault : Fault
    message : str
        For the user: what was found, and where.
    is_theta_finite : bool
        Whether the parameters from before the step are finite, on all ranks.
    """

    fault: Fault
    message: str
    is_theta_finite: bool = True

    @property
    def lowers_rate(self) -> bool:
        """Whether a lower learning rate may avoid the fault."""
        is_nan = self.fault in (Fault.NOT_FINITE_SHARD, Fault.NOT_FINITE_SUM)
        return is_nan and self.is_theta_finite


@dataclass(frozen=True)
class Attempts:
    """The mini-batches at which a run has tried to recover, as (epoch, step).

    Attributes
    ----------
    retried : (int, int), optional
        The last one that was computed again.
    rolled_back : (int, int), optional
        The last one at which the run was rolled back.
    """

    retried: tuple[int, int] | None = None
    rolled_back: tuple[int, int] | None = None


def decide(policy: str, diagnosis: Diagnosis, progress: Progress, attempts: Attempts) -> Action:
    """Return what to do about a fault.

    Parameters
    ----------
    policy : str
        --on-nan: 'stop', 'skip' or 'rollback'.
    diagnosis : Diagnosis
    progress : Progress
        Where the run is.
    attempts : Attempts
        What it has tried before.
    """
    fault, batch = diagnosis.fault, progress.position.batch
    if fault is Fault.CORRECTED:
        return Action.CONTINUE
    if fault is Fault.NOT_FINITE_SUM and attempts.retried != batch:
        return Action.RETRY
    if fault is not Fault.NOT_CORRECTED:
        is_hopeless = policy == "rollback" and progress.rate_factor <= _MIN_RATE_FACTOR
        if policy == "stop" or is_hopeless:
            return Action.STOP
        if policy == "skip" and diagnosis.is_theta_finite:
            return Action.SKIP
    # The same computation from the same checkpoint: it would fail here for ever.
    if is_repeated(diagnosis, progress, attempts):
        return Action.STOP
    return Action.ROLL_BACK


def is_repeated(diagnosis: Diagnosis, progress: Progress, attempts: Attempts) -> bool:
    """Return whether a roll-back from here, which would change nothing, has been tried."""
    return not diagnosis.lowers_rate and attempts.rolled_back == progress.position.batch


def rate_factor_after(diagnosis: Diagnosis, rate_factor: float) -> float:
    """Return the factor on the learning rate after a roll-back."""
    return rate_factor / 2 if diagnosis.lowers_rate else rate_factor


class FaultDetector:
    """Inspects steps; all methods are collective and return None if there is no fault.

    Parameters
    ----------
    parts : RunParts
    """

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        # Sums in an order that MPI chooses cannot be repeated bit by bit.
        self._check_every = parts.config.check_every if parts.reduction.is_exact else 0

    def steps_until_check(self, updates: int) -> int:
        """Return how many steps after so many updates the next one is checked for corruption."""
        return self._check_every - updates % self._check_every if self._check_every else sys.maxsize

    def inspect_step(
        self, progress: Progress, batch: np.ndarray, is_applied: bool, is_checkpoint_due: bool
    ) -> Diagnosis | None:
        """Inspect the step just made: for NaN, and if it is time for that, for corruption."""
        if not is_applied:
            return self._locate_nan(progress, batch)
        every = self._check_every
        if every > 0 and progress.position.updates % every == 0:
            diagnosis = self._recompute(progress, batch)
            if diagnosis:
                return diagnosis
        return self.compare_replicas(progress) if is_checkpoint_due else None

    def compare_replicas(self, progress: Progress) -> Diagnosis | None:
        """Check that the parameters are bitwise equal on all ranks."""
        parts = self._parts
        if parts.reduction.plan.node_size == parts.comm.size:
            return None  # all ranks share one copy
        # 60 bits of the digest fit into the int64 that an allgather without JSON takes.
        digests = parts.comm.world.allgather_int(int(digest(parts.network.theta)[:15], 16))
        odd = np.flatnonzero(digests != digests[0])
        if not len(odd):
            return None
        return Diagnosis(Fault.NOT_CORRECTED, replicas_message(odd[0], progress.position))

    def _locate_nan(self, progress: Progress, batch: np.ndarray) -> Diagnosis:
        """Find out where a step was not finite, and whether θ was before it."""
        parts, (epoch, step, _) = self._parts, progress.position
        # The step changed nothing, so its gradients can be computed again, shard by shard.
        found = parts.gradient.find_nan(batch, epoch, step)
        is_theta_finite = all(
            parts.comm.world.allgather(bool(np.isfinite(parts.network.theta).all()))
        )
        locations = [
            f"rank {rank}: {text}"
            for rank, text in enumerate(parts.comm.world.allgather(found))
            if text
        ]
        message = not_finite_message(
            locations[0] if locations else "in the sum, or in the new parameters",
            progress.position,
            parts.steps_per_epoch,
            learning_rate(parts.config, progress, step, parts.steps_per_epoch),
        )
        fault = Fault.NOT_FINITE_SHARD if locations else Fault.NOT_FINITE_SUM
        return Diagnosis(fault, message, is_theta_finite)

    def _recompute(self, progress: Progress, batch: np.ndarray) -> Diagnosis | None:
        """Repeat the last step and compare: silent data corruption shows as a difference."""
        parts, epoch, step = self._parts, progress.position.epoch, progress.position.step - 1
        rate = learning_rate(parts.config, progress, step, parts.steps_per_epoch)
        report = parts.sdc_check.check(batch, epoch, step, rate)
        if not report.text:
            return None
        fault = Fault.CORRECTED if report.corrected else Fault.NOT_CORRECTED
        return Diagnosis(fault, corruption_message(report.text, progress.position))


def recover_from_rank_failure(
    parts: RunParts, progress: Progress, previous: Progress, failure: Exception
) -> RunParts:
    """Return the parts of the same run on the surviving ranks; collective among those.

    Parameters
    ----------
    parts : RunParts
    progress, previous : Progress
        Where the run is, and where it was one step or one end of an epoch before.
    failure : Exception
        What this rank got; raised again if no rank has died.
    """
    comm, dead = parts.comm, list[int]()
    parts.order.close()
    parts.recorder.close()  # releases the lock, which another rank may take as the new rank 0
    while True:
        try:
            comm, failed = shrink(comm)
            dead += failed
            if not dead:
                raise failure
            # Nodes whose last message was lost are one step behind the others: all restart there.
            ordinal = progress.position.ordinal(parts.steps_per_epoch)
            if ordinal > comm.world.allgather_int(ordinal).min():
                if previous.position.updates < parts.update.store.steps:
                    parts.update.store.rollback()
                progress = previous.restored()
            checkpoint = _restart_point(parts, progress, comm)
            data = parts.data if parts.data.is_in_memory else None
            survivors = assemble(parts.config, comm, checkpoint, parts, data)
            position = survivors.start.position
            survivors.recorder.warn(rank_failure_message(dead, comm.size, position))
            return survivors
        except Exception as error:  # another rank may die meanwhile: begin again without it
            if error is failure or not is_rank_failure(error, comm):
                raise


def _restart_point(parts: RunParts, progress: Progress, comm: Topology) -> Checkpoint | None:
    """Return where the survivors `comm` restart: None for the beginning; collective.

    That is the state in memory, unless a file that rank 0 has deferred is lost with it. Then it is
    the newest checkpoint: from there the run makes that file again.
    """
    folder = Path(parts.config.out)
    if not parts.config.out or not run_on_rank_0(
        comm, lambda: _lacks_deferred(folder, parts.config, progress)
    ):
        return parts.builder.build(progress)
    return last_checkpoint(folder, comm)


def last_checkpoint(folder: Path, comm: Topology) -> Checkpoint | None:
    """Return the last valid checkpoint of a run; None if it has written none yet; collective."""
    has_checkpoint = run_on_rank_0(comm, lambda: bool(list_checkpoints(folder)))
    return open_model(str(folder), comm) if has_checkpoint else None


def _lacks_deferred(folder: Path, config: Config, progress: Progress) -> bool:
    """Return whether best.h5, or the checkpoint that a roll-back would lead to, is too old."""
    if _epochs_in(folder / "best.h5") < progress.history.best_epoch:
        return True
    every, unit = config.interval()
    if config.on_nan != "rollback" or unit != "epoch":
        return False
    epoch = progress.position.epoch
    return _epochs_in(folder / "last.h5") < epoch - epoch % every


def _epochs_in(path: Path) -> int:
    """Return how many epochs a run had completed when it wrote a checkpoint; 0 without one."""
    try:
        return int(read_progress_unverified(path)["epoch"])
    except (CheckpointError, LookupError, TypeError, ValueError):
        return 0
