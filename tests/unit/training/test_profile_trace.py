"""Spans of a rank in bounded memory, and the file that Perfetto opens."""

import gzip
import json

import numpy as np
import pytest
import samples

from distbp.compiled.descriptor import BACKPROP, FORWARD, ROWS, UPDATE_SPAN, WAIT
from distbp.errors import DataError
from distbp.network.network import Network
from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.loop import Run, train
from distbp.training.profile_trace import (
    BURST_STEPS,
    SPAN_NAMES,
    ClockReading,
    Lane,
    SpanRecorder,
    capacity_for,
    gather_lanes,
    in_common_time,
    read_clocks,
    write_trace,
)
from distbp.training.profiling import Profile
from distbp.training.setup import assemble


class Clock:
    """A clock that is moved by hand."""

    now = 1000

    def __call__(self):
        return self.now


def test_the_latest_spans_are_kept():
    """In order, also when the first ones have been overwritten several times."""
    recorder = SpanRecorder(4, Clock())
    assert recorder.spans().shape == (0, 3)
    for i in range(3):
        recorder.add(WAIT, i, i + 1)
    assert recorder.spans().tolist() == [[WAIT, i, i + 1] for i in range(3)]
    for i in range(3, 11):
        recorder.add(UPDATE_SPAN, i, i + 1)
    assert recorder.spans().tolist() == [[UPDATE_SPAN, i, i + 1] for i in range(7, 11)]
    assert recorder.added == 11


def test_adding_a_span_allocates_nothing(peak):
    recorder = SpanRecorder(100)
    assert peak(lambda: [recorder.add(ROWS, 1 << 40, 2 << 40) for _ in "a" * 1000]) < 10_000
    assert peak(recorder.begin_steps) < 200


@pytest.mark.parametrize("span_cost", [10, 1000, 100_000])
def test_short_steps_are_recorded_in_bursts(span_cost):
    """So that recording takes a quarter of a percent of the time, as the first burst shows."""
    clock = Clock()
    recorder = SpanRecorder(1000, clock)
    recorder.span_cost = span_cost
    recorded = []
    for _ in range(BURST_STEPS * 4096):
        before = recorder.is_recording
        assert recorder.begin_steps() == (recorder.is_recording is not before)
        clock.now += 100_000
        recorded.append(recorder.is_recording)
        if recorder.is_recording:
            for name in (ROWS, FORWARD, UPDATE_SPAN):
                recorder.add(name, clock.now - 10, clock.now)
    share = 2 * 3 * span_cost / 100_000  # twice, as caches are cold
    most = 0.0025
    assert np.mean(recorded) == (1.0 if share < most else 2.0 ** -np.ceil(np.log2(share / most)))
    bursts = np.reshape(recorded, (-1, BURST_STEPS))
    assert (bursts == bursts[:, :1]).all()
    # Those of a rank with more spans are a part of those of another one.
    assert set(np.flatnonzero(bursts[:, 0]) % max(1, round(1 / np.mean(recorded)))) == {0}


def test_calls_of_many_steps():
    """It is decided at the start of a call, the same for all calls of the same steps."""
    clock = Clock()
    recorder = SpanRecorder(1000, clock)
    recorder.span_cost = 1000
    recorded = []
    for _ in range(64):
        recorder.begin_steps(8 * BURST_STEPS)
        clock.now += 100_000
        recorded.append(recorder.is_recording)
        if recorder.is_recording:
            recorder.add(ROWS, clock.now - 10, clock.now)
    # A share of 2 %, as caches are cold: every eighth call.
    assert list(np.flatnonzero(recorded)) == list(range(0, 64, 8))


def test_the_file_of_a_trace(tmp_path):
    """One lane a rank, times in microseconds from 0, a span before those that it contains."""
    first = np.array(
        [[FORWARD, 5_000, 6_500], [BACKPROP, 5_000, 9_000], [UPDATE_SPAN, 9_001, 9_002]]
    )
    lanes = [Lane(0, 0, "one", first), Lane(1, 1, 'other "x"', first[:0])]
    write_trace(tmp_path / "trace.json", lanes)
    write_trace(tmp_path / "trace.json.gz", lanes)
    text = (tmp_path / "trace.json").read_bytes()
    assert gzip.decompress((tmp_path / "trace.json.gz").read_bytes()) == text
    events = json.loads(text)["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [(one["name"], one["ts"], one["dur"]) for one in spans] == [
        ("backprop", 0, 4), ("forward", 0, 1.5), ("update", 4.001, 0.001),
    ]  # fmt: skip
    assert {(one["pid"], one["tid"]) for one in spans} == {(1, 1)}
    names = {
        (one["name"], one["pid"], one["tid"]): one["args"]["name"]
        for one in events
        if one["name"] in ("process_name", "thread_name")
    }
    assert names["thread_name", 2, 2] == "rank 1"
    assert names["process_name", 2, 2] == 'node 1: other "x"'
    write_trace(tmp_path / "empty.json", [])
    assert json.loads((tmp_path / "empty.json").read_text())["traceEvents"] == []


def test_many_spans_are_valid_json(tmp_path):
    recorder = SpanRecorder(10_000, Clock())
    for i in range(9_000):
        recorder.add(i % len(SPAN_NAMES), 10 * i, 10 * i + 9)
    recorder.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(events) == 9_004


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="cannot be written: No such file or directory"):
        SpanRecorder(10).write(tmp_path / "no" / "trace.json")


def test_clocks_that_drift():
    """The offset between the two comparisons is interpolated."""
    spans = np.array([[WAIT, 1_000, 2_000], [WAIT, 11_000, 12_000]])
    first, last = ClockReading(1_000, 300), ClockReading(11_000, 400)
    assert in_common_time(spans, first, last).tolist() == [
        [WAIT, 700, 1_690], [WAIT, 10_600, 11_590],
    ]  # fmt: skip
    assert read_clocks(Topology()).offset == 0
    (lane,) = gather_lanes(Topology(), spans)
    assert (lane.rank, lane.spans.tolist()) == (0, spans.tolist())


def test_all_ranks_together_have_a_limit():
    assert capacity_for(1) == capacity_for(64) == 1 << 16
    assert capacity_for(1 << 10) == 1 << 12
    assert capacity_for(1 << 20) == 1000


@pytest.fixture
def options(tmp_path):
    return {
        "data": str(samples.DATA_SETS["digits packed"](tmp_path / "digits.h5")), "hidden": (9,),
        "batch_size": 70, "shards": 3, "epochs": 2, "quiet": True, "checkpoint_every": "1epoch",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "combine"), [("numpy", "node"), ("compiled", "node"), ("compiled", "allreduce")]
)
def test_the_profile_of_a_run(tmp_path, options, engine, combine):
    """Spans of every kind, each within the one it is part of; the result is the same.

    Whole steps may be compiled, or their gradient alone.
    """
    path, options = tmp_path / "profile.json", options | {"engine": engine, "combine": combine}
    plain = train(Config(out=str(tmp_path / "plain"), **options), comm=Topology())
    profiled = train(
        Config(out=str(tmp_path / "run"), profile=str(path), **options), comm=Topology()
    )
    assert profiled.digest == plain.digest
    assert not {"backprop", "_feedforward"} & vars(profiled.network).keys()
    events = json.loads(path.read_text())["traceEvents"]
    spans = [one for one in events if one["ph"] == "X"]
    counts = {name: sum(one["name"] == name for one in spans) for name in SPAN_NAMES}
    steps = 2 * 8
    assert counts["backprop"] == counts["rows"] == 3 * steps
    assert counts["update"] == steps
    assert counts["wait"] >= steps
    assert counts["checkpoint"] >= 2
    assert counts["evaluation"] == 2 * 2
    # Those of the evaluations count as well, but for compiled steps, where NumPy has no others.
    assert counts["forward"] > counts["backprop"] or engine == "compiled"
    ends: list[float] = []
    for one in spans:
        while ends and one["ts"] >= ends[-1] - 1e-3:
            ends.pop()
        assert not ends or one["ts"] + one["dur"] <= ends[-1] + 1e-3
        ends.append(one["ts"] + one["dur"])


def test_parts_that_replace_others_are_recorded(tmp_path, options):
    """As after a rank failure: in the middle of a burst, and beyond it."""
    parts = assemble(Config(**options), Topology())
    profile, run = Profile(tmp_path / "profile.json", Topology()), Run(parts)
    parts.order.start(0, 0)
    batch = parts.order.batches(0, 1).copy()
    profile.recorder.span_cost = 0.0  # all steps are recorded
    for _ in range(3):
        profile.attach(parts)
        before = profile.recorder.added
        for _ in range(BURST_STEPS - 5):
            run.step(batch)
        assert profile.recorder.added > before
    profile.recorder.span_cost = 1e9  # from now on, no step is recorded
    for _ in range(3 * BURST_STEPS):
        run.step(batch)
    profile.detach()
    assert "load" not in vars(parts.gradient.loaders[0])
    assert "run" not in vars(parts.engine)


def test_a_run_that_fails_leaves_its_profile(tmp_path, options):
    """It is when one is most wanted; a file that cannot be written does not hide the failure."""
    bad = options | {"learning_rate": 1e30, "out": str(tmp_path / "run")}
    with pytest.raises(Exception, match="not a finite number"):
        train(Config(profile=str(tmp_path / "profile.json"), **bad), comm=Topology())
    assert json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    bad["out"] += "2"
    with pytest.raises(Exception, match="not a finite number"):
        train(Config(profile=str(tmp_path / "no" / "profile.json"), **bad), comm=Topology())
    assert isinstance(vars(Network)["backprop"], type(test_all_ranks_together_have_a_limit))
