"""What a run monitors, and what its epochs compute."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import samples

from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.storage.scaling import TargetScaling
from distbp.training.config import Config
from distbp.training.monitor import plan_metrics, with_monitor
from distbp.training.state import Monitor


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return data sets by name; those of `bare` have neither validation nor test rows."""
    folder = tmp_path_factory.mktemp("data")
    rows = {"train": 7, "validation": 5, "test": 3}
    make = {name: getattr(samples, name) for name in ("digits", "labels", "prices", "numbers")}
    found = {name: DataSet(write(folder / name, rows)) for name, write in make.items()}
    return found | {"bare": DataSet(samples.digits(folder / "bare", {"train": 7}))}


@pytest.mark.parametrize(
    ("name", "config", "monitor"),
    [
        ("digits", {}, "validation_cost"),
        ("bare", {}, "train_cost"),
        ("bare", {"validation": 0.3}, "validation_cost"),
        ("numbers", {}, "validation_cost"),
        ("prices", {}, "validation_standardized_cost"),
        ("prices", {"monitor": "validation_mae"}, "validation_mae"),
    ],
)
def test_the_default(data, name, config, monitor):
    """The validation cost, where it is not that of the target with the largest numbers."""
    config = with_monitor(Config(**config), data[name])
    assert config.monitor == monitor
    assert with_monitor(config, data[name]) == config
    assert plan_metrics(config, data[name]).monitor.name == monitor


def test_targets_of_one_unit(data):
    """Their cost in the user's units is the standardized one, but for a factor."""
    one = TargetScaling(np.array([1.0, 2.0]), np.array([0.5, 0.5]))
    assert not one.has_several_units
    assert data["prices"].target.has_several_units


@pytest.mark.parametrize(
    ("name", "monitor", "is_maximized", "keys"),
    [
        ("digits", "train_cost", False, []),
        ("digits", "train_accuracy", True, []),
        ("digits", "validation_accuracy", True, []),
        ("digits", "validation_f1", True, ["f1"]),
        ("digits", "validation_roc-auc_micro", True, ["roc_auc_micro"]),
        ("digits", "validation_f1:class 1", True, ["f1:class 1"]),
        ("digits", "validation_log_loss", False, ["log_loss"]),
        ("labels", "validation_exact_match", True, ["exact_match"]),
        ("prices", "validation_rmse:1", False, ["rmse:1"]),
        ("prices", "validation_accuracy", True, []),
    ],
)
def test_what_is_monitored(data, name, monitor, is_maximized, keys):
    """Whether more is better, and what has to be computed for it."""
    found = plan_metrics(Config(monitor=monitor), data[name])
    expected = monitor.replace("-", "_")
    assert found.monitor == Monitor(expected, is_maximized)
    assert [one.key for one in found.choices] == keys
    if keys:  # which may be asked for, too
        config = Config(monitor=monitor, metrics=(keys[0], "accuracy"))
        assert plan_metrics(config, data[name]) == found


def test_runs_of_older_versions_keep_their_monitor(data):
    """The cost in the user's units, whatever the default is now."""
    stored = {name: value for name, value in Config().to_dict().items() if name != "monitor"}
    config = with_monitor(Config.read(stored, "run"), data["prices"])
    assert plan_metrics(config, data["prices"]) == ((), None)
    checkpoint = SimpleNamespace(about={"config": stored})
    assert with_monitor(Config(), data["prices"], checkpoint) == config


@pytest.mark.parametrize(
    ("name", "monitor", "message"),
    [
        ("digits", "test_f1", "test set must have no influence .* from train_cost, train_accuracy"),
        ("digits", "test_cost", "test set must have no influence"),
        ("digits", "validation_f2", "no number 'validation_f2'.*validation_f1, .*_log_loss"),
        ("digits", "validation_confusion_matrix", "no number"),
        ("digits", "validation_mae", "no number"),
        ("digits", "train_f1", "no number"),
        ("digits", "f1", "no number"),
        (
            "bare",
            "validation_f1",
            "bare has no validation rows.* from train_cost, train_accuracy.$",
        ),
        ("numbers", "train_accuracy", "no number .* from train_cost, validation_cost"),
        ("numbers", "validation_standardized_cost", "no number"),
    ],
)
def test_what_does_not_exist(data, name, monitor, message):
    """Those that do are named."""
    with pytest.raises(ConfigError, match=f"--monitor {monitor}: .*{message}"):
        plan_metrics(Config(monitor=monitor), data[name])


def test_metrics_need_rows(data):
    """Of a validation or a test split."""
    config = Config(metrics=("f1",), monitor="train_cost")
    with pytest.raises(ConfigError, match=r"--metrics f1: .*bare has neither .*--validation 0\.1"):
        plan_metrics(config, data["bare"])
    assert plan_metrics(replace(config, validation=0.5), data["bare"]).choices


def test_a_large_matrix_is_in_no_record(data):
    """Each checkpoint would hold it once for each epoch."""
    about = data["digits"].about | {"classes": list(map(str, range(101)))}
    many = object.__new__(DataSet)
    many.__dict__.update(vars(data["digits"]), about=about)
    config = Config(metrics=("confusion-matrix",), monitor="train_cost")
    assert plan_metrics(config, data["digits"]).choices
    with pytest.raises(ConfigError, match="confusion-matrix: for 101 classes it is too large"):
        plan_metrics(config, many)


def test_metrics_as_a_user_gives_them():
    """Text is a list of names, as on the command line."""
    assert Config(metrics="f1, roc-auc,").metrics == ("f1", "roc-auc")
    assert Config(metrics=["f1"], data=Path("d.h5")).to_dict()["metrics"] == ["f1"]
    with pytest.raises(ConfigError, match=r"--metrics \(1,\): expected names"):
        Config(metrics=[1])
