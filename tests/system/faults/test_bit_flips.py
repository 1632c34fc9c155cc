"""Silent data corruption: a flipped bit on one rank is detected, located and corrected."""

import pytest
from ranks import distbp, fault, metrics

WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 3, "--check-every", 5)


@pytest.mark.parametrize(
    ("combine", "rank", "call", "message"),
    [  # the checked step 5 is computed twice
        ("node", 0, 11, "in the memory of rank 0 on"),
        ("tree", 2, 11, "in the memory of rank 2 on"),
        ("tree", 2, 8, "of rank 2 differ from those of rank 0"),
        ("tree", 2, 10, "layer 2, where rank 2 on"),
    ],
)
def test_a_flipped_bit(tmp_path, data, combine, rank, call, message):
    """In the last step: recomputed. Older, in one of several replicas: rolled back."""
    words = ("train", data["digits"], *WORDS, "--checkpoint-every", "4steps", "--out")
    distbp(*words, "reference", folder=tmp_path)
    environment = fault(tmp_path, rank, "commit", "flip", call)
    options = (*words, "run", "--combine", combine)
    ended = distbp(*options, folder=tmp_path, n=3, environment=environment)
    assert ended.err.count(message) == 1, str(ended)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "reference")
