"""Faults that a run and its files survive. README.md lists them, with the test of each."""
