"""Files that cannot hurt: damaged, hostile, half written, or with no room to be written.

What reads a hostile file is a process of its own, with little memory and little time,
so that a crash or an endless loop of libhdf5 is a failure of the test and not its end.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import hostile
import numpy as np
import pytest
from ranks import FULL, INSIDE, Job

from distbp.checkpoint import FORMAT as CHECKPOINT
from distbp.data import FORMAT as DATA

MANY = 2000 if FULL else 300
GROWTH = 200e6  # bytes
# kind of file, as look.py has it: what it is sealed as, and the array that is attacked
TARGETS = {"checkpoint": "layers/1/w", "data": "train/x", "import": "train/x"}
SEALS = {"checkpoint": CHECKPOINT, "data": DATA, "import": DATA}


@pytest.fixture(params=TARGETS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def good(kind, run, data, tmp_path) -> Path:
    """Return a whole file of the kind, in a folder of its own."""
    return shutil.copyfile(
        run / "last.h5" if kind == "checkpoint" else data["digits"], tmp_path / "good.h5"
    )


def look(kind: str, good: Path, files: Iterable[Path], trace: Path | None = None) -> list[dict]:
    """Open files in a process of their own; return what came of each."""
    names = good.with_name("names.txt")
    names.write_text("".join(f"{path}\n" for path in files))
    command = [sys.executable, INSIDE / "look.py", kind, good]
    if trace:
        command = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace, *command]
    command = ["sh", "-c", f'exec "$@" < "{names}"', "sh", *command]
    ended = Job(command, good.parent, limit=600).wait()
    assert ended.status == 0, f"killed by a file:\n{ended}"[-3000:]
    *found, last = map(json.loads, ended.out.splitlines())
    assert len(found) == len(names.read_text().splitlines())
    assert last["grown"] < GROWTH, last
    return found


def check_refusal(found: dict) -> None:
    """One sentence or two that name the file, and at once."""
    assert found["outcome"] == "refused", found
    assert found["seconds"] < 1, found
    assert found["file"] in found["text"], found
    assert "\n" not in found["text"], found
    assert found["text"].endswith("."), found
    assert len(found["text"]) < 600, found


# What does no harm: numbers are all in the file, or nothing looks at what has changed.
HARMLESS = {
    "checkpoint": set(),
    "data": {"bytes appended"},
    "import": {
        "bytes appended", "program in front", "archive in front", "moved by 512 bytes",
        "shorter block", "another HDF5 file in front",
        *(name for name in hostile.ZOO if "format" in name or "version" in name),
    },
}  # fmt: skip


def test_the_zoo(kind, good, tmp_path):
    """Whatever HDF5 offers to hurt its reader: refused at once, and nothing else is opened."""
    files = {}
    (tmp_path / hostile.SECRET).write_bytes(bytes(10_000))
    for name, change in hostile.ZOO.items():
        files[name] = tmp_path / f"{name.replace(' ', '-')}.h5"
        shutil.copyfile(good, files[name])
        hostile.spoil(files[name], change, TARGETS[kind], SEALS[kind])
    files |= hostile.no_files(tmp_path, good)
    trace = tmp_path / "trace.txt" if shutil.which("strace") else None
    by_file = {found["file"]: found for found in look(kind, good, files.values(), trace)}
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
    ],
)
def test_damaged_structure(tmp_path, run, data, kind, name):
    """Bytes of HDF5's own structure, changed by who can seal a file: no crash, no hang, no flood.

    What is read all the same has the right structure; its numbers may be others.
    """
    good = tmp_path / "good.h5"
    shutil.copyfile(run / "last.h5" if kind == "checkpoint" else data[name], good)
    content, places = good.read_bytes(), hostile.structure(good)
    random = np.random.default_rng(1)
    files = [tmp_path / f"{number:04d}.h5" for number in range(MANY)]
    for path in files:
        path.write_bytes(hostile.mutant(content, places, random))
        hostile.reseal(path, SEALS[kind])
    found = look(kind, good, files)
    outcomes = Counter(one["outcome"] for one in found)
    assert outcomes["other"] == 0, [one for one in found if one["outcome"] == "other"]
    for one in found:
        if one["outcome"] == "refused":
            check_refusal(one)
    assert outcomes["refused"] > MANY / 20, outcomes
    print(kind, name, outcomes)
