"""The environment variables of launchers, and what ranks report back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distbp.errors import ConfigError, DataError, DistbpError, LaunchError, StoppedError
from distbp.parallel.environment import (
    COMPLETION_FILE_VARIABLE,
    STARTED_FILE_VARIABLE,
    STDIN_FILE_VARIABLE,
    TOKEN_VARIABLE,
    LaunchEnvironment,
    arrival_file,
)
from distbp.parallel.mpi import _memory_plug


@pytest.mark.parametrize(
    ("environ", "ranks", "rank"),
    [
        ({}, 1, 0),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4, 3),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2, 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, 8, 5),
        ({"DISTBP_RANKS": "3", "SLURM_STEP_NUM_TASKS": "1"}, 3, 0),
        ({"PMI_SIZE": "many", "PMI_RANK": ""}, 1, 0),
    ],
)
def test_ranks_that_launchers_started(environ, ranks, rank):
    """Each launcher's own variables are read; values that are not numbers are ignored."""
    launch = LaunchEnvironment.from_environ(environ)
    assert launch.ranks_started == ranks
    assert launch.launcher_rank == rank


def test_without_a_launcher_all_has_its_default():
    """An empty environment is that of a process on its own."""
    assert LaunchEnvironment.from_environ({}) == LaunchEnvironment()


def test_every_variable_is_read():
    """Each changes its field and no other."""
    for name, value, expected in [
        ("DISTBP_RANKS", "3", {"ranks_started": 3, "ranks_requested": 3, "has_launcher": True}),
        (
            "OMPI_COMM_WORLD_SIZE",
            "2",
            {"ranks_started": 2, "has_launcher": True, "has_open_mpi_launcher": True},
        ),
        ("PMIX_RANK", "7", {"launcher_rank": 7, "has_launcher": True}),
        ("PALS_RANKID", "7", {"has_launcher": True}),
        ("SLURM_JOB_ID", "7", {}),
        ("OMPI_MCA_mpi_ft_enable", "1", {"ulfm_enabled": True}),
        ("OMPI_MCA_mpi_ft_enable", "0", {}),
        ("SLURM_STEP_ID", "0", {"in_slurm_step": True, "has_launcher": True}),
        ("DISTBP_START_LIMIT", "9", {"init_timeout_text": "9"}),
        ("DISTBP_TOKEN", "a1", {"is_supervised": True}),
        ("DISTBP_STARTED", "/s", {"started_file": Path("/s")}),
        ("DISTBP_DONE", "/d", {"completion_file": Path("/d")}),
    ]:
        assert LaunchEnvironment.from_environ({name: value}) == LaunchEnvironment(**expected)


def test_by_default_the_environment_of_this_process_is_read(monkeypatch):
    """As it is at the call, not when the module was imported."""
    monkeypatch.setenv("DISTBP_RANKS", "11")
    assert LaunchEnvironment.from_environ().ranks_started == 11


def test_arrival_file(tmp_path):
    """A supervised rank leaves its process ID there; others write nothing."""
    LaunchEnvironment(launcher_rank=2).write_arrival_file()
    LaunchEnvironment(launcher_rank=2, started_file=tmp_path / "started").write_arrival_file()
    (written,) = tmp_path.iterdir()
    assert written == arrival_file(tmp_path / "started", 2)
    assert int(written.read_text()) == os.getpid()


def test_init_timeout():
    """A number of seconds; anything else is refused when it is needed, not before."""
    assert LaunchEnvironment.from_environ({}).init_timeout == 120
    assert LaunchEnvironment.from_environ({"DISTBP_START_LIMIT": "5"}).init_timeout == 5
    for text in ("soon", "0", "-1", "1.5", ""):
        launch = LaunchEnvironment.from_environ({"DISTBP_START_LIMIT": text})
        with pytest.raises(ConfigError, match=f"DISTBP_START_LIMIT={text}: expected a number"):
            _ = launch.init_timeout


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (StoppedError("x"), "stopped 75"),
        (ConfigError("x"), "refused 2"),
        (DataError("x"), "refused 1"),
        (DistbpError("x"), "failed 1"),
    ],
)
def test_completion_file_of_an_error(tmp_path, error, first):
    """Its first line says whether a restart may succeed, and the exit status."""
    LaunchEnvironment(completion_file=tmp_path / "done").write_error_file(error)
    assert (tmp_path / "done").read_text() == f"{first}\nx\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("out of range\nin row 3"), "RuntimeError: out of range"),
        (MemoryError(), "MemoryError"),
        (ConfigError("x"), "ConfigError: x"),
    ],
)
def test_completion_file_of_an_exception_on_one_rank(tmp_path, error, text):
    LaunchEnvironment(completion_file=tmp_path / "done").write_failure_file(error)
    assert (tmp_path / "done").read_text() == f"failed 1\n{text}\n"


def test_completion_file_of_success(tmp_path, monkeypatch):
    monkeypatch.setenv(COMPLETION_FILE_VARIABLE, str(tmp_path / "done"))
    LaunchEnvironment.from_environ().write_completion_file()
    assert (tmp_path / "done").read_text() == "done 0\n"


def test_started_file(tmp_path, monkeypatch):
    monkeypatch.setenv(STARTED_FILE_VARIABLE, str(tmp_path / "started"))
    LaunchEnvironment.from_environ().write_started_file()
    assert (tmp_path / "started").read_text() == "started\n"


def test_a_completion_file_that_cannot_be_written_is_a_message(tmp_path, capsys):
    """The exit status of a rank, and the end of the others, must not depend on it."""
    launch = LaunchEnvironment(completion_file=tmp_path / "missing" / "done")
    launch.write_completion_file()
    launch.write_error_file(DataError("x"))
    launch.write_failure_file(RuntimeError("x"))
    assert capsys.readouterr().err.count("missing/done cannot be written: No such file") == 3


def test_a_started_file_that_cannot_be_written_is_an_error(tmp_path):
    """What started the ranks would end them without it; that of an arrival is not needed."""
    launch = LaunchEnvironment(started_file=tmp_path / "missing" / "started")
    with pytest.raises(LaunchError, match="missing/started cannot be written: No such file"):
        launch.write_started_file()
    launch.write_arrival_file()


def test_without_a_supervisor_no_file_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (COMPLETION_FILE_VARIABLE, STARTED_FILE_VARIABLE, TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    launch = LaunchEnvironment.from_environ()
    launch.die_with_parent()
    launch.write_started_file()
    launch.write_completion_file()
    assert list(tmp_path.iterdir()) == []


def test_memory_is_plugged_under_slurm_only():
    """Before MPI starts there; elsewhere nothing is allocated."""
    assert _memory_plug(LaunchEnvironment.from_environ({})) == []
    plug = _memory_plug(LaunchEnvironment.from_environ({"SLURM_STEP_ID": "0"}))
    assert sum(map(len, plug)) > 1e6


def test_standard_input_of_a_supervised_rank(tmp_path):
    """It is the file that the supervising process has copied its own to; otherwise its own."""
    (tmp_path / "copy").write_bytes(b"from the file")
    code = (
        "import sys\nfrom distbp.parallel.environment import LaunchEnvironment\n"
        "print(LaunchEnvironment.from_environ().open_stdin().read())"
    )
    for variables, expected in (
        ({}, b"b'its own'\n"),
        ({STDIN_FILE_VARIABLE: str(tmp_path / "copy")}, b"b'from the file'\n"),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | variables, input=b"its own",
            capture_output=True, check=True,
        )  # fmt: skip
        assert ended.stdout == expected
