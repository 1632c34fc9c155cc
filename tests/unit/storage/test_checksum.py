"""Checksum headers: any change of a file's bytes is detected before libhdf5 sees them."""

import os
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.data.dataset import DataSet
from distbp.errors import CheckpointError, DataError
from distbp.network.network import Network
from distbp.storage import checkpoint, checksum, hdf5_file, run_directory
from distbp.storage.checkpoint import Checkpoint, describe_network
from distbp.storage.scaling import Scaling

NETWORK = Network((6, 5, 3))
ABOUT = {
    "network": describe_network(NETWORK), "task": "classification", "classes": ["a", "b", "c"],
    "data": {}, "config": {"optimizer": "sgd", "threads": 1}, "progress": {"steps": 1},
    "machine": {}, "versions": {},
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """Return a checkpoint."""
    scaling = Scaling(np.zeros(1), np.ones(1))
    checkpoint.write_checkpoint(tmp_path / "c.h5", Checkpoint(NETWORK, {}, scaling, ABOUT))
    return tmp_path / "c.h5"


@pytest.fixture
def no_libhdf5(monkeypatch):
    """Fail the test if a file is opened with libhdf5."""

    def refuse(*arguments, **options):
        pytest.fail("a damaged file was passed to libhdf5")

    monkeypatch.setattr(h5py, "File", refuse)


def flipped(content, random):
    """Change one bit."""
    place = random.integers(len(content))
    bits = np.uint8(1 << random.integers(8))
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def changed(content, random):
    """Change some bytes."""
    found = bytearray(content)
    for place in random.integers(len(content), size=random.integers(1, 17)):
        found[place] ^= random.integers(1, 256)
    return bytes(found)


def cut(content, random):
    return content[: random.integers(len(content))]


def grown(content, random):
    return content + random.bytes(random.integers(1, 2000))


def zeroed(content, random):
    """Overwrite some bytes with zeros."""
    start = random.integers(len(content))
    length = random.integers(1, len(content))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def moved(content, random):
    """Swap two adjacent parts."""
    a, b, c = sorted(random.integers(len(content), size=3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def test_five_thousand_damaged_checkpoints(path, no_libhdf5):
    """Bits flipped, bytes changed, appended, zeroed, moved, or truncated: all are refused."""
    content, random = path.read_bytes(), np.random.default_rng(0)
    ways = (flipped, changed, cut, grown, zeroed, moved)
    refused = 0
    while refused < 5000:
        damaged = ways[refused % len(ways)](content, random)
        if damaged == content:
            continue  # zeros over zeros
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"c\.h5 (cannot be read as|is a) .*\.$"):
            checkpoint.read_checkpoint(path)
        refused += 1


def test_every_byte_of_the_header_is_verified(path, no_libhdf5):
    """Including those that are unused."""
    content = path.read_bytes()
    with path.open("r+b") as file:
        for place in range(512):
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << place % 8]))
            file.flush()
            with pytest.raises(CheckpointError):
                checkpoint.read_checkpoint(path)
            file.seek(place)
            file.write(content[place : place + 1])
    with pytest.raises(pytest.fail.Exception, match="libhdf5"):  # it is valid again
        checkpoint.read_checkpoint(path)


def test_a_checkpoint_without_a_header(path, no_libhdf5):
    """Other tools leave a block of zeros there; such a checkpoint is refused."""
    content = path.read_bytes()
    path.write_bytes(bytes(512) + content[512:])
    with pytest.raises(
        CheckpointError, match="it has no checksum header, so its integrity cannot be verified"
    ):
        checkpoint.read_checkpoint(path)


def test_a_file_of_another_kind(path, no_libhdf5):
    """The header names the kind of a file before it is opened."""
    with pytest.raises(DataError, match="is a 'distbp-checkpoint'; expected a 'distbp-data'"):
        DataSet(path)
    with pytest.raises(DataError, match="is a 'distbp-checkpoint'; expected a 'distbp-data'"):
        hdf5_file.verify_checksum(path, "distbp-data", DataError)


def test_a_file_that_changes_while_it_is_read(path, monkeypatch, no_libhdf5):
    """The bytes that were verified are the ones that are used."""
    real = checksum._verify_length

    def then_changed(file):
        found = real(file)
        with path.open("r+b") as other:
            other.truncate(5000)
        return found

    monkeypatch.setattr(checksum, "_verify_length", then_changed)
    with pytest.raises(CheckpointError, match="it changed while it was being read"):
        checkpoint.read_checkpoint(path)


def test_a_file_larger_than_memory(path, monkeypatch, no_libhdf5):
    """It is refused before it is read."""
    monkeypatch.setattr(checksum, "_physical_memory_bytes", lambda: 5000)
    with pytest.raises(CheckpointError, match="bytes exceed the memory of this machine"):
        checkpoint.read_checkpoint(path)


def test_pipes_and_devices_are_not_read(tmp_path, no_libhdf5):
    """They are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    began = time.process_time()
    for name in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CheckpointError, match="it is a device or pipe, not a file"):
            run_directory.load(name)
    assert time.process_time() - began < 1


def test_no_descriptor_is_left_open(path, tmp_path):
    """Whether a file is valid or not."""
    before = len(os.listdir("/proc/self/fd"))
    checkpoint.read_checkpoint(path)
    for name in (tmp_path, "/dev/zero", tmp_path / "none"):
        with pytest.raises(CheckpointError):
            hdf5_file.verify_checksum(tmp_path / name, "distbp-checkpoint", CheckpointError)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        checkpoint.read_checkpoint(path)
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.binary(max_size=600))
def test_any_bytes(content):
    """Any other first bytes of a file are refused with a reason."""
    with pytest.raises(ValueError, match=r"^it is "):
        checksum._parse_header(content)


def test_headers_round_trip():
    """A packed header is parsed again."""
    found = checksum.ChecksumHeader("distbp-checkpoint", 2**40 + 1, bytes(range(32)))
    assert len(found.pack()) == 512
    assert checksum._parse_header(found.pack() + checksum.HDF5_SIGNATURE) == found
