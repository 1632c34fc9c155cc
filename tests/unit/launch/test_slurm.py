"""Batch scripts: what `distbp slurm` writes, and what a script does when its ranks end.

The scripts are executed here, with a fake for each of SLURM's programs; tests/system runs them
on a real cluster.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distbp.cli.main import parse_command_line, run_verb
from distbp.errors import ConfigError

ROOT = Path(__file__).parents[3]
TRAIN = ["train", "data.h5", "--out", "run"]
# The two examples in scripts/, by the arguments of `distbp slurm` that produce them.
EXAMPLES = {
    "train.sbatch": "--nodes 2 --ranks-a-node 16 --time 4:00:00 --mpi pmi2 "
    "train data.h5 --out run --hidden 1000,1000 --batch-size 4096 --epochs 100 --shards 32",
    "sweep.sbatch": "--ranks-a-node 4 --mpi pmi2 --sweep {sweep} --at-once 2 "
    "train data.h5 --out runs --epochs 100",
}
SWEEP = """\
--seed 1
--seed 2
--optimizer adam --learning-rate 0.001
--hidden 300,100 --dropout 0.5   # a comment
"""


def batch_script(words, capsys, python="/opt/venv/bin/python"):
    """Return what `distbp slurm` prints."""
    assert run_verb(parse_command_line(["slurm", *map(str, words)])) == 0
    return capsys.readouterr().out.replace(sys.executable, python)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_scripts_are_up_to_date(name, capsys, tmp_path):
    """They are exactly what the command writes, so that these tests apply to them too."""
    sweep = tmp_path / "sweep"
    sweep.write_text(SWEEP)
    words = EXAMPLES[name].format(sweep=sweep).split()
    assert batch_script(words, capsys, "python3") == (ROOT / "scripts" / name).read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["--partition", "main", "--account", "a-1", *TRAIN],
        ["--launcher", "mpirun", "--mpi", "pmix", *TRAIN, "--hidden", "30,20", "--quiet"],
        ["--seeds", 3, "train", "it's.h5", "--out", "a run", "--hidden", ""],
        ["sweep", "it's.h5", "--out", "a sweep", "--vary", "hidden=5,6x7"],
    ],
    ids=str,
)
def test_scripts_pass_shellcheck(words, capsys):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    text = batch_script(words, capsys)
    ended = subprocess.run([shellcheck, "-"], input=text, capture_output=True, text=True)
    assert ended.stdout == ""


def test_the_resources_requested_from_slurm(capsys):
    """Each rank gets a core for each of its threads."""
    size = ["--nodes", 3, "--ranks-a-node", 5, "--time", "1-12"]
    site = ["--partition", "big", "--account", "us"]
    lines = batch_script([*size, *site, *TRAIN, "--threads", 4], capsys).splitlines()
    requested = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    assert {"nodes=3", "ntasks-per-node=5", "cpus-per-task=4", "time=1-12"} <= set(requested)
    assert {"partition=big", "account=us", "requeue", "signal=B:USR1@120"} <= set(requested)
    assert "array=0-2" not in requested


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "expects a train command after its own options"),
        (["--nodes", 2, "data.h5", "--out", "run"], "expects a train command"),
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
        ([*TRAIN, "--epoch", 3], "distbp train has no option '--epoch'; did you mean --epochs"),
        ([*TRAIN, "--epochs", 0], "--epochs 0: expected at least 1"),
        ([*TRAIN, "--momentum", 0.5], "--momentum has no effect"),
        ([*TRAIN, "--ranks", 4], "--ranks does not apply to a batch job"),
        (["train", "--resume", "run"], "--resume does not apply to a batch job"),
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(words, text):
    """When the script is written, not after the job has waited in a queue."""
    with pytest.raises(ConfigError) as refused:
        run_verb(parse_command_line(["slurm", *map(str, words)]))
    assert text in str(refused.value)


def test_a_sweep_has_a_task_for_each_run(capsys):
    """With the directory that `distbp sweep` would give it, and no more options than vary."""
    sweep = ["sweep", "data.h5", "--out", "s", "--epochs", 2, "--vary", "hidden=5,6x7", "l2=0,1"]
    text = batch_script(["--at-once", 2, *sweep], capsys)
    assert "#SBATCH --array=1-4%2\n" in text
    assert "    1) options+=(--hidden 5 --l2 0.0) run+=/trial-0001 ;;\n" in text
    assert "    4) options+=(--hidden '6,7' --l2 1.0) run+=/trial-0004 ;;\n" in text
    assert "run+=/$SLURM_ARRAY_TASK_ID" not in text
    assert "options=(\n    --epochs 2\n)\n" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--optuna", 3], "--optuna does not apply to a job array"),
        (["--ranks", 3], "--ranks does not apply to a job array"),
        (["--vary", "threads=1,2"], "all tasks must have the same --threads"),
    ],
    ids=str,
)
def test_sweeps_that_are_no_job_array(words, text):
    sweep = ["sweep", "data.h5", "--out", "s", "--vary", "l2=0,1", *map(str, words)]
    with pytest.raises(ConfigError, match=text):
        run_verb(parse_command_line(["slurm", *sweep]))
    with pytest.raises(ConfigError, match="do not apply to distbp sweep"):
        run_verb(parse_command_line(["slurm", "--seeds", "2", *sweep[:6]]))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--seed -1", "--seed -1"),
        ("--sede 1", "did you mean --seed"),
        ("--out elsewhere", "all tasks must have the same --out"),
        ("--threads 2", "all tasks must have the same --threads"),
        ("--seed '1", "No closing quotation"),
        ("# nothing", "expected a line of options"),
    ],
)
def test_an_invalid_line_of_a_sweep_is_refused(line, text, tmp_path):
    (tmp_path / "sweep").write_text(line)
    with pytest.raises(ConfigError) as refused:
        run_verb(parse_command_line(["slurm", "--sweep", str(tmp_path / "sweep"), *TRAIN]))
    assert text in str(refused.value)


def test_options_of_a_config_file_are_written_into_the_script(capsys, tmp_path):
    """The script is self-contained: it needs no --config file on the cluster."""
    (tmp_path / "run.toml").write_text("epochs = 7\nhidden = [20, 10]\nquiet = true\n")
    text = batch_script([*TRAIN, "--config", tmp_path / "run.toml", "--epochs", 8], capsys)
    assert "options=(\n    --hidden '20,10'\n    --epochs 8\n    --quiet\n)" in text


# Running the script


@pytest.fixture
def start_job(capsys, tmp_path):
    """Return a function that starts a job whose ranks are a line of shell."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def fake(name, text):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)

    def start(ranks, state="RUNNING 0", words=(), training=TRAIN, **variables):
        script = tmp_path / "job.sbatch"
        script.write_text(batch_script([*words, "--mpi", "pmi2", *training, "--seed", 5], capsys))
        # `srun true` is an empty step; any other one runs the ranks.
        fake("srun", f'printf "%s\\n" "$*" >>srun.log; [[ $* == *true ]] && exit; {ranks}')
        fake("squeue", f"echo '{state}'; echo \"$*\" >>squeue.log")
        fake("scontrol", 'echo "$*" >>scontrol.log')
        environment = {"PATH": f"{programs}:{os.defpath}", "SLURM_JOB_ID": "17"} | variables
        return subprocess.Popen(["bash", script], cwd=tmp_path, env=environment)

    return start


def requeued(folder):
    """Return the calls of scontrol, which requeue jobs."""
    log = folder / "scontrol.log"
    return log.read_text().split("\n")[:-1] if log.exists() else []


SAVE = "echo new >>run/last.h5.new; mv run/last.h5.new run/last.h5"
WRITE_DONE = 'echo done >"$DISTBP_DONE"'


@pytest.mark.parametrize(
    ("ranks", "state", "status", "is_requeued"),
    [
        (f"{SAVE}; {WRITE_DONE}", "RUNNING 0", 0, False),
        (f"{WRITE_DONE}; exit 3", "RUNNING 0", 0, False),
        (f'{SAVE}; echo stopped >"$DISTBP_DONE"; exit 75', "RUNNING 0", 75, True),
        ("exit 75", "RUNNING 0", 75, True),
        (f"{SAVE}; exit 75", "COMPLETING 0", 75, False),
        (f"{SAVE}; exit 75", "RUNNING 1", 75, False),
        (f"{SAVE}; exit 75", "", 75, False),
        (f"{SAVE}; exit 0", "RUNNING 0", 1, True),
        (f"{SAVE}; exit 137", "RUNNING 0", 137, True),
        (f"{SAVE}; exit 1", "RUNNING 0", 1, True),
        ("exit 137", "RUNNING 0", 137, True),
        ("exit 1", "RUNNING 0", 1, False),
        ("exit 2", "RUNNING 0", 2, False),
        ("exit 0", "RUNNING 0", 1, False),
    ],
)
def test_when_a_job_is_requeued(start_job, tmp_path, ranks, state, status, is_requeued):
    """If a restart may help, and SLURM still has this start of the job as the running one."""
    assert start_job(ranks, state).wait(20) == status
    assert requeued(tmp_path) == ["requeue 17"] * is_requeued


@pytest.mark.parametrize(("status", "limit"), [(137, 3), (75, 10)])
def test_a_job_without_progress_is_not_requeued_for_ever(start_job, tmp_path, status, limit):
    """So many times in a row; each new checkpoint begins another row."""
    ranks = f"[[ -e fail ]] || {{ {SAVE}; }}; exit {status}"
    for row in (1, 2):
        assert start_job(ranks, "RUNNING 9", SLURM_RESTART_COUNT="9").wait(20) == status
        (tmp_path / "fail").touch()
        for _ in range(limit + 2):
            assert start_job(ranks, "RUNNING 0").wait(20) == status
        (tmp_path / "fail").unlink()
        assert requeued(tmp_path) == ["requeue 17"] * row * (1 + limit)
    assert start_job(WRITE_DONE).wait(20) == 0
    assert not (tmp_path / "run" / ".failures").exists()


def test_a_job_that_cannot_count_its_failures_is_not_requeued(start_job, tmp_path):
    """As on a full disk."""
    (tmp_path / "run" / ".failures").mkdir(parents=True)
    assert start_job("exit 137").wait(20) == 137
    assert requeued(tmp_path) == []


def test_a_requeued_job_resumes(start_job, tmp_path):
    """With the same options, and in a job step with an id of its own."""
    start_job(SAVE).wait(20)
    start_job("", SLURM_RESTART_COUNT="2", SLURM_CPUS_PER_TASK="3").wait(20)
    program = "--kill-on-bad-exit=1 --mpi=pmi2 /opt/venv/bin/python -m distbp train data.h5"
    empty_step = "--nodes=1 --ntasks=1 true"
    assert (tmp_path / "srun.log").read_text().splitlines() == [
        f"{program} --out run --seed 5", empty_step, empty_step, f"{program} --resume run --seed 5",
    ]  # fmt: skip


def test_slurm_sets_the_number_of_threads(start_job, tmp_path):
    names = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "SRUN_CPUS_PER_TASK"
    ranks = f"echo {' '.join(f'${name}' for name in names)} >>threads"
    start_job(ranks).wait(20)
    start_job(ranks, SLURM_CPUS_PER_TASK="3").wait(20)
    assert (tmp_path / "threads").read_text() == "1 1 1\n3 3 3\n"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("status", [75, 138])
def test_a_signal_is_forwarded_to_the_launcher(start_job, tmp_path, number, status):
    """Each time it arrives; the job is requeued even if the signal kills the launcher."""
    ranks = f"""
    trap 'echo signal >>signals; (($(wc -l <signals) < 2)) || exit {status}' USR1
    touch started; while :; do sleep 0.02; done"""
    script = start_job(ranks, SLURM_RESTART_COUNT="3", state="RUNNING 3")
    for file in ("started", "signals"):
        deadline = time.monotonic() + 60
        while not (tmp_path / file).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        script.send_signal(number)
    assert script.wait(20) == status
    assert requeued(tmp_path) == ["requeue 17"]


def test_a_task_of_an_array_has_its_own_options_directory_and_id(start_job, tmp_path):
    """SLURM_JOB_ID may be that of the whole array, which must not be requeued."""
    array = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}
    ranks = 'echo >"run/1/last.h5"; exit 75'
    assert start_job(ranks, words=["--seeds", 2], **array).wait(20) == 75
    assert requeued(tmp_path) == ["requeue 17_1"]
    assert "-j 17_1" in (tmp_path / "squeue.log").read_text()
    assert (tmp_path / "srun.log").read_text().endswith("--out run/1 --seed 5 --seed 1\n")
    array["SLURM_ARRAY_TASK_ID"] = "2"
    assert start_job(ranks, words=["--seeds", 2], **array).wait(20) == 2


def test_a_task_of_a_sweep_trains_in_the_directory_of_its_trial(start_job, tmp_path):
    """It leaves the completion file there, from which a table of results is made."""
    array = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}
    sweep = ["sweep", "data.h5", "--out", "s", "--kfold", 2, "--vary", "l2=0,1"]
    ranks = 'echo "done 0" >"$DISTBP_DONE"'
    assert start_job(ranks, training=sweep, **array).wait(20) == 0
    assert (tmp_path / "s/trial-0002/fold-2/.done").read_text() == "done 0\n"
    words = "train data.h5 --out s/trial-0002/fold-2 --seed 5 --l2 1.0 --fold 2/2\n"
    assert (tmp_path / "srun.log").read_text().endswith(words)
