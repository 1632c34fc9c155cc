"""Calls of a function in a thread, for what may go on while the next block of rows is read.

NumPy, hashlib and the system calls of files let other threads run meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class BackgroundCalls:
    """Calls a function in a thread, one call after the other; a context manager.

    A call returns at once, after it has waited for the one before: there is never more than one
    that is not done, which bounds what their arguments take. What a call raises is raised by the
    next one, or by the end of the block.

    Parameters
    ----------
    function : function
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        self._pool = ThreadPoolExecutor(1)  # which starts its thread for the first call
        self._last: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()

    def __call__(self, *arguments: object) -> None:
        self._wait()
        self._last = self._pool.submit(self._function, *arguments)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()
