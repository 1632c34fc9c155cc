"""Reading a file past the page cache: any position and length, and file systems that cannot."""

import errno
import os

import numpy as np
import pytest

from distbp.storage.direct_reader import DirectReader

SIZE = 3_000_001


@pytest.fixture
def content(tmp_path):
    """Return an open file and its bytes."""
    content = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
    (tmp_path / "file").write_bytes(content.tobytes())
    with (tmp_path / "file").open("rb", buffering=0) as file:
        yield file.fileno(), content


@pytest.fixture
def reader(content):
    """Return a reader of that file."""
    opened = DirectReader(content[0])
    yield opened
    opened.close()


def check(reader, content, start, count):
    out, done = np.zeros(count, np.uint8), 0
    while done < count:
        some = reader.read_some(start + done, out[done:])
        assert some > 0
        done += some
    assert (out == content[1][start : start + count]).all()


@pytest.mark.parametrize("start", [0, 1, 511, 4096, 1_000_003])
@pytest.mark.parametrize("count", [1, 65_535, 65_536, 1 << 20, (1 << 20) + 1, 1_999_998])
def test_any_position_and_length(reader, content, start, count):
    check(reader, content, start, count)


def test_to_the_end_and_beyond(reader, content):
    """The last block of a file is not complete; there is nothing behind it."""
    check(reader, content, SIZE - 70_000, 70_000)
    assert reader.read_some(SIZE - 70_000, np.zeros(70_001, np.uint8)) == 70_000
    for start in (SIZE, SIZE + 5_000):
        assert reader.read_some(start, np.zeros(70_001, np.uint8)) == 0


def test_a_file_system_without_direct_reads(content, monkeypatch):
    """The page cache is used instead."""

    def refuse(path, flags):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "open", refuse)
    reader = DirectReader(content[0])
    assert not reader.is_direct
    check(reader, content, 5, 2_000_000)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_direct_reads_that_fail(reader, content, monkeypatch, number):
    """Of a device with larger blocks; any other error is one of the file."""
    if not reader.is_direct:
        pytest.skip("this file system has no direct reads")
    preadv = os.preadv

    def fail(descriptor, buffers, position):
        if descriptor != content[0]:
            raise OSError(number, os.strerror(number))
        return preadv(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", fail)
    if number == errno.EINVAL:
        check(reader, content, 5, 2_000_000)
        assert not reader.is_direct
    else:
        with pytest.raises(OSError, match="Input/output error"):
            reader.read_some(5, np.zeros(2_000_000, np.uint8))
