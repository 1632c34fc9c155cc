"""Random numbers: pinned values, independent streams, reused buffers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.network.rng import (
    DROPOUT,
    HOLDOUT,
    SHUFFLE,
    WEIGHTS,
    Bits,
    _stable_order,
    _stream,
    normal,
    permutation,
)

PURPOSES = (WEIGHTS, SHUFFLE, HOLDOUT, DROPOUT)
ZERO = [213000021201967259, 4455796210202625458, 2055444239878205049, 10411612076246414556]
SOME = [4049439243157141605, 14085183558280449628, 13747625274456385269, 111196690852040836]
MASK = 2**64 - 1


def philox(counter, key):
    """Return one block of Philox 4x64-10, as Salmon et al. print it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (right >> 64) ^ c1 ^ k0, right & MASK, (left >> 64) ^ c3 ^ k1, left & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def test_streams_are_pinned():
    """A change in NumPy, or in the layout of key and counter, is detected."""
    assert _stream(0, 0).random_raw(4).tolist() == ZERO
    assert _stream(5, DROPOUT, 1, 2, 3).random_raw(4).tolist() == SOME


def test_streams_are_those_of_the_paper():
    """Key and counter are (seed, purpose) and (block, epoch, step, shard), blocks from 1."""
    assert philox((0, 0, 0, 0), (0, 0))[0] == 0x16554D9ECA36314C  # Random123's known answer
    assert philox((1, 0, 0, 0), (0, 0)) == ZERO
    second = _stream(5, DROPOUT, 1, 2, 3).random_raw(8)[4:]
    assert second.tolist() == philox((2, 1, 2, 3), (5, DROPOUT))


def test_what_is_made_of_streams_is_pinned():
    """Weights, orders and dropout bits of a seed never change."""
    np.testing.assert_allclose(
        normal(0, 0, 3), [-2.7457596823489796, -1.685446260389106, -0.36155082208443245], rtol=1e-13
    )
    assert permutation(10, 0, SHUFFLE, 0).tolist() == [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
    assert Bits(6).fill(6, 0, DROPOUT, 0, 0, 0).tolist() == [7059, 7890, 2014, 31140, 35559, 28839]


@given(st.integers(0, 300), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_permutation_is_a_permutation(count, seed, epoch):
    """Every number occurs once."""
    order = permutation(count, seed, SHUFFLE, epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


@given(
    st.lists(
        st.integers(0, 20)
        | st.builds(lambda high, low: high << 40 | low, st.integers(0, 3), st.integers(0, 200)),
        max_size=60,
    )
)
def test_equal_keys_stay_in_their_order(keys):
    """As a stable sort has them, also where only the last bits of keys differ."""
    keys = np.array(keys, np.uint64)
    assert _stable_order(keys).tolist() == sorted(range(len(keys)), key=lambda i: keys[i])


def test_permutations_are_fair():
    """Over many epochs each number is first about equally often."""
    firsts = [permutation(5, 0, SHUFFLE, epoch)[0] for epoch in range(2000)]
    assert np.bincount(firsts, minlength=5) == pytest.approx(400, abs=90)  # 5 deviations


def test_streams_differ():
    """Streams of another seed, purpose or position have no number in common."""
    positions = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0)]
    keys = [(seed, purpose, *p) for seed in (0, 1) for purpose in PURPOSES for p in positions]
    numbers = np.concatenate([_stream(*key).random_raw(100) for key in keys])
    assert np.unique(numbers).size == numbers.size


def test_omitted_positions_are_0():
    """A position of one number is that number and zeros."""
    assert _stream(3, SHUFFLE, 7).random_raw() == _stream(3, SHUFFLE, 7, 0, 0).random_raw()


def test_a_stream_does_not_depend_on_how_it_is_drawn():
    """Drawing in chunks gives the numbers of one draw: _DRAW_CHUNK changes nothing."""
    bits, count = Bits(5000), 4999
    expected = _stream(3, DROPOUT, 1, 2, 3).random_raw(1250).view(np.uint16)[:count]
    np.testing.assert_array_equal(bits.fill(count, 3, DROPOUT, 1, 2, 3), expected)


def test_bits_are_even():
    """16-bit numbers have mean and variance of a uniform distribution."""
    numbers = Bits(100_000).fill(100_000, 0, DROPOUT, 0, 0, 0) / 65536
    assert numbers.mean() == pytest.approx(0.5, abs=0.005)
    assert numbers.var() == pytest.approx(1 / 12, rel=0.02)


def test_bits_allocate_little(peak):
    """1 MB of random bits is refilled in chunks of a few kB."""
    bits = Bits(500_000)
    assert peak(lambda: bits.fill(500_000, 0, DROPOUT, 0, 0, 0)) < 4_000


def test_normal_is_normal():
    """Mean, variance, skewness and tails of 200,000 numbers are those of N(0, 1)."""
    z = normal(1, 0, 200_000)
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.var() == pytest.approx(1, abs=0.015)
    assert np.mean(z**3) == pytest.approx(0, abs=0.03)
    assert np.mean(np.abs(z) > 2) == pytest.approx(0.0455, rel=0.05)
    assert np.isfinite(z).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 65_535, 65_537, 200_003])
def test_normal_is_box_muller(count):
    """Of the stream's first and second half, whatever chunks it is computed in."""
    raw = _stream(7, WEIGHTS, 2).random_raw(2 * count)
    u, v = ((raw >> np.uint64(11)) + 0.5).reshape(2, count) * 2.0**-53
    expected = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
    np.testing.assert_array_equal(normal(7, 2, count), expected)


def test_normal_takes_little_more_than_its_result(peak):
    """Weights may fill much of a machine's memory by themselves."""
    assert peak(lambda: normal(0, 0, 1_000_000)) < 8_000_000 + 10_000_000
