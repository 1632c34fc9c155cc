"""Metrics are those of scikit-learn, also for absent classes, ties and divisions by zero."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.parallel.topology import Topology
from distbp.training.class_counts import MOST_IN_MATRIX
from distbp.training.config import Config
from distbp.training.measurement import Measurement
from distbp.training.metric_names import all_metrics, choose, part_names
from distbp.training.metrics import METRICS, Metric, RowMetric, find_metric

# scikit-learn warns of what is undefined.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning"),
    pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true"),
    pytest.mark.filterwarnings("ignore:A single label was found"),
]

AVERAGES = {"": "macro", "_micro": "micro", "_weighted": "weighted"}


def measured(choices, task, output, y, cuts=(), r2=()):
    """Return what a measurement of blocks of rows, cut at some places, results in."""
    measurement = Measurement(choices, task, output.shape[1], has_parts=True)
    sums = np.zeros(measurement.width)
    places = sorted({0, len(y), *(cut % len(y) for cut in cuts)})
    for start, stop in itertools.pairwise(places):
        sums += measurement.add(output[start:stop], y[start:stop])
    measurement.gather(Topology())
    found = measurement.results(len(y), sums, np.asarray(r2, float))
    assert json.loads(json.dumps(vars(found))) == vars(found)
    return found


def everything(task, output, y, **others):
    names = [str(i) for i in range(output.shape[1])]
    return measured(all_metrics(task, names), task, output, y, **others)


def same(found, expected):
    """Return whether numbers are equal but for rounding; None stands for NaN."""
    found = np.array([np.nan if one is None else one for one in np.atleast_1d(found)], float)
    return np.allclose(found, np.atleast_1d(expected), rtol=1e-9, atol=1e-12, equal_nan=True)


@st.composite
def classified(draw):
    """Rows of up to six classes, some of which may be absent, with outputs that are often equal."""
    n_out, rows = draw(st.integers(2, 6)), draw(st.integers(1, 30))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    cells = st.lists(st.integers(0, 3), min_size=n_out, max_size=n_out)
    weights = np.array(draw(st.lists(cells, min_size=rows, max_size=rows)), float) + 0.25
    y = draw(
        st.lists(st.integers(0, draw(st.integers(0, n_out - 1))), min_size=rows, max_size=rows)
    )
    cuts = draw(st.lists(st.integers(0, 100), max_size=3))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(dtype), np.array(y), cuts


@given(classified())
@settings(max_examples=25, deadline=None)
def test_metrics_of_classes(rows):
    output, y, cuts = rows
    n_out, predicted = output.shape[1], output.argmax(axis=1)
    every = range(n_out)
    found = everything("classification", output, y, cuts=cuts)
    values, parts = found.values, found.parts
    present = sorted({*y, *predicted})
    for end, average in AVERAGES.items():
        expected = sk.precision_recall_fscore_support(y, predicted, average=average)
        assert same(
            [values[f"{name}{end}"] for name in ("precision", "recall", "f1")], expected[:3]
        )
        if n_out > 2:
            area = sk.roc_auc_score(y, output, multi_class="ovr", average=average, labels=every)
            assert same(values[f"roc_auc{end}"], area), (end, area)
    each = sk.precision_recall_fscore_support(y, predicted, labels=present, average=None)
    for name, numbers in zip(("precision", "recall", "f1", "rows"), each, strict=True):
        assert same([parts[name][k] for k in present], numbers)
    assert all(parts["f1"][k] is None for k in every if k not in present)
    assert parts["predicted"] == np.bincount(predicted, minlength=n_out).tolist()
    if n_out == 2:
        area = sk.roc_auc_score(y, output[:, 1]) if len(set(y)) > 1 else np.nan
        assert same([values["roc_auc"], *parts["roc_auc"]], [area] * 3)
    else:
        areas = [sk.roc_auc_score(y == k, output[:, k]) for k in every]
        assert same(parts["roc_auc"], areas)
        for name, choice in (("top_3_accuracy", 3), ("top_5_accuracy", 5)):
            if choice < n_out:
                hits = sk.top_k_accuracy_score(y, output, k=choice, labels=every)
                assert values[name] == pytest.approx(hits)
            else:
                assert name not in values
    assert same(values["balanced_accuracy"], sk.balanced_accuracy_score(y, predicted))
    loss = sk.log_loss(y, output, labels=every)
    assert values["log_loss"] == pytest.approx(
        loss, rel=1e-6 if output.dtype == np.float32 else 1e-12
    )
    assert values["confusion_matrix"] == sk.confusion_matrix(y, predicted, labels=every).tolist()
    assert "roc_auc_error" not in values


@given(
    st.integers(2, 4), st.integers(1, 20), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.8]),
    st.lists(st.integers(0, 99), max_size=3),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_metrics_of_labels(n_out, rows, seed, share, cuts):
    random = np.random.default_rng(seed)
    y = (random.random((rows, n_out)) < share).astype(np.uint8)
    output = random.integers(0, 5, (rows, n_out)) / 4  # 1/2 is predicted to be 0
    predicted = (output > 0.5).astype(int)
    found = everything("multilabel", output, y, cuts=cuts)
    values, parts = found.values, found.parts
    for end, average in AVERAGES.items():
        expected = sk.precision_recall_fscore_support(y, predicted, average=average)
        assert same(
            [values[f"{name}{end}"] for name in ("precision", "recall", "f1")], expected[:3]
        )
        area = sk.roc_auc_score(y, output, average=average)
        assert same(values[f"roc_auc{end}"], area), end
    each = sk.precision_recall_fscore_support(y, predicted, average=None)
    for name, numbers in zip(("precision", "recall", "f1", "rows"), each, strict=True):
        assert same(parts[name], numbers)
    assert values["exact_match"] == pytest.approx(sk.accuracy_score(y, predicted))
    matrices = sk.multilabel_confusion_matrix(y, predicted).tolist()
    assert values["confusion_matrix"] == matrices


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_metrics_of_numbers(n_out, rows, seed):
    random = np.random.default_rng(seed)
    output, y = random.normal(0, 1e5, (2, rows, n_out))
    found = everything("regression", output, y, cuts=[seed], r2=np.full(n_out, 0.5))
    raw = {"multioutput": "raw_values"}
    assert same(found.values["mae"], sk.mean_absolute_error(y, output))
    assert same(found.values["rmse"], sk.root_mean_squared_error(y, output))
    assert same(found.parts["mae"], sk.mean_absolute_error(y, output, **raw))
    assert same(found.parts["rmse"], sk.root_mean_squared_error(y, output, **raw))
    assert found.values["r2"] == 0.5


def test_outputs_that_are_not_numbers():
    """They are no hits, and what depends on their order is undefined."""
    output, y = np.full((3, 6), np.nan), np.array([0, 1, 0])
    found = everything("classification", output, y).values
    assert (found["top_3_accuracy"], found["roc_auc"], found["log_loss"]) == (0.0, None, None)


def test_a_confusion_matrix_of_very_many_classes():
    """It would not fit into memory; everything else is there."""
    n_out = MOST_IN_MATRIX + 1
    found = everything("classification", np.eye(3, n_out), np.arange(3)).values
    assert found["confusion_matrix"] is None
    assert found["f1"] == 1.0


# Names.


def test_names_and_keys():
    """Hyphens or underscores, averages, classes whose names have hyphens, any k, each once."""
    names = ("f1", "f1_micro", "roc-auc-weighted", "f1:a-b", "top-2-accuracy", "f1-macro", "f1")
    choices = choose([*names, "cost", "accuracy"], "classification", ("c", "a-b", "d"))
    assert [one.key for one in choices] == [
        "f1", "f1_micro", "roc_auc_weighted", "f1:a-b", "top_2_accuracy", "f1_macro",
    ]  # fmt: skip
    y = np.array([0, 1, 1])
    found = measured(choices, "classification", np.eye(3)[[0, 1, 2]], y).values
    assert found["f1:a-b"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == found["f1"]
    assert choose(["mae:price"], "regression", ("size", "price"))[0].part == 1


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("f2", "classification"), ("mae", "classification"), ("f1", "regression"),
        ("f1:z", "classification"), ("f1-micro:a", "classification"),
        ("f1-median", "classification"), ("log-loss:a", "classification"),
        ("top-0-accuracy", "classification"),
        ("exact-match", "classification"), ("", "multilabel"), (":a", "multilabel"),
    ],
)  # fmt: skip
def test_names_that_do_not_exist(name, task):
    with pytest.raises(ConfigError, match=rf"no metric '{name}' for {task}. Choose from .*:a\.$"):
        choose([name], task, ("a", "b"))


def test_every_metric_is_found_and_says_which_way_is_better():
    assert all(find_metric(name) is metric for name, metric in METRICS.items() if name[:3] != "top")
    assert find_metric("top-3-accuracy") == METRICS["top-3-accuracy"]
    minimized = {name for name, metric in METRICS.items() if not metric.is_maximized}
    assert minimized == {"log-loss", "mae", "rmse"}


def test_names_of_parts():
    assert part_names(["a", "b"], None, 2) == ("a", "b")
    assert part_names([], None, 3) == ("0", "1", "2")


# A metric of one's own.


class WithinTenPercent(RowMetric):
    """As in the page of the module."""

    tasks = ("regression",)

    def __call__(self, output, y):
        return np.abs(output - y) <= 0.1 * np.abs(y)


class RelativeError(RowMetric):
    """A ratio of two sums."""

    columns, is_maximized = 2, False

    def __call__(self, output, y):
        return np.stack([np.abs(output - y).sum(axis=1), np.abs(y).sum(axis=1)], axis=1)

    def value(self, summary, average):
        error, size = summary.sums
        return error / size


def test_own_metrics(monkeypatch):
    """One number for each row, several of them, or a sum of columns."""
    monkeypatch.setitem(METRICS, "within", WithinTenPercent())
    monkeypatch.setitem(METRICS, "relative", RelativeError())
    y = np.array([[1.0, 10.0], [2.0, 20.0]])
    output = y + np.array([[0.05, 5.0], [0.0, 0.0]])
    choices = choose(["within", "relative"], "regression", ("a", "b"))
    found = measured(choices, "regression", output, y, cuts=[1]).values
    assert found == {"within": 0.75, "relative": pytest.approx(5.05 / 33)}
    assert "within" in [one.key for one in all_metrics("regression", ("a", "b"))]
    with pytest.raises(ConfigError, match="no metric 'within' for classification"):
        choose(["within"], "classification", ("a", "b"))


@pytest.mark.parametrize("result", [1.0, np.ones(3), np.ones((2, 3, 1))])
def test_an_own_metric_that_returns_something_else(result):
    class Wrong(RowMetric):
        columns = 2

        def __call__(self, output, y):
            return result

    with pytest.raises(ConfigError, match=r"Wrong returned an array \(.*\) for 2 rows\. Return 2"):
        Wrong().block_sums(np.ones((2, 2)), np.ones((2, 2)))


def test_parts_are_optional():
    class Two(Metric):
        def value(self, summary, average):
            return 2

    assert Two().parts(None) is None
    assert Two().applies_to(2)


def test_a_metric_of_ones_own_that_is_not_loaded_says_so():
    """As on a resume; `f1:z` is a class that there is not."""
    with pytest.raises(
        ConfigError, match=r"'nowhere:Mine' is a user's own class.* DISTBP_PARTS=nowhe"
    ):
        choose(["nowhere:Mine"], "classification", ("a", "b"))
    for name in ("f1:z", "f1_micro:z", "f2"):
        with pytest.raises(ConfigError, match=f"There is no metric '{name}'"):
            choose([name], "classification", ("a", "b"))


def test_a_metric_that_was_written_anew_is_the_new_one():
    """As in a notebook, where a class of the same name replaces another."""
    found = []
    for _ in range(2):

        class Mine(RowMetric):
            def __call__(self, output, y):
                output[:] = 0
                return y

        name = own_parts.register(Mine)
        found.append((find_metric(name), Mine))
    assert all(type(metric) is kind for metric, kind in found)
    with pytest.raises(ValueError, match="read-only"):
        found[1][0].block_sums(np.ones((2, 2)), np.zeros(2))
    METRICS.pop(name)


def test_a_class_may_be_the_monitor():
    class Mine(RowMetric):
        def __call__(self, output, y):
            return y

    config = Config(monitor=Mine)
    assert config.monitor == f"validation_{own_parts.name_of(Mine)}"
