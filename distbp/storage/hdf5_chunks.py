"""Arrays of an HDF5 file, in one piece or in chunks that are unpacked here.

libhdf5's own deflate filter makes room for whatever comes out of a chunk: a file of
a few kilobytes can fill the memory. So chunks are read as they are stored and
unpacked by rules of HDF5's File Format Specification 3.0 (deflate, shuffle and
Fletcher's checksum), never to more than a chunk has to hold.
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

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3  # numbers of the filters
MOST_CHUNK = 1 << 25  # bytes of a chunk, and of the chunks that are kept for the next rows
MOST_RATIO = 1100  # deflate packs 1032 bytes into one, at best


def array(
    file: h5py.File, path: str, kinds: Collection[int] = hdf5_checks.NUMBERS
) -> "h5py.Dataset | ChunkedArray":
    """Return the array at `path`, to be read by rows or as a whole."""
    found = hdf5_checks.dataset(file, path, kinds)
    is_chunked = found.id.get_create_plist().get_layout() == h5d.CHUNKED
    return ChunkedArray(found, path) if is_chunked else found


def is_plain(dataset: h5py.Dataset) -> bool:
    """Return whether the numbers are stored as NumPy holds them; 24 bits are not, say."""
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

    Raises
    ------
    ValueError
        Its chunks are too large, packed by another filter, or cannot hold its shape.
    """

    def __init__(self, dataset: h5py.Dataset, path: str) -> None:
        self.shape, self.dtype, self._dataset, self._path = (
            dataset.shape, dataset.dtype, dataset, path,
        )  # fmt: skip
        plist = dataset.id.get_create_plist()
        self._chunk = plist.get_chunk()
        self._size = math.prod(self._chunk) * self.dtype.itemsize
        filters = [plist.get_filter(i) for i in range(min(plist.get_nfilters(), 4))]
        self._filters = [number for number, *_ in filters]
        self._check_filters(filters)
        self._kept: dict[tuple[int, ...], np.ndarray] = {}
        self._stored: dict[tuple[int, ...], int] = {}  # bytes of each chunk, by its first corner
        dataset.id.chunk_iter(self._note)
        self._check_sizes(dataset.file.id.get_filesize())

    def _check_filters(self, filters: list[Any]) -> None:
        if self._size > MOST_CHUNK:
            raise ValueError(
                f"{self._path} is stored in chunks of {self._size:,} bytes; expected at most "
                f"{MOST_CHUNK:,}: store it in smaller ones"
            )
        known = {DEFLATE, SHUFFLE, FLETCHER32}
        if not is_plain(self._dataset) or len(set(self._filters) & known) < len(filters):
            raise ValueError(
                f"{self._path} is packed by other means than gzip, shuffle and fletcher32, which "
                "are all that distbp unpacks: store it without them"
            )

    def _note(self, info: Any) -> None:
        self._stored[tuple(info.chunk_offset)] = info.size

    def _check_sizes(self, size: int) -> None:
        stored, whole = sum(self._stored.values()), math.prod(self.shape) * self.dtype.itemsize
        if stored > size or whole > stored * MOST_RATIO:
            raise ValueError(
                f"{self._path} has {stored:,} bytes in a file of {size:,}, but a shape, "
                f"{self.shape}, of {whole:,}"
            )

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some of the rows; without a step."""
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
            place = out[low - start : high - start, *(slice(c, c + n) for c, n in ends)]
            inside = (slice(n) for n in place.shape[1:])
            place[...] = self._unpacked(corner)[low - corner[0] : high - corner[0], *inside]

    def _unpacked(self, corner: tuple[int, ...]) -> np.ndarray:
        """Return the chunk at `corner`: its whole shape, also where it passes the array's end."""
        if corner not in self._stored:
            return np.broadcast_to(self._dataset.fillvalue, self._chunk)
        if corner not in self._kept:
            if (len(self._kept) + 1) * self._size > MOST_CHUNK:
                self._kept.clear()
            self._kept[corner] = self._read(corner)
        return self._kept[corner]

    def _read(self, corner: tuple[int, ...]) -> np.ndarray:
        if self._stored[corner] > 2 * MOST_CHUNK:
            raise ValueError(f"{self._path} has a chunk of {self._stored[corner]:,} bytes")
        mask, data = self._dataset.id.read_direct_chunk(corner)
        filters = [number for i, number in enumerate(self._filters) if not mask >> i & 1]
        try:
            data = unpack(data, filters, self._size, self.dtype.itemsize)
        except (ValueError, zlib.error) as failure:
            raise ValueError(f"{self._path}: {failure}") from failure
        return np.frombuffer(data, self.dtype).reshape(self._chunk)


def unpack(data: bytes, filters: list[int], size: int, width: int) -> bytes:
    """Return the `size` bytes of a chunk, of numbers of `width` bytes.

    `filters` are in the order in which they were applied when it was written.
    """
    while filters:
        *filters, last = filters
        # The checksum is 4 bytes behind what was there.
        expected = size + 4 * (FLETCHER32 in filters)
        if last == DEFLATE:
            data = inflated(data, expected)
        elif last == SHUFFLE:
            data = unshuffled(data, width)
        else:
            data = checked(data)
    if len(data) != size:
        raise ValueError(f"a chunk has {len(data):,} bytes; expected {size:,}")
    return data


def inflated(data: bytes, size: int) -> bytes:
    """Return what deflate made `data` of, but no more than `size` bytes."""
    stream = zlib.decompressobj()
    found = stream.decompress(data, size + 1)
    if len(found) != size or not stream.eof:
        raise ValueError(f"a chunk does not unpack to {size:,} bytes")
    return found


def unshuffled(data: bytes, width: int) -> bytes:
    """Return numbers from all their first bytes, all their second bytes, and so on."""
    whole = len(data) // width * width
    columns = np.frombuffer(data, np.uint8, whole).reshape(width, -1)
    return columns.T.tobytes() + data[whole:]


def checked(data: bytes) -> bytes:
    """Return a chunk without the checksum behind it, once that is known to be right."""
    content, checksum = data[:-4], data[-4:]
    if fletcher32(content) != int.from_bytes(checksum, "little"):
        raise ValueError("a chunk is damaged: its checksum is wrong")
    return content


def fletcher32(data: bytes) -> int:
    """Return the checksum of Fletcher, IEEE Trans. Commun. 30 (1982) 247, of 16-bit words.

    StepTotals are modulo 65,535, where HDF5 writes 65,535 for a 0 that is not of zeros only.
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
