"""The same network, bit for bit, on any number of ranks.

Every recipe is trained alone first. In the short form each is then trained on one
number of ranks, in turn, so that each number is tried; in the long form on all.
(tests/mpi trains every recipe on up to 4.) What is compared with the plain run does
not name MPI: both MPIs have the same bits.
"""

import pytest
from ranks import FULL, distbp, metrics
from samples import RECIPES

RANKS = (1, 2, 3, 4, 5, 7, 8, 11)


def pairs() -> list[tuple[str, int]]:
    """Return (recipe, ranks): all, or a part in which each recipe and each number occurs."""
    if FULL:
        return [(name, n) for name in RECIPES for n in RANKS]
    return [(name, RANKS[-1 - i % len(RANKS)]) for i, name in enumerate(RECIPES)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    """Return a function that trains a recipe without MPI, once, and returns the directory."""
    folder = tmp_path_factory.mktemp("alone")

    def train(name: str):
        recipe = RECIPES[name]
        out = folder / name.replace(" ", "-").replace(",", "")
        if not out.exists():
            distbp("train", data[recipe.data], "--out", out, *recipe.flags(), folder=folder)
        return out

    return train


@pytest.mark.parametrize(("name", "n"), pairs())
def test_any_number_of_ranks_gives_the_same_bits(tmp_path, data, alone, name, n):
    """θ by its digest, and all numbers of all epochs; what is printed is what is stored."""
    recipe = RECIPES[name]
    words = ["train", data[recipe.data], "--out", "run", *recipe.flags()]
    ended = distbp(*words, folder=tmp_path, n=n)
    expected = metrics(alone(name))
    assert metrics(tmp_path / "run") == expected
    assert ended.digest == expected[-1]["digest"]


def test_every_recipe_and_every_number_of_ranks_is_tried():
    tried = pairs()
    assert {name for name, _ in tried} == set(RECIPES)
    assert {n for _, n in tried} == set(RANKS)


def test_digest_prints_what_train_printed(tmp_path, data):
    """Also of a run's best model, and of a checkpoint file."""
    ended = distbp(
        "train", data["digits"], "--out", "run", "--epochs", 1, "--ranks", 2, folder=tmp_path
    )
    for model in ("run", "run/last.h5", "run/best.h5"):
        assert distbp("digest", model, folder=tmp_path).out == ended.digest + "\n"


def test_another_seed_and_other_shards_have_other_bits(tmp_path, data):
    """The tests above can fail: a digest is one of θ, and the cut of a batch shows in it."""
    words = ("train", data["digits"], "--epochs", 1)
    digests = {
        distbp(*words, "--out", f"run{i}", *more, folder=tmp_path).digest
        for i, more in enumerate([(), ("--seed", 1), ("--shards", 3), ("--dtype", "float64")])
    }
    assert len(digests) == 4


def test_threads_given_to_blas_beforehand_change_no_bits(tmp_path, data):
    """OPENBLAS_NUM_THREADS is not an option of distbp: --threads is."""
    words = ("train", data["digits"], "--epochs", 1, "--hidden", 300)
    digests = {
        distbp(*words, "--out", f"run{t}", folder=tmp_path, environment=environment).digest
        for t, environment in enumerate([{}, {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}])
    }
    assert len(digests) == 1
