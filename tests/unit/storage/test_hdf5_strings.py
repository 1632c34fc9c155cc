"""Strings of variable length: as libhdf5 reads them, and refused wherever they are damaged."""

import os
import struct

import h5py
import numpy as np
import pytest

from distbp.storage import hdf5_strings
from distbp.storage.hdf5_checks import HDF5_READ_ERRORS

LABELS = ["dog", "cat", "ü", "cat", "x" * 300] * 700
STORAGE = [
    {},
    {"chunks": (123,)},
    {"chunks": (123,), "compression": "gzip", "shuffle": True},
    {"chunks": (5000,), "maxshape": (None,), "compression": "lzf"},
]


def write(path, labels=LABELS, libver=None, userblock_size=0, **storage):
    with h5py.File(path, "w", libver=libver, userblock_size=userblock_size) as file:
        made = file.create_dataset("a/y", data=labels, dtype=h5py.string_dtype(), **storage)
        for number in range(20):  # the object header needs more than one block
            made.attrs[f"attribute {number}"] = "of variable length"
    return path


def read(path, name="a/y"):
    with path.open("rb", buffering=0) as raw, h5py.File(raw) as file:
        return hdf5_strings.read_strings(file, raw.fileno(), name)


@pytest.mark.parametrize("libver", [None, "v108", "latest"])
@pytest.mark.parametrize("userblock_size", [0, 512])
@pytest.mark.parametrize("storage", STORAGE)
def test_as_libhdf5_reads_them(tmp_path, libver, userblock_size, storage):
    """In all versions of object headers, contiguous and in chunks."""
    path = write(tmp_path / "a.h5", LABELS, libver, userblock_size, **storage)
    codes, words = read(path)
    assert list(words) == sorted({label.encode() for label in LABELS})
    assert [words[code].decode() for code in codes] == LABELS


def test_text_that_was_never_written(tmp_path):
    """It is empty, also in a chunk that is not there."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("y", (7, 1), h5py.string_dtype(), chunks=(2, 1))
        made[2] = "a"
    codes, words = read(tmp_path / "a.h5", "y")
    assert words == (b"", b"a")
    np.testing.assert_array_equal(codes, np.arange(7)[:, np.newaxis] == 2)


def references(path, count):
    """Return the offset of the references in a file, and these."""
    with h5py.File(path) as file:
        offset = file["a/y"].id.get_offset()
    content = path.read_bytes()
    return offset, np.frombuffer(content, hdf5_strings._REFERENCE, count, offset).copy()


def replace(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("address", 1 << 40, "a/y: an address of it, .* is outside the file"),
        ("address", (1 << 64) - 1, "is outside the file"),
        ("address", 0, "is not that of a heap"),
        ("address", 9, "is not that of a heap"),
        ("index", 0, "is missing: number 0"),
        ("index", 1 << 31, "is missing: number 2147483648"),
        ("length", 1 << 31, "is missing: .* of 2,147,483,648 bytes"),
        ("length", 5, "is missing: number [0-9]+, of 5 bytes"),
    ],
)
def test_wild_references(tmp_path, field, value, message):
    """To anywhere, or for more bytes than there are."""
    path = write(tmp_path / "a.h5")
    offset, found = references(path, len(LABELS))
    found[field][0] = value
    replace(path, offset, found.tobytes())
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("at", "size"),
    [(8, 0), (8, 15), (8, 17), *((at, 1 << n) for at in (8, 24) for n in (20, 40, 62, 63))],
)
def test_damaged_heaps(tmp_path, at, size):
    """A collection, or the first object in it, has another size."""
    path = write(tmp_path / "a.h5", ["long enough", "b"])
    _, found = references(path, 2)
    replace(path, int(found["address"][0]) + at, struct.pack("<Q", size))
    with pytest.raises(ValueError, match="a/y: "):
        read(path)


@pytest.mark.parametrize("size", [0, 8, 16, 1 << 62])
def test_damaged_free_space(tmp_path, size):
    """libhdf5 2.0 would loop forever over free space of 0 bytes."""
    path = with_fill_value(tmp_path / "a.h5")
    content = path.read_bytes()
    heap = content.index(b"GCOL")
    free = heap + 16 + 3 * 24  # after three objects of up to 8 bytes
    assert struct.unpack_from("<H6xQ", content, free) == (0, 4096 - (free - heap))
    replace(path, free + 8, struct.pack("<Q", size))
    with pytest.raises(ValueError, match=r"y: a heap of it, at .* is damaged"):
        read(path, "y")


def test_overlapping_heaps_take_no_time(tmp_path):
    """Their sizes together are at most that of the file: each byte is decoded once."""
    n, path = 1000, tmp_path / "a.h5"
    write(path, ["a"] * n)
    offset, found = references(path, n)
    heaps = np.arange(n) * 32
    with path.open("ab") as file:  # each says that it reaches to the end
        start = path.stat().st_size
        for position in heaps.tolist():  # with objects that hold the next header
            file.write(struct.pack("<4sB3xQ", b"GCOL", 1, n * 32 + 16 - position))
            file.write(struct.pack("<H6xQ", 1, 16))
        file.write(bytes(16))
    found["address"], found["index"] = start + heaps, 1
    replace(path, offset, found.tobytes())
    with pytest.raises(ValueError, match="its heaps overlap"):
        read(path)


def test_long_text_is_no_label(tmp_path):
    """A million references to one text of a megabyte would fill the memory."""
    path = write(tmp_path / "a.h5", ["a" * 1001])
    with pytest.raises(ValueError, match="has 1,001 bytes; expected at most 1,000"):
        read(path)


def with_fill_value(path, libver=None):
    with h5py.File(path, "w", libver=libver) as file:
        kind = h5py.string_dtype()
        file.create_dataset("y", data=["a", "bb"], dtype=kind, fillvalue="some", chunks=(2,))
    return path


@pytest.mark.parametrize("libver", [None, "latest"])
def test_fill_values(tmp_path, libver):
    """They are not used where all text was written."""
    assert read(with_fill_value(tmp_path / "a.h5", libver), "y")[1] == (b"a", b"bb")


def test_damaged_fill_values(tmp_path):
    """libhdf5 converts them when it is asked how the text is stored: they are checked before."""
    path = with_fill_value(tmp_path / "a.h5")
    content = path.read_bytes()
    at = content.index(struct.pack("<II", 16, 4)) + 4  # its size, and its length
    length, address, index = struct.unpack_from("<IQI", content, at)
    for damaged in (
        (0xFFFFFFF0, address, index), (3, address, index), (length, 1 << 40, index),
        (length, address + 8, index), (length, address, 999),
    ):  # fmt: skip
        replace(path, at, struct.pack("<IQI", *damaged))
        with pytest.raises(ValueError, match=r"y: (its fill value is damaged|an address of it)"):
            read(path, "y")
    replace(path, at, struct.pack("<IQI", 0, 0, 0))
    assert read(path, "y")[1] == (b"a", b"bb")


def test_other_datasets(tmp_path):
    """Numbers, and text of a fixed length."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["n"], file["s"] = [1], np.array([b"a"])
    for name in "ns":
        with pytest.raises(ValueError, match="does not hold text of variable length"):
            read(tmp_path / "a.h5", name)


@pytest.mark.parametrize("libver", [None, "latest"])
def test_damaged_files(tmp_path, libver):
    """Random bytes anywhere give the text, other text, or an error that h5py also raises."""
    path = write(tmp_path / "a.h5", ["a", "bb", "ccc"] * 5, libver)
    content, random, refused = path.read_bytes(), np.random.default_rng(3), 0
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(random.integers(1, 5)):
            changed[random.integers(len(content))] = random.integers(256)
        path.write_bytes(changed)
        os.truncate(path, len(content) - random.integers(3))
        try:
            codes, words = read(path)
            assert codes.max() < len(words)
        except HDF5_READ_ERRORS:
            refused += 1
    assert refused > 10
