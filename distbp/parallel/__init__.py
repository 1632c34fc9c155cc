"""Shards, ranks, and the sum of their gradients. The only package that knows MPI."""
