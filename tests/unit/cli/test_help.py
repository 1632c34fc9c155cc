"""`--help` of each verb: groups, a default for every option, and an example that parses."""

import argparse
import re
import shlex
import subprocess
import sys

import pytest

from distbp.cli.commands import VERBS
from distbp.cli.main import _make_parser, parse_command_line
from distbp.training.config import GROUPS

ARGPARSE_GROUPS = ("positional arguments:", "options:")
METAVARS = re.compile(
    r"N|F|C|TEXT|COLUMN|LIST|DURATION|INTERVAL|TIME|FILE|NAME|NAME=VALUES|FOLD|FOLDER|RUN|[A-Z]+\.(h5|html)"
)


@pytest.fixture(autouse=True)
def terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def listed_options(parser):
    """Return the options that `--help` lists."""
    return [
        action
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    ]


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_help_fits_80_columns(verb):
    text = verb.parser().format_help()
    assert text.startswith(f"usage: distbp {verb.name} ")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_option_is_in_a_named_group(verb):
    """None is left under the headings that argparse uses by default."""
    lines = verb.parser().format_help().splitlines()
    assert not set(ARGPARSE_GROUPS) & set(lines)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_option_shows_its_default(verb):
    for action in listed_options(verb.parser()):
        end = r"\(required\)$" if action.required else r"\(default: [^()]+\)$"
        assert re.search(end, action.help), action.option_strings


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_metavars_say_the_kind(verb):
    """Unless the choices are listed, or the option is a switch."""
    for action in listed_options(verb.parser()):
        if action.nargs != 0 and not action.choices:
            assert METAVARS.fullmatch(action.metavar), action.option_strings


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_the_example_parses(verb):
    """It is shown, and the parser of the command line accepts it."""
    assert f"example:\n  {verb.example}\n" in verb.parser().format_help()
    program, *words = shlex.split(verb.example.partition(" > ")[0])
    assert program == "distbp"
    assert parse_command_line(words).verb is verb


def test_groups_of_train():
    """In this order, and what nearly everyone needs is first in each."""
    text = VERBS["train"].parser().format_help()
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings == [*GROUPS, "example"]
    firsts = re.findall(r"^\w.*:\n  (\S+)", text, re.MULTILINE)
    assert firsts[:-1] == [
        *("DATA.h5", "--hidden", "--optimizer", "--out", "--ranks", "--stall-limit"),
    ]


def test_help_of_distbp_lists_the_verbs():
    """Each on one line, with an example that parses."""
    text = _make_parser().format_help()
    for verb in VERBS.values():
        assert re.search(rf"^  {verb.name} +{re.escape(verb.summary)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    examples = re.findall(r"^  distbp (.*)$", text.partition("example:")[2], re.MULTILINE)
    assert [parse_command_line(shlex.split(line)).verb.name for line in examples] == [
        *("import", "train", "evaluate"),
    ]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]], ids=str)
def test_help_loads_neither_hdf5_nor_mpi(words):
    """Nor a communicator: it is printed at once, also where MPI is broken."""
    code = (
        "import sys\nfrom distbp.cli.main import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.splitlines()[-1].split()
    assert "distbp.cli.main" in loaded
    assert not {"h5py", "mpi4py", "distbp.parallel.comm", "distbp.parallel.mpi"} & set(loaded)
