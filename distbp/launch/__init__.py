"""Starting ranks: MPI launchers, supervised restarts, SLURM, and planning."""
