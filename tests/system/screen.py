"""A terminal of 100 columns and 30 lines, and what a person sees on it over time."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from pathlib import Path

from ranks import Ended, Job

SEQUENCE = re.compile(r"\x1b(?:\[([?\d;]*)([A-Za-z])|\][^\x07]*\x07|[=>78])")


class Screen:
    """What a stream of characters and control sequences leaves on a screen.

    As much of a terminal as progress bars use: \\r, \\n, wrapping, colours (left
    out), cursor up and down, erasing of lines and of the rest of the screen.
    Lines that scroll out of sight are kept.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.unknown: set[str] = set()
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take in a piece of the stream; a sequence may be cut anywhere."""
        text = self._rest + text
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = SEQUENCE.match(text, at)
                if match is None:
                    if len(text) - at < 20:
                        break
                    raise ValueError(f"not a control sequence: {text[at : at + 20]!r}")
                self._control(match[1] or "", match[2] or "")
                at = match.end()
            else:
                self._put(text[at])
                at += 1
        self._rest = text[at:]

    def _put(self, character: str) -> None:
        if character == "\n":
            self.row += 1
        elif character == "\r":
            self.column = 0
        elif character >= " ":
            if self.column == self.width:
                self.row, self.column = self.row + 1, 0
            row = self._line()
            row += [" "] * (self.column + 1 - len(row))
            row[self.column] = character
            self.column += 1
        self._line()

    def _line(self) -> list[str]:
        while len(self.rows) <= self.row:
            self.rows.append([])
        return self.rows[self.row]

    def _control(self, numbers: str, letter: str) -> None:
        count = int(numbers) if numbers.isdecimal() else 1
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row += count
        elif letter == "K":
            whole = numbers == "2"
            del self._line()[0 if whole else self.column :]
        elif letter == "J":
            del self._line()[self.column :], self.rows[self.row + 1 :]
        elif letter not in ("m", "h", "l", ""):  # colours; cursor hidden and shown
            self.unknown.add(letter)

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]


class Seen:
    """All that was on a terminal while a command ran.

    Attributes
    ----------
    ended : Ended
    text : str
        Everything that was written, as it came.
    looks : list of list of str
        The lines on the screen, before each return to the start of a line.
    """

    def __init__(self, ended: Ended, text: str, looks: list[list[str]]) -> None:
        self.ended, self.text, self.looks = ended, text, looks

    @property
    def last(self) -> list[str]:
        return [line for line in self.looks[-1] if line]

    def bars(self) -> list[list[str]]:
        """Return, for each look, the lines that are a bar."""
        return [[line for line in look if "%" in line and "left" in line] for look in self.looks]


def watch(command, folder: Path, width: int = 100, typed: tuple[str, str] | None = None) -> Seen:
    """Run a command on a terminal of its own and look on.

    `typed` (text, keys) are keys that are pressed as soon as the text is to be seen.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    job = Job(
        command, folder, files=(theirs, theirs), start_new_session=False,
        preexec_fn=lambda: os.login_tty(os.dup(theirs)),
    )  # fmt: skip
    os.close(theirs)
    screen, pieces, looks = Screen(width), [], []
    while time.monotonic() < job.began + job.limit:
        if not select.select([ours], [], [], 0.05)[0]:
            if job.process.poll() is not None:
                break
            continue
        try:
            piece = os.read(ours, 65536).decode(errors="replace")
        except OSError:  # all have closed it
            break
        pieces.append(piece)
        for part in re.split(r"(?=\r)", piece):  # how much comes at once is the launcher's affair
            screen.feed(part)
            looks.append(screen.lines)
        if typed and typed[0] in "".join(pieces):
            os.write(ours, typed[1].encode())
            typed = None
    os.close(ours)
    ended = job.wait()
    assert not screen.unknown, f"control sequences that Screen does not know: {screen.unknown}"
    return Seen(ended, "".join(pieces), looks or [[]])
