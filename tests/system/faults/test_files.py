"""Damaged and hostile files, interrupted writes, and file systems that refuse to write.

Hostile files are opened in a separate process with limited memory and time, so that a crash or
an endless loop of libhdf5 fails the test instead of ending it.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import hostile
import numpy as np
import pytest
from ranks import FULL, INSIDE, Job, distbp

from distbp import load
from distbp.data.dataset import DATA_FORMAT
from distbp.storage.checkpoint import CHECKPOINT_FORMAT

MANY = 2000 if FULL else 300
MAX_GROWTH_BYTES = 200e6
# For each kind of open_files.py: the array that is changed, and the format in the checksum header.
TARGETS = {
    "checkpoint": "layers/1/w", "data": "train/x", "import": "train/x", "labels": "train/y",
}  # fmt: skip
FORMATS = dict.fromkeys(TARGETS, DATA_FORMAT) | {"checkpoint": CHECKPOINT_FORMAT}


@pytest.fixture(params=TARGETS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def good(kind, run, data, tmp_path) -> Path:
    """Return an intact file of the kind, in a folder of its own."""
    return shutil.copyfile(
        run / "last.h5" if kind == "checkpoint" else data["digits"], tmp_path / "good.h5"
    )


def open_files(
    kind: str, good: Path, files: Iterable[Path], trace: Path | None = None
) -> list[dict]:
    """Open files in a separate process; return the outcome of each."""
    names = good.with_name("names.txt")
    names.write_text("".join(f"{path}\n" for path in files))
    command = [sys.executable, INSIDE / "open_files.py", kind, good]
    if trace:
        command = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace, *command]
    command = ["sh", "-c", f'exec "$@" < "{names}"', "sh", *command]
    ended = Job(command, good.parent, limit=600).wait()
    assert ended.status == 0, f"a file has killed the process:\n{ended}"[-3000:]
    *found, last = map(json.loads, ended.out.splitlines())
    assert len(found) == len(names.read_text().splitlines())
    assert last["grown"] < MAX_GROWTH_BYTES, last
    return found


def check_refusal(found: dict) -> None:
    """The message is one or two sentences that name the file, and takes less than a second."""
    assert found["outcome"] == "refused", found
    assert found["seconds"] < 1, found
    assert found["file"] in found["text"], found
    assert "\n" not in found["text"], found
    assert found["text"].endswith("."), found
    assert len(found["text"]) < 600, found


# Changes that are harmless: all values are in the file, or the changed part is not read.
IN_ANY_SOURCE = {
    "bytes appended", "program in front", "archive in front", "moved by 512 bytes",
    "shorter block", "another HDF5 file in front", "booleans", "lzf",
    *(name for name in hostile.ZOO if "format" in name or "version" in name),
}  # fmt: skip
HARMLESS = {
    "checkpoint": {"lzf"},
    "data": {"bytes appended", "lzf"},
    "import": IN_ANY_SOURCE | {name for name in hostile.ZOO if name.startswith("enumeration")},
    "labels": IN_ANY_SOURCE | {"fixed text"},
}


def test_hostile_files_are_refused(kind, good, tmp_path):
    """Each dangerous feature of HDF5 is refused at once, and no other file is opened."""
    files = {}
    (tmp_path / hostile.SECRET).write_bytes(bytes(10_000))
    for name, change in hostile.ZOO.items():
        files[name] = tmp_path / f"{name.replace(' ', '-')}.h5"
        shutil.copyfile(good, files[name])
        hostile.spoil(files[name], change, TARGETS[kind], FORMATS[kind])
    files |= hostile.no_files(tmp_path, good)
    trace = tmp_path / "trace.txt" if shutil.which("strace") else None
    by_file = {found["file"]: found for found in open_files(kind, good, files.values(), trace)}
    for name, path in files.items():
        if name in HARMLESS[kind]:
            assert by_file[str(path)]["outcome"] != "other", name
        else:
            check_refusal(by_file[str(path)])
    if trace:
        assert str(tmp_path / hostile.SECRET) not in trace.read_text()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("checkpoint", ""),
        ("data", "digits"),
        ("data", "digits packed"),
        ("import", "digits packed"),
        ("labels", "digits"),
    ],
)
def test_damaged_structure(tmp_path, run, data, kind, name):
    """Changed bytes of HDF5 metadata, with a valid checksum: no crash, hang or memory exhaustion.

    A file that is read nevertheless has the right structure; its values may differ.
    """
    good = tmp_path / "good.h5"
    shutil.copyfile(run / "last.h5" if kind == "checkpoint" else data[name], good)
    if kind == "labels":
        hostile.spoil(good, hostile.text(), TARGETS[kind], FORMATS[kind])
    content, places = good.read_bytes(), hostile.structure(good)
    random = np.random.default_rng(1)
    files = [tmp_path / f"{number:04d}.h5" for number in range(MANY)]
    for path in files:
        path.write_bytes(hostile.mutant(content, places, random))
        hostile.rewrite_checksum(path, FORMATS[kind])
    found = open_files(kind, good, files)
    outcomes = Counter(one["outcome"] for one in found)
    assert outcomes["other"] == 0, [one for one in found if one["outcome"] == "other"]
    for one in found:
        if one["outcome"] == "refused":
            check_refusal(one)
    assert outcomes["refused"] > MANY / 20, outcomes


# Writing


def save_checkpoints(folder: Path, *words: str, start: Sequence[str] = ()) -> dict:
    """Run save_checkpoints.py and return its report."""
    command = [*start, sys.executable, INSIDE / "save_checkpoints.py", words[0], folder, *words[1:]]
    ended = Job(command, folder.parent, limit=600).wait()
    assert ended.status == 0, str(ended)
    return json.loads(ended.out)


def test_killed_while_saving(tmp_path):
    """SIGKILL at any time: the newest checkpoint is intact, and no older than acknowledged."""
    found = save_checkpoints(tmp_path / "run", "killed", str(200 if FULL else 30))
    assert found["steps"] > 3, found  # some processes were killed after the first save
    assert found["strays"] > 0, found  # and some during a save


def on_small_file_system(folder: Path) -> list[str]:
    """Return the prefix of a command that runs it with a small file system on a folder."""
    mount = f'mount -t tmpfs -o size=3m tmpfs "{folder}" && exec "$0" "$@"'
    start = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    folder.mkdir()
    try:
        subprocess.run([*start, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not allow tests to mount a file system")
    return start


@pytest.mark.parametrize(
    ("cause", "reason", "needs_mount"),
    [
        ("full", "No space left on device", True),
        ("read-only", "Read-only file system", True),
        ("file size", "File too large", False),
        ("descriptors", "Too many open files", False),
        ("permission", "Permission denied", False),
    ],
)
def test_a_save_that_the_system_refuses(tmp_path, cause, reason, needs_mount):
    """The message has path and cause; the previous checkpoint is intact, with no other files."""
    folder = tmp_path / "run"
    found = save_checkpoints(
        folder, "refused", cause, start=on_small_file_system(folder) if needs_mount else ()
    )
    path = folder / "checkpoints" / "step-000000002.h5"
    assert found["message"] == f"{path} cannot be written: {reason}."
    assert (found["steps"], found["best"], found["messages"]) == (1, 1, [])
    expected = ["best.h5", "checkpoints/step-000000001.h5", "last.h5"]
    assert [name for name in found["files"] if name != "junk"] == expected


# A damaged newest checkpoint


def damage(path: Path) -> None:
    """Flip one bit of a value."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)


@pytest.fixture
def long_run(tmp_path, data) -> Path:
    """Return a run of three epochs, with a checkpoint of each; the newest is damaged."""
    words = ("--epochs", 3, "--checkpoint-every", "1epoch")
    distbp("train", data["digits"], "--out", "run", *words, folder=tmp_path)
    damage(tmp_path / "run" / "last.h5")  # and with it the newest in checkpoints/, a hard link
    return tmp_path / "run"


def test_every_verb_uses_the_newest_intact_checkpoint(tmp_path, data, long_run):
    """With a warning that names the damaged file, the cause, and the file used instead."""
    older = sorted((long_run / "checkpoints").iterdir())[-2]
    for n in (None, 2):
        words = ("evaluate", "run", data["digits"], "--json")
        ended = distbp(*words, folder=tmp_path, n=n)
        assert ended.out == distbp("evaluate", older, *words[2:], folder=tmp_path).out
        (warning,) = [line for line in ended.err.splitlines() if "warning" in line]
        assert warning.startswith("distbp: warning: run/last.h5 cannot be read")
        assert "it is damaged: its SHA-256 differs from" in warning
        assert warning.endswith(f"{older.relative_to(tmp_path)} is used instead.")
    shown = distbp("info", "run", folder=tmp_path).out
    assert "run/last.h5 cannot be read" in shown
    assert "2 epochs" in shown
    ended = distbp("digest", "run", folder=tmp_path)
    assert ended.out == distbp("digest", older, folder=tmp_path).out
    assert "run/last.h5 cannot be read" in ended.err


def test_a_run_resumes_from_the_newest_intact_checkpoint(tmp_path, data, long_run):
    """The result is that of an undisturbed run, and the damaged files are replaced."""
    reference = distbp(
        "train", data["digits"], "--out", "reference", "--epochs", 3, folder=tmp_path
    )
    ended = distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert ended.digest == reference.digest
    assert "resumed after 2 epochs" in ended.out
    assert ended.err.count("run/last.h5 cannot be read") == 1
    for path in long_run.rglob("*.h5"):
        load(path)
