"""Malicious files: whatever HDF5 and the file system can do to harm their reader.

`ZOO` are changes that replace one array of an opened file by something malicious; `no_files`
makes paths that are no regular HDF5 file at all. `rewrite_checksum` gives a changed file a
valid checksum, as an attacker could.
"""

import os
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from distbp.storage import checksum

SECRET = "secret"  # a file beside the malicious one that must not be opened
Change = Callable[[h5py.File, str], None]


def rewrite_checksum(path: Path, kind: str) -> None:
    """Write a valid checksum header to a file that was changed."""
    with path.open("r+b", buffering=0) as file:
        checksum.write_checksum_header(file, kind)


def replaced(make: Callable[[h5py.File, str, np.ndarray], object]) -> Change:
    """Return a change that replaces an array by what `make` creates."""

    def change(file: h5py.File, name: str) -> None:
        old = file[name][...]
        del file[name]
        make(file, name, old)

    return change


def secret(file: h5py.File) -> str:
    return str(Path(file.filename).with_name(SECRET))


def virtual(file: h5py.File, name: str, old: np.ndarray, source: str) -> None:
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource(source, "about", old.shape)
    file.create_virtual_dataset(name, layout)


def unknown_filter(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Use a filter that libhdf5 would look for in its plugin paths."""
    made = file.create_dataset(
        name, old.shape, old.dtype, chunks=old.shape, compression=32099, allow_unknown_filter=True
    )
    made.id.write_direct_chunk((0,) * old.ndim, old.tobytes())


def large_bomb(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Store 128 MB in one chunk of 130 kB."""
    shape = (1 << 27,)
    made = file.create_dataset(name, shape, "u1", chunks=shape, compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 27), 9))


def lying_bomb(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Store a chunk that is small by its shape, and decompresses to 256 MB."""
    made = file.create_dataset(name, old.shape, old.dtype, chunks=old.shape, compression="gzip")
    made.id.write_direct_chunk((0,) * old.ndim, zlib.compress(bytes(1 << 28), 9))


def lzf_bomb(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Store a chunk that is small by its shape, and is expanded to 88 MB by lzf."""
    made = file.create_dataset(name, old.shape, old.dtype, chunks=old.shape, compression="lzf")
    made.id.write_direct_chunk((0,) * old.ndim, b"\0\0" + b"\xe0\xff\0" * (1 << 19))


def szip_bomb(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Store a chunk that says that it has 4 GB."""
    made = file.create_dataset(name, old.shape, old.dtype, chunks=old.shape, compression="szip")
    made.id.write_direct_chunk((0,) * old.ndim, b"\xff" * 4 + bytes(1000))


def text(**damaged: int) -> Change:
    """Return a change to text of variable length, some fields of its references overwritten.

    A reference is a length, the address of a heap, and the number of an object in it. Without
    damage, the labels are as good as numbers.
    """
    kind = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])

    def make(file: h5py.File, name: str, old: np.ndarray) -> None:
        labels = [f"class {number % 5}" for number in range(len(old))]
        made = file.create_dataset(name, data=labels, dtype=h5py.string_dtype())
        file.flush()
        references = np.zeros(len(old), kind)
        with open(file.filename, "r+b", buffering=0) as raw:
            raw.seek(made.id.get_offset())
            raw.readinto(references.view(np.uint8))
            for field, value in damaged.items():
                references[field][1::2] = value
            raw.seek(made.id.get_offset())
            raw.write(references.tobytes())

    return replaced(make)


def enumeration(before: bytes, after: bytes) -> Change:
    """Return a change to an enumeration of two members, some bytes of its type replaced."""

    def make(file: h5py.File, name: str, old: np.ndarray) -> None:
        kind = h5py.enum_dtype({"first": 0x1234567, "other": 0x7654321}, "<i4")
        file.create_dataset(name, data=np.full(old.shape, 0x1234567), dtype=kind)
        file.flush()
        with open(file.filename, "r+b", buffering=0) as raw:
            raw.seek(raw.read().rindex(before))
            raw.write(after)

    return replaced(make)


def damaged_fill_value(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Use text with a fill value of 4 GB, which libhdf5 converts before anything is read."""
    made = file.create_dataset(
        name, old.shape, h5py.string_dtype(), chunks=old.shape, fillvalue="no"
    )
    made[...] = "yes"
    file.flush()
    with open(file.filename, "r+b", buffering=0) as raw:
        at = raw.read().rindex(b"\x10\0\0\0\x02\0\0\0")  # its size, and its length
        raw.seek(at + 4)
        raw.write(b"\xf0\xff\xff\xff")


def soft_link_circle(file: h5py.File, name: str, old: np.ndarray) -> None:
    """Make three links that lead to one another, through groups."""
    file["circle/a"] = h5py.SoftLink("/circle/b/x")
    file["circle/b"] = h5py.SoftLink("c")
    file["circle/c"] = h5py.SoftLink("/circle/a/./x")
    file[name] = h5py.SoftLink("/circle/a/x")


def unwritten(shape: tuple[int, ...], **storage: object) -> Change:
    """Return a change that declares a shape and stores no data."""
    return replaced(lambda file, name, old: file.create_dataset(name, shape, old.dtype, **storage))


def compact(file: h5py.File, name: str, old: np.ndarray) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    type_id = h5py.h5t.py_create(np.dtype("u1"))
    space = h5py.h5s.create_simple((8,))
    h5py.h5d.create(file.id, name.encode(), type_id, space, plist)


def linked(make: Callable[[h5py.File], object]) -> Change:
    """Return a change that replaces an array by a link."""
    return replaced(lambda file, name, old: file.__setitem__(name, make(file)))


def cycle(file: h5py.File, name: str) -> None:
    """Make a group contain itself."""
    parent = name.rpartition("/")[0]
    del file[name]
    file[name] = file[parent]


def attribute(name: str, value: object) -> Change:
    return lambda file, _: file.attrs.__setitem__(name, value)


ZOO: dict[str, Change] = {
    "external storage": replaced(
        lambda f, name, old: f.create_dataset(
            name, old.shape, old.dtype, external=[(secret(f), 0, h5py.h5f.UNLIMITED)]
        )
    ),
    "external link": linked(lambda f: h5py.ExternalLink(secret(f), "x")),
    "external link to a pipe": linked(lambda f: h5py.ExternalLink(secret(f) + ".fifo", "x")),
    "soft link": linked(lambda f: h5py.SoftLink("/about")),
    "soft link to nothing": linked(lambda f: h5py.SoftLink("/nowhere")),
    "soft link to itself": replaced(
        lambda f, name, old: f.__setitem__(name, h5py.SoftLink("/" + name))
    ),
    "soft links in a circle": replaced(soft_link_circle),
    "soft link to an external link": replaced(
        lambda f, name, old: [
            f.__setitem__("outside", h5py.ExternalLink(secret(f), "/")),
            f.__setitem__(name, h5py.SoftLink("/outside/x")),
        ]
    ),
    "virtual dataset of another file": replaced(lambda f, n, old: virtual(f, n, old, secret(f))),
    "virtual dataset of this file": replaced(lambda f, n, old: virtual(f, n, old, ".")),
    "cycle": cycle,
    "group": replaced(lambda f, name, old: f.create_group(name)),
    "8 TiB in chunks": unwritten((1 << 43,), chunks=(1 << 20,)),
    "8 TiB contiguous": unwritten((1 << 43,)),
    "2^62 chunks": unwritten((1 << 62, 3), chunks=(1, 1)),
    "contiguous but not stored": unwritten((64,)),
    "bomb in one chunk": replaced(large_bomb),
    "bomb that decompresses to more": replaced(lying_bomb),
    "lzf bomb": replaced(lzf_bomb),
    "szip bomb": replaced(szip_bomb),
    "text with references outside the file": text(address=1 << 60),
    "text with references below 0": text(address=(1 << 64) - 8),
    "text with references to the superblock": text(address=0),
    "text of 4 GB": text(length=0xFFFFFFF0),
    "text of 2 GB at no object": text(length=0x7FFFFFF0, index=7777),
    "text at object 0": text(index=0),
    "text longer than its object": text(length=4000),
    "text with a damaged fill value": replaced(damaged_fill_value),
    # Its class, the number of members, and the bytes of one.
    "enumeration without members": enumeration(b"\x18\2\0\0\4\0\0\0", b"\x18\0"),
    "enumeration of 65535 members": enumeration(b"\x18\2\0\0\4\0\0\0", b"\x18\xff\xff"),
    "enumeration of wide members": enumeration(b"\x18\2\0\0\4\0\0\0", b"\x18\2\0\0\xff\xff"),
    "enumeration with a value twice": enumeration(b"\x21\x43\x65\7", b"\x67\x45\x23\1"),
    "enumeration with a name twice": enumeration(b"other", b"first"),
    "text of variable length": replaced(
        lambda f, name, old: f.create_dataset(name, data=["a"] * len(old))
    ),
    "arrays of variable length": replaced(
        lambda f, name, old: f.create_dataset(name, old.shape, h5py.vlen_dtype(old.dtype))
    ),
    "references": replaced(lambda f, name, old: f.create_dataset(name, old.shape, h5py.ref_dtype)),
    "region references": replaced(
        lambda f, name, old: f.create_dataset(name, old.shape, h5py.regionref_dtype)
    ),
    "opaque": replaced(
        lambda f, name, old: f.create_dataset(name, data=np.full(old.shape, b"\x80\x04.", "V9"))
    ),
    "compound data": replaced(
        lambda f, name, old: f.create_dataset(name, old.shape, [("a", "f4"), ("b", "f4")])
    ),
    "arrays": replaced(lambda f, name, old: f.create_dataset(name, old.shape, np.dtype("(3,)f4"))),
    "complex numbers": replaced(lambda f, name, old: f.create_dataset(name, data=old * 1j)),
    "fixed text": replaced(lambda f, name, old: f.create_dataset(name, data=old.astype("S20"))),
    "booleans": replaced(lambda f, name, old: f.create_dataset(name, data=old > 0)),
    "null dataspace": replaced(lambda f, name, old: f.__setitem__(name, h5py.Empty("f4"))),
    "one number": replaced(lambda f, name, old: f.__setitem__(name, 1.0)),
    "named type": replaced(lambda f, name, old: f.__setitem__(name, np.dtype("f4"))),
    "compact": replaced(compact),
    "unknown filter": replaced(unknown_filter),
    "lzf": replaced(
        lambda f, n, old: f.create_dataset(n, data=old, chunks=True, compression="lzf")
    ),
    "scale and offset": replaced(
        lambda f, n, old: f.create_dataset(n, data=old.astype("i4"), scaleoffset=0)
    ),
    "format of variable length": attribute("format", "distbp"),
    "format of 60 kB": attribute("format", np.bytes_(b"a" * 60_000)),
    "version of variable length": attribute("version", "1"),
    "version in an array": attribute("version", np.ones(3, np.int64)),
    "future version": attribute("version", np.int64(99)),
}  # fmt: skip


def no_files(folder: Path, good: Path) -> dict[str, Path]:
    """Make paths that are no complete regular HDF5 file; return them by what they are."""
    found = {
        name: folder / f"{name.replace(' ', '-')}.h5"
        for name in ("missing", "folder", "pipe", "device", "dangling", "loop", "socket")
    }
    found["folder"].mkdir()
    os.mkfifo(found["pipe"])
    found["device"].symlink_to("/dev/zero")
    found["dangling"].symlink_to(folder / "nowhere")
    found["loop"].symlink_to(found["loop"])
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(folder)  # the path of a socket must be short
        listener.bind(found["socket"].name)
        os.chdir(before)
    content = good.read_bytes()
    inner = content[512:]
    for name, changed in {
        "empty": b"",
        "text": b"a,b\n1,2\n" * 100,
        "first bytes alone": content[:8],
        "header alone": content[:512],
        "signature alone": content[:520],
        "last byte missing": content[:-1],
        "cut in half": content[: len(content) // 2],
        "second half zeros": content[: len(content) // 2].ljust(len(content), b"\0"),
        "bytes appended": content + b"more",
        "moved by 512 bytes": bytes(512) + content,
        "program in front": b"#!/bin/sh\nexit 1\n".ljust(512, b"\n") + inner,
        "archive in front": b"PK\5\6".ljust(512, b"\0") + inner,
        "another HDF5 file in front": inner[:512] + inner,
        "shorter block": content[:100] + bytes(412) + inner,
    }.items():
        found[name] = folder / f"{name.replace(' ', '-')}.h5"
        found[name].write_bytes(changed)
    return found


def structure(path: Path) -> np.ndarray:
    """Return the offsets of all bytes except those of the checksum header and of numbers."""
    is_structure = np.ones(path.stat().st_size, bool)
    is_structure[: checksum.USER_BLOCK_BYTES] = False

    def leave_out(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None:
            start = item.id.get_offset()
            is_structure[start : start + item.nbytes] = False

    with h5py.File(path) as file:
        file.visititems(leave_out)
    return np.flatnonzero(is_structure)


def mutant(content: bytes, offsets: np.ndarray, random: np.random.Generator) -> bytes:
    """Return a file with 1 to 16 of the bytes at `offsets` changed, scattered or adjacent."""
    changed = bytearray(content)
    count = int(random.choice([1, 1, 1, 2, 4, 8, 16]))
    if random.random() < 0.5:
        chosen = random.choice(offsets, count)
    else:
        start = int(random.integers(len(offsets)))
        chosen = offsets[start : start + count]
    for offset in chosen:
        old = changed[offset]
        values = [0, 1, 127, 255, old ^ 1 << int(random.integers(8)), *random.bytes(3)]
        changed[offset] = random.choice(values)
    return bytes(changed)


def spoil(path: Path, change: Change, name: str, kind: str) -> None:
    """Change a valid file and rewrite its checksum."""
    with h5py.File(path, "r+") as file:
        change(file, name)
    rewrite_checksum(path, kind)
