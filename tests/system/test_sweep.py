"""Sweeps and ensembles of real runs: killed, continued, compared and used together."""

import csv
import json
import time

import h5py
import numpy as np
import pytest
from ranks import Job, command_of, distbp, kill, metrics

TRAIN = ("--validation", 0.2, "--hidden", 10, "--batch-size", 32, "--optimizer", "adam")


def table(folder) -> list[dict[str, str]]:
    """Return the results of the sweep in `folder`."""
    out = distbp("sweep", "--table", "sweep", "--csv", folder=folder).out
    return list(csv.DictReader(out.splitlines()))


def test_a_killed_sweep_continues(data, tmp_path):
    """With the same command: each trial ends as if it had been trained alone, or fails alone."""
    words = (
        "sweep", data["digits"], "--out", "sweep", *TRAIN, "--epochs", 15, "--jobs", 2,
        "--vary", "learning-rate=0.001,0.01", "activation=tanh,relu",
    )  # fmt: skip
    words += ("--ranks", 2)
    job = Job(command_of(words), tmp_path)
    first = tmp_path / "sweep" / "trial-0001"
    deadline = time.monotonic() + 300
    while not (first / "last.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    kill([job.process.pid])
    job.wait()  # and has left no process behind
    assert not (tmp_path / "sweep" / "trial-0004" / ".done").exists()
    distbp(*words, folder=tmp_path)
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == ["finished"] * 4
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    best = rows[0]
    chosen = ("--learning-rate", best["learning-rate"], "--activation", best["activation"])
    words = ("train", data["digits"], "--out", "alone", *TRAIN, "--epochs", 15, *chosen)
    assert distbp(*words, folder=tmp_path).digest == best["digest"]
    records = metrics(tmp_path / "alone")
    assert metrics(tmp_path / "sweep" / best["trial"]) == records
    assert scores[0] == min(record["validation_cost"] for record in records)


def test_trials_that_fail(data, tmp_path):
    """The others are trained; what was finished is not repeated, but may be trained longer."""
    words = ("sweep", data["digits"], "--out", "sweep", *TRAIN, "--epochs", 2, "--vary")
    ended = distbp(*words, "learning-rate=1e30,0.01", folder=tmp_path)
    assert "trial-0001 failed: A value is not a finite number" in ended.err
    assert [row["state"] for row in table(tmp_path)] == ["finished", "failed"]
    output = tmp_path / "sweep" / "trial-0002" / "output.txt"
    before = output.read_bytes()
    distbp(*words, "learning-rate=1e30,0.01", folder=tmp_path)
    assert output.read_bytes() == before
    distbp(*words, "learning-rate=1e30,0.01", "--epochs", 3, folder=tmp_path)
    assert len(metrics(tmp_path / "sweep" / "trial-0002")) == 3
    other = distbp(*words, "learning-rate=0.1", folder=tmp_path, status=2)
    assert "has a sweep with --vary learning-rate=1e30,0.01, not learning-rate=0.1" in other.err


def test_cross_validation(data, tmp_path):
    """Each fold is a run of its own, the same on two ranks; all their rows are held out once."""
    words = ("sweep", data["digits"], "--out", "sweep", "--kfold", 3, "--epochs", 2, "--jobs", 2)
    distbp(*words, folder=tmp_path)
    (row,) = table(tmp_path)
    words = ("train", data["digits"], "--epochs", 2, "--fold", "2/3", "--out", "alone")
    assert distbp(*words, folder=tmp_path, n=2).digest == row["digest"].split()[1]
    scores = [
        min(one["validation_cost"] for one in metrics(tmp_path / "sweep/trial-0001" / f"fold-{k}"))
        for k in (1, 2, 3)
    ]
    assert float(row["score"]) == sum(scores) / 3
    assert float(row["deviation"]) > 0


def test_the_folds_are_an_ensemble(data, tmp_path):
    """Tables and scores are the same bytes on two ranks; other models are refused."""
    words = ("sweep", data["digits"], "--out", "sweep", "--kfold", 2, "--epochs", 3, *TRAIN[2:])
    distbp(*words, "--quiet", folder=tmp_path)
    folds = [f"sweep/trial-0001/fold-{k}" for k in (1, 2)]
    for n, models in ((1, ["sweep"]), (2, folds)):
        distbp("predict", *models, data["digits"], "--out", f"{n}.csv", folder=tmp_path, n=n)
        distbp("predict", *models, data["digits"], "--out", f"{n}.h5", folder=tmp_path, n=n)
    assert (tmp_path / "2.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    with (tmp_path / "1.csv").open() as file:
        rows = list(csv.DictReader(file))
    outputs = []
    for k, fold in enumerate(folds):
        distbp("predict", fold, data["digits"], "--out", f"fold{k}.h5", folder=tmp_path)
        with h5py.File(tmp_path / f"fold{k}.h5") as file:
            outputs.append(file["output"][...].astype(np.float64))
    mean, std = np.mean(outputs, axis=0), np.std(outputs, axis=0)
    labels = mean.argmax(axis=1)
    assert [row["class"] for row in rows] == [f"class {label}" for label in labels]
    with h5py.File(tmp_path / "2.h5") as file, h5py.File(data["digits"]) as digits:
        np.testing.assert_allclose(file["output"], mean, rtol=1e-5, atol=1e-7)
        chosen = std[np.arange(len(std)), labels]
        np.testing.assert_allclose(file["std"], chosen, rtol=1e-4, atol=1e-6)
        assert [float(row["std"]) for row in rows] == pytest.approx(list(file["std"]), rel=1e-6)
        accuracy = (labels == digits["test/y"][...]).mean()
    words = ("evaluate", *folds, data["digits"], "--json")
    score = distbp(*words, folder=tmp_path)
    assert json.loads(score.out)["accuracy"] == accuracy
    assert distbp(*words, folder=tmp_path, n=2).out == score.out
    distbp("train", data["digits"], "--out", "other", "--cost", "quadratic", "--epochs", 1,
           folder=tmp_path)  # fmt: skip
    ended = distbp("evaluate", folds[0], "other", data["digits"], folder=tmp_path, status=2)
    assert "cannot form an ensemble: they differ in the cost" in ended.err
