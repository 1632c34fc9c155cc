"""How much two arrays of equal shape and type differ: absolutely, relatively, and in ulp.

An ulp, a unit in the last place, is the distance to the next floating-point number: a difference of
a few comes from rounding, in another order of additions or by other kernels. Numbers are equal if
their bits are: 0 and −0 are not, a NaN is equal to the same NaN.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from distbp.network.parameters import layer_views

_BLOCK = 1 << 20  # numbers that are compared at once, in float64


@dataclass(frozen=True)
class ArrayDifference:
    """How two arrays differ.

    Attributes
    ----------
    count, size : int
        The numbers that differ, of how many.
    absolute : float
        The largest |a − b|; infinite if one of them is not finite.
    relative : float
        The largest |a − b| / max(|a|, |b|).
    ulp : int
        The largest number of steps from one floating-point number to the next, from a to b.
    """

    count: int
    size: int
    absolute: float
    relative: float
    ulp: int

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields for JSON, which has no infinity: None stands for it."""
        values = asdict(self)
        return {name: one if math.isfinite(one) else None for name, one in values.items()}


def compare_arrays(a: np.ndarray, b: np.ndarray) -> ArrayDifference | None:
    """Return how two arrays of float32 or float64 differ; None if they are equal bit for bit."""
    a, b = a.reshape(-1), b.reshape(-1)
    count, absolute, relative, ulp = 0, 0.0, 0.0, 0
    for start in range(0, a.size, _BLOCK):
        one, other = (np.ascontiguousarray(x[start : start + _BLOCK]) for x in (a, b))
        differs = _bits(one) != _bits(other)
        if differs.any():
            found = _compare_differing(one[differs], other[differs])
            count += int(differs.sum())
            absolute, relative = max(absolute, found[0]), max(relative, found[1])
            ulp = max(ulp, found[2])
    return ArrayDifference(count, a.size, absolute, relative, ulp) if count else None


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


def _compare_differing(a: np.ndarray, b: np.ndarray) -> tuple[float, float, int]:
    """Return the largest absolute and relative difference, and the largest in ulp."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        absolute = np.abs(wide_a - wide_b)
        larger = np.maximum(np.abs(wide_a), np.abs(wide_b))
        relative = np.divide(absolute, larger, out=np.zeros_like(absolute), where=larger > 0)
    order_a, order_b = _order(a), _order(b)
    steps = np.where(order_a > order_b, order_a - order_b, order_b - order_a)
    return _largest(absolute), _largest(relative), int(steps.max())


def _largest(values: np.ndarray) -> float:
    """Return the largest value; a NaN, of numbers that are not finite, is infinite."""
    largest = float(values.max())  # a NaN, if there is one
    return math.inf if math.isnan(largest) else largest


def _order(array: np.ndarray) -> np.ndarray:
    """Return integers, uint64, in the order of the numbers: neighbours differ by 1."""
    bits = _bits(array)
    sign = bits.dtype.type(1 << (8 * array.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign).astype(np.uint64)


def arrays_of_layers(
    sizes: Sequence[int], vectors: Mapping[str, np.ndarray]
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield layer, counted from 1, name and array of all weights and biases, layer by layer.

    Parameters
    ----------
    sizes : sequence of int
    vectors : dict of (P,) arrays
        With the layout of θ. The key of θ is empty, that of others what follows `weights` in the
        name of an array, such as ` of the moving average`.
    """
    views = {what: layer_views(vector, sizes) for what, vector in vectors.items()}
    for l in range(len(sizes) - 1):
        for what, (biases, weights) in views.items():
            yield l + 1, f"weights{what}", weights[l]
            yield l + 1, f"biases{what}", biases[l]


def state_vectors(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the optimizer's arrays, by their names for `arrays_of_layers`."""
    return {f" of the optimizer's {name}": array for name, array in state.items()}
