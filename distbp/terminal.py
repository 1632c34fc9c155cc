"""The terminal that a run is shown on, which may be behind a launcher."""

import os
import stat
import sys
from pathlib import Path

TERMINAL_WIDTHS_VARIABLE = "DISTBP_TERMINALS"  # where another distbp hands on what this one writes
LAUNCHERS = ("mpiexec", "mpirun", "prterun", "prun", "orterun", "srun")


def terminal_widths() -> tuple[int, int]:
    """Return the columns of the terminals that stdout and stderr end on; 0 for none."""
    if TERMINAL_WIDTHS_VARIABLE in os.environ:
        out, err = map(int, os.environ[TERMINAL_WIDTHS_VARIABLE].split(","))
        return out, err
    launcher = launcher_above(os.getpid())
    if launcher is None:
        files = sys.stdout, sys.stderr
        out, err = [columns(f.fileno()) if f.isatty() else 0 for f in files]
        return out, err
    # A rank's own file, of `> log` behind the launcher's name, does not pass through it.
    out, err = [0 if is_file(n) else terminal_columns(launcher, n) for n in (1, 2)]
    return out, err


def is_file(descriptor: int) -> bool:
    """Return whether an open descriptor of this process is a file on a disk."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def launcher_above(pid: int) -> int | None:
    """Return the process number of the MPI launcher that started `pid`, if it is on this host."""
    found = None
    while pid > 1:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return found
        name = text[text.index("(") + 1 : text.rindex(")")]
        if name.startswith(LAUNCHERS):
            found = pid
        elif found:
            return found
        pid = int(text[text.rindex(")") + 2 :].split()[1])
    return found


def terminal_columns(pid: int, descriptor: int) -> int:
    """Return the width of the terminal that another process's open file is, or 0."""
    try:
        terminal = os.open(
            f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK
        )
    except OSError:
        return 0
    try:
        return columns(terminal) if os.isatty(terminal) else 0
    finally:
        os.close(terminal)


def columns(terminal: int) -> int:
    """Return the width of an open terminal; 80 if it does not say."""
    return os.get_terminal_size(terminal).columns or 80
