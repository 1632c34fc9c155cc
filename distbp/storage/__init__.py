"""Checkpoints and HDF5 files that are whole or absent, and are verified before they are read."""
