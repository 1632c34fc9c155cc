"""In which order the exchanges of a step begin, and what of θ is complete after each.

Backprop completes the gradient from the output to the input; the next forward pass reads θ from
the input to the output. So there are two orders: that of backprop, and one of which the first
exchanges, which can be sent during backprop, are in the order of backprop and the others in the
order of the forward pass. Then layers of the next forward pass are computed while those above are
still being exchanged.

An order is the same on all ranks that own a slice, who start their messages in this order.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from distbp.parallel.reduction_plan import ExchangePlan, ReductionPlan
from distbp.parallel.shards import Interval


class ExchangeOrder(NamedTuple):
    """An order of the exchanges of a slice.

    Attributes
    ----------
    numbers : sequence of int
        The exchanges, in the order in which they begin and end.
    chunks : sequence of list of int
        For each of them, the chunks of θ whose gradient is complete when it has ended.
    needed : sequence of int
        For each layer, from the input, how many exchanges have to end before this slice of its θ
        can be updated.
    """

    numbers: Sequence[int]
    chunks: Sequence[list[int]]
    needed: Sequence[int]


def order_exchanges(
    plan: ReductionPlan, chunks: Sequence[slice], layers: Sequence[Interval], early: int
) -> ExchangeOrder:
    """Return the order in which the first `early` exchanges are in the order of backprop.

    Parameters
    ----------
    plan : ReductionPlan
    chunks : sequence of slice
        Of θ: what is updated at once.
    layers : sequence of Interval
        Of θ, from the input to the output.
    early : int
        len(plan.exchanges) for that of backprop.
    """
    late = sorted(range(early, len(plan.exchanges)), key=lambda i: plan.exchanges[i].part)
    numbers = [*range(min(early, len(plan.exchanges))), *late]
    parts = [plan.exchanges[i].part for i in numbers]
    found: list[list[int]] = [[] for _ in parts]
    needed, first = [0] * len(layers), plan.owned[0]
    for i, chunk in enumerate(chunks if parts else ()):
        last = max(
            j for j, (start, stop) in enumerate(parts)
            if first + start < chunk.stop and first + stop > chunk.start
        )  # fmt: skip
        found[last].append(i)
        for l, (start, stop) in enumerate(layers):
            if start < chunk.stop and stop > chunk.start:
                needed[l] = max(needed[l], last + 1)
    return ExchangeOrder(numbers, found, needed)


def forward_times(sizes: Sequence[int], compute: float) -> list[float]:
    """Return the seconds of each layer's forward pass, from the input.

    Parameters
    ----------
    sizes : sequence of int
        Of the layers.
    compute : float
        Seconds of the forward pass and backprop.
    """
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    # A third of the products is the forward pass; BP4 and BP2 take as long, but for the first BP2.
    second = compute / (3 * sum(products) - products[0])
    return [product * second for product in products]


def completion_times(sizes: Sequence[int], compute: float) -> list[float]:
    """Return when 1, 2, … L layers of the gradient are complete, counted from the output.

    The clock is 0 at the begin of the forward pass. Parameters are those of `forward_times`.
    """
    layers = forward_times(sizes, compute)
    return [
        sum(layers) + sum(layers[l:]) + sum(layers[l + 1 :]) for l in reversed(range(len(layers)))
    ]


def count_early(
    exchanges: Sequence[ExchangePlan], complete: Sequence[float], seconds: float
) -> int:
    """Return how many exchanges can begin during backprop.

    Parameters
    ----------
    exchanges : sequence of ExchangePlan
    complete : sequence of float
        See `completion_times`.
    seconds : float
        Of all exchanges, one after the other.
    """
    width = sum(stop - start for start, stop in (one.part for one in exchanges))
    sent = 0.0
    for i, one in enumerate(exchanges):
        began = max(sent, complete[one.depth - 1])
        if began >= complete[-1]:
            return i
        sent = began + (one.part[1] - one.part[0]) / width * seconds
    return len(exchanges)
