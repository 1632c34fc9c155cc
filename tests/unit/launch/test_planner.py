"""Predictions from given costs, compared with values worked out by hand."""

from dataclasses import replace

import pytest

from distbp.errors import CheckpointError, ConfigError
from distbp.launch import checkpoint_cost, planner
from distbp.launch.checkpoint_cost import CheckpointCost, checkpoint_line, measure_checkpoint
from distbp.launch.planner import (
    PlanRequest,
    StepCosts,
    _backprop_flops,
    _rank_counts,
    _recommendations,
    _table_lines,
    measure_costs,
    plan_report,
    predict_step,
)
from distbp.network.parameters import THETA_BLOCK, theta_size
from distbp.parallel.topology import Topology

P = 64 * THETA_BLOCK
COSTS = StepCosts(
    shard=1e-3, add=1e-9, update=2e-9, step=5e-6, barrier=1e-6, latency=1e-4, bandwidth=1e9
)


def prediction(ranks, shards=8, per_node=4, parameters=P, costs=COSTS):
    return predict_step(costs, parameters, 4, shards, ranks, per_node)


def test_one_rank_computes_adds_and_updates_everything():
    step = prediction(1)
    assert (step.ranks, step.nodes, step.network) == (1, 1, 0)
    assert step.compute == pytest.approx(8e-3)
    assert step.sum == pytest.approx(7 * P * 1e-9 + P * 2e-9)
    assert step.wait == pytest.approx(5e-6)
    assert step.seconds == pytest.approx(step.compute + step.sum + step.wait)


def test_ranks_of_a_node_share_the_work():
    """4 ranks with 2 shards each: one addition each, 3 in slices of a quarter, 2 barriers."""
    step = prediction(4)
    assert step.compute == pytest.approx(2e-3)
    assert step.sum == pytest.approx(P * 1e-9 + 3 * P / 4 * 1e-9 + P / 4 * 2e-9)
    assert step.wait == pytest.approx(5e-6 + 2 * 3 * 1e-6)


def test_two_nodes_exchange_halves_of_theta():
    """2 nodes: half of θ twice, in two messages, and half of it added up in slices."""
    step = prediction(8)
    assert (step.nodes, step.compute) == (2, pytest.approx(1e-3))
    half = P * 4 / 2
    assert step.network == pytest.approx(2 * half / 1e9 + 2e-4 + P / 4 / 2 * 1e-9)


def test_backprop_hides_a_part_of_the_exchange():
    """Not more than the network takes, nor than backprop: and nothing for a small network."""
    sizes = (784, 1024, 512, 10)
    apart = predict_step(COSTS, theta_size(sizes), 4, 8, 2, 1)
    behind = predict_step(COSTS, theta_size(sizes), 4, 8, 2, 1, sizes)
    assert 0 < apart.network - behind.network < min(apart.network, behind.compute)
    small = (20, 10, 5)
    assert predict_step(COSTS, theta_size(small), 4, 8, 2, 1, small) == predict_step(
        COSTS, theta_size(small), 4, 8, 2, 1
    )


def test_a_node_with_several_subtrees_sends_more():
    """3 nodes of one rank, 8 shards: two of them have two subtrees."""
    one, two = prediction(4, per_node=1), prediction(3, per_node=1)
    share = P * 4 / 1e9
    assert one.network == pytest.approx(2 * (3 / 4 * share + 2e-4) + 3 * P / 4 * 1e-9)
    assert two.network == pytest.approx(3 * (2 / 3 * share + 2e-4) + 4 * P / 3 * 1e-9)


def test_small_networks_are_not_divided_among_all_ranks():
    """A network of a few blocks is updated only by ranks that have shards."""
    assert prediction(4, parameters=THETA_BLOCK, shards=2).sum == pytest.approx(
        THETA_BLOCK * (1 / 2 + 2 / 2) * 1e-9
    )


def test_rank_counts():
    assert _rank_counts(1) == [1]
    assert _rank_counts(8) == [1, 2, 4, 8]
    assert _rank_counts(1000)[-2:] == [512, 1000]


def test_recommendation_when_there_are_more_ranks_than_shards():
    steps = [prediction(n, shards=4, per_node=64) for n in _rank_counts(64)]
    text = "\n".join(_recommendations(steps, 256, 4))
    assert "Up to 4 ranks are worthwhile" in text
    assert "has only 4 shards of 64 rows" in text
    assert "A batch of 512 rows, or --shards 8 with 32 rows each" in text
    text = "\n".join(_recommendations(steps, 6, 4))
    assert "A batch of 12 rows would keep 8 ranks busy; it changes" in text


def test_recommendation_when_the_network_is_slow():
    slow = replace(COSTS, bandwidth=1e6)
    steps = [prediction(n, shards=64, per_node=2, costs=slow) for n in _rank_counts(32)]
    text = "\n".join(_recommendations(steps, 4096, 64))
    assert "Up to 2 ranks are worthwhile" in text
    assert "With 4 ranks, the network takes" in text


def test_recommendation_when_all_ranks_are_worthwhile():
    steps = [prediction(n, shards=64, per_node=64) for n in _rank_counts(16)]
    assert len(list(_recommendations(steps, 4096, 64))) == 1


def test_the_table_has_a_line_for_each_prediction():
    steps = [prediction(n) for n in _rank_counts(1000)]
    lines = list(_table_lines(steps))
    assert len(lines) == len(steps) + 1
    assert len({len(line) for line in lines}) == 1, lines


def test_measured_costs_are_plausible():
    """All are positive, and larger for a larger network; one node does not measure a network."""
    small, large = (
        measure_costs(Topology(), (20, n, 3), "float32", 16, 1e-5, 1e9) for n in (10, 1000)
    )
    assert min(small.shard, small.add, small.step) > 0
    assert small.update >= 0
    assert large.shard > small.shard
    assert (small.latency, small.bandwidth) == (1e-5, 1e9)


def test_the_report_describes_the_request():
    lines = plan_report(
        PlanRequest((6, 5, 4), batch_size=64, shards=4, up_to=5, ranks_a_node=2), Topology()
    )
    size = theta_size((6, 5, 4))
    assert lines[0].startswith(f"6-5-4, {size} parameters; batches of 64 rows, 4 shards of 16;")
    numbers = [line.split()[0] for line in lines if line[:5].strip().isdecimal()]
    assert numbers == ["1", "2", "4", "5", *numbers[4:]]


def test_flops():
    """Forward and BP4 for every layer, BP2 for all but the first."""
    assert _backprop_flops((3, 4, 5), 2) == 2 * 2 * (12 + 20) * 2 + 2 * 2 * 20


@pytest.mark.parametrize(
    "options",
    [{"sizes": (3,)}, {"sizes": (3, 0)}, {"batch_size": 0}, {"shards": 0}, {"bandwidth": 0.0}],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        PlanRequest(**{"sizes": (3, 2)} | options)


def test_more_shards_than_rows_are_refused():
    with pytest.raises(ConfigError, match="--shards 8 cuts a batch of 4 rows too small"):
        PlanRequest((3, 2), batch_size=4, shards=8)


def test_what_checkpoints_cost(monkeypatch, tmp_path):
    """Measured, in proportion to the size beyond some; at most one a second is written."""
    monkeypatch.setattr(checkpoint_cost, "_MAX_PARAMETERS", 1000)
    small, large = (measure_checkpoint(n, "float32") for n in (1000, 1_000_000))
    assert (small.bytes, large.bytes) == (4000, 4_000_000)
    assert 0 < small.copy < small.write < large.write
    assert CheckpointCost(4000, 0.001, 0.004).share == pytest.approx(0.005)
    assert CheckpointCost(4000, 1.0, 4.0).share == 1.0
    text = checkpoint_line(CheckpointCost(4_000_000, 0.0012, 0.0348))
    assert "4.0 MB" in text
    assert "copied in 1.2 ms and written in 35 ms" in text
    assert text.endswith("at most one a second: up to 3.6% of the time.")


def test_without_a_folder_for_temporary_files_checkpoints_are_left_out(monkeypatch):
    def fails(parameters, dtype):
        raise CheckpointError("disk full")

    monkeypatch.setattr(planner, "measure_checkpoint", fails)
    assert list(planner._checkpoint_lines(10, "float32")) == []
