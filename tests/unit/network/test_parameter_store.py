"""Versions of θ and state: what a commit and a rollback change, and what they do not."""

import numpy as np
import pytest

from distbp.network.network import Network
from distbp.network.parameter_store import AVERAGE, ParameterStore

NAMES = ("first_moment", "second_moment")
SIZES = (3, 2)
P = 8


@pytest.fixture
def network():
    return Network(SIZES, dtype="float64", theta=np.arange(8.0))


def two_versions():
    return [[np.full(P, np.nan) for _ in ("theta", *NAMES)] for _ in range(2)]


def test_one_version_is_the_networks_own(network):
    """A step writes what it reads; the state is zeros at first."""
    theta = network.theta
    store = ParameterStore(network, NAMES)
    assert store.versions[0][0] is theta
    assert list(store.state) == list(NAMES)
    assert not any(array.any() for array in store.state.values())
    store.commit()
    assert network.theta is theta
    assert (store.steps, store.current, store.owned) == (1, 0, (0, P))


def test_a_commit_switches_versions(network):
    """θ, its views and the state are those that the step has written, from then on."""
    store, versions = ParameterStore(network, NAMES), two_versions()
    store.move(versions, (0, P))
    np.testing.assert_array_equal(network.theta, np.arange(8.0))
    for array in versions[1]:
        array[...] = 5.0
    np.testing.assert_array_equal(network.theta, np.arange(8.0))
    store.commit()
    assert network.theta is versions[1][0]
    assert np.shares_memory(network.weights[0], versions[1][0])
    assert np.shares_memory(network.biases[0], versions[1][0])
    assert store.state["second_moment"] is versions[1][2]
    store.commit()
    assert network.theta is versions[0][0]
    assert store.steps == 2


def test_a_rollback_is_the_version_before(network):
    """To the bit, in θ and state; the step can then be made again."""
    store, versions = ParameterStore(network, NAMES), two_versions()
    store.move(versions, (0, P))
    before = [array.copy() for array in versions[0]]
    for array in versions[1]:
        array[...] = 5.0
    store.commit()
    store.rollback()
    assert store.steps == 0
    found = network.theta, *store.state.values()
    for array, expected in zip(found, before, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_owners_move_their_slices(network):
    """Each copies its own: together they are all of θ."""
    versions = two_versions()
    store = ParameterStore(network, NAMES)
    store.move(versions, (0, 3))
    assert np.isnan(versions[0][0][3:]).all()
    other = ParameterStore(Network(SIZES, dtype="float64", theta=np.arange(8.0)), NAMES)
    other.move(versions, (3, P))
    np.testing.assert_array_equal(network.theta, np.arange(8.0))
    assert store.owned == (0, 3)
    assert np.isnan(versions[1]).all()


def test_a_store_can_move_again(network):
    """The current version is copied, not the first."""
    store, versions = ParameterStore(network, ()), [[np.zeros(P)], [np.ones(P)]]
    store.move(versions, (0, P))
    versions[1][0][...] = 7.0
    store.commit()
    store.move([[np.zeros(P)]], (0, P))
    assert (network.theta == 7.0).all()
    assert store.steps == 1


def test_the_averaged_network_follows_its_version(network):
    """It is bound to the average, of the current version, with views of its layers."""
    store = ParameterStore(network, NAMES, has_average=True)
    versions = [[np.full(P, np.nan) for _ in ("theta", *NAMES, AVERAGE)] for _ in range(2)]
    averaged = store.averaged
    assert averaged is not network
    store.move(versions, (0, P))
    assert averaged.theta is store.state[AVERAGE] is versions[0][3]
    np.testing.assert_array_equal(averaged.theta, np.arange(8.0))
    for i, array in enumerate(versions[1]):
        array[...] = i
    store.commit()
    assert averaged.theta is versions[1][3]
    assert averaged.weights[0].max() == averaged.biases[0].min() == 3
    assert network.theta is versions[1][0]
    store.rollback()
    assert averaged.theta is versions[0][3]


@pytest.mark.parametrize("has_average", [False, True])
def test_leaving_shared_memory(network, has_average):
    """Networks keep their numbers, in arrays of their own."""
    store = ParameterStore(network, NAMES, has_average)
    names = ("theta", *NAMES, *[AVERAGE] * has_average)
    versions = [[np.empty(P) for _ in names] for _ in range(2)]
    store.move(versions, (0, P))
    store.leave_shared_memory()
    for array in versions[0]:
        array.fill(np.nan)
    for one in (network, store.averaged):
        np.testing.assert_array_equal(one.theta, np.arange(8.0))
        np.testing.assert_array_equal(one.weights[0], [[0, 1, 2], [3, 4, 5]])
