"""Arrays of an HDF5 file, contiguous or in chunks that are decompressed here.

libhdf5's own deflate filter allocates memory for whatever comes out of a chunk: a file of a
few kilobytes can exhaust it. So chunks are read as they are stored and decoded by the rules
of HDF5's File Format Specification 3.0 (deflate, shuffle and Fletcher's checksum), never to
more bytes than the shape of a chunk requires. What the numbers mean is not known here.
"""

import itertools
import math
import zlib
from collections.abc import Collection
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t

from distbp.storage import hdf5_checks

_DEFLATE_FILTER, _SHUFFLE_FILTER, _FLETCHER32_FILTER = 1, 2, 3  # identifiers in HDF5
_MAX_CHUNK_BYTES = 1 << 25  # of a chunk, and of all decoded chunks in the cache
_MAX_COMPRESSION_RATIO = 1100  # that of deflate is 1032 at most


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
    is_chunked = found.id.get_create_plist().get_layout() == h5d.CHUNKED
    return ChunkedArray(found, path) if is_chunked else found


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

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype

    Raises
    ------
    ValueError
        Its chunks are too large, use another filter, or are too few bytes for its shape.
    """

    def __init__(self, dataset: h5py.Dataset, path: str) -> None:
        self.shape, self.dtype, self._dataset, self._path = (
            dataset.shape, dataset.dtype, dataset, path,
        )  # fmt: skip
        plist = dataset.id.get_create_plist()
        self._chunk = plist.get_chunk()
        self._chunk_bytes = math.prod(self._chunk) * self.dtype.itemsize
        filters = [plist.get_filter(i) for i in range(min(plist.get_nfilters(), 4))]
        self._filters = [number for number, *_ in filters]
        self._check_filters(filters)
        self._cache: dict[tuple[int, ...], np.ndarray] = {}
        self._stored: dict[tuple[int, ...], int] = {}  # bytes of each chunk, by its first corner
        dataset.id.chunk_iter(self._note_chunk)
        self._check_stored_bytes(dataset.file.id.get_filesize())

    def _check_filters(self, filters: list[Any]) -> None:
        if self._chunk_bytes > _MAX_CHUNK_BYTES:
            raise ValueError(
                f"{self._path} is stored in chunks of {self._chunk_bytes:,} bytes; expected at "
                f"most {_MAX_CHUNK_BYTES:,}: store it in smaller ones"
            )
        known = {_DEFLATE_FILTER, _SHUFFLE_FILTER, _FLETCHER32_FILTER}
        if not has_numpy_type(self._dataset) or len(set(self._filters) & known) < len(filters):
            raise ValueError(
                f"{self._path} uses a filter other than gzip, shuffle and fletcher32, which are "
                "all that distbp decodes: store it without it"
            )

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
        stop, height = start + len(out), self._chunk[0]
        first = range(start // height * height, stop, height)
        others = (range(0, n, c) for n, c in zip(self.shape[1:], self._chunk[1:], strict=True))
        for corner in itertools.product(first, *others):
            low, high = max(corner[0], start), min(corner[0] + height, stop)
            ends = zip(corner[1:], self._chunk[1:], strict=True)
            target = out[low - start : high - start, *(slice(c, c + n) for c, n in ends)]
            inside = (slice(n) for n in target.shape[1:])  # a chunk may pass the array's end
            target[...] = self._decoded_chunk(corner)[low - corner[0] : high - corner[0], *inside]

    def _decoded_chunk(self, corner: tuple[int, ...]) -> np.ndarray:
        """Return the chunk at `corner`, in its full shape, from the cache if it is there."""
        if corner not in self._stored:
            return np.broadcast_to(self._dataset.fillvalue, self._chunk)
        if corner not in self._cache:
            if (len(self._cache) + 1) * self._chunk_bytes > _MAX_CHUNK_BYTES:
                self._cache.clear()
            self._cache[corner] = self._read_chunk(corner)
        return self._cache[corner]

    def _read_chunk(self, corner: tuple[int, ...]) -> np.ndarray:
        if self._stored[corner] > 2 * _MAX_CHUNK_BYTES:
            raise ValueError(f"{self._path} has a chunk of {self._stored[corner]:,} bytes")
        mask, data = self._dataset.id.read_direct_chunk(corner)
        # A writer may skip a filter for a single chunk; it then sets the filter's bit.
        filters = [number for i, number in enumerate(self._filters) if not mask >> i & 1]
        try:
            data = _decode(data, filters, self._chunk_bytes, self.dtype.itemsize)
        except (ValueError, zlib.error) as failure:
            raise ValueError(f"{self._path}: {failure}") from failure
        return np.frombuffer(data, self.dtype).reshape(self._chunk)


def _decode(data: bytes, filters: list[int], size: int, width: int) -> bytes:
    """Return the `size` bytes of a chunk, of numbers of `width` bytes.

    `filters` are in the order in which they were applied when the chunk was written.
    """
    while filters:
        *filters, last = filters
        # Fletcher's checksum adds 4 bytes at the end.
        expected = size + 4 * (_FLETCHER32_FILTER in filters)
        if last == _DEFLATE_FILTER:
            data = _inflate(data, expected)
        elif last == _SHUFFLE_FILTER:
            data = _unshuffle(data, width)
        else:
            data = _strip_fletcher32(data)
    if len(data) != size:
        raise ValueError(f"a chunk has {len(data):,} bytes; expected {size:,}")
    return data


def _inflate(data: bytes, size: int) -> bytes:
    """Return the `size` bytes that deflate has compressed to `data`."""
    stream = zlib.decompressobj()
    found = stream.decompress(data, size + 1)  # one more, to notice a chunk that is too long
    if len(found) != size or not stream.eof:
        raise ValueError(f"a chunk does not decompress to {size:,} bytes")
    return found


def _unshuffle(data: bytes, width: int) -> bytes:
    """Return numbers from all their first bytes, all their second bytes, and so on."""
    end = len(data) // width * width  # what remains after it is stored as it is
    columns = np.frombuffer(data, np.uint8, end).reshape(width, -1)
    return columns.T.tobytes() + data[end:]


def _strip_fletcher32(data: bytes) -> bytes:
    """Return a chunk without the checksum at its end, after verifying it."""
    content, checksum = data[:-4], data[-4:]
    if _fletcher32(content) != int.from_bytes(checksum, "little"):
        raise ValueError("a chunk is damaged: its checksum is wrong")
    return content


def _fletcher32(data: bytes) -> int:
    """Return the checksum of Fletcher, IEEE Trans. Commun. 30 (1982) 247, of 16-bit words.

    The sums are modulo 65,535; HDF5 writes a sum of 0 as 65,535 unless all words are 0.
    """
    low = high = 0
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2")
    for start in range(0, len(words), 1 << 16):
        part = words[start : start + (1 << 16)].astype(np.uint64)
        falling = np.arange(len(part), 0, -1, dtype=np.uint64)
        high += len(part) * low + int(part @ falling)
        low += int(part.sum())
    low, high = (n and (n - 1) % 65535 + 1 for n in (low, high))
    return high << 16 | low
