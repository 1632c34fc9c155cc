"""How a contender of `steps` takes its turns: asleep between them, all ranks at once."""

import time
from pathlib import Path

TURN = 0.7  # seconds


def take_turns(folder, is_first, step, gather, steps_a_call=1):
    """Time `step()` whenever told to.

    Parameters
    ----------
    folder : where files `go-K` and `end` appear, and `ready` and `done-K` are put
    is_first : whether this process does the talking
    step : function that makes one step
    gather : function that returns the list of all processes' numbers, on all of them
    steps_a_call : how many steps `step()` makes
    """
    step()
    step()
    began = time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    few = int(gather(max(1, min(20, round(TURN / seconds))))[0])
    for _ in range(few):
        step()
    began = time.perf_counter()
    for _ in range(few):
        step()
    seconds = (time.perf_counter() - began) / few
    steps = int(gather(max(3, min(20_000, round(TURN / seconds))))[0])
    if is_first:
        put(folder / "ready", "")
    turn = 0
    while True:
        while not (folder / f"go-{turn}").exists():
            if (folder / "end").exists():
                return
            time.sleep(0.2)  # often enough, and seldom enough not to disturb the others
        gather(0)  # all start together
        step()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = max(gather((time.perf_counter() - began) / steps / steps_a_call))
        if is_first:
            put(folder / f"done-{turn}", repr(seconds))
        turn += 1


def put(path: Path, text: str) -> None:
    """Let a file appear with its content."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)
