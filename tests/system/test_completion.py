"""Completion of commands, in shells that are really there."""

import os
import pty
import select
import shutil
import subprocess
import time

import pytest
from ranks import base_environment, distbp

LIMIT_S = 120.0
# In place of distbp, a function says what the shell has made of a line.
START = {
    "bash": (["bash", "--rcfile", "start", "-i"], "source distbp.bash", "distbp() {{ {0}; }}"),
    "zsh": (
        ["zsh", "-d", "-i"],
        "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D",
        "distbp() {{ {0}; }}",
    ),
    "fish": (
        ["fish", "--no-config", "-i", "-C", "source start"], "source distbp.fish",
        "function distbp; {0}; end",
    ),
}  # fmt: skip
SAY = {"fish": "echo called (count $argv): $argv; exit"}
SAY |= dict.fromkeys(("bash", "zsh"), 'echo "called $#: $*"; exit')


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Return a directory with the scripts, and with files and a directory to complete."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in START:
        ended = distbp("completion", shell, folder=folder)
        assert ended.err == ""
        (folder / f"distbp.{shell}").write_text(ended.out)
    (folder / "_distbp").write_text((folder / "distbp.zsh").read_text())
    (folder / "digits.h5").touch()
    (folder / "run-of-digits").mkdir()
    return folder


def typed(shell, folder, keys):
    """Return what an interactive shell prints when keys are typed."""
    command, load, define = START[shell]
    text = f"{load}\n{define.format(SAY[shell])}\n"
    for name in ("start", ".zshrc"):
        (folder / name).write_text(text)
    variables = base_environment() | {"TERM": "dumb", "ZDOTDIR": str(folder), "HOME": str(folder)}
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, env=variables, preexec_fn=lambda: os.login_tty(os.dup(terminal))
    )
    os.close(terminal)
    seen, deadline = "", time.monotonic() + LIMIT_S
    os.write(controller, keys.encode())
    try:
        while time.monotonic() < deadline:
            if select.select([controller], [], [], 0.1)[0]:
                seen += os.read(controller, 65536).decode(errors="replace")
    except OSError:  # the shell has ended
        pass
    finally:
        os.close(controller)
        process.kill()
        process.wait()
    return seen


@pytest.mark.parametrize("shell", START)
def test_tabs_in_an_interactive_shell(scripts, shell):
    """A verb, a file, an option and a choice."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    seen = typed(shell, scripts, "distbp tra\tdig\t--tens\t--optimizer nes\t\n")
    assert "called 5: train digits.h5 --tensorboard --optimizer nesterov" in seen, seen


@pytest.mark.parametrize("shell", START)
def test_syntax(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    command = [shell, "-n", f"distbp.{shell}"]
    run = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def offered_by_bash(folder, *words):
    """Return what bash offers for the last word."""
    script = (
        'source distbp.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        "_shtab_distbp; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    command = ["bash", "--norc", "-c", script, "bash", "distbp", *words]
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env=base_environment()
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["wa"], {"watch"}),
        (["train", "--learning"], {"--learning-rate"}),
        (["train", "--optimizer", "ada"], {"adam", "adamw"}),
        (["train", "--no-qu"], {"--no-quiet"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["evaluate", "run", "dig"], {"digits.h5"}),
        (["watch", "run"], {"run-of-digits"}),
        (["train", "--resume", "run"], {"run-of-digits"}),
    ],
)
def test_bash(scripts, words, expected):
    """Verbs, options, choices, files and directories."""
    assert offered_by_bash(scripts, *words) == expected
