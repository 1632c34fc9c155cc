"""Which rank stores, adds, updates and sends what in a step: index arithmetic only.

A `ReductionPlan` is one rank's part, derived from the shape of the problem (numbers of θ,
shards) and of the machine (ranks of each node). It is a frozen value, the same in every step:

    schedule         the rank's shards, each with the slot (vector) for its gradient
    node_partials    the slots that then hold the partial sums of the node's ranks
    owned            the slice of all vectors that this rank adds up and updates
    node_additions   the additions on that slice that complete the node's subtrees
    exchanges        how the slice is then completed between nodes (`ExchangePlan`), part by
                     part: those of the last layers, whose gradient is complete first, come first

Slices are cut at whole blocks of θ, since norms are summed block by block. Nothing here
knows arrays or MPI: a test executes the plans of all ranks of any layout on plain numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from distbp.network.parameters import THETA_BLOCK
from distbp.parallel.shards import (
    Addition,
    Interval,
    ShardTask,
    assign_buffers,
    rank_shards,
    stack_depth,
    stack_schedule,
    subtrees,
    tree_additions,
)

_MIN_SLICE_BLOCKS = 8  # a smaller slice takes longer to pass between cores than to add up

# A large exchange is cut into several that overlap: one is added up while the next travels.
_MIN_MESSAGE_BYTES = 200_000  # from each peer to each
_MAX_EXCHANGES = 32  # of a group of layers
# Layers with less are exchanged together with the next one: a message has its fixed cost.
_MIN_GROUP_BYTES = 250_000


class LayerGroup(NamedTuple):
    """Layers that are exchanged together.

    Attributes
    ----------
    start, stop : int
        Their part of a vector; that of the last layers includes the statistics.
    depth : int
        How many layers of the gradient, counted from the output, have to be complete.
    """

    start: int
    stop: int
    depth: int


@dataclass(frozen=True)
class ExchangePlan:
    """How the ranks that own one slice, a peer per node, complete a part of it.

    Each peer completes its share: it receives that share of the others' partial sums, adds
    all of them up in tree order, and sends the result to the others.

    Attributes
    ----------
    part : (start, stop)
        Of the slice.
    depth : int
        How many layers of the gradient, counted from the output, have to be complete before.
    cuts : tuple of int, one more than peers
        Peer p completes [cuts[p], cuts[p+1]) of the part.
    peer : int
        This rank's node.
    sums : tuple of int
        How many partial sums each peer has.
    additions : tuple of Addition
        By position among all peers' partial sums, peer by peer; the result is at 0.
    """

    part: Interval
    depth: int
    cuts: tuple[int, ...]
    peer: int
    sums: tuple[int, ...]
    additions: tuple[Addition, ...]

    @property
    def is_direct(self) -> bool:
        """Whether the peers send each other all of the part, and both add it up.

        Between two with a partial sum each this is as much traffic, but one message less.
        """
        return self.sums == (1, 1)

    @property
    def share(self) -> Interval:
        """The interval of the part that this peer completes."""
        return self.cuts[self.peer], self.cuts[self.peer + 1]

    @property
    def share_sizes(self) -> list[int]:
        """The width of each peer's share."""
        return [stop - start for start, stop in pairwise(self.cuts)]

    def send_counts(self, k: int) -> list[int]:
        """Return how many numbers of its k-th partial sum this peer sends to each peer."""
        return self.of_others(
            [size if k < self.sums[self.peer] else 0 for size in self.share_sizes]
        )

    def receive_counts(self, k: int) -> list[int]:
        """Return how many numbers of its k-th partial sum each peer sends to this one."""
        start, stop = self.share
        return self.of_others([stop - start if k < count else 0 for count in self.sums])

    def receive_places(self, k: int) -> list[int]:
        """Return where they go, in a flat array of the shares of the others' partial sums."""
        width = self.share[1] - self.share[0]
        sums = self.of_others(self.sums)
        firsts = accumulate(sums[:-1], initial=0)
        # MPI wants displacements inside the array, also for peers that send nothing.
        return [min((first + k) * width, sum(sums) * width) for first in firsts]

    def of_others(self, numbers: Sequence[int]) -> list[int]:
        """Return a number per peer, but 0 for this one, which sends itself nothing."""
        return [0 if p == self.peer else number for p, number in enumerate(numbers)]


@dataclass(frozen=True)
class ReductionPlan:
    """One rank's part in the sum over all shards, and in the update of θ.

    Attributes
    ----------
    size, width : int
        Numbers of θ, and of a vector that is summed: gradient and statistics.
    node_rank, node_size : int
        Position of the rank on its node, and the number of ranks there.
    schedule : tuple of ShardTask
        The rank's shards in order; slots count from the rank's first one.
    partials : tuple of Interval
        The subtrees that the rank sums alone; the i-th ends in its slot i.
    slots : (start, stop)
        The rank's slots among those of the node.
    node_slots : int
        How many slots the node's ranks need together.
    node_partials : tuple of int
        The node's slots with partial sums, from left to right in the tree.
    owned : (start, stop)
        The slice of every vector that the rank adds up, whole blocks; it may be empty.
    node_additions : tuple of Addition
        By position in `node_partials`: what the node can add up by itself.
    scratch : tuple of int
        For each of them, the buffer for its result where slots must not be written.
    node_sums : tuple of int
        Positions in `node_partials` where the node's sums end.
    exchanges : tuple of ExchangePlan
        Empty on a single node, and for a rank that owns nothing.
    depths : tuple of int
        How many layers are complete when the exchange of each group of layers can begin, the
        same on all ranks; empty on a single node.
    """

    size: int
    width: int
    node_rank: int
    node_size: int
    schedule: tuple[ShardTask, ...]
    partials: tuple[Interval, ...]
    slots: Interval
    node_slots: int
    node_partials: tuple[int, ...]
    owned: Interval
    node_additions: tuple[Addition, ...]
    scratch: tuple[int, ...]
    node_sums: tuple[int, ...]
    exchanges: tuple[ExchangePlan, ...]
    depths: tuple[int, ...]

    @property
    def owned_theta(self) -> Interval:
        """The part of the owned slice that is θ."""
        return min(self.owned[0], self.size), min(self.owned[1], self.size)

    @property
    def owns_statistics(self) -> bool:
        """Whether the owned slice includes the statistics behind the gradient."""
        return self.owned[0] < self.owned[1] == self.width


def plan_reduction(
    size: int,
    stats_width: int,
    shards: int,
    node_sizes: Sequence[int],
    rank: int,
    itemsize: int,
    layers: Sequence[Interval] = (),
) -> ReductionPlan:
    """Return a rank's plan.

    Parameters
    ----------
    size, stats_width : int
        Numbers of θ, and of the statistics behind its gradient.
    shards : int
        S, of a batch.
    node_sizes : sequence of int
        How many ranks share each node's memory; ranks are numbered node by node.
    rank : int
    itemsize : int
        Bytes of a number.
    layers : sequence of Interval
        θ's layers from the input to the output; by default all of it is one.
    """
    root, width = (0, shards), size + stats_width
    runs = [rank_shards(shards, sum(node_sizes), r) for r in range(sum(node_sizes))]
    ends = list(accumulate(node_sizes))
    nodes = [runs[end - count : end] for count, end in zip(node_sizes, ends, strict=True)]
    node = next(i for i, end in enumerate(ends) if rank < end)
    node_rank = rank - (ends[node] - node_sizes[node])
    trees = [list(subtrees(run, root)) for run in nodes[node]]  # of each rank on this node
    firsts = list(accumulate(map(stack_depth, trees), initial=0))
    names = [tree for of_rank in trees for tree in of_rank]
    # A run of runs is one run, so each node has its own largest subtrees.
    node_trees = [list(subtrees((of_node[0][0], of_node[-1][1]), root)) for of_node in nodes]
    additions = [step for tree in node_trees[node] for step in tree_additions(names, tree)]
    owned = _owned_slice(width, shards, node_sizes, node, node_rank)
    groups = group_layers(layers or [(0, size)], width, itemsize) if len(nodes) > 1 else []
    return ReductionPlan(
        size, width, node_rank, node_sizes[node],
        schedule=tuple(stack_schedule(trees[node_rank])),
        partials=tuple(trees[node_rank]),
        slots=(firsts[node_rank], firsts[node_rank + 1]),
        node_slots=firsts[-1],
        node_partials=tuple(
            first + i for first, of_rank in zip(firsts, trees, strict=False)
            for i in range(len(of_rank))
        ),
        owned=owned,
        node_additions=tuple(additions),
        scratch=tuple(assign_buffers(additions)),
        node_sums=tuple(i for i, tree in enumerate(names) if _starts_one(tree, node_trees[node])),
        exchanges=plan_exchanges(node_trees, root, owned, groups, itemsize, node),
        depths=tuple(group.depth for group in groups),
    )  # fmt: skip


def _owned_slice(
    width: int, shards: int, node_sizes: Sequence[int], node: int, node_rank: int
) -> Interval:
    """Return the slice of a node's rank; empty, at the end, for one that owns nothing.

    The cuts are the same on all nodes, so that a slice has one owner on each.
    """
    slices = count_slices(width, shards, min(node_sizes))
    cuts = _slice_cuts(width, slices) + [width] * (node_sizes[node] - slices)
    return cuts[node_rank], cuts[node_rank + 1]


def _starts_one(tree: Interval, trees: Sequence[Interval]) -> bool:
    """Return whether a subtree is the leftmost part of one of `trees`: its sum ends there."""
    return any(tree[0] == other[0] for other in trees)


def count_slices(size: int, shards: int, ranks: int) -> int:
    """Return how many ranks of a node own a slice of a vector.

    All of them, except that a small vector gets no slices for ranks that compute no
    gradient: to fetch it would take longer than to add it up.
    """
    return max(1, min(ranks, max(shards, -(-size // THETA_BLOCK) // _MIN_SLICE_BLOCKS)))


def _slice_cuts(size: int, slices: int) -> list[int]:
    """Return the slices + 1 bounds that cut a vector at whole blocks, as evenly as they allow."""
    blocks = -(-size // THETA_BLOCK)
    return [min(blocks * i // slices * THETA_BLOCK, size) for i in range(slices + 1)]


def group_layers(layers: Sequence[Interval], width: int, itemsize: int) -> list[LayerGroup]:
    """Return which layers are exchanged together, from the output to the input.

    Parameters
    ----------
    layers : sequence of Interval
        Of θ, from the input to the output.
    width, itemsize : int
        Numbers of a vector, statistics included, and bytes of one.
    """
    groups: list[LayerGroup] = []
    stop = width
    for depth, (start, _) in enumerate(reversed(layers), 1):
        if (stop - start) * itemsize >= _MIN_GROUP_BYTES or depth == len(layers):
            groups.append(LayerGroup(start, stop, depth))
            stop = start
    return groups


def plan_exchanges(
    trees: Sequence[Sequence[Interval]],
    root: Interval,
    owned: Interval,
    groups: Sequence[LayerGroup],
    itemsize: int,
    peer: int,
) -> tuple[ExchangePlan, ...]:
    """Return how peers complete a slice of the sum of `root`: in several parts if it is large.

    Parameters
    ----------
    trees : sequence of sequences of Interval
        The subtrees whose sums each peer has.
    root : Interval
    owned : (start, stop)
        The slice.
    groups : sequence of LayerGroup
        In the order in which they are complete.
    itemsize : int
        Bytes of a number.
    peer : int
        The one that the plan is for.
    """
    additions = tuple(tree_additions([tree for of_peer in trees for tree in of_peer], root))
    plans = []
    for group in groups:
        first, last = max(group.start, owned[0]), min(group.stop, owned[1])
        count = (last - first) * itemsize // (_MIN_MESSAGE_BYTES * len(trees))
        for start, stop in pairwise(_part_cuts(first, last, count)):
            cuts = _slice_cuts(stop - start, len(trees))
            part = start - owned[0], stop - owned[0]
            plans.append(
                ExchangePlan(
                    part, group.depth, tuple(cuts), peer, tuple(map(len, trees)), additions
                )
            )
    return tuple(plans)


def _part_cuts(start: int, stop: int, count: int) -> list[int]:
    """Return the bounds of about `count` parts of an interval; none if it is empty."""
    if start >= stop:
        return []
    cuts = _slice_cuts(stop - start, max(1, min(_MAX_EXCHANGES, count)))
    return [start + cut for cut in cuts]
