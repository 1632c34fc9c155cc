"""The checksum header: the first 512 bytes of a file say what all the others have to be.

HDF5 leaves the user block in front of a file to applications. In it distbp stores, in
little-endian order,

    magic, 8 bytes | kind, 24 | length of the file, 8 | SHA-256 from byte 512 on, 32
    SHA-256 of the 72 bytes before, 32 | zeros up to byte 512

It detects a damaged file before libhdf5, which can loop or crash on one, sees a byte of it.
It is no signature: anybody who changes a file can write a new header. Everything wrong is
raised as a ValueError that says so in a few words; nothing here knows HDF5.
"""

import hashlib
import io
import os
import struct
from typing import NamedTuple

USER_BLOCK_BYTES = 512
MAGIC = b"distbp\r\n"  # "\r\n" exposes transfers in text mode, which convert line ends
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIELDS = struct.Struct("<8s24sQ32s")


class ChecksumHeader(NamedTuple):
    """What the header says of its file.

    Attributes
    ----------
    kind : str
        The file's format, up to 24 characters.
    length : int
        Bytes of the file, with the header.
    digest : bytes
        SHA-256 of all bytes after the header.
    """

    kind: str
    length: int
    digest: bytes

    def pack(self) -> bytes:
        """Return the header as the 512 bytes of the user block."""
        fields = _FIELDS.pack(MAGIC, self.kind.encode("latin-1"), self.length, self.digest)
        return (fields + hashlib.sha256(fields).digest()).ljust(USER_BLOCK_BYTES, b"\0")


def write_checksum_header(file: io.RawIOBase, kind: str) -> None:
    """Write the header of an open file into its user block."""
    # Read back from the file, so that all that libhdf5 has written is covered.
    file.seek(USER_BLOCK_BYTES)
    digest = hashlib.file_digest(file, "sha256").digest()
    block = ChecksumHeader(kind, file.seek(0, os.SEEK_END), digest).pack()
    file.seek(0)
    if file.write(block) != USER_BLOCK_BYTES:
        raise OSError("its checksum header could not be written")


def read_kind(file: io.BufferedIOBase) -> str | None:
    """Return the kind that the header of an open file names, unverified; None without a header."""
    magic, kind, *_ = _FIELDS.unpack(file.read(_FIELDS.size).ljust(_FIELDS.size, b"\0"))
    return kind.rstrip(b"\0").decode("latin-1") if magic == MAGIC else None


def read_checksum_header(file: io.RawIOBase) -> ChecksumHeader | None:
    """Return the header of an open file, or None if its user block is all zeros.

    Raises
    ------
    ValueError
        It is not one of distbp's files, or the header itself is damaged.
    """
    file.seek(0)
    return _parse_header(file.read(USER_BLOCK_BYTES + len(HDF5_SIGNATURE)) or b"")


def verify_content(file: io.RawIOBase) -> ChecksumHeader:
    """Return the header of an open file after comparing every byte with it.

    Raises
    ------
    ValueError
        The file has no header, or is damaged.
    """
    header = _verify_length(file)
    file.seek(USER_BLOCK_BYTES)
    _compare_digest(header, hashlib.file_digest(file, "sha256").digest())
    return header


def read_verified(file: io.FileIO) -> bytes:
    """Return all bytes of an open file after comparing them with its header.

    The bytes that were verified are the ones returned, even if the file changes meanwhile.

    Raises
    ------
    ValueError
        The file has no header, is damaged, is larger than memory, or changes while it is read.
    """
    header = _verify_length(file)
    if header.length > _physical_memory_bytes():
        raise ValueError(f"its {header.length:,} bytes exceed the memory of this machine")
    file.seek(0)
    content = file.readall()
    start = content[: USER_BLOCK_BYTES + len(HDF5_SIGNATURE)]
    if _parse_header(start) != header or len(content) != header.length:
        raise ValueError("it changed while it was being read")
    _compare_digest(header, hashlib.sha256(memoryview(content)[USER_BLOCK_BYTES:]).digest())
    return content


def _parse_header(start: bytes) -> ChecksumHeader | None:
    """Return the header in the first bytes of a file, or None if they are all zeros."""
    signature = start[USER_BLOCK_BYTES : USER_BLOCK_BYTES + len(HDF5_SIGNATURE)]
    if signature != HDF5_SIGNATURE and not start.startswith(MAGIC):
        raise ValueError("it is not an HDF5 file written by distbp")
    block = start[:USER_BLOCK_BYTES]
    if not any(block):
        return None
    magic, kind, length, digest = _FIELDS.unpack_from(block.ljust(USER_BLOCK_BYTES, b"\0"))
    header = ChecksumHeader(kind.rstrip(b"\0").decode("latin-1"), length, digest)
    # Packed again, so that also the bytes that are not used must be right.
    if magic != MAGIC or block != header.pack():
        raise ValueError("it is damaged: its checksum header is invalid")
    return header


def _verify_length(file: io.RawIOBase) -> ChecksumHeader:
    """Return the header of an open file after comparing the file's length with it."""
    header = read_checksum_header(file)
    if header is None:
        raise ValueError("it has no checksum header, so its integrity cannot be verified")
    length = file.seek(0, os.SEEK_END)
    if length != header.length:
        raise ValueError(f"it is damaged: it has {length:,} of {header.length:,} bytes")
    return header


def _compare_digest(header: ChecksumHeader, digest: bytes) -> None:
    if digest != header.digest:
        raise ValueError("it is damaged: its SHA-256 differs from that in its checksum header")


def _physical_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
