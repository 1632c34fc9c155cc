"""The verb `completion`: print a script by which a shell completes commands of distbp.

The script knows all verbs, options and choices when it is printed, so completing starts no Python.
"""

import argparse
from collections.abc import Callable, Mapping

from distbp.cli.parser import Parser, Verb
from distbp.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")

# What completes an argument, by the kind of its value.
_FILE_KINDS = ("FILE", "SOURCE", "MODEL", "DATA", "OUT", "train")
_DIRECTORY_KINDS = ("RUN", "FOLDER")

_NOTES = """\
where to put it:
  bash  ~/.local/share/bash-completion/completions/distbp
  zsh   _distbp in a directory of $fpath, before compinit is called
  fish  ~/.config/fish/completions/distbp.fish"""


def _declare(parser: Parser) -> None:
    parser.group("shell").add_argument("shell", choices=SHELLS, help="for which shell")
    parser.epilog = f"{parser.epilog}\n\n{_NOTES}"


def completion_verb(verbs: Callable[[], Mapping[str, Verb]]) -> Verb:
    """Return the verb; `verbs` returns the table of all, which has this one, too."""

    def run(arguments: argparse.Namespace) -> int:
        print(completion_script(arguments.shell, verbs()))
        return 0

    return Verb(
        "completion",
        "Print a script with which a shell completes commands.",
        "{bash,zsh,fish}",
        "distbp completion bash",
        _declare,
        run,
    )


def completion_script(shell: str, verbs: Mapping[str, Verb]) -> str:
    """Return the script for a shell.

    Raises
    ------
    ConfigError
        The package that makes it is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError(
            f"distbp completion {shell} needs the package shtab. Install it with pip install "
            "'distbp[completion]'."
        ) from error
    script: str = shtab.complete(_whole_parser(verbs), shell)
    return script


def _whole_parser(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """Return a parser of all verbs, whose arguments say how they are completed."""
    import shtab

    parser = argparse.ArgumentParser(prog="distbp", add_help=False)
    parser.add_argument("--help", action="help")
    parser.add_argument("--version", action="version")
    choices = parser.add_subparsers(parser_class=Parser)
    for verb in verbs.values():
        inner = choices.add_parser(verb.name, help=verb.summary)
        verb.declare(inner)
        for action in inner._actions:
            kind = str(action.metavar or "").partition(".")[0].partition(" ")[0]
            if kind in _FILE_KINDS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif kind in _DIRECTORY_KINDS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return parser
