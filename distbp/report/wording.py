"""Numbers, times and names as a report words them."""

import math
import re
from datetime import UTC, datetime

from distbp.terminal import printable
from distbp.training.messages import count as count
from distbp.training.messages import format_cost

UNDEFINED = "–"
_NAME_CHARS = 60


def clean(name: object) -> str:
    """Return a name from a file as a page shows it, on one line of limited length."""
    text = printable(str(name))
    return text if len(text) <= _NAME_CHARS else f"{text[: _NAME_CHARS - 1]}…"


def number(value: float | None, places: int = 4) -> str:
    """Return a number as a table shows it."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return format_cost(float(value), places) if value >= 0 else f"−{number(-value, places)}"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return UNDEFINED if share is None or not math.isfinite(share) else f"{share:.2%}"


def seconds(value: float) -> str:
    """Return a duration as people say it."""
    if not math.isfinite(value):
        return UNDEFINED
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(since_1970: object) -> str:
    """Return a point in time; '' for what is none."""
    if not isinstance(since_1970, int | float) or not 0 <= since_1970 < 2**36:
        return ""
    return datetime.fromtimestamp(since_1970, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def some(numbers: int, total: int, noun: str) -> str:
    """Return `20 of 500 rows`, or `all 20 rows`."""
    if numbers == total:
        return f"all {total:,} {noun}s" if total > 1 else f"the only {noun}"
    return f"{numbers:,} of {count(total, noun)}"


def slug(text: str) -> str:
    """Return text as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:80] or "run"
