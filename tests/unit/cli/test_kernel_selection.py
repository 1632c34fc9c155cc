"""Where the kernels of a command are looked up before its command line is parsed."""

import pytest

from distbp.cli import kernel_selection
from distbp.cli.kernel_selection import option_value, select_kernels
from distbp.errors import ConfigError

AVX2 = "AuthenticAMD 23 avx2 fma"
AVX512 = "GenuineIntel 6 avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.fixture
def chosen(monkeypatch):
    """Return the choices that `select` was called with; nothing is set."""
    calls = []
    monkeypatch.setattr(kernel_selection.kernels, "select", lambda *a: calls.append(a[0]))
    monkeypatch.setenv("DISTBP_TEST_CPU", AVX512)
    return calls


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text('kernels = "SkylakeX"\n')
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--kernels", "portable"], "portable"),
        (["train", "--kernels=portable", "x.h5"], "portable"),
        (["train", "--kernels", "a", "--kernels=b"], "b"),
        (["train", "--kernels"], None),
        (["train", "kernels", "x"], None),
        ([], None),
    ],
)
def test_the_value_of_an_option(words, expected):
    assert option_value(words, "--kernels") == expected


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--resume", "{run}"],
        ["train", "--resume={run}", "--epochs", "9"],
        ["train", "x.h5", "--config", "{run}/config.toml"],
        ["evaluate", "{run}", "data.h5"],
        ["evaluate", "--split", "test", "{run}/last.h5", "data.h5"],
        ["predict", "{run}/checkpoints/step-1.h5", "data.h5", "--out", "p.h5"],
    ],
)
def test_those_of_a_run(chosen, run, words):
    """Of one that is resumed, of a model that is used, and of a configuration."""
    select_kernels([word.format(run=run) for word in words])
    assert chosen == ["SkylakeX"]


def test_the_command_line_takes_precedence(chosen, run):
    select_kernels(["train", "--resume", str(run), "--kernels", "portable"])
    assert chosen == ["portable"]


def test_a_run_on_a_cpu_that_cannot_run_its_kernels(chosen, run, monkeypatch):
    """It is resumed with native ones, and says so later; a configuration is refused."""
    monkeypatch.setenv("DISTBP_TEST_CPU", AVX2)
    select_kernels(["train", "--resume", str(run)])
    assert chosen == ["native"]
    monkeypatch.undo()
    monkeypatch.setenv("DISTBP_TEST_CPU", AVX2)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    with pytest.raises(ConfigError, match="needs a CPU with avx512bw"):
        select_kernels(["train", "x.h5", "--config", str(run / "config.toml")])


@pytest.mark.parametrize("text", ["", "kernels = 3", "no toml", "\x00", 'kernels = "x'])
def test_files_without_valid_kernels(chosen, run, text):
    """Whoever reads the whole file says what is wrong with it."""
    (run / "config.toml").write_text(text)
    select_kernels(["train", "--resume", str(run)])
    assert chosen == ["native"]


def test_missing_files(chosen, tmp_path):
    select_kernels(["train", "--resume", str(tmp_path / "missing")])
    select_kernels(["train", "--config", str(tmp_path)])
    assert chosen == ["native", "native"]


@pytest.mark.parametrize(
    "words", [[], ["info", "x"], ["import", "a", "b"], ["train", "--help"], ["-h"]]
)
def test_commands_that_compute_nothing(chosen, words):
    select_kernels(words)
    assert chosen == []
