"""How a contender takes its turns: it sleeps between them, and all its ranks start together."""

import os
import time
from pathlib import Path

# The tests of these scripts shorten it, for they look at the output only.
TURN_S = float(os.environ.get("DISTBP_BENCH_TURN_S", "0.7"))
WARM_UP_CALLS = 3  # before the first turn


def take_turns(folder, is_first, step, gather, steps_a_call=1):
    """Time `step()` at each request; the first turn calibrates the number of steps.

    Parameters
    ----------
    folder : where the files `go-K` and `end` are expected, and `ready` and `done-K` written
    is_first : whether this process writes these files
    step : function that runs one step
    gather : function that returns the numbers of all processes as a list, on each of them
    steps_a_call : how many steps one call of `step()` runs
    """
    for _ in range(WARM_UP_CALLS):
        step()
    gather(0)  # MPI may have something left to send of the last step, which it does in calls only
    if is_first:
        put(folder / "ready", "")
    turn, steps = 0, 2
    while True:
        while not (folder / f"go-{turn}").exists():
            if (folder / "end").exists():
                return
            time.sleep(0.2)  # rarely enough not to disturb whose turn it is
        gather(0)  # a barrier
        if turn == 0:  # no other contender runs now, so this is the time of a step
            for _ in range(3):
                steps = int(gather(steps_in(TURN_S / 7, timed(step, steps), steps))[0])
            steps = int(gather(steps_in(TURN_S, timed(step, steps), steps))[0])
        step()
        seconds = max(gather(timed(step, steps) / steps_a_call))
        if is_first:
            put(folder / f"done-{turn}", repr(seconds))
        turn += 1


def timed(step, count):
    """Return the seconds per step."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def steps_in(seconds, a_step, most_before):
    """Return how many steps take that long; at most 20 times what `a_step` was measured on."""
    return max(2, min(20 * most_before, round(seconds / a_step)))


def put(path: Path, text: str) -> None:
    """Write a file that appears with its content complete."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)
