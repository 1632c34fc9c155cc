"""Chunks decoded without libhdf5: the same numbers, in bounded memory."""

import h5py
import numpy as np
import pytest

from distbp.storage import hdf5_chunks, hdf5_filters
from distbp.storage.hdf5_chunks import ChunkedArray

FILTERS = [
    {},
    {"compression": "gzip"},
    {"shuffle": True},
    {"fletcher32": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"},
    {"compression": "lzf", "shuffle": True, "fletcher32": True},
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


@pytest.mark.parametrize("options", [("nn", 8), ("ec", 4)])
@pytest.mark.parametrize("others", [{}, {"shuffle": True, "fletcher32": True}])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">f4", "f8"])
def test_szip(tmp_path, options, others, dtype):
    """Decoded by libhdf5, from a file in memory; it compresses numbers alone."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        x = file.create_dataset(
            "x", data=array((23, 50), dtype), chunks=(5, 20), compression="szip",
            compression_opts=options, **others,
        )  # fmt: skip
        np.testing.assert_array_equal(hdf5_chunks.open_array(file, "x")[:], x[...])


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


@pytest.mark.parametrize("columns", [2, 1])
def test_chunks_are_cached(tmp_path, monkeypatch, columns):
    """A table is read in blocks that end inside a chunk; each chunk is decoded once.

    That holds for chunks side by side, too, even if they exceed the usual size of the cache.
    """
    monkeypatch.setattr(hdf5_chunks, "_MAX_CHUNK_BYTES", 500)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "x", data=array((100, 4), "f4"), chunks=(50, columns), compression="gzip"
        )
    calls = []
    real = hdf5_filters._inflate
    monkeypatch.setattr(hdf5_filters, "_inflate", lambda *a: calls.append(a) or real(*a))
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.open_array(file, "x")
        for start in range(100):
            found[start : start + 1]
        assert not found._cache
    assert len(calls) == 8 // columns


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    """It is emptied when it has too many bytes."""
    monkeypatch.setattr(hdf5_chunks, "_MAX_CHUNK_BYTES", 1000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array((1000,), "f4"), chunks=(50,), compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        found = hdf5_chunks.open_array(file, "x")
        np.testing.assert_array_equal(found[:], file["x"][...])
        assert len(found._cache) <= 5
