"""Probe processes that crash, hang or say nothing cost their own area, and nothing else."""

import os
import time
from pathlib import Path

import pytest

import distbp
from distbp.doctor import probing
from distbp.doctor.probing import Answers, probe_here, probe_on_ranks
from distbp.errors import LaunchError

ROOT = Path(distbp.__file__).parents[1]


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a function that has every Python run some code at its start."""

    def install(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    return install


def test_areas_of_this_host(tmp_path):
    """Those that load nothing else are quick."""
    answers = probe_here(["memory", "limits", "software"], [str(tmp_path)])
    assert answers.failures == {}
    assert list(answers.facts) == ["memory", "limits", "software"]
    assert answers.facts["software"]["distbp"] == distbp.__version__


def test_a_folder_that_does_not_respond(broken, tmp_path):
    """As on a server that is down: the other areas are examined after it is given up."""
    broken("import fcntl, time\nfcntl.flock = lambda *arguments: time.sleep(1000)")
    began = time.monotonic()
    answers = probe_here(["limits", "storage", "memory"], [str(tmp_path)], limit=3.0)
    assert time.monotonic() - began < 20
    assert answers.failures == {"storage": "no answer within 3 s"}
    assert set(answers.facts) == {"limits", "memory"}


def test_an_area_that_ends_the_process(broken, tmp_path):
    """By a signal, or by itself with a message."""
    broken("import os\nos.statvfs = lambda folder: os.kill(os.getpid(), 4)")
    answers = probe_here(["storage", "memory"], [str(tmp_path)])
    # Where Python prints its stack, that follows.
    assert answers.failures["storage"].startswith("ended by SIGILL")
    assert set(answers.facts) == {"memory"}
    broken(
        "import os\nos.statvfs = lambda f: (os.write(2, b'---\\nno\\x1b luck.\\n'), os._exit(3))"
    )
    answers = probe_here(["memory", "storage"], [str(tmp_path)])
    assert answers.failures == {"storage": "ended with status 3: no? luck"}
    assert set(answers.facts) == {"memory"}


def test_an_error_is_told(broken, tmp_path):
    broken("import os\nos.getloadavg = lambda: 1 / 0")
    answers = probe_here(["cores", "memory"], [str(tmp_path)])
    assert answers.failures == {"cores": "ZeroDivisionError: division by zero"}
    assert set(answers.facts) == {"memory"}


def test_a_program_that_does_not_start(broken, tmp_path):
    """Every area is given up, one after the other."""
    broken("import os\nos._exit(9)")
    answers = probe_here(["memory", "limits"], [str(tmp_path)])
    assert answers.failures == dict.fromkeys(["memory", "limits"], "ended with status 9")


def test_ranks_that_cannot_be_launched(monkeypatch):
    """The reason is a finding, and the environment is as it was."""

    def fail(*arguments, **options):
        assert probing.INIT_TIMEOUT_VARIABLE in os.environ
        raise LaunchError("There is no MPI. Install one.")

    monkeypatch.setattr(probing, "MpiLaunch", fail)
    monkeypatch.delenv(probing.INIT_TIMEOUT_VARIABLE, raising=False)
    answers = probe_on_ranks(2, (), ())
    assert answers == Answers({}, {"world": "There is no MPI. Install one."})
    assert probing.INIT_TIMEOUT_VARIABLE not in os.environ
