"""How a contender of `steps` takes its turns: asleep between them, all ranks at once."""

import time
from pathlib import Path

TURN = 0.7  # seconds


def take_turns(folder, is_first, step, gather, steps_a_call=1):
    """Time `step()` whenever told to; the first turn finds out how often.

    Parameters
    ----------
    folder : where files `go-K` and `end` appear, and `ready` and `done-K` are put
    is_first : whether this process does the talking
    step : function that makes one step
    gather : function that returns the list of all processes' numbers, on all of them
    steps_a_call : how many steps `step()` makes
    """
    for _ in range(3):
        step()
    if is_first:
        put(folder / "ready", "")
    turn, steps = 0, 2
    while True:
        while not (folder / f"go-{turn}").exists():
            if (folder / "end").exists():
                return
            time.sleep(0.2)  # often enough, and seldom enough not to disturb the others
        gather(0)  # all start together
        if turn == 0:  # nobody else works now: so this is how long a step takes
            for _ in range(3):
                steps = int(gather(steps_in(TURN / 7, timed(step, steps), steps))[0])
            steps = int(gather(steps_in(TURN, timed(step, steps), steps))[0])
        step()
        seconds = max(gather(timed(step, steps) / steps_a_call))
        if is_first:
            put(folder / f"done-{turn}", repr(seconds))
        turn += 1


def timed(step, count):
    """Return the seconds that a step takes."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def steps_in(seconds, a_step, most_before):
    """Return how many steps to make; not too many more than the time was taken of."""
    return max(2, min(20 * most_before, round(seconds / a_step)))


def put(path: Path, text: str) -> None:
    """Let a file appear with its content."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)
