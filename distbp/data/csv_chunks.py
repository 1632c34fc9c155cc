"""The text of a CSV file as its parser expects it: in chunks of whole rows, in UTF-8.

Comment lines are left out. Chunks can be parsed independently of each other, because they
are cut at ends of lines that are not inside quotes.
"""

import codecs
import re
from collections.abc import Iterator

from distbp.data import csv_lines
from distbp.data.csv_dialect import Dialect, describe_encoding
from distbp.data.csv_lines import MAX_ROW_BYTES
from distbp.data.table_base import wrap_arrow_errors
from distbp.data.table_input import TableInput
from distbp.errors import DataError

_QUOTE = b'"'


class TextChunks:
    """The chunks of a file, in order: an iterator of bytes.

    Parameters
    ----------
    source : TableInput
    dialect : Dialect
    chunk_bytes : int
        The size of a chunk, unless one row is longer.
    may_change : bool
        Whether another encoding may be tried if a byte is not in the dialect's.
    notes : list of str
        A sentence is added to it if that is done.
    """

    def __init__(
        self,
        source: TableInput,
        dialect: Dialect,
        chunk_bytes: int,
        may_change: bool,
        notes: list[str],
    ) -> None:
        self._source, self._dialect = source, dialect
        self._chunk_bytes = chunk_bytes
        self._may_change = may_change
        self._stream, self._file = source.open()
        self._rows = _rows_pattern(dialect.separator)
        self._use(dialect.encoding)
        self._line = b""  # the start of a line that is incomplete
        self._offset = 0  # of the bytes to be decoded next
        self._is_ascii = True
        self._ended = False
        self._notes = notes

    @property
    def position(self) -> int:
        """How many bytes of the file were read, as stored."""
        return self._file.position

    def __iter__(self) -> Iterator[memoryview]:
        text = self._next().removeprefix(codecs.BOM_UTF8)  # begins at a row
        while text or not self._ended:
            is_enough = len(text) >= self._chunk_bytes or self._ended
            if is_enough and (end := self._row_end(text)):
                yield memoryview(text)[:end]
                text = text[end:]
                continue
            if self._ended or len(text) > MAX_ROW_BYTES:
                with wrap_arrow_errors(self._source.name):
                    csv_lines.explain(self._source.name, self._source.open()[0], self._dialect)
                raise self._long_row()
            # Twice as much each time: a long row is not copied for each of its chunks.
            text += self._next(len(text))

    def _long_row(self) -> DataError:
        return DataError(
            f"{self._source.name} has a row of more than {MAX_ROW_BYTES >> 20} MB. Correct it, or "
            "name another format."
        )

    def _row_end(self, text: bytes) -> int:
        """Return where the last complete row ends; 0 if there is none."""
        last = end = len(text) if self._ended else text.rfind(b"\n") + 1
        if _QUOTE not in text:  # which is found out faster than by counting
            return last
        # A line break inside quotes does not end a row: go back to one that is outside.
        is_inside = text.count(_QUOTE, 0, end) % 2 == 1
        while is_inside and end:
            before = text.rfind(b"\n", 0, end - 1) + 1
            is_inside ^= text.count(_QUOTE, before, end) % 2 == 1
            end = before
        if end and self._quotes_are_pairs(text, end):
            return end
        return min(last, self._match_rows(text))

    def _quotes_are_pairs(self, text: bytes, end: int) -> bool:
        """Return whether every quote opens or closes a cell, unlike one inside, as in `5" disk`."""
        if not (quotes := text.count(_QUOTE, 0, end)):
            return True
        separator = self._dialect.separator.encode()
        opening = text.startswith(_QUOTE) + sum(
            text.count(one + _QUOTE, 0, end) for one in (separator, b"\n")
        )
        closing = sum(text.count(_QUOTE + one, 0, end) for one in (separator, b"\n", b"\r\n"))
        closing += text.endswith(_QUOTE, 0, end)
        return opening == closing and quotes == opening + closing

    def _match_rows(self, text: bytes) -> int:
        """Return the end of the last complete row by the rules of the parser, which is slower."""
        found = self._rows.match(text if not self._ended else text + b"\n")
        return found.end() if found else 0

    def _next(self, count: int = 0) -> bytes:
        """Return a chunk of text, or `count` bytes; whole lines if there are some to leave out."""
        with wrap_arrow_errors(self._source.name):
            raw = self._stream.read(max(self._chunk_bytes, count))
        self._ended = not raw
        text = self._to_utf8(raw)
        if not self._dialect.comment and not self._dialect.has_spaced_quotes:
            return text
        # Whole lines, as a comment can only be recognized at the start of a line.
        text = self._line + text
        end = len(text) if self._ended else text.rfind(b"\n") + 1
        text, self._line = text[:end], text[end:]
        if len(self._line) > MAX_ROW_BYTES:
            raise self._long_row()
        return self._filter(text)

    def _filter(self, text: bytes) -> bytes:
        """Return lines without comments, and without spaces before quotes."""
        comment = self._dialect.comment.encode()
        if comment and (text.startswith(comment) or b"\n" + comment in text):
            text = re.sub(rb"(?m)^" + re.escape(comment) + rb".*\n?", b"", text)
        if self._dialect.has_spaced_quotes:
            separator = self._dialect.separator.encode()
            text = re.sub(re.escape(separator) + rb' +"(?!")', separator + _QUOTE, text)
        return text

    def _use(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._is_utf8 = codecs.lookup(encoding).name in ("utf-8", "ascii")

    def _to_utf8(self, raw: bytes) -> bytes:
        """Return bytes as UTF-8; all ASCII, the usual case, is only checked."""
        pending = len(self._decoder.getstate()[0])
        if self._is_utf8 and raw.isascii() and not pending:
            text = raw
        else:
            try:
                text = self._decoder.decode(raw, self._ended).encode()
            except UnicodeError as failure:
                start = max(0, getattr(failure, "start", 0) - pending)
                return self._decode_otherwise(raw, start, failure)
        self._is_ascii = self._is_ascii and raw.isascii()
        self._offset += len(raw)
        # Lines of old Macintosh files, and no others, end with \r alone.
        return text.replace(b"\r", b"\n") if self._dialect.has_cr_lines else text

    def _decode_otherwise(self, raw: bytes, start: int, failure: UnicodeError) -> bytes:
        """Return bytes of which the one at `start` is not in the encoding, in another one."""
        # Text in UTF-8 up to here is damaged UTF-8, not another encoding.
        is_ascii = self._is_ascii and raw[:start].isascii()
        others = {"cp1252": "latin-1"} | ({"utf-8": "cp1252"} if is_ascii else {})
        if not self._may_change or self._encoding not in others:
            stream = self._source.open()[0]
            line = csv_lines.find_offset(stream, self._dialect, self._offset + start)
            raise DataError(
                f"{self._source.name}, line {line} is not {self._encoding} text: "
                f"{getattr(failure, 'reason', failure)}. Correct it, or name the right encoding "
                "with --encoding, such as latin-1."
            )
        self._use(others[self._encoding])
        sentence = f"From byte {self._offset + start} on, {describe_encoding(self._encoding)}."
        if sentence not in self._notes:  # the file may be read several times
            self._notes.append(sentence)
        return self._to_utf8(raw)


def _rows_pattern(separator: str) -> re.Pattern[bytes]:
    """Return the pattern of complete rows: a quote is special only at the start of a cell."""
    character = re.escape(separator.encode())
    cell = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?!"))[^%b\n]*+' % character
    return re.compile(rb"(?:(?!\Z)(?:%b%b)*+%b\n)*+" % (cell, character, cell))
