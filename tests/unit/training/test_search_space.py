"""What varies in a sweep: texts of --vary, grids and random choices."""

import pytest

from distbp.errors import ConfigError
from distbp.training.search_space import Range, Values, draws, grid, parse_dimension, parse_space


def test_values_are_those_of_the_option():
    """Whole numbers, layers, text and none, by the name of the option."""
    assert parse_dimension("learning-rate=0.01,1e-1").values == (0.01, 0.1)
    assert parse_dimension("hidden=50,100x50,").values == ((50,), (100, 50), ())
    assert parse_dimension("batch_size=32").values == (32,)
    assert parse_dimension("optimizer=sgd,adam").values == ("sgd", "adam")
    assert parse_dimension("--clip-norm=none,1").values == (None, 1.0)


def test_ranges():
    """Logarithmic if they span more than a decade, unless the text says otherwise."""
    assert parse_dimension("learning-rate=1e-4..0.1") == Range(
        "learning_rate", 1e-4, 0.1, is_log=True, is_integer=False
    )
    assert not parse_dimension("learning-rate=0.01..0.1").is_log
    assert parse_dimension("learning-rate=0.01..0.1:log").is_log
    assert not parse_dimension("learning-rate=0.001..0.1:linear").is_log
    assert not parse_dimension("dropout=0..0.5").is_log
    assert parse_dimension("batch-size=8..512") == Range("batch_size", 8, 512, True, True)
    assert parse_dimension("hidden=5..20").value(7) == (7,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data.h5", "expected NAME=VALUE"),
        ("lr=1", "'lr' is not an option of distbp train that can vary"),
        ("out=a,b", "that can vary"),
        ("hidden=a", "'a' is not a value such as 50 or 100x50"),
        ("epochs=1.5", "'1.5' is not a value for --epochs"),
        ("epochs=none", "'none' is not a value for --epochs"),
        ("epochs=0,1", "--epochs 0: expected at least 1"),
        ("dropout=0..1", "--dropout 1.0: expected less than 1"),
        ("optimizer=sgf", "'sgf' is unknown"),
        ("dropout=0..0.5:log", "begins above 0"),
        ("dropout=0.1..0.5:lin", "use :log or :linear"),
        ("dropout=0.5..0.1", "LOW below HIGH"),
        ("batch-size=1..2.5", "expected two whole numbers"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_dimension(text)


def test_an_option_varies_once():
    with pytest.raises(ConfigError, match="has l2 twice"):
        parse_space(["l2=0,1", "l2=2"])


def test_a_grid_has_all_combinations():
    """The last option changes fastest; nothing varies in a single trial."""
    space = parse_space(["l2=0,1", "hidden=5,6x7"])
    assert grid(space) == [
        {"l2": l2, "hidden": hidden} for l2 in (0.0, 1.0) for hidden in ((5,), (6, 7))
    ]
    assert grid([]) == [{}]


def test_what_is_no_grid():
    with pytest.raises(ConfigError, match="a grid has no ranges"):
        grid(parse_space(["l2=0..1"]))
    with pytest.raises(ConfigError, match="gives 1,000,000 combinations"):
        grid([Values(str(i), ("a",) * 100, (1,) * 100) for i in range(3)])


def test_random_choices_are_within_their_ranges():
    space = parse_space(["learning-rate=1e-4..0.1", "batch-size=2..4", "hidden=1..300"])
    choices = draws(space, 300, 0)
    assert all(1e-4 <= one["learning_rate"] <= 0.1 for one in choices)
    below = sum(one["learning_rate"] < 10**-2.5 for one in choices)
    assert 120 < below < 180  # half of them, as the logarithm is evenly distributed
    sizes = [one["batch_size"] for one in choices]
    assert set(sizes) == {2, 3, 4}
    assert all(70 < sizes.count(size) < 130 for size in (2, 3, 4))
    assert all(1 <= one["hidden"][0] <= 300 for one in choices)


def test_random_choices_are_a_function_of_seed_and_number():
    """More of them begin with the same; an option added later changes no other."""
    space = parse_space(["learning-rate=1e-4..0.1", "l2=0,1,2"])
    choices = draws(space, 20, 3)
    assert draws(space, 5, 3) == choices[:5]
    assert draws(space, 5, 4) != choices[:5]
    rates = [one["learning_rate"] for one in draws(space[:1], 20, 3)]
    assert rates == [one["learning_rate"] for one in choices]
    assert rates[0] == float(f"{rates[0]:.4g}")  # short enough to be typed again


def test_random_choices_differ():
    """There are no more of them than combinations."""
    choices = draws(parse_space(["l2=0,1", "l1=0,1,2"]), 50, 0)
    assert len(choices) == 6
    assert all(choices.count(one) == 1 for one in choices)
