"""Shows findings: a table for people, and JSON for programs."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from distbp.doctor.examination import Examination
from distbp.doctor.finding import Finding, Verdict, worst
from distbp.version import __version__

SCHEMA = 1  # of the JSON; the next one if a name disappears, or changes its meaning
_COLORS = {Verdict.OK: 32, Verdict.WARNING: 33, Verdict.PROBLEM: 31}  # of ANSI terminals
_MIN_TEXT = 40  # columns


def table_lines(findings: Sequence[Finding], width: int = 0) -> list[str]:
    """Return a line for each finding: check, verdict, what was found, remedy.

    Parameters
    ----------
    findings : sequence of Finding
    width : int
        Of the terminal, for which lines are wrapped and verdicts coloured; 0 without one.
    """
    names = max(len(one.check) for one in findings)
    verdicts = max(map(len, Verdict))
    lines = []
    for one in findings:
        text = one.found + (f". {one.remedy}" if one.remedy else "")
        indent = " " * (names + verdicts + 4)
        parts = [text]
        if width:
            room = max(width - len(indent), _MIN_TEXT)
            parts = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        verdict = one.verdict.ljust(verdicts)
        if width:
            verdict = f"\x1b[{_COLORS[one.verdict]}m{verdict}\x1b[0m"
        lines.append(f"{one.check:{names}}  {verdict}  {parts[0]}")
        lines += [indent + part for part in parts[1:]]
    return [*lines, "", _summary(findings)]


def _summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each kind."""
    counts = {kind: sum(one.verdict == kind for one in findings) for kind in Verdict}
    texts = [f"{counts[kind]} {kind}{'s' * (counts[kind] != 1)}"
             for kind in (Verdict.PROBLEM, Verdict.WARNING) if counts[kind]]  # fmt: skip
    return f"{len(findings)} checks: {', '.join(texts) or 'all ok'}"


def to_json(found: Examination, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what `distbp doctor --json` prints; see the page of this package."""
    return {
        "schema": SCHEMA,
        "distbp": __version__,
        "verdict": worst(findings),
        "ranks": len(found.ranks),
        "hosts": list(found.hosts),
        "findings": [asdict(one) for one in findings],
        "facts": {
            "ranks": [one.to_json() for one in found.ranks],
            "world": None if found.world is None else asdict(found.world),
        },
    }
