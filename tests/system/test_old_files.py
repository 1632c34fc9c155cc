"""Files that older code has written: read, resumed and trained on as that code did.

tests/checkpoints holds, for two tasks, a data set and a run by the last code that wrote
each version of the checkpoint, stopped in mid-epoch; and the numbers of the same run, not
stopped. `make` there has written them. The last bits of a training depend on the CPU and
its BLAS: where this machine's are those that the files were written with, all numbers are
equal to the last bit; elsewhere they are nearly equal, and what is not computed anew is
still equal.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
from ranks import distbp, metrics

FILES = Path(__file__).parents[1] / "checkpoints"
NETWORKS = {"classification": "6-5-3", "regression": "6-5-2"}  # sizes, as `info` has them
DONE = 2  # epochs of a stopped run; 3 steps of another


@dataclass(frozen=True)
class Old:
    """A copy of a task's files, in a folder where programs run."""

    folder: Path
    run: str  # name of the stopped run's directory

    @property
    def expected(self) -> dict[str, Any]:
        return json.loads((self.folder / "expected.json").read_text())

    @property
    def whole(self) -> list[dict[str, Any]]:
        """The records of the run that was not stopped."""
        return metrics(self.folder / "whole")


@pytest.fixture(params=[f"{task}/version-{n}" for task in NETWORKS for n in (1, 2)])
def old(request, tmp_path):
    task, run = request.param.split("/")
    shutil.copytree(FILES / task, tmp_path / task)
    return Old(tmp_path / task, run)


def machine(run: Path) -> dict[str, Any]:
    """Return what the last bits depend on, as a run's last checkpoint names it."""
    with h5py.File(run / "last.h5") as file:
        return json.loads(file["about"][...].tobytes())["machine"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return what a run that is trained here says of this machine."""
    folder = tmp_path_factory.mktemp("here")
    data = FILES / "regression" / "data.h5"
    distbp("train", data, "--out", "run", "--epochs", 1, "--hidden", 5, folder=folder)
    return machine(folder / "run")


@pytest.fixture
def is_same_machine(old, here):
    """Return whether this machine has the bits of the one that wrote the files."""
    written = machine(old.folder / old.run)
    return {name: here[name] for name in written} == written


def assert_equal_or_near(records, expected, is_equal) -> None:
    """Equal to the last bit, digests included; or costs that are nearly equal."""
    if is_equal:
        assert records == expected
    assert [costs(record) for record in records] == [
        pytest.approx(costs(record), rel=1e-3) for record in expected
    ]


def costs(record: dict[str, Any]) -> dict[str, float]:
    """Return the costs of an epoch; there is none of a split that is not there."""
    return {k: v for k, v in record.items() if k.endswith("cost") and v is not None}


def test_info_describes_them(old):
    """A data set whose bytes are right, and a run: its network, its θ and where it stopped."""
    text = distbp("info", "data.h5", folder=old.folder).out
    assert "101 rows of 6 " in text
    assert "ok (SHA-256 of all bytes)" in text
    (checkpoint,) = (old.folder / old.run / "checkpoints").iterdir()
    for path in (old.run, checkpoint):
        text = distbp("info", path, folder=old.folder).out
        assert NETWORKS[old.folder.name] in text
        assert old.expected["digest"] in text
        assert f"{DONE} epochs, 3 steps, 13 in all" in text


def test_digest_is_that_of_the_stored_numbers(old):
    """The same on any machine: nothing is computed."""
    ended = distbp("digest", old.run, folder=old.folder)
    assert ended.out == old.expected["digest"] + "\n"


def test_evaluate_gives_the_same_numbers(old, is_same_machine):
    ended = distbp("evaluate", old.run, "data.h5", "--json", folder=old.folder)
    score, expected = json.loads(ended.out), old.expected["evaluate"]
    assert list(score) == list(expected)
    assert score.pop("split") == expected.pop("split")
    assert score == pytest.approx(expected, rel=1e-5)
    if is_same_machine:
        assert score == expected


def test_resumed_on_one_and_two_ranks(old, is_same_machine):
    """The same bits on both; the epochs that were done as they were; the rest as expected."""
    shutil.copytree(old.folder / old.run, old.folder / "two")
    stopped = metrics(old.folder / old.run)
    assert stopped == old.whole[:DONE]
    one = distbp("train", "--resume", old.run, folder=old.folder, n=1)
    two = distbp("train", "--resume", "two", folder=old.folder, n=2)
    records = metrics(old.folder / old.run)
    assert records == metrics(old.folder / "two")
    assert one.digest == two.digest == records[-1]["digest"]
    assert records[:DONE] == stopped
    assert_equal_or_near(records, old.whole, is_same_machine)


def test_trained_anew_by_their_configuration(old, is_same_machine):
    """config.toml says all that the run was trained with, and means the same."""
    config = Path(old.run, "config.toml")
    ended = distbp("train", "--config", config, "--out", "anew", folder=old.folder, n=2)
    records = metrics(old.folder / "anew")
    assert ended.digest == records[-1]["digest"]
    assert_equal_or_near(records, old.whole, is_same_machine)
