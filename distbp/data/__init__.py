"""Data sets: importing them, opening them, and batches of their rows."""
