"""The seal of a file: in its first 512 bytes, what all the others have to be.

HDF5 leaves the user block in front of a file to whoever writes it. A seal is, in
little-endian order,

    magic, 8 bytes | kind, 24 | length of the whole file, 8 | SHA-256 from byte 512 on, 32
    SHA-256 of all that, 32 | zeros to the end of the block

It tells a damaged file from a whole one before libhdf5, which can loop or crash on a
damaged one, sees a byte of it. It is no signature: whoever writes a file can seal it.
Whatever is wrong is raised as a ValueError that says so in a few words.
"""

import hashlib
import io
import os
import struct
from typing import NamedTuple

BLOCK = 512  # bytes before the HDF5 signature
SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAGIC = b"distbp\r\n"  # a copy as text would change its line end
HEADER = struct.Struct("<8s24sQ32s")


class Seal(NamedTuple):
    """What a seal says of its file."""

    kind: str
    length: int
    digest: bytes

    def pack(self) -> bytes:
        """Return the block of 512 bytes."""
        header = HEADER.pack(MAGIC, self.kind.encode("latin-1"), self.length, self.digest)
        return (header + hashlib.sha256(header).digest()).ljust(BLOCK, b"\0")


def write_checksum_header(file: io.RawIOBase, kind: str) -> None:
    """Seal an open file that has an empty user block."""
    file.seek(BLOCK)
    digest = hashlib.file_digest(file, "sha256").digest()
    block = Seal(kind, file.seek(0, os.SEEK_END), digest).pack()
    file.seek(0)
    if file.write(block) != BLOCK:
        raise OSError("its seal could not be written")


def parse(block: bytes) -> Seal | None:
    """Return the seal in the first bytes of a file, or None if there are only zeros."""
    if block[BLOCK : BLOCK + len(SIGNATURE)] != SIGNATURE and not block.startswith(MAGIC):
        raise ValueError("it is not an HDF5 file that distbp has written")
    if not any(block[:BLOCK]):
        return None
    magic, kind, length, digest = HEADER.unpack_from(block.ljust(BLOCK, b"\0"))
    found = Seal(kind.rstrip(b"\0").decode("latin-1"), length, digest)
    if magic != MAGIC or block[:BLOCK] != found.pack():
        raise ValueError("it is damaged: its seal is not whole")
    return found


def read_block(file: io.RawIOBase) -> Seal | None:
    """Return the seal of an open file, or None if it has none."""
    file.seek(0)
    return parse(file.read(BLOCK + len(SIGNATURE)) or b"")


def check(file: io.RawIOBase) -> Seal:
    """Return the seal of an open file, once every byte is known to be what it says."""
    found = sealed_length(file)
    file.seek(BLOCK)
    compare(found, hashlib.file_digest(file, "sha256").digest())
    return found


def read(file: io.FileIO) -> tuple[Seal, bytes]:
    """Return the seal of an open file and all its bytes, once they are known to fit."""
    found = sealed_length(file)
    if found.length > memory():
        raise ValueError(f"its {found.length:,} bytes are more than this machine's memory")
    file.seek(0)
    content = file.readall()
    if parse(content[: BLOCK + len(SIGNATURE)]) != found or len(content) != found.length:
        raise ValueError("it was changed while it was read")
    compare(found, hashlib.sha256(memoryview(content)[BLOCK:]).digest())
    return found, content


def sealed_length(file: io.RawIOBase) -> Seal:
    """Return the seal of an open file, once its length is known to be right."""
    found = read_block(file)
    if found is None:
        raise ValueError("it has no seal, so that nobody can say whether it is whole")
    length = file.seek(0, os.SEEK_END)
    if length != found.length:
        raise ValueError(f"it is damaged: it has {length:,} of {found.length:,} bytes")
    return found


def compare(found: Seal, digest: bytes) -> None:
    """Raise ValueError unless the bytes of a file have the digest that its seal says."""
    if digest != found.digest:
        raise ValueError("it is damaged: its SHA-256 is not the one that it was sealed with")


def memory() -> int:
    """Return how many bytes of memory this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
