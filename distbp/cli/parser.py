"""Verbs, and a parser that reports a mistake in a sentence.

A `Verb` declares its options on a `Parser`, which is made when the verb is used: so
`distbp train --help` loads what `train` needs, and nothing else. Most options are fields
of a dataclass that are declared by `distbp.options.option`; `add_options` makes arguments
of them, in the groups that they name. What a verb does is not known here.
"""

import argparse
import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, NoReturn

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.options import flag, format_default


class _ChoicesOrOwn(tuple[str, ...]):
    """The names that an option may have, besides those of users' own parts."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and own_parts.is_own(name))


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with the lines of description and example as they are, and room for long flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError, which `main` prints, instead of exiting.

    Options are listed in named groups. `--help` itself is not listed: whoever reads the list
    has found it.
    """

    def __init__(self, **arguments: Any) -> None:
        # Abbreviations in scripts would break when an option is added.
        super().__init__(
            allow_abbrev=False, add_help=False, formatter_class=_HelpFormatter, **arguments
        )
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        self._groups: dict[str, Any] = {}

    def group(self, title: str) -> Any:
        """Return the group of options with a title; `--help` lists groups as first asked for."""
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title]

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError for what argparse does not accept."""
        verb = self.prog.partition(" ")[2]
        raise ConfigError(f"{verb + ': ' if verb else ''}{message}. See {self.prog} --help.")

    def refuse(self, unknown: str) -> NoReturn:
        """Raise ConfigError for an argument that the verb does not have."""
        if not unknown.startswith("-"):
            raise ConfigError(
                f"{self.prog} does not expect the argument {unknown!r}. See {self.prog} --help."
            )
        flags = [flag for action in self._actions for flag in action.option_strings]
        hint = did_you_mean(unknown.partition("=")[0], flags)
        raise ConfigError(f"{self.prog} has no option {unknown!r}{hint} See {self.prog} --help.")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a sentence that suggests the word that is closest to an unknown one."""
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else "."


@dataclass(frozen=True)
class Verb:
    """A command of distbp: `distbp NAME ARGUMENTS`.

    Attributes
    ----------
    name, summary : str
    usage : str
        What follows the name, for each way to use it on a line of its own.
    example : str
        A command line that works with the right files.
    declare : function of Parser
        Adds the options.
    run : function of argparse.Namespace
        Does what the verb is for, and returns the exit status.
    """

    name: str
    summary: str
    usage: str
    example: str
    declare: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]

    def parser(self) -> Parser:
        """Return the parser of what follows the name."""
        prog = f"distbp {self.name}"
        usage = "\n       ".join(f"{prog} {line}" for line in self.usage.splitlines())
        epilog = f"example:\n  {self.example}"
        parser = Parser(prog=prog, usage=usage, description=self.summary, epilog=epilog)
        self.declare(parser)
        return parser

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the values of the arguments that follow the name, and the verb as `verb`.

        Raises
        ------
        ConfigError
            An argument is unknown or missing, or its value is not allowed.
        """
        parser = self.parser()
        # parse_args would report unknown arguments too, but without a suggestion.
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.refuse(unknown[0])
        parsed.verb = self
        return parsed


def add_options(parser: Parser, *kinds: Any, skip: Collection[str] = ()) -> None:
    """Add an option for each field of some dataclasses, declared by `distbp.options.option`.

    An option that is not given is not in the result: see `given_options`. In each group the
    common options come first.
    """
    declared = [one for kind in kinds for one in fields(kind) if one.name not in skip]
    for one in sorted(declared, key=lambda one: not one.metadata["is_common"]):
        meta = one.metadata
        default = format_default(one.default, meta["default_text"])
        group = parser.group(meta["group"])
        arguments: dict[str, Any] = {
            # Absent unless given: the defaults are the dataclass's, and files may override them.
            "default": argparse.SUPPRESS,
            "help": f"{meta['help']} {default}".replace("%", "%%"),  # argparse formats it
            "required": one.default is MISSING,
        }
        if one.type in (bool, bool | None):
            arguments["action"] = argparse.BooleanOptionalAction
        elif meta["choices"]:
            kind = _ChoicesOrOwn if meta["has_own_parts"] else tuple
            arguments["choices"] = kind(meta["choices"])
        else:
            arguments |= {"type": meta["parse"], "metavar": meta["metavar"]}
        group.add_argument(flag(one.name), **arguments)


def given_options(arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the options of a dataclass that were given, by the names of its fields."""
    values = {one.name: getattr(arguments, one.name, None) for one in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def drop_options(argv: Sequence[str], *flags: str) -> list[str]:
    """Return the arguments without `FLAG VALUE` and `FLAG=VALUE` of some flags."""
    kept, is_value = [], False
    for word in argv:
        if not is_value and word.partition("=")[0] not in flags:
            kept.append(word)
        is_value = word in flags and not is_value  # of `FLAG=VALUE` no value follows
    return kept
