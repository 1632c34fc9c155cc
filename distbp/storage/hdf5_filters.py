"""The filters of HDF5: chunks decoded here, to no more bytes than their shape requires.

libhdf5's own deflate and lzf filters allocate memory for whatever comes out of a chunk: a file
of a few kilobytes can exhaust it. So deflate, shuffle and Fletcher's checksum are decoded by
the rules of HDF5's File Format Specification 3.0, and lzf by those of Lehmann's LibLZF. szip,
whose code is long, is decoded by libhdf5's filter, from a file in memory that has the one
chunk alone. All other filters are refused, whether or not a plugin could be found.

On one core, lzf is decoded at 15 to 50 MB/s (libhdf5: 120 to 560), deflate with shuffle at 100 to
480 and, where isal is installed, up to 980.
"""

import importlib
import zlib
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z

_DEFLATE, _SHUFFLE, _FLETCHER32, _SZIP, _LZF = 1, 2, 3, 4, 32000  # identifiers in HDF5
# Those that distbp does not decode, for messages; most come as plugins.
_OTHER_NAMES = {
    4: "szip", 5: "nbit", 6: "scaleoffset", 305: "lzo", 307: "bzip2", 32001: "blosc", 32004: "lz4",
    32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32017: "sz", 32026: "blosc2",
}  # fmt: skip
_MAX_FILTERS = 4


def _load_deflate() -> Any:
    """Return zlib, or where it is installed isal, which does the same in half of the time."""
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib


_deflate = _load_deflate()


class Filter(NamedTuple):
    """A filter of a dataset's chunks: HDF5's number of it, and its parameters."""

    number: int
    parameters: tuple[int, ...]


class ChunkType(NamedTuple):
    """Shape of a chunk and type of its items."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of a chunk, in Python's integers: a product of int64 may overflow."""
        size = self.dtype.itemsize
        for n in self.shape:
            size *= int(n)
        return size


def read_filters(plist: h5p.PropDCID, path: str) -> list[Filter]:
    """Return the filters of a dataset in the order in which they are applied when writing.

    Raises
    ------
    ValueError
        There is one that distbp does not decode, or the same one twice.
    """
    found = [plist.get_filter(i) for i in range(min(plist.get_nfilters(), _MAX_FILTERS + 1))]
    filters = [Filter(number, tuple(parameters)) for number, _, parameters, _ in found]
    known = {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF}
    if h5z.filter_avail(_SZIP):  # where libhdf5 was built with it
        known.add(_SZIP)
    for one in filters:
        if one.number not in known:
            name = _OTHER_NAMES.get(one.number, f"number {one.number}")
            raise ValueError(
                f"{path} uses the filter {name}; distbp decodes gzip, szip, lzf, shuffle and "
                "fletcher32. Store it with gzip, for example by `h5repack -f GZIP=4 OLD.h5 "
                "NEW.h5` where that filter is installed"
            )
    if len({one.number for one in filters}) < len(filters):
        raise ValueError(f"{path} uses a filter twice: store it with the filter once")
    return filters


_Bytes = bytes | memoryview


def decode(data: _Bytes, filters: list[Filter], chunk: ChunkType) -> _Bytes:
    """Return the bytes of a chunk, all of them.

    `filters` are in the order in which they were applied when the chunk was written.

    Raises
    ------
    ValueError
        They are not what the filters produce from a chunk of this size.
    """
    while filters:
        *filters, last = filters
        # Fletcher's checksum adds 4 bytes at the end.
        expected = chunk.size + 4 * any(one.number == _FLETCHER32 for one in filters)
        if last.number == _DEFLATE:
            data = _inflate(data, expected)
        elif last.number == _LZF:
            data = _expand_lzf(data, expected)
        elif last.number == _SZIP:
            data = _expand_szip(data, last, chunk)
        elif last.number == _SHUFFLE:
            data = _unshuffle(data, chunk.dtype.itemsize)
        else:
            data = _strip_fletcher32(data)
    if len(data) != chunk.size:
        raise ValueError(f"a chunk has {len(data):,} bytes; expected {chunk.size:,}")
    return data


def _inflate(data: _Bytes, size: int) -> bytes:
    """Return the `size` bytes that deflate has compressed to `data`."""
    stream = _deflate.decompressobj()
    try:
        found: bytes = stream.decompress(data, size + 1)  # one more, to notice a longer chunk
    except _deflate.error as failure:
        raise ValueError(f"a chunk cannot be decompressed: {failure}") from failure
    if len(found) != size or not stream.eof:
        raise ValueError(f"a chunk does not decompress to {size:,} bytes")
    return found


def _expand_lzf(data: _Bytes, size: int) -> bytes:
    """Return the `size` bytes that lzf has compressed to `data`.

    A first byte below 32 is followed by that many bytes, and one more, as they are. Another
    one has 3 bits of a length and 5 of a distance: bytes that came earlier are repeated.
    """
    out, i = bytearray(), 0
    try:
        while i < len(data) and len(out) <= size:
            first = data[i]
            if first < 32:
                out += data[i + 1 : i + 2 + first]
                i += 2 + first
                continue
            length = first >> 5
            if length == 7:  # more follows
                i += 1
                length += data[i]
            distance, length = ((first & 31) << 8 | data[i + 1]) + 1, length + 2
            i += 2
            start = len(out) - distance
            if start < 0:
                raise ValueError("a chunk repeats bytes before its start")
            if length <= distance:
                out += out[start : start + length]
            else:  # it repeats bytes that it has just made
                out += (bytes(out[start:]) * (length // distance + 1))[:length]
    except IndexError:
        raise ValueError("a chunk ends too early") from None
    if len(out) != size or i != len(data):
        raise ValueError(f"a chunk does not decompress to {size:,} bytes")
    return bytes(out)


def _expand_szip(data: _Bytes, szip: Filter, chunk: ChunkType) -> bytes:
    """Return the bytes of a chunk that szip has compressed to `data`."""
    # libhdf5 allocates, and fills, as many bytes as the first four say.
    if len(data) < 4 or int.from_bytes(data[:4], "little") != chunk.size:
        raise ValueError(f"a chunk does not decompress to {chunk.size:,} bytes")
    options, pixels_per_block, *_ = (*szip.parameters, 0, 0)
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(chunk.shape)
    plist.set_szip(options, pixels_per_block)
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        space, kind = h5s.create_simple(chunk.shape), h5t.py_create(np.dtype(chunk.dtype.str))
        made = h5d.create(file.id, b"x", kind, space, plist)
        # These follow from shape and type; others could contradict them.
        if made.get_create_plist().get_filter(0)[2] != szip.parameters:
            raise ValueError("the parameters of szip contradict shape and type")
        out = np.empty(chunk.shape, chunk.dtype.str)
        made.write_direct_chunk((0,) * len(chunk.shape), bytes(data))
        made.read(h5s.ALL, h5s.ALL, out)
    return out.tobytes()


def _unshuffle(data: _Bytes, width: int) -> memoryview:
    """Return numbers from all their first bytes, all their second bytes, and so on."""
    shuffled = np.frombuffer(data, np.uint8)
    count = len(data) // width
    end = count * width  # what remains after it is stored as it is
    out = np.empty(len(data), np.uint8)
    numbers = out[:end].reshape(count, width)
    # Byte by byte of all numbers: three times as fast as a transposition, and without the GIL.
    for byte, values in enumerate(shuffled[:end].reshape(width, count)):
        numbers[:, byte] = values
    out[end:] = shuffled[end:]
    return out.data


def _strip_fletcher32(data: _Bytes) -> bytes:
    """Return a chunk without the checksum at its end, after verifying it."""
    content, checksum = bytes(data[:-4]), data[-4:]
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
