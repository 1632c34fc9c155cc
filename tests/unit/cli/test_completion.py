"""The scripts of `distbp completion` know all verbs and options."""

import argparse
import sys

import pytest

from distbp.cli.commands import VERBS
from distbp.cli.completion_command import SHELLS, completion_script
from distbp.errors import ConfigError


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_and_option_is_completed(shell):
    script = completion_script(shell, VERBS)
    for verb in VERBS.values():
        assert verb.name in script
        for action in verb.parser()._actions:
            if action.help != argparse.SUPPRESS:
                assert all(flag.lstrip("-") in script for flag in action.option_strings)


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ConfigError, match=r"needs the package shtab.*'distbp\[completion\]'"):
        completion_script("bash", VERBS)


def test_the_verb(capsys):
    verb = VERBS["completion"]
    assert verb.run(verb.parse(["bash"])) == 0
    assert "_shtab_distbp" in capsys.readouterr().out
