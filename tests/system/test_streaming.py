"""Data sets that are read while the training runs: the same bits, within a limit of memory.

With DISTBP_TEST_FULL=1 a file of 4 GB is trained on in a control group with a limit of 1 GB, which
counts the pages of the page cache as well.
"""

import os
import sys
from pathlib import Path

from control_groups import control_group, inside
from ranks import FULL, ROOT, Job, command_of, distbp, metrics

SCRIPT = ROOT / "scripts" / "bench" / "streaming"
STORAGES = ("contiguous", "gzip")
# A window has 128 MiB: this one has three.
SMALL_MB, LARGE_MB, LIMIT_BYTES = 300, 4000, 1_000_000_000


def write(path: Path, megabytes: float, storage: str) -> None:
    """Write a data set, and have the operating system forget its content."""
    words = [SCRIPT, "--write", path, "--megabytes", megabytes, "--storages", storage]
    ended = Job([sys.executable, *words], path.parent, limit=600).wait()
    assert ended.status == 0, str(ended)
    # Pages in the page cache count for the control group that read them first.
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_storage_and_ranks_do_not_matter(tmp_path):
    """Contiguous on 1 rank, compressed on 2: the same digest, and another one than in memory."""
    digests = {}
    options = ["--epochs", 1, "--hidden", 8]
    for storage, n in zip(STORAGES, (None, 2), strict=True):
        data = tmp_path / f"{storage}.h5"
        write(data, SMALL_MB, storage)
        words = ["train", data, "--out", storage, "--shuffle", "blocks", *options]
        digests[storage] = distbp(*words, folder=tmp_path, n=n).digest
    full = distbp("train", data, "--out", "full", *options, folder=tmp_path).digest
    assert digests["contiguous"] == digests["gzip"] != full
    assert 'shuffle = "full"' in (tmp_path / "full" / "config.toml").read_text()


def test_shuffle_is_kept_on_resume(data, tmp_path):
    """A resumed run takes it from its checkpoint, and refuses another one."""
    words = ["train", data["digits"], "--shuffle", "blocks", "--hidden", 8]
    whole = distbp(*words, "--out", "whole", "--epochs", 3, folder=tmp_path)
    distbp(*words, "--out", "run", "--epochs", 1, folder=tmp_path)
    refused = distbp("train", "--resume", "run", "--shuffle", "full", folder=tmp_path, status=2)
    assert "--shuffle 'full' cannot be changed on resume" in refused.err
    again = distbp("train", "--resume", "run", "--epochs", 3, folder=tmp_path, n=2)
    assert again.digest == whole.digest


if FULL:  # it takes 4 GB of disk and some minutes

    def test_a_file_larger_than_memory(tmp_path):
        """4 GB in 1 GB of memory, contiguous and then compressed, with the same digest."""
        digests = []
        for storage in STORAGES:
            data = tmp_path / "data.h5"
            write(data, LARGE_MB, storage)
            words = ["train", data, "--out", storage, "--epochs", 1, "--hidden", 100]
            words += ["--shuffle", "blocks"]  # its x has a bit less than 4 GiB
            with control_group("memory", LIMIT_BYTES) as group:
                ended = Job(inside(group, command_of(words, 2)), tmp_path, limit=900).wait()
                assert ended.status == 0, str(ended)
            digests.append(ended.digest)
            assert metrics(tmp_path / storage)[-1]["test_accuracy"] > 0.9
            data.unlink()
        assert digests[0] == digests[1]
