"""What a person sees: one bar that lives on a terminal, plain lines everywhere else."""

import re
import sys

import pytest
from ranks import FULL, Job, command_of, is_open_mpi, mpiexec
from screen import Screen, watch

BAR = re.compile(r"epoch \d+/\d+ .*\d+% cost \d\.\d+ accuracy \d+\.\d+% [\d,]+ samples/s")
EPOCH = re.compile(r"epoch +\d+/\d+ \| train cost [^\n]* samples/s")
EPOCHS = 150
STARTS = ["alone", "--ranks", "mpiexec"]
FEW = STARTS if FULL else ["mpiexec"]  # where one start is much like another


def commanded(start: str, words: list) -> list[str]:
    """Return the command that trains alone, or on two ranks."""
    if start == "--ranks":
        words = [*words, "--ranks", 2]
    return command_of(words, n=2 if start == "mpiexec" else None)


@pytest.fixture
def words(data) -> list:
    """Return a run of a second or so: long enough to be looked at."""
    return [
        *("train", data["digits"], "--out", "run", "--epochs", EPOCHS, "--batch-size", 10),
        *("--shards", 2, "--checkpoint-every", "1000epochs"),
    ]


def assert_cursor_is_shown(text: str) -> None:
    """A program that hides the cursor has to show it again."""
    assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l"), "the cursor is hidden at the end"


@pytest.mark.parametrize("start", STARTS)
def test_a_bar_lives_on_a_terminal(tmp_path, words, start):
    """Share done, cost and samples a second, on one line; lines an epoch above; gone at the end."""
    seen = watch(commanded(start, words), tmp_path)
    assert seen.ended.status == 0, seen.last
    bars = seen.bars()
    shown = [look[0] for look in bars if look]
    assert max(map(len, bars)) == 1, "two bars at once"
    assert len(set(shown)) >= 3, shown
    assert all(BAR.search(line) for line in shown if " 0% " not in line), shown
    assert bars[-1] == [], "the bar is still there at the end"
    # An epoch's line may be longer than the terminal is wide.
    assert len(re.findall(r"^epoch +\d+/\d+ \| ", "\n".join(seen.last), re.MULTILINE)) == EPOCHS
    assert [line.split()[0] for line in seen.last[-3:]] == ["digest", "model", "next"], seen.last
    assert_cursor_is_shown(seen.text)


@pytest.mark.parametrize("start", FEW)
def test_a_narrow_terminal_is_not_flooded(tmp_path, words, start):
    """A bar that does not fit must not wrap, or each drawing of it leaves a line behind."""
    seen = watch(commanded(start, words), tmp_path, width=60)
    assert seen.ended.status == 0, seen.last
    joined = "\n".join(seen.last)
    assert len(seen.last) <= EPOCHS * 3 + 12, joined  # an epoch's line is three of the terminal's
    assert "left" not in joined, joined


@pytest.mark.parametrize("start", FEW)
def test_files_get_plain_lines(tmp_path, words, start):
    """To a pipe or a file: a line an epoch, and no control sequences."""
    ended = Job(commanded(start, words), tmp_path).wait()
    assert "\x1b" not in ended.out + ended.err
    assert "\r" not in ended.out + ended.err
    assert len([line for line in ended.out.splitlines() if EPOCH.fullmatch(line)]) == EPOCHS
    assert ended.err == "", ended.err


@pytest.mark.parametrize("start", FEW)
def test_quiet_shows_nothing_on_a_terminal(tmp_path, words, start):
    seen = watch(commanded(start, [*words, "--quiet"]), tmp_path)
    assert seen.ended.status == 0
    assert seen.text == "", repr(seen.text)


@pytest.mark.parametrize("start", ["alone", "mpiexec"])
def test_lines_go_where_the_user_sends_them(tmp_path, words, start):
    """On a terminal, `> log` of the shell or of each rank: the lines are in the file, plain."""
    shell = ["sh", "-c", 'exec "$0" "$@" >> log', sys.executable, "-m", "distbp"]
    launcher = [mpiexec(), "-n", "2"] if start == "mpiexec" else []
    seen = watch([*launcher, *shell, *map(str, words)], tmp_path)
    assert seen.ended.status == 0, seen.last
    text = (tmp_path / "log").read_text()
    assert len([line for line in text.splitlines() if EPOCH.fullmatch(line)]) == EPOCHS, text
    assert "\x1b" not in text
    assert not any(EPOCH.search(line) for line in seen.last)


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_ends_a_run(tmp_path, words, start):
    """Soon, with every rank, saved, and without a traceback."""
    words = [*words, "--epochs", 100_000]
    seen = watch(commanded(start, words), tmp_path, typed=("epoch  ", "\x03"))
    assert seen.ended.status != 0, seen.text
    assert seen.ended.seconds < 15, seen.text
    assert "Traceback (most recent call last)" not in seen.text
    if start != "mpiexec" or not is_open_mpi():  # whose launcher gives them 0.2 s
        assert seen.ended.status == 75, seen.text
        assert len(re.findall(r"stopped by SIG(INT|USR1) in epoch", seen.text)) == 1, seen.text
    assert_cursor_is_shown(seen.text)


def test_the_screen_of_these_tests():
    """Bars drawn over each other are one line; lines that wrap are two."""
    screen = Screen(10)
    screen.feed("ab\r\n\x1b[31mcd\x1b[0m\r\x1b[2")
    screen.feed("Kef\r\n0123456789x\r\x1b[1A\x1b[2Kg")
    assert screen.lines == ["ab", "ef", "g", "x"]
