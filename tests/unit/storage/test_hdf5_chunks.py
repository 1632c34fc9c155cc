"""Chunks that are unpacked without libhdf5: the same numbers, and never more than they hold."""

import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distbp.storage import hdf5_chunks
from distbp.storage.hdf5_chunks import ChunkedArray, fletcher32, unpack

FILTERS = [
    {},
    {"compression": "gzip"},
    {"shuffle": True},
    {"fletcher32": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
]


def array(shape, dtype):
    """Return numbers with some structure, as gzip likes it."""
    n = int(np.prod(shape))
    return (np.arange(n) % 251).reshape(shape).astype(dtype)


@pytest.mark.parametrize("storage", FILTERS)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">f4", "f8", "S3", "?"])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((40,), (7,)), ((23, 5), (23, 5)), ((23, 5), (50, 2)), ((9, 4, 6), (2,) * 3)],
)
def test_as_libhdf5_reads_it(tmp_path, storage, dtype, shape, chunks):
    """Any shape, chunks and numbers; as a whole, and by blocks of rows."""
    maxshape = (None,) * len(shape)  # lets a chunk be larger than the array
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "x", data=array(shape, dtype), chunks=chunks, maxshape=maxshape, **storage
        )
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.array(file, "x", {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING,
                                         h5py.h5t.ENUM})  # fmt: skip
        assert isinstance(found, ChunkedArray)
        wanted = file["x"][...]
        assert (found.shape, found.dtype, found.ndim) == (shape, wanted.dtype, len(shape))
        np.testing.assert_array_equal(found[:], wanted)
        for start in range(0, len(found), 4):
            np.testing.assert_array_equal(found[start : start + 4], wanted[start : start + 4])
        out = np.empty_like(wanted)
        found.read_direct(out)
        np.testing.assert_array_equal(out, wanted)


def test_chunks_that_were_never_written(tmp_path):
    """They hold the fill value; a filter that was left out for a chunk is left out again."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        x = file.create_dataset(
            "x", (6, 3), "f4", chunks=(2, 3), fillvalue=7, compression="gzip", shuffle=True
        )
        x[:2] = 1
        plain = np.arange(6, dtype="f4")
        x.id.write_direct_chunk((4, 0), plain.tobytes(), filter_mask=3)
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.array(file, "x")[:]
    np.testing.assert_array_equal(found[:2], 1)
    np.testing.assert_array_equal(found[2:4], 7)
    np.testing.assert_array_equal(found[4:].ravel(), plain)


def test_a_chunk_is_unpacked_once_for_neighbouring_rows(tmp_path, monkeypatch):
    """A table is read by blocks that end inside a chunk."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array((100, 4), "f4"), chunks=(50, 2), compression="gzip")
    calls = []
    real = hdf5_chunks.inflated
    monkeypatch.setattr(hdf5_chunks, "inflated", lambda *a: calls.append(a) or real(*a))
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.array(file, "x")
        for start in range(100):
            found[start : start + 1]
    assert len(calls) == 4


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    """Chunks are forgotten when there are too many."""
    monkeypatch.setattr(hdf5_chunks, "MOST_CHUNK", 1000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array((1000,), "f4"), chunks=(50,), compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.array(file, "x")
        np.testing.assert_array_equal(found[:], file["x"][...])
        assert len(found._kept) <= 5


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.integers(1, 9))
def test_checksums_and_shuffling(data, width):
    """Fletcher's sums added up one word at a time; shuffling there and back."""
    low = high = 0
    for i in range(0, len(data), 2):
        low += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
        low = (low & 0xFFFF) + (low >> 16)
        high += low
        high = (high & 0xFFFF) + (high >> 16)
    assert fletcher32(data) == high << 16 | low
    whole = len(data) // width * width
    shuffled = b"".join(data[i:whole:width] for i in range(width)) + data[whole:]
    assert hdf5_chunks.unshuffled(shuffled, width) == data


def test_a_long_checksum():
    """More words than are added up at once, all of the largest."""
    assert fletcher32(b"\xff" * (1 << 19)) == 0xFFFFFFFF
    assert fletcher32(bytes(100)) == 0


@pytest.mark.parametrize(
    ("data", "filters"),
    [
        (zlib.compress(bytes(99)), [1]),
        (zlib.compress(bytes(101)), [1]),
        (zlib.compress(bytes(10**7)), [1]),
        (zlib.compress(bytes(100))[:-1], [1]),
        (b"no zlib", [1]),
        (bytes(99), []),
        (bytes(99), [2]),
        (bytes(100) + b"\1\0\0\0", [3]),
        (bytes(2), [3]),
    ],
)
def test_a_chunk_that_is_not_what_it_should_be(data, filters):
    """Too little, too much, cut, damaged, a bomb: all are noticed."""
    with pytest.raises((ValueError, zlib.error)):
        unpack(data, filters, 100, 4)


def test_a_bomb_takes_no_memory(peak):
    """However much a chunk unpacks to, no more is made room for than it has to hold."""
    bomb = zlib.compress(bytes(10**8))

    def light():
        with pytest.raises(ValueError, match="does not unpack to 1,000 bytes"):
            unpack(bomb, [1], 1000, 4)

    assert peak(light) < 10**6
