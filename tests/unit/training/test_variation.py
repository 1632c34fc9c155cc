"""The variation of targets in parts is that of all of them at once."""

import numpy as np
import pytest

from distbp.training import variation
from distbp.training.variation import CollectedRows, target_variation


def at_once(y, scale):
    """Return Σ(y − ȳ)² as NumPy computes it from all rows."""
    y = y.astype(np.float64)
    y -= y[:1]
    if scale is not None:
        y *= scale
    return np.square(y - y.mean(axis=0)).sum(axis=0)


@pytest.mark.parametrize("width", [1, 3, 100])
@pytest.mark.parametrize("rows", [1, 7, 500, 4_001, 30_011])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_parts_give_the_same_bits(monkeypatch, width, rows, is_scaled):
    """In the order of NumPy's sums, which was another one for a single column before 2.3."""
    random = np.random.default_rng(rows)
    y = random.normal(size=(rows, width)) * np.exp(random.normal(size=(rows, 1)))
    scale = random.uniform(1, 2, width) if is_scaled else None
    expected = at_once(y, scale)
    whole = target_variation(lambda start, stop: y[start:stop], rows, scale)
    assert whole.tobytes() == expected.tobytes()
    monkeypatch.setattr(variation, "_PART_NUMBERS", 200)
    found = target_variation(lambda start, stop: y[start:stop], rows, scale)
    if np.lib.NumpyVersion(np.__version__) >= "2.3.0" or width > 1:
        assert found.tobytes() == expected.tobytes()
    assert found == pytest.approx(expected, rel=1e-12)


def test_equal_targets_do_not_vary(monkeypatch):
    monkeypatch.setattr(variation, "_PART_NUMBERS", 200)
    y = np.full((1_000, 1), 0.1)
    assert target_variation(lambda start, stop: y[start:stop], 1_000) == 0


@pytest.mark.parametrize("limit", [1, 40, 1 << 22])
def test_collected_rows(monkeypatch, limit):
    """They are those that were appended, in memory or in a file."""
    monkeypatch.setattr(variation, "_PART_NUMBERS", limit)
    rows = np.arange(90).reshape(30, 3)
    collected = CollectedRows(3)
    for part in np.split(rows, [5, 6, 21]):
        collected.append(part)
    assert (collected.read(0, 30) == rows).all()
    assert (collected.read(4, 22) == rows[4:22]).all()
    assert collected.read(4, 22).dtype == np.float64
    collected.close()
