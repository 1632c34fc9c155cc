"""Damaged and malicious model files: one sentence each, in bounded memory, and nothing is run."""

import io
import json
import os
import re
import struct
import warnings
import zipfile
from pathlib import Path

import h5py
import hostile
import models
import numpy as np
import pytest
import safetensors.numpy

from distbp import export
from distbp.errors import DataError, DistbpError
from distbp.interop import untrusted
from distbp.interop.model_import import read_model
from distbp.storage.checkpoint import write_checkpoint

TESTS = Path(__file__).parents[2]
KERAS, ONNX = TESTS / "keras_models", TESTS / "onnx_models"
OPTIONS = {"activation": "silu", "output": "linear"}  # for files that do not say
MUTANTS = int(os.environ.get("DISTBP_TEST_MUTANTS", "30"))


def sample(name, folder):
    """Return the path of a valid file: one of tests/, or one that is written now."""
    for known in (KERAS / name, ONNX / name):
        if known.exists():
            return known
    path = folder / name
    if name == "state.safetensors":
        arrays = {"0.weight": np.ones((3, 2), "f4"), "0.bias": np.zeros(3, "f4")}
        safetensors.numpy.save_file(arrays | {"2.weight": np.ones((1, 3), "f4")}, path)
    else:
        export(models.untrained(), path)
    return path


def try_import(path, **options):
    """Import a file; return the error's text if there is one, which is a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read_model(path, **options)
        except DistbpError as error:
            text = str(error)
            assert "\n" not in text
            assert len(text) < 1500
            assert text.endswith(".")
            return text
    return None


FILES = {
    "own.npz": {}, "own.safetensors": {}, "own.onnx": {}, "state.safetensors": OPTIONS,
    "sklearn-words.onnx": {}, "torch-relu-old.onnx": {}, "sequential.keras": {},
    "sequential.h5": {}, "keras-2-functional.h5": {}, "regression.weights.h5": OPTIONS,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(tmp_path, name):
    content = sample(name, tmp_path).read_bytes()
    path = tmp_path / f"cut{Path(name).suffix}"
    for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert try_import(path, **FILES[name]) is not None


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes(tmp_path, name):
    """Most changes are noticed; those that are not give another valid model."""
    content = sample(name, tmp_path).read_bytes()
    random = np.random.default_rng(len(name))
    path = tmp_path / f"changed{Path(name).suffix}"
    # Of an HDF5 file its structure; numbers are only numbers.
    offsets = hostile.structure(sample(name, tmp_path)) if name.endswith(".h5") else None
    if offsets is None:
        offsets = np.arange(len(content))
    for _ in range(MUTANTS):
        path.write_bytes(hostile.mutant(content, offsets, random))
        try_import(path, **FILES[name])


def test_changed_bytes_within_a_keras_file(tmp_path):
    """Where the zip archive does not notice them: configuration and HDF5 are changed before."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(KERAS / "sequential.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "weights.h5").write_bytes(members["model.weights.h5"])
    offsets = {
        "config.json": np.arange(len(members["config.json"])),
        "model.weights.h5": hostile.structure(tmp_path / "weights.h5"),
    }
    for i in range(MUTANTS):
        name = ("config.json", "model.weights.h5")[i % 2]
        changed = hostile.mutant(members[name], offsets[name], random)
        with zipfile.ZipFile(tmp_path / "changed.keras", "w") as archive:
            for member, content in (members | {name: changed}).items():
                archive.writestr(member, content)
        try_import(tmp_path / "changed.keras")


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".npz", ".keras", ".h5"])
def test_paths_that_are_no_files(tmp_path, suffix):
    """A missing one, a folder, a pipe that nobody writes to, a device, and other content."""
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"text{suffix}").write_text("just text, and a little more of it\n")
    for name in ("missing", "folder", "pipe", "device", "text"):
        assert "cannot be read" in (try_import(tmp_path / f"{name}{suffix}") or "")


@pytest.mark.parametrize("suffix", [".npz", ".keras"])
@pytest.mark.parametrize("kind", ["bomb", "lying size", "two of a name", "another method"])
def test_archives_that_are_bombs(tmp_path, suffix, kind, peak):
    """Nothing large is unpacked."""
    path = tmp_path / f"bomb{suffix}"
    method = zipfile.ZIP_LZMA if kind == "another method" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two of a name
        names = ["about.npy", "config.json", "model.weights.h5"]
        content = bytes(25 << 20) if kind == "bomb" else bytes(1000)
        for name in names + names * (kind == "two of a name"):
            archive.writestr(name, content)
    if kind == "lying size":  # in the directory at the end
        raw = bytearray(path.read_bytes())
        at = raw.rindex(b"PK\1\2")
        struct.pack_into("<I", raw, at + 24, 10)
        path.write_bytes(raw)
    assert peak(lambda: try_import(path)) < 20 << 20
    assert try_import(path) is not None


def test_an_archive_of_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "_MAX_MEMBERS", 5)
    export(models.untrained(), tmp_path / "a.npz")  # 9 arrays
    assert "has too many members" in (try_import(tmp_path / "a.npz") or "")


def npy(header, data=b""):
    """Return an .npy file with a header of Python's syntax."""
    text = header.encode().ljust(118)
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "neither numbers nor text"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}", "has 4 bytes for"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "no valid shape"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': ()}", "neither numbers nor text"),
        ("__import__('os').system('touch run')", "header of 'about.npy' is damaged"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", "neither numbers"),
    ],
    ids=["objects", "4 TiB", "negative", "text of no length", "code", "compound"],
)
def test_arrays_of_npz_that_lie(tmp_path, header, words):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("about.npy", npy(header, bytes(4)))
    assert re.search(words, try_import(tmp_path / "a.npz") or "")


def described(tmp_path, change):
    """Write an .npz file whose description was changed."""
    export(models.untrained(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    change(about, arrays)
    arrays["about"] = np.array(json.dumps(about))
    np.savez(tmp_path / "b.npz", **arrays)
    return tmp_path / "b.npz"


DESCRIPTIONS = {
    "another format": (lambda about, _: about.update(format="x"), "no description of a distbp"),
    "a newer version": (lambda about, _: about.update(version=9), "written by a newer distbp"),
    "no task": (lambda about, _: about.pop("task"), "no 'task' that is a str"),
    "another task": (lambda about, _: about.update(task="games"), "it is a 'games' with 3 classes"),
    "too few classes": (lambda about, _: about.update(classes=["a"]), "with 1 classes"),
    "classes of numbers": (lambda about, _: about.update(classes=[1, 2, 3]), "are no text"),
    "another digest": (lambda about, _: about.update(digest="0" * 64), "damaged, or was changed"),
    "changed weights": (lambda _, arrays: arrays["layers/1/w"].__imul__(2), "or was changed"),
    "huge sizes": (
        lambda about, _: about["network"].update(sizes=[1 << 30, 1 << 30, 3]), "it holds 170 "),
    "sizes that are no numbers": (
        lambda about, _: about["network"].update(sizes=[6, "9", 3]), "no valid sizes"),
    "another activation": (
        lambda about, _: about["network"].update(activation="x"), "its network is invalid"),
    "an unknown argument": (
        lambda about, _: about["network"].update(theta=1), "no valid 'network'"),
    "an array less": (lambda _, arrays: arrays.pop("layers/1/b"), "it holds 161 parameters"),
    "scaling of another length": (
        lambda _, arrays: arrays.update({"scaling/shift": np.zeros(5)}), "of a valid length"),
    "scaling that is infinite": (
        lambda _, arrays: arrays.update({"scaling/scale": np.full(6, np.inf)}), "finite number"),
    "targets of a classification": (
        lambda _, arrays: arrays.update({"target/shift": np.ones(3), "target/scale": np.ones(3)}),
        "target/scale is not valid"),
    "another preprocessing": (
        lambda about, _: about.update(preprocessing={"features": 1}), "preprocessing is invalid"),
    "another shape": (lambda about, _: about.update(shape=[0]), "no valid shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_descriptions_that_are_wrong(tmp_path, case):
    change, words = DESCRIPTIONS[case]
    assert words in (try_import(described(tmp_path, change)) or "")


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HEADERS = {
    "a header of 8 EiB": (struct.pack("<Q", 1 << 63) + b"{}", "its header is longer"),
    "no JSON": (safetensors_bytes(b"{'a': 1}"), "its header is not JSON text"),
    "a list": (safetensors_bytes([1]), "its header is not valid"),
    "nested too deeply": (safetensors_bytes(b"[" * 100_000), "nested too deeply"),
    "no entry": (safetensors_bytes({"0.weight": 1}), "the entry of '0.weight'"),
    "outside the file": (
        safetensors_bytes({"0.weight": GOOD | {"data_offsets": [0, 1 << 40]}}), "outside the file"),
    "another size": (
        safetensors_bytes({"0.weight": GOOD | {"shape": [1 << 40, 1 << 40]}}, bytes(16)),
        "has 16 bytes for the shape"),
    "a negative side": (
        safetensors_bytes({"0.weight": GOOD | {"shape": [-2, -2]}}, bytes(16)), "no valid shape"),
    "a side that is a truth": (
        safetensors_bytes({"0.weight": GOOD | {"shape": [True, 4]}}, bytes(16)), "no valid shape"),
    "another type": (
        safetensors_bytes({"0.weight": GOOD | {"dtype": "F8_E4M3"}}, bytes(16)), "the type F8_E4"),
    "arrays that overlap": (
        safetensors_bytes({str(i): GOOD for i in range(9)}, bytes(16)), "its arrays overlap"),
    "not a number": (safetensors_bytes(b'{"a": NaN}'), "its header has the number NaN"),
    "nothing": (safetensors_bytes({}), "it has no dense layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_safetensors_that_lie(tmp_path, case):
    content, words = HEADERS[case]
    (tmp_path / "a.safetensors").write_bytes(content)
    assert words in (try_import(tmp_path / "a.safetensors", **OPTIONS) or "")


# Without attributes, which Keras does not have, and two that take seconds to write.
ZOO = [
    name for name in hostile.ZOO
    if not name.startswith(("format", "version", "future", "bomb"))
]  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_malicious_hdf5_in_a_keras_file(tmp_path, name):
    """Links to other files, bombs, objects of other types: refused, or read as the numbers."""
    with zipfile.ZipFile(KERAS / "regression.keras") as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    (tmp_path / "w.h5").write_bytes(members["model.weights.h5"])
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        hostile.ZOO[name](file, "layers/dense/vars/0")
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        for one, content in members.items():
            archive.writestr(
                one, (tmp_path / "w.h5").read_bytes() if one.endswith(".h5") else content
            )
    assert try_import(tmp_path / "a.keras") or name in ("lzf", "booleans", "compact")


def test_one_array_under_many_names(tmp_path):
    """10,000 links to one array must not become 10,000 arrays."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["layers/dense/vars/0"] = np.zeros((1000, 1000), "f4")
        for i in range(1, 200):
            file[f"layers/dense_{i}/vars/0"] = file["layers/dense/vars/0"]
    text = try_import(tmp_path / "a.h5", **OPTIONS)
    assert "its arrays are far larger than the file" in (text or "")


def test_text_that_is_printed_is_harmless(tmp_path):
    """Names in a file cannot write control codes, or pages, to the terminal."""
    arrays = {"\x1b[2J" + "a" * 5000 + ".weight": np.ones((3, 2), "f4"), "b.x": np.ones(1, "f4")}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    text = try_import(tmp_path / "a.safetensors", **OPTIONS) or ""
    assert "\x1b" not in text
    assert len(text) < 700


def test_an_hdf5_file_of_another_kind(tmp_path):
    """Of distbp itself, or of nobody that is known."""
    write_checkpoint(tmp_path / "own.h5", models.untrained())
    text = try_import(tmp_path / "own.h5") or ""
    assert "it is a file of distbp itself, which needs no import" in text
    checkpoint = io.BytesIO()
    with h5py.File(checkpoint, "w") as file:
        file["train/x"] = np.zeros((3, 2))
    (tmp_path / "a.h5").write_bytes(checkpoint.getvalue())
    with pytest.raises(DataError, match="cannot be read as an HDF5 file of Keras"):
        read_model(tmp_path / "a.h5")
