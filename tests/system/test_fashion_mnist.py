"""A real data set: Fashion-MNIST, from Debian's package dataset-fashion-mnist."""

from pathlib import Path

import pytest
from ranks import ROOT, distbp, metrics

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def test_one_epoch_of_the_recipe(tmp_path):
    """The digest is the same on one rank and on two, and the accuracy is plausible."""
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER} does not exist")
    distbp("import", FOLDER, "fashion.h5", folder=tmp_path)
    recipe = ROOT / "scripts" / "recipes" / "fashion-100.toml"
    words = ("train", "fashion.h5", "--config", recipe, "--epochs", 1, "--out")
    alone = distbp(*words, "alone", folder=tmp_path)
    assert distbp(*words, "two", folder=tmp_path, n=2).digest == alone.digest
    (record,) = metrics(tmp_path / "alone")
    assert record["test_accuracy"] > 0.8
