"""The first difference of two traces: its step, epoch and array."""

import numpy as np

from distbp.launch.verification import Trace, compare_traces


def trace(ranks=1, change=None, theta=1.0):
    """Return a trace of two epochs of two steps, with a change at (part, index, key)."""
    steps = [
        {"epoch": 1 + i // 3, "step": i % 3, "cost": float(i).hex(), "digests": ["a", "b", f"{i}"]}
        for i in range(5)
    ]
    records = [{"epoch": n, "step": 2 * n, "test_cost": 0.5, "digest": "0" * 64} for n in (1, 2)]
    arrays = [[1, "weights"], [1, "biases"], [2, "weights"]]
    content = {"arrays": arrays, "steps": steps, "records": records, "seconds": 0.1}
    content["plain_records"] = list(records)
    if change is not None:
        part, index, key, value = change
        content[part][index] = content[part][index] | {key: value}
    return Trace(ranks, content, np.full(3, theta, np.float32), [])


def test_equal_traces():
    """Times may differ."""
    other = trace(2)
    other.content["seconds"] = 0.2
    assert compare_traces(trace(), other) is None


def test_the_first_array_that_differs():
    other = trace(2, ("steps", 2, "digests", ["a", "x", "y"]), 1.5)
    found = compare_traces(trace(), other)
    assert (found.update, found.epoch, found.step) == (2, 1, 2)
    assert found.what == "the biases of layer 1"
    assert (found.difference.absolute, found.difference.ulp) == (0.5, 1 << 22)


def test_costs_scores_and_lengths():
    """Where the arrays are equal."""
    found = compare_traces(trace(), trace(2, ("steps", 4, "cost", "0x1p-3")))
    assert (found.update, found.what, found.difference) == (4, "the cost", None)
    found = compare_traces(trace(), trace(2, ("records", 1, "test_cost", 0.25)))
    assert (found.update, found.epoch, found.what) == (4, 2, "test_cost")
    uneven = trace(1, ("plain_records", 0, "digest", "1" * 64))
    assert compare_traces(uneven, uneven).what == "digest"
    shorter = trace(2)
    del shorter.content["steps"][3:]
    assert compare_traces(trace(), shorter).what == "the number of steps"
