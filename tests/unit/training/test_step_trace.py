"""A few steps and their digests: how many rows and epochs they are, and what is compared."""

from dataclasses import replace

import numpy as np
import pytest
import samples

from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.step_trace import plan_few_steps, trace_steps

ALONE = Topology()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {
        name: str(path) for name, path in samples.write_all(tmp_path_factory.mktemp("data")).items()
    }


@pytest.mark.parametrize(
    ("options", "rows", "epochs"),
    [
        ({"batch_size": 20}, 90, 4),  # 4 batches and a half
        ({"batch_size": 20, "schedule": "step", "decay_epochs": 8}, 30, 10),
        ({"batch_size": 20, "warmup_epochs": 5.5}, 50, 7),
        ({"batch_size": 20, "validation": 0.5}, 90, 4),
        ({"batch_size": 20, "fold": "2/3"}, 90, 4),
        ({"batch_size": 200}, 503, 7),  # all rows, in 3 batches
        ({"batch_size": 1000}, 503, 20),
        ({"batch_size": 1}, 5, 4),
    ],
    ids=str,
)
def test_the_steps_are_several_epochs(data, options, rows, epochs):
    """The last batch of each is a short one; the other rows are not read."""
    plan = plan_few_steps(Config(data=data["digits"], hidden=(5,), **options), 20, ALONE)
    assert len(plan.rows) == pytest.approx(rows, abs=2)
    assert plan.config.epochs == epochs
    steps = -(-len(plan.rows) // plan.config.batch_size) * epochs
    assert 20 <= steps < 20 + len(plan.rows)
    if rows < 503:
        assert plan.rows.numbers(0, len(plan.rows)).max() < 200


def test_the_trace_is_that_of_the_training(data, tmp_path):
    """A digest for each array after each step; the end is that of `train` on the same rows."""
    options = {"hidden": (9,), "batch_size": 150, "optimizer": "adam", "ema": 0.9, "dropout": 0.2}
    config = Config(data=data["digits packed"], **options)
    trace, theta = trace_steps(config, 16, ALONE)
    config = replace(config, epochs=4, out=str(tmp_path / "run"), quiet=True)
    whole = train(config, comm=ALONE)
    assert [one["step"] for one in trace["steps"]] == [0, *[1, 2, 3, 4] * 4]
    assert [one["epoch"] for one in trace["steps"]] == [1, *np.repeat([1, 2, 3, 4], 4)]
    assert trace["records"][-1]["digest"] == whole.digest
    assert trace["plain_records"] == trace["records"]
    assert len(trace["arrays"]) == 2 * 2 * 4  # θ, its average, and two moments
    assert trace["arrays"][2] == [1, "weights of the moving average"]
    assert len({one["digests"][0] for one in trace["steps"]}) == 17
    assert trace["seconds"] > 0
    assert theta.size == 48 * 9 + 9 + 9 * 5 + 5


@pytest.mark.parametrize("name", ["digits packed", "numbers packed"])
def test_rows_that_stay_in_the_file(data, name):
    """As those of data larger than memory: blocks of the first rows are read."""
    config = Config(data=data[name], hidden=(5,), batch_size=20, shuffle="blocks")
    first, _ = trace_steps(config, 10, ALONE)
    again, _ = trace_steps(config, 10, ALONE)
    assert len(first["steps"]) > 10
    for one in (first, again):
        del one["seconds"]
    assert first == again
    other, _ = trace_steps(replace(config, seed=1), 10, ALONE)
    assert other["steps"][0]["digests"] != first["steps"][0]["digests"]
    assert np.isfinite(float.fromhex(first["steps"][-1]["cost"]))
