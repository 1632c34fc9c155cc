"""How a batch is cut into shards, which rank computes which, and in which order sums are made.

A batch of B rows is cut into S shards, whatever the number of ranks: shard s has
rows [B·s // S, B·(s+1) // S). Rank r of N computes the run of shards
[⌈S·r / N⌉, ⌈S·(r+1) / N⌉). The S gradients are added in one binary tree over
[0, S): of each subtree, the left child covers the largest power of two of shards below
its width. Floating-point addition commutes but does not associate, so the tree alone
determines the bits: a rank adds up the largest subtrees inside its run, its partial
sums, and whoever has all partial sums completes the tree above them.

Index arithmetic only: no arrays, no communication. A subtree is named by the interval
of shards that it sums.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from distbp.errors import ConfigError

Interval = tuple[int, int]  # [start, stop)
Addition = tuple[int, int]  # positions (into, from) of the two operands

_WIDE_LAYER_UNITS = 512  # from here on matrix products need many rows to be fast


class ShardTask(NamedTuple):
    """A shard to compute, and what to add up once it is there.

    Attributes
    ----------
    shard : int
    slot : int
        The vector that its gradient is written to.
    additions : int
        How many times the top of the stack is then added to the vector below it and popped.
    """

    shard: int
    slot: int
    additions: int


def default_shards(batch_size: int, sizes: Sequence[int]) -> int:
    """Return how many shards a batch is cut into: a power of two, never a function of N.

    Few rows a shard make matrix products slow, few shards leave ranks idle: a quarter
    of the batch, but 64 to 128 rows for narrow layers and 128 to 256 for wide ones; half
    of that if a second rank would otherwise have nothing to compute.
    """
    least, most = (128, 256) if max(sizes[1:]) >= _WIDE_LAYER_UNITS else (64, 128)
    rows = min(max(batch_size // 4, least), most)
    least_shards = 2 if batch_size >= least else 1
    return _largest_power_of_two(max(least_shards, batch_size // rows))


def _largest_power_of_two(n: int) -> int:
    """Return the largest power of two that is at most n, n ≥ 1."""
    return 1 << (n.bit_length() - 1)


def shard_rows(rows: int, shards: int, shard: int) -> Interval:
    """Return the interval of a batch's `rows` rows that is shard number `shard`."""
    return rows * shard // shards, rows * (shard + 1) // shards


def rank_shards(shards: int, ranks: int, rank: int) -> Interval:
    """Return the interval of shards that a rank computes; it may be empty."""
    return -(-shards * rank // ranks), -(-shards * (rank + 1) // ranks)


def sufficient_ranks(shards: int, ranks: int) -> int:
    """Return how many ranks compute a batch in the time of `ranks`, at most as many as these.

    The busiest rank takes ⌈S / N⌉ shards: of 4 shards, 3 ranks take as long as 2.
    """
    return -(-shards // -(-shards // ranks))


def middle(tree: Interval) -> int:
    """Return where a tree over at least two shards divides into its children."""
    start, stop = tree
    return start + _largest_power_of_two(stop - start - 1)


def subtrees(run: Interval, tree: Interval) -> Iterator[Interval]:
    """Yield the largest subtrees of `tree` that lie inside `run`, from left to right."""
    start, stop = max(run[0], tree[0]), min(run[1], tree[1])
    if start >= stop:
        return
    if (start, stop) == tree:
        yield tree
        return
    yield from subtrees(run, (tree[0], middle(tree)))
    yield from subtrees(run, (middle(tree), tree[1]))


def stack_schedule(trees: Sequence[Interval]) -> list[ShardTask]:
    """Return how a rank sums subtrees in few vectors: its shards in order.

    The vectors are a stack: summing as soon as two siblings are complete needs one
    vector per level of the tree rather than one per shard. In the end the sum of the
    i-th subtree is in vector i.
    """
    return [
        ShardTask(shard, i + level, count)
        for i, tree in enumerate(trees)
        for shard, (level, count) in zip(range(*tree), _levels(tree), strict=True)
    ]


def stack_depth(trees: Sequence[Interval]) -> int:
    """Return how many vectors `stack_schedule` needs; 1 for a rank without shards, too."""
    return 1 + max((task.slot for task in stack_schedule(trees)), default=0)


def _levels(tree: Interval) -> list[tuple[int, int]]:
    """Return, for each shard of a subtree, its level on the stack and its additions."""
    if tree[1] - tree[0] == 1:
        return [(0, 0)]
    left, right = _levels((tree[0], middle(tree))), _levels((middle(tree), tree[1]))
    right = [(level + 1, count) for level, count in right]
    right[-1] = (right[-1][0], right[-1][1] + 1)
    return left + right


def tree_additions(trees: Sequence[Interval], root: Interval) -> list[Addition]:
    """Return the additions, by positions in `trees`, that make the sum of `root`.

    `trees` contains, from left to right, subtrees that cover `root`; its sum ends at the
    position of the first of them.
    """
    position = {tree: i for i, tree in enumerate(trees)}
    additions: list[Addition] = []

    def complete(tree: Interval) -> int:
        if tree in position:
            return position[tree]
        left, right = complete((tree[0], middle(tree))), complete((middle(tree), tree[1]))
        additions.append((left, right))
        return left

    complete(root)
    return additions


def assign_buffers(additions: Sequence[Addition]) -> list[int]:
    """Return, for each addition in order, which of few buffers receives its result.

    For sums that must not overwrite their operands. An operand that is no sum yet is read
    where it is; a buffer is free again once its sum has been added to another.
    """
    buffer_of: dict[int, int] = {}  # by position of the sum it holds
    free: list[int] = []
    chosen, count = [], 0
    for into, other in additions:
        if into not in buffer_of and other in buffer_of:
            buffer_of[into] = buffer_of.pop(other)
        elif into not in buffer_of:
            if not free:
                free, count = [count], count + 1
            buffer_of[into] = free.pop()
        elif other in buffer_of:
            free.append(buffer_of.pop(other))
        chosen.append(buffer_of[into])
    return chosen


def check_shards(shards: int | None, batch_size: int) -> None:
    """Raise ConfigError if a batch has fewer rows than shards."""
    if shards is not None and shards > batch_size:
        raise ConfigError(
            f"--shards {shards} cuts a batch of {batch_size} rows too small: a shard "
            f"has at least 1 row. Use at most {batch_size}."
        )
