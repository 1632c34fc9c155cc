"""Backpropagation on flat arrays: BP1-BP4, costs, activations, optimizers. No MPI, no files."""
