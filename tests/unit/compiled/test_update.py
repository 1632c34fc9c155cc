"""The compiled update has the bits of `network.update`."""

import numpy as np
import pytest

from distbp.compiled.intrinsics import add
from distbp.compiled.step_constants import COUNT, step_constants
from distbp.compiled.update import clip_scale, make_squares, make_update
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS, find_optimizer
from distbp.network.parameters import THETA_BLOCK
from distbp.network.update import Update

from .calls import python_function

SIZES = (37, 40, 11)  # more numbers than a chunk of the kernel has, with edges of layers inside
RATE, ROWS = 0.1, 32
# l1, l2, weight_decay, ema
OPTIONS = {"plain": (0.0, 0.0, 0.0, 0.0), "all": (1e-3, 1e-2, 0.3, 0.9)}


def check_steps(optimizer, dtype, l1, l2, decay, ema, cuts=(777,)):
    """Make three steps by both, the kernel's slice by slice, and compare all arrays."""
    rng, rule = np.random.default_rng(0), find_optimizer(optimizer)(0.9)
    network = Network(SIZES, dtype=dtype)
    network.theta[5:9] = 0.0, -0.0, 0.0, -0.0  # whose sign the L1 penalty takes
    update = Update(network, rule, l1, l2, None, decay, ema)
    arrays = (network.theta.copy(), *(one.copy() for one in update.store.state.values()))
    size = network.theta.size
    kernel = python_function(
        make_update(network.dtype.type, optimizer, l1 > 0, l2 > 0, decay > 0, ema > 0)
    )
    for step in range(1, 4):
        g = rng.standard_normal(size).astype(dtype)
        new = tuple(np.full_like(one, np.nan) for one in arrays)
        constants = np.array(step_constants(rule, RATE, step, l1, l2, decay, ema))
        assert len(constants) == COUNT
        for start, stop in zip((0, *cuts), (*cuts, size), strict=True):
            part = g[start:stop].copy()
            assert not kernel(arrays, new, part, start, start, stop, np.array(SIZES), constants,
                              1 / ROWS)  # fmt: skip
        update.apply(g, ROWS, RATE)
        arrays = new
        expected = [network.theta, *update.store.state.values()]
        assert [one.tobytes() for one in arrays] == [one.tobytes() for one in expected]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_every_rule_and_option(options, optimizer, dtype):
    check_steps(optimizer, dtype, *OPTIONS[options])


@pytest.mark.parametrize("options", [(0.1, 0.0, 0.0, 0.0), (0.0, 0.1, 0.0, 0.0)])
def test_either_penalty(options):
    check_steps("sgd", "float32", *options, cuts=(1, 2, 1500, 1900))


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("where", ["new", "old"])
def test_a_number_that_is_not_finite_is_found(where, real):
    """Unless a parameter was not finite before, like `Update.apply_chunk`."""
    network = Network(SIZES, dtype=np.dtype(real).name)
    kernel = python_function(make_update(real, "sgd", False, False, False, False))
    constants = np.array(step_constants(find_optimizer("sgd")(), RATE, 1))
    g, new = np.ones(network.theta.size, real), np.empty_like(network.theta)
    theta = network.theta.copy()
    arguments = (0, 0, theta.size, np.array(SIZES), constants, 1 / ROWS)
    assert kernel((theta,), (new,), g.copy(), *arguments) == 0
    for bad in (np.inf, -np.inf, np.nan):
        (g if where == "new" else theta)[1700] = bad
        assert kernel((theta,), (new,), g.copy(), *arguments) == (where == "new")


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_norm_and_clipping(real):
    """The squares are those of blocks of θ, also of large numbers."""
    g = np.random.default_rng(1).standard_normal(2 * THETA_BLOCK + 77).astype(real)
    g *= real(1e25)
    squares = np.zeros(5)
    python_function(make_squares(real))(g, squares, 1)
    wide = g.astype(np.float64)
    starts = np.arange(0, g.size, THETA_BLOCK)
    np.testing.assert_allclose(squares[1:4], np.add.reduceat(wide * wide, starts), rtol=1e-14)
    assert squares[0] == squares[4] == 0
    norm, scale_of = np.linalg.norm(wide) / ROWS, python_function(clip_scale)
    assert scale_of(squares, 1 / ROWS, norm / 4) == pytest.approx(1 / ROWS / 4, rel=1e-14)
    assert scale_of(squares, 1 / ROWS, 2 * norm) == 1 / ROWS
    assert scale_of(np.zeros(2), 1 / ROWS, 1.0) == 1 / ROWS


def test_add():
    """It may write one of what it adds."""
    a, b = np.random.default_rng(2).standard_normal((2, 50))
    expected = a + b
    python_function(add)(a, b, a, 50)
    assert a.tobytes() == expected.tobytes()
