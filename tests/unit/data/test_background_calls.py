"""Calls of a function in a thread."""

import threading

import pytest

from distbp.data.background_calls import BackgroundCalls


def test_calls_are_in_order_and_in_another_thread():
    """All are done at the end of the block."""
    found = []
    with BackgroundCalls(lambda one: found.append((one, threading.current_thread()))) as call:
        for i in range(20):
            call(i)
    assert [one for one, _ in found] == list(range(20))
    assert threading.current_thread() not in [thread for _, thread in found]


def test_one_call_at_a_time_is_not_done():
    """A call waits for the one before, and returns before its own is done."""
    done, may_go_on = [], threading.Event()

    def work(i):
        assert may_go_on.wait(30)
        done.append(i)

    with BackgroundCalls(work) as call:
        call(0)
        assert done == []
        may_go_on.set()
        call(1)
        assert done[0] == 0


def call_often(count, then=None):
    """Call what cannot be done `count` times, and raise `then`."""
    with BackgroundCalls(lambda: 1 / 0) as call:
        for _ in range(count):
            call()
        if then is not None:
            raise then


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_call_raises_is_raised(count):
    """By the next call, or at the end; what the block itself raises comes first."""
    with pytest.raises(ZeroDivisionError):
        call_often(count)
    with pytest.raises(KeyError):
        call_often(1, KeyError())
