"""The lines that a run writes while it trains, read by another process.

metrics.jsonl has one record per epoch, events.jsonl one per event (see `event_log`). Neither needs
a lock to be read: what is incomplete is left out.
"""

import json
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
EVENTS_NAME = "events.jsonl"

Event = dict[str, Any]


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's epochs; none if it has not got so far."""
    return _read_objects(folder / METRICS_NAME, "epoch")


def read_events(folder: Path) -> list[Event]:
    """Return the events of a run; none of one by an older version."""
    return _read_objects(folder / EVENTS_NAME, "event")


def _read_objects(path: Path, key: str) -> list[dict[str, Any]]:
    """Return the JSON objects with an entry `key`, up to the first line that is incomplete."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found: list[Any] = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return [one for one in found if isinstance(one, dict) and key in one]
