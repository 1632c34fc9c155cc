"""Activations and costs against their formulas, also where they saturate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distbp.network.activations import ACTIVATIONS, HIDDEN, sigmoid, sigmoid_prime
from distbp.network.costs import COSTS, OUTPUTS

PAIRS = [(cost, output) for cost, outputs in OUTPUTS.items() for output in outputs]


def cost_of(name, output, z, y):
    """Return the cost of the logits z through an output layer."""
    cost, z = COSTS[name](ACTIVATIONS[output]()), z.copy()
    return cost.fn(z, cost.output.fill(z, np.empty_like(z)), y)


def test_sigmoid_is_the_formula():
    """σ and σ′ are 1/(1 + e^−z) and σ(1 − σ)."""
    z = np.linspace(-30, 30, 601)
    a = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(sigmoid(z), a, rtol=1e-15)
    np.testing.assert_allclose(sigmoid_prime(z), a * (1 - a), rtol=1e-15)


def test_sigmoid_at_a_known_point():
    """σ(ln 3) is 3/4 and its derivative 3/16, for a Python number and for integers, too."""
    assert sigmoid(np.log(3.0)) == pytest.approx(0.75, rel=1e-15)
    assert sigmoid_prime(np.log(3.0)) == pytest.approx(3 / 16, rel=1e-15)
    assert sigmoid([0, 0]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_does_not_overflow(dtype):
    """For large |z| σ is 0 or 1, and σ′ is 0, to the precision of the dtype."""
    z = np.array([-np.finfo(dtype).max, -1000, 1000, np.finfo(dtype).max], dtype)
    np.testing.assert_allclose(sigmoid(z), [0, 0, 1, 1], atol=2e-38)
    np.testing.assert_allclose(sigmoid_prime(z), 0, atol=2e-38)
    assert sigmoid(z).dtype == dtype


@pytest.mark.parametrize("name", [*HIDDEN, "linear"])
def test_prime_is_the_derivative(name):
    """σ′ as a function of a is the slope of σ."""
    sigma, h = ACTIVATIONS[name](), 1e-6
    z = np.array([[-3.0, -0.7, -0.1, 0.2, 1.0, 4.0]])
    a, above, below = (sigma.fill(z + d, np.empty_like(z)) for d in (0.0, h, -h))
    slope = (above - below) / (2 * h)
    np.testing.assert_allclose(sigma.prime(a, np.empty_like(a)), slope, atol=1e-9)


@pytest.mark.parametrize("name", HIDDEN)
def test_fill_in_place(name):
    """z itself may be filled."""
    sigma, z = ACTIVATIONS[name](), np.linspace(-3, 3, 7)
    a = sigma.fill(z, np.empty_like(z))
    assert sigma.fill(z, z) is z
    np.testing.assert_array_equal(z, a)


def test_relu_has_slope_0_at_0():
    """At its kink relu has the slope of z < 0."""
    sigma = ACTIVATIONS["relu"]()
    z = np.array([-0.0, 0.0, 5e-324])
    a = sigma.fill(z, np.empty_like(z))
    assert sigma.prime(a, np.empty_like(a)).tolist() == [0, 0, 1]


def test_softmax_is_a_distribution():
    """Rows are positive, sum to 1, and do not change with a common offset."""
    sigma = ACTIVATIONS["softmax"]()
    z = np.array([[1.0, 2.0, 3.0], [-1000.0, 0.0, 1000.0]])
    a = sigma.fill(z.copy(), np.empty_like(z))
    e = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(a, [e / e.sum(), [0, 0, 1]], rtol=1e-15)
    np.testing.assert_array_equal(sigma.fill(z + 512, np.empty_like(z)), a)


def test_softmax_leaves_the_logarithm_of_its_output():
    """z becomes ln a, also where a underflows to 0."""
    sigma = ACTIVATIONS["softmax"]()
    z = np.array([[1.0, 2.0, 3.0], [-1000.0, 0.0, 1000.0]])
    a = sigma.fill(z, np.empty_like(z))
    np.testing.assert_allclose(z[0], np.log(a[0]), rtol=1e-15)
    assert z[1].tolist() == [-2000, -1000, 0]


def test_softmax_has_no_prime():
    """Softmax is refused where an elementwise derivative is needed."""
    with pytest.raises(TypeError, match="log-likelihood"):
        ACTIVATIONS["softmax"]().prime(np.ones((1, 1)), np.empty((1, 1)))


SATURATED = [(20, 0, 20), (20, 1, 2.0611536e-9), (-90, 1, 90), (-90, 0, 0), (1000, 0, 1000)]


@pytest.mark.parametrize(("z", "y", "true"), SATURATED)
def test_cross_entropy_of_saturated_logits(z, y, true):
    """In float32 σ(20) is 1, yet the cost is 20 and not infinite."""
    logits, targets = np.array([[z]], np.float32), np.array([[y]], np.float32)
    cost = cost_of("cross-entropy", "sigmoid", logits, targets)
    assert cost == pytest.approx(true, rel=1e-6, abs=1e-38)


@pytest.mark.parametrize(
    ("z", "label", "true"),
    [([20, 0, 0], 1, 20), ([0, -90, 0], 1, 90 + np.log(2)), ([1000, 0, -1000], 2, 2000),
     ([1000, 0, -1000], 0, 0), ([1e6, 1e6, 0], 0, np.log(2))],
)  # fmt: skip
def test_log_likelihood_of_saturated_logits(z, label, true):
    """In float32 a softmax output may be 0, yet its logarithm is finite and correct."""
    y = np.eye(3, dtype=np.float32)[[label]]
    cost = cost_of("log-likelihood", "softmax", np.array([z], np.float32), y)
    assert cost == pytest.approx(true, rel=1e-6)


def test_quadratic_by_hand():
    """½((1 − 3)² + (2 − 2)² + (0 − 1)²) is 2.5."""
    z, y = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[3.0, 2.0], [1.0, 0.0]])
    assert cost_of("quadratic", "linear", z, y) == 2.5


logits = arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32))
labels = st.lists(st.integers(0, 3), min_size=3, max_size=3)


@given(logits, labels)
def test_costs_agree_with_float64(z, label):
    """float32 costs are those of float64 by softplus and log-sum-exp, and always finite."""
    y, z64 = np.eye(4, dtype=np.float32)[label], z.astype(np.float64)
    reference = {
        "cross-entropy": (np.logaddexp(0, z64) - y * z64).sum(),
        "log-likelihood": (np.logaddexp.reduce(z64, axis=1) - (y * z64).sum(axis=1)).sum(),
        "quadratic": 0.5 * np.square(sigmoid(z64) - y).sum(),
    }
    for name, expected in reference.items():
        found = cost_of(name, OUTPUTS[name][0], z, y)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), name


@given(logits, labels)
def test_bp1_delta_is_finite_and_small(z, label):
    """Whatever the logits, the output error of sigmoid and softmax lies in [−1, 1]."""
    y = np.eye(4, dtype=np.float32)[label]
    for name, output in PAIRS:
        if output != "linear":
            cost = COSTS[name](ACTIVATIONS[output]())
            delta = cost.delta(cost.output.fill(z, np.empty_like(z)), y)
            assert (np.abs(delta) <= 1).all()


@pytest.mark.parametrize(("name", "output"), PAIRS)
def test_bp1_is_the_derivative_of_the_cost(name, output):
    """delta is ∂C/∂z, element by element."""
    rng, h = np.random.default_rng(3), 1e-6
    z, y = rng.normal(size=(2, 3)), np.eye(3)[[0, 2]]
    cost = COSTS[name](ACTIVATIONS[output]())
    delta = cost.delta(cost.output.fill(z, np.empty_like(z)), y)
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = h
        slope = (cost_of(name, output, z + step, y) - cost_of(name, output, z - step, y)) / (2 * h)
        assert delta[i] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fill_allocates_nothing(name, peak):
    """A layer of 1 MB is filled in the given arrays; softmax needs a number per row."""
    sigma, z = ACTIVATIONS[name](), np.ones((512, 512), np.float32)
    out, spare = np.empty_like(z), np.empty_like(z)
    assert peak(lambda: sigma.fill(z, out, spare)) < 8_000


@pytest.mark.parametrize(("name", "output"), PAIRS)
def test_costs_allocate_nothing(name, output, peak):
    """Value and delta of an output of 1 MB need only the given spare array."""
    cost = COSTS[name](ACTIVATIONS[output]())
    z, y = np.zeros((512, 512), np.float32), np.eye(512, dtype=np.float32)
    a, delta, spare = cost.output.fill(z, np.empty_like(z)), np.empty_like(z), np.empty_like(z)
    weights = np.ones_like(z)
    assert peak(lambda: cost.fn(z, a, y, spare)) < 16_000
    assert peak(lambda: cost.weighted_fn(z, a, y, weights, spare)) < 16_000
    assert peak(lambda: cost.delta(a, y, delta, spare)) < 8_000


def test_a_numpy_warning_is_an_error():
    """The fixture that all these tests rely on works."""
    with pytest.raises(FloatingPointError):
        np.exp(np.float32(1000) * np.ones(1, np.float32))
