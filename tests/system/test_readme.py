"""Run every command of README.md, in order, and check options and links of all READMEs.

The commands run in a copy of the checkout with the virtual environment that README.md
creates, and with a file `data.h5` of the user. An unknown program or language of a code
block is a failure. `SUBSTITUTIONS` lists the commands that are not run as written.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from checkout import INSTALL_LIMIT_S, MPI, copy_checkout, fresh_environment
from ranks import ROOT, Job, base_environment, distbp

from distbp.training.config import Config

README = ROOT / "README.md"
OTHERS = [path for name in ("scripts", "tests") for path in sorted((ROOT / name).rglob("*.md"))]
EACH = pytest.mark.parametrize(
    "path", [README, *OTHERS], ids=lambda path: str(path.relative_to(ROOT))
)
# Replacements for commands that cannot be run as written, and where those are tested.
SUBSTITUTIONS = (
    (
        r"^pip install '\.\[mpich,tables\]'$",
        f"pip install -q '.[{MPI},tables]'",
    ),  # the MPI of this test run
    (r"^pip install '\.\[sklearn,onnx\]'$", "pip install -q '.[sklearn,onnx]'"),
    (r"^pip install safetensors torch$", ":"),  # its block is run where there is PyTorch
    (r"^mpirun -n 16 ", "mpirun -n 2 "),  # on a machine of any size
    (r"^sbatch (\S+)$", r"bash -n \1"),  # submitted to a cluster in test_slurm_jobs.py
    (r"^(scripts/test)\b.*$", r"\1 --help"),  # run in test_scripts.py
)
PROGRAMS = {"cut", "python3", ".", "pip", "distbp", "mpirun", "test", "sbatch", "scripts/test"}
# Commands in running text, without those of pip, which test_packaging.py runs.
INLINE = re.compile(r"`((?:distbp|python) [a-z-][^`]*)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
# Options of other programs.
FOREIGN_OPTIONS = {"--with-ft"}
VERBS = (
    "import", "train", "watch", "sweep", "evaluate", "predict", "export", "import-model", "report",
    "info", "digest", "plan", "slurm", "doctor", "diff", "verify", "completion",
)  # fmt: skip


class Block(NamedTuple):
    """A fenced code block: its language, its text, and the line of README.md it starts on."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    found = re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in found]


def prose(path: Path) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", path.read_text("utf-8"), flags=re.MULTILINE)


def commands(block: Block) -> list[str]:
    """Return the commands of a block of shell, one per line, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines)
    return [command for command in found if command]


def substituted(command: str) -> str:
    """Return the command to run instead of a command; fail if its program is unknown."""
    assert command.split()[0] in PROGRAMS, f"{command}: unknown program, add it to PROGRAMS"
    for pattern, replacement in SUBSTITUTIONS:
        command = re.sub(pattern, replacement, command)
    return command


def as_script(path: Path) -> str:
    """Return one script that runs all blocks of a file, in order, and stops at a failure."""
    lines = ["set -eu"]
    for block in blocks(path):
        assert block.language in ("sh", "python"), f"{path.name}:{block.line}: {block.language!r}"
        if "import torch" in block.text:  # in test_a_pytorch_user
            continue
        if block.language == "python":
            lines.append(f"python - <<'END OF BLOCK'\n{block.text}END OF BLOCK")
            continue
        for command in map(substituted, commands(block)):
            lines += [f"echo {shlex.quote('$ ' + command)}", command]
    lines += [command for command in INLINE.findall(prose(path)) if is_complete(command)]
    return "\n".join(lines) + "\n"


def is_complete(command: str) -> bool:
    """Return whether a command in running text can be run: others only name a verb."""
    return command.endswith("--help") or command.startswith("python -m pydoc")


@pytest.fixture
def reader(tmp_path):
    """Return a copy of the checkout with an HDF5 file of the user."""
    folder = copy_checkout(tmp_path / "a checkout")
    random = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file["inputs"] = x = random.normal(size=(500, 2, 3))
        file["targets"] = x[:, 0] - np.sin(x[:, 1])
    return folder


def test_every_command_of_the_readme(reader, tmp_path):
    """All succeed, and create the files that they should."""
    script = tmp_path / "readme.sh"
    script.write_text(as_script(README))
    variables = fresh_environment(tmp_path)
    ended = Job(["bash", script], reader, variables, INSTALL_LIMIT_S).wait()
    assert ended.status == 0, str(ended)
    accuracies = [
        float(text) for text in re.findall(r"^test: .*accuracy ([\d.]+)%$", ended.out, re.M)
    ]
    assert accuracies, str(ended)
    assert min(accuracies) > 90, str(ended)
    with h5py.File(reader / "predictions.h5") as file:
        assert file["output"].shape == (100, 3)
    assert (reader / "new.csv").read_text().count("\n") == 451
    for name in ("model.onnx", "model.joblib", "fitted.h5"):
        assert (reader / name).exists(), name
    lines = (reader / "species.csv").read_text().splitlines()
    assert lines[0] == "row,class,p_Adelie,p_Chinstrap,p_Gentoo"
    assert len(lines) == 345
    assert ended.out.count("\n".join(lines[:3])) == 1  # on standard output
    for run in ("run", "digits", "penguins", "four", "cluster", "library"):
        assert (reader / run / "last.h5").exists(), run


if find_spec("torch"):  # which one of the environments has

    def test_a_pytorch_user(tmp_path):
        """A module is trained on, and returns the right classes."""
        words = ("import", ROOT / "scripts" / "digits.npz", "digits.h5", "--scaling", "standardize")
        distbp(*words, folder=tmp_path)
        (block,) = (one for one in blocks(README) if "import torch" in one.text)
        check = """
with __import__("h5py").File("digits.h5") as file:
    x, y = file["train/x"][:], file["train/y"][:]
    shift, scale = file["scaling/shift"][:], file["scaling/scale"][:]
rows = torch.tensor((x.reshape(len(x), -1) - shift) * scale, dtype=torch.float32)
print("accuracy", float((net(rows).argmax(1).numpy() == y).mean()))
"""
        ended = Job([sys.executable, "-c", block.text + check], tmp_path, base_environment()).wait()
        assert ended.status == 0, str(ended)
        assert float(ended.out.split("accuracy")[-1]) > 0.98, str(ended)


def test_unknown_code_blocks_are_a_failure(tmp_path):
    """An unknown program, an unknown language, and a block without a language."""
    path = tmp_path / "README.md"
    for text in ("```sh\ncurl somewhere | sh\n```\n", "```json\n{}\n```\n", "```\ndistbp\n```\n"):
        path.write_text(text)
        with pytest.raises(AssertionError):
            as_script(path)


@EACH
def test_all_code_is_in_fenced_blocks(path):
    """Indented code or a block that is not closed would not be found by these tests."""
    text = prose(path)
    assert "```" not in text
    assert not re.findall(r"\n\n {4,}\S.*", text)


def help_of(*words: object) -> str:
    """Return the --help of a program; Python scripts are run by the Python of the tests."""
    program = Path(str(words[0]))
    is_python = program != Path(sys.executable) and b"python" in program.read_bytes()[:40]
    run = subprocess.run(
        [*[sys.executable] * is_python, *map(str, words), "--help"],
        env=base_environment() | {"PYTHONWARNINGS": ""}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return run.stdout


@pytest.fixture(scope="module")
def known_options():
    """Return the options of all verbs, of MPI launchers, and of scripts/test and scripts/demo."""
    verbs = (help_of(sys.executable, "-m", "distbp", verb) for verb in VERBS)
    scripts = (help_of(ROOT / "scripts" / name) for name in ("test", "demo", "soak"))
    # Every program has --help, and the verbs do not list it.
    return FOREIGN_OPTIONS | {"--help"} | set(OPTION.findall(" ".join([*verbs, *scripts])))


@EACH
def test_options_in_the_text_exist(path, known_options):
    assert set(OPTION.findall(prose(path))) <= known_options


@EACH
def test_links_lead_to_files(path):
    for target in LINK.findall(path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_the_other_readmes_exist(path):
    """They take long or need root, and are not run; program and options must exist."""
    for block in blocks(path):
        assert block.language == "sh", f"line {block.line}: {block.language!r}"
        for command in commands(block):
            program, *words = shlex.split(command)
            if program == "distbp":
                text = help_of(sys.executable, "-m", "distbp", words[0])
            else:
                assert os.access(ROOT / program, os.X_OK), program
                text = help_of(ROOT / program)
            assert set(OPTION.findall(command)) <= set(OPTION.findall(text)), command


def test_the_table_of_options_has_the_right_defaults():
    """In rows of one option with a default; 0 stands for None, too."""
    defaults = {"--" + one.name.replace("_", "-"): one.default for one in fields(Config)}
    rows = re.findall(r"^\| `(--[a-z-]+)[^`|]*` \| `?([^`|]+?)`? \|", README.read_text(), re.M)
    assert len(rows) >= 7
    for option, cell in rows:
        if option in ("--ranks", "--learning-rate"):
            continue  # not a field of Config; depends on the optimizer
        default = defaults[option]
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default or 0)
        assert cell == shown, option
