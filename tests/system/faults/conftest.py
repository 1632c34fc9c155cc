"""Faults that a run and its files have to survive, made on purpose; what shows that they do.

    killed while saving, at random instants        test_files, test_resume
    the order of write, fsync and rename           unit/storage/test_checkpoint
    faults at random, restarted, equal bits        test_restarts
    one rank fails, in each phase and way          test_faults
    one rank is killed, the others go on           test_deaths
    killed while the ranks start                   test_restarts
    killed at a step, resumed on other ranks       test_resume
    5,000 damaged checkpoints                      unit/storage/test_checksum
    damaged structure with a valid checksum        test_files
    hostile files                                  test_files
    the newest checkpoint is damaged               test_files
    disk full, no permission, quota, descriptors   test_files
    output that takes nothing, a closed terminal   test_outputs
    a NaN on one rank                              unit/test_stopping
    a flipped bit                                  test_flips
    crashes without progress                       test_restarts
    signals and time limits                        test_stopping, test_restarts
    two runs in a directory                        test_two_runs
    a rank stands still                            test_hangs
    these tests themselves: a deadlock, an orphan  test_ranks
    what safety costs                              scripts/bench/safety

`scripts/soak` makes hundreds more, for hours if need be.
"""
