"""Chunks decoded without libhdf5: the same numbers, in bounded memory."""

import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distbp.storage import hdf5_chunks
from distbp.storage.hdf5_chunks import ChunkedArray, _decode, _fletcher32

FILTERS = [
    {},
    {"compression": "gzip"},
    {"shuffle": True},
    {"fletcher32": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
]


def array(shape, dtype):
    """Return numbers that gzip can compress."""
    n = int(np.prod(shape))
    return (np.arange(n) % 251).reshape(shape).astype(dtype)


@pytest.mark.parametrize("storage", FILTERS)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">f4", "f8", "S3", "?"])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((40,), (7,)), ((23, 5), (23, 5)), ((23, 5), (50, 2)), ((9, 4, 6), (2,) * 3)],
)
def test_as_libhdf5_reads_it(tmp_path, storage, dtype, shape, chunks):
    """Any shape, chunks and types; all at once, and in blocks of rows."""
    maxshape = (None,) * len(shape)  # lets a chunk be larger than the array
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "x", data=array(shape, dtype), chunks=chunks, maxshape=maxshape, **storage
        )
    with h5py.File(tmp_path / "a.h5") as file:
        types = {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM}
        found = hdf5_chunks.open_array(file, "x", types)
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
    """They have the fill value; a filter that was skipped for a chunk is skipped again."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        x = file.create_dataset(
            "x", (6, 3), "f4", chunks=(2, 3), fillvalue=7, compression="gzip", shuffle=True
        )
        x[:2] = 1
        plain = np.arange(6, dtype="f4")
        x.id.write_direct_chunk((4, 0), plain.tobytes(), filter_mask=3)
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.open_array(file, "x")[:]
    np.testing.assert_array_equal(found[:2], 1)
    np.testing.assert_array_equal(found[2:4], 7)
    np.testing.assert_array_equal(found[4:].ravel(), plain)


def test_chunks_are_cached(tmp_path, monkeypatch):
    """A table is read in blocks that end inside a chunk; each chunk is decoded once."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array((100, 4), "f4"), chunks=(50, 2), compression="gzip")
    calls = []
    real = hdf5_chunks._inflate
    monkeypatch.setattr(hdf5_chunks, "_inflate", lambda *a: calls.append(a) or real(*a))
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.open_array(file, "x")
        for start in range(100):
            found[start : start + 1]
    assert len(calls) == 4


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    """It is emptied when it has too many bytes."""
    monkeypatch.setattr(hdf5_chunks, "_MAX_CHUNK_BYTES", 1000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array((1000,), "f4"), chunks=(50,), compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.open_array(file, "x")
        np.testing.assert_array_equal(found[:], file["x"][...])
        assert len(found._cache) <= 5


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.integers(1, 9))
def test_checksums_and_shuffling(data, width):
    """Fletcher's sums equal those taken word by word; shuffling is inverted."""
    low = high = 0
    for i in range(0, len(data), 2):
        low += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
        low = (low & 0xFFFF) + (low >> 16)
        high += low
        high = (high & 0xFFFF) + (high >> 16)
    assert _fletcher32(data) == high << 16 | low
    end = len(data) // width * width
    shuffled = b"".join(data[i:end:width] for i in range(width)) + data[end:]
    assert hdf5_chunks._unshuffle(shuffled, width) == data


def test_a_long_checksum():
    """More words than are summed at once, all with the largest value."""
    assert _fletcher32(b"\xff" * (1 << 19)) == 0xFFFFFFFF
    assert _fletcher32(bytes(100)) == 0


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
def test_invalid_chunks(data, filters):
    """Too few bytes, too many, truncated, damaged, a decompression bomb: all are refused."""
    with pytest.raises((ValueError, zlib.error)):
        _decode(data, filters, 100, 4)


def test_a_decompression_bomb_takes_no_memory(peak):
    """No more is allocated than the shape of a chunk requires."""
    bomb = zlib.compress(bytes(10**8))

    def decode():
        with pytest.raises(ValueError, match="does not decompress to 1,000 bytes"):
            _decode(bomb, [1], 1000, 4)

    assert peak(decode) < 10**6
