"""The verb `doctor`: exit status, and the only errors that are not findings."""

import json

import pytest
from machine_facts import AREAS, SHARED

from distbp.cli.main import parse_command_line
from distbp.doctor import examination
from distbp.doctor.examination import Examination
from distbp.doctor.facts import RankFacts
from distbp.errors import ConfigError, LaunchError


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs the verb, with what an examination would find."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "DISTBP_RANKS"):
        monkeypatch.delenv(name, raising=False)

    def run_verb(found, *words):
        def examine(folders, ranks):
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(examination, "examine", examine)
        arguments = parse_command_line(["doctor", *words])
        return arguments.verb.run(arguments)

    return run_verb


def on(**areas):
    return Examination([RankFacts(0, "a", AREAS | areas)])


def test_the_exit_status_is_1_if_there_is_a_problem(run, capsys):
    """Not for a warning, and not on ranks that print nothing."""
    assert run(on()) == 0
    assert capsys.readouterr().out.endswith(" checks: all ok\n")
    small = on(shared_memory=SHARED.__class__(64 << 20, 64 << 20))
    assert run(small) == 0
    assert capsys.readouterr().out.endswith(" checks: 1 warning\n")
    assert run(on(shared_memory=SHARED.__class__(0, 0, "denied")), "--json") == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "problem"
    assert run(None) == 0
    assert capsys.readouterr().out == ""


def test_no_temporary_folder(run):
    with pytest.raises(LaunchError, match=r"No temporary folder can be used: disk full\. .*TMPDIR"):
        run(OSError(28, "disk full"))


def test_a_wrong_number_of_ranks(run, monkeypatch):
    with pytest.raises(ConfigError, match="--ranks 0: expected at least 1"):
        run(on(), "--ranks", "0")
    monkeypatch.setenv("PMI_SIZE", "3")
    with pytest.raises(ConfigError, match="a launcher has started 3 already"):
        run(on(), "--ranks", "2")
