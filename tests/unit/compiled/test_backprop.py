"""The gradient of a shard by kernels: that of `Network.backprop`, for every combination."""

import numpy as np
import pytest

from distbp.compiled import product_choice
from distbp.network.activations import HIDDEN
from distbp.network.costs import OUTPUTS, RegressionCost
from distbp.network.dropout import Dropout
from distbp.network.network import Network
from distbp.network.parameters import layer_views
from distbp.training.accuracy import count_correct

from .networks import PAIRS, gradient, layer_parts, targets

ROWS, SIZES = 9, (11, 8, 21, 5)
# Of a layer's largest number: in the network's type, and of the cost.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def reference(network, x, y, labels, task, weights=None, dropout=None):
    """Return what `gradient` returns, computed by NumPy."""
    work, found = network.workspace(len(x)), np.empty_like(network.theta)
    if dropout is not None:
        dropout(work)
    wide = None if weights is None else np.repeat(weights[:, np.newaxis], y.shape[1], axis=1)
    network.backprop(x, y, layer_views(found, network.sizes), work, wide)
    z, a = work.z[-1], work.a[-1]
    correct = 0 if task == "regression" else count_correct(task, a, y, labels)
    if wide is None:
        return found, network.cost.fn(z, a, y), correct
    return found, network.cost.weighted_fn(z, a, y, wide), correct


def in_float64(network):
    """Return a network of the same parameters."""
    return Network(network.sizes, network.activation, network.cost_name, network.output,
                   dtype="float64", theta=network.theta.astype(np.float64))  # fmt: skip


def check(network, x, y, labels, task, weights=None, units=None, keep=None, dropout=None):
    """Assert that both gradients, costs and counts agree.

    In float32 both round: there the kernels' error may be that of NumPy's result.
    """
    exact_network = in_float64(network)
    for one in (network, exact_network):
        if units is not None:
            one.use_target_units(1 / units)
    unit_weights = getattr(network.cost, "unit_weights", None)
    arrays = [np.asarray(one, network.dtype) for one in (x, y)]
    found = gradient(network, *arrays, labels, task, weights, unit_weights, keep)
    numpys = reference(network, *arrays, labels, task, weights, dropout)
    wide = [one.astype(np.float64) for one in arrays]
    if weights is not None:
        weights = weights.astype(np.float64)
    exact = reference(exact_network, *wide, labels, task, weights, dropout)
    tolerance = TOLERANCE[network.dtype.name]
    assert np.isfinite(found[0]).all()
    parts = (layer_parts(one[0], network.sizes) for one in (found, numpys, exact))
    for mine, other, true in zip(*parts, strict=True):
        allowed = max(tolerance * np.abs(true).max(), 2 * np.abs(other - true).max())
        assert np.abs(mine - true).max() <= allowed
    assert found[1] == pytest.approx(exact[1], rel=tolerance)
    assert found[2] == numpys[2]


def make_network(activation, cost, output, dtype, sizes=SIZES):
    network = Network(sizes, activation, cost, output, seed=3, dtype=dtype)
    network.theta += np.random.default_rng(1).normal(0, 0.1, network.theta.size).astype(dtype)
    return network


def test_all_costs_have_their_pairs():
    assert set(PAIRS) == {(cost, output) for cost, outputs in OUTPUTS.items() for output in outputs}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", HIDDEN)
def test_every_activation_and_cost(activation, dtype):
    """With every output layer."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((ROWS, SIZES[0]))
    for (cost, output), task in PAIRS.items():
        network = make_network(activation, cost, output, dtype)
        check(network, x, *targets(task, ROWS, SIZES[-1], rng), task)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pair", PAIRS)
def test_weights_and_units(pair, dtype):
    """Rows have weights, and the errors of outputs units where there are such."""
    rng, network = np.random.default_rng(4), make_network("relu", *pair, dtype)
    units = None
    if isinstance(network.cost, RegressionCost) and PAIRS[pair] == "regression":
        units = 1 / rng.uniform(0.1, 10, SIZES[-1])
    weights = rng.uniform(0, 3, ROWS).astype(dtype)
    x = rng.standard_normal((ROWS, SIZES[0]))
    check(network, x, *targets(PAIRS[pair], ROWS, SIZES[-1], rng), PAIRS[pair], weights, units)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout(dtype):
    """With the factors that are drawn for NumPy."""
    rng, network = np.random.default_rng(5), make_network("gelu", *list(PAIRS)[3], dtype)

    def draw(work):
        Dropout(0.4, 7, work).draw(1, 2, 3)

    work = network.workspace(ROWS)
    draw(work)
    keep = np.concatenate([one.ravel() for one in work.keep])
    task = "classification"
    x = rng.standard_normal((ROWS, SIZES[0]))
    check(network, x, *targets(task, ROWS, SIZES[-1], rng), task, keep=keep, dropout=draw)


@pytest.mark.parametrize("sizes", [(3, 2), (1, 1, 1), (400, 30, 2), (33, 5, 5, 5, 3)])
@pytest.mark.parametrize("rows", [1, 4, 70])
def test_other_shapes(sizes, rows):
    """One layer, one unit, one row, and layers that are computed by dot products."""
    rng, network = (
        np.random.default_rng(6),
        make_network("relu", *next(iter(PAIRS)), "float64", sizes),
    )
    x = rng.standard_normal((rows, sizes[0]))
    check(network, x, *targets("multilabel", rows, sizes[-1], rng), "multilabel")


def test_a_forward_product_may_be_cut_in_any_way(monkeypatch):
    """Whole, in runs of rows with a shorter last one, or as dot products."""
    rng, network = np.random.default_rng(7), make_network("relu", *next(iter(PAIRS)), "float64")
    x, (y, labels) = rng.standard_normal((ROWS, 11)), targets("multilabel", ROWS, 5, rng)
    found = [
        gradient(network, x, y, labels, "multilabel", runs=[run] * 3)[0]
        for run in (ROWS, 4, product_choice.AS_DOT_PRODUCTS)
    ]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_outputs(dtype):
    """Saturated outputs have finite costs and gradients."""
    rng = np.random.default_rng(8)
    for pair in (("cross-entropy", "sigmoid"), ("log-likelihood", "softmax")):
        network = make_network("relu", *pair, dtype)
        network.theta *= 30
        x = rng.standard_normal((ROWS, SIZES[0]))
        check(network, x, *targets(PAIRS[pair], ROWS, SIZES[-1], rng), PAIRS[pair])
