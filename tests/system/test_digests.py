"""The trained network is bit-for-bit the same on any number of ranks.

Every recipe is first trained without MPI. Normally each is then trained on a single number of
ranks, chosen so that all numbers occur; with DISTBP_TEST_FULL=1 on all of them. (tests/mpi trains
every recipe on up to 4 ranks.) Both MPIs are compared with the same reference, and thus
with each other.
"""

import pytest
from ranks import FULL, distbp, metrics
from samples import RECIPES

RANKS = (1, 2, 3, 4, 5, 7, 8, 11)


def pairs() -> list[tuple[str, int]]:
    """Return (recipe, ranks): all, or a selection with each recipe and each number of ranks."""
    if FULL:
        return [(name, n) for name in RECIPES for n in RANKS]
    return [(name, RANKS[-1 - i % len(RANKS)]) for i, name in enumerate(RECIPES)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data):
    """Return a function that trains a recipe without MPI, once, and returns the directory."""
    folder = tmp_path_factory.mktemp("reference")

    def train(name: str):
        recipe = RECIPES[name]
        out = folder / name.replace(" ", "-").replace(",", "")
        if not out.exists():
            distbp("train", data[recipe.data], "--out", out, *recipe.flags(), folder=folder)
        return out

    return train


@pytest.mark.parametrize(("name", "n"), pairs())
def test_any_number_of_ranks_gives_the_same_digest(tmp_path, data, reference, name, n):
    """And the same metrics in all epochs; the printed digest is the stored one."""
    recipe = RECIPES[name]
    words = ["train", data[recipe.data], "--out", "run", *recipe.flags()]
    ended = distbp(*words, folder=tmp_path, n=n)
    expected = metrics(reference(name))
    assert metrics(tmp_path / "run") == expected
    assert ended.digest == expected[-1]["digest"]


def test_every_recipe_and_every_number_of_ranks_occurs():
    selected = pairs()
    assert {name for name, _ in selected} == set(RECIPES)
    assert {n for _, n in selected} == set(RANKS)


def test_digest_prints_what_train_printed(tmp_path, data):
    """For a run, its best model and a checkpoint file."""
    ended = distbp(
        "train", data["digits"], "--out", "run", "--epochs", 1, "--ranks", 2, folder=tmp_path
    )
    for model in ("run", "run/last.h5", "run/best.h5"):
        assert distbp("digest", model, folder=tmp_path).out == ended.digest + "\n"


def test_seed_shards_and_dtype_change_the_digest(tmp_path, data):
    """The tests above can fail: the digest depends on θ, down to the order of summation."""
    words = ("train", data["digits"], "--epochs", 1)
    digests = {
        distbp(*words, "--out", f"run{i}", *more, folder=tmp_path).digest
        for i, more in enumerate([(), ("--seed", 1), ("--shards", 3), ("--dtype", "float64")])
    }
    assert len(digests) == 4


def test_blas_threads_of_the_environment_are_ignored(tmp_path, data):
    """OPENBLAS_NUM_THREADS does not change the digest: only --threads sets the number."""
    words = ("train", data["digits"], "--epochs", 1, "--hidden", 300)
    digests = {
        distbp(*words, "--out", f"run{t}", folder=tmp_path, environment=environment).digest
        for t, environment in enumerate([{}, {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}])
    }
    assert len(digests) == 1
