"""What a person is told before a run starts, and when it has ended."""

import shlex
from pathlib import Path
from typing import Any

from distbp.data.dataset import DataSet
from distbp.network.network import Network
from distbp.network.parameters import digest
from distbp.storage.checkpoint import Checkpoint
from distbp.training.config import EXACT_REDUCTIONS, Config
from distbp.training.state import Progress

Machines = list[Any]  # of each rank: [node, numbers of its cores, what its bits depend on]


def introduction(
    config: Config,
    network: Network,
    machines: Machines,
    rows: int,
    progress: Progress,
    ulfm_enabled: bool,
) -> list[str]:
    """Return what is trained, and by what, and what happens if a rank dies."""
    sizes = "-".join(map(str, network.sizes))
    steps = -(-rows // config.batch_size)
    nodes = {node for node, _, _ in machines}
    exact = "exact" if config.combine in EXACT_REDUCTIONS else "not exact"
    lines = [
        f"{sizes}, {network.theta.size:,} parameters, {config.dtype}; {rows:,} training rows, "
        f"{count(steps, 'step')} an epoch",
        f"{count(len(machines), 'rank')} on {count(len(nodes), 'node')}, "
        f"{count(config.shards or 1, 'shard')}, {count(config.threads, 'thread')} a rank, "
        f"{count(len(all_cores(machines)), 'core')}; {exact} sums ({config.combine})",
    ]
    if len(machines) > 1:
        lines.append(
            "a rank that dies costs the step in flight: the others go on"
            if ulfm_enabled
            else "a rank that dies ends the run: the last checkpoint is kept, --resume goes on"
        )
    if progress.history or progress.step:
        lines.append(
            f"resumed after {count(progress.epoch, 'epoch')} and {count(progress.step, 'step')}"
        )
    if progress.epoch >= config.epochs:
        lines.append("nothing to do: --epochs says how many there are to be in all")
    return lines


def lost(dead: list[int], left: int, progress: Progress) -> str:
    """Return who has died, and who goes on from where."""
    who = f"rank{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))}"
    where = f"{count(progress.epoch, 'epoch')} and {count(progress.step, 'step')}"
    return (
        f"{who} died. The run goes on after {where} on {count(left, 'rank')}, to the same result."
    )


def final_report(
    config: Config, data: DataSet, network: Network, is_stopped_early: bool
) -> list[str]:
    """Return where the model is, and what to do next."""
    out = Path(config.out)
    split = "" if "test" in data.splits else " --split train"
    lines = [
        f"digest {digest(network.theta)}",
        f"model  {out / 'last.h5'} (best: {out / 'best.h5'})",
        f"next   distbp evaluate {shlex.quote(config.out)} {shlex.quote(config.data)}{split}",
    ]
    if is_stopped_early:
        lines.insert(0, f"stopped: no better score for {count(config.patience or 0, 'epoch')}")
    return lines


def warnings(config: Config, machines: Machines, checkpoint: Checkpoint | None) -> list[str]:
    """Return what makes this run slower, or its last bits others, than the user may think."""
    ranks, shards, cores = len(machines), config.shards or 1, len(all_cores(machines))
    bits = [bits for _, _, bits in machines]
    texts = []
    if ranks * config.threads > cores:
        texts.append(
            f"{count(ranks, 'rank')} of {count(config.threads, 'thread')} share "
            f"{count(cores, 'core')}: more than one thread a core makes a run slower."
        )
    if ranks > shards:
        texts.append(
            f"{ranks - shards} of {ranks} ranks have nothing to compute, because a batch is cut "
            f"into {count(shards, 'shard')}: {count(shards, 'rank')} would be as fast. "
            f"--shards {ranks} would use them all, at the price of other last bits; distbp plan "
            f"says whether that pays, or what batch would."
        )
    if config.combine not in EXACT_REDUCTIONS:
        texts.append(
            f"--combine {config.combine} is not exact: the last bits depend on the number of ranks."
        )
    odd = next((rank for rank in range(ranks) if bits[rank] != bits[0]), None)
    if odd is not None:
        texts.append(
            f"rank {odd} has {differences(bits[odd], bits[0])}, unlike rank 0: another number of "
            f"ranks may give other last bits."
        )
    before = checkpoint.about["machine"] if checkpoint else bits[0]
    if any(before.get(key) != value for key, value in bits[0].items()):
        texts.append(
            f"the run was begun with {differences(before, bits[0])}: its last bits may differ from "
            f"those of a run that was not interrupted."
        )
    return texts


def differences(these: dict[str, str], those: dict[str, str]) -> str:
    """Return what these say other than those."""
    return ", ".join(f"{key} {these.get(key)!r}" for key in those if these.get(key) != those[key])


def all_cores(machines: Machines) -> set[tuple[int, int]]:
    """Return the cores that all ranks together may use, as (node, number)."""
    return {(node, core) for node, cores, _ in machines for core in cores}


def count(number: int, noun: str) -> str:
    """Return '1 rank', '2 ranks'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
