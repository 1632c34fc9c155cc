"""Files of older versions are read, evaluated, resumed and trained on with the same results.

tests/checkpoints holds, for some tasks, a data set, a run that was stopped within an epoch by
the last code that wrote each version of the checkpoint format, and the results of the same run
without the stop; version 3 has columns of a table, and scaled targets. `make` in that folder
has created them. The last bits of the results depend on CPU and BLAS: on an equal machine all
numbers are equal to the last bit; on another one, costs are nearly equal, and stored numbers
still equal.
"""

import json
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ranks import distbp, metrics

from distbp import kernels

FILES = Path(__file__).parents[1] / "checkpoints"
# Sizes, as `info` prints them.
NETWORKS = {"classification": "6-5-3", "regression": "6-5-2", "table": "6-5-2"}
RUNS = [f"{task}/version-{n}" for task in ("classification", "regression") for n in (1, 2)]
RUNS += ["table/version-3"]
EPOCHS_DONE = 2  # of a stopped run, which also has 3 steps of the third epoch


@dataclass(frozen=True)
class Old:
    """A copy of the files of a task, in the folder where programs run."""

    folder: Path
    run: str  # directory of the stopped run

    @property
    def expected(self) -> dict[str, Any]:
        return json.loads((self.folder / "expected.json").read_text())

    @property
    def uninterrupted(self) -> list[dict[str, Any]]:
        """The metrics of the run that was not stopped."""
        return metrics(self.folder / "whole")


@pytest.fixture(params=RUNS)
def old(request, tmp_path):
    task, run = request.param.split("/")
    shutil.copytree(FILES / task, tmp_path / task)
    return Old(tmp_path / task, run)


def machine(run: Path) -> dict[str, Any]:
    """Return what the last bits depend on, from a run's newest checkpoint."""
    with h5py.File(run / "last.h5") as file:
        return json.loads(file["about"][...].tobytes())["machine"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return what the last bits depend on for a run that is trained on this machine."""
    folder = tmp_path_factory.mktemp("here")
    data = FILES / "regression" / "data.h5"
    distbp("train", data, "--out", "run", "--epochs", 1, "--hidden", 5, folder=folder)
    return machine(folder / "run")


@pytest.fixture
def is_same_machine(old, here):
    """Return whether the last bits are those of the machine that created the files."""
    written = machine(old.folder / old.run)
    return {name: here[name] for name in written} == written


def assert_equal_or_near(records, expected, is_equal) -> None:
    """Assert that records are equal, digests included, or else that costs are nearly equal."""
    if is_equal:
        # Later versions record more.
        pairs = zip(records, expected, strict=True)
        assert [{key: one[key] for key in before} for one, before in pairs] == expected
    assert [costs(record) for record in records] == [
        pytest.approx(costs(record), rel=1e-3) for record in expected
    ]


def costs(record: dict[str, Any]) -> dict[str, float]:
    """Return the costs of an epoch, of those splits that the data set has."""
    names = (f"{split}_cost" for split in ("train", "validation", "test"))
    return {name: record[name] for name in names if record[name] is not None}


def test_info_describes_old_files(old):
    """A data set with its checksum; a run with network, digest and position."""
    text = distbp("info", "data.h5", folder=old.folder).out
    assert "101 rows of 6 " in text
    assert "ok (SHA-256 of all bytes)" in text
    (checkpoint,) = (old.folder / old.run / "checkpoints").iterdir()
    for path in (old.run, checkpoint):
        text = distbp("info", path, folder=old.folder).out
        assert NETWORKS[old.folder.name] in text
        assert old.expected["digest"] in text
        assert f"{EPOCHS_DONE} epochs, 3 steps, 13 in all" in text


def test_digest_of_old_files(old):
    """The same on any machine, because nothing is computed."""
    ended = distbp("digest", old.run, folder=old.folder)
    assert ended.out == old.expected["digest"] + "\n"


def test_evaluate_with_old_files(old, is_same_machine):
    ended = distbp("evaluate", old.run, "data.h5", "--json", folder=old.folder)
    score, expected = json.loads(ended.out), old.expected["evaluate"]
    score = {name: score[name] for name in expected}  # later versions have more metrics
    assert score.pop("split") == expected.pop("split")
    assert score == pytest.approx(expected, rel=1e-5)
    if is_same_machine:
        assert score == expected


def test_old_runs_are_resumed(old, is_same_machine):
    """On one and two ranks with equal results, those of the uninterrupted run."""
    shutil.copytree(old.folder / old.run, old.folder / "two")
    stopped = metrics(old.folder / old.run)
    assert stopped == old.uninterrupted[:EPOCHS_DONE]
    one = distbp("train", "--resume", old.run, folder=old.folder, n=1)
    two = distbp("train", "--resume", "two", folder=old.folder, n=2)
    records = metrics(old.folder / old.run)
    assert records == metrics(old.folder / "two")
    assert one.digest == two.digest == records[-1]["digest"]
    assert records[:EPOCHS_DONE] == stopped
    assert_equal_or_near(records, old.uninterrupted, is_same_machine)


def test_the_configuration_of_old_runs_gives_the_same_result(old, is_same_machine):
    """A new run with the old config.toml, in which all options have the same meaning.

    Without its kernels where the CPU cannot run them, as without AVX-512.
    """
    config = Path(old.run, "config.toml")
    stored = tomllib.loads((old.folder / config).read_text()).get("kernels", kernels.NATIVE)
    can_run = kernels.Cpu.detect({}).can_run(kernels.openblas_name(stored))
    words = () if can_run else ("--kernels", kernels.NATIVE)
    ended = distbp("train", "--config", config, "--out", "again", *words, folder=old.folder, n=2)
    records = metrics(old.folder / "again")
    assert ended.digest == records[-1]["digest"]
    assert_equal_or_near(records, old.uninterrupted, is_same_machine)


@pytest.mark.parametrize("old", ["table/version-3"], indirect=True)
def test_old_models_predict_from_tables(old, is_same_machine):
    """With the columns, categories, filled-in cells and units of the targets that they store."""
    distbp("predict", old.run, "table.csv", "--out", "again.csv", folder=old.folder, n=2)
    again, expected = old.folder / "again.csv", old.folder / "predictions.csv"
    assert again.read_text().splitlines()[0] == "row,price,weight"
    found, before = (np.loadtxt(path, delimiter=",", skiprows=1) for path in (again, expected))
    np.testing.assert_allclose(found, before, rtol=1e-5)
    if is_same_machine:
        assert again.read_bytes() == expected.read_bytes()
