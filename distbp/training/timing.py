"""Where the time of the steps went: to compute, to wait, to update; and what would help.

A step of a rank has three parts: backprop of its shards, waiting for other ranks or their
messages, and the rest of the sum and the update. `Timing` adds them up, at the price of a
few looks at the clock; `summary` says in one line what came of them on all ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MUCH = 0.25  # of a step: worth doing something about
NOTICED = 2.0  # seconds: waiting for less is not worth a word
OFTEN = 10.0  # seconds from one checkpoint to the next, below which there could be fewer
UNEVEN = 0.1  # more compute than the median, with as many shards: another rank waits for it


@dataclass
class Timing:
    """Seconds of a rank's steps so far, by what they went to."""

    steps: int = 0
    compute: float = 0.0
    wait: float = 0.0
    update: float = 0.0

    def note(self, began: float, computed: float, ended: float, waited: float) -> None:
        """Count a step, by the clock when it began and when its parts ended."""
        self.steps += 1
        self.compute += computed - began
        self.wait += waited
        self.update += ended - computed - waited

    def parts(self) -> list[float]:
        """Return compute, wait and update, in seconds a step."""
        return [part / max(self.steps, 1) for part in (self.compute, self.wait, self.update)]


@dataclass(frozen=True)
class RankTime:
    """A rank's seconds a step, the host it was on, and how many shards it had."""

    host: str
    node: int
    shards: int
    compute: float
    wait: float
    update: float


def summary(ranks: Sequence[RankTime], cores: int) -> str:
    """Return how long a step took, what it went to, who was slowest, and what would help."""
    parts = np.mean([[rank.compute, rank.wait, rank.update] for rank in ranks], axis=0)
    seconds = float(parts.sum())
    compute, wait, update = (parts / max(seconds, 1e-9)).tolist()
    text = f"{seconds * 1e6:,.0f} µs a step: {compute:.0%} compute"
    if len(ranks) == 1:
        return f"{text}, {update:.0%} update"
    slowest = max(range(len(ranks)), key=lambda rank: ranks[rank].compute)
    usual = float(np.median([rank.compute for rank in ranks if rank.shards]))
    extra = ranks[slowest].compute / max(usual, 1e-9) - 1
    return (
        f"{text}, {wait:.0%} wait, {update:.0%} update; slowest: rank {slowest} on "
        f"{ranks[slowest].host}, {extra:+.0%}; {_help(ranks, cores, extra, wait, update)}"
    )


def checkpoint_hint(checkpoint_wait_s: float, saves: int, seconds: float) -> str | None:
    """Return what helps a run of so many seconds that checkpoints have held up for long.

    None if they have not, or if they are far between already.
    """
    if checkpoint_wait_s < max(MUCH * seconds, NOTICED) or seconds > OFTEN * saves:
        return None
    share = f"{checkpoint_wait_s / seconds:.0%}"
    return f"{share} went to checkpoints; --checkpoint-every 60s saves less often"


def _help(ranks: Sequence[RankTime], cores: int, extra: float, wait: float, update: float) -> str:
    shards = [rank.shards for rank in ranks]
    idle = shards.count(0)
    if idle:
        return f"{idle} had nothing to compute: fewer ranks, or --shards {len(ranks)}, would help"
    if max(shards) > min(shards) and wait > MUCH:
        return (
            f"some have {max(shards)} shards and others {min(shards)}: a number of ranks that "
            f"divides {sum(shards)} would help"
        )
    if len(ranks) > cores:
        return f"ranks share cores: {cores} ranks would help"
    if extra > UNEVEN and max(shards) == min(shards):
        return "look what else runs there"
    if wait > MUCH and len({rank.node for rank in ranks}) > 1:
        return "the network takes long: a larger batch, or fewer nodes, would help (distbp plan)"
    if wait > MUCH:
        return "ranks wait for each other: look what else runs on their cores"
    if update > MUCH:
        return "a larger --batch-size would help"
    if len(ranks) < sum(shards):
        return f"more ranks, up to {sum(shards)}, would help"
    return "a larger --batch-size would employ more ranks"
