"""A run: its configuration, its state, and the loop over epochs and steps."""
