"""Rows by kernels have the bits of `BatchLoader`, whatever their type."""

import itertools

import numpy as np
import pytest

from distbp.compiled.arrays import Table, allocate_work, can_load
from distbp.compiled.rows import LABELS, PLAIN, SCALED, make_load_rows, wide_type
from distbp.data.batches import BatchLoader
from distbp.data.dataset import Split
from distbp.storage.scaling import Scaling, TargetScaling

from .calls import python_function

N_IN, N_OUT, COUNT, CLASSES = 19, 3, 40, 5
NAMES = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)] + ["f2", "f4", "f8"]
DTYPES = [np.dtype(order + name) for name in NAMES for order in "<>" if order + name[1] != ">1"]
SCALINGS = [(False, True), (True, True), (True, False), (False, False)]


def make_numbers(dtype, shape, rng):
    """Return numbers of all sizes: of float16 also infinite and subnormal ones."""
    if dtype.kind == "f" and dtype.itemsize == 2:
        bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
        found = bits.view(np.float16)
        return np.where(np.isnan(found), np.float16(6e-8), found).astype(dtype)
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 9, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    native = dtype.newbyteorder("=")
    return rng.integers(limits.min, limits.max, shape, native, endpoint=True).astype(dtype)


def load(split, real, scaling, target=None, n_classes=0, smoothing=0.0, weights=None):
    """Return x, y, labels and weights of some rows by the kernel, and by the loader."""
    dtype, rows = np.dtype(real), 7
    numbers = np.random.default_rng(9).permutation(COUNT)[:rows]
    loader = BatchLoader(split, scaling, n_classes, rows, dtype, target, smoothing, weights)
    x, y, labels = loader.load(numbers)
    expected = [x, y, labels, loader.load_weights(numbers)]
    wide, n_out = wide_type(split.x_dtype, real), y.shape[1]
    empty = np.empty(0)
    table = Table(
        x=split.x.reshape(-1),
        y=split.y.reshape(-1),
        shift=np.broadcast_to(scaling.shift.astype(wide), N_IN).copy(),
        scale=np.broadcast_to(scaling.scale.astype(wide), N_IN).copy(),
        one_hot=np.empty(0, dtype) if loader.one_hot is None else loader.one_hot.reshape(-1),
        y_shift=empty if target is None else target.shift,
        y_scale=empty if target is None else target.scale,
        weights=empty if weights is None else weights,
    )
    kind = LABELS if n_classes else PLAIN if target is None else SCALED
    kernel = make_load_rows(real, split.x_dtype, split.y_dtype, kind, loader.is_shifted,
                            loader.is_scaled, weights is not None)  # fmt: skip
    load_rows = python_function(kernel)
    work = allocate_work((N_IN, n_out), rows, dtype, False)
    with np.errstate(all="ignore"):
        load_rows(table, numbers, numbers, rows, np.array([N_IN, n_out]), work)
    return (work.x, work.y, work.labels, work.weights), expected


def check(found, expected):
    x, y, labels, weights = expected
    assert found[0].tobytes() == x.tobytes()
    assert found[1].tobytes() == y.tobytes()
    assert found[2].tolist() == labels.tolist()
    assert weights is None or found[3].tobytes() == weights[:, 0].tobytes()


def make_scaling(is_shifted, is_scaled):
    rng = np.random.default_rng(2)
    shift = rng.uniform(-5, 5, N_IN) if is_shifted else np.zeros(1)
    return Scaling(shift, rng.uniform(0.1, 1, N_IN) if is_scaled else np.ones(1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_numbers(dtype):
    """As x, shifted or scaled or both, and as the targets of a regression."""
    assert can_load(dtype)
    rng, i = np.random.default_rng(1), DTYPES.index(dtype)
    x, y = (make_numbers(dtype, (COUNT, n), rng) for n in (N_IN, N_OUT))
    real = (np.float32, np.float64)[i % 2]
    if dtype.itemsize == 8 and dtype.kind == "f":
        real = np.float32
    with np.errstate(all="ignore"):
        check(*load(Split(x, y), real, make_scaling(*SCALINGS[i // 2 % 4])))


@pytest.mark.parametrize("scaling", SCALINGS[:3])
def test_classes(scaling):
    """With smoothed labels, weights, and rows that are not aligned."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, (COUNT, 1)).astype(np.uint8)
    raw = np.empty(COUNT * N_IN * 4 + 1, np.uint8)
    x = raw[1:].view("f4").reshape(COUNT, N_IN)
    x[...] = rng.standard_normal(x.shape)
    split = Split(x, labels)
    weights = rng.uniform(0, 2, COUNT)
    check(*load(split, np.float32, make_scaling(*scaling), None, CLASSES, 0.1, weights))


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_scaled_targets(real):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((COUNT, N_IN)).astype("f4"), rng.uniform(1e9, 1.1e9, (COUNT, N_OUT))
    target = TargetScaling(y.mean(axis=0), 1 / y.std(axis=0))
    check(*load(Split(x, y), real, make_scaling(True, True), target))


def test_what_kernels_cannot_read():
    """Long doubles, and what is no number."""
    names = ["g", "c8", "?", "S4"]
    assert [can_load(np.dtype(name)) for name in names] == [False] * 4
    assert all(map(can_load, itertools.chain(DTYPES)))
