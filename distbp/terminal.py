"""Find the terminal that output ends on, also behind an MPI launcher; what to print on it.

The standard streams of a rank are pipes to its launcher: whether a terminal shows them, and
how wide the terminal is, is seen from the files that the launcher has open.
"""

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

# "OUT,ERR": widths that the process which started the launcher has found, for the ranks.
TERMINAL_WIDTHS_VARIABLE = "DISTBP_TERMINALS"
_LAUNCHERS = ("mpiexec", "mpirun", "prterun", "prun", "orterun", "srun")
_DEFAULT_COLUMNS = 80


def printable(name: str) -> str:
    """Return a name from a file as it can be printed in a line: without control sequences."""
    return name if name.isprintable() else repr(name)


def printable_list(names: Sequence[str], most: int) -> str:
    """Return up to so many names, as they can be printed, for a message."""
    return ", ".join(map(printable, names[:most])) + ", …" * (len(names) > most)


def terminal_widths() -> tuple[int, int]:
    """Return the columns of the terminals that stdout and stderr end on; 0 for none."""
    if TERMINAL_WIDTHS_VARIABLE in os.environ:
        out, err = map(int, os.environ[TERMINAL_WIDTHS_VARIABLE].split(","))
        return out, err
    launcher = _find_launcher(os.getpid())
    if launcher is None:
        files = sys.stdout, sys.stderr
        out, err = [_columns(f.fileno()) if f.isatty() else 0 for f in files]
        return out, err
    # A rank that is redirected to a file by itself does not write to its launcher.
    out, err = [0 if _is_regular_file(n) else _process_columns(launcher, n) for n in (1, 2)]
    return out, err


def _is_regular_file(descriptor: int) -> bool:
    """Return whether an open descriptor of this process is a regular file."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _find_launcher(pid: int) -> int | None:
    """Return the process ID of the MPI launcher above `pid`, None without one on this host.

    Of nested launchers, such as mpirun above its local daemon, the outermost.
    """
    found = None
    while pid > 1:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return found
        # "PID (NAME) STATE PARENT …", where the name may contain parentheses.
        name = text[text.index("(") + 1 : text.rindex(")")]
        if name.startswith(_LAUNCHERS):
            found = pid
        elif found:
            return found
        pid = int(text[text.rindex(")") + 2 :].split()[1])
    return found


def _process_columns(pid: int, descriptor: int) -> int:
    """Return the width of the terminal that a process has open as `descriptor`; 0 for none."""
    try:
        terminal = os.open(
            f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK
        )
    except OSError:
        return 0
    try:
        return _columns(terminal) if os.isatty(terminal) else 0
    finally:
        os.close(terminal)


def _columns(terminal: int) -> int:
    """Return the width of an open terminal; 80 if it has none."""
    return os.get_terminal_size(terminal).columns or _DEFAULT_COLUMNS
