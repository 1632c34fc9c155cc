"""Backpropagation against finite differences, by hand, by the book, and against libraries.

The main check takes a random direction d in the space of θ and compares the slope of
the whole cost along d, from two evaluations, with nabla · d: any wrong number in any
of BP1-BP4 shows, whatever the number of parameters. The check itself is tested, too: with one
term wrong it has to fail.
"""

from math import log

import numpy as np
import pytest

from distbp.errors import ConfigError
from distbp.network.activations import ACTIVATIONS, HIDDEN
from distbp.network.costs import COSTS, OUTPUTS, Cost
from distbp.network.dropout import Dropout
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameters import layer_views, theta_size
from distbp.network.update import Update

PAIRS = [(cost, output) for cost, outputs in OUTPUTS.items() for output in outputs]
SHAPES = [(5, 3), (1, 1), (4, 1, 2), (3, 7, 1), (6, 5, 4, 3), (2, 3, 3, 3, 2)]
ROWS = [1, 2, 17]


def make(sizes, activation="tanh", cost="log-likelihood", output=None, dtype="float64", seed=1):
    """Return a network with non-zero biases."""
    return Network(sizes, activation, cost, output, init="large", seed=seed, dtype=dtype)


def rows(network, m, seed=2):
    """Return m rows of x, and y that fit the cost."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, network.sizes[0]))
    if network.output == "linear":
        return x, rng.normal(size=(m, network.sizes[-1]))
    return x, np.eye(network.sizes[-1])[rng.integers(0, network.sizes[-1], m)]


def total_cost(network, x, y, work=None, weights=None):
    work = work or network.workspace(len(x))
    a = network.feedforward(x, work)
    if weights is None:
        return network.cost.fn(work.z[-1], a, y)
    return network.cost.weighted_fn(work.z[-1], a, y, weights)


def flat(network, x, y, work=None, **more):
    """Return the gradient as one vector."""
    vector = np.full_like(network.theta, np.nan)
    network.backprop(x, y, layer_views(vector, network.sizes), work, **more)
    return vector


def check_gradient(network, x, y, work=None, **more):
    """Compare nabla · d with the slope of the cost along three random directions d."""
    theta, h = network.theta.copy(), 1e-6
    nabla = flat(network, x, y, work, **more)
    rng = np.random.default_rng(3)
    for _ in range(3):
        d = rng.normal(size=theta.size)
        costs = []
        for sign in (1, -1):
            network.theta[...] = theta + sign * h * d
            costs.append(total_cost(network, x, y, work, **more))
        network.theta[...] = theta
        slope = (costs[0] - costs[1]) / (2 * h)
        scale = np.linalg.norm(nabla) * np.linalg.norm(d) + len(x)
        assert abs(nabla @ d - slope) < 1e-8 * scale


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize(("cost", "output"), PAIRS)
@pytest.mark.parametrize("activation", HIDDEN)
def test_bp1_bp2_bp3_bp4_along_random_directions(activation, cost, output, sizes, m):
    """For every activation, cost, shape and number of rows the gradient is the slope."""
    network = make(sizes, activation, cost, output)
    check_gradient(network, *rows(network, m))


@pytest.mark.parametrize("sizes", [(5, 3), (4, 1, 2), (3, 7, 1)], ids=str)
@pytest.mark.parametrize(("cost", "output"), PAIRS)
def test_weighted_rows(cost, output, sizes):
    """The gradient is that of the weighted cost; a weight of 2 is the row twice, 0 is none."""
    network = make(sizes, "tanh", cost, output)
    x, y = rows(network, 5)
    counts = np.array([1, 2, 0, 1, 3])
    weights = np.repeat(counts[:, np.newaxis], sizes[-1], axis=1).astype(float)
    check_gradient(network, x, y, weights=weights)
    twice = x.repeat(counts, axis=0), y.repeat(counts, axis=0)
    np.testing.assert_allclose(flat(network, x, y, weights=weights), flat(network, *twice))
    found = total_cost(network, x, y, weights=weights)
    assert found == pytest.approx(total_cost(network, *twice))
    # Row by row, as for a cost that has no faster way.
    a = network.feedforward(x, work := network.workspace(5))
    assert Cost.weighted_fn(network.cost, work.z[-1], a, y, weights) == pytest.approx(found)
    assert (flat(network, x, y, weights=np.ones((5, 1))) == flat(network, x, y)).all()


@pytest.mark.parametrize("cost", ["quadratic", "huber", "mae"])
def test_weighted_costs_in_units(cost):
    """Of several outputs, in the user's units."""
    network = make((2, 3), cost=cost, output="linear")
    network.use_target_units(np.array([1.0, 4.0, 2.0]))
    x, y = rows(network, 4)
    weights, counts = np.repeat([[1.0], [2.0], [0.0], [1.0]], 3, axis=1), [1, 2, 0, 1]
    expected = total_cost(network, x.repeat(counts, axis=0), y.repeat(counts, axis=0))
    assert total_cost(network, x, y, weights=weights) == pytest.approx(expected)


def spoil_delta(monkeypatch):
    monkeypatch.setattr(
        COSTS["quadratic"], "delta", lambda self, a, y, out, spare: np.subtract(a, y, out=out)
    )


def spoil_prime(monkeypatch):
    monkeypatch.setattr(
        ACTIVATIONS["tanh"], "prime", lambda self, a, out, z: np.subtract(1.0, a, out=out)
    )


def spoil_nabla(which):
    right = Network.backprop

    def backprop(self, x, y, out=None, work=None, weights=None):
        out = right(self, x, y, out, work, weights)
        out[which][0][...] *= 1.001
        return out

    return lambda monkeypatch: monkeypatch.setattr(Network, "backprop", backprop)


SPOILED = {"BP1": spoil_delta, "BP2": spoil_prime, "BP3": spoil_nabla(0), "BP4": spoil_nabla(1)}


@pytest.mark.parametrize("tag", SPOILED)
def test_the_check_fails_when_one_term_is_wrong(tag, monkeypatch):
    """A missing σ′, or a gradient that is off by a thousandth, is detected."""
    network = make((4, 3, 2), cost="quadratic")
    x, y = rows(network, 5)
    check_gradient(network, x, y)
    SPOILED[tag](monkeypatch)
    with pytest.raises(AssertionError):
        check_gradient(network, x, y)


def by_hand(cost):
    """Return a 2-2-1 sigmoid net in which every z is ln 3 or −ln 3, so every σ 3/4 or 1/4."""
    network = Network((2, 2, 1), "sigmoid", cost, dtype="float64")
    network.weights[0][...] = [[1.0, 0.5], [-1.0, 0.0]]  # w x = (2, −1) for x = (1, 2)
    network.biases[0][...] = [log(3) - 2, -log(3) + 1]
    network.weights[1][...] = [[2.0, -4.0]]  # w a = 2 · 3/4 − 4 · 1/4 = 1/2
    network.biases[1][...] = [log(3) - 0.5]
    return network


def test_bp1_bp2_bp3_bp4_by_hand():
    """The quadratic cost of one row, worked out with fractions."""
    network = by_hand("quadratic")
    x, y = np.array([[1.0, 2.0]]), np.array([[1.0]])
    assert network.feedforward(x) == pytest.approx(np.array([[3 / 4]]), rel=1e-15)
    assert total_cost(network, x, y) == pytest.approx(1 / 32, rel=1e-14)
    nabla_b, nabla_w = network.backprop(x, y)
    # BP1: (3/4 − 1) · 3/16 = −3/64, and BP2: (2, −4) · −3/64 · 3/16 = (−9/512, 9/256).
    for found, expected in (
        (nabla_b[1], [-3 / 64]),  # BP3
        (nabla_w[1], [[-9 / 256, -3 / 256]]),  # BP4: −3/64 · (3/4, 1/4)
        (nabla_b[0], [-9 / 512, 9 / 256]),
        (nabla_w[0], [[-9 / 512, -9 / 256], [9 / 256, 9 / 128]]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_bp1_bp2_bp3_bp4_by_hand_with_cross_entropy():
    """The same net where σ′ cancels in BP1: every gradient is 16/3 times as large."""
    network = by_hand("cross-entropy")
    x, y = np.array([[1.0, 2.0]]), np.array([[1.0]])
    assert total_cost(network, x, y) == pytest.approx(log(4 / 3), rel=1e-14)
    nabla_b, nabla_w = network.backprop(x, y)
    for found, expected in (
        (nabla_b[1], [-1 / 4]),
        (nabla_w[1], [[-3 / 16, -1 / 16]]),
        (nabla_b[0], [-3 / 32, 3 / 16]),
        (nabla_w[0], [[-3 / 32, -3 / 16], [3 / 16, 3 / 8]]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def gelu_prime(z):
    """Return the slope of ½ z (1 + tanh u)."""
    k = np.sqrt(2 / np.pi)
    u = k * (z + 0.044715 * z**3)
    return (1 + np.tanh(u)) / 2 + z / 2 / np.cosh(u) ** 2 * k * (1 + 3 * 0.044715 * z**2)


PRIMES = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.where(z > 0, z, 0.0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "leaky-relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(z)), lambda z: np.exp(np.minimum(z, 0.0))),
    "gelu": (
        lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))), gelu_prime,
    ),
    "silu": (
        lambda z: z / (1 + np.exp(-z)), lambda z: (1 + np.exp(-z) * (1 + z)) / (1 + np.exp(-z)) ** 2
    ),
    "softplus": (lambda z: np.log1p(np.exp(z)), lambda z: 1 / (1 + np.exp(-z))),
    "linear": (lambda z: z, np.ones_like),
}  # fmt: skip


def by_the_book(network, x, y):
    """Return (nabla_b, nabla_w) as chapter 2 has it: columns, one example after the other."""
    sigma, sigma_prime = PRIMES[network.activation]
    sum_b = [np.zeros((len(b), 1)) for b in network.biases]
    sum_w = [np.zeros_like(w) for w in network.weights]
    for example in range(len(x)):
        a = [x[example][:, None]]
        z = []
        for b, w in zip(network.biases, network.weights, strict=True):
            z.append(w @ a[-1] + b[:, None])
            a.append(sigma(z[-1]))
        target, z_out = y[example][:, None], z[-1]
        if network.output == "softmax":
            delta = np.exp(z_out) / np.exp(z_out).sum() - target
        elif network.cost_name == "cross-entropy":
            delta = PRIMES["sigmoid"][0](z_out) - target
        else:
            f, f_prime = PRIMES[network.output]
            error = f(z_out) - target
            slope = {"huber": np.clip(error, -1, 1), "mae": np.where(error > 0, 1.0, -1.0)}
            delta = slope.get(network.cost_name, error) * f_prime(z_out)  # BP1
        for l in range(1, len(network.sizes)):
            if l > 1:
                delta = (network.weights[-l + 1].T @ delta) * sigma_prime(z[-l])  # BP2
            sum_b[-l] += delta  # BP3
            sum_w[-l] += delta @ a[-l - 1].T  # BP4
    return [b[:, 0] for b in sum_b], sum_w


@pytest.mark.parametrize(("cost", "output"), PAIRS)
@pytest.mark.parametrize("activation", HIDDEN)
def test_bp1_bp2_bp3_bp4_example_by_example(activation, cost, output):
    """A whole batch at once gives what the book's loop over examples gives."""
    network = make((4, 5, 3, 2), activation, cost, output)
    x, y = rows(network, 6)
    for found, expected in zip(network.backprop(x, y), by_the_book(network, x, y), strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("cost", "output"), PAIRS)
@pytest.mark.parametrize("activation", HIDDEN)
def test_float32_is_close_to_float64(activation, cost, output):
    """Gradients in single precision agree to its accuracy."""
    exact = make((9, 8, 4), activation, cost, output)
    rough = make((9, 8, 4), activation, cost, output, dtype="float32")
    exact.theta[...] = rough.theta
    x, y = (part.astype(np.float32) for part in rows(exact, 17))
    nabla = flat(exact, x, y)
    error = np.linalg.norm(flat(rough, x, y) - nabla) / np.linalg.norm(nabla)
    assert error < 3e-6


def test_gradients_are_sums_over_rows():
    """Nothing is divided by the number of rows: parts of a batch add up."""
    network = make((4, 3, 2))
    x, y = rows(network, 7)
    parts = flat(network, x[:2], y[:2]) + flat(network, x[2:], y[2:])
    np.testing.assert_allclose(flat(network, x, y), parts, rtol=1e-12)
    assert not flat(network, x[:0], y[:0]).any()


# θ and its views.


def test_theta_holds_weights_then_biases_layer_by_layer():
    """Views are of θ itself, in the documented order and shapes."""
    network = Network((2, 3, 1), dtype="float64")
    network.theta[...] = np.arange(13)
    assert network.theta.size == theta_size((2, 3, 1)) == 13
    np.testing.assert_array_equal(network.weights[0], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(network.biases[0], [6, 7, 8])
    np.testing.assert_array_equal(network.weights[1], [[9, 10, 11]])
    np.testing.assert_array_equal(network.biases[1], [12])
    network.weights[1][0, 2] = -1
    assert network.theta[11] == -1


def test_bind_uses_the_given_array():
    """Without a copy: the owner of θ, such as a node's shared memory, sees every change."""
    network, theta = make((2, 3, 1)), np.zeros(13)
    network.bind(theta)
    network.biases[1][0] = 5
    assert network.theta is theta
    assert theta[12] == 5


def test_out_and_work_are_filled_and_returned():
    """Given buffers are used; without them the result is the same."""
    network = make((4, 3, 2))
    x, y = rows(network, 5)
    out, work = layer_views(np.zeros_like(network.theta), network.sizes), network.workspace(5)
    nabla_b, nabla_w = network.backprop(x, y, out, work)
    assert nabla_b is out[0]
    assert nabla_w is out[1]
    fresh_b, fresh_w = network.backprop(x, y)
    for one, other in zip(nabla_b + nabla_w, fresh_b + fresh_w, strict=True):
        np.testing.assert_array_equal(one, other)
    assert network.feedforward(x, work) is work.a[-1]
    np.testing.assert_array_equal(network.feedforward(x), work.a[-1])


def test_backprop_leaves_theta_and_data_alone():
    """A gradient changes neither the parameters nor the rows."""
    network = make((4, 3, 2))
    x, y = rows(network, 5)
    before = network.theta.copy(), x.copy(), y.copy()
    network.backprop(x, y)
    for now, then in zip((network.theta, x, y), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("activation", HIDDEN)
def test_backprop_allocates_nothing(activation, peak):
    """With given buffers, a pass over layers of 1 MB allocates a few numbers per row."""
    network = make((300, 512, 512, 10), activation, dtype="float32")
    x, y = (part.astype(np.float32) for part in rows(network, 512))
    out, work = layer_views(np.zeros_like(network.theta), network.sizes), network.workspace(512)
    assert peak(lambda: network.backprop(x, y, out, work)) < 8_000


@pytest.mark.parametrize("activation", HIDDEN)
def test_z_and_a_share_memory_where_they_can(activation):
    """A hidden layer has one array for both, unless σ′ needs z."""
    work = make((4, 3, 2), activation).workspace(5)
    assert (work.z[0] is work.a[0]) == (activation not in ("gelu", "silu"))
    assert not np.shares_memory(work.z[1], work.a[1])


@pytest.mark.parametrize("activation", HIDDEN[2:])
def test_the_initial_gain_carries_through_many_layers(activation):
    """After 20 layers, outputs have neither vanished nor exploded."""
    network = Network((200,) * 21, activation, "quadratic", "linear", dtype="float64")
    work = network.workspace(100)
    network.feedforward(np.random.default_rng(0).normal(size=(100, 200)), work)
    assert 0.3 < np.square(work.a[-2]).mean() < 3


def huber(error, threshold):
    """Return Huber's function of errors: quadratic up to the threshold."""
    linear = threshold * (np.abs(error) - threshold / 2)
    return np.where(np.abs(error) <= threshold, error**2 / 2, linear)


IN_UNITS = {  # of the errors in the user's units, and these units
    "quadratic": lambda error, units: error**2 / 2,
    "huber": huber,
    "mae": lambda error, units: np.abs(error),
}


@pytest.mark.parametrize("units", [(7.0, 7.0, 7.0), (3e5, 0.02, 1e-3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cost", IN_UNITS)
def test_a_cost_in_units(cost, dtype, units):
    """It is that of targets in these units; the gradient is the same as without."""
    network = make((4, 5, 3), cost=cost, output="linear", dtype=dtype)
    x, y = rows(network, 6)
    work, before = network.workspace(6), flat(network, x, y)
    network.use_target_units(np.array(units))
    a = network.feedforward(x, work)
    found = network.cost.fn(work.z[-1], a, y.astype(dtype), work.spare[-1]) * network.cost.unit
    expected = IN_UNITS[cost]((a.astype("f8") - y) * units, np.array(units)).sum()
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(flat(network, x, y), before)


@pytest.mark.parametrize(("cost", "value", "unit"), [("quadratic", 0.5, 1e180), ("mae", 1, 1e90)])
def test_units_that_float32_cannot_represent(cost, value, unit):
    """The cost itself stays small: `unit` is a number of Python."""
    network = make((4, 2), cost=cost, output="linear", dtype="float32")
    network.use_target_units(np.array([1e90, 1e60]))
    one = np.ones((1, 2), np.float32)
    assert network.cost.fn(one, 0 * one, one) == pytest.approx(value)
    assert network.cost.unit == pytest.approx(unit)


def test_only_costs_of_a_regression_have_units():
    """A cross-entropy has none."""
    with pytest.raises(ConfigError, match="'cross-entropy': only the costs of a regression have"):
        make((4, 2), cost="cross-entropy").use_target_units(np.ones(2))


def placed(array, offset):
    """Return a copy of an array, `offset` bytes from the start of a cache line."""
    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(784, 30, 10), (4, 1, 2), (33, 17, 1)], ids=str)
@pytest.mark.parametrize(("cost", "output"), PAIRS)
def test_bits_do_not_depend_on_addresses(cost, output, sizes, dtype):
    """A shard's gradient has the same bits wherever a rank's buffers are."""
    network = make(sizes, "sigmoid", cost, output, dtype)
    theta, size = network.theta, network.theta.itemsize
    for m in (1, 7, 32):
        x, y = (part.astype(dtype) for part in rows(network, m))
        found = set()
        for offset in (0, size, 3 * size, 32, 64 - size):
            network.bind(placed(theta, offset))
            work, out = network.workspace(m), placed(np.empty_like(theta), 3 * offset % 64)
            work.delta, work.spare = (
                [placed(array, offset) for array in arrays] for arrays in (work.delta, work.spare)
            )
            network.backprop(placed(x, offset), placed(y, offset), layer_views(out, sizes), work)
            cost_of_rows = network.cost.fn(work.z[-1], work.a[-1], y, work.spare[-1])
            found.add((out.tobytes(), cost_of_rows))
        assert len(found) == 1


def test_bytes_and_lists_are_taken_too():
    """x may be of another dtype: it is converted, not reinterpreted."""
    network = make((2, 2))
    expected = network.feedforward(np.array([[1.0, 200.0]]))
    np.testing.assert_array_equal(network.feedforward(np.array([[1, 200]], np.uint8)), expected)
    np.testing.assert_array_equal(network.feedforward([[1, 200]]), expected)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 5)), np.ones((2, 2)), r"x has shape \(2, 5\); expected \(rows, 4\)"),
        (np.ones(4), np.ones((1, 2)), r"x has shape \(4,\)"),
        (np.ones((2, 4)), np.ones((2, 3)), r"y has shape \(2, 3\); expected \(rows, 2\)"),
        (np.ones((2, 4)), np.ones((1, 2)), "y has"),
        (np.ones((2, 4)), np.ones((3, 2)), "y has"),
    ],
)
def test_wrong_shapes(x, y, message):
    """Rows of another width, and y with another number of rows, are refused."""
    with pytest.raises(ConfigError, match=message):
        make((4, 3, 2)).backprop(x, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (3,)}, "two or more layers"),
        ({"sizes": (3, 0, 2)}, "1 or more units"),
        ({"sizes": (3, 2.5)}, "sizes"),
        ({"seed": -1}, "seed -1"),
        ({"activation": "softmax"}, "activation 'softmax' is unknown; use one of sigmoid, tanh"),
        ({"cost": "hinge"}, "cost 'hinge'"),
        ({"init": "zero"}, "init 'zero'"),
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"cost": "cross-entropy", "output": "softmax"}, "goes with sigmoid"),
        ({"cost": "quadratic", "output": "softmax"}, "goes with sigmoid or linear"),
        ({"cost": "log-likelihood", "output": "linear"}, "goes with softmax"),
        ({"cost": "huber", "output": "sigmoid"}, "goes with linear"),
    ],
)
def test_invalid_networks(arguments, message):
    """Sizes, names and pairs are refused with the values that are allowed."""
    with pytest.raises(ConfigError, match=message):
        Network(**{"sizes": (3, 2)} | arguments)


# Initial weights.


@pytest.mark.parametrize(
    ("activation", "gain"), [("relu", 2), ("sigmoid", 1), ("tanh", 1), ("silu", 2.43)]
)
def test_scaled_init(activation, gain):
    """Weights have mean 0 and variance gain/n_in, the last layer's 1/n_in; biases are 0."""
    network = Network((200, 300, 100), activation, init="scaled", dtype="float64")
    for w, variance in zip(network.weights, (gain / 200, 1 / 300), strict=True):
        assert abs(w.mean()) < 4 * np.sqrt(variance / w.size)
        assert w.var() == pytest.approx(variance, rel=0.04)
    assert not any(b.any() for b in network.biases)


def test_large_init():
    """Weights and biases are N(0, 1): three in a thousand lie beyond 3."""
    network = Network((300, 300), init="large", dtype="float64")
    theta = network.theta
    assert abs(theta.mean()) < 4 / np.sqrt(theta.size)
    assert theta.std() == pytest.approx(1, rel=0.01)
    assert np.mean(np.abs(theta) > 3) == pytest.approx(0.0027, rel=0.2)
    assert np.unique(network.biases[0]).size == 300


def test_seeds():
    """Equal seeds give equal θ; different seeds and layers give different numbers."""
    one, same, other = (make((5, 5, 5), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.theta, same.theta)
    assert not np.isin(one.theta, other.theta).any()
    assert np.unique(one.theta).size == one.theta.size
    one.theta.fill(0)
    one.reset()
    np.testing.assert_array_equal(one.theta, same.theta)


# Dropout.


def test_dropout_keeps_the_mean():
    """Units are kept with probability 1 − p and then scaled by 1/(1 − p)."""
    work = make((2, 400, 300, 2)).workspace(20)
    Dropout(0.3, 1, work).draw(0, 0, 0)
    for keep in work.keep:
        assert np.unique(keep) == pytest.approx([0, 1 / 0.7], rel=1e-4)
        assert keep.mean() == pytest.approx(1, rel=0.04)


@pytest.mark.parametrize(("p", "kept"), [(1e-9, 1.0), (1 - 1e-9, 1 / 65536)])
def test_dropout_at_its_ends(p, kept):
    """A probability near 0 keeps all units; one near 1 does not divide by 0."""
    dropout = Dropout(p, 1, make((2, 50, 2)).workspace(9))
    assert dropout.scale == 1 / kept


def test_dropout_is_a_function_of_its_position():
    """The same epoch, step, shard and seed give the same units, any others different ones."""
    work = make((2, 40, 30, 2)).workspace(5)

    def draw(position, seed=1):
        Dropout(0.5, seed, work).draw(*position)
        return np.concatenate([keep.ravel() for keep in work.keep])

    first = draw((3, 4, 5))
    np.testing.assert_array_equal(draw((3, 4, 5)), first)
    for position in ((2, 4, 5), (3, 5, 5), (3, 4, 6), (4, 3, 5)):
        assert (draw(position) != first).any(), position
    assert (draw((3, 4, 5), seed=2) != first).any()


def test_dropout_of_an_earlier_draw_does_not_matter():
    """A shard's units do not depend on earlier uses of the buffers."""
    work = make((2, 40, 2)).workspace(5)
    dropout = Dropout(0.5, 1, work)
    dropout.draw(0, 0, 1)
    expected = work.keep[0].copy()
    dropout.draw(0, 0, 2)
    dropout.draw(0, 0, 1)
    np.testing.assert_array_equal(work.keep[0], expected)


@pytest.mark.parametrize("activation", HIDDEN)
def test_bp2_bp4_with_dropout(activation):
    """With fixed units a thinned network's gradient is the slope, too."""
    network = make((5, 8, 6, 3), activation)
    x, y = rows(network, 7)
    work = network.workspace(7)
    Dropout(0.4, 1, work).draw(0, 0, 0)
    assert total_cost(network, x, y, work) != total_cost(network, x, y)
    check_gradient(network, x, y, work)


# Steps equal those of other libraries, for the rules and functions that they have too.

TORCH_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "rmsprop": "RMSprop"}
PEER_OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")
PEER_ACTIVATIONS = ("sigmoid", "tanh", "relu")  # scikit-learn has no others


def torch_optimizer(torch, name, layers, l2):
    """Return PyTorch's optimizer of that name; weight decay is for weights only, as here.

    It is an L2 penalty but for adamw.
    """
    groups = [
        {"params": [layer.weight for layer in layers], "weight_decay": l2},
        {"params": [layer.bias for layer in layers], "weight_decay": 0.0},
    ]
    if name in TORCH_OPTIMIZERS:
        return getattr(torch.optim, TORCH_OPTIMIZERS[name])(groups, lr=0.01)
    momentum = 0.0 if name == "sgd" else 0.9
    return torch.optim.SGD(groups, lr=0.01, momentum=momentum, nesterov=name == "nesterov")


@pytest.fixture
def torch():
    """Return PyTorch, whose default type is float64: NAdam has a scalar of this type."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", [*PEER_OPTIMIZERS[:3], *TORCH_OPTIMIZERS])
@pytest.mark.parametrize("cost", ["log-likelihood", "quadratic"])
def test_steps_are_those_of_pytorch(torch, cost, name):
    """Five steps with L2, or weight decay, give PyTorch's weights to the last digits of float64."""
    network = make((6, 5, 4, 3), "sigmoid", cost, "linear" if cost == "quadratic" else None)
    x, y = rows(network, 8)
    l2 = 0.02
    layers = [
        torch.nn.Linear(n_in, n_out, dtype=torch.float64)
        for n_in, n_out in zip(network.sizes[:-1], network.sizes[1:], strict=True)
    ]
    with torch.no_grad():
        for layer, b, w in zip(layers, network.biases, network.weights, strict=True):
            layer.weight.copy_(torch.tensor(w))
            layer.bias.copy_(torch.tensor(b))
    optimizer = torch_optimizer(torch, name, layers, l2)
    penalty = {"weight_decay": l2} if name == "adamw" else {"l2": l2}
    update = Update(network, OPTIMIZERS[name](0.9), **penalty)
    for _ in range(5):
        a = torch.tensor(x)
        for layer in layers[:-1]:
            a = torch.sigmoid(layer(a))
        z, target = layers[-1](a), torch.tensor(y)
        if cost == "quadratic":
            loss = 0.5 * torch.square(z - target).sum() / len(x)
        else:
            loss = torch.nn.functional.cross_entropy(z, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update.apply(flat(network, x, y), len(x), 0.01)
    for layer, b, w in zip(layers, network.biases, network.weights, strict=True):
        np.testing.assert_allclose(w, layer.weight.detach().numpy(), rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(b, layer.bias.detach().numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", PEER_OPTIMIZERS)
@pytest.mark.parametrize("activation", PEER_ACTIVATIONS)
def test_a_step_is_that_of_sklearn(activation, name):
    """One step of scikit-learn's MLPClassifier, its L2 included, gives the same weights.

    Its alpha is divided by the rows of the mini-batch, ours by the training examples.
    """
    neural_network = pytest.importorskip("sklearn.neural_network")
    alpha, rate, m = 0.3, 0.05, 12
    network = make((6, 5, 3), activation)
    x, y = rows(network, m)
    other = neural_network.MLPClassifier(
        (5,),
        {"sigmoid": "logistic"}.get(activation, activation),
        solver="adam" if name == "adam" else "sgd",
        alpha=alpha,
        batch_size=m,
        learning_rate_init=rate,
        momentum=0.0 if name == "sgd" else 0.9,
        nesterovs_momentum=name == "nesterov",
        epsilon=1e-8 * (1 - 0.999) ** 0.5,  # it adds ε before, not after, the bias correction
        shuffle=False,
    )
    labels = y.argmax(axis=1)
    other.partial_fit(x, labels, classes=[0, 1, 2])
    other.coefs_ = [w.T.copy() for w in network.weights]
    other.intercepts_ = [b.copy() for b in network.biases]
    del other._optimizer  # a new one, for these arrays
    other.partial_fit(x, labels)
    update = Update(network, OPTIMIZERS[name](0.9), l2=alpha / m)
    update.apply(flat(network, x, y), m, rate)
    for w, coefs in zip(network.weights, other.coefs_, strict=True):
        np.testing.assert_allclose(w.T, coefs, rtol=1e-11, atol=1e-14)
    for b, intercepts in zip(network.biases, other.intercepts_, strict=True):
        np.testing.assert_allclose(b, intercepts, rtol=1e-11, atol=1e-14)
