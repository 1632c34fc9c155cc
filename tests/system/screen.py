"""A terminal emulator: run a command on a pseudoterminal and record what the screen shows."""

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
    """The screen of a terminal, from the characters and control sequences sent to it.

    It knows what progress bars use: \\r, \\n, wrapping, colors (ignored), cursor up and down,
    erasing lines and the rest of the screen. Lines that scroll off the top are kept. What a program
    shows on the alternate screen is in `lines` until it leaves it.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.unknown: set[str] = set()
        self._rest = ""
        self._behind: tuple[list[list[str]], int, int] = ([[]], 0, 0)

    def feed(self, text: str) -> None:
        """Process a part of the stream; it may end within a control sequence."""
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
        if numbers == "?1049" and letter == "h":
            self._behind, self.rows = (self.rows, self.row, self.column), [[]]
            self.row = self.column = 0
        elif numbers == "?1049":
            self.rows, self.row, self.column = self._behind
        elif letter == "H" and not numbers:
            self.row = self.column = 0
        elif letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row += count
        elif letter == "K":
            is_full = numbers == "2"
            del self._line()[0 if is_full else self.column :]
        elif letter == "J":
            del self._line()[self.column :], self.rows[self.row + 1 :]
        elif letter not in ("m", "h", "l", ""):  # colors; hide and show the cursor
            self.unknown.add(letter)

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]


class Recording:
    """What a terminal showed while a command ran.

    Attributes
    ----------
    ended : Ended
    text : str
        Everything that was written, unprocessed.
    frames : list of list of str
        The lines on the screen before each carriage return.
    """

    def __init__(self, ended: Ended, text: str, frames: list[list[str]]) -> None:
        self.ended, self.text, self.frames = ended, text, frames

    @property
    def last(self) -> list[str]:
        return [line for line in self.frames[-1] if line]

    def bars(self) -> list[list[str]]:
        """Return, for each frame, the lines that are a progress bar."""
        return [[line for line in frame if "%" in line and "left" in line] for frame in self.frames]


def record(
    command,
    folder: Path,
    width: int = 100,
    typed: tuple[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> Recording:
    """Run a command on a terminal of its own, of 30 lines, and record the screen.

    `typed` is (text, keys): the keys are typed as soon as the text has been printed.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    job = Job(
        command, folder, environment, files=(terminal, terminal), start_new_session=False,
        preexec_fn=lambda: os.login_tty(os.dup(terminal)),
    )  # fmt: skip
    os.close(terminal)
    screen, pieces, frames = Screen(width), [], []
    while time.monotonic() < job.began + job.limit:
        if not select.select([controller], [], [], 0.05)[0]:
            if job.process.poll() is not None:
                break
            continue
        try:
            piece = os.read(controller, 65536).decode(errors="replace")
        except OSError:  # all processes have closed it
            break
        pieces.append(piece)
        for part in re.split(r"(?=\r)", piece):  # a launcher may forward several frames at once
            screen.feed(part)
            frames.append(screen.lines)
        if typed and typed[0] in "".join(pieces):
            os.write(controller, typed[1].encode())
            typed = None
    os.close(controller)
    ended = job.wait()
    assert not screen.unknown, f"unknown control sequences: {screen.unknown}"
    return Recording(ended, "".join(pieces), frames or [[]])
