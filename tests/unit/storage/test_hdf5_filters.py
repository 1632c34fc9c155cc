"""Filters: the bytes that libhdf5 would decode, and no more than the shape of a chunk requires."""

import sys
import zlib
from importlib import import_module

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distbp.storage import hdf5_filters
from distbp.storage.hdf5_filters import ChunkType, Filter, decode


@pytest.fixture(params=["zlib", "isal.isal_zlib"])
def deflate(request, monkeypatch):
    """Decode deflate with each of the libraries."""
    monkeypatch.setattr(hdf5_filters, "_deflate", import_module(request.param))


def test_isal_is_optional(monkeypatch):
    """Without it, zlib decodes."""
    assert hdf5_filters._load_deflate() is import_module("isal.isal_zlib")
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert hdf5_filters._load_deflate() is zlib


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
    assert hdf5_filters._fletcher32(data) == high << 16 | low
    end = len(data) // width * width
    shuffled = b"".join(data[i:end:width] for i in range(width)) + data[end:]
    assert hdf5_filters._unshuffle(shuffled, width) == data


def test_a_long_checksum():
    """More words than are summed at once, all with the largest value."""
    assert hdf5_filters._fletcher32(b"\xff" * (1 << 19)) == 0xFFFFFFFF
    assert hdf5_filters._fletcher32(bytes(100)) == 0


CHUNK = ChunkType((25,), np.dtype("f4"))
LZF_ZEROS = b"\x00\x00" + b"\xe0\x5a\x00"  # a zero, and 99 bytes that repeat it
LZF_BOMB = b"\x00\x00" + b"\xe0\xff\x00" * 100_000


@pytest.mark.usefixtures("deflate")
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
        (LZF_ZEROS[:-1], [32000]),
        (LZF_ZEROS + b"\0\0", [32000]),
        (b"\x20\x00" + LZF_ZEROS, [32000]),
        (b"\x1f" + bytes(9), [32000]),
        (LZF_BOMB, [32000]),
        (b"", [32000]),
        (b"", [4]),
        (b"\xff\xff\xff\xff" + bytes(20), [4]),
        (b"\x64\0\0\0" + bytes(20), [4]),
    ],
)
def test_invalid_chunks(data, filters):
    """Too few bytes, too many, truncated, damaged, a decompression bomb: all are refused."""
    with pytest.raises(ValueError, match=r"chunk|contradict"):
        decode(data, [Filter(number, ()) for number in filters], CHUNK)


def test_lzf_by_hand():
    """Bytes as they are, and a repetition that overlaps what it makes."""
    assert decode(LZF_ZEROS, [Filter(32000, ())], CHUNK) == bytes(100)
    data = b"\x02abc" + b"\xe0\x58\x02"  # 97 bytes from 3 before
    assert decode(data, [Filter(32000, ())], CHUNK) == (b"abc" * 34)[:100]


@pytest.mark.usefixtures("deflate")
@pytest.mark.parametrize(("data", "number"), [(zlib.compress(bytes(10**8)), 1), (LZF_BOMB, 32000)])
def test_a_decompression_bomb_takes_no_memory(peak, data, number):
    """No more is allocated than the shape of a chunk requires."""
    chunk = ChunkType((250,), np.dtype("f4"))

    def expand():
        with pytest.raises(ValueError, match="does not decompress to 1,000 bytes"):
            decode(data, [Filter(number, ())], chunk)

    assert peak(expand) < 10**6


@pytest.mark.parametrize("compression", ["lzf", "szip"])
def test_damaged_chunks_do_not_crash(tmp_path, compression):
    """Any bytes give an error, or as many bytes as the shape requires."""
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset(
            "x", data=random.integers(0, 9, (20, 50)), chunks=(20, 50), compression=compression
        )
        filters = hdf5_filters.read_filters(made.id.get_create_plist(), "x")
        good = made.id.read_direct_chunk((0, 0))[1]
        wanted = made[...].tobytes()
    chunk, refused = ChunkType((20, 50), np.dtype(np.int64)), 0
    assert decode(good, filters, chunk) == wanted
    for number in range(400):
        data = bytearray(good[: random.integers(4, len(good))] if number % 4 == 0 else good)
        for _ in range(number % 5):
            data[random.integers(4, len(data))] = random.integers(256)
        try:
            assert len(decode(bytes(data), filters, chunk)) == chunk.size
        except (ValueError, OSError, RuntimeError):
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("storage", "name"),
    [({"scaleoffset": 0}, "scaleoffset"), ({"compression": 32001}, "blosc"),
     ({"compression": 32099}, "number 32099")],
)  # fmt: skip
def test_other_filters_are_named(tmp_path, storage, name):
    """They are refused, with the program that replaces them."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset(
            "x", (8,), "i4", chunks=(8,), allow_unknown_filter=True, **storage
        )
        with pytest.raises(ValueError, match=f"x uses the filter {name};.*h5repack -f GZIP=4"):
            hdf5_filters.read_filters(made.id.get_create_plist(), "x")
