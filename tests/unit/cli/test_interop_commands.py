"""The verbs `export` and `import-model`: what is printed, written and refused."""

import models
import pytest

from distbp.cli.main import parse_command_line, run_verb
from distbp.errors import ConfigError, DataError, DistbpError
from distbp.network.parameters import digest
from distbp.storage.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder with a model, and some other files."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model.h5", models.untrained())
    (tmp_path / "mine.npz").write_bytes(b"mine")
    (tmp_path / "mine.h5").write_bytes(b"mine")
    (tmp_path / "net.pt").write_bytes(b"PK")
    return tmp_path


def run(*words):
    return run_verb(parse_command_line(words))


@pytest.mark.parametrize("name", ["a.onnx", "a.safetensors", "a.npz"])
def test_out_and_in(folder, capsys, name):
    assert run("export", "model.h5", name) == 0
    size = (folder / name).stat().st_size
    assert capsys.readouterr().out == f"{name}: {size:,} bytes\n"
    assert run("import-model", name, "--out", "again.h5") == 0
    assert capsys.readouterr().out.splitlines() == [
        "again.h5: 6-9-8-3, relu … softmax, classification, 3 names",
        "next   distbp info again.h5",
    ]
    found, expected = (read_checkpoint(folder / one) for one in ("again.h5", "model.h5"))
    assert digest(found.network.theta) == digest(expected.network.theta)
    with pytest.raises(ConfigError, match=f"{name} exists already"):
        run("export", "model.h5", name)
    assert run("export", "model.h5", name, "--force") == 0


def test_info_names_the_origin(capsys):
    run("export", "model.h5", "a.npz")
    run("import-model", "a.npz", "--out", "again.h5")
    assert run("info", "again.h5") == 0
    text = capsys.readouterr().out
    assert "imported    a.npz (npz)" in text
    assert "trained on" not in text


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("export", "model.h5", "mine.npz"), ConfigError, "mine.npz exists already"),
        (("export", "model.h5", "model.txt"), ConfigError, r"ends in \.onnx or"),
        (("export", "model.h5", "no/where.npz"), DistbpError, "no/where.npz cannot be written"),
        (("export", "none.h5", "a.npz"), DistbpError, "none.h5 cannot be read"),
        (("import-model", "net.pt", "--out", "a.h5"), DataError, "is a pickle, by its name"),
        (("import-model", "net.pt"), ConfigError, "are required: --out"),
        (("import-model", "mine.npz", "--out", "a.h5"), DataError, "mine.npz cannot be read"),
        (("import-model", "mine.npz", "--out", "mine.h5"), ConfigError, "nothing in it says"),
        (("import-model", "a.onnx", "--out", "a.h5", "--classes", "a,,b"), ConfigError, "a,,b"),
        (("import-model", "a.onnx", "--out", "a.h5", "--output", "x"), ConfigError, "invalid choi"),
    ],
)
def test_mistakes(folder, words, error, said):
    """One sentence each; files that are there are left as they are."""
    with pytest.raises(error, match=said) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
    assert (folder / "mine.npz").read_bytes() == (folder / "mine.h5").read_bytes() == b"mine"
