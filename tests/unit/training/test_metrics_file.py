"""metrics.jsonl has every epoch once, however its lines come about."""

import pytest

from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training import metrics_file
from distbp.training.metrics_file import MetricsFile


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last item is the time."""
    now = [100.0]
    monkeypatch.setattr(metrics_file.time, "monotonic", lambda: now[-1])
    return now


@pytest.fixture
def metrics(tmp_path, clock):
    """Return the file of a new run, and a function that returns its content."""
    directory, lock = RunDirectory(tmp_path, 1), RunLock(tmp_path)
    lock.acquire()
    file = MetricsFile(directory, lock)
    file.rewrite([])
    yield file, (tmp_path / "metrics.jsonl").read_text
    lock.release()


def test_lines_of_short_epochs_are_written_together(metrics, clock):
    """The first at once, then those of a tenth of a second."""
    (file, content), lines = metrics, []
    for seconds in (0.0, 0.03, 0.03, 0.03, 0.03, 0.2):
        clock.append(clock[-1] + seconds)
        lines.append(f"{len(lines)}\n")
        file.append(lines)
        written = {2: 1, 3: 1, 4: 1, 5: 5}.get(len(lines), len(lines))
        assert content() == "".join(lines[:written])
    lines.append("last\n")
    file.append(lines)
    assert "last" not in content()
    file.flush()
    assert content() == "".join(lines)


@pytest.mark.parametrize("kept", range(5))
def test_lines_are_replaced_after_a_roll_back(metrics, clock, kept):
    """Whether they were in the file or not."""
    file, content = metrics
    before = ["0\n", "1\n", "2\n", "3\n"]
    for count in (1, 2, 3, 4):  # two of them are left for later
        clock.append(clock[-1] + 0.07)
        file.append(before[:count])
    assert content() == "0\n1\n2\n"
    lines = before[:kept]
    for line in ("new\n", "newer\n", "newest\n"):
        lines.append(line)
        file.append(lines)
    file.flush()
    assert content() == "".join(lines)
