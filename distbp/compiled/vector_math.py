"""exp, log, log1p and tanh of one number, which vectorize and have the same bits on every CPU.

They are +, −, ×, ÷ and operations on integers, all of which round alike everywhere, without a
branch or a call: a compiler turns a loop over them into vector instructions, and as no operation
is contracted or reordered, their width changes no bit. The results are within 3 units in the last
place; infinities and NaN are those of IEEE 754. Sources: the polynomials of Cephes (S. Moshier)
for exp in float32, and of fdlibm (Sun Microsystems, 1993) for the others.

`exp_of(real)` and so on return the function for a type of number, np.float32 or np.float64.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from distbp.compiled.intrinsics import bits_of, inlined, number_of

Scalar = Callable[..., Any]
Real = Any  # the type np.float32 or np.float64


@cache
def exp_of(real: Real) -> Scalar:
    """Return e^x: 2^k e^r with |r| ≤ ½ ln 2."""
    reduce, expm1, power = _reduction(real), _small_expm1(real), _power_of_two(real)
    lowest, highest = (real(-104), real(89)) if real is np.float32 else (real(-746), real(710))
    one, integer = real(1), bits_type(real)
    single = integer(1)

    @inlined
    def exp(x):
        # Beyond, the result is 0 or infinite; NaN stays as it is.
        x = lowest if x < lowest else x
        x = highest if x > highest else x
        k, r = reduce(x)
        half = integer(k >> single)  # 2^k may be too large or too small for a normal number
        return (one + expm1(r)) * power(half) * power(integer(k - half))

    return exp


@cache
def tanh_of(real: Real) -> Scalar:
    """Return tanh x = E / (E + 2), where E = e^2|x| − 1, with the sign of x."""
    reduce, expm1, power = _reduction(real), _small_expm1(real), _power_of_two(real)
    one, two, saturated = real(1), real(2), real(10 if real is np.float32 else 20)
    integer = bits_type(real)
    sign, rest = integer(np.iinfo(integer).min), integer(np.iinfo(integer).max)

    @inlined
    def tanh(x):
        size = number_of(integer(bits_of(x) & rest))
        k, r = reduce(two * (saturated if size > saturated else size))
        scale = power(k)
        e = scale * expm1(r) + (scale - one)  # no cancellation: k ≥ 0
        return number_of(integer(bits_of(e / (e + two)) | (bits_of(x) & sign)))

    return tanh


@cache
def log_of(real: Real) -> Scalar:
    """Return ln x = k ln 2 + ln m, where x = 2^k m and √½ ≤ m < √2."""
    series, integer = _log_series(real), bits_type(real)
    fraction, tiny_exponent = (23, 25) if real is np.float32 else (52, 54)
    root_bits = bits_of_constant(real(0.5) ** real(0.5))
    smallest, tiny_scale = np.finfo(real).smallest_normal, real(2.0**tiny_exponent)
    zero, one, infinity, nan = real(0), real(1), real(np.inf), real(np.nan)
    fraction, tiny_exponent, none = integer(fraction), integer(tiny_exponent), integer(0)
    ln2_high, ln2_low = (
        (real(6.9313812256e-01), real(9.0580006145e-06))
        if real is np.float32
        else (real(6.93147180369123816490e-01), real(1.90821492927058770002e-10))
    )

    @inlined
    def log(x):
        is_tiny = x < smallest
        bits = bits_of(x * tiny_scale if is_tiny else x)
        exponent = integer(bits - root_bits) >> fraction
        f = number_of(integer(bits - integer(exponent << fraction))) - one
        k = real(integer(exponent - (tiny_exponent if is_tiny else none)))
        half_square, rest = series(f)
        result = (rest + k * ln2_low - half_square) + f + k * ln2_high
        result = result if x < infinity else x  # also NaN
        edge = nan if x < zero else -infinity
        return edge if x <= zero else result

    return log


@cache
def log1p_of(real: Real) -> Scalar:
    """Return ln(1 + x) = ln u + (x − (u − 1)) / u, where u is 1 + x, rounded."""
    log = log_of(real)
    zero, one, infinity = real(0), real(1), real(np.inf)

    @inlined
    def log1p(x):
        u = one + x
        lost = (x - (u - one)) / u
        return log(u) + (lost if zero < u < infinity else zero)

    return log1p


def bits_type(real: Real) -> type[np.int32] | type[np.int64]:
    """Return the type of the integers that have as many bits."""
    return np.int32 if real is np.float32 else np.int64


def bits_of_constant(number: np.floating) -> np.signedinteger:
    """Return what `intrinsics.bits_of` returns in a kernel."""
    return number.view(bits_type(type(number)))


@cache
def _reduction(real: Real) -> Scalar:
    """Return the function x → (k, x − k ln 2), k the integer next to x / ln 2."""
    per_ln2, integer = real(1.4426950408889634), bits_type(real)
    if real is np.float32:
        magic, ln2_high, ln2_low = real(1.5 * 2.0**23), real(0.693359375), real(-2.12194440e-4)
    else:
        magic, ln2_high, ln2_low = (
            real(1.5 * 2.0**52), real(6.93147180369123816490e-01), real(1.90821492927058770002e-10)
        )  # fmt: skip
    offset = bits_of_constant(magic)

    @inlined
    def reduce(x):
        # The sum has no bits behind the binary point: it is rounded, and its last bits are k's.
        shifted = x * per_ln2 + magic
        k = shifted - magic
        return integer(bits_of(shifted) - offset), (x - k * ln2_high) - k * ln2_low

    return reduce


@cache
def _power_of_two(real: Real) -> Scalar:
    """Return the function k → 2^k, by the bits of the exponent."""
    integer, bias, fraction = bits_type(real), *((127, 23) if real is np.float32 else (1023, 52))
    bias, fraction = integer(bias), integer(fraction)

    @inlined
    def power(k):
        return number_of(integer(integer(k + bias) << fraction))

    return power


@cache
def _small_expm1(real: Real) -> Scalar:
    """Return the function r → e^r − 1 for |r| ≤ ½ ln 2."""
    if real is np.float32:
        c7, c6, c5, c4, c3, c2 = map(real, (
            1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
            5.0000001201e-1,
        ))  # fmt: skip

        @inlined
        def expm1(r):
            p = ((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2
            return p * (r * r) + r

        return expm1
    # The Taylor series: its next term is below 2^-57.
    d13, d12, d11, d10, d9, d8, d7, d6, d5, d4, d3, d2 = (
        real(1 / math.factorial(n)) for n in range(13, 1, -1)
    )

    @inlined
    def wide_expm1(r):
        high = ((((d13 * r + d12) * r + d11) * r + d10) * r + d9) * r + d8
        p = (((((high * r + d7) * r + d6) * r + d5) * r + d4) * r + d3) * r + d2
        return p * (r * r) + r

    return wide_expm1


@cache
def _log_series(real: Real) -> Scalar:
    """Return the function f → (h, t) with ln(1 + f) = f − h + t, h = ½ f²."""
    half, two = real(0.5), real(2)
    if real is np.float32:
        g1, g2, g3, g4 = map(real, (0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841))

        @inlined
        def series(f):
            s, h = f / (two + f), half * f * f
            z = s * s
            w = z * z
            return h, s * (h + (z * (g1 + w * g3) + w * (g2 + w * g4)))

        return series
    l1, l2, l3, l4, l5, l6, l7 = map(real, (
        6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
        2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
        1.479819860511658591e-01,
    ))  # fmt: skip

    @inlined
    def wide_series(f):
        s, h = f / (two + f), half * f * f
        z = s * s
        w = z * z
        odd, even = z * (l1 + w * (l3 + w * (l5 + w * l7))), w * (l2 + w * (l4 + w * l6))
        return h, s * (h + (odd + even))

    return wide_series
