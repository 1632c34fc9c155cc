"""The bytes of a table: a file, or a stream that is copied to a temporary file.

A `TableInput` opens the bytes as often as they are read, decompressed if they are compressed.
The format is recognized by the first bytes, as standard input has no name.
"""

import codecs
import io
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from distbp.errors import DataError
from distbp.storage import hdf5_checks

_COPY_BYTES = 1 << 20
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
# What files of other kinds begin with, and what to do with them.
_REFUSED = (
    (b"PK\x03\x04", "a zip archive, such as an Excel workbook", "Save a sheet as .csv, or unzip"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "Save a sheet as .csv"),
    (b"\x89HDF", "an HDF5 file", "Give it a name that ends in .h5"),
    (b"FEA1", "a Feather file of version 1", "Write it again as version 2"),
    (b"%PDF", "a PDF document", "Save the table as .csv"),
    (b"\xfd7zXZ", "compressed by xz", "Use gzip or zstd"),
)
_FORMATS = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\xff\xff\xff\xff", "arrow-stream"))


class FileView(io.RawIOBase):
    """A file with its own position that shares the descriptor of another, and does not close it."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self._size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; without the copy that Python's version makes."""
        count = max(0, self._size - self.position) if size < 0 else size
        part = os.pread(self._descriptor, count, self.position)
        self.position += len(part)
        return part

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._descriptor, [buffer], self.position)
        self.position += count
        return count


class TableInput:
    """The bytes of a table, which can be read several times.

    Attributes
    ----------
    name : str
        For messages.
    size : int
        In bytes, as stored.
    format : {"csv", "json", "parquet", "arrow", "arrow-stream"}
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        """Open a file, or copy a stream.

        Raises
        ------
        DataError
            It is no regular file, or of a kind that is no table.
        """
        self.name, self._file = _open(source)
        self.size = os.fstat(self._file.fileno()).st_size
        self._compression: str | None = None
        try:
            head = FileView(self._file).read(8)
            self._compression = next(
                (v for k, v in _COMPRESSIONS.items() if head.startswith(k)), None
            )
            self.format = self._find_format()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def open(self) -> tuple[Any, FileView]:
        """Return a stream of the bytes, decompressed, and the file under it."""
        import pyarrow

        view = FileView(self._file)
        if self._compression is None:
            return view, view
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(view, "r"), self._compression), view

    def head(self, count: int) -> bytes:
        """Return the first bytes, decompressed."""
        stream, _ = self.open()
        parts: list[bytes] = []
        while count > 0 and (part := stream.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _find_format(self) -> str:
        head = self.head(4096)
        for start, what, remedy in _REFUSED:
            if head.startswith(start):
                raise DataError(f"{self.name} is {what}, not a table. {remedy}.")
        for start, name in _FORMATS:
            if head.startswith(start):
                if self._compression:
                    raise DataError(f"{self.name} is a compressed {name} file. Uncompress it.")
                return name
        text = head.removeprefix(codecs.BOM_UTF8).lstrip()
        if re.match(rb"\[\s*\{", text):
            raise DataError(f"{self.name} is one JSON array. Write one object a line (JSON lines).")
        return "json" if text.startswith(b"{") else "csv"


def stream_name(source: str | Path | BinaryIO) -> str:
    """Return how messages name a file or stream."""
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", None)
    if name in ("<stdin>", 0):
        return "standard input"
    return name if isinstance(name, str) else "the stream"


def _open(source: str | Path | BinaryIO) -> tuple[str, BinaryIO]:
    """Return the name and the opened file; a stream is copied into a temporary file."""
    if isinstance(source, str | Path):
        return str(source), hdf5_checks.open_regular_file(Path(source))
    name = stream_name(source)
    # Standard input that is redirected from a file is read in place. A stream in memory has no
    # descriptor.
    with suppress(OSError, AttributeError):
        if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            return name, os.fdopen(os.dup(source.fileno()), "rb", buffering=0)
    spool: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by TableInput
    while part := source.read(_COPY_BYTES):
        spool.write(part)
    return name, spool
