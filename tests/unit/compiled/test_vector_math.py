"""exp, log, log1p and tanh: accurate, right at the edges, and the same bits on every CPU."""

import platform
import re

import numpy as np
import pytest

from distbp.compiled import vector_math
from distbp.compiled.intrinsics import kernel

from .calls import python_function

FUNCTIONS = ["exp", "log", "log1p", "tanh"]
REALS = [np.float32, np.float64]
COMPILED = {}


def compiled(name, real):
    """Return the kernel that applies a function to a vector."""
    if (name, real) not in COMPILED:
        function = getattr(vector_math, f"{name}_of")(real)

        @kernel
        def apply(x, out):
            for i in range(x.size):
                out[i] = function(x[i])

        COMPILED[name, real] = python_function(apply)
    return COMPILED[name, real]


def numbers(name, real):
    """Return numbers of all magnitudes, more of those that occur, and the edges."""
    rng, bits = np.random.default_rng(0), np.uint32 if real is np.float32 else np.uint64
    limits = np.finfo(real)
    edges = [np.inf, -np.inf, np.nan, 0, -0.0, 1, -1, limits.tiny, limits.max, limits.min,
             limits.smallest_subnormal]  # fmt: skip
    parts = [
        rng.integers(0, np.iinfo(bits).max, 20_000, bits, endpoint=True).view(real),
        rng.standard_normal(20_000),
        rng.uniform(*((-110, 95) if real is np.float32 else (-750, 715)), 20_000),
        2.0 ** rng.uniform(-30, 30, 20_000),
        edges,
    ]
    return np.concatenate([np.asarray(one, real) for one in parts])


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_within_three_units_in_the_last_place(name, real):
    """Of NumPy's in a wider type; infinities and NaN are where NumPy has them."""
    x = numbers(name, real)
    found = np.empty_like(x)
    compiled(name, real)(x, found)
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.longdouble))
        expected = exact.astype(real)
    is_finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~is_finite], expected[~is_finite])
    error = np.abs(found[is_finite].astype(np.longdouble) - exact[is_finite])
    assert (error / np.spacing(np.abs(expected[is_finite]))).max() < 3


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_number_has_the_same_bits_in_a_vector_and_alone(name, real):
    """Loops over many numbers run as vector instructions, over one number they do not."""
    x = numbers(name, real)[20_000:20_064]
    together, alone = np.empty_like(x), np.empty_like(x)
    compiled(name, real)(x, together)
    for i in range(len(x)):
        compiled(name, real)(x[i : i + 1], alone[i : i + 1])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 instructions")
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_loop_is_vectorized_and_nothing_is_fused(name, real):
    """A product and a sum in one instruction round once, which other CPUs could not."""
    loop = compiled(name, real)
    loop(np.ones(1, real), np.ones(1, real))
    (code,) = loop.inspect_asm().values()
    assert re.search(r"v?mulp[sd]\s", code)
    assert not re.search(r"vfn?m(add|sub)", code)
    assert not re.search(r"call\w*\s+\S*(exp|log|tanh|floor|rint)", code)
