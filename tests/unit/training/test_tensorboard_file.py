"""Event files, as TensorBoard itself reads them."""

import json
import logging
import math
import resource
import warnings

import pytest
import samples

from distbp.errors import CheckpointError
from distbp.training import tensorboard_file
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.metrics_file import MetricsFile
from distbp.training.tensorboard_file import TensorBoardFile, crc32c

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture(autouse=True)
def no_log_lines():
    """TensorBoard logs what it purges."""
    logger = logging.getLogger("tensorboard")
    logger.disabled = True
    yield
    logger.disabled = False


def read(run):
    """Return what TensorBoard shows: steps and values by tag."""
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(one.step, one.value) for one in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def files(run):
    return sorted((run / "tensorboard").iterdir())


def record(epoch, **more):
    return {"epoch": epoch, "train_cost": 1 / epoch, "digest": "0" * 64} | more


def write(run, first, last, **more):
    """Write a file of the epochs `first` to `last`, after those before."""
    events = TensorBoardFile(run)
    events.start([record(epoch) for epoch in range(1, first)])
    for epoch in range(first, last + 1):
        events.append(record(epoch, **more))
    return events


def costs(run):
    return [(step, pytest.approx(value)) for step, value in read(run)["train_cost"]]


def expected_costs(last):
    return [(epoch, 1 / epoch) for epoch in range(1, last + 1)]


@pytest.mark.parametrize(
    ("data", "crc"), [(b"123456789", 0xE3069283), (b"", 0), (bytes(32), 0x8A9136AA)]
)
def test_crc_of_the_standard(data, crc):
    """RFC 3720, B.4."""
    assert crc32c(data) == crc


def test_numbers_are_scalars(tmp_path):
    """Those of a record that are no numbers are left out."""
    write(tmp_path, 1, 1, step=2**40, none=None, matrix=[[1]], flag=True, nan=math.nan, large=1e300)
    found = read(tmp_path)
    assert found.keys() == {"train_cost", "step", "nan", "large"}
    assert found["step"] == [(1, 2.0**40)]
    assert math.isnan(found["nan"][0][1])
    assert found["large"] == [(1, math.inf)]


def test_a_training(tmp_path):
    """All numbers of metrics.jsonl, also of a run that was resumed."""
    data = samples.DATA_SETS["digits"](tmp_path / "digits.h5")
    run = tmp_path / "run"
    options = {"data": str(data), "out": str(run), "tensorboard": True, "quiet": True}
    train(Config(**options, epochs=2, metrics=("f1",)))
    train(Config(**options, epochs=4, metrics=("f1",)), resume=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {
        key: [(one["epoch"], pytest.approx(one[key], rel=1e-6)) for one in records]
        for key, value in records[0].items()
        if isinstance(value, int | float) and key != "epoch"
    }
    assert {"train_cost", "test_f1", "learning_rate", "samples_per_s"} <= expected.keys()
    assert read(run) == expected
    assert len(files(run)) == 2


def test_it_is_off_by_default(tmp_path):
    data = samples.DATA_SETS["digits"](tmp_path / "digits.h5")
    train(Config(data=str(data), out=str(tmp_path / "run"), epochs=1, quiet=True))
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_resume_from_an_older_checkpoint(tmp_path):
    """Epochs that were lost are not shown twice, however short ago the first file was begun."""
    write(tmp_path, 1, 8, train_cost=99.0)
    write(tmp_path, 5, 6, train_cost=99.0)
    write(tmp_path, 1, 9)
    assert len(files(tmp_path)) == 3
    assert costs(tmp_path) == expected_costs(9)


def test_a_roll_back(tmp_path):
    events = write(tmp_path, 1, 3)
    for epoch in (4, 5, 6):
        events.append(record(epoch, train_cost=99.0))
    for epoch in (4, 5):
        events.append(record(epoch))
    assert len(files(tmp_path)) == 1
    assert costs(tmp_path) == expected_costs(5)


def test_a_file_whose_last_record_is_incomplete(tmp_path):
    """A machine has crashed; TensorBoard goes on with the next file."""
    write(tmp_path, 1, 3)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    assert costs(tmp_path) == expected_costs(2)
    write(tmp_path, 3, 4)
    assert costs(tmp_path) == expected_costs(4)


def test_a_run_that_was_begun_without(tmp_path):
    """A resumed one has its history, too."""
    write(tmp_path, 4, 5)
    assert costs(tmp_path) == expected_costs(5)


def test_what_could_not_be_written_is_written_later(tmp_path):
    """A full disk, here a limit of the file's size, leaves no incomplete record behind."""
    events = write(tmp_path, 1, 1)
    (path,) = files(tmp_path)
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
            events.append(record(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size
    events.append(record(3))
    assert costs(tmp_path) == expected_costs(3)


def test_an_epoch_whose_line_of_metrics_could_not_be_written(tmp_path, monkeypatch):
    """Its event is written all the same."""
    append = MetricsFile.append

    def append_but_one(file, lines):
        if len(lines) == 2:
            raise CheckpointError("No space left on device.")
        append(file, lines)

    monkeypatch.setattr(MetricsFile, "append", append_but_one)
    data, run = samples.DATA_SETS["digits"](tmp_path / "digits.h5"), tmp_path / "run"
    train(Config(data=str(data), out=str(run), tensorboard=True, quiet=True, epochs=3))
    assert [step for step, _ in read(run)["train_cost"]] == [1, 2, 3]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / tensorboard_file.FOLDER).touch()
    with pytest.raises(CheckpointError, match="tensorboard cannot be written"):
        write(tmp_path, 1, 1)
