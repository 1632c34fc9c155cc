"""What ranks measure together for `distbp doctor`."""

import pytest

from distbp.doctor import speed_probe
from distbp.doctor.speed_probe import world_facts
from distbp.launch import measuring


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(measuring, "_MEASUREMENT_S", 0.002)
    monkeypatch.setattr(speed_probe, "_LARGE_THETA", (50, 50))


@pytest.mark.mpi
def test_ranks_measure_together(comm, everywhere, tmp_path):
    """Reduction, network and clocks, the same on all ranks where it is a matter of all."""
    found = world_facts(comm, 0.1, [str(tmp_path)])
    assert (found.ranks, found.nodes) == (comm.size, comm.nodes)
    assert found.warning == ""
    assert found.latency_us > 0
    assert found.bandwidth > 0
    assert (found.network_latency_us > 0) == (found.network_gbit > 0) == (comm.nodes > 1)
    assert len(found.clock_offsets_s) == comm.size
    assert all(abs(offset) < 1 for offset in found.clock_offsets_s)  # it is one clock
    assert len(set(everywhere((found.network_latency_us, found.network_gbit)))) == 1


@pytest.mark.mpi
def test_a_folder_that_other_hosts_do_not_see(comm, everywhere, tmp_path):
    """Each rank has a folder of its own, as on hosts without a network file system."""
    found = world_facts(comm, 0.1, [str(tmp_path)])
    assert bool(found.not_shared) == (comm.nodes > 1)
    assert not any(everywhere(len(list(tmp_path.iterdir()))))
