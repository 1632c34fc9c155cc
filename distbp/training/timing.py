"""What the time of the steps was spent on, and what would make them faster.

A step of a rank has three parts: backprop of its shards, waiting for other ranks or their
messages, and the rest of the reduction and the update. `Timing` adds them up, for the price of
a few readings of the clock; `timing_summary` turns the figures of all ranks into one line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LARGE_SHARE = 0.25  # of a step's time: worth acting on
_MIN_CHECKPOINT_WAIT_S = 2.0  # shorter waits are not worth a hint
_FREQUENT_CHECKPOINTS_S = 10.0  # seconds between two checkpoints, below which fewer would do
_IMBALANCE = 0.1  # compute time above the median, for as many shards: the others wait for it


@dataclass
class Timing:
    """Seconds of a rank's steps so far, by what they were spent on."""

    steps: int = 0
    compute: float = 0.0
    wait: float = 0.0
    update: float = 0.0

    def add_step(self, began: float, computed: float, ended: float, waited: float) -> None:
        """Add a step, given the clock at its start and at the end of its parts."""
        self.steps += 1
        self.compute += computed - began
        self.wait += waited
        self.update += ended - computed - waited

    def add_steps(self, count: int, compute: float, wait: float, update: float) -> None:
        """Add several steps, given the seconds of their parts."""
        self.steps += count
        self.compute += compute
        self.wait += wait
        self.update += update

    def per_step(self) -> list[float]:
        """Return the mean compute, wait and update time of a step, in seconds."""
        return [part / max(self.steps, 1) for part in (self.compute, self.wait, self.update)]


@dataclass(frozen=True)
class RankTime:
    """A rank's seconds per step, its host, and its number of shards.

    `hidden` is the fraction of the time of the exchange between nodes in which it computed; None
    if it did not exchange, or not long enough to know.
    """

    host: str
    node: int
    shards: int
    compute: float
    wait: float
    update: float
    hidden: float | None = None


def timing_summary(ranks: Sequence[RankTime], cores: int, batch_size: int) -> str:
    """Return the time of a step, its parts, the slowest rank, and what would help."""
    parts = np.mean([[rank.compute, rank.wait, rank.update] for rank in ranks], axis=0)
    seconds = float(parts.sum())
    compute, wait, update = (parts / max(seconds, 1e-9)).tolist()  # a clock may be coarse
    text = f"{seconds * 1e6:,.0f} µs a step: {compute:.0%} compute"
    if len(ranks) == 1:
        return f"{text}, {update:.0%} update"
    slowest = max(range(len(ranks)), key=lambda rank: ranks[rank].compute)
    # The median of those with work: idle ranks would make every other one look slow.
    median = float(np.median([rank.compute for rank in ranks if rank.shards]))
    excess = ranks[slowest].compute / max(median, 1e-9) - 1
    fractions = [rank.hidden for rank in ranks if rank.hidden is not None]
    hidden = f" ({np.mean(fractions):.0%} of the exchange hidden)" if fractions else ""
    return (
        f"{text}, {wait:.0%} wait{hidden}, {update:.0%} update; slowest: rank {slowest} on "
        f"{ranks[slowest].host}, {excess:+.0%}; "
        f"{_suggestion(ranks, cores, batch_size, excess, wait, update)}"
    )


def checkpoint_hint(checkpoint_wait_s: float, saves: int, seconds: float) -> str | None:
    """Return what helps a run of `seconds` that waited long for its checkpoints.

    None if it did not, or if they are rare already.
    """
    has_waited = checkpoint_wait_s >= max(_LARGE_SHARE * seconds, _MIN_CHECKPOINT_WAIT_S)
    if not has_waited or seconds > _FREQUENT_CHECKPOINTS_S * saves:
        return None
    share = f"{checkpoint_wait_s / seconds:.0%}"
    return f"{share} of the time went to checkpoints; --checkpoint-every 60s saves less often"


def _suggestion(
    ranks: Sequence[RankTime],
    cores: int,
    batch_size: int,
    excess: float,
    wait: float,
    update: float,
) -> str:
    """Return the first remedy that applies: the order is that of the usual gain."""
    shards = [rank.shards for rank in ranks]
    idle = shards.count(0)
    if idle:
        more = f"--shards {len(ranks)}" if len(ranks) <= batch_size else "a larger --batch-size"
        return f"{idle} had nothing to compute: fewer ranks, or {more}, would help"
    if max(shards) > min(shards) and wait > _LARGE_SHARE:
        return (
            f"some have {max(shards)} shards and others {min(shards)}: a number of ranks that "
            f"divides {sum(shards)} would help"
        )
    if len(ranks) > cores:
        return f"ranks share cores: {cores} ranks would help"
    if excess > _IMBALANCE and max(shards) == min(shards):
        return "check what else runs on that host"
    if wait > _LARGE_SHARE and len({rank.node for rank in ranks}) > 1:
        return "the network is slow: a larger batch, or fewer nodes, would help (distbp plan)"
    if wait > _LARGE_SHARE:
        return "ranks wait for each other: check what else runs on their cores"
    if update > _LARGE_SHARE:
        return "a larger --batch-size would help"
    if len(ranks) < sum(shards):
        where = "" if len(ranks) < cores else " on more cores"
        return f"more ranks{where}, up to {sum(shards)}, would help"
    return "a larger --batch-size would make use of more ranks"
