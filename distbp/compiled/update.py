"""From a summed gradient to new parameters: the arithmetic of `network.update`, bit for bit.

Each element goes through the same operations in the same order as in `Update.apply_chunk` and in
the rules of `network.optimizers`, and IEEE arithmetic rounds them alike; only the norm for
clipping is summed in another order. `make_update` makes the kernel for the options of a run.
Passes over a chunk that stays in the L1 cache take the place of NumPy's: one for all arrays would
have more pointers than a compiler compares before it gives up on vectors.
"""

from functools import cache

import numpy as np

from distbp.compiled.intrinsics import bits_of, inlined, kernel, part, square_root
from distbp.compiled.step_constants import DECAY, L1, L2, RATE, REST, RULE, SHARE
from distbp.compiled.vector_math import Real, Scalar, bits_of_constant, bits_type
from distbp.network.optimizers import find_optimizer
from distbp.network.parameters import THETA_BLOCK

_CHUNK = 1024  # numbers: those of seven arrays, in float32, fit in the L1 cache


@cache
def make_update(
    real: Real, optimizer: str, has_l1: bool, has_l2: bool, has_decay: bool, has_average: bool
) -> Scalar:
    """Return the kernel update_slice(old, new, g, origin, start, stop, sizes, constants, scale).

    It updates [start, stop) of θ and of the state by the summed gradient, which it overwrites, and
    returns 1 if a number of `new` is not finite although all of `old` were, else 0.

    Its arguments: old, new, tuples (θ, *state) of (P,) arrays, the average of θ last if there is
    one; g, the gradient of [origin, …); sizes (L + 1,) int64; constants, from `step_constants`;
    scale, 1 / rows, and that of `clip_scale`.
    """
    found = find_optimizer(optimizer)
    prepare = _make_prepare(real, has_l1, has_l2)
    has_factor = has_l1 or has_l2 or not found.takes_rate_times_g
    decays = has_decay and found.decays_weights
    apply = _RULES[optimizer](real)
    average, is_finite = _make_average(real), _make_is_finite(real)

    @kernel
    def update_slice(old, new, g, origin, start, stop, sizes, constants, scale):
        was_finite = True
        rate = constants[RATE] if has_factor else constants[RATE] * scale
        for at in range(start, stop, _CHUNK):
            n = min(_CHUNK, stop - at)
            chunk = part(g, at - origin, n)
            if has_factor:
                prepare(part(old[0], at, n), chunk, at, sizes, constants, scale)
            apply(old, new, chunk, at, sizes, constants, rate, decays)
            if has_average:
                average(old[-1], new[-1], new[0], at, n, constants)
            was_finite = is_finite(new, at, n) and was_finite
        return 0 if was_finite or not is_finite(old, start, stop - start) else 1

    return update_slice


@cache
def _make_prepare(real: Real, has_l1: bool, has_l2: bool) -> Scalar:
    """Return the kernel that makes a chunk's summed gradient the mean, and adds the penalties."""
    zero, one = real(0), real(1)

    @kernel
    def prepare(theta, g, at, sizes, constants, scale):
        factor, l1, l2 = real(scale), real(constants[L1]), real(constants[L2])
        for i in range(g.size):
            g[i] *= factor
        if has_l1 or has_l2:
            edge = 0
            for l in range(1, sizes.size):
                first, stop = max(edge - at, 0), min(edge + sizes[l] * sizes[l - 1] - at, g.size)
                w, own = part(theta, first, stop - first), part(g, first, stop - first)
                for i in range(stop - first):  # empty where the layer is not in the chunk
                    slope = own[i]
                    if has_l2:
                        slope += w[i] * l2
                    if has_l1:
                        sign = one if w[i] > zero else (-one if w[i] < zero else w[i] - w[i])
                        slope += sign * l1
                    own[i] = slope
                edge += sizes[l] * (sizes[l - 1] + 1)

    return prepare


@cache
def _make_sgd(real: Real) -> Scalar:
    @kernel
    def apply(old, new, g, at, sizes, constants, rate, decays):
        theta, moved, eta = part(old[0], at, g.size), part(new[0], at, g.size), real(rate)
        for i in range(g.size):
            moved[i] = theta[i] - g[i] * eta

    return apply


@cache
def _make_velocity(real: Real) -> Scalar:
    """Return the kernel of the velocity, which returns θ, its new values and the velocity."""

    @inlined
    def velocity(old, new, g, at, constants, eta):
        theta, moved = part(old[0], at, g.size), part(new[0], at, g.size)
        before, v, mu = part(old[1], at, g.size), part(new[1], at, g.size), real(constants[RULE])
        for i in range(g.size):
            v[i] = before[i] * mu - g[i] * eta
        return theta, moved, v

    return velocity


@cache
def _make_momentum(real: Real) -> Scalar:
    velocity = _make_velocity(real)

    @kernel
    def apply(old, new, g, at, sizes, constants, rate, decays):
        theta, moved, v = velocity(old, new, g, at, constants, real(rate))
        for i in range(g.size):
            moved[i] = theta[i] + v[i]

    return apply


@cache
def _make_nesterov(real: Real) -> Scalar:
    velocity = _make_velocity(real)

    @kernel
    def apply(old, new, g, at, sizes, constants, rate, decays):
        eta, mu = real(rate), real(constants[RULE])
        theta, moved, v = velocity(old, new, g, at, constants, eta)
        for i in range(g.size):
            moved[i] = (theta[i] - g[i] * eta) + v[i] * mu

    return apply


@cache
def _make_moments(real: Real) -> Scalar:
    """Return the kernel of both of Adam's moments, which returns them."""

    @inlined
    def moments(old, new, g, at, constants):
        m_before, m = part(old[1], at, g.size), part(new[1], at, g.size)
        v_before, v = part(old[2], at, g.size), part(new[2], at, g.size)
        beta1, rest1 = real(constants[RULE + 3]), real(constants[RULE + 4])
        beta2, rest2 = real(constants[RULE + 5]), real(constants[RULE + 6])
        for i in range(g.size):
            m[i] = m_before[i] * beta1 + g[i] * rest1
        for i in range(g.size):
            v[i] = v_before[i] * beta2 + (g[i] * g[i]) * rest2
        return m, v

    return moments


@cache
def _make_adam(real: Real) -> Scalar:
    moments, one = _make_moments(real), real(1)

    @inlined
    def move(theta, moved, m, v, start, stop, constants, decay):
        root, epsilon = real(constants[RULE]), real(constants[RULE + 1])
        factor = real(constants[RULE + 2])
        for i in range(start, stop):
            moved[i] = theta[i] * decay - (m[i] * factor) / (square_root(v[i]) / root + epsilon)

    @kernel
    def apply(old, new, g, at, sizes, constants, rate, decays):
        m, v = moments(old, new, g, at, constants)
        theta, moved, decay = part(old[0], at, g.size), part(new[0], at, g.size), one
        if not decays:
            move(theta, moved, m, v, 0, g.size, constants, one)  # a product with 1 is exact
        else:
            decay, edge = real(constants[DECAY]), -at
            for l in range(1, sizes.size):
                middle, end = edge + sizes[l] * sizes[l - 1], edge + sizes[l] * (sizes[l - 1] + 1)
                move(theta, moved, m, v, max(edge, 0), min(middle, g.size), constants, decay)
                move(theta, moved, m, v, max(middle, 0), min(end, g.size), constants, one)
                edge = end

    return apply


@cache
def _make_nadam(real: Real) -> Scalar:
    moments = _make_moments(real)

    @kernel
    def apply(old, new, g, at, sizes, constants, rate, decays):
        m, v = moments(old, new, g, at, constants)
        theta, moved = part(old[0], at, g.size), part(new[0], at, g.size)
        root, epsilon = real(constants[RULE]), real(constants[RULE + 1])
        factor, factor_of_g = real(constants[RULE + 2]), real(constants[RULE + 7])
        for i in range(g.size):
            step = g[i] * factor_of_g + m[i] * factor
            moved[i] = theta[i] - step / (square_root(v[i]) / root + epsilon)

    return apply


@cache
def _make_rmsprop(real: Real) -> Scalar:
    @kernel
    def apply(old, new, g, at, sizes, constants, rate, decays):
        theta, moved, eta = part(old[0], at, g.size), part(new[0], at, g.size), real(rate)
        before, v = part(old[1], at, g.size), part(new[1], at, g.size)
        alpha, rest = real(constants[RULE]), real(constants[RULE + 1])
        epsilon = real(constants[RULE + 2])
        for i in range(g.size):
            v[i] = before[i] * alpha + (g[i] * g[i]) * rest
        for i in range(g.size):
            moved[i] = theta[i] - (g[i] * eta) / (square_root(v[i]) + epsilon)

    return apply


# By the names of `network.optimizers.OPTIMIZERS`.
_RULES = {
    "sgd": _make_sgd,
    "momentum": _make_momentum,
    "nesterov": _make_nesterov,
    "adam": _make_adam,
    "adamw": _make_adam,
    "nadam": _make_nadam,
    "rmsprop": _make_rmsprop,
}


@cache
def _make_average(real: Real) -> Scalar:
    """Return the kernel that takes a chunk of the new θ into the average."""

    @kernel
    def average(before, after, theta, at, n, constants):
        before, after, theta = part(before, at, n), part(after, at, n), part(theta, at, n)
        share, rest = real(constants[SHARE]), real(constants[REST])
        for i in range(n):
            after[i] = before[i] * share + theta[i] * rest

    return average


@cache
def _make_is_finite(real: Real) -> Scalar:
    """Return the kernel that says whether [at, at + n) of all arrays of a tuple is finite."""
    integer, infinity = bits_type(real), bits_of_constant(real(np.inf))
    without_sign, none = integer(np.iinfo(integer).max), integer(0)

    @kernel
    def is_finite(arrays, at, n):
        largest = none
        for array in arrays:
            numbers = part(array, at, n)
            for i in range(n):
                size = integer(bits_of(numbers[i]) & without_sign)
                largest = size if size > largest else largest
        return largest < infinity

    return is_finite


@cache
def make_squares(real: Real) -> Scalar:
    """Return the kernel measure_squares(g, squares, first), see `Update.measure_squares`.

    It writes the squared norms of the blocks of g, the gradient from block `first` on.
    """

    @kernel
    def measure_squares(g, squares, first):
        for block in range((g.size + THETA_BLOCK - 1) // THETA_BLOCK):
            start = block * THETA_BLOCK
            squares[first + block] = sum_squares(part(g, start, min(THETA_BLOCK, g.size - start)))

    return measure_squares


@inlined
def sum_squares(v):
    """Return the sum of squares in float64, in which those of float32 do not overflow."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = v.size & ~7
    for i in range(0, whole, 8):
        s0 += np.float64(v[i]) * np.float64(v[i])
        s1 += np.float64(v[i + 1]) * np.float64(v[i + 1])
        s2 += np.float64(v[i + 2]) * np.float64(v[i + 2])
        s3 += np.float64(v[i + 3]) * np.float64(v[i + 3])
        s4 += np.float64(v[i + 4]) * np.float64(v[i + 4])
        s5 += np.float64(v[i + 5]) * np.float64(v[i + 5])
        s6 += np.float64(v[i + 6]) * np.float64(v[i + 6])
        s7 += np.float64(v[i + 7]) * np.float64(v[i + 7])
    s = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    for i in range(whole, v.size):
        s += np.float64(v[i]) * np.float64(v[i])
    return s


@kernel
def clip_scale(squares, scale, clip_norm):
    """Return `scale`, made smaller where the norm of the mean gradient is above `clip_norm`."""
    total = 0.0
    for i in range(squares.size):
        total += squares[i]
    norm = scale * square_root(total)
    return scale * min(1.0, clip_norm / norm) if norm > 0.0 else scale
