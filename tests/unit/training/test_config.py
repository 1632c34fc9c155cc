"""Options: allowed values, values derived from the data, changes on resume, and TOML."""

from argparse import ArgumentTypeError
from dataclasses import asdict, fields
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distbp.data import dataset
from distbp.errors import ConfigError
from distbp.options import flag, parse_sizes
from distbp.training import defaults
from distbp.training.config import GROUPS, Config
from distbp.training.config_file import check_useful, read_toml
from distbp.training.defaults import resolve

ANY = {"n_in": 784, "name": "d.h5", "target": None, "train_bytes": 1000}
CLASSES = SimpleNamespace(task="classification", n_out=10, **ANY)
NUMBERS = SimpleNamespace(task="regression", n_out=2, **ANY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (10, 0)}, "--hidden"),
        ({"epochs": 100_001}, "--epochs 100001: expected less than"),
        ({"hidden": (10, 2.5)}, "--hidden"),
        ({"activation": "linear"}, "--activation 'linear' is unknown; use one of sigmoid, tanh"),
        ({"cost": "hinge"}, "--cost 'hinge' is unknown; use one of quadratic, cross-entropy, log"),
        ({"init": "zeros"}, "--init 'zeros'"),
        ({"optimizer": "lbfgs"}, "--optimizer 'lbfgs'"),
        ({"learning_rate": -0.1}, "--learning-rate -0.1: expected at least 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"learning_rate": float("inf")}, "--learning-rate inf"),
        ({"learning_rate": "0.1"}, "--learning-rate '0.1': expected a"),
        ({"learning_rate": True}, "--learning-rate True: expected a"),
        ({"momentum": 1.0}, "--momentum 1.0: expected less than 1"),
        ({"schedule": "linear"}, "--schedule 'linear'"),
        ({"warmup_epochs": -1}, "--warmup-epochs -1"),
        ({"decay": 1.0}, "--decay 1.0: expected less than 1"),
        ({"decay_epochs": 0}, "--decay-epochs 0: expected at least 1"),
        ({"l2": -1.0}, "--l2 -1.0"),
        ({"l1": -1.0}, "--l1 -1.0"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0: expected less than 1"),
        ({"ema": 1.0}, "--ema 1.0: expected less than 1"),
        ({"weight_decay": -1.0}, "--weight-decay -1.0"),
        ({"dropout": 1.0}, "--dropout 1.0: expected less than 1"),
        ({"clip_norm": 0.0}, "--clip-norm 0.0"),
        ({"batch_size": 0}, "--batch-size 0: expected at least 1"),
        ({"batch_size": 2.5}, "--batch-size 2.5: expected a"),
        ({"epochs": 0}, "--epochs 0"),
        ({"epochs": float("inf")}, "--epochs inf"),
        ({"epochs": float("nan")}, "--epochs nan"),
        ({"epochs": None}, "--epochs None"),
        ({"patience": 0}, "--patience 0"),
        ({"validation": 1.0}, "--validation 1.0: expected less than 1"),
        ({"shards": 0}, "--shards 0"),
        ({"shards": 5, "batch_size": 4}, "--shards 5 cuts a batch of 4 rows too small.* at most 4"),
        ({"combine": "ring"}, "--combine 'ring'"),
        ({"threads": 0}, "--threads 0"),
        ({"dtype": "float16"}, "--dtype 'float16'"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, "--seed 9223372036854775808: expected less"),
        ({"keep": 0}, "--keep 0"),
        ({"checkpoint_every": "0epoch"}, "--checkpoint-every '0epoch': expected a number and a"),
        ({"checkpoint_every": "5 minutes"}, "--checkpoint-every"),
        ({"checkpoint_every": "-1s"}, "--checkpoint-every"),
        ({"checkpoint_every": ""}, "--checkpoint-every ''"),
    ],
)
def test_values_that_are_not_allowed(options, message):
    """Each option is checked, and named by its flag."""
    with pytest.raises(ConfigError, match=message):
        Config(**options)


def test_bounds_that_are_allowed():
    """Inclusive bounds are allowed values."""
    Config(learning_rate=0.0, momentum=0.0, dropout=0.0, seed=2**63 - 1, shards=4, batch_size=4)
    Config(hidden=(), epochs=1, patience=1, keep=1, learning_rate=1, l2=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1epoch", (1, "epoch")), ("3epochs", (3, "epoch")), ("500steps", (500, "step")),
     ("1 step", (1, "step")), ("60s", (60, "s")), ("auto", (1, "epoch"))],
)  # fmt: skip
def test_interval(text, expected):
    """Epochs, steps and seconds, in the singular and the plural."""
    assert Config(checkpoint_every=text).interval() == expected


@pytest.mark.parametrize(
    ("text", "sizes"), [("100,50", (100, 50)), ("7", (7,)), ("", ()), (" ", ())]
)
def test_parse_sizes(text, sizes):
    """Sizes are separated by commas; empty text is no hidden layer."""
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["100;50", "a", "10,", "1.5"])
def test_parse_sizes_of_other_text(text):
    """It is refused with a message, not with a traceback."""
    with pytest.raises(ArgumentTypeError, match="expected sizes such as 100,50"):
        parse_sizes(text)


def test_lists_of_sizes_become_tuples():
    """A configuration from a checkpoint or TOML is equal to the one that was written."""
    assert Config(hidden=[3, 2]) == Config(hidden=(3, 2))
    assert Config(hidden=3) == Config(hidden=(3,))


# Values that are derived.


def test_resolved_for_classification():
    """Cost, learning rate and shards are derived from the data and each other."""
    config = resolve(Config(hidden=(30,)), CLASSES)
    assert (config.cost, config.learning_rate, config.shards) == ("log-likelihood", 0.1, 4)
    for name in ("adam", "adamw", "nadam", "rmsprop"):
        assert resolve(Config(optimizer=name), CLASSES).learning_rate == 0.001
    assert resolve(Config(hidden=(1000,)), CLASSES).shards == 2


def test_resolved_for_a_regression():
    """The cost is quadratic, huber or mae; others are refused."""
    assert resolve(Config(), NUMBERS).cost == "quadratic"
    for cost in ("huber", "mae"):
        assert resolve(Config(cost=cost), NUMBERS).cost == cost
        message = f"--cost {cost} is for regression, but d.h5 is for classification. Use --cost log"
        with pytest.raises(ConfigError, match=message):
            resolve(Config(cost=cost), CLASSES)
    message = "--cost cross-entropy is for classification or multilabel, .* Use --cost quadratic or"
    with pytest.raises(ConfigError, match=message):
        resolve(Config(cost="cross-entropy"), NUMBERS)


def test_resolved_for_multilabel():
    """Each label has an output of its own, which softmax would not give."""
    labels = SimpleNamespace(task="multilabel", n_out=5, **ANY)
    assert resolve(Config(), labels).cost == "cross-entropy"
    assert resolve(Config(cost="quadratic"), labels).cost == "quadratic"
    with pytest.raises(ConfigError, match=r"for multilabel. Use --cost cross-entropy or quadratic"):
        resolve(Config(cost="log-likelihood"), labels)


def test_label_smoothing_is_for_classes():
    """It has no meaning for numbers."""
    smooth = Config(label_smoothing=0.1)
    assert resolve(smooth, CLASSES).label_smoothing == 0.1
    message = "--label-smoothing is for classification, but d.h5 is for regression. Leave it out"
    with pytest.raises(ConfigError, match=message):
        resolve(smooth, NUMBERS)


def test_learning_rate_for_scaled_targets():
    """It is lower, as the largest stable one is, but for Adam."""
    scaled = SimpleNamespace(**vars(NUMBERS) | {"target": "scaled"})
    assert resolve(Config(), NUMBERS).learning_rate == 0.1
    assert resolve(Config(), scaled).learning_rate == 0.01
    assert resolve(Config(optimizer="adam"), scaled).learning_rate == 0.001


def test_shuffle_depends_on_the_size_of_the_data(monkeypatch):
    """Only data sets of many bytes are read in blocks, unless the user decides otherwise."""
    monkeypatch.setattr(defaults, "BLOCK_SHUFFLE_BYTES", 1001)
    large = SimpleNamespace(**vars(CLASSES) | {"train_bytes": 1001})
    assert resolve(Config(), CLASSES).shuffle == "full"
    assert resolve(Config(), large).shuffle == "blocks"
    assert resolve(Config(shuffle="full"), large).shuffle == "full"
    assert resolve(Config(shuffle="blocks"), CLASSES).shuffle == "blocks"


def test_chunks_that_stay_in_the_file_are_shuffled_in_blocks():
    """A full shuffle cannot take rows from them: both limits have to be the same."""
    assert defaults.BLOCK_SHUFFLE_BYTES == dataset.LARGE_BYTES


def test_runs_without_the_option_were_shuffled_in_full():
    """Whatever the size of their data: those of older versions."""
    options = Config().to_dict()
    del options["shuffle"]
    assert Config.read(options, "run").shuffle == "full"


def test_given_values_are_kept():
    """`resolve` replaces only None: not a learning rate of 0."""
    chosen = Config(cost="quadratic", learning_rate=0.0, shards=7, shuffle="blocks")
    assert resolve(chosen, CLASSES) == chosen


def test_resolving_twice_changes_nothing():
    """The configuration of a resumed run is resolved already."""
    once = resolve(Config(), CLASSES)
    assert resolve(once, CLASSES) == once


# A resumed run.

CHANGES = {
    "kernels": "portable",
    "data": "e.h5", "out": "r", "epochs": 50, "patience": 3, "checkpoint_every": "5s", "keep": 9,
    "quiet": True, "time_limit": "2h", "stall_limit": "9s",
    "check_every": 0, "on_nan": "skip", "metrics": ("f1", "roc-auc"), "callbacks": ("a:B",),
    "profile": "trace.json",
    "tensorboard": True,
}  # fmt: skip
FIXED = {
    "engine": "numpy", "blas": "libmkl_rt.so", "hidden": (7,), "activation": "tanh",
    "cost": "quadratic", "init": "large",
    "class_weight": "balanced",
    "optimizer": "adam", "learning_rate": 0.5, "momentum": 0.1, "schedule": "step",
    "warmup_epochs": 1.0, "decay": 0.1, "decay_epochs": 1, "l2": 1.0, "l1": 1.0, "dropout": 0.1,
    "weight_decay": 0.1, "clip_norm": 1.0, "batch_size": 10, "validation": 0.1, "shards": 2,
    "combine": "allreduce", "threads": 2, "dtype": "float64", "seed": 1,
    "init_from": "other", "shuffle": "blocks", "label_smoothing": 0.1, "ema": 0.9,
    "monitor": "validation_f1", "fold": "1/2",
}  # fmt: skip


def test_the_lists_of_options_are_complete():
    """Every option either may change on resume or may not."""
    assert sorted(CHANGES | FIXED) == sorted(one.name for one in fields(Config))


@pytest.mark.parametrize("name", CHANGES)
def test_options_that_may_change_on_resume(name):
    """Those that have no effect on the numbers of the epochs that both runs train."""
    before = resolve(Config(), CLASSES)
    after = before.resumed({name: CHANGES[name]})
    assert asdict(after) == asdict(before) | {name: CHANGES[name]}


@pytest.mark.parametrize("name", FIXED)
def test_options_that_may_not_change_on_resume(name):
    """They may be repeated with the same value."""
    before = resolve(Config(), CLASSES)
    with pytest.raises(ConfigError, match=f"{flag(name)} .* started with .* --init-from"):
        before.resumed({name: FIXED[name]})
    assert before.resumed({name: getattr(before, name)}) == before


def test_epochs_of_a_cosine_may_not_change():
    """The schedule depends on the total number of epochs."""
    before = resolve(Config(schedule="cosine"), CLASSES)
    with pytest.raises(ConfigError, match="--epochs 50 cannot be changed"):
        before.resumed({"epochs": 50})


def test_exact_reductions_may_change():
    """They give the same bits; `allreduce` does not."""
    before = resolve(Config(combine="node"), CLASSES)
    assert before.resumed({"combine": "tree"}).combine == "tree"
    with pytest.raises(ConfigError, match="--combine 'allreduce' cannot be changed"):
        before.resumed({"combine": "allreduce"})


def test_changes_are_checked():
    """Changes are checked like the options of a new run."""
    with pytest.raises(ConfigError, match="--keep 0"):
        Config().resumed({"keep": 0})


# Options without an effect.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentum": 0.5}, "--momentum has no effect with --optimizer sgd; .* momentum or nest"),
        ({"momentum": 0.5, "optimizer": "adam"}, "--momentum"),
        ({"weight_decay": 0.1, "optimizer": "adam"}, "--weight-decay has no effect .* to adamw"),
        ({"decay": 0.5}, "--decay has no effect with --schedule constant; .* step or plateau"),
        ({"check_every": 5, "combine": "allreduce"}, "--check-every has no effect"),
        ({"decay_epochs": 3, "schedule": "cosine"}, "--decay-epochs"),
        ({"dropout": 0.5, "hidden": ()}, "--dropout"),
        ({"init": "large", "init_from": "other"}, "--init "),
    ],
)
def test_options_without_effect(given, message):
    """A value that would be ignored is refused."""
    with pytest.raises(ConfigError, match=message):
        check_useful(given, {})


def test_options_with_effect():
    """The option that they depend on may be given, or be in the file."""
    check_useful({"momentum": 0.5, "optimizer": "nesterov"}, {})
    check_useful({"momentum": 0.5}, {"optimizer": "momentum"})
    check_useful({"decay": 0.5, "decay_epochs": 1, "schedule": "plateau"}, {"schedule": "step"})
    check_useful({}, asdict(Config()))


# TOML.


def round_trip(config, path):
    path.write_text(config.to_toml(), encoding="utf-8")
    return Config(**read_toml(path))


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    return tmp_path_factory.mktemp("toml") / "run.toml"


def test_round_trip_of_every_option(toml):
    """Every option is restored but `quiet`, which is not written."""
    for options in ({}, CHANGES, FIXED | {"fold": None}, {"fold": "1/2"}, {"hidden": ()}):
        expected = Config(**options | {"quiet": False})
        assert round_trip(Config(**options | {"quiet": True}), toml) == expected


@given(
    data=st.text(),
    learning_rate=st.none() | st.floats(0, 1e300),
    l2=st.floats(0, 1e300) | st.integers(0, 10**6),
    seed=st.integers(0, 2**63 - 1),
    hidden=st.lists(st.integers(1, 10**6)),
)
@settings(max_examples=40)
@example(data="\x7f\t\"\\'\r\n\u2028η", learning_rate=5e-324, l2=0, seed=0, hidden=[])
def test_round_trip_of_any_value(toml, data, **options):
    """Every path, number and list is restored exactly."""
    config = Config(data=data, **options)
    assert round_trip(config, toml) == config


def test_keys_are_the_flags():
    """Keys of the file are the flags without dashes in front; None is left out."""
    text = Config(batch_size=10).to_toml()
    assert "batch-size = 10\n" in text
    assert "patience" not in text


def test_path_objects_are_accepted(tmp_path):
    """They make the same configuration as strings."""
    config = Config(data=tmp_path / "d.h5", out=tmp_path / "run")
    assert config == Config(data=str(tmp_path / "d.h5"), out=str(tmp_path / "run"))
    assert str(tmp_path) in config.to_toml()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = '3'", "epochs = '3': expected a"),
        ("epochs = 3.0", r"epochs = 3.0: expected a"),
        ("epochs = true", "epochs = True: expected a"),
        ("learning-rate = '0.1'", "learning-rate = '0.1': expected a"),
        ("quiet = 1", "quiet = 1: expected a bool"),
        ("hidden = 100", "hidden = 100: expected a list of whole numbers"),
        ("hidden = [1.5]", "hidden = .1.5.: expected a list of whole numbers"),
        ("data = 5", "data = 5: expected a"),
        ("batch_size = 5", "'batch_size' is not an option"),
        ("colour = 'red'", "'colour' is not an option"),
        ("[train]\nepochs = 3", "'train' is not an option"),
        ("epochs = ", "is not TOML"),
    ],
)
def test_errors_in_a_file(tmp_path, text, message):
    """The message names the file, the option and the value."""
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as failure:
        read_toml(tmp_path / "run.toml")
    assert "run.toml" in str(failure.value)


def test_files_that_cannot_be_read(tmp_path):
    """A missing file and one that is not UTF-8 are reported with their path."""
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.toml"):
        read_toml(tmp_path / "bytes.toml")


def test_every_option_has_a_help_text_and_a_group():
    """`--help` lists each of them under one of its headings."""
    assert all(one.metadata["help"] for one in fields(Config))
    assert {one.metadata["group"] for one in fields(Config)} <= set(GROUPS)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30min", 1800), ("1.5h", 5400)])
def test_a_time_limit_has_a_unit(text, seconds):
    """Seconds, minutes or hours."""
    assert Config(time_limit=text).seconds("time_limit") == seconds


@pytest.mark.parametrize("text", ["90", "1:30:00", "-1s", "s", "2 days"])
def test_a_time_limit_without_a_unit_is_refused(text):
    """A number alone could mean seconds or minutes."""
    with pytest.raises(ConfigError, match="--time-limit"):
        Config(time_limit=text)


def test_numbers_of_numpy_are_numbers():
    """As they come from a grid of options; what is stored is Python's."""
    config = Config(
        hidden=np.array([5, 4]), epochs=np.int64(2), learning_rate=np.float64(0.5), l2=np.float32(2)
    )
    assert config == Config(hidden=(5, 4), epochs=2, learning_rate=0.5, l2=2.0)
    assert Config(hidden=np.int32(3)).hidden == (3,)
    values = [*config.hidden, config.epochs, config.learning_rate, config.l2]
    assert {type(value) for value in values} == {int, float}
    with pytest.raises(ConfigError, match="expected a whole number"):
        Config(epochs=np.bool_(True))
    with pytest.raises(ConfigError, match="expected a whole number"):
        Config(epochs=np.float64(2))
