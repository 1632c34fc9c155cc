"""Reads what `distbp doctor --json` has printed."""

import json

from ranks import Ended


def examined(ended: Ended) -> dict:
    """Return what `--json` has printed, with the findings by name."""
    # Open MPI's launcher has a text about ranks that end with a status other than 0.
    assert ended.status or ended.err == "", str(ended)
    found = json.loads(ended.out)
    assert ended.status == (found["verdict"] == "problem"), str(ended)
    found["by name"] = {one["check"]: one for one in found["findings"]}
    assert len(found["by name"]) == len(found["findings"]), str(ended)
    return found


def verdict(found: dict, check: str) -> str:
    return found["by name"][check]["verdict"]


def problems(found: dict) -> list[dict]:
    return [one for one in found["findings"] if one["verdict"] == "problem"]
