"""Activations and costs against their formulas, also where they saturate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distbp.errors import ConfigError
from distbp.network.activations import (
    ACTIVATIONS,
    HIDDEN,
    find_activation,
    sigmoid,
    sigmoid_prime,
)
from distbp.network.costs import COSTS, OUTPUTS, find_cost

PAIRS = [(cost, output) for cost, outputs in OUTPUTS.items() for output in outputs]


def prime_of(sigma, z):
    """Return σ′(z); neither z nor σ(z) is one array with the result."""
    a = sigma.fill(z.copy(), np.empty_like(z))
    return sigma.prime(a, np.empty_like(z), z.copy())


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
    """σ′ is the slope of σ, and z is left alone unless it is asked for."""
    sigma, h = ACTIVATIONS[name](), 1e-6
    z = np.array([[-9.0, -3.0, -0.7, -0.1, 0.2, 1.0, 4.0, 9.0]])
    above, below = (sigma.fill(z + d, np.empty_like(z)) for d in (h, -h))
    np.testing.assert_allclose(prime_of(sigma, z), (above - below) / (2 * h), atol=1e-9)
    a, same = sigma.fill(z.copy(), np.empty_like(z)), z.copy()
    sigma.prime(a, np.empty_like(z), same)
    assert sigma.needs_z or (same == z).all()


# As in the papers, one number at a time in Python's own arithmetic.
FORMULAS = {
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0.0),
    "leaky-relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "gelu": lambda z: z / 2 * (1 + math.tanh((2 / math.pi) ** 0.5 * (z + 0.044715 * z**3))),
    "silu": lambda z: z / (1 + math.exp(-z)),
    "softplus": lambda z: math.log1p(math.exp(z)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_fill_is_the_formula(name, dtype):
    """To the last digits of the type, and in place as well, with and without `spare`."""
    sigma, z = ACTIVATIONS[name](), np.linspace(-20, 20, 801).astype(dtype)
    a = sigma.fill(z.copy(), np.empty_like(z), np.empty_like(z))
    expected = [FORMULAS[name](float(one)) for one in z]
    tolerance = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(a, expected, rtol=tolerance, atol=tolerance)
    for spare in (None, np.empty_like(z)):
        same = z.copy()
        assert sigma.fill(same, same, spare) is same
        np.testing.assert_array_equal(same, a)
    assert a.dtype == dtype


def test_gelu_is_close_to_the_exact_form():
    """z Φ(z) by erf, which NumPy lacks."""
    z = np.linspace(-6, 6, 601)
    exact = [x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in z]
    np.testing.assert_allclose(ACTIVATIONS["gelu"]().fill(z, np.empty_like(z)), exact, atol=5e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_far_from_0(name, dtype):
    """Nothing overflows, σ has its limits and σ′ those of its slope."""
    z = np.array([-1e30, -1e4, -100, 100, 1e4, 1e30], dtype)
    low, high = {
        "sigmoid": (0, [1, 1, 1]), "tanh": (-1, [1, 1, 1]), "elu": (-1, z[3:]),
        "leaky-relu": (z[:3] * dtype(0.01), z[3:]),
    }.get(name, (0, z[3:]))  # fmt: skip
    sigma = ACTIVATIONS[name]()
    a = sigma.fill(z.copy(), np.empty_like(z))
    np.testing.assert_allclose(a[:3], np.broadcast_to(low, 3), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(a[3:], high, rtol=1e-6)
    slopes = [0.01 * (name == "leaky-relu")] * 3 + [float(name not in ("sigmoid", "tanh"))] * 3
    np.testing.assert_allclose(prime_of(sigma, z), slopes, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", HIDDEN)
def test_nan_stays_nan(name):
    """So that a number that is not finite is found where it arises."""
    sigma, z = ACTIVATIONS[name](), np.array([np.nan])
    assert np.isnan(sigma.fill(z, np.empty_like(z))).all()


@pytest.mark.parametrize("name", HIDDEN[2:])
def test_gain_is_what_keeps_the_scale(name):
    """E[σ(z)²] is 1 for z ~ N(0, gain), here by the trapezoidal rule."""
    z = np.linspace(-12, 12, 240_001)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    sigma = ACTIVATIONS[name]()
    a = sigma.fill(z * math.sqrt(sigma.gain), np.empty_like(z))
    assert (a * a * density).sum() * (z[1] - z[0]) == pytest.approx(1, abs=1e-4)


TORCH = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "ReLU", "leaky-relu": "LeakyReLU",
    "elu": "ELU", "gelu": "GELU", "silu": "SiLU", "softplus": "Softplus",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_values_and_slopes_are_those_of_pytorch(name):
    """At its kinks as well; from 20 on, PyTorch's softplus is z."""
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, TORCH[name])(**{"approximate": "tanh"} if name == "gelu" else {})
    z = np.append(np.linspace(-19, 19, 380), [0.0, -0.0])
    inputs = torch.tensor(z, requires_grad=True)
    outputs = module(inputs)
    outputs.sum().backward()
    sigma = ACTIVATIONS[name]()
    a = sigma.fill(z.copy(), np.empty_like(z))
    np.testing.assert_allclose(a, outputs.detach().numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(prime_of(sigma, z), inputs.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_an_unknown_activation():
    """The names that are known are listed."""
    assert find_activation("gelu") is ACTIVATIONS["gelu"]
    with pytest.raises(ConfigError, match="activation 'mish' is unknown; use one of sigmoid, t"):
        find_activation("mish")


@pytest.mark.parametrize(("name", "slope"), [("relu", 0), ("leaky-relu", 0.01)])
def test_slope_at_a_kink(name, slope):
    """At 0 it is that of z < 0."""
    z = np.array([-5e-324, -0.0, 0.0, 5e-324])
    assert prime_of(ACTIVATIONS[name](), z).tolist() == [slope, slope, slope, 1]


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
        ACTIVATIONS["softmax"]().prime(np.ones((1, 1)), np.empty((1, 1)), np.ones((1, 1)))


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


def test_huber_and_mae_by_hand():
    """Errors of −2, 0, −1 and 3 cost 1½ + 0 + ½ + 2½, and 2 + 0 + 1 + 3."""
    z, y = np.array([[1.0, 2.0], [0.0, 4.0]]), np.array([[3.0, 2.0], [1.0, 1.0]])
    assert cost_of("huber", "linear", z, y) == 4.5
    assert cost_of("mae", "linear", z, y) == 6
    for name, expected in (("huber", [[-1, 0], [-1, 1]]), ("mae", [[-1, 0], [-1, 1]])):
        assert COSTS[name](ACTIVATIONS["linear"]()).delta(z, y).tolist() == expected


def test_huber_keeps_small_and_large_errors():
    """Neither is lost by cancellation, in float32."""
    zero = np.zeros((1, 1), np.float32)
    for error, true in ((1e-12, 5e-25), (1e-3, 5e-7), (1.0, 0.5), (1e9, 1e9), (1e30, 1e30)):
        found = cost_of("huber", "linear", np.array([[error]], np.float32), zero)
        assert found == pytest.approx(true, rel=1e-6)


TORCH_COSTS = {
    "huber": lambda nn, z, y: nn.HuberLoss(reduction="sum")(z, y),
    "mae": lambda nn, z, y: nn.L1Loss(reduction="sum")(z, y),
    "quadratic": lambda nn, z, y: nn.MSELoss(reduction="sum")(z, y) / 2,
    "cross-entropy": lambda nn, z, y: nn.BCEWithLogitsLoss(reduction="sum")(z, y),
    "log-likelihood": lambda nn, z, y: nn.CrossEntropyLoss(reduction="sum")(z, y),
}


@pytest.mark.parametrize("name", TORCH_COSTS)
def test_costs_and_their_slopes_are_those_of_pytorch(name):
    """Value and δ for random outputs, and for an error of exactly 0."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    z, y = rng.normal(0, 2, (40, 3)), np.eye(3)[rng.integers(0, 3, 40)]
    z[0], output = y[0], "linear" if "linear" in OUTPUTS[name] else OUTPUTS[name][0]
    inputs = torch.tensor(z, requires_grad=True)
    loss = TORCH_COSTS[name](torch.nn, inputs, torch.tensor(y))
    loss.backward()
    cost = COSTS[name](ACTIVATIONS[output]())
    assert cost_of(name, output, z, y) == pytest.approx(loss.item(), rel=1e-13)
    delta = cost.delta(cost.output.fill(z.copy(), np.empty_like(z)), y)
    np.testing.assert_allclose(delta, inputs.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_an_unknown_cost():
    """The names that are known are listed."""
    assert find_cost("mae") is COSTS["mae"]
    with pytest.raises(ConfigError, match="cost 'hinge' is unknown; use one of quadratic, cross"):
        find_cost("hinge")


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
        "mae": np.abs(z64 - y).sum(),
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


@pytest.mark.parametrize("name", HIDDEN)
def test_prime_allocates_nothing(name, peak):
    """The slopes of a layer of 1 MB need only the given arrays."""
    sigma = ACTIVATIONS[name]()
    z, a, out = (np.ones((512, 512), np.float32) for _ in range(3))
    assert peak(lambda: sigma.prime(a, out, z)) < 8_000


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
