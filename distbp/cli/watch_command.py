"""The verb `watch`: show runs while they train, from the files of their directories."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distbp.cli.parser import Parser, Verb, add_options, given_options
from distbp.errors import ConfigError
from distbp.options import option

if TYPE_CHECKING:
    from rich.text import Text

    from distbp.cli.watch_view import Look
    from distbp.training.run_follower import RunFollower

_PLAIN_COLUMNS = 80
_MIN_COLUMNS = 20
_RUN_FILES = ("config.toml", "metrics.jsonl", "status.json", "lock", ".done")
_LIST_INTERVAL_S = 5.0  # a job array may start more runs while it is watched
_INTERRUPTED_STATUS = 130


@dataclass(frozen=True)
class WatchOptions:
    """How to watch."""

    every: float = option(1.0, "seconds between two looks", float, group="display", least=0.1)
    once: bool = option(
        False, "print the state once and end, as is done where standard output is no terminal",
        group="display",
    )  # fmt: skip
    ascii: bool | None = option(
        None, "draw curves in ASCII only", group="display",
        default_text="on unless the locale, as in LANG, has UTF-8",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.every >= 0.1:
            raise ConfigError(f"--every {self.every}: expected at least 0.1 seconds.")


def _declare(parser: Parser) -> None:
    parser.group("files").add_argument(
        "runs", metavar="RUN", nargs="+",
        help="directory of a run, or of several, such as those of a sweep or a job array",
    )  # fmt: skip
    add_options(parser, WatchOptions)


def _run_watch(arguments: argparse.Namespace) -> int:
    """Watch until all runs are over; return 1 if one of them has failed."""
    options = WatchOptions(**given_options(arguments, WatchOptions))
    watched = _Watched(list(map(Path, arguments.runs)))
    if options.once or not sys.stdout.isatty():
        watched.poll()
        if not watched.runs:
            raise ConfigError(_nothing_to_watch(watched.folders))
        _print(watched.lines(_plain_look(options)))
    else:
        try:
            _draw_until_over(watched, options)
        except KeyboardInterrupt:  # the way to end it, which is worth no message
            return _INTERRUPTED_STATUS
    return watched.status()


WATCH = Verb(
    "watch",
    "Show the curves and the state of runs while they train.",
    "RUN [RUN …] [OPTIONS]",
    "distbp watch run",
    _declare,
    _run_watch,
)


def _nothing_to_watch(folders: Sequence[Path]) -> str:
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        return f"{', '.join(missing)} does not exist. Name the --out of a training or a sweep."
    return f"{', '.join(map(str, folders))} has no runs in it. Name the --out of a training."


class _Watched:
    """The runs in some directories, as of the last poll."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self.runs: dict[Path, RunFollower] = {}
        self._is_table = len(folders) > 1
        self._next_listing = 0.0

    def poll(self) -> None:
        """Read what is new, and sometimes look for more runs."""
        from distbp.training.run_follower import RunFollower

        if not self.runs or time.monotonic() >= self._next_listing:
            self._next_listing = time.monotonic() + _LIST_INTERVAL_S
            for folder in self.folders:
                found = _find_runs(folder)
                self._is_table |= found not in ([], [folder])
                for path in found:
                    self.runs.setdefault(path, RunFollower(path))
            self.runs = dict(sorted(self.runs.items(), key=lambda item: _natural_key(item[0])))
        for run in self.runs.values():
            run.poll()

    def lines(self, look: "Look") -> "list[Text]":
        """Return the lines to show."""
        from distbp.cli.watch_view import run_page, runs_table
        from distbp.training.run_follower import RunFollower

        if not self._is_table:
            run = next(iter(self.runs.values()), RunFollower(self.folders[0]))
            return run_page(run, look)
        return runs_table(list(self.runs.values()), self._names(), look)

    def _names(self) -> list[str]:
        """Return what tells the runs from each other."""
        if len(self.folders) > 1:
            return list(map(str, self.runs))
        return [str(path.relative_to(self.folders[0])) for path in self.runs]

    def is_over(self) -> bool:
        """Return whether nothing more is to be expected of any run."""
        return bool(self.runs) and all(run.is_over() for run in self.runs.values())

    def status(self) -> int:
        """Return the exit status: 1 if a run has failed or died."""
        from distbp.training.run_follower import DIED
        from distbp.training.run_summary import FAILED

        return int(any(run.state()[0] in (FAILED, DIED) for run in self.runs.values()))


def _find_runs(folder: Path, depth: int = 2) -> list[Path]:
    """Return the directories of runs: a directory itself, or those in it, and their folds."""
    if any((folder / name).exists() for name in _RUN_FILES):
        return [folder]
    if not depth or not folder.is_dir():
        return []
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
    return [run for path in inner for run in _find_runs(path, depth - 1)]


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key by which run-2 comes before run-10."""
    import re

    words = re.split(r"(\d+)", str(path))
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]


# The terminal


def _is_ascii(options: WatchOptions, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether to draw without Unicode.

    Python itself takes UTF-8 for standard output where the locale is C, and sets LC_CTYPE.
    """
    if options.ascii is not None:
        return options.ascii
    kind = environment.get("LC_CTYPE", "")
    given = environment.get("LC_ALL") or ("" if kind == "C.UTF-8" else kind)
    names = [given or environment.get("LANG", ""), sys.stdout.encoding or ""]
    return not all("utf8" in name.lower().replace("-", "") for name in names)


def _plain_look(options: WatchOptions) -> "Look":
    """Return the look of text in a pipe or file, or of what is printed once."""
    from distbp.cli.watch_view import Look

    columns = _columns_and_rows()[0] if sys.stdout.isatty() else 0
    width = columns or int(_digits(os.environ.get("COLUMNS", "")) or _PLAIN_COLUMNS)
    return Look(max(width, _MIN_COLUMNS), None, _is_ascii(options), has_colors=False)


def _digits(text: str) -> str:
    return text if text.isdecimal() and len(text) < 5 else ""


def _columns_and_rows() -> tuple[int, int]:
    try:
        return tuple(os.get_terminal_size(sys.stdout.fileno()))  # type: ignore[return-value]
    except OSError:
        return 0, 0


def _print(lines: "Sequence[Text]") -> None:
    for line in lines:
        print(line.plain.rstrip())


def _draw_until_over(watched: _Watched, options: WatchOptions) -> None:
    """Redraw the screen until all runs are over; the last picture stays on the terminal."""
    from rich.console import Console, Group
    from rich.live import Live

    from distbp.cli.watch_view import Look

    console = Console(file=sys.stdout, highlight=False)
    is_ascii, lines = _is_ascii(options), list[Any]()

    def look() -> Look:
        width, height = console.size
        return Look(max(width, _MIN_COLUMNS), height, is_ascii, console.color_system is not None)

    with _interrupted_by_sigterm():
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    watched.poll()
                    lines = watched.lines(look())
                    live.update(Group(*lines), refresh=True)
                    if watched.is_over():
                        break
                    time.sleep(options.every)
        finally:
            for line in lines:
                console.print(line, soft_wrap=True)


@contextmanager
def _interrupted_by_sigterm() -> Any:
    """Have SIGTERM do what Ctrl-C does, so that the terminal is left as it was."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
