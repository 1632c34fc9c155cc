"""`distbp doctor`: what is slow, unsafe or broken on this machine, and what to do about it.

    finding          `Finding`, a line of the table, and its `Verdict`: ok, warning or problem
    facts            what is known about a machine, before it is judged
    software_probe   gathers facts about Python, libraries, MPI and Numba
    host_probe       … about cores, memory, limits and `/dev/shm`
    storage_probe    … about folders: locks, replaced files, HDF5
    speed_probe      … about BLAS, memory, the reduction and the network, by measuring
    probe            a process that runs probes and writes their facts to a file
    probing          starts such processes, and gives up on them if they do not answer
    software_checks  judge facts: pure functions, of which each returns a finding
    host_checks      … of a host
    storage_checks   … of a folder
    speed_checks     … of what was measured
    rank_checks      … of ranks and hosts together: whether they connect, and are alike
    examination      gathers all facts, alone or on ranks, and has them judged
    table            the findings as text or JSON

Facts and checks are separate, so that a test can trip each check with the facts of a machine that
it does not have. Facts are gathered in processes of their own: a file system that does not
respond, or an MPI that ends the process, is a finding and not the end. Each area has 12 seconds,
all ranks together have 60.

**On ranks.** Alone, two ranks are started as a trial, with the launcher of this Python's MPI.
`distbp doctor --ranks N` examines N ranks on this host. Started by `mpirun` or `srun`, each rank
examines its host, all measure at the same time, and rank 0 prints one table for all. A line
names the hosts that it is about where they differ. To look for MPI's faults, MPI runs in a
child of each rank, which takes the rank's place.

**JSON.** `distbp doctor --json` prints one object. These keys keep their meaning as long as
`schema` is 1; others may be added:

    schema    1
    distbp    the version
    verdict   "ok", "warning" or "problem": the worst of all findings
    ranks     how many were examined
    hosts     their names
    findings  a list of objects: check (its name), found, verdict, remedy ("" if none is needed)
    facts     what was judged. "ranks": a list of {rank, host, areas, failures}, where `areas` has
              the fields of the classes in `facts` by area, and `failures` why there are none;
              "world": what the ranks have measured together, or null

The exit status is 1 if there is a problem, and 0 otherwise, also with warnings.
"""
