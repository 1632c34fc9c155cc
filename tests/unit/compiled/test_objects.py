"""Object files: kept, found again without numba, and never trusted blindly."""

import os
import subprocess
import sys
from ctypes import addressof, c_int64

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import cfunc, types

from distbp.compiled import objects
from distbp.compiled.intrinsics import vector_at

NAME = "step-0.o"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "distbp"


@pytest.fixture(scope="module")
def content():
    """Return the object file of a function that adds 1 to the number at an address."""

    @cfunc(types.int64(types.int64), error_model="numpy")
    def increment(address):
        numbers = vector_at(address, 1, np.int64)
        numbers[0] += 1
        return numbers[0]

    return objects.build_object(increment)


def test_a_file_is_written_and_read(folder, content):
    assert objects.read_object(NAME) is None
    objects.write_object(NAME, content)
    assert objects.read_object(NAME) == content
    assert os.listdir(folder) == [NAME]


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-1], lambda c: c[:200] + b"?" + c[201:], lambda c: b"", lambda c: b"\n"],
    ids=["cut", "changed", "empty", "line"],
)
def test_a_damaged_file_is_not_used(folder, content, damage):
    objects.write_object(NAME, content)
    (folder / NAME).write_bytes(damage(content))
    assert objects.read_object(NAME) is None


def test_a_file_that_others_can_write_is_not_used(folder, content):
    objects.write_object(NAME, content)
    (folder / NAME).chmod(0o666)
    assert objects.read_object(NAME) is None


@pytest.mark.parametrize("obstacle", ["a file", "a full disk"])
def test_without_a_folder_it_is_said_once(tmp_path, monkeypatch, content, caplog, obstacle):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if obstacle == "a file":
        cache.write_text("")
    else:

        def replace(*paths):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", replace)
    objects.write_object(NAME, content)
    assert caplog.text.count("cannot be kept") == 1
    assert "it is compiled at every start" in caplog.text
    assert not list(tmp_path.rglob("tmp*"))


def test_old_files_are_removed(folder, content, monkeypatch):
    monkeypatch.setattr(objects, "_MAX_FILES", 2)
    for number in range(4):
        objects.write_object(f"step-{number}.o", content)
        os.utime(folder / f"step-{number}.o", (number, number))
    assert sorted(os.listdir(folder)) == ["step-2.o", "step-3.o"]


def test_a_function_runs_in_a_process_without_numba(folder, content):
    """The file is all that is needed."""
    objects.write_object(NAME, content)
    code = f"""
from ctypes import addressof, c_int64
import sys
from distbp.compiled import objects
number = c_int64(41)
function = objects.load_object("{NAME}", objects.read_object("{NAME}"))
print(function(addressof(number)), number.value, "numba" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["42", "42", "False"]


def test_a_function_is_loaded_once(content):
    number = c_int64(1)
    function = objects.load_object("step-once.o", content)
    assert objects.is_loaded("step-once.o")
    assert objects.load_object("step-once.o", b"") is function
    assert function(addressof(number)) == 2


def test_a_function_that_needs_numba_is_refused():
    @cfunc(types.int64(types.int64))
    def allocates(n):
        return len(np.zeros(n))

    with pytest.raises(RuntimeError, match="the compiled step uses NRT_"):
        objects.build_object(allocates)


def test_the_name_depends_on_choice_and_processor(monkeypatch):
    first = objects.object_name("a choice")
    assert first == objects.object_name("a choice") != objects.object_name("another")
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "another")
    assert objects.object_name("a choice") != first
