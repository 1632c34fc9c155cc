"""`distbp verify` and `distbp diff`: equal and unequal runs, and what they leave behind."""

import json
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from ranks import ROOT, Job, command_of, distbp, distbp_messages, kill


@pytest.fixture
def scratch():
    """Return a folder for temporary files, with a short path."""
    folder = tempfile.mkdtemp(prefix="tmp")
    yield Path(folder)
    shutil.rmtree(folder)


def test_any_number_of_ranks_gives_the_same_bits(tmp_path, data, scratch):
    """With the user's own parts; the gradient is right, and no file is left."""
    shutil.copy(ROOT / "scripts" / "examples" / "my_parts.py", tmp_path)
    words = (
        "verify", data["digits"], "--json", "--ranks", "1,2,3", "--hidden", "30,20", "--dropout",
        0.2, "--clip-norm", 0.3, "--batch-size", 40, "--activation", "my_parts:Mish", "--optimizer",
        "my_parts:Lion",
    )  # fmt: skip
    ended = distbp(*words, folder=tmp_path, environment={"TMPDIR": str(scratch)})
    found = json.loads(ended.out)
    assert found["is_equal"]
    assert found["gradient"]["is_right"]
    assert [run["ranks"] for run in found["runs"]] == [1, 2, 3]
    assert len({run["digest"] for run in found["runs"]}) == 1
    assert all(0 < run["seconds_per_step"] < 1 for run in found["runs"])
    assert found["steps"] == 20
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".h5"] == []
    assert list(scratch.iterdir()) == []


def test_what_differs_is_named(tmp_path, data):
    """The textbook's sum depends on the ranks: the step, the layer, and by how much."""
    words = ("verify", data["digits"], "--combine", "allreduce", "--ranks", "1,3", "--shards", 7)
    ended = distbp(*words, folder=tmp_path, status=1)
    assert re.search(r"\n +3 .* differs after step 1 \(epoch 1\) in the \w+ of layer 1; in the end "
                     r"by at most \S+ \([\d,]+ ulp\)\n", ended.out), str(ended)  # fmt: skip
    assert "\nNot equal: --combine allreduce depends on the number of ranks." in ended.out


def test_an_interrupted_verification_leaves_nothing(tmp_path, data, scratch):
    """Ctrl-C while ranks train."""
    words = ("verify", data["digits"], "--ranks", 2, "--steps", 90_000)
    job = Job(command_of(words), tmp_path, {"TMPDIR": str(scratch)})
    deadline = time.monotonic() + 300
    while not list(scratch.glob("*/started")) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill([job.process.pid], signal.SIGINT)
    ended = job.wait()
    assert ended.status == 128 + signal.SIGINT, str(ended)
    assert ended.seconds < 60
    assert list(scratch.iterdir()) == []


def test_options_that_cannot_be_verified(tmp_path, data):
    """One message, from the process that would start the ranks, or of a launcher's ranks."""
    ended = distbp("verify", data["digits"], "--ranks", "0,2", folder=tmp_path, status=2)
    assert "--ranks 0,2: expected numbers of at least 1" in ended.err
    ended = distbp("verify", "no.h5", folder=tmp_path, status=None)
    assert distbp_messages(ended.err).count("no.h5") == 1
    ended = distbp("verify", data["digits"], folder=tmp_path, n=2, status=None)
    assert distbp_messages(ended.err).count("starts the ranks itself") == 1


def test_diff_of_two_runs(tmp_path, data):
    """On one and two ranks, and with another seed; as exit status, as text and as JSON."""
    words = ("train", data["digits"], "--epochs", 2, "--quiet", "--out")
    distbp(*words, "one", folder=tmp_path)
    distbp(*words, "two", folder=tmp_path, n=2)
    distbp(*words, "other", "--seed", 1, folder=tmp_path)
    ended = distbp("diff", "one", "two", folder=tmp_path)
    assert "\nversions  mpi none | " in ended.out
    assert ended.out.endswith("\nequal bit for bit\n")
    ended = distbp("diff", "one", "other", folder=tmp_path, status=1)
    assert re.search(r"\noptions   --seed 0 \| 1\n", ended.out), str(ended)
    assert "the first that differ are those of epoch 1: digest " in ended.out
    assert re.search(r"after 1 epochs: 4 of 4 differ; first layer 1, weights: 4,800 of", ended.out)
    assert ended.out.splitlines()[-1].startswith("different: another --seed (0 | 1): other initial")
    ended = distbp("diff", "one/last.h5", "other/last.h5", "--json", folder=tmp_path, status=1)
    assert json.loads(ended.out)["checkpoints"]["epoch"] == 2
    ended = distbp("diff", "one", data["digits"], folder=tmp_path, status=2)
    assert "is not a checkpoint" in ended.err or "expected" in ended.err, str(ended)
