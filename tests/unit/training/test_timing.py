"""What the time of the steps was spent on, and the line about it."""

import re
from dataclasses import replace

import pytest

from distbp.training.timing import RankTime, Timing, checkpoint_hint, timing_summary


def ranks(*computes, waits=None, update=10e-6, shards=None, nodes=None):
    """Return the times of some ranks, ordinary but for what is given."""
    n = len(computes)
    waits, shards, nodes = waits or [0.0] * n, shards or [2] * n, nodes or [0] * n
    return [
        RankTime(f"n{node}", node, count, compute, wait, update)
        for compute, wait, count, node in zip(computes, waits, shards, nodes, strict=True)
    ]


def test_a_step_is_split_into_three_parts():
    """Waiting happens after computing; the rest of that time is the update."""
    timing = Timing()
    timing.add_step(began=1.0, computed=4.0, ended=10.0, waited=2.0)
    timing.add_step(began=10.0, computed=11.0, ended=13.0, waited=1.0)
    assert timing.per_step() == [2.0, 1.5, 2.5]
    assert sum(timing.per_step()) * timing.steps == 12.0


def test_no_time_before_the_first_step():
    assert Timing().per_step() == [0.0, 0.0, 0.0]


def test_one_rank_does_not_wait():
    text = timing_summary(ranks(90e-6), cores=2, batch_size=4)
    assert text == "100 µs a step: 90% compute, 10% update"


def test_the_slowest_rank_is_named_with_its_host():
    text = timing_summary(ranks(100e-6, 150e-6, 100e-6, nodes=[0, 0, 1]), cores=4, batch_size=4)
    assert "slowest: rank 1 on n0, +50%; check what else runs on that host" in text
    assert re.match(r"127 µs a step: 92% compute, 0% wait, 8% update", text)


def test_the_hidden_fraction_is_that_of_the_ranks_that_know_it():
    times = ranks(100e-6, 100e-6, 100e-6, nodes=[0, 1, 2])
    assert "hidden" not in timing_summary(times, cores=2, batch_size=4)
    times[:2] = replace(times[0], hidden=0.5), replace(times[1], hidden=0.25)
    text = timing_summary(times, cores=2, batch_size=4)
    assert "0% wait (38% of the exchange hidden), 9% update" in text


@pytest.mark.parametrize(
    ("times", "cores", "advice"),
    [
        (
            ranks(90e-6, 0.0, shards=[1, 0]),
            2,
            "1 had nothing to compute: fewer ranks, or --shards 2,",
        ),
        (ranks(*[90e-6] * 4, 0.0, shards=[1, 1, 1, 1, 0]), 5, "or a larger --batch-size, would"),
        (ranks(90e-6, 45e-6, waits=[0, 90e-6], shards=[2, 1]), 2, "divides 3"),
        (ranks(90e-6, 90e-6, 90e-6), 2, "ranks share cores: 2 ranks"),
        (ranks(90e-6, 90e-6, waits=[90e-6] * 2, nodes=[0, 1]), 4, "the network is slow"),
        (ranks(90e-6, 90e-6, waits=[90e-6] * 2), 4, "ranks wait for each other"),
        (ranks(90e-6, 90e-6, update=60e-6), 4, "a larger --batch-size would help"),
        (ranks(90e-6, 90e-6), 4, "more ranks, up to 4, would help"),
        (ranks(90e-6, 90e-6), 2, "more ranks on more cores, up to 4, would help"),
        (ranks(90e-6, 90e-6, shards=[1, 1]), 4, "would make use of more ranks"),
    ],
)
def test_suggestions(times, cores, advice):
    """The first remedy that applies."""
    assert advice in timing_summary(times, cores, batch_size=4)


@pytest.mark.parametrize(
    ("checkpoint_wait_s", "saves", "seconds", "is_hinted"),
    [(6.0, 1000, 10.0, True), (6.0, 2, 10.0, True), (2.0, 1000, 10.0, False),
     (1.0, 1000, 1.5, False), (600.0, 10, 1000.0, False), (6.0, 0, 10.0, False)],
)  # fmt: skip
def test_frequent_checkpoints_are_hinted_at(checkpoint_wait_s, saves, seconds, is_hinted):
    """Not a few slow ones: a longer interval would not reduce them."""
    text = checkpoint_hint(checkpoint_wait_s, saves, seconds)
    assert (text is not None) == is_hinted
    assert text is None or text.startswith(
        "60% of the time went to checkpoints; --checkpoint-every 60s"
    )
