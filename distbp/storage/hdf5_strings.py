"""Strings of variable length in HDF5 files, read without libhdf5.

A string of variable length is a reference (length, address, index) into a global heap: a
collection of numbered objects somewhere in the file. libhdf5 can crash, loop or allocate
gigabytes on a damaged one, so references and collections are decoded here, by HDF5's File
Format Specification 3.0 (III.E "Global Heap", IV.A "Object Headers"). Every position is
compared with the bytes that are there, each collection is decoded once, and all of them
together must not be larger than the file.

To learn how the references are stored, libhdf5 is asked for the properties of the dataset. It
then converts the fill value of a string, so this one is checked first.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np
from h5py import h5d, h5o

from distbp.storage import hdf5_checks, hdf5_chunks

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
_RAW_REFERENCE = np.dtype(f"V{_REFERENCE.itemsize}")
_BLOCK = 1 << 16  # references that are Python objects at the same time
_MAX_STRING_BYTES = 1000
_MAX_COLLECTION_BYTES = 1 << 27
_MAX_HEADER_BYTES, _MAX_HEADER_BLOCKS = 1 << 20, 256
# Types of messages in an object header, and a flag of them.
_OLD_FILL_VALUE, _FILL_VALUE, _ATTRIBUTE, _CONTINUATION, _IS_SHARED = 4, 5, 12, 16, 2
_FIXED_TEXT, _VARIABLE = 3, 9  # classes of types


class _Bytes:
    """The bytes of a file by their addresses in HDF5, which start behind the user block."""

    def __init__(self, descriptor: int, base: int) -> None:
        self._descriptor, self._base = descriptor, base
        self.size = os.fstat(descriptor).st_size

    def read(self, address: int, count: int) -> bytes:
        """Return `count` bytes; raise ValueError if the file does not have them."""
        start = self._base + address
        if not 0 <= start <= start + count <= self.size:
            raise ValueError(f"an address of it, {address:,}, is outside the file")
        found = os.pread(self._descriptor, count, start)
        if len(found) != count:
            raise ValueError("the file has become shorter")
        return found


def read_strings(
    file: h5py.File, descriptor: int, path: str
) -> tuple[np.ndarray, tuple[bytes, ...]]:
    """Return the strings of variable length at `path`.

    Parameters
    ----------
    file : h5py.File
    descriptor : int
        File descriptor of the same file.
    path : str

    Returns
    -------
    codes : int64 array of the dataset's shape
        Numbers of the strings in `words`.
    words : tuple of bytes
        The different strings in sorted order.

    Raises
    ------
    ValueError
        There is something else at `path`, or it is damaged, or a string is too long for a label.
    """
    found = hdf5_checks.get_dataset(file, path)
    if not hdf5_checks.is_variable_text(found):
        raise ValueError(f"{path} does not hold text of variable length")
    properties = file.id.get_create_plist()
    if properties.get_sizes() != (8, 8):
        raise ValueError(f"{path} is in a file with addresses of another size than 8 bytes")
    content = _Bytes(descriptor, properties.get_userblock())
    with _naming(path):
        _check_fill_value(content, h5o.get_info(found.id).addr)
    hdf5_checks.check_storage(found, path, _REFERENCE.itemsize)
    references = _read_references(found, path, content)
    with _naming(path):
        codes, words = _look_up(references, content)
    return codes.reshape(found.shape), words


def read_long_attribute(file: h5py.File, descriptor: int, name: str) -> str | None:
    """Return an attribute of the root group that is one text of any length; None without it.

    Parameters are those of `read_strings`.

    Raises
    ------
    ValueError
        It is something else, or damaged.
    """
    properties = file.id.get_create_plist()
    if properties.get_sizes() != (8, 8):
        raise ValueError("it has addresses of another size than 8 bytes")
    content = _Bytes(descriptor, properties.get_userblock())
    with _naming(name):
        for kind, flags, body in _read_messages(content, h5o.get_info(file.id).addr):
            if kind == _ATTRIBUTE and not flags & _IS_SHARED:
                found, type_bytes, data = _split_attribute(body)
                if found == name.encode():
                    return _attribute_text(content, type_bytes, data).decode()
    return None


def _split_attribute(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Return name, type and value in the message of an attribute; the value of an array is b""."""
    version, flags, *sizes = struct.unpack_from("<BBHHH", body)
    if version not in (1, 2, 3) or (version > 1 and flags):
        raise ValueError("an attribute is stored in an unknown way")
    at, parts = 9 if version == 3 else 8, []
    for size in sizes:
        parts.append(body[at : at + size])
        at += -(-size // 8) * 8 if version == 1 else size
    name, type_bytes, space = parts
    is_scalar = len(space) >= 2 and space[1] == 0
    return name.partition(b"\0")[0], type_bytes, body[at:] if is_scalar else b""


def _attribute_text(content: _Bytes, type_bytes: bytes, data: bytes) -> bytes:
    """Return the text of a scalar attribute, of fixed or variable length."""
    kind, (size,) = type_bytes[0] & 15, struct.unpack_from("<I", type_bytes, 4)
    if kind == _FIXED_TEXT and 0 < size <= len(data):
        return data[:size].partition(b"\0")[0]
    if kind != _VARIABLE or type_bytes[1] & 15 != 1:
        raise ValueError("it is not one text")
    length, address, index = struct.unpack_from("<IQI", data)
    heap = dict(_read_collection(content, address)) if length else {}
    if length and (index not in heap or len(heap[index]) < length):
        raise ValueError("its text is missing")
    return bytes(heap[index][:length]).partition(b"\0")[0] if length else b""


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put the path in front of the message of a ValueError."""
    try:
        yield
    except (ValueError, IndexError, struct.error) as failure:
        raise ValueError(f"{path}: {failure}") from failure


def _read_references(found: h5py.Dataset, path: str, content: _Bytes) -> np.ndarray:
    """Return the references as they are stored."""
    if found.id.get_create_plist().get_layout() == h5d.CHUNKED:
        stored = hdf5_chunks.ChunkedArray(found, path, _RAW_REFERENCE)[:].tobytes()
    elif found.size:
        # Its offset, unlike an address, counts from the start of the file.
        start = found.id.get_offset() - found.file.id.get_create_plist().get_userblock()
        stored = content.read(start, found.size * _REFERENCE.itemsize)
    else:
        stored = b""
    return np.frombuffer(stored, _REFERENCE)


def _look_up(references: np.ndarray, content: _Bytes) -> tuple[np.ndarray, tuple[bytes, ...]]:
    """Return the number of each string among the sorted different ones, and these."""
    codes = np.zeros(len(references), np.int64)
    numbers: dict[bytes, int] = {}
    heap: dict[int, memoryview] = {}
    address, n_bytes = None, 0
    # By their addresses, so that each collection is decoded once, one at a time.
    order = np.argsort(references["address"], kind="stable")
    for start in range(0, len(order), _BLOCK):
        rows, found = order[start : start + _BLOCK], list[int]()
        for length, wanted, index in references[rows].tolist():
            if wanted != address and length:
                address, n_bytes = wanted, n_bytes + _collection_size(content, wanted)
                if n_bytes > content.size:
                    raise ValueError("its heaps overlap")
                heap = dict(_read_collection(content, wanted))
            found.append(numbers.setdefault(_string(length, index, heap), len(numbers)))
        codes[rows] = found
    words = sorted(numbers)
    position = np.zeros(len(words), np.int64)
    position[[numbers[word] for word in words]] = np.arange(len(words))
    return position[codes], tuple(words)


def _string(length: int, index: int, heap: dict[int, memoryview]) -> bytes:
    """Return the string of a reference; one of length 0 refers to nothing."""
    if length == 0:
        return b""
    if index not in heap or len(heap[index]) < length:
        raise ValueError(f"a string of it is missing: number {index}, of {length:,} bytes")
    if length > _MAX_STRING_BYTES:
        raise ValueError(
            f"a string of it has {length:,} bytes; expected at most {_MAX_STRING_BYTES:,}"
        )
    return bytes(heap[index][:length]).partition(b"\0")[0]


def _collection_size(content: _Bytes, address: int) -> int:
    """Return the bytes of the global heap collection at `address`, with its header."""
    signature, version, size = struct.unpack("<4sB3xQ", content.read(address, 16))
    if (signature, version) != (b"GCOL", 1) or not 16 <= size <= _MAX_COLLECTION_BYTES:
        raise ValueError(f"an address of it, {address:,}, is not that of a heap")
    return int(size)


def _read_collection(content: _Bytes, address: int) -> Iterator[tuple[int, memoryview]]:
    """Yield index and bytes of each object in a global heap collection."""
    block = memoryview(content.read(address, _collection_size(content, address)))
    position = 16
    while position + 16 <= len(block):
        index, size = struct.unpack_from("<H6xQ", block, position)
        if index == 0:  # the free space, up to the end: libhdf5 would loop if its size were 0
            if size == len(block) - position:
                return
            raise ValueError(f"a heap of it, at {address:,}, is damaged")
        position += 16
        if position + size > len(block):
            raise ValueError(f"a heap of it, at {address:,}, is damaged")
        yield index, block[position : position + size]
        position += (size + 7) // 8 * 8


def _check_fill_value(content: _Bytes, address: int) -> None:
    """Raise ValueError if the object header at `address` has a fill value that is damaged."""
    for number, flags, body in _read_messages(content, address):
        if number not in (_OLD_FILL_VALUE, _FILL_VALUE):
            continue
        if number == _OLD_FILL_VALUE:
            start, is_defined = 0, True
        elif body[0] == 3:
            start, is_defined = 2, bool(body[1] & 0x20)
        else:
            start, is_defined = 4, body[0] == 1 or body[3] != 0
        if flags & _IS_SHARED:
            raise ValueError("its fill value is stored elsewhere: store the text without one")
        if is_defined and (size := struct.unpack_from("<I", body, start)[0]):
            _check_filling(content, size, body[start + 4 : start + 4 + _REFERENCE.itemsize])


def _check_filling(content: _Bytes, size: int, data: bytes) -> None:
    """Raise ValueError unless a fill value is a reference to nothing, or to an intact string."""
    if size != len(data) or size != _REFERENCE.itemsize:
        raise ValueError("its fill value is damaged")
    length, address, index = struct.unpack("<IQI", data)
    if address == 0:
        return
    heap = dict(_read_collection(content, address))
    # libhdf5 takes the length from one place or the other.
    if length > _MAX_STRING_BYTES or len(heap.get(index, b"")) != length:
        raise ValueError("its fill value is damaged: store the text without one")


def _read_messages(content: _Bytes, address: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and content of each message of an object header, of both versions."""
    start = content.read(address, 16)
    if start[:4] == b"OHDR":
        header_flags, layout, margin = start[5], "<BHB", 4  # a signature, and a checksum
        position = address + 6 + 16 * bool(header_flags & 32) + 4 * bool(header_flags & 16)
        width = 1 << (header_flags & 3)
        size = int.from_bytes(content.read(position, width), "little")
        blocks, prefix = [(position + width, size)], 4 + 2 * bool(header_flags & 4)
    elif start[0] == 1:
        layout, margin, prefix = "<HHB", 0, 8
        blocks = [(address + 16, struct.unpack_from("<I", start, 8)[0])]
    else:
        raise ValueError("its object header has an unknown version")
    for number, (position, size) in enumerate(blocks):  # which grows
        if size > _MAX_HEADER_BYTES or number > _MAX_HEADER_BLOCKS:
            raise ValueError("its object header is too large")
        block, at = content.read(position, size), 0
        while at + prefix <= size:
            kind, length, flags = struct.unpack_from(layout, block, at)
            body = block[at + prefix : at + prefix + length]
            at += prefix + length
            yield kind, flags, body
            if kind == _CONTINUATION:
                block_address, block_size = struct.unpack_from("<QQ", body)
                blocks.append((block_address + margin, max(block_size - 2 * margin, 0)))
