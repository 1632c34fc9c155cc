"""The bytes of a table: a file, or a stream that is copied to a temporary file.

A `TableInput` opens the bytes as often as they are read, decompressed if they are compressed.
What a file is, is known from its first bytes, as standard input has no name. `TextStream`
gives the bytes of a text file as a CSV parser expects them: UTF-8, without comment lines.
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

from distbp.data.csv_dialect import Dialect
from distbp.errors import DataError
from distbp.storage import hdf5_checks

MAX_ROW_BYTES = 1 << 26
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
    """A file of its own position over the descriptor of another, which stays open."""

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
        """Return an Arrow stream of the bytes, decompressed, and the file under it."""
        import pyarrow

        view = FileView(self._file)
        stream = pyarrow.PythonFile(view, "r")
        if self._compression is None:
            return stream, view
        return pyarrow.CompressedInputStream(stream, self._compression), view

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
    with suppress(OSError, AttributeError):  # a stream in memory has no descriptor
        if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            return name, os.fdopen(os.dup(source.fileno()), "rb", buffering=0)
    spool: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by TableInput
    while part := source.read(_COPY_BYTES):
        spool.write(part)
    return name, spool


class TextStream(io.RawIOBase):
    """The bytes of a text file in UTF-8, without byte-order mark and comment lines.

    It is read by a thread of the parser. What was found meanwhile is kept here.

    Attributes
    ----------
    failure : ValueError or None
        Why reading ended.
    offset : int
        Where it ended, in bytes from the start.
    is_ascii : bool
        Whether all bytes before that are.
    quotes : int
        The number of quotes so far.
    """

    def __init__(self, stream: Any, file: FileView, dialect: Dialect) -> None:
        self._stream, self._file, self._dialect = stream, file, dialect
        self._decoder: Any = codecs.getincrementaldecoder(dialect.encoding)()
        self._is_utf8 = codecs.lookup(dialect.encoding).name in ("utf-8", "ascii")
        self._rest = b""  # an incomplete line
        self._ready = bytearray()
        self._at_start = True
        self._ended = False
        self.failure: ValueError | None = None
        self.offset = 0
        self.is_ascii = True
        self.quotes = 0

    @property
    def position(self) -> int:
        """How many bytes of the file were read, as stored."""
        return self._file.position

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            self._ready += self._next(len(buffer))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        del self._ready[:count]
        return count

    def _next(self, count: int) -> bytes:
        """Return the next bytes as the parser wants them."""
        raw = self._stream.read(max(count, 4096))
        self._ended = not raw
        text = self._to_utf8(raw)
        if self._at_start and text:
            text, self._at_start = text.removeprefix(codecs.BOM_UTF8), False
        if self._dialect.comment or self._dialect.has_spaced_quotes:
            text = self._filter(text)
        self.quotes += text.count(b'"')
        return text

    def _to_utf8(self, raw: bytes) -> bytes:
        """Return bytes as UTF-8; they are checked, and as fast as they can be if all ASCII."""
        pending = len(self._decoder.getstate()[0])
        if self._is_utf8 and raw.isascii() and not pending:
            self.offset += len(raw)
            return raw
        try:
            text = self._decoder.decode(raw, self._ended)
        except UnicodeDecodeError as failure:
            self.offset += failure.start - pending
            self.is_ascii &= raw[: max(0, failure.start - pending)].isascii()
            self.failure = failure
            raise
        self.offset += len(raw)
        self.is_ascii &= raw.isascii()
        return text.encode()

    def _filter(self, text: bytes) -> bytes:
        """Return complete lines without comments, and without spaces before quotes."""
        text = self._rest + text
        end = len(text) if self._ended else text.rfind(b"\n") + 1
        text, self._rest = text[:end], text[end:]
        if len(self._rest) > MAX_ROW_BYTES:
            self.failure = ValueError(f"a line has more than {MAX_ROW_BYTES >> 20} MB")
            raise self.failure
        comment = self._dialect.comment.encode()
        if comment and (text.startswith(comment) or b"\n" + comment in text):
            text = re.sub(rb"(?m)^" + re.escape(comment) + rb".*\n?", b"", text)
        if self._dialect.has_spaced_quotes:
            separator = re.escape(self._dialect.separator.encode())
            text = re.sub(separator + rb' +"', separator + b'"', text)
        return text
