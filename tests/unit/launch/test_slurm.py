"""Batch scripts: what is written for a training, and what it does when its ranks end.

The scripts run here, with a stand-in for each program of SLURM's; on a real cluster they
do so in tests/system.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distbp.cli.main import parse, run
from distbp.errors import ConfigError

ROOT = Path(__file__).parents[3]
TRAIN = ["train", "data.h5", "--out", "run"]
# The two examples in scripts/: the training that each was written for.
EXAMPLES = {
    "train.sbatch": "--nodes 2 --ranks-a-node 16 --time 4:00:00 --mpi pmi2 "
    "train data.h5 --out run --hidden 1000,1000 --batch-size 4096 --epochs 100",
    "sweep.sbatch": "--ranks-a-node 8 --mpi pmi2 --sweep {settings} --at-once 2 "
    "train data.h5 --out runs --epochs 100",
}
SETTINGS = """\
--seed 1
--seed 2
--optimizer adam --learning-rate 0.001
--hidden 300,100 --dropout 0.5   # what stands here is for people
"""


def written(words, capsys, python="/opt/venv/bin/python"):
    """Return what `distbp slurm` prints."""
    assert run(parse(["slurm", *map(str, words)])) == 0
    return capsys.readouterr().out.replace(sys.executable, python)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_what_the_command_writes(name, capsys, tmp_path):
    """So what is tested of one is true of the others."""
    settings = tmp_path / "settings"
    settings.write_text(SETTINGS)
    words = EXAMPLES[name].format(settings=settings).split()
    assert written(words, capsys, "python3") == (ROOT / "scripts" / name).read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["--partition", "main", "--account", "a-1", *TRAIN],
        ["--launcher", "mpirun", "--mpi", "pmix", *TRAIN, "--hidden", "30,20", "--quiet"],
        ["--seeds", 3, "train", "it's.h5", "--out", "a run", "--hidden", ""],
    ],
    ids=str,
)
def test_shellcheck_has_nothing_to_say(words, capsys):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    text = written(words, capsys)
    ended = subprocess.run([shellcheck, "-"], input=text, capture_output=True, text=True)
    assert ended.stdout == ""


def test_what_is_asked_of_slurm(capsys):
    """A rank has a core for each of its threads."""
    size = ["--nodes", 3, "--ranks-a-node", 5, "--time", "1-12"]
    who = ["--partition", "big", "--account", "us"]
    lines = written([*size, *who, *TRAIN, "--threads", 4], capsys).splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    assert {"nodes=3", "ntasks-per-node=5", "cpus-per-task=4", "time=1-12"} <= set(asked)
    assert {"partition=big", "account=us", "requeue", "signal=B:USR1@120"} <= set(asked)
    assert "array=0-2" not in asked


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "expects a training behind its own options"),
        (["--nodes", 2, "data.h5", "--out", "run"], "expects a training"),
        (["--nodes", 0, *TRAIN], "--nodes 0: expected at least 1"),
        (["--ranks-a-node", -1, *TRAIN], "--ranks-a-node -1: expected at least 1"),
        (["--time", "soon", *TRAIN], "--time 'soon': expected a time"),
        (["--partition", "a b", *TRAIN], "--partition 'a b': expected a name"),
        (["--account", "x\n#SBATCH", *TRAIN], "expected a name"),
        (["--node", 2, *TRAIN], "did you mean --nodes"),
        (["--mpi", "pmi", *TRAIN], "invalid choice: 'pmi'"),
        (["--seeds", 2, "--sweep", "x", *TRAIN], "contradict each other"),
        (["--seeds", 0, *TRAIN], "--seeds 0: expected at least 1"),
        (["--at-once", 2, *TRAIN], "no effect without --seeds or --sweep"),
        (["--sweep", "nowhere", *TRAIN], "--sweep nowhere cannot be read"),
        (["train", "data.h5"], "needs a directory for the run"),
        (["train", "--out", "run"], "needs a data set"),
        ([*TRAIN, "--epoch", 3], "distbp train does not know '--epoch'; did you mean --epochs"),
        ([*TRAIN, "--epochs", 0], "--epochs 0: expected at least 1"),
        ([*TRAIN, "--momentum", 0.5], "--momentum has no effect"),
        ([*TRAIN, "--ranks", 4], "--ranks has no place in a batch job"),
        (["train", "--resume", "run"], "--resume has no place in a batch job"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(words, text):
    """By name, before anything waits in a queue for it."""
    with pytest.raises(ConfigError) as refused:
        run(parse(["slurm", *map(str, words)]))
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--seed -1", "--seed -1"),
        ("--sede 1", "did you mean --seed"),
        ("--out elsewhere", "all tasks have the same --out"),
        ("--threads 2", "all tasks have the same --threads"),
        ("--seed '1", "No closing quotation"),
        ("# nothing", "expected a line of options"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(line, text, tmp_path):
    (tmp_path / "settings").write_text(line)
    with pytest.raises(ConfigError) as refused:
        run(parse(["slurm", "--sweep", str(tmp_path / "settings"), *TRAIN]))
    assert text in str(refused.value)


def test_a_file_of_options_is_written_out(capsys, tmp_path):
    """The script stands alone: it needs no file of options where it runs."""
    (tmp_path / "run.toml").write_text("epochs = 7\nhidden = [20, 10]\nquiet = true\n")
    text = written([*TRAIN, "--config", tmp_path / "run.toml", "--epochs", 8], capsys)
    assert "options=(\n    --hidden '20,10'\n    --epochs 8\n    --quiet\n)" in text


# What the script does


@pytest.fixture
def job(capsys, tmp_path):
    """Return a function that runs a job whose ranks do what a line of shell says."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def program(name, text):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)

    def start(ranks, state="RUNNING 0", words=(), **variables):
        script = tmp_path / "job.sbatch"
        script.write_text(written([*words, "--mpi", "pmi2", *TRAIN, "--seed", 5], capsys))
        # `srun true` is a step that does nothing; any other has the ranks.
        program("srun", f'printf "%s\\n" "$*" >>srun.log; [[ $* == *true ]] && exit; {ranks}')
        program("squeue", f"echo '{state}'; echo \"$*\" >>squeue.log")
        program("scontrol", 'echo "$*" >>scontrol.log')
        environment = {"PATH": f"{programs}:{os.defpath}", "SLURM_JOB_ID": "17"} | variables
        return subprocess.Popen(["bash", script], cwd=tmp_path, env=environment)

    return start


def requeued(folder):
    """Return the jobs that were put back into the queue."""
    log = folder / "scontrol.log"
    return log.read_text().split("\n")[:-1] if log.exists() else []


SAVES = "echo new >>run/last.h5.new; mv run/last.h5.new run/last.h5"
DONE = 'echo done >"$DISTBP_DONE"'


@pytest.mark.parametrize(
    ("ranks", "state", "status", "is_back"),
    [
        (f"{SAVES}; {DONE}", "RUNNING 0", 0, False),
        (f"{DONE}; exit 3", "RUNNING 0", 0, False),
        (f'{SAVES}; echo stopped >"$DISTBP_DONE"; exit 75', "RUNNING 0", 75, True),
        ("exit 75", "RUNNING 0", 75, True),
        (f"{SAVES}; exit 75", "COMPLETING 0", 75, False),
        (f"{SAVES}; exit 75", "RUNNING 1", 75, False),
        (f"{SAVES}; exit 75", "", 75, False),
        (f"{SAVES}; exit 0", "RUNNING 0", 1, True),
        (f"{SAVES}; exit 137", "RUNNING 0", 137, True),
        (f"{SAVES}; exit 1", "RUNNING 0", 1, True),
        ("exit 137", "RUNNING 0", 137, True),
        ("exit 1", "RUNNING 0", 1, False),
        ("exit 2", "RUNNING 0", 2, False),
        ("exit 0", "RUNNING 0", 1, False),
    ],
)
def test_what_follows_from_how_the_ranks_end(job, tmp_path, ranks, state, status, is_back):
    """Back into the queue if that may help, and if it is for this start to decide."""
    assert job(ranks, state).wait(20) == status
    assert requeued(tmp_path) == ["requeue 17"] * is_back


def test_a_job_that_never_gets_further_ends(job, tmp_path):
    assert job("exit 137", "RUNNING 3", SLURM_RESTART_COUNT="3").wait(20) == 137
    assert requeued(tmp_path) == []
    assert job(f"{SAVES}; exit 137", "RUNNING 3", SLURM_RESTART_COUNT="3").wait(20) == 137
    assert requeued(tmp_path) == ["requeue 17"]


def test_the_first_start_trains_and_a_later_one_goes_on(job, tmp_path):
    """With the same options, so that those of another run are refused; by a step of its own."""
    job(SAVES).wait(20)
    job("", SLURM_RESTART_COUNT="2", SLURM_CPUS_PER_TASK="3").wait(20)
    program = "--kill-on-bad-exit=1 --mpi=pmi2 /opt/venv/bin/python -m distbp train data.h5"
    nothing = "--nodes=1 --ntasks=1 true"
    assert (tmp_path / "srun.log").read_text().splitlines() == [
        f"{program} --out run --seed 5", nothing, nothing, f"{program} --resume run --seed 5",
    ]  # fmt: skip


def test_the_number_of_threads_is_slurms(job, tmp_path):
    names = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "SRUN_CPUS_PER_TASK"
    says = f"echo {' '.join(f'${name}' for name in names)} >>threads"
    job(says).wait(20)
    job(says, SLURM_CPUS_PER_TASK="3").wait(20)
    assert (tmp_path / "threads").read_text() == "1 1 1\n3 3 3\n"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("status", [75, 138])
def test_a_signal_is_passed_on(job, tmp_path, number, status):
    """To the launcher, each time it comes; one that dies of it is started again."""
    ranks = f"""
    trap 'echo heard >>heard; (($(wc -l <heard) < 2)) || exit {status}' USR1
    touch started; while :; do sleep 0.02; done"""
    script = job(ranks, SLURM_RESTART_COUNT="3", state="RUNNING 3")
    for wanted in ("started", "heard"):
        until = time.monotonic() + 20
        while not (tmp_path / wanted).exists() and time.monotonic() < until:
            time.sleep(0.02)
        script.send_signal(number)
    assert script.wait(20) == status
    assert requeued(tmp_path) == ["requeue 17"]


def test_a_task_of_an_array_has_its_own_options_directory_and_number(job, tmp_path):
    """The number of the job may be that of the whole array, which is not to be put back."""
    array = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}
    ranks = 'echo >"run/1/last.h5"; exit 75'
    assert job(ranks, words=["--seeds", 2], **array).wait(20) == 75
    assert requeued(tmp_path) == ["requeue 17_1"]
    assert "-j 17_1" in (tmp_path / "squeue.log").read_text()
    assert (tmp_path / "srun.log").read_text().endswith("--out run/1 --seed 5 --seed 1\n")
    array["SLURM_ARRAY_TASK_ID"] = "2"
    assert job(ranks, words=["--seeds", 2], **array).wait(20) == 2
