"""Training: the loop over epochs and steps.

A step: all ranks compute the gradients of one mini-batch's shards, and together
they add them up and update θ. `train` assembles the parts from a `Config` and runs the loop. The
parts know nothing of each other: rows come from `data`, their order from
`philox`, the gradients from `gradient`, new parameters from `combine`; what is
kept and shown is the `journal`'s.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distbp import machine, philox
from distbp.checkpoint import digest, find, read
from distbp.combine import make_combiner
from distbp.comm import Comm, connect
from distbp.config import Config
from distbp.errors import DistbpError
from distbp.evaluate import Evaluator, Score, open_data
from distbp.gradient import BatchGradient
from distbp.journal import Journal, Progress
from distbp.network import Network
from distbp.notices import farewell, introduction, warnings
from distbp.parts import (
    check_places,
    check_resumed,
    hold_out,
    make_network,
    make_update,
    restore,
)
from distbp.schedules import (
    cosine_factor,
    epochs_waited,
    plateau_factor,
    step_factor,
    warmup_factor,
)


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


def train(config: Config, resume: bool = False, comm: Comm | None = None) -> Result:
    """Train a network on all ranks of this run.

    Parameters
    ----------
    config : Config
    resume : bool
        Go on with the run in `config.out` where its last checkpoint is.
    comm : Comm, optional
        The ranks; by default those that this process was started with.

    Returns
    -------
    Result
        The same on every rank.

    Raises
    ------
    DistbpError
        On every rank, if any of them has one. Any other exception on one of
        several ranks ends all of them.
    """
    comm = comm or connect()
    with comm.guard():
        run = Run(config, resume, comm)
        try:
            return run.train()
        finally:
            run.journal.display.close()


class Run:
    """The parts of a run, assembled."""

    def __init__(self, config: Config, resume: bool, comm: Comm) -> None:
        self.comm = comm
        with comm.together():
            check_places(config)
            machine.use_threads(config.threads)
        self.data = data = open_data(Path(config.data), comm)
        with comm.together():
            self.config = config = config.settled(data)
            checkpoint = read(find(config.out)) if resume else None
            if checkpoint is not None:
                check_resumed(config, checkpoint)
            self.network = network = make_network(config, data, has_weights=resume)
        self.rows, self.validation = hold_out(config, data, comm)
        self.batches = math.ceil(len(self.rows) / config.batch_size)
        self.order = comm.node_array((len(self.rows),), np.dtype(np.int64))
        self.update = make_update(config, network, len(self.rows))
        self.combiner, trouble = make_combiner(
            config.combine, comm, config.shards or 1, self.update
        )
        self.gradient = BatchGradient(
            network, self.combiner, self.rows, data.scaling, len(data.classes),
            config.batch_size, config.shards or 1, config.dropout,
        )  # fmt: skip
        self.progress = Progress()
        self.evaluators = {
            name: Evaluator(comm, network, split, data.scaling, data.task == "regression")
            for name, split in (("validation", self.validation), ("test", data.splits.get("test")))
            if split is not None
        }
        with comm.together():
            if checkpoint is not None:
                self.progress = restore(checkpoint, config, data, network, self.update)
        self.journal = Journal(
            config, data, network, self.update, self.progress, self.batches, comm.rank == 0
        )
        with comm.together():
            self.journal.open(is_new=not resume)
        machines = comm.gather([comm.node, machine.cores(), machine.bits()])
        if comm.rank == 0:
            for text in [*warnings(config, machines, checkpoint), *([trouble] if trouble else [])]:
                self.journal.display.warn(text)
            for text in introduction(config, network, machines, len(self.rows), self.progress):
                self.journal.display.line(text)

    def train(self) -> Result:
        """Train to the last epoch, or until patience ends."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `step`
            while self.progress.epoch < self.config.epochs and not self._is_out_of_patience():
                self._epoch()
        with self.comm.together():
            self.journal.close()
        for text in farewell(self.config, self.data, self.network, self._is_out_of_patience()):
            self.journal.display.line(text)
        theta = self.network.theta.copy()  # the node's memory ends with the run
        self.network.bind(theta)
        return Result(self.network, self.progress.history, Path(self.config.out), digest(theta))

    def _epoch(self) -> None:
        progress, batch_size = self.progress, self.config.batch_size
        began, skipped = time.monotonic(), progress.step * batch_size
        self.order.fill(self._shuffle)
        self.journal.begin_epoch(skipped)
        while progress.step < self.batches:
            start = progress.step * batch_size
            batch = self.order.array[start : start + batch_size]
            self.step(batch)
            if self.journal.is_due_by_steps():
                self._compare_replicas(digest(self.network.theta))
            self.journal.after_step(start + len(batch))
        self._end_epoch(time.monotonic() - began, max(len(self.rows) - skipped, 0))

    def step(self, batch: np.ndarray) -> None:
        """Change θ by the gradient of one mini-batch, the same on all ranks."""
        progress = self.progress
        self.gradient.compute(batch, progress.epoch, progress.step)
        rate = self._learning_rate(progress.step)
        cost, correct = self.combiner.finish(len(batch), rate)
        if not math.isfinite(cost):
            raise DistbpError(self._not_finite())
        progress.step += 1
        progress.cost += cost
        progress.correct += correct

    def _learning_rate(self, step: int) -> float:
        """Return η for a step of this epoch."""
        config, progress = self.config, self.progress
        epoch = progress.epoch + step / self.batches
        factor = warmup_factor(epoch, 1 / self.batches, config.warmup_epochs)
        if config.schedule == "step":
            factor *= step_factor(progress.epoch, config.decay, config.decay_epochs)
        elif config.schedule == "cosine":
            factor *= cosine_factor(epoch, config.epochs)
        elif config.schedule == "plateau":
            factor *= plateau_factor(progress.scores, config.decay, config.decay_epochs)
        return (config.learning_rate or 0.0) * factor

    def _shuffle(self, order: np.ndarray) -> None:
        """Write this epoch's order of the training rows."""
        chosen = philox.permutation(
            len(self.rows), self.config.seed, philox.ORDER, self.progress.epoch
        )
        order[...] = chosen if self.rows.rows is None else self.rows.rows[chosen]

    def _end_epoch(self, seconds: float, trained: int) -> None:
        """Evaluate, record, and go on to the next epoch."""
        progress = self.progress
        if not np.isfinite(self.network.theta).all():
            raise DistbpError(self._not_finite())
        scores = {name: evaluator.score() for name, evaluator in self.evaluators.items()}
        progress.end_epoch(self._record(scores, seconds, trained / seconds))
        self._compare_replicas(progress.history[-1]["digest"])
        self.journal.after_epoch()

    def _record(self, scores: dict[str, Score], seconds: float, speed: float) -> dict[str, Any]:
        """Return what metrics.jsonl says of the epoch that ends here."""
        progress, rows = self.progress, len(self.rows)
        is_regression = self.data.task == "regression"
        record: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": self.update.steps,
            "train_cost": finite(progress.cost / rows),
            "train_accuracy": None if is_regression else progress.correct / rows,
        }
        for name in ("validation", "test"):
            record[f"{name}_cost"] = finite(scores[name].cost) if name in scores else None
            record[f"{name}_accuracy"] = scores[name].accuracy if name in scores else None
        return record | {
            "learning_rate": self._learning_rate(self.batches - 1),
            "seconds": seconds,
            "samples_per_s": speed,
            "digest": digest(self.network.theta),
        }

    def _compare_replicas(self, mine: str) -> None:
        """Raise DistbpError unless θ has the same bits on all ranks."""
        digests = self.comm.gather_numbers(int(mine[:15], 16))
        odd = np.flatnonzero(digests != digests[0])
        if len(odd):
            raise DistbpError(
                f"After step {self.update.steps} the parameters of rank {odd[0]} differ from "
                f"those of rank 0. The last checkpoint is from before; --resume goes on from it."
            )

    def _is_out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and epochs_waited(self.progress.scores) >= patience

    def _not_finite(self) -> str:
        step = min(self.progress.step, self.batches - 1)
        return (
            f"The cost is not a finite number in epoch {self.progress.epoch + 1}, step {step + 1} "
            f"of {self.batches}. Use a lower --learning-rate (now {self._learning_rate(step):g}) "
            f"or --clip-norm; what was saved is from before."
        )


def finite(cost: float) -> float | None:
    """Return the cost, or None if it is not a finite number: JSON has no other word for it."""
    return cost if math.isfinite(cost) else None
