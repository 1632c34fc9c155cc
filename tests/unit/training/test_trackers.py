"""Reporting to experiment trackers: MLflow's store is read back, W&B's package a stand-in."""

import logging
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from distbp.errors import ConfigError
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.trackers import MLflow, WandB

X = np.random.default_rng(5).normal(size=(60, 4))
Y = np.where(X[:, 0] > 0, "yes", "no")
METRICS = ("f1:yes",)


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """Return MLflow with a store in a directory; it warns of the packages that it imports."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
        yield mlflow
        mlflow.end_run()


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path, mlflow):
    """Options and numbers, in one run of the tracker also after a resume."""
    options = {"out": str(tmp_path / "run"), "metrics": METRICS, "quiet": True}
    options |= {"validation": 0.2, "callbacks": (MLflow,)}
    first = train(Config(**options, epochs=2), X, Y)
    mlflow.end_run()
    second = train(Config(**options, epochs=4), X, Y, resume=True)
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.run_name == "run"
    assert run.data.params["batch_size"] == "256"
    assert len(first.history) == 2
    for key in ("train_cost", "validation_cost", "validation_f1:yes", "samples_per_s"):
        name = key.replace(":", "_")
        found = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
        expected = [(one["epoch"], one[key]) for one in second.history]
        assert sorted((one.step, one.value) for one in found) == expected


@pytest.fixture
def wandb(monkeypatch):
    """Put a stand-in of the package in its place; return what it was told."""
    calls = []

    def init(**options):
        calls.append(options)
        return SimpleNamespace(id="7f")

    package = SimpleNamespace(
        init=init, log=lambda numbers, step: calls.append((step, numbers["train_cost"]))
    )
    monkeypatch.setitem(sys.modules, "wandb", package)
    return calls


def test_wandb(tmp_path, wandb):
    options = {"out": str(tmp_path / "run"), "quiet": True, "callbacks": (WandB,)}
    train(Config(**options, epochs=1), X, Y)
    history = train(Config(**options, epochs=2), X, Y, resume=True).history
    ids = [call["id"] for call in wandb if isinstance(call, dict)]
    assert ids == [None, "7f"]
    assert [call for call in wandb if isinstance(call, tuple)] == [
        (one["epoch"], one["train_cost"]) for one in history
    ]
    assert wandb[0]["config"]["epochs"] == 1
    assert wandb[0]["dir"] == str(tmp_path / "run")


def test_a_run_without_a_directory(wandb):
    train(Config(quiet=True, epochs=1, callbacks=(WandB,)), X, Y)
    assert wandb[0]["dir"] is None
    assert wandb[1][0] == 1


def test_only_rank_0_reports(wandb):
    tracker = WandB()
    tracker.start(Config(), rank=1)
    tracker({"epoch": 1, "train_cost": 1.0}, None)
    assert wandb == []
    tracker.start(Config(), rank=0)  # the first rank has died
    tracker({"epoch": 2, "train_cost": 1.0}, None)
    assert wandb[1] == (2, 1.0)


def test_a_tracker_that_does_not_answer_ends_no_run(monkeypatch, caplog):
    def fail(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=fail, log=fail))
    with caplog.at_level(logging.WARNING):
        result = train(Config(quiet=True, epochs=2, callbacks=(WandB,)), X, Y)
    assert len(result.history) == 2
    assert "WandB cannot be reported to: no route to host" in caplog.text


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match=r"needs the package wandb.*pip install 'distbp\[wandb\]'"
    ):
        train(Config(quiet=True, epochs=1, callbacks=(WandB,)), X, Y)
