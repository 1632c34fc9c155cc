"""Which rank a watchdog takes for hung."""

import os

from distbp.parallel import watchdog
from distbp.parallel.topology import Topology
from distbp.parallel.watchdog import Watchdog, _lagging_ranks


def test_lagging_ranks():
    """Those behind the most advanced one; none if all have come as far."""
    assert _lagging_ranks([5, 5, 5]) == []
    assert _lagging_ranks([5, 4, 5, 3]) == [1, 3]
    assert _lagging_ranks([0]) == []


def test_dead_processes():
    """This one is alive; 0 stands for a process that cannot be watched."""
    assert not watchdog._is_dead(os.getpid())
    assert not watchdog._is_dead(0)
    assert watchdog._is_dead(2**22 + 1)


def test_one_rank_is_not_watched():
    """Nobody waits for it."""
    with Watchdog(Topology(), 0.1) as one:
        assert one._is_off
