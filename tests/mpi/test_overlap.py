"""The exchange between nodes during backprop: the same bits in every mode, on any layout."""

from time import sleep

import numpy as np
import pytest

from distbp.parallel import internode, overlap, reduction, reduction_plan
from distbp.parallel.topology import Topology
from distbp.training.compiled_engine import CompiledEngine
from distbp.training.config import Config
from distbp.training.loop import train

pytestmark = pytest.mark.mpi

ROWS = 600
STEPS = -(-ROWS // 45)  # of an epoch
OPTIONS = {
    "hidden": (300, 300), "batch_size": 45, "shards": 11, "epochs": 2, "optimizer": "adam",
    "dropout": 0.2, "quiet": True, "engine": "numpy",
}  # fmt: skip


def run(comm: Topology, **more) -> str:
    """Train on random rows; return the digest."""
    random = np.random.default_rng(3)
    x, y = random.random((ROWS, 300), np.float32), random.integers(0, 4, ROWS)
    if "on_nan" in more:
        x[77] = 1e38  # of which a sum overflows
    options = {"task": "classification", "scaling": "none"}
    return train(Config(**OPTIONS | more), x, y, comm=comm, **options).digest


@pytest.fixture(scope="module")
def alone() -> dict:
    """Return the digests of one process."""
    return {None: run(Topology()), 0.5: run(Topology(), clip_norm=0.5)}


def compiled(comm: Topology, **more) -> str:
    """Train by compiled steps, enough for the trials; return the digest."""
    return run(comm, engine="compiled", epochs=4, **more)


@pytest.fixture(scope="module")
def compiled_alone() -> str:
    """Return the digest of one process, of compiled steps."""
    pytest.importorskip("numba")
    return compiled(Topology())


@pytest.fixture
def seen(monkeypatch) -> list:
    """Return a list of the modes of steps, and of the layers that were computed ahead."""
    found = []
    begin, forward_ahead = overlap.Overlap.begin, CompiledEngine._forward_ahead

    def begin_noted(self):
        is_layered = begin(self)
        found.append(self.mode)
        return is_layered

    def forward_noted(self, batch, layer):
        found.append(layer)
        forward_ahead(self, batch, layer)

    monkeypatch.setattr(overlap.Overlap, "begin", begin_noted)
    monkeypatch.setattr(CompiledEngine, "_forward_ahead", forward_noted)
    return found


def test_compiled_steps_overlap_as_well(comm, everywhere, compiled_alone, seen):
    """They store to the counter themselves; the trials run through all modes without calls."""
    digest = compiled(comm)
    assert set(everywhere(digest)) == {compiled_alone}
    modes = {overlap.OFF, overlap.THREAD, overlap.AHEAD, 1, 2, 3} if comm.nodes > 1 else set()
    assert all(found == modes for found in everywhere(set(seen)))


@pytest.fixture
def always_ahead(monkeypatch) -> None:
    """Let all steps be in the mode AHEAD, from the first one on."""

    def include(self, make_order):
        self._make_ahead_order, self._ahead_order = make_order, make_order(1.0, 1.0)
        self._trial = overlap.ModeTrial([overlap.AHEAD], [], 0.0, self._allgather)

    monkeypatch.setattr(overlap.Overlap, "include_ahead", include)


@pytest.mark.parametrize("early", [0, 1, 7, 100])
def test_the_next_forward_pass_begins_early(
    comm, everywhere, monkeypatch, compiled_alone, always_ahead, seen, early
):
    """Whatever number of exchanges begins in the order of backprop; on one node there are none."""
    monkeypatch.setattr(reduction_plan, "_MIN_MESSAGE_BYTES", 20_000)  # more than are in flight
    monkeypatch.setattr(reduction, "count_early", lambda exchanges, *_: min(early, len(exchanges)))
    digest = compiled(comm)
    assert set(everywhere(digest)) == {compiled_alone}
    step = [overlap.AHEAD, 1, 2, 3]
    epoch = step * (STEPS - 1) + [overlap.AHEAD]  # the last step has none after it
    assert all(found == (epoch * 4 if comm.nodes > 1 else []) for found in everywhere(seen))


@pytest.mark.parametrize("options", [{"check_every": 3}, {"on_nan": "skip"}])
def test_a_forward_pass_is_forgotten_if_its_step_does_not_follow(
    comm, everywhere, always_ahead, caplog, options
):
    """When a step is repeated to check it, or not applied because a number is not finite.

    By a θ that is not finite, the next step could not be applied either: a second warning.
    """
    pytest.importorskip("numba")
    expected = compiled(Topology(), **options)
    caplog.clear()
    digest = compiled(comm, **options)
    assert set(everywhere(digest)) == {expected}
    warnings = caplog.text.count("is not a finite number")
    assert max(everywhere(warnings)) == (4 if "on_nan" in options else 0)


def test_a_rank_that_shares_its_core_has_the_bits_of_one_process(
    comm, everywhere, monkeypatch, alone
):
    """It sleeps while it waits for messages."""
    pauses = []
    monkeypatch.setattr(internode, "_PRESSURE_WINDOW_S", 0.0)
    monkeypatch.setattr(internode, "_HIGH_PRESSURE", -1.0)
    monkeypatch.setattr(internode, "sleep", lambda seconds: (pauses.append(1), sleep(seconds)))
    digest = run(comm)
    assert set(everywhere(digest)) == {alone[None]}
    assert any(everywhere(len(pauses) > 0)) == (comm.nodes > 1)


@pytest.mark.parametrize("mode", ["trial", overlap.OFF, overlap.CALLS, overlap.THREAD])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_every_mode_has_the_bits_of_one_process(
    comm, everywhere, monkeypatch, alone, mode, clip_norm
):
    """The trial runs through all of them; 11 shards are a different number on each rank."""
    begun = []
    begin = overlap.Overlap.begin

    def counted(self):
        if mode != "trial":
            self._trial.next = lambda: setattr(self._trial, "mode", mode)
        begun.append(begin(self))
        return begun[-1]

    monkeypatch.setattr(overlap.Overlap, "begin", counted)
    digest = run(comm, clip_norm=clip_norm)
    assert set(everywhere(digest)) == {alone[clip_norm]}
    if comm.nodes > 1:
        assert all(everywhere(len(begun) == 2 * STEPS))
        expected = {overlap.OFF: {False}, "trial": {True, False}}.get(mode, {True})
        assert mode == "trial" or all(everywhere(set(begun) == expected))
    else:
        assert not any(everywhere(begun))
