"""Why two runs differ, as far as what they have recorded tells.

The reasons stand in the order in which they exclude those after them: other data make another run,
whatever the kernels are.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from distbp import own_parts
from distbp.options import flag
from distbp.training.config import EXACT_REDUCTIONS, Config
from distbp.training.recorded_run import RecordedRun
from distbp.training.run_difference import NOT_RECORDED, Pair, RunDifference

# Options that a resumed run may change, and that still count for the bits of θ.
_COUNTING = ("kernels", "on_nan")
# Of those that only round otherwise, why; the others change what is computed.
_ROUNDING = {
    "shards": "the gradients of a batch are added in another order",
    "threads": "BLAS with another number of threads rounds matrix products otherwise",
    "kernels": "other kernels round matrix products otherwise",
    "engine": "another engine rounds otherwise",
    "blas": "another BLAS library rounds matrix products otherwise",
    "dtype": "numbers of another type",
}
_MEANINGS = {"seed": "other initial weights, and another order of the rows"}
_LIBRARIES = ("blas", "numpy", "simd")
_HARMLESS = ("python", "h5py", "hdf5", "mpi", "cpu")
_SHOWN = 3


def likely_reason(found: RunDifference) -> str:
    """Return the likely reason of a difference, as the end of a sentence."""
    return next(_reasons(found))


def _reasons(found: RunDifference) -> Iterator[str]:
    versions = {one.name: one for one in found.versions}
    if "data" in versions:
        yield "other data: their digests differ"
    if found.has_other_shape and not found.options:
        yield "another network"
    yield from _reasons_of_options(found)
    yield from _reasons_of_parts(found)
    if _has_other_progress(found.a, found.b):
        yield "a step was skipped or rolled back in one of them because a number was not finite"
    if libraries := [versions[name] for name in _LIBRARIES if _is_known(versions.get(name))]:
        yield f"other libraries or kernels of matrix products: {_describe(libraries)}"
    if _is_known(versions.get("distbp")):
        yield f"another version of distbp: {_describe([versions['distbp']])}"
    for name, config in (("a", found.a.config), ("b", found.b.config)):
        if config is not None and config.combine not in EXACT_REDUCTIONS:
            yield (
                f"--combine {config.combine} of {name}, whose last bits depend on the number of "
                "ranks and on the MPI"
            )
    if found.a.config is not None and found.a.config.init_from:
        yield f"--init-from {found.a.config.init_from}, if it was not the same file for both"
    others = [versions[name] for name in _HARMLESS if _is_known(versions.get(name))]
    hint = f" but {_describe(others)}, which should not" if others else ""
    yield (
        f"nothing that was recorded explains it{hint}. A resumed run records only the machine it "
        "ended on; otherwise memory or a CPU may be faulty: try distbp verify on both machines"
    )


def _reasons_of_options(found: RunDifference) -> Iterator[str]:
    counting = [one for one in found.options if _counts(one, found.a.config, found.b.config)]
    changed = [one for one in counting if one.name not in _ROUNDING]
    if changed:
        meaning = _MEANINGS.get(changed[0].name) if len(changed) == 1 else None
        yield f"another {_describe_options(changed)}{f': {meaning}' if meaning else ''}"
    for one in counting:
        if one.name in _ROUNDING:
            yield f"another {_describe_options([one])}: {_ROUNDING[one.name]}"


def _counts(one: Pair, a: Config | None, b: Config | None) -> bool:
    """Return whether an option has an influence on the bits of θ."""
    if one.name == "combine" and {one.a, one.b} <= set(EXACT_REDUCTIONS):
        return False
    if one.name == "epochs":  # a cosine ends at the last one
        schedules = {config.schedule for config in (a, b) if config is not None}
        return "cosine" in schedules or any(map(own_parts.is_own, schedules))
    may_change = {f.name for f in fields(Config) if f.metadata["may_change_on_resume"]}
    if one.name == "monitor":
        return any(config is not None and config.schedule == "plateau" for config in (a, b))
    return one.name in _COUNTING or one.name not in may_change


def _reasons_of_parts(found: RunDifference) -> Iterator[str]:
    changed = [one.name for one in found.versions if own_parts.is_own(one.name)]
    if changed:
        yield f"another source of {', '.join(changed)}"


def _has_other_progress(a: RecordedRun, b: RecordedRun) -> bool:
    """Return whether one of two runs at the same place has had a fault that the other has not."""
    if not a.about or not b.about or a.place != b.place:
        return False
    keys = ("skipped", "rate_factor", "steps")
    one, other = a.about["progress"], b.about["progress"]
    return any(one.get(key) != other.get(key) for key in keys)


def _is_known(pair: Pair | None) -> bool:
    """Return whether something differs that both have recorded."""
    return pair is not None and NOT_RECORDED not in (pair.a, pair.b)


def _describe(pairs: list[Pair]) -> str:
    return ", ".join(f"{one.name} {one.a} | {one.b}" for one in pairs)


def _describe_options(pairs: list[Pair]) -> str:
    texts = [f"{flag(one.name)} ({shown_value(one.a)} | {shown_value(one.b)})" for one in pairs]
    return ", ".join(texts[:_SHOWN]) + ", …" * (len(texts) > _SHOWN)


def shown_value(value: Any) -> str:
    """Return the value of an option for a message."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
