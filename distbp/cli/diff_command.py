"""The verb `diff`: where two runs part, and why."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distbp.cli.parser import Parser, Verb
from distbp.errors import ConfigError, DistbpError

if TYPE_CHECKING:
    from distbp.training.recorded_run import RecordedRun
    from distbp.training.run_difference import LayerDifference, Pair, RunDifference

_NOTES = """\
Compared are the epochs and the checkpoints that both have, so also a run that
is still going, or one of fewer epochs. Exit status: 0 no difference, 1
different, 2 nothing to compare. The first difference counts: all that follows
from it differs, too."""

_SHOWN_ARRAYS, _SHOWN_PAIRS = 3, 4
_STATUS = {"equal": 0, "different": 1, "not comparable": 2}


def _declare(parser: Parser) -> None:
    files = parser.group("files")
    for name in "ab":
        files.add_argument(name, metavar=name.upper(), help="checkpoint, or directory of a run")
    parser.group("output").add_argument(
        "--json", action="store_true", help="print one JSON object (default: off)"
    )
    parser.epilog = f"{parser.epilog}\n\n{_NOTES}"


def _run_diff(arguments: argparse.Namespace) -> int:
    from distbp.training.difference_reason import likely_reason
    from distbp.training.recorded_run import read_run
    from distbp.training.run_difference import DIFFERENT, compare_runs

    try:
        found = compare_runs(*(read_run(Path(name)) for name in (arguments.a, arguments.b)))
    except DistbpError as error:  # whatever its own status: 1 would say that they differ
        raise ConfigError(str(error)) from error
    reason = likely_reason(found) if found.verdict == DIFFERENT else None
    if arguments.json:
        print(json.dumps(_as_json(found, reason)))
    else:
        print("\n".join(difference_lines(found, reason)))
    return _STATUS[found.verdict]


def difference_lines(found: "RunDifference", reason: str | None) -> list[str]:
    """Return what `distbp diff` prints for people."""
    rows = [(name, _describe_run(run)) for name, run in (("a", found.a), ("b", found.b))]
    if found.options:
        rows.append(("options", _describe_pairs(found.options, is_option=True)))
    if found.versions:
        rows.append(("versions", _describe_pairs(found.versions)))
    if found.first_epoch is not None:
        text = f"the first that differ are those of epoch {found.first_epoch}"
        rows.append(("records", f"{text}: {_describe_pairs(found.record)}"))
    elif found.epochs:
        rows.append(("records", f"equal in all of the {found.epochs:,} epochs that both have"))
    if found.has_other_shape:
        rows.append(("arrays", f"of other shapes: {_shape(found.a)} | {_shape(found.b)}"))
    rows += [("arrays", text) for text in _describe_arrays(found)]
    rows += [("note", text) for text in found.notes]
    return [*(f"{name:<10}{text}" for name, text in rows), _conclusion(found, reason)]


def _conclusion(found: "RunDifference", reason: str | None) -> str:
    if reason is not None:
        return f"different: {reason}"
    if found.verdict != "equal":
        return (
            "not comparable: they have no epoch and no checkpoint in common. Compare them again "
            "when both have completed an epoch, or use a smaller --checkpoint-every."
        )
    lengths = [max(one.records, default=0) for one in (found.a, found.b)]
    if lengths[0] != lengths[1]:
        longer = "ab"[lengths[1] > lengths[0]]
        return (
            f"equal bit for bit, as far as both go; {longer} has {abs(lengths[0] - lengths[1]):,} "
            "epochs more"
        )
    return "equal bit for bit"


def _describe_run(run: "RecordedRun") -> str:
    parts = [f"{len(run.records):,} epochs" if run.records else "no epochs"]
    if run.place is not None:
        steps = f" and {run.place[1]:,} steps" if run.place[1] else ""
        parts.append(f"newest checkpoint after {run.place[0]:,} epochs{steps}")
    else:
        parts.append("no checkpoint")
    return f"{run.name}: {', '.join(parts)}"


def _shape(run: "RecordedRun") -> str:
    network = run.about["network"]
    return f"{'-'.join(map(str, network['sizes']))} {network['dtype']}"


def _describe_pairs(pairs: "Sequence[Pair]", is_option: bool = False) -> str:
    from distbp.options import flag

    texts = [
        f"{flag(one.name) if is_option else one.name} {_short(one.a)} | {_short(one.b)}"
        for one in pairs[:_SHOWN_PAIRS]
    ]
    rest = len(pairs) - _SHOWN_PAIRS
    return "; ".join(texts) + (f"; {rest} more" if rest > 0 else "")


def _short(value: Any) -> str:
    """Return a value as text, of a digest only the beginning."""
    from distbp.training.difference_reason import shown_value

    text = shown_value(value)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text


def _describe_arrays(found: "RunDifference") -> list[str]:
    """Return a line for each of the first arrays that differ, and one for the largest."""
    from distbp.training.run_difference import largest

    if found.place is None:
        return []
    (epochs, steps), arrays = found.place.place, found.place.arrays
    where = f"after {epochs:,} epochs" + (f" and {steps:,} steps" if steps else "")
    if not arrays:
        return [f"{where}: all {found.place.compared} are equal bit for bit"]
    lines = [
        f"{where}: {len(arrays)} of {found.place.compared} differ; first {_describe_array(one)}"
        if i == 0
        else _describe_array(one)
        for i, one in enumerate(arrays[:_SHOWN_ARRAYS])
    ]
    if (most := largest(arrays)) not in arrays[:_SHOWN_ARRAYS]:
        lines.append(f"most in {_describe_array(most)}")
    return lines


def _describe_array(one: "LayerDifference") -> str:
    d = one.difference
    return (
        f"layer {one.layer}, {one.array}: {d.count:,} of {d.size:,} numbers, by at most "
        f"{d.absolute:.3g} ({d.relative:.2g} relative, {d.ulp:,} ulp)"
    )


def _as_json(found: "RunDifference", reason: str | None) -> dict[str, Any]:
    place = found.place
    return {
        "verdict": found.verdict,
        "reason": reason,
        **{name: _run_as_json(run) for name, run in (("a", found.a), ("b", found.b))},
        "options": _pairs_as_json(found.options),
        "versions": _pairs_as_json(found.versions),
        "epochs_compared": found.epochs,
        "first_epoch": found.first_epoch,
        "record": _pairs_as_json(found.record),
        "checkpoints": None if place is None else {
            "epoch": place.place[0],
            "step": place.place[1],
            "arrays_compared": place.compared,
            "differences": [
                {"layer": one.layer, "array": one.array, **one.difference.to_dict()}
                for one in place.arrays
            ],
        },
        "notes": found.notes,
    }  # fmt: skip


def _run_as_json(run: "RecordedRun") -> dict[str, Any]:
    return {"name": run.name, "epochs": len(run.records), "checkpoint": run.place}


def _pairs_as_json(pairs: "Sequence[Pair]") -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) for one in pairs]


DIFF = Verb(
    "diff",
    "Find where two runs part, and why.",
    "A B [OPTIONS]",
    "distbp diff run-1 run-2",
    _declare,
    _run_diff,
)
