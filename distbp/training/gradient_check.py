"""Whether backpropagation agrees with finite differences, layer by layer, in float64.

For each array of weights or biases, along some random directions d, ∇C·d is compared with
(C(θ + hd) − C(θ − hd)) / 2h. Two evaluations check any number of parameters at once, as a wrong
derivative of any of them shows in nearly every direction. A kink, such as relu's at 0, may lie
between the two points: so the smallest error of several h counts, and the median over directions.
Source: D. Maclaurin et al., autograd, `test_util.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np

from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet, Split
from distbp.network import rng
from distbp.network.dropout import Dropout
from distbp.network.network import Network
from distbp.network.parameters import layer_views
from distbp.training.config import Config

TOLERANCE = 1e-5  # relative
_ROWS = 8
_DIRECTIONS = 5
_MANY_NUMBERS = 10_000_000  # of all directions of an array; drawing them takes longest
_STEPS = (1e-4, 1e-5, 1e-6)
_SEED = 2
# Biases of 0 are where relu has its kink for rows of zeros, and where all rows are alike.
_BIAS_DEVIATION = 0.1
_ROUNDING = 8 * np.finfo(np.float64).eps  # of a cost, relative


@dataclass(frozen=True)
class LayerError:
    """The error of the gradient of one array.

    Attributes
    ----------
    layer : int
        Counted from 1.
    array : {'weights', 'biases'}
    error : float
        Relative.
    """

    layer: int
    array: str
    error: float


@dataclass(frozen=True)
class GradientCheck:
    """The result for a network.

    Attributes
    ----------
    rows : int
        That it was made with.
    errors : list of LayerError
        Of all arrays, in the order of the layers.
    """

    rows: int
    errors: list[LayerError]

    @property
    def worst(self) -> LayerError:
        """The array with the largest error."""
        return max(self.errors, key=lambda one: one.error)

    @property
    def is_right(self) -> bool:
        """Whether all errors are within the tolerance."""
        return self.worst.error <= TOLERANCE


def check_gradient(
    network: Network, config: Config, data: DataSet, rows: Split, weights: np.ndarray | None
) -> GradientCheck:
    """Compare the gradient of the network's cost on a few rows with finite differences.

    Parameters
    ----------
    network : Network
        Its shape, functions and initial weights are used.
    config : Config
        With nothing left open.
    data : DataSet
    rows : Split
        The training rows of it.
    weights : (n,) float64 array, optional
        Of the rows of train.
    """
    count, wide = min(_ROWS, len(rows)), np.dtype(np.float64)
    numbers = rows.numbers(0, count)
    loader = BatchLoader(
        rows, data.scaling, data.n_classes, count, wide, data.target, config.label_smoothing,
        weights,
    )  # fmt: skip
    x, y, _ = loader.load(numbers)
    cost = _CostOfRows(_double(network), x, y, loader.load_weights(numbers), config)
    with np.errstate(all="ignore"):
        errors = [LayerError(*found) for found in cost.errors()]
    return GradientCheck(count, errors)


def _double(network: Network) -> Network:
    """Return the network in float64, with biases that are not 0, and a cost without units."""
    theta = network.theta.astype(np.float64)
    found = Network(
        network.sizes, network.activation, network.cost_name, network.output, dtype="float64",
        theta=theta,
    )  # fmt: skip
    for l, b in enumerate(found.biases):
        b += _BIAS_DEVIATION * rng.normal(_SEED, l, b.size)
    return found


class _CostOfRows:
    """The cost of some rows as a function of θ, which is moved in place."""

    def __init__(
        self,
        network: Network,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        config: Config,
    ) -> None:
        self._network, self._x, self._y, self._weights = network, x, y, weights
        self._work = network.workspace(len(x))
        if config.dropout:  # the same units are dropped in all evaluations
            Dropout(config.dropout, config.seed, self._work).draw(0, 0, 0)

    def _value(self) -> float:
        work, cost = self._work, self._network.cost
        self._network.feedforward(self._x, work)
        z, a, spare = work.z[-1], work.a[-1], work.spare[-1]
        if self._weights is None:
            return float(cost.fn(z, a, self._y, spare))
        return float(cost.weighted_fn(z, a, self._y, self._weights, spare))

    def errors(self) -> Iterator[tuple[int, str, float]]:
        """Yield layer, name and relative error of each array."""
        network = self._network
        out = layer_views(np.empty_like(network.theta), network.sizes)
        network.backprop(self._x, self._y, out, self._work, self._weights)
        stream = len(network.biases)  # those before it have moved the biases
        for l, (b, w) in enumerate(zip(network.biases, network.weights, strict=True)):
            for name, array, nabla in (("weights", w, out[1][l]), ("biases", b, out[0][l])):
                found = []
                for _ in range(max(1, min(_DIRECTIONS, _MANY_NUMBERS // array.size))):
                    direction = rng.normal(_SEED, stream, array.size).reshape(array.shape)
                    direction /= math.sqrt(array.size / len(b))  # z moves by about h
                    found.append(self._error(array, nabla, direction))
                    stream += 1
                yield l + 1, name, median(found)

    def _error(self, array: np.ndarray, nabla: np.ndarray, direction: np.ndarray) -> float:
        """Return the relative error along a direction; the smallest of several steps."""
        origin, derivative = array.copy(), float(np.vdot(nabla, direction))
        found = [math.inf]
        for h in _STEPS:
            values = []
            for sign in (1.0, -1.0):
                np.multiply(direction, sign * h, out=array)
                np.add(array, origin, out=array)
                values.append(self._value())
            expected = (values[0] - values[1]) / (2 * h)
            error, scale = abs(derivative - expected), max(abs(derivative), abs(expected))
            if error > TOLERANCE * scale:  # of a gradient near 0, it may be the costs' rounding
                error = max(error - _ROUNDING * max(map(abs, values)) / h, 0.0)
            # Of a cost that is not finite, nothing is: max and min would pass over a NaN.
            if math.isfinite(sum(values) + derivative):
                found.append(error / scale if scale else 0.0)
        np.copyto(array, origin)
        return min(found)
