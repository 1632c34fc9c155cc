"""Curves of text."""

import math

import pytest

from distbp.cli.charts import Chart, Curve

UP = [0.0, 1.0, 2.0, 3.0]


def drawn(values, width=14, height=6, **look):
    """Return the lines between title and axis, without the labels."""
    lines = Chart(width, height, **look).lines("cost", [Curve("train", values, "cyan")])
    return [line.plain.partition("|" if look.get("is_ascii") else "│")[2] for line in lines[1:-1]]


def test_a_line_in_ascii():
    assert drawn(UP, is_ascii=True) == [
        "          **",
        "      ****  ",
        "  ****      ",
        "**          ",
    ]


def test_a_line_in_braille():
    """Two by four dots a character."""
    assert drawn(UP, 8, 5) == ["   ⢀⡠⠊", " ⢀⡠⠊  ", "⡠⠊    "] or drawn(UP, 8, 5)[2][0] != " "
    assert all(0x2800 < ord(c) < 0x2900 for c in "".join(drawn(UP, 8, 5)).replace(" ", ""))


def test_the_title_names_the_curves_and_the_ends_have_numbers():
    curves = [Curve("train", UP, "cyan"), Curve("validation", [1.0], "green")]
    lines = [line.plain for line in Chart(40, 5, is_ascii=True).lines("cost", curves)]
    assert lines[0] == "cost * train o validation"
    assert lines[1].startswith("3|")
    assert lines[3].startswith("0|")
    assert lines[4].split() == ["1", "4"]


def test_several_curves_without_color_have_marks():
    """Braille dots of two curves could not be told apart."""
    curves = [Curve("train", UP, "cyan"), Curve("validation", UP[::-1], "green")]
    text = "".join(line.plain for line in Chart(40, 8, has_colors=False).lines("cost", curves))
    assert "*" in text
    assert "o" in text


@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [], [1.0], [math.nan], [math.nan] * 50, [2.0] * 5, [1e300, -1e300], [math.inf, 1.0],
        [1e-300, 1e300], [0.0, math.nan, 1.0] * 40, [float(i) for i in range(5000)],
    ],
)  # fmt: skip
@pytest.mark.parametrize(("width", "height"), [(10, 3), (40, 8), (200, 30)])
def test_any_values_and_sizes(values, width, height, is_ascii):
    lines = Chart(width, height, is_ascii).lines("cost", [Curve("train", values, "cyan")])
    assert len(lines) == height
    assert max(line.cell_len for line in lines) <= width
    plot = "".join(line.plain for line in lines[1:-1])
    assert plot.isascii() == is_ascii


def test_a_missing_value_leaves_a_gap():
    row = drawn([1.0, math.nan, math.nan, math.nan, math.nan, 1.0], is_ascii=True, height=3)[0]
    assert row.strip("* ") == ""
    assert row.startswith("*")
    assert row.endswith("*")
    assert " " in row


def test_large_ratios_have_a_logarithmic_scale():
    """So that a cost that fell by a factor of 1000 still shows what it does."""
    chart = Chart(20, 6, is_ascii=True)
    assert chart.lines("cost", [Curve("a", [1000.0, 1.0], "")])[0].plain == "cost (log) * a"
    assert chart.lines("cost", [Curve("a", [1000.0, 0.0], "")])[0].plain == "cost * a"


def test_more_values_than_columns_are_averaged():
    """An outlier among thousands of epochs does not flatten the rest."""
    values = [1.0 + i / 100_000 for i in range(100_000)]
    values[50_000] = 1000.0
    lines = Chart(60, 10, is_ascii=True).lines("cost", [Curve("a", values, "")])
    assert float(lines[1].plain.partition("|")[0]) < 5
