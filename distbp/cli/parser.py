"""Options on the command line: a parser that speaks in sentences, and what goes in and out of it.

The options of a verb may be the fields of a dataclass that are declared by
`config.option`: so each is listed once. Words are options as they are typed.
"""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from distbp.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in a sentence, and leaves printing it to `main`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        verb = self.prog.partition(" ")[2]
        raise ConfigError(f"{verb + ': ' if verb else ''}{message}. See {self.prog} --help.")

    def refuse(self, unknown: str) -> NoReturn:
        """Raise ConfigError for an argument that nobody asked for."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(unknown.partition("=")[0], flags, 1)
        hint = f"; did you mean {close[0]}?" if close and unknown.startswith("-") else "."
        raise ConfigError(f"{self.prog} does not know {unknown!r}{hint} See {self.prog} --help.")


def add_verb(verbs: Any, name: str, help: str, run: Any) -> Parser:
    parser: Parser = verbs.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_options(parser: Parser, kind: Any) -> None:
    """Add an option for each field of `Config` or of its like, but for the data set."""
    from distbp.training.options import (  # which loads NumPy: not before it is needed
        flag,
        format_value,
    )

    for one in fields(kind):
        if one.name == "data":
            continue
        meta = one.metadata
        default = (
            "" if one.default in (None, "", False) else f" (default: {format_value(one.default)})"
        )
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": meta["help"] + default}
        if one.type is bool:
            parser.add_argument(flag(one.name), action=argparse.BooleanOptionalAction, **options)
            continue
        if meta["choices"]:
            options["choices"] = meta["choices"]
        else:
            options |= {"type": meta["parse"], "metavar": one.name.upper()}
        parser.add_argument(flag(one.name), **options)


def given_options(arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the options that were given, of those that `add_options` has added."""
    values = {one.name: getattr(arguments, one.name, None) for one in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def without(argv: Sequence[str], *flags: str) -> list[str]:
    """Return the arguments without `FLAG VALUE` or `FLAG=VALUE` of some flags."""
    kept, skip = [], False
    for word in argv:
        if not skip and word.partition("=")[0] not in flags:
            kept.append(word)
        skip = word in flags and not skip
    return kept
