"""Checkpoints: bit-exact, atomic, readable by other tools, and refused clearly if invalid."""

import copy
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from distbp.errors import CheckpointError, DistbpWarning
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameters import digest
from distbp.network.update import Update
from distbp.storage import atomic, checksum, hdf5_file
from distbp.storage import run_directory as module
from distbp.storage.background_writer import BackgroundWriter, DeferredCheckpoints
from distbp.storage.checkpoint import (
    Checkpoint,
    describe_network,
    read_checkpoint,
    write_checkpoint,
)
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.storage.run_directory import (
    RunDirectory,
    find_checkpoint,
    find_newest_checkpoint,
    load,
    read_newest_checkpoint,
)
from distbp.storage.scaling import Scaling, TargetScaling

ABOUT = {
    "task": "classification", "classes": ["ja", "näin"], "shape": [4], "data": {"digest": "0"},
    "config": {"threads": 1, "optimizer": "adam"}, "machine": {}, "versions": {},
}  # fmt: skip


def make(steps=1, sizes=(4, 3, 2), optimizer="adam", dtype="float32", **arguments):
    """Return a checkpoint with state that is not 0."""
    network = Network(sizes, seed=steps, dtype=dtype, init="large", **arguments)
    state = Update(network, OPTIMIZERS[optimizer](0.9)).store.state
    for i, array in enumerate(state.values()):
        array[...] = np.arange(array.size) + 0.1 * i
    about = ABOUT | {"network": describe_network(network), "progress": {"steps": steps}}
    about["config"] = {"threads": 1, "optimizer": optimizer}
    return Checkpoint(network, state, Scaling(np.array([0.5]), np.arange(float(sizes[0]))), about)


def save(path, **arguments):
    """Write a checkpoint and return it."""
    checkpoint = make(**arguments)
    write_checkpoint(path, checkpoint)
    return checkpoint


@pytest.mark.parametrize("sizes", [(4, 2), (1, 1), (4, 3, 5, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_round_trip(tmp_path, optimizer, dtype, sizes):
    """θ, state, scaling and `about` are read back bit by bit."""
    before = save(tmp_path / "c.h5", optimizer=optimizer, dtype=dtype, sizes=sizes)
    after = read_checkpoint(tmp_path / "c.h5")
    assert after.about == before.about
    assert after.network.theta.tobytes() == before.network.theta.tobytes()
    assert after.network.theta.dtype == dtype
    assert describe_network(after.network) == describe_network(before.network)
    assert list(after.state) == list(before.state)
    for name, array in before.state.items():
        assert after.state[name].tobytes() == array.tobytes()
    np.testing.assert_array_equal(after.scaling.shift, before.scaling.shift)
    np.testing.assert_array_equal(after.scaling.scale, before.scaling.scale)


def with_target(path, cost="quadratic", **changes):
    """Write a checkpoint of a regression on scaled targets and return it."""
    before = make(cost=cost, output="linear")
    before.about |= {"task": "regression", "classes": []} | changes
    before.target = TargetScaling(np.array([1e9, -2.0]), np.array([1e-3, 4.0]))
    write_checkpoint(path, before)
    return before


@pytest.mark.parametrize(("cost", "unit"), [("quadratic", 1e6), ("huber", 1e6), ("mae", 1e3)])
def test_scaled_targets(tmp_path, cost, unit):
    """They are read back bit by bit, and the network's cost is in their units."""
    before = with_target(tmp_path / "c.h5", cost)
    after = read_checkpoint(tmp_path / "c.h5")
    np.testing.assert_array_equal(after.target.shift, before.target.shift)
    np.testing.assert_array_equal(after.target.scale, before.target.scale)
    assert after.network.cost.unit == pytest.approx(unit)
    np.testing.assert_array_equal(
        after.target.to_user_units(np.array([[0.5, 2.0]], np.float32)), [[1e9 + 500, -1.5]]
    )


def with_average(path, **changes):
    """Write a checkpoint whose network has averaged parameters and return it."""
    before = make()
    before.about["config"] = before.about["config"] | {"ema": 0.9} | changes
    before.averaged_from = np.linspace(-1, 1, before.network.theta.size, dtype=np.float32)
    write_checkpoint(path, before)
    return before


def test_averaged_parameters(tmp_path):
    """They are the model; those in training, of which the digest is, are kept beside them."""
    before = with_average(tmp_path / "c.h5")
    after = read_checkpoint(tmp_path / "c.h5")
    assert after.network.theta.tobytes() == before.network.theta.tobytes()
    assert after.theta.tobytes() == before.averaged_from.tobytes()
    assert after.digest == digest(before.averaged_from) != digest(after.network.theta)
    np.testing.assert_array_equal(load(tmp_path / "c.h5").theta, before.network.theta)
    with h5py.File(tmp_path / "c.h5") as file:
        np.testing.assert_array_equal(file["layers/1/w"], before.network.weights[0])
        np.testing.assert_array_equal(file["training/theta"], before.averaged_from)
    plain = save(tmp_path / "d.h5")
    assert plain.theta is plain.network.theta
    assert plain.digest == digest(plain.network.theta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("training/theta"), "training/theta"),
        (lambda file: file.__delitem__("training"), "training"),
        (lambda file: replaced("training/theta", np.zeros(3, "f4"))(file), r"expected float32 \("),
        (lambda file: replaced("training/more", np.zeros(3))(file), "more is not part of"),
        (lambda file: about(config=ABOUT["config"])(file), "training.* is not part of the format"),
    ],
)
def test_broken_averages(tmp_path, change, message):
    """A file has θ in training if its run has an average, and only then."""
    with_average(tmp_path / "c.h5")
    spoil(tmp_path / "c.h5", change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "c.h5")


def test_averages_are_copied_for_the_background(tmp_path):
    """The arrays of the run may change as soon as a write has started."""
    before, writer, found = with_average(tmp_path / "c.h5"), BackgroundWriter(), []
    for fill in (1, 2):
        before.averaged_from.fill(fill)
        before.network.theta.fill(-fill)
        writer.start(before, found.append)
        writer.wait()
        before.averaged_from.fill(7)
        before.network.theta.fill(7)
        copied = found[-1]
        assert set(copied.theta) == {fill}
        assert set(copied.network.theta) == {-fill}
    assert found[0].averaged_from is found[1].averaged_from


def test_deferred_checkpoints():
    """The best one is kept while the last one is replaced, in two copies at most."""
    deferred, run = DeferredCheckpoints(), make()
    for step, is_best in enumerate((True, True, False, False, True, False)):
        run.network.theta.fill(step)
        deferred.put(run, is_last=True, is_best=is_best)
        run.network.theta.fill(-1)
        best = {0: 0, 4: 4, 5: 4}.get(step, 1)
        assert set(deferred.last.theta) == {step}
        assert set(deferred.best.theta) == {best}
    assert len(deferred._buffers) == 2
    deferred.put(run, is_last=False, is_best=True)
    assert (set(deferred.last.theta), set(deferred.best.theta)) == ({5}, {-1})


def test_the_oldest_version_that_can_represent_a_checkpoint(tmp_path):
    """Older code refuses what it would misunderstand, and reads everything else."""
    save(tmp_path / "2.h5")
    with_target(tmp_path / "3.h5")
    multilabel = make(cost="cross-entropy")
    multilabel.about["task"] = "multilabel"
    write_checkpoint(tmp_path / "also-3.h5", multilabel)
    with_average(tmp_path / "4.h5")
    for name, version in (("2", 2), ("3", 3), ("also-3", 3), ("4", 4)):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert file.attrs["version"] == version
        assert (read_checkpoint(tmp_path / f"{name}.h5").target is not None) == (name == "3")


def test_preprocessing(tmp_path):
    """It is read back if it fits the network, and transformed targets need version 3."""
    path, before = tmp_path / "c.h5", make()
    for names, transform in (("abcd", "none"), ("abcd", "log"), ("abc", "none")):
        table = Preprocessing(tuple(map(Feature, names)), ("label",), transform)
        before.about["preprocessing"] = table.to_json()
        write_checkpoint(path, before)
        if len(names) == 4:
            assert read_checkpoint(path).preprocessing == table
            with h5py.File(path) as file:
                assert file.attrs["version"] == (2 if transform == "none" else 3)
    with pytest.raises(CheckpointError, match="preprocessing is invalid, expected 4 inputs: 3"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target/scale": np.array([1.0, 0.0])}, "scale has a value that is not positive"),
        ({"target/scale": np.array([1.0, -1.0])}, "scale has a value that is not positive"),
        ({"target/scale": np.array([1.0, 1e-200])}, "or too small"),
        ({"target/scale": np.ones(1)}, r"expected float64 \(2,\)"),
        ({"target/shift": np.array([np.inf, 1.0])}, "shift has a value that is not a finite"),
        ({"target/more": np.ones(2)}, "target/more is not part of the format"),
    ],
)
def test_broken_targets(tmp_path, change, message):
    """They are refused."""
    with_target(tmp_path / "c.h5")
    for name, value in change.items():
        spoil(tmp_path / "c.h5", replaced(name, value))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "c.h5")


def test_only_a_regression_has_targets(tmp_path):
    """Those of a classification are refused."""
    with_target(tmp_path / "c.h5", task="classification")
    with pytest.raises(CheckpointError, match="scaled targets, but is a classification"):
        read_checkpoint(tmp_path / "c.h5")


def test_the_network_is_of_the_same_kind(tmp_path):
    """Activation, cost and output layer are stored: equal input gives equal output."""
    before = save(tmp_path / "c.h5", activation="tanh", cost="quadratic", output="linear").network
    x = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_array_equal(load(tmp_path / "c.h5").feedforward(x), before.feedforward(x))


def test_layout_for_other_hdf5_readers(tmp_path):
    """Layers are datasets, numbered from 1 as in the book, without the input."""
    network = save(tmp_path / "c.h5").network
    with h5py.File(tmp_path / "c.h5") as file:
        names = []
        file.visit(names.append)
        np.testing.assert_array_equal(file["layers/1/w"], network.weights[0])
        np.testing.assert_array_equal(file["layers/1/b"], network.biases[0])
        np.testing.assert_array_equal(file["layers/2/w"], network.weights[1])
        np.testing.assert_array_equal(file["layers/2/b"], network.biases[1])
        assert file["layers/1/w"].shape == (3, 4)
        assert file["optimizer/first_moment"].shape == network.theta.shape
    assert "layers/3" not in names
    assert "layers/0" not in names


def test_no_variable_length_anywhere(tmp_path):
    """A corrupted variable-length string can crash libhdf5: there is none anywhere."""
    save(tmp_path / "c.h5")
    kinds = []

    def collect(name, item):
        kinds.extend(item.attrs.get_id(key).dtype for key in item.attrs)
        if isinstance(item, h5py.Dataset):
            kinds.append(item.dtype)

    with h5py.File(tmp_path / "c.h5") as file:
        collect("/", file)
        file.visititems(collect)
    assert {dtype.kind for dtype in kinds} == {"S", "i", "u", "f"}
    assert not any(h5py.check_vlen_dtype(dtype) for dtype in kinds)


def test_layout_of_the_checksum_header(tmp_path):
    """512 bytes before the HDF5 signature: kind, length, SHA-256 of the rest and of the header."""
    save(tmp_path / "c.h5")
    raw = (tmp_path / "c.h5").read_bytes()
    assert raw[512:520] == b"\x89HDF\r\n\x1a\n"
    assert raw[:8] == b"distbp\r\n"
    assert raw[8:32].rstrip(b"\0") == b"distbp-checkpoint"
    assert int.from_bytes(raw[32:40], "little") == len(raw)
    assert raw[40:72] == hashlib.sha256(raw[512:]).digest()
    assert raw[72:104] == hashlib.sha256(raw[:72]).digest()
    assert raw[104:512] == bytes(408)


def test_equal_content_is_an_equal_file(tmp_path):
    """A file contains neither a time stamp nor its own name."""
    save(tmp_path / "a.h5")
    time.sleep(1.1)  # HDF5 counts whole seconds
    save(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    save(tmp_path / "b.h5", steps=2)
    assert (tmp_path / "a.h5").read_bytes() != (tmp_path / "b.h5").read_bytes()


def test_digest_is_of_theta_alone():
    """It is the SHA-256 of the numbers in little-endian order, whatever their byte order is."""
    theta = np.array([1.0, -2.5], np.float32)
    assert digest(theta) == "48943f7a0ea247f8e3c9386d0c5822fe181d323a9289980426638cc4e72a43e1"
    assert digest(theta.astype(">f4")) == digest(theta)


# Atomic writes.


@pytest.fixture
def calls(monkeypatch):
    """Return the list of writes, fsyncs and renames, in order."""
    found, names = [], {}
    real_open, real_fsync, real_replace, real_write = (
        os.open,
        os.fsync,
        os.replace,
        hdf5_file._DeferredErrorFile.write,
    )
    real_header = checksum.write_checksum_header

    def spy_open(path, *arguments, **options):
        descriptor = real_open(path, *arguments, **options)
        names[descriptor] = Path(path).name
        return descriptor

    def spy_fsync(descriptor):
        found.append(("fsync", names.get(descriptor)))
        real_fsync(descriptor)

    def spy_replace(source, target, **options):
        found.append(("replace", Path(source).name, Path(target).name))
        real_replace(source, target, **options)

    def spy_write(file, data):
        found.append(("write",))
        return real_write(file, data)

    def spy_header(*arguments):
        found.append(("header",))
        real_header(*arguments)

    monkeypatch.setattr(os, "open", spy_open)
    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    monkeypatch.setattr(hdf5_file._DeferredErrorFile, "write", spy_write)
    monkeypatch.setattr(checksum, "write_checksum_header", spy_header)
    return found


def test_order_of_an_atomic_write(tmp_path, calls):
    """Content, header, fsync, rename, fsync of the directory: safe against power failures."""
    (tmp_path / "run").mkdir()
    save(tmp_path / "run" / "c.h5")
    *writes, header, (first, temporary), (second, source, target), (third, folder) = calls
    assert set(writes) == {("write",)}
    assert header == ("header",)
    assert (first, second, third) == ("fsync", "replace", "fsync")
    assert temporary == source != target == "c.h5"
    assert folder == "run"


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    """The old file stays, no temporary file is left, and the reason is given."""
    before = save(tmp_path / "c.h5", steps=1)

    def full(group, name, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hdf5_file, "write_array", full)
    with pytest.raises(CheckpointError, match=r"c\.h5 cannot be written: No space left"):
        save(tmp_path / "c.h5", steps=2)
    assert read_checkpoint(tmp_path / "c.h5").about == before.about
    assert os.listdir(tmp_path) == ["c.h5"]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
def test_errors_that_only_fsync_reports(tmp_path, monkeypatch, number):
    """Network file systems report an exceeded quota or an I/O error after the last write."""
    before = save(tmp_path / "c.h5", steps=1)

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=rf"c\.h5 cannot be written: {os.strerror(number)}\."):
        save(tmp_path / "c.h5", steps=2)
    assert read_checkpoint(tmp_path / "c.h5").about == before.about
    assert os.listdir(tmp_path) == ["c.h5"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_write_changes_nothing(tmp_path, monkeypatch, error):
    """No partial file is left, whatever ends a write."""
    save(tmp_path / "c.h5", steps=1)

    def interrupted(path):
        raise error

    monkeypatch.setattr(atomic, "_fsync", interrupted)
    with pytest.raises(error):
        save(tmp_path / "c.h5", steps=2)
    assert read_checkpoint(tmp_path / "c.h5").about["progress"] == {"steps": 1}
    assert os.listdir(tmp_path) == ["c.h5"]


def test_a_text_that_could_not_be_read_again_is_not_written(tmp_path):
    """What a reader refuses as too long is refused by the writer."""
    checkpoint = make()
    checkpoint.about["classes"] = [[]] * hdf5_file._MAX_TEXT_ITEMS
    with pytest.raises(CheckpointError, match="cannot be written: File too large"):
        write_checkpoint(tmp_path / "c.h5", checkpoint)


def test_a_missing_directory(tmp_path):
    """The reason is that of the operating system, in words."""
    with pytest.raises(CheckpointError, match=r"cannot be written: No such file or directory\."):
        save(tmp_path / "none" / "c.h5")


FULL = """
import sys
from pathlib import Path
from distbp.errors import CheckpointError, DistbpWarning
from distbp.network.network import Network
from distbp.storage import checkpoint
from distbp.storage.scaling import Scaling
import numpy as np

def save(sizes):
    network = Network(sizes)
    about = ABOUT | {"network": checkpoint.describe_network(network), "progress": {"steps": 1}}
    about["config"] = {"optimizer": "sgd", "threads": 1}
    scaling = Scaling(np.zeros(1), np.ones(1))
    checkpoint.write_checkpoint(path, checkpoint.Checkpoint(network, {}, scaling, about))

path = Path(sys.argv[1], "c.h5")
save((20, 10))
for n_in in (200, 100, 120, 90, 80):
    try:
        save((n_in, 100, 10))
    except CheckpointError as error:
        print(error)
    checkpoint.read_checkpoint(path)
save((20, 10))
print(sorted(p.name for p in path.parent.iterdir()))
"""


def test_a_full_disk(tmp_path):
    """Each write fails with the reason, the old file stays, and the process continues."""
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    isolated = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let a test mount a file system")
    code = f"ABOUT = {ABOUT!r}\n{FULL}"
    run = subprocess.run(
        [*isolated, sys.executable, "-c", code, tmp_path], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    *messages, names = run.stdout.splitlines()
    assert messages
    assert {m.partition(": ")[2] for m in messages} == {"No space left on device."}
    assert names == "['c.h5']"
    assert not run.stderr


# Invalid checkpoints.


def spoil(path, change):
    """Change a file and write a new checksum header, as an attacker could."""
    with h5py.File(path, "r+") as file:
        change(file)
    with path.open("r+b", buffering=0) as file:
        checksum.write_checksum_header(file, "distbp-checkpoint")


def replaced(name, value):
    def change(file):
        if name in file:
            del file[name]
        file[name] = value

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def without(name):
    return lambda file: file.__delitem__(name)


def about(**entries):
    """Return a change of entries of `about`."""

    def change(file):
        value = json.loads(file["about"][...].tobytes()) | entries
        del file["about"]
        hdf5_file.write_json(file, "about", value)

    return change


def without_entry(name):
    """Return a change that removes an entry of `about`."""

    def change(file):
        value = json.loads(file["about"][...].tobytes())
        del value[name], file["about"]
        hdf5_file.write_json(file, "about", value)

    return change


@pytest.mark.parametrize(
    "name", ["network", "task", "classes", "data", "config", "progress", "machine"]
)
def test_incomplete_checkpoints(tmp_path, name):
    """A file that lacks an entry which a run or an evaluation needs is refused at once."""
    save(tmp_path / "c.h5")
    spoil(tmp_path / "c.h5", without_entry(name))
    with pytest.raises(CheckpointError, match=rf"c\.h5.*{name}"):
        read_checkpoint(tmp_path / "c.h5")


NETWORK = describe_network(Network((4, 3, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("format", np.bytes_("distbp-data")), "is a 'distbp-data'; expected a 'distbp-c"),
        (attribute("version", np.int64(9)), "version 9 of its format; this distbp reads up to 4"),
        (attribute("format", "a string of any length"), "not a distbp-checkpoint"),
        (attribute("version", np.float64(1)), "not a distbp-checkpoint"),
        (without("about"), "about"),
        (without("history"), "history is missing"),
        (about(history=3), "'about' has a 'history' that is not a list"),
        (replaced("history", np.frombuffer(b"\xff", np.uint8)), "history is not JSON text"),
        (
            replaced("history", np.full(hdf5_file._MAX_TEXT_ITEMS + 1, ord("\n"), np.uint8)),
            "history is not JSON text of an acceptable length",
        ),
        (without("layers/2/b"), "layers/2/b is missing"),
        (without("scaling"), "scaling is missing"),
        (replaced("about", np.arange(5)), "about is not JSON text"),
        (replaced("about", np.frombuffer(b"{", np.uint8)), "about is not JSON text"),
        (replaced("about", np.frombuffer(b"[]", np.uint8)), "'about' has no 'network'"),
        (replaced("about", np.frombuffer(b"\xff", np.uint8)), "about is not JSON text"),
        (replaced("about", np.frombuffer(b"[" * 10**6, np.uint8)), "about is not JSON text"),
        (replaced("layers/1/w", np.zeros((3, 5), "f4")), r"layers/1/w is float32 \(3, 5\); exp"),
        (replaced("layers/1/w", np.zeros((3, 4), "f8")), r"expected float32 \(3, 4\)"),
        (replaced("optimizer/first_moment", np.zeros(3, "f4")), "first_moment"),
        (lambda file: (without("layers/1/b")(file), file.create_group("layers/1/b")), "layers/1/b"),
        (
            lambda file: (without("layers/1")(file), replaced("layers/1", 1.0)(file)),
            "layers/1 is a",
        ),
        (without("optimizer"), "optimizer is missing"),
        (replaced("more", 1.0), "/more is not part of the format"),
        (replaced("layers/1/v", 1.0), "layers/1/v is not part of the format"),
        (replaced("optimizer/\x1b[31m", 1.0), r"optimizer/\?\[31m is not part of the format"),
        (replaced("scaling/shift", np.zeros(3)), r"shift is float64 \(3,\); expected .*\(4,\)"),
        (replaced("scaling/scale", np.full(1, np.nan)), "scale has a value that is not a finite"),
        (about(config={"optimizer": "rprop", "threads": 1}), "unknown optimizer, 'rprop'"),
        (about(config={"optimizer": [], "threads": 1}), "unknown optimizer"),
        (about(config={"optimizer": "adam"}), "has None threads"),
        (about(config={"optimizer": "sgd", "threads": 1}), "/optimizer is not part of the format"),
        (about(network={}), "describes a network by nothing"),
        (about(network=NETWORK | {"sizes": [4, 0, 2]}), "sizes"),
        (about(network=NETWORK | {"sizes": [4, 10**9, 2]}), "bytes are too few for sizes"),
        (about(network=NETWORK | {"sizes": [4, 10**400, 2]}), "bytes are too few for sizes"),
        (about(network=NETWORK | {"sizes": [1] * 10_001}), "bytes are too few for sizes"),
        (about(network=NETWORK | {"sizes": "4-3-2"}), "cannot be read as|sizes"),
        (about(network=NETWORK | {"sizes": 3}), "cannot be read as"),
        (about(network=NETWORK | {"dtype": "U99999999"}), "dtype 'U99999999' is unknown"),
        (about(network=NETWORK | {"activation": "swish"}), "swish"),
        (about(network=NETWORK | {"momentum": 1}), "describes a network by"),
        (
            replaced("about", np.frombuffer(b"[" * (hdf5_file._MAX_TEXT_ITEMS + 1), np.uint8)),
            "JSON text of an acceptable length",
        ),
        (
            replaced("about", np.zeros(hdf5_file._MAX_TEXT_BYTES + 1, np.uint8)),
            "about is not JSON text",
        ),
    ],
)
def test_broken_checkpoints(tmp_path, change, message):
    """Each is refused in one or two sentences that name the file, without a traceback."""
    path = tmp_path / "c.h5"
    save(path)
    spoil(path, change)
    with pytest.raises(CheckpointError, match=message) as failure:
        read_checkpoint(path)
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n", bytes(5000)])
def test_files_that_are_not_hdf5(tmp_path, content):
    """They are refused."""
    (tmp_path / "c.h5").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as distbp-checkpoint"):
        read_checkpoint(tmp_path / "c.h5")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path, part):
    """They are refused."""
    save(tmp_path / "c.h5", sizes=(40, 30, 20))
    raw = (tmp_path / "c.h5").read_bytes()
    (tmp_path / "c.h5").write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "c.h5")


# A run's directory.


@pytest.fixture
def folder(tmp_path):
    run = RunDirectory(tmp_path / "run", keep=2)
    run.create()
    return run


def checkpoints_in(folder):
    return sorted(path.name for path in folder.checkpoints.iterdir())


def steps(path):
    return read_checkpoint(path).about["progress"]["steps"]


def test_last_and_best_never_dangle(folder):
    """Old checkpoints are removed, but not the content of `last.h5` and `best.h5`."""
    for n in range(1, 7):
        folder.save(make(n), is_best=n == 2)
    assert checkpoints_in(folder) == ["step-000000005.h5", "step-000000006.h5"]
    assert steps(folder.path / "last.h5") == 6
    assert steps(folder.path / "best.h5") == 2
    assert sorted(os.listdir(folder.path)) == ["best.h5", "checkpoints", "last.h5"]


def test_saving_only_the_best(folder):
    """`best.h5` is written also when no checkpoint is due; `last.h5` stays."""
    folder.save(make(1), is_best=True)
    folder.save_best(make(2))
    assert steps(folder.path / "best.h5") == 2
    assert steps(folder.path / "last.h5") == 1
    assert checkpoints_in(folder) == ["step-000000001.h5"]


def test_a_process_that_is_killed_between_last_and_best(folder, monkeypatch):
    """The best one is there before the last one: a run that resumes does not reach it again."""
    folder.save(make(1), is_best=True)
    real = atomic.atomic_write

    def killed(path, error):
        if path.name == "last.h5":
            raise KeyboardInterrupt
        return real(path, error)

    monkeypatch.setattr(atomic, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.save(make(2), is_best=True)
    assert (steps(folder.path / "last.h5"), steps(folder.path / "best.h5")) == (1, 2)


def refuse_link(source, target):
    raise PermissionError(1, "Operation not permitted")


def test_without_hard_links(folder, monkeypatch):
    """Where the file system has no hard links, copies are made."""
    monkeypatch.setattr(os, "link", refuse_link)
    folder.save(make(1), is_best=True)
    folder.save(make(2), is_best=False)
    assert (steps(folder.path / "last.h5"), steps(folder.path / "best.h5")) == (2, 1)


def test_stale_temporary_links_are_not_written_through(folder):
    """A temporary name may still be a hard link to a checkpoint.

    A process may be killed between link and rename, and its successor in a container
    or batch job may well have the same pid.
    """
    folder.save(make(1), is_best=True)
    for name in ("last.h5", "best.h5"):
        os.link(folder.path / "last.h5", atomic._temporary_path(folder.path / name))
    folder.save_best(make(2))
    assert steps(folder.path / "last.h5") == 1
    folder.save(make(3), is_best=False)
    assert steps(folder.checkpoints / "step-000000001.h5") == 1
    assert steps(folder.path / "last.h5") == 3


def test_a_failed_save_keeps_last_and_best(folder, monkeypatch):
    """If a checkpoint cannot be written, all others are unchanged."""
    folder.save(make(1), is_best=True)
    real = module.write_checkpoint

    def fails(path, checkpoint):
        real(path, checkpoint)
        raise CheckpointError("no")

    monkeypatch.setattr(module, "write_checkpoint", fails)
    with pytest.raises(CheckpointError):
        folder.save(make(2), is_best=True)
    assert (steps(folder.path / "last.h5"), steps(folder.path / "best.h5")) == (1, 1)


def test_a_directory_that_holds_a_run(folder):
    """A second run does not start in it; the message says how to continue the first."""
    RunDirectory(folder.path, 3).create()  # nothing is saved yet
    folder.save(make(1), is_best=False)
    with pytest.raises(CheckpointError, match=r"already contains a run.* --resume .*another --out"):
        RunDirectory(folder.path, 3).create()


def test_a_directory_that_cannot_be_created(tmp_path):
    """The message has the path and the reason."""
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match=r"run cannot be created: Not a directory\."):
        RunDirectory(tmp_path / "run", 3).create()


def test_find_checkpoint(folder):
    """A file is returned as it is, for a directory its last checkpoint; none is an error."""
    assert find_checkpoint(folder.path / "x.h5") == folder.path / "x.h5"
    with pytest.raises(CheckpointError, match=r"run has no checkpoint: there is no last\.h5"):
        find_checkpoint(folder.path)
    folder.save(make(1), is_best=False)
    assert find_checkpoint(str(folder.path)) == folder.path / "last.h5"
    with pytest.raises(CheckpointError, match=r"none\.h5 cannot be read .*: No such file"):
        load(folder.path / "none.h5")


def half(path):
    os.truncate(path, path.stat().st_size // 2)


def half_of_zeros(path):
    size = path.stat().st_size
    half(path)
    os.truncate(path, size)


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# Ways to damage a file, and the message.
DAMAGES = {
    "missing": (Path.unlink, ""),
    "empty": (lambda path: path.write_bytes(b""), "is not an HDF5 file"),
    "text": (lambda path: path.write_text("lost and found"), "is not an HDF5 file"),
    "half": (half, r"it has [\d,]+ of [\d,]+ bytes"),
    "half of zeros": (half_of_zeros, "SHA-256 differs from"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "of [0-9,]+ bytes"),
    "one bit": (one_bit, "SHA-256 differs from"),
    "one byte of the header": (
        lambda path: path.write_bytes(b"D" + path.read_bytes()[1:]),
        "checksum header is invalid",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "it is a folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("has_links", [True, False])
def test_the_newest_valid_checkpoint(folder, damage, has_links, monkeypatch):
    """If the last one is damaged in any way, the one before is used, and a sentence says why."""
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_link)
    for n in (1, 2, 3):
        folder.save(make(n), is_best=False)
    change, message = DAMAGES[damage]
    change(folder.path / "last.h5")
    newest_step = folder.checkpoints / "step-000000003.h5"
    if has_links and newest_step.stat().st_nlink == 1:
        change(newest_step)
    found, messages = read_newest_checkpoint(folder.path)
    # A second link to the damaged file gives no second message; a copy of it is valid.
    assert found.about["progress"] == {"steps": 2 if has_links else 3}
    used = folder.checkpoints / f"step-00000000{2 if has_links else 3}.h5"
    assert find_newest_checkpoint(folder.path) == (used, messages)
    assert find_checkpoint(folder.path) == used
    if message:
        assert len(re.findall(message, messages[0])) == 1
        assert str(folder.path / "last.h5") in messages[0]
        assert messages[-1].endswith(f" {used} is used instead.")
        with pytest.warns(DistbpWarning, match=message):
            load(folder.path)


def test_no_message_for_valid_checkpoints(folder):
    """The last one is read."""
    folder.save(make(1), is_best=False)
    folder.save(make(2), is_best=False)
    found, messages = read_newest_checkpoint(folder.path)
    assert (found.about["progress"], messages) == ({"steps": 2}, [])
    assert find_newest_checkpoint(folder.path) == (folder.path / "last.h5", [])
    assert read_newest_checkpoint(folder.path / "last.h5")[1] == []


def test_no_valid_checkpoint(folder):
    """All of them are named, with the reason for each."""
    folder.save(make(1), is_best=False)
    folder.save(make(2), is_best=False)
    for path in folder.checkpoints.iterdir():
        one_bit(path)
    message = r"run has no valid checkpoint\. .*last\.h5.*SHA-256.*step-000000001\.h5.*SHA-256"
    for function in (find_checkpoint, load, find_newest_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            function(folder.path)


def test_rolling_back_removes_later_checkpoints(folder):
    """Otherwise they would count as newer than what is saved from then on."""
    folder.keep = 1
    for n in (8, 9):
        folder.save(make(n), is_best=False)
    one_bit(folder.path / "last.h5")
    folder.save(make(5), is_best=False)
    assert checkpoints_in(folder) == ["step-000000005.h5"]
    assert steps(folder.path / "last.h5") == 5


def test_more_than_a_billion_steps(folder):
    """Longer names are still in order."""
    for n in (999_999_999, 1_000_000_000, 1_000_000_001):
        folder.save(make(n), is_best=False)
    assert checkpoints_in(folder) == ["step-1000000000.h5", "step-1000000001.h5"]
    one_bit(folder.path / "last.h5")
    assert find_checkpoint(folder.path).name == "step-1000000000.h5"


def test_a_run_without_last_h5(folder):
    """A process may be killed between writing the first checkpoint and linking it."""
    folder.save(make(1), is_best=False)
    (folder.path / "last.h5").unlink()
    assert steps(find_checkpoint(folder.path)) == 1
    with pytest.raises(CheckpointError, match="already contains a run"):
        folder.create()


def test_concurrent_saves(tmp_path):
    """Each thread writes to a temporary name of its own, also for the same file."""
    errors, paths = [], [tmp_path / "a.h5", tmp_path / "b.h5"]

    def work(n):
        try:
            for _ in range(5):
                write_checkpoint(paths[n % 2], make(n, sizes=(40, 30, 20)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]
    assert all(steps(path) in range(6) for path in paths)


def test_text_files(folder):
    """A text is replaced atomically, in UTF-8; if that fails, the old one stays."""
    folder.write_text("a.txt", "eins\n")
    folder.write_text("a.txt", "η\n")
    assert (folder.path / "a.txt").read_bytes() == "η\n".encode()
    with pytest.raises(CheckpointError, match="cannot be written: No such file"):
        folder.write_text("none/a.txt", "x")
    assert sorted(os.listdir(folder.path)) == ["a.txt", "checkpoints"]


LONG_LINE = """
import resource, sys
from pathlib import Path
from distbp.storage.run_directory import RunDirectory

folder = RunDirectory(Path(sys.argv[1]), keep=3)
print(folder.append_text("none", "x\\n"), folder.append_text("m", "2\\n"))
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
print(folder.append_text("m", "3" * 100 + "\\n"), folder.append_text("m", "4\\n"))
"""


def test_a_line_is_appended_or_not(tmp_path):
    """If only a part of it fits, none of it is left; no file is created for it."""
    (tmp_path / "m").write_text("1\n")
    run = subprocess.run(
        [sys.executable, "-c", LONG_LINE, tmp_path], capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("False True\nFalse True\n", "")
    assert (tmp_path / "m").read_text() == "1\n2\n4\n"
    assert os.listdir(tmp_path) == ["m"]


def test_writing_does_not_change_the_checkpoint(tmp_path):
    """A run continues with what it has saved."""
    checkpoint = make()
    before = copy.deepcopy(checkpoint.about), digest(checkpoint.network.theta)
    write_checkpoint(tmp_path / "c.h5", checkpoint)
    assert (checkpoint.about, digest(checkpoint.network.theta)) == before


def test_the_records_of_all_epochs_fit():
    """The maximum of --epochs, with the longest numbers, can be stored and read again."""
    names = "train_cost train_accuracy validation_cost validation_accuracy test_cost test_accuracy"
    record = dict.fromkeys(
        (*names.split(), "learning_rate", "seconds", "samples_per_s"), 1e-300 / 3
    )
    record |= {"epoch": 100_000, "step": 10**12, "digest": "0" * 64}
    assert not hdf5_file._is_too_long(b"\n".join([json.dumps(record).encode()] * 100_000))


def test_a_checkpoint_of_version_1(tmp_path):
    """Its history is in `about`."""
    records = [{"epoch": 1, "train_cost": 0.5}, {"epoch": 2, "train_cost": 1 / 3}]
    path = tmp_path / "c.h5"
    save(path)
    spoil(path, attribute("version", np.int64(1)))
    spoil(path, without("history"))
    spoil(path, about(history=records))
    found = read_checkpoint(path)
    assert [json.loads(line) for line in found.history] == records
    assert "history" not in found.about
