"""Arrays of an HDF5 file, contiguous or in chunks that are decompressed by `hdf5_filters`.

Chunks are read as they are stored, and none is decoded before the sizes of all have been
compared with the shape of the array. What the numbers mean is not known here.
"""

import itertools
import math
from collections.abc import Collection
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t

from distbp.storage import hdf5_checks, hdf5_filters

_MAX_CHUNK_BYTES = 1 << 25  # of a chunk, and of all decoded chunks in the cache
_MAX_CACHE_BYTES = 1 << 28  # if the chunks of the same rows are more than that
_MAX_COMPRESSION_RATIO = 1100  # that of deflate is 1032 at most, that of lzf 88


def open_array(
    file: h5py.File, path: str, types: Collection[int] = hdf5_checks.NUMERIC_TYPES
) -> "h5py.Dataset | ChunkedArray":
    """Return the array at `path`, to be read by rows or as a whole.

    Raises
    ------
    ValueError
        It is not of one of the HDF5 type classes, or is refused by `hdf5_checks.open_dataset`
        or `ChunkedArray`.
    """
    found = hdf5_checks.open_dataset(file, path, types)
    if found.id.get_create_plist().get_layout() != h5d.CHUNKED:
        return found
    # NumPy has no bit fields; h5py gives them as unsigned integers.
    is_bits = found.id.get_type().get_class() == h5t.BITFIELD
    return ChunkedArray(found, path, found.dtype if is_bits else None)


def has_numpy_type(dataset: h5py.Dataset) -> bool:
    """Return whether NumPy has the type as it is stored; it has no 24-bit integers, say."""
    found = dataset.id.get_type()
    is_text = found.get_class() == h5t.STRING
    return is_text or bool(h5t.py_create(dataset.dtype, logical=True).equal(found))


class ChunkedArray:
    """An array that is stored in chunks.

    Parameters
    ----------
    dataset : h5py.Dataset
    path : str
        Its name, for messages.
    dtype : numpy.dtype, optional
        Type of the items as they are stored, instead of that which h5py gives; the items of
        chunks that were never written are then 0.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype

    Raises
    ------
    ValueError
        Its chunks are too large, use another filter, or are too few bytes for its shape.
    """

    def __init__(self, dataset: h5py.Dataset, path: str, dtype: np.dtype | None = None) -> None:
        self.shape, self._dataset, self._path = dataset.shape, dataset, path
        self.dtype = dataset.dtype if dtype is None else dtype
        self._fill_value = dataset.fillvalue if dtype is None else np.zeros((), dtype)[()]
        plist = dataset.id.get_create_plist()
        self._chunk = hdf5_filters.ChunkType(plist.get_chunk(), self.dtype)
        if self._chunk.size > _MAX_CHUNK_BYTES:
            raise ValueError(
                f"{path} is stored in chunks of {self._chunk.size:,} bytes; expected at "
                f"most {_MAX_CHUNK_BYTES:,}: store it in smaller ones"
            )
        if dtype is None and not has_numpy_type(dataset):
            raise ValueError(f"{path} has a number type that NumPy lacks: store it as another")
        self._filters = hdf5_filters.read_filters(plist, path)
        # Room for the chunks of the same rows: those that follow are read from all of them.
        sides, size = self._chunk.shape[1:], self._chunk.size
        beside = math.prod(-(-n // c) for n, c in zip(self.shape[1:], sides, strict=True))
        self._cache_size = min(max(_MAX_CHUNK_BYTES, beside * size), _MAX_CACHE_BYTES) // size
        self._cache: dict[tuple[int, ...], np.ndarray] = {}
        self._stored: dict[tuple[int, ...], int] = {}  # bytes of each chunk, by its first corner
        dataset.id.chunk_iter(self._note_chunk)
        self._check_stored_bytes(dataset.file.id.get_filesize())

    def _note_chunk(self, info: Any) -> None:
        self._stored[tuple(info.chunk_offset)] = info.size

    def _check_stored_bytes(self, file_bytes: int) -> None:
        stored, required = sum(self._stored.values()), math.prod(self.shape) * self.dtype.itemsize
        if stored > file_bytes or required > stored * _MAX_COMPRESSION_RATIO:
            raise ValueError(
                f"{self._path} has {stored:,} bytes in a file of {file_bytes:,}, but its shape "
                f"{self.shape} requires {required:,}"
            )

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk."""
        return int(self._chunk.shape[0])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some of the rows; `rows` has no step."""
        start, stop, _ = rows.indices(len(self))
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read_direct(out, start)
        return out

    def read_direct(self, out: np.ndarray, start: int = 0) -> None:
        """Fill `out` with the rows from `start` on."""
        stop, sides = start + len(out), self._chunk.shape
        height = sides[0]
        first = range(start // height * height, stop, height)
        others = (range(0, n, c) for n, c in zip(self.shape[1:], sides[1:], strict=True))
        for corner in itertools.product(first, *others):
            low, high = max(corner[0], start), min(corner[0] + height, stop)
            ends = zip(corner[1:], sides[1:], strict=True)
            target = out[low - start : high - start, *(slice(c, c + n) for c, n in ends)]
            inside = (slice(n) for n in target.shape[1:])  # a chunk may pass the array's end
            chunk = self._decoded_chunk(corner, is_last=corner[0] + height <= stop)
            target[...] = chunk[low - corner[0] : high - corner[0], *inside]

    def _decoded_chunk(self, corner: tuple[int, ...], is_last: bool) -> np.ndarray:
        """Return the chunk at `corner`, in its full shape, from the cache if it is there.

        It is kept there unless this `is_last` time that it is wanted when rows are read in order.
        """
        if corner not in self._stored:
            return np.broadcast_to(self._fill_value, self._chunk.shape)
        # Several threads may read: each step is one that does not mind the others'.
        chunk = self._cache.pop(corner, None)
        if chunk is None:
            chunk = self._read_chunk(corner)
        if not is_last:
            if len(self._cache) >= self._cache_size:
                self._cache.clear()
            self._cache[corner] = chunk
        return chunk

    def _read_chunk(self, corner: tuple[int, ...]) -> np.ndarray:
        if self._stored[corner] > 2 * _MAX_CHUNK_BYTES:
            raise ValueError(f"{self._path} has a chunk of {self._stored[corner]:,} bytes")
        mask, data = self._dataset.id.read_direct_chunk(corner)
        # A writer may skip a filter for a single chunk; it then sets the filter's bit.
        filters = [one for i, one in enumerate(self._filters) if not mask >> i & 1]
        try:
            data = hdf5_filters.decode(data, filters, self._chunk)
        except ValueError as failure:
            raise ValueError(f"{self._path}: {failure}") from failure
        return np.frombuffer(data, self.dtype).reshape(self._chunk.shape)
