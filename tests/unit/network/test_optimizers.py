"""Update rules against their formulas; cutting θ into chunks changes no bit."""

import math

import numpy as np
import pytest

from distbp.errors import ConfigError
from distbp.network import optimizers
from distbp.network import update as update_module
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameter_store import AVERAGE
from distbp.network.parameters import THETA_BLOCK, layer_views, theta_size, weight_runs
from distbp.network.update import Update, _blocked_norm

SIZES = (5, 4, 3)
P = theta_size(SIZES)
RATE, MU = 0.1, 0.8


def nadam_mu(t):
    return 0.9 * (1 - 0.5 * 0.96 ** (t * 0.004))


def formula(name, theta, gradients, decay=0.0):
    """Return θ after steps with the mean gradients, one number at a time."""
    result = []
    is_weight = np.zeros(len(theta), bool)
    for run in weight_runs(SIZES):
        is_weight[slice(*run)] = True
    for i, value in enumerate(theta):
        velocity = m = v = square = 0.0
        product = 1.0
        for t, g in enumerate((gradient[i] for gradient in gradients), 1):
            velocity = MU * velocity - RATE * g
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
            square = 0.99 * square + 0.01 * g * g
            mu, after = nadam_mu(t), nadam_mu(t + 1)
            product *= mu
            ahead = (1 - mu) / (1 - product) * g + after / (1 - product * after) * m
            value *= 1 - RATE * decay * (name == "adamw" and is_weight[i])
            value += {
                "sgd": -RATE * g,
                "momentum": velocity,
                "nesterov": MU * velocity - RATE * g,
                "adam": -RATE * m_hat / (math.sqrt(v_hat) + 1e-8),
                "adamw": -RATE * m_hat / (math.sqrt(v_hat) + 1e-8),
                "nadam": -RATE * ahead / (math.sqrt(v_hat) + 1e-8),
                "rmsprop": -RATE * g / (math.sqrt(square) + 1e-8),
            }[name]
        result.append(value)
    return result


def make_update(theta, *arguments, sizes=SIZES, **options):
    """Return an `Update` of these parameters in place."""
    network = Network(sizes, dtype=theta.dtype.name, theta=theta)
    return Update(network, *arguments, **options)


def draw(count, dtype=np.float64, seed=4):
    return np.random.default_rng(seed).normal(size=(count, P)).astype(dtype)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_are_the_formula(name):
    """Sums are divided by the rows, then the rule of the docstring is followed."""
    theta, *gradients = draw(4)
    expected = formula(name, theta, gradients, decay=0.3)
    update = make_update(theta, OPTIMIZERS[name](MU), weight_decay=0.3)
    for g in gradients:
        update.apply(g * 7, 7, RATE)
    np.testing.assert_allclose(theta, expected, rtol=1e-12)
    assert update.store.steps == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_starts_at_0_and_is_complete(name):
    """A run that is resumed from θ, state and step ends as if it had not been interrupted."""
    gradients = draw(4)
    theta, other = gradients[0].copy(), gradients[0].copy()
    whole = make_update(theta, OPTIMIZERS[name](MU))
    assert all(not array.any() for array in whole.store.state.values())
    assert tuple(whole.store.state) == OPTIMIZERS[name].state_names
    for g in gradients[1:]:
        whole.apply(g.copy(), 1, RATE)
    first, second = (make_update(other, OPTIMIZERS[name](MU)) for _ in range(2))
    first.apply(gradients[1].copy(), 1, RATE)
    second.store.steps = first.store.steps
    for key, array in first.store.state.items():
        np.copyto(second.store.state[key], array)
    for g in gradients[2:]:
        second.apply(g.copy(), 1, RATE)
    np.testing.assert_array_equal(other, theta)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_chunks_change_no_bit(name, dtype, monkeypatch):
    """Wherever θ is cut, also inside a layer's weights, the result has the same bits."""
    found = []
    for chunk in (1, 7, 20, P, 32768):
        monkeypatch.setattr(update_module, "UPDATE_CHUNK", chunk)
        theta, *gradients = draw(4, dtype)
        update = make_update(
            theta, OPTIMIZERS[name](MU), l1=0.01, l2=0.02, clip_norm=0.5, weight_decay=0.2
        )
        for g in gradients:
            update.apply(g, 3, RATE)
        found.append(theta.tobytes() + update.store.averaged.theta.tobytes())
    assert len(set(found)) == 1


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.3), (0.2, 0.5)])
def test_penalties_are_of_weights_only(l1, l2, monkeypatch):
    """The mean gradient of a weight gets l1 sign(w) + l2 w, that of a bias does not."""
    monkeypatch.setattr(update_module, "UPDATE_CHUNK", 11)
    before, g = draw(2)
    before[3] = 0.0  # where |w| has its kink
    theta = before.copy()
    make_update(theta, OPTIMIZERS["sgd"](), l1=l1, l2=l2).apply(g.copy(), 1, RATE)
    change = (before - theta) / RATE - g
    biases, weights = layer_views(change, SIZES)
    _, w_before = layer_views(before, SIZES)
    for found, w in zip(weights, w_before, strict=True):
        np.testing.assert_allclose(found, l1 * np.sign(w) + l2 * w, atol=1e-13)
    for found in biases:
        np.testing.assert_allclose(found, 0, atol=1e-13)


def test_penalty_is_the_slope_of_the_books_cost():
    """With l2 = λ/n the step descends C₀ + λ/(2n) Σw², the book's equation 87."""
    lam, n, h = 0.7, 40, 1e-6
    theta, g, d = draw(3)

    def cost(point):
        _, weights = layer_views(point, SIZES)
        return g @ point + lam / (2 * n) * sum(np.square(w).sum() for w in weights)

    slope = (cost(theta + h * d) - cost(theta - h * d)) / (2 * h)
    after = theta.copy()
    make_update(after, OPTIMIZERS["sgd"](), l2=lam / n).apply(g.copy(), 1, RATE)
    assert (theta - after) / RATE @ d == pytest.approx(slope, rel=1e-7)


def test_clip_norm_is_of_the_mean_gradient():
    """A longer mean gradient is scaled to clip_norm; a shorter one is not changed."""
    for length, expected in ((10.0, 2.0), (1.5, 1.5), (0.0, 0.0)):
        theta, g = draw(2)
        before = theta.copy()
        g *= length / np.linalg.norm(g)
        make_update(theta, OPTIMIZERS["sgd"](), clip_norm=2.0).apply(g * 9, 9, 1.0)
        np.testing.assert_allclose(before - theta, g * (expected / length if length else 1))


def test_clipping_comes_before_the_penalties():
    """Weight decay is not clipped."""
    theta, g = np.full(P, 100.0), np.zeros(P)
    make_update(theta, OPTIMIZERS["sgd"](), l2=0.1, clip_norm=0.001).apply(g, 1, 1.0)
    _, weights = layer_views(theta, SIZES)
    np.testing.assert_allclose(weights[0], 90.0)


def test_weight_decay_is_of_weights_only(monkeypatch):
    """Without a gradient, adamw multiplies weights by 1 − ηλ; biases, and others, stay."""
    monkeypatch.setattr(update_module, "UPDATE_CHUNK", 11)
    for name in ("adamw", "adam", "sgd"):
        (theta,) = draw(1)
        expected = theta.copy()
        if name == "adamw":
            for w in layer_views(expected, SIZES)[1]:
                w *= 1 - 0.1 * 0.4
        update = make_update(theta, OPTIMIZERS[name](), weight_decay=0.4)
        update.apply(np.zeros(P), 1, 0.1)
        np.testing.assert_allclose(theta, expected, rtol=1e-14)


def test_decay_leaves_the_version_before_the_step():
    """A step that is rolled back has changed neither weights nor biases."""
    (theta,) = draw(1)
    versions = [[np.empty(P) for _ in range(3)] for _ in range(2)]
    update = make_update(theta.copy(), OPTIMIZERS["adamw"](), weight_decay=0.4)
    update.move(versions, (0, P), np.zeros(1))
    update.apply(np.ones(P), 1, 0.1)
    assert (update.network.theta != theta).all()
    update.store.rollback()
    np.testing.assert_array_equal(update.network.theta, theta)


@pytest.mark.parametrize("beta", [0.5, 0.999])
def test_the_average_is_a_weighted_mean_of_the_steps(beta):
    """Σ β^(t−i) θ_i / Σ β^(t−i), without the initial θ; the steps are those without it."""
    theta, *gradients = draw(6)
    plain, thetas = theta.copy(), []
    update, other = (
        make_update(one, OPTIMIZERS["momentum"](MU), ema=ema)
        for one, ema in ((theta, beta), (plain, 0.0))
    )
    np.testing.assert_array_equal(update.store.averaged.theta, theta)
    assert other.store.averaged is other.network
    for t, g in enumerate(gradients, 1):
        update.apply(g.copy(), 1, RATE)
        other.apply(g.copy(), 1, RATE)
        thetas.append(theta.copy())
        shares = beta ** np.arange(t - 1, -1, -1.0)
        expected = shares @ np.array(thetas) / shares.sum()
        np.testing.assert_allclose(update.store.averaged.theta, expected, rtol=1e-12)
    np.testing.assert_array_equal(theta, plain)


def test_the_momentum_of_nadam():
    """It is a function of the step alone, whose product vanishes long before it is cut off."""
    assert optimizers._nadam_mu_product(0.9, 3) == pytest.approx(
        nadam_mu(1) * nadam_mu(2) * nadam_mu(3), rel=1e-15
    )
    assert 1 - optimizers._nadam_mu_product(0.9, 1000) == 1
    assert optimizers._nadam_mu_product(0.9, 1001) == 0


def test_an_unknown_optimizer():
    """The names that are known are listed."""
    assert optimizers.find_optimizer("adamw") is OPTIMIZERS["adamw"]
    with pytest.raises(ConfigError, match="optimizer 'lion' is unknown; use one of sgd, momentum"):
        optimizers.find_optimizer("lion")


def squares_of(vector):
    """Return the squares that `measure_squares` writes for a gradient, block by block."""
    sizes = (vector.size - 1, 1)
    squares = np.full(-(-vector.size // THETA_BLOCK), np.nan)
    theta = np.zeros(vector.size, vector.dtype)
    update = make_update(theta, OPTIMIZERS["sgd"](), sizes=sizes, clip_norm=1.0)
    update.move([[theta.copy()], [theta.copy()]], (0, vector.size), squares)
    update.measure_squares(vector)
    return squares


def test_norm_is_summed_by_blocks_in_order():
    """The order determines the bits: within blocks first, then over blocks in order."""
    vector = np.random.default_rng(1).normal(size=3 * THETA_BLOCK + 5)
    total, squares = 0.0, squares_of(vector)
    for i in range(4):
        block = vector[i * THETA_BLOCK : (i + 1) * THETA_BLOCK].copy()
        assert squares[i] == np.dot(block, block)
        total += float(np.dot(block, block))
    assert _blocked_norm(squares, np.empty(4)) == total**0.5
    assert total**0.5 == pytest.approx(np.linalg.norm(vector), rel=1e-12)


def test_norm_of_large_float32_numbers():
    """Squares that float32 cannot hold are summed in float64."""
    squares = squares_of(np.full(4, 1e30, np.float32))
    assert _blocked_norm(squares, np.empty(1)) == pytest.approx(2e30)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_in_two_versions_happens_at_once(name, clip_norm):
    """Slices written to the other version have the same bits; `commit` makes them current."""
    sizes = (400, 30, 3)
    size = theta_size(sizes)
    theta, *gradients = np.random.default_rng(2).normal(size=(4, size))
    expected = theta.copy()
    whole = make_update(
        expected, OPTIMIZERS[name](MU), sizes=sizes, l1=0.1, l2=0.2, clip_norm=clip_norm,
        weight_decay=0.3, ema=0.9,
    )  # fmt: skip
    names = ("theta", *OPTIMIZERS[name].state_names, AVERAGE)
    versions = [[np.empty(size) for _ in names] for _ in range(2)]
    squares = np.zeros(-(-size // THETA_BLOCK))
    parts = [(0, THETA_BLOCK), (THETA_BLOCK, 2 * THETA_BLOCK), (2 * THETA_BLOCK, size)]
    updates = []
    for part in parts:
        network = Network(sizes, dtype="float64", theta=theta.copy())
        update = Update(
            network, OPTIMIZERS[name](MU), l1=0.1, l2=0.2, clip_norm=clip_norm, weight_decay=0.3,
            ema=0.9,
        )  # fmt: skip
        update.move(versions, part, squares)
        updates.append(update)
    for g in gradients:
        whole.apply(g.copy(), 3, RATE)
        before = [
            array.tobytes()
            for array in (updates[0].network.theta, *updates[0].store.state.values())
        ]
        slices = [g[slice(*part)].copy() for part in parts]
        if clip_norm:
            for update, own in zip(updates, slices, strict=True):
                update.measure_squares(own)
        for update, own, (start, _) in zip(updates, slices, parts, strict=True):
            update.begin(3, RATE)
            for i, chunk in enumerate(update.chunks):
                update.apply_chunk(i, own[chunk.start - start : chunk.stop - start])
            after = [
                array.tobytes() for array in (update.network.theta, *update.store.state.values())
            ]
            assert after == before
        for update in updates:
            update.store.commit()
            assert update.network.theta.tobytes() == expected.tobytes()
            assert update.store.averaged.theta is update.store.state[AVERAGE]
            assert np.shares_memory(update.network.weights[0], update.network.theta)
            for key, array in whole.store.state.items():
                assert update.store.state[key].tobytes() == array.tobytes()


def test_weight_runs_are_the_weights():
    """Every run of θ is one layer's weights, in order."""
    network = Network(SIZES)
    for (start, stop), w in zip(weight_runs(SIZES), network.weights, strict=True):
        network.theta.fill(0)
        network.theta[start:stop] = 1
        assert w.all()
        assert network.theta.sum() == w.size


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_allocates_nothing(name, peak):
    """A step on 4 MB of parameters stays in the buffers of its `Update`."""
    sizes = (1000, 1000)
    theta, total = np.ones(theta_size(sizes), np.float32), np.ones(theta_size(sizes), np.float32)
    update = make_update(
        theta, OPTIMIZERS[name](MU), sizes=sizes, l1=1e-3, l2=1e-3, clip_norm=1.0, weight_decay=0.1,
        ema=0.99,
    )  # fmt: skip
    assert peak(lambda: update.apply(total, 1, RATE)) < 2_000
