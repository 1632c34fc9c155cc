"""What a check has found: a line of the table, with a verdict and a remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_SHOWN_GROUPS = 3  # of hosts with different findings


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # slower, or less safe, than it could be
    PROBLEM = "problem"  # something does not work


_SEVERITY = (Verdict.OK, Verdict.WARNING, Verdict.PROBLEM)


@dataclass(frozen=True)
class Finding:
    """A line of the table.

    Attributes
    ----------
    check : str
        What was looked at.
    found : str
    verdict : Verdict
    remedy : str
        What to do; empty if it is ok.
    """

    check: str
    found: str
    verdict: Verdict = Verdict.OK
    remedy: str = ""


def warning(check: str, found: str, remedy: str) -> Finding:
    """Return the finding that something is slower, or less safe, than it could be."""
    return Finding(check, found, Verdict.WARNING, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    """Return the finding that something does not work."""
    return Finding(check, found, Verdict.PROBLEM, remedy)


def worst(findings: Sequence[Finding]) -> Verdict:
    """Return the worst verdict of some findings; ok without any."""
    return max((one.verdict for one in findings), key=_SEVERITY.index, default=Verdict.OK)


def merge_hosts(findings: Sequence[tuple[str, Finding]]) -> Finding:
    """Return one line for what a check has found on each host: differences name the hosts.

    Parameters
    ----------
    findings : sequence of (str, Finding)
        A host and what was found there; at least one, all of the same check.
    """
    groups: dict[str, list[str]] = {}
    for host, one in findings:
        groups.setdefault(one.found, []).append(host)
    verdict = worst([one for _, one in findings])
    of_worst = [one for _, one in findings if one.verdict == verdict]
    # What is worst stands first.
    texts = sorted(groups, key=lambda found: found not in {one.found for one in of_worst})
    found = texts[0]
    if len(texts) > 1:
        found = "; ".join(f"{_names(groups[text])}: {text}" for text in texts[:_SHOWN_GROUPS])
        if len(texts) > _SHOWN_GROUPS:
            found += f"; and {len(texts) - _SHOWN_GROUPS} more"
    return Finding(of_worst[0].check, found, verdict, of_worst[0].remedy)


def _names(hosts: Sequence[str]) -> str:
    """Return the names of hosts, of many only the first ones."""
    rest = len(hosts) - _SHOWN_GROUPS
    return ", ".join(hosts[:_SHOWN_GROUPS]) + (f" and {rest} more" if rest > 0 else "")
