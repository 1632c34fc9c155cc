"""`train --ranks N --restarts K`: whatever dies, the run ends as if nothing had happened.

Ranks and launchers are killed from outside, at moments that follow from the checkpoints
that there are; faults of ranks come from inside/faulty.py. A `Job` fails if any process
is left five seconds after its end.
"""

import random
import signal
import time

import pytest
from ranks import FULL, Job, command_of, distbp, fault, is_open_mpi, kill, metrics, name_of

from distbp import load

N = 3
STEPS = 9  # an epoch: 503 rows
EPOCHS = 12
WORDS = (
    *("--batch-size", 60, "--shards", 4, "--epochs", EPOCHS, "--optimizer", "adam"),
    *("--dropout", 0.2, "--checkpoint-every", "5steps", "--quiet"),
)
ONCE = {"DISTBP_TEST_FAULT_ONCE": "1"}
FAULTS = ("rank 0", "another rank", "all ranks", "launcher", "error")
CARRIED_ON = ("rank 0", "another rank")
AGAIN = "Restarting from"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """Return the directory of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def supervised(folder, data, *more, restarts=3, environment=None, n=N, epochs=EPOCHS) -> Job:
    words = ["train", data["digits"], "--out", "run", *WORDS, "--epochs", epochs]
    return Job(
        command_of([*words, "--ranks", n, "--restarts", restarts, *more]),
        folder,
        environment,
        limit=60,
    )


def assert_equal_runs(run, whole) -> None:
    """Equal θ, and equal numbers of each epoch, each of them once."""
    assert metrics(run) == metrics(whole)
    for name in ("last.h5", "best.h5"):
        assert (load(run / name).theta == load(whole / name).theta).all(), name


def wait_for_step(job: Job, run, step: int) -> None:
    """Return when there is a checkpoint of that step, or a later one."""
    while newest(run) < step:
        assert job.process.poll() is None, str(job.wait())
        assert time.monotonic() < job.began + job.limit, f"no step {step}"
        time.sleep(0.001)


def newest(run) -> int:
    return max((int(path.stem[5:]) for path in run.glob("checkpoints/step-*.h5")), default=0)


def victims(job: Job, kind: str) -> list[int]:
    """Return whom a fault kills."""
    if kind == "launcher":
        return launchers(job)
    ranks = sorted(job.ranks(), key=rank_of)
    return {"rank 0": ranks[:1], "another rank": ranks[-1:], "all ranks": ranks}[kind]


def launchers(job: Job) -> list[int]:
    return [pid for pid in job.processes() if name_of(pid).startswith(("mpiexec", "prterun"))]


def rank_of(pid: int) -> bytes:
    """Return the variable in which a launcher tells a process its rank."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        variables = file.read().split(b"\0")
    names = (b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=")
    return next(variable for variable in variables if variable.startswith(names))


# A job with faults ends as one without


@pytest.mark.parametrize("seed", range(40 if FULL else 8))
def test_faults_at_random_change_nothing(tmp_path, data, whole, seed):
    """One to three of them, of any kind, at any moment: equal bits, and a line for each."""
    chance = random.Random(seed)  # noqa: S311
    kinds = [FAULTS[seed % len(FAULTS)], *chance.choices(FAULTS[:-1], k=chance.choice((0, 1, 2)))]
    environment = None
    if kinds[0] == "error":
        call = chance.randrange(5, 20)
        environment = fault(tmp_path, chance.randrange(N), "update", "error", call) | ONCE
    job = supervised(tmp_path, data, environment=environment)
    for number, kind in enumerate(kinds):
        if kind != "error":
            wait_for_step(job, tmp_path / "run", 5 + 25 * number + chance.randrange(15))
            kill(victims(job, kind))
    ended = job.wait()
    assert ended.status == 0, f"{kinds}\n{ended}"
    # Open MPI lets the others go on without a rank that was killed: no restart, nearly always.
    needed = [k for k in kinds if not (is_open_mpi() and k in CARRIED_ON)]
    assert len(needed) <= ended.err.count(AGAIN) <= len(kinds), f"{kinds}\n{ended}"
    assert_equal_runs(tmp_path / "run", whole)
    assert "train cost" not in ended.out, "--quiet was lost"


@pytest.mark.parametrize(("place", "kind"), [("connect", "kill"), ("start", "stop")])
def test_a_start_that_does_not_succeed_is_another_attempt(tmp_path, data, place, kind):
    """A rank dies before it has found the others, who may wait for ever; or it stands still."""
    environment = fault(tmp_path, 1, place, kind) | ONCE | {"DISTBP_START_LIMIT": "5"}
    ended = supervised(tmp_path, data, environment=environment, epochs=1).wait()
    assert ended.status == 0, str(ended)
    assert ended.err.count(AGAIN) == 1, str(ended)
    if kind == "stop" or is_open_mpi():
        assert "did not connect within 5 s" in ended.err, str(ended)
    assert len(metrics(tmp_path / "run")) == 1


def test_one_rank_and_a_resumed_run(tmp_path, data, whole):
    """No launcher, and no other arguments the second time."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    environment = fault(tmp_path, "alone", "update", "kill", 30)
    distbp(*words, folder=tmp_path, status=-9, environment=environment)
    words = ["train", "--resume", "run", "--ranks", 1, "--restarts", 1]
    job = Job(command_of(words), tmp_path, environment | ONCE)
    (tmp_path / "fault").unlink()
    ended = job.wait()
    assert ended.status == 0, str(ended)
    assert ended.err.count(AGAIN) == 1, str(ended)
    assert_equal_runs(tmp_path / "run", whole)


# When it is not started again


def test_it_gives_up_without_progress(tmp_path, data):
    """Three starts that end at the same place: a table of them, and status 1."""
    environment = fault(tmp_path, "all", "update", "kill", 3)
    ended = supervised(tmp_path, data, restarts=2, environment=environment).wait()
    assert ended.status == 1, str(ended)
    assert ended.err.count(AGAIN) == 2, str(ended)
    assert "giving up after 2 restarts without progress" in ended.err, str(ended)
    for number in (1, 2, 3):
        assert f"\n  launch {number}: " in ended.err, str(ended)


def test_progress_earns_more_restarts(tmp_path, data, whole):
    """Each start gets further and fails: two restarts in all, where one in a row is allowed."""
    environment = fault(tmp_path, 1, "update", "error", 45)
    ended = supervised(tmp_path, data, restarts=1, environment=environment).wait()
    assert ended.status == 0, str(ended)
    assert ended.err.count(f"{AGAIN} step ") == 2, str(ended)
    assert_equal_runs(tmp_path / "run", whole)


def test_what_is_refused_is_not_tried_again(tmp_path, data, run):
    """What only the user can mend: once, with its own status."""
    job = Job(
        command_of(["train", "no.h5", "--out", "new", "--ranks", N, "--restarts", 3]), tmp_path
    )
    ended = job.wait()
    assert ended.status == 1, str(ended)
    assert ended.err.count("no.h5") == 1, str(ended)
    assert AGAIN not in ended.err, str(ended)


def test_another_runs_checkpoint_is_not_gone_on_with(tmp_path, data):
    """A directory that holds a run is refused, even if the first start fails otherwise."""
    distbp("train", data["digits"], "--out", "run", "--epochs", 1, folder=tmp_path)
    before = (tmp_path / "run" / "last.h5").read_bytes()
    environment = fault(tmp_path, 1, "connect", "error") | ONCE
    ended = supervised(tmp_path, data, environment=environment).wait()
    assert ended.status == 1, str(ended)
    assert ended.err.count(AGAIN) == 1, str(ended)
    assert "run already contains a run" in ended.err, str(ended)
    assert (tmp_path / "run" / "last.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--restarts", 3], ["--restarts 3", "--ranks"]),
        (["--restarts", -1, "--ranks", 2], ["--restarts -1"]),
    ],
)
def test_who_restarts_has_to_start(tmp_path, data, words, parts):
    ended = distbp("train", data["digits"], "--out", "run", *words, folder=tmp_path, status=2)
    assert ended.err.startswith("distbp: "), str(ended)
    assert all(part in ended.err for part in parts), str(ended)


# Nobody outlives it


@pytest.mark.parametrize("who", ["supervisor", "launcher", "both"])
def test_no_orphan(tmp_path, data, who):
    """Not even of ranks of which one stands still, and the others wait for it."""
    job = supervised(tmp_path, data, restarts=0, epochs=100_000)
    wait_for_step(job, tmp_path / "run", 20)
    kill(victims(job, "another rank"), signal.SIGSTOP)
    time.sleep(0.2)
    if who != "supervisor":
        kill(launchers(job))
    if who != "launcher":
        kill([job.process.pid])
    ended = job.wait()
    assert ended.status == (1 if who == "launcher" else -9), str(ended)
    if who == "launcher":
        assert "continues from step" in ended.err, str(ended)


# Asked to stop


@pytest.mark.parametrize(
    ("number", "restarts"), [(signal.SIGTERM, 3), (signal.SIGINT, 0), (signal.SIGUSR1, 3)]
)
def test_a_signal_saves_and_stops(tmp_path, data, number, restarts):
    """All of them are SIGUSR1 for the ranks; the run goes on exactly."""
    job = supervised(tmp_path, data, restarts=restarts, epochs=100_000)
    wait_for_step(job, tmp_path / "run", 20)
    kill([job.process.pid], number)
    ended = job.wait()
    assert ended.status == 75, str(ended)
    assert ended.err.count("stopped by SIGUSR1 in epoch") == 1, str(ended)
    assert AGAIN not in ended.err, str(ended)
    epochs = ("--epochs", len(metrics(tmp_path / "run")) + 1)
    distbp("train", "--resume", "run", *epochs, folder=tmp_path)
    distbp("train", data["digits"], "--out", "whole", *WORDS, *epochs, folder=tmp_path)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_who_insists_does_not_wait(tmp_path, data):
    """A rank stands still, so nothing can be saved: a second signal ends all at once."""
    job = supervised(tmp_path, data, epochs=100_000)
    wait_for_step(job, tmp_path / "run", 20)
    kill(victims(job, "another rank"), signal.SIGSTOP)
    for _ in range(2):
        time.sleep(0.5)
        kill([job.process.pid], signal.SIGTERM)
    began = time.monotonic()
    ended = job.wait()
    assert time.monotonic() - began < 5.0, str(ended)
    assert ended.status == 75, str(ended)
    assert "continues from step" in ended.err, str(ended)


def test_other_verbs_just_end(tmp_path, data, run):
    """They have nothing to save: not even a rank that stands still keeps them."""
    environment = fault(tmp_path, 1, "prediction", "stop")
    words = ["evaluate", run, data["digits"], "--ranks", 2]
    job = Job(command_of(words), tmp_path, environment, limit=30)
    while not (tmp_path / "fault").exists():
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.01)
    kill([job.process.pid], signal.SIGTERM)
    began = time.monotonic()
    ended = job.wait()
    assert time.monotonic() - began < 5.0, str(ended)
    assert ended.status == 128 + signal.SIGTERM, str(ended)
