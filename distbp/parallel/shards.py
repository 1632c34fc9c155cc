"""Which rows make a shard, which shards a rank, and in which order sums are made.

A batch of B rows is cut into S shards, whatever the number of ranks: shard s has
rows [B·s // S, B·(s+1) // S). Rank r of N computes the run of shards
[⌈S·r / N⌉, ⌈S·(r+1) / N⌉). The S gradients are added in one binary tree over
[0, S), in which the left child of a node holds the largest power of two of shards
below its width. Floating-point addition commutes but does not associate, so the
tree alone fixes the bits: a rank adds up the largest subtrees inside its run, its
partial sums, and whoever has all partial sums finishes the tree above them.

Index arithmetic only: no arrays, no ranks.
"""

from collections.abc import Iterator, Sequence

Interval = tuple[int, int]  # [start, stop)
Addition = tuple[int, int]  # into, from

WIDE = 512  # a layer from which a shard should be large for the matrix products' sake


def default_shards(batch_size: int, sizes: Sequence[int]) -> int:
    """Return how many shards a batch is cut into: a power of two, never a function of N.

    Few rows make matrix products slow, few shards employ few ranks: a quarter of
    the batch, but 64 to 128 rows where layers are narrow and 128 to 256 where they
    are wide; half of that if a second rank would have nothing to do otherwise.
    """
    least, most = (128, 256) if max(sizes[1:]) >= WIDE else (64, 128)
    rows = min(max(batch_size // 4, least), most)
    least_shards = 2 if batch_size >= least else 1
    return largest_power_of_two(max(least_shards, batch_size // rows))


def largest_power_of_two(n: int) -> int:
    """Return the largest power of two that is at most n, n ≥ 1."""
    return 1 << (n.bit_length() - 1)


def shard_rows(rows: int, shards: int, shard: int) -> Interval:
    """Return the run of a batch's `rows` rows that is shard number `shard`."""
    return rows * shard // shards, rows * (shard + 1) // shards


def rank_shards(shards: int, ranks: int, rank: int) -> Interval:
    """Return the run of shards that a rank computes; it may be empty."""
    return -(-shards * rank // ranks), -(-shards * (rank + 1) // ranks)


def middle(node: Interval) -> int:
    """Return where a node of the tree, at least two wide, divides."""
    start, stop = node
    return start + largest_power_of_two(stop - start - 1)


def subtrees(run: Interval, node: Interval) -> Iterator[Interval]:
    """Yield the largest subtrees of `node` that lie inside `run`, in order."""
    start, stop = max(run[0], node[0]), min(run[1], node[1])
    if start >= stop:
        return
    if (start, stop) == node:
        yield node
        return
    yield from subtrees(run, (node[0], middle(node)))
    yield from subtrees(run, (middle(node), node[1]))


def stack_plan(nodes: Sequence[Interval]) -> list[tuple[int, int, int]]:
    """Return how a rank sums up subtrees, with few vectors: (shard, vector, additions) in order.

    The vectors are a stack. Each shard's gradient is written to one of them, and then
    that many times the top is added to the one below and dropped. At the end the sum
    of the i-th subtree is left in vector i.
    """
    return [
        (shard, i + level, count)
        for i, node in enumerate(nodes)
        for shard, (level, count) in zip(range(*node), _levels(node), strict=True)
    ]


def stack_depth(nodes: Sequence[Interval]) -> int:
    """Return how many vectors that takes; one for a rank without shards too."""
    return 1 + max((vector for _, vector, _ in stack_plan(nodes)), default=0)


def _levels(node: Interval) -> list[tuple[int, int]]:
    """Return, for each shard of a subtree, its place on the stack and its additions."""
    if node[1] - node[0] == 1:
        return [(0, 0)]
    left, right = _levels((node[0], middle(node))), _levels((middle(node), node[1]))
    right = [(level + 1, count) for level, count in right]
    right[-1] = (right[-1][0], right[-1][1] + 1)
    return left + right


def buffers(steps: Sequence[Addition]) -> list[int]:
    """Return, for each addition in order, which of few buffers can take its result.

    What is added for the first time is read where it is; a buffer is free again when
    its sum has been added to another one.
    """
    place: dict[int, int] = {}  # the buffer that holds a position's sum
    free: list[int] = []
    chosen, count = [], 0
    for into, other in steps:
        if into not in place and other in place:
            place[into] = place.pop(other)
        elif into not in place:
            if not free:
                free, count = [count], count + 1
            place[into] = free.pop()
        elif other in place:
            free.append(place.pop(other))
        chosen.append(place[into])
    return chosen


def additions(nodes: Sequence[Interval], root: Interval) -> list[Addition]:
    """Return the additions, by positions in `nodes`, that make the sum of `root`.

    Among `nodes` are the subtrees that cover `root`, from left to right; its sum is
    made at the position of the first of them.
    """
    position = {node: i for i, node in enumerate(nodes)}
    steps: list[Addition] = []

    def finish(node: Interval) -> int:
        if node in position:
            return position[node]
        left, right = finish((node[0], middle(node))), finish((middle(node), node[1]))
        steps.append((left, right))
        return left

    finish(root)
    return steps
