"""The lines that people read: before a run, while it trains, about its faults, and at its end.

Pure functions that return text; who logs it, on which rank and at which level, is the
recorder's business. `RankInfo` is what each rank tells of itself for the first lines.
"""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distbp import own_parts
from distbp.data.dataset import DataSet
from distbp.errors import CheckpointError
from distbp.network.network import Network
from distbp.network.parameters import digest
from distbp.parallel.host import CpuShare, count_cores
from distbp.parallel.shards import sufficient_ranks
from distbp.storage.checkpoint import Checkpoint
from distbp.terminal import printable
from distbp.training.config import EXACT_REDUCTIONS, Config
from distbp.training.state import (
    STANDARDIZED_COST,
    EpochRecord,
    Position,
    Progress,
    score_of,
)

_SHOWN_OTHERWISE = ("cost", "accuracy", STANDARDIZED_COST)  # in the line about an epoch
_OTHER_UNITS = 10  # times as large, so that one target determines a sum of squares


class RankInfo(NamedTuple):
    """Where a rank runs.

    Attributes
    ----------
    node : int
    cpu : CpuShare
        The cores that the rank may use, and for how much of the time.
    bits : dict of str
        What the last bits of its results depend on: CPU, NumPy, BLAS.
    native_kernels : str
        The BLAS kernels that it would use alone; '' if that is not known.
    """

    node: int
    cpu: CpuShare
    bits: dict[str, str]
    native_kernels: str = ""


# Before a run.


def introduction(
    config: Config,
    network: Network,
    ranks: Sequence[RankInfo],
    rows: int,
    progress: Progress,
    ulfm_enabled: bool,
) -> list[str]:
    """Return what is trained, on what hardware, and what happens if a rank dies."""
    sizes = "-".join(map(str, network.sizes))
    steps = -(-rows // config.batch_size)
    nodes = {rank.node for rank in ranks}
    exact = "exact" if config.combine in EXACT_REDUCTIONS else "not exact"
    lines = [
        f"{sizes}, {network.theta.size:,} parameters, {config.dtype}; {rows:,} training rows, "
        f"{count(steps, 'step')} an epoch",
        f"{count(len(ranks), 'rank')} on {count(len(nodes), 'node')}, "
        f"{count(config.shards or 1, 'shard')}, {count(config.threads, 'thread')} a rank, "
        f"{count(node_cores(ranks), 'core')}, {_engine_text(config)}, {config.kernels} kernels; "
        f"{exact} sums ({config.combine})",
    ]
    native = dict.fromkeys(rank.native_kernels for rank in ranks)
    if len(native) > 1:
        lines.append(
            f"the CPUs differ: {config.kernels} kernels on all ranks, for the same bits; those "
            f"native to them are {' and '.join(name or 'others' for name in native)}"
        )
    if len(ranks) > 1:
        lines.append(
            "if a rank dies, the others repeat the step in flight and continue"
            if ulfm_enabled
            else "if a rank dies, the run ends; --resume continues from the last checkpoint"
        )
    epoch, step, _ = progress.position
    if epoch or step:
        lines.append(f"resumed after {_completed(progress.position)}")
    if epoch >= config.epochs:
        lines.append("nothing to do: all epochs are done; --epochs is their total number")
    return lines


def _engine_text(config: Config) -> str:
    return f"{config.engine} engine" + (f" with {config.blas}" if config.blas else "")


def about_targets(data: DataSet, has_validation: bool) -> list[str]:
    """Return what costs and R² mean, where the numbers that are learned are not the user's."""
    lines = []
    preprocessing, target = data.preprocessing, data.target
    if preprocessing is not None and preprocessing.target_transform == "log":
        names = ", ".join(map(printable, preprocessing.labels))
        lines.append(f"costs are of ln {names}, which is learned; R² is of {names}")
    if target is None or has_validation:
        return lines
    if target.units.max() >= _OTHER_UNITS * target.units.min():
        lines.append(
            "the target with the largest numbers determines the training cost, and thus which "
            "epoch is best; with --validation 0.1, all targets count alike"
        )
    return lines


def warnings(config: Config, ranks: Sequence[RankInfo], checkpoint: Checkpoint | None) -> list[str]:
    """Return what makes this run slower, or its last bits different, than a user may expect."""
    n, shards, cores = len(ranks), config.shards or 1, node_cores(ranks)
    texts = []
    if n * config.threads > cores:
        texts.append(
            f"{count(n, 'rank')} of {count(config.threads, 'thread')} share "
            f"{count(cores, 'core')}{_quota_text(ranks)}: more than one thread per core makes a "
            f"run slower."
        )
    if sufficient_ranks(shards, n) < n:
        texts.append(_uneven_shards(shards, n, config.batch_size))
    if config.combine not in EXACT_REDUCTIONS:
        texts.append(
            f"--combine {config.combine} is not exact: the last bits depend on the number of ranks."
        )
    return texts + _differing_hardware(ranks, checkpoint)


def _uneven_shards(shards: int, n: int, batch_size: int) -> str:
    """Return what of n ranks are not needed for so many shards, and what would use all of them."""
    what = (
        f"{n - shards} of {n} ranks have nothing to compute, because a batch is split into "
        f"{count(shards, 'shard')}"
        if n > shards
        else f"some of {n} ranks compute {-(-shards // n)} of the {shards} shards of a batch, "
        f"others fewer"
    )
    text = f"{what}: {count(sufficient_ranks(shards, n), 'rank')} would be as fast. "
    if n > batch_size:
        return f"{text}Only a batch of at least {n} rows would use all ranks."
    nearest = max(round(shards / n), 1)
    even = n * (nearest if n * nearest <= batch_size else nearest - 1)  # a shard has a row
    return (
        f"{text}--shards {even} would use all ranks, but changes the last bits; distbp plan "
        f"estimates whether that, or a larger batch, pays."
    )


def _quota_text(ranks: Sequence[RankInfo]) -> str:
    """Return a remark if a quota leaves fewer cores than the ranks may run on."""
    unlimited = node_cores([rank._replace(cpu=rank.cpu._replace(quota=None)) for rank in ranks])
    if node_cores(ranks) == unlimited:
        return ""
    return f" (of {unlimited}, by the CPU quota of the container or job)"


def _differing_hardware(ranks: Sequence[RankInfo], checkpoint: Checkpoint | None) -> list[str]:
    first, texts = ranks[0].bits, []
    differing = ((rank, _differences(ranks[rank].bits, first)) for rank in range(len(ranks)))
    odd, difference = next((one for one in differing if one[1]), (0, ""))
    if difference:
        texts.append(
            f"rank {odd} has {difference}, unlike rank 0: the last bits may differ from those of "
            f"a run on another number of ranks."
        )
    if checkpoint and (difference := _differences(checkpoint.about["machine"], first)):
        texts.append(
            f"the run was started with {difference}: its last bits may differ from those of a "
            f"run that was not interrupted."
        )
    return texts


def _differences(these: dict[str, str], those: dict[str, str]) -> str:
    """Return what in `these` may round unlike `those`; checkpoints of old versions lack some."""
    # OpenBLAS's kernels, which are part of its description, round alike on every CPU.
    keys = those.keys() & these.keys() - ({"cpu"} if "openblas" in those["blas"] else set())
    return ", ".join(
        f"{key} {these[key]!r}" for key in those if key in keys and these[key] != those[key]
    )


def node_cores(ranks: Iterable[Sequence[Any]]) -> int:
    """Return how many cores all ranks together may use.

    Each rank's entry starts with its node and its CpuShare, as a RankInfo does.
    """
    shares: dict[int, list[CpuShare]] = {}
    for node, share, *_ in ranks:
        shares.setdefault(node, []).append(CpuShare(*share))
    return sum(map(count_cores, shares.values()))


# While it trains.


def step_status(progress: Progress, rows: int, speed: float, labels_per_row: int) -> str:
    """Return the figures beside the progress bar, when `rows` of the epoch are done."""
    rows = max(rows - progress.skipped, 1)
    text = f"cost {format_cost(progress.cost / rows)}"
    if labels_per_row:
        text += f" accuracy {progress.correct / (rows * labels_per_row):.2%}"
    return f"{text} {speed:,.0f} samples/s"


def epoch_line(record: EpochRecord, epochs: int, has_classes: bool) -> str:
    """Return the line about an epoch that has ended, with the metrics that are numbers."""
    text = f"epoch {record['epoch']:{len(str(epochs))}d}/{epochs}"
    for split in ("train", "validation", "test"):
        cost, accuracy = record[f"{split}_cost"], record[f"{split}_accuracy"]
        if cost is not None or accuracy is not None:
            text += f" | {split} cost {format_cost(score_of(cost))}"
        if accuracy is not None:
            text += f" accuracy {accuracy:.2%}" if has_classes else f" R² {accuracy:.4f}"
        for name, value in record.items():
            key = name.removeprefix(f"{split}_")
            if key not in (name, *_SHOWN_OTHERWISE) and isinstance(value, float | None):
                text += f" {metric_name(key)} {format_number(value)}"
    return f"{text} | {record['seconds']:.1f} s, {record['samples_per_s']:,.0f} samples/s"


def metric_name(key: str) -> str:
    """Return what people read for the key of a metric, which may end with the name of a class."""
    if own_parts.is_known(key):
        return printable(key)
    metric, colon, part = key.partition(":")
    return f"{metric.replace('_', ' ')}{colon}{printable(part)}"


def format_number(value: float | None, places: int = 4) -> str:
    """Return the value of a metric as text."""
    return "undefined" if value is None else format_cost(value, places)


def format_cost(cost: float, places: int = 4) -> str:
    """Return a cost as text; a large or small one, as in some units of y, with an exponent."""
    is_common = 0.01 <= cost < 1e6 or cost == 0
    return f"{cost:.{places}f}" if is_common else f"{cost:.{places + 1}g}"


# About faults.


def not_finite_message(
    location: str, position: Position, steps_per_epoch: int, learning_rate: float
) -> str:
    """Return where a step yielded a NaN or an infinity, and what may help."""
    return (
        f"A value is not a finite number in epoch {position.epoch + 1}, step "
        f"{position.step + 1} of {steps_per_epoch}: {location}. Use a lower --learning-rate (now "
        f"{learning_rate:g}) or --clip-norm, or see --on-nan; all checkpoints are from before."
    )


def corruption_message(where: str, position: Position) -> str:
    """Return where the recomputation of the last step gave a different result."""
    return (
        f"Silent data corruption detected in epoch {position.epoch + 1}, step "
        f"{position.step}: {where}. Test the memory of that host."
    )


def replicas_message(rank: int, position: Position) -> str:
    """Return which rank's copy of the parameters is different from rank 0's."""
    return (
        f"After step {position.updates} the parameters of rank {rank} differ from those of rank 0."
    )


def rolled_back_message(progress: Progress) -> str:
    """Return where a run continues after it was rolled back."""
    epoch, step, updates = progress.position
    where = f"the last checkpoint, epoch {epoch + 1}, step {step}" if updates else "its beginning"
    return (
        f"The run was rolled back to {where}; the learning rate is multiplied by "
        f"{progress.rate_factor:g}."
    )


def rank_failure_message(dead: Sequence[int], size: int, position: Position) -> str:
    """Return which ranks have died, and where the remaining `size` continue."""
    who = f"rank{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))}"
    return (
        f"{who} died. Training continues after {_completed(position)} on {count(size, 'rank')}; "
        f"the result stays the same."
    )


def retry_message(error: CheckpointError) -> str:
    """Return what failed to be written, and that it is not the end."""
    return f"{error} Training continues; the next write will try again."


def diverged_message(learning_rate: float) -> str:
    """Return why a run that is complete saves no last checkpoint."""
    return (
        f"A parameter is not a finite number after the last step, which is not saved. Use a lower "
        f"--learning-rate (now {learning_rate:g}) or --clip-norm."
    )


# At its end.


def stopped_message(reason: str, position: Position, steps_per_epoch: int, out: str) -> str:
    """Return why and where a run stopped early, and how to resume it."""
    return (
        f"stopped by {reason} in epoch {position.epoch + 1} after step {position.step} of "
        f"{steps_per_epoch}, with a checkpoint. Continue with distbp train --resume "
        f"{shlex.quote(out)}."
    )


def final_report(
    config: Config,
    data: DataSet,
    network: Network,
    is_out_of_patience: bool,
    is_stopped_by_callback: bool,
) -> list[str]:
    """Return the model's digest, where it is, and what to do next.

    `is_out_of_patience`: `--patience` ended the run; `is_stopped_by_callback`: a callback did.
    """
    out = Path(config.out)
    split = "" if "test" in data.splits else " --split train"
    lines = [f"digest {digest(network.theta)}"]
    if config.out:
        lines.append(f"model  {out / 'last.h5'} (best: {out / 'best.h5'})")
    if config.out and config.data:
        lines.append(
            f"next   distbp evaluate {shlex.quote(config.out)} {shlex.quote(config.data)}{split}"
        )
    if is_stopped_by_callback:
        lines.insert(0, "stopped early: by a callback")
    if is_out_of_patience:
        epochs = count(config.patience or 0, "epoch")
        score = metric_name(config.monitor or "score")
        lines.insert(0, f"stopped early: no better {score} for {epochs} (--patience)")
    return lines


def _completed(position: Position) -> str:
    return f"{count(position.epoch, 'epoch')} and {count(position.step, 'step')}"


def count(number: int, noun: str) -> str:
    """Return '1 rank', '2 ranks'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
