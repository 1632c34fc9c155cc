"""The check of a run's gradient: right ones pass, wrong ones are found with their layer."""

from dataclasses import replace

import numpy as np
import pytest
import samples

from distbp.data.dataset import DataSet
from distbp.network.activations import HIDDEN, Tanh
from distbp.network.costs import QuadraticCost
from distbp.network.network import Network
from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.defaults import resolve
from distbp.training.gradient_check import TOLERANCE, check_gradient
from distbp.training.row_weights import scaled_weights
from distbp.training.setup import make_network


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a function that opens a sample data set."""
    folder, opened = tmp_path_factory.mktemp("data"), {}

    def of(name):
        if name not in opened:
            opened[name] = DataSet(samples.DATA_SETS[name](folder / f"{len(opened)}.h5"))
        return opened[name]

    return of


def check(data, class_weight="none", **options):
    config = resolve(Config(**{"hidden": (7, 6)} | options, class_weight=class_weight), data)
    network = make_network(config, data, has_weights=False)
    weights = scaled_weights(Topology(), data, data.split("train"), class_weight)
    return check_gradient(network, config, data, data.split("train"), weights)


@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("cost", ["log-likelihood", "cross-entropy", "quadratic"])
def test_gradients_are_right(data, activation, cost):
    found = check(data("digits"), activation=activation, cost=cost)
    assert found.rows == 8
    assert [(one.layer, one.array) for one in found.errors] == [
        (layer, name) for layer in (1, 2, 3) for name in ("weights", "biases")
    ]
    assert found.is_right, found.worst
    assert found.worst.error < TOLERANCE / 10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {"dropout": 0.5, "label_smoothing": 0.1}),
        ("digits", {"hidden": (), "init": "large"}),
        ("weighted packed", {"class_weight": "balanced"}),
        ("numbers", {"cost": "huber"}),
        ("numbers", {"cost": "mae", "activation": "gelu"}),
        ("prices", {"dtype": "float64"}),
        ("labels", {"cost": "quadratic"}),
    ],
    ids=str,
)
def test_with_all_that_the_cost_depends_on(data, name, options):
    """Dropped units, smoothed and scaled targets, weights of rows and classes."""
    assert check(data(name), **options).is_right


def test_the_sum_is_what_backprop_returns(data):
    """The check itself is sensitive: a gradient of other weights is wrong."""
    found = check(data("digits"))
    assert found.worst.error > 0


class WrongPrime(Tanh):
    def prime(self, a, out, z):
        out = super().prime(a, out, z)
        return np.multiply(out, 1.001, out=out)


class WrongDelta(QuadraticCost):
    def delta(self, a, y, out=None, spare=None):
        return np.subtract(a, y, out=out)


def test_wrong_parts_are_found(data):
    """A slope that is 0.1 % too large shows in the layers below it, a wrong δ in all."""
    errors = check(data("digits"), activation=WrongPrime).errors
    assert [one.error > TOLERANCE for one in errors] == [True, True, True, True, False, False]
    assert errors[0].error == pytest.approx(2e-3, rel=0.5)
    found = check(data("digits"), cost=WrongDelta)
    assert all(one.error > 1e-3 for one in found.errors)
    assert not found.is_right


def test_a_wrong_backprop_is_found(data, monkeypatch):
    """In the layer where it is: one sum over too few rows."""
    original = Network.backprop

    def wrong(self, x, y, out, work, weights=None):
        nabla_b, nabla_w = original(self, x, y, out, work, weights)
        nabla_b[1] -= work.delta[1][0]
        return nabla_b, nabla_w

    monkeypatch.setattr(Network, "backprop", wrong)
    found = check(data("digits"))
    assert (found.worst.layer, found.worst.array) == (2, "biases")
    assert sum(one.error > TOLERANCE for one in found.errors) == 1


def test_kinks_are_no_errors(data):
    """Rows of zeros, for which relu is at its kink with the biases that a run starts with."""
    original = data("digits")
    config = resolve(Config(hidden=(7,), class_weight="none"), original)
    network = make_network(config, original, has_weights=False)
    rows = original.split("train")
    zeros = rows.subset(np.arange(8))
    zeros.x = np.zeros_like(rows.x)
    assert check_gradient(network, config, original, zeros, None).is_right


def test_the_network_stays_as_it_is(data):
    one = data("digits")
    config = replace(resolve(Config(hidden=(7,)), one))
    network = make_network(config, one, has_weights=False)
    before = network.theta.copy()
    check_gradient(network, config, one, one.split("train"), None)
    assert np.array_equal(network.theta, before)
