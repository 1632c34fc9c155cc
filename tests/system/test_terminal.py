"""The display: one progress bar on a terminal, plain lines everywhere else."""

import re
import sys

import pytest
from ranks import FULL, Job, command_of, is_open_mpi, mpiexec
from screen import Screen, record

BAR = re.compile(r"epoch \d+/\d+ .*\d+% cost \d\.\d+(e-\d+)? accuracy \d+\.\d+% [\d,]+ samples/s")
EPOCH = re.compile(r"epoch +\d+/\d+ \| train cost [^\n]* samples/s")
EPOCHS = 150
STARTS = ["alone", "--ranks", "mpiexec"]
SOME_STARTS = STARTS if FULL else ["mpiexec"]


def started_by(start: str, words: list) -> list[str]:
    """Return the command that runs distbp without a launcher, or on two ranks."""
    if start == "--ranks":
        words = [*words, "--ranks", 2]
    return command_of(words, n=2 if start == "mpiexec" else None)


@pytest.fixture
def words(data) -> list:
    """Return the arguments of a run of about a second: long enough to be recorded."""
    return [
        *("train", data["digits"], "--out", "run", "--epochs", EPOCHS, "--batch-size", 10),
        *("--shards", 2, "--checkpoint-every", "1000epochs"),
    ]


def assert_cursor_is_shown(text: str) -> None:
    """A program that hides the cursor must show it again."""
    assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l"), (
        "the cursor is still hidden at the end"
    )


@pytest.mark.parametrize("start", STARTS)
def test_a_progress_bar_on_a_terminal(tmp_path, words, start):
    """One line with progress, cost and speed, below a line per epoch; removed at the end."""
    seen = record(started_by(start, words), tmp_path)
    assert seen.ended.status == 0, seen.last
    bars = seen.bars()
    shown = [lines[0] for lines in bars if lines]
    assert max(map(len, bars)) == 1, "two bars at the same time"
    assert len(set(shown)) >= 3, shown
    assert all(BAR.search(line) for line in shown if " 0% " not in line), shown
    assert bars[-1] == [], "the bar was not removed at the end"
    # An epoch's line may be longer than the terminal is wide.
    assert len(re.findall(r"^epoch +\d+/\d+ \| ", "\n".join(seen.last), re.MULTILINE)) == EPOCHS
    assert [line.split()[0] for line in seen.last[-3:]] == ["digest", "model", "next"], seen.last
    assert_cursor_is_shown(seen.text)


@pytest.mark.parametrize("start", SOME_STARTS)
def test_no_progress_bar_on_a_narrow_terminal(tmp_path, words, start):
    """A bar that wraps would leave a line behind each time it is redrawn."""
    seen = record(started_by(start, words), tmp_path, width=60)
    assert seen.ended.status == 0, seen.last
    joined = "\n".join(seen.last)
    assert len(seen.last) <= EPOCHS * 3 + 12, joined  # the line of an epoch wraps twice
    assert "left" not in joined, joined


@pytest.mark.parametrize("start", SOME_STARTS)
def test_plain_lines_in_files(tmp_path, words, start):
    """In a pipe or file: a line per epoch, and no control sequences."""
    ended = Job(started_by(start, words), tmp_path).wait()
    assert "\x1b" not in ended.out + ended.err
    assert "\r" not in ended.out + ended.err
    assert len([line for line in ended.out.splitlines() if EPOCH.fullmatch(line)]) == EPOCHS
    assert ended.err == "", ended.err


@pytest.mark.parametrize("start", SOME_STARTS)
def test_quiet_prints_nothing_on_a_terminal(tmp_path, words, start):
    seen = record(started_by(start, [*words, "--quiet"]), tmp_path)
    assert seen.ended.status == 0
    assert seen.text == "", repr(seen.text)


@pytest.mark.parametrize("start", ["alone", "mpiexec"])
def test_redirected_output_on_a_terminal(tmp_path, words, start):
    """Each rank's output redirected by `>> log`: the file has plain lines, the terminal none."""
    shell = ["sh", "-c", 'exec "$0" "$@" >> log', sys.executable, "-m", "distbp"]
    launcher = [mpiexec(), "-n", "2"] if start == "mpiexec" else []
    seen = record([*launcher, *shell, *map(str, words)], tmp_path)
    assert seen.ended.status == 0, seen.last
    text = (tmp_path / "log").read_text()
    assert len([line for line in text.splitlines() if EPOCH.fullmatch(line)]) == EPOCHS, text
    assert "\x1b" not in text
    assert not any(EPOCH.search(line) for line in seen.last)


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_stops_a_run(tmp_path, words, start):
    """All ranks, within seconds, with a checkpoint and without a traceback."""
    words = [*words, "--epochs", 100_000]
    seen = record(started_by(start, words), tmp_path, typed=("epoch  ", "\x03"))
    assert seen.ended.status != 0, seen.text
    assert seen.ended.seconds < 15, seen.text
    assert "Traceback (most recent call last)" not in seen.text
    if start != "mpiexec" or not is_open_mpi():  # its mpiexec kills the ranks 0.2 s after Ctrl-C
        assert seen.ended.status == 75, seen.text
        assert len(re.findall(r"stopped by SIG(INT|USR1) in epoch", seen.text)) == 1, seen.text
    assert_cursor_is_shown(seen.text)


def test_the_terminal_emulator():
    """Text that is overwritten is one line, a line that wraps is two."""
    screen = Screen(10)
    screen.feed("ab\r\n\x1b[31mcd\x1b[0m\r\x1b[2")
    screen.feed("Kef\r\n0123456789x\r\x1b[1A\x1b[2Kg")
    assert screen.lines == ["ab", "ef", "g", "x"]
