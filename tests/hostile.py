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
