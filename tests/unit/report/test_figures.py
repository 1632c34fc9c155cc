"""Figures as parts of a page: well-formed, without colors of their own, with escaped names."""

import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from distbp.report import plots
from distbp.report.curves import Curve
from distbp.report.figures import GENERATOR, to_svg, write_png
from distbp.report.palette import PLACEHOLDERS, SCHEMES
from distbp.report.pictures import as_rgb, png_uri, weight_images
from distbp.report.prediction_contents import _target_plots
from distbp.report.reported_run import RankTimes

HOSTILE = '<script>alert(1)</script>"&$x_{$'
X = np.arange(1.0, 9)
Y = np.linspace(-1.0, 2.0, 8)
CURVES = [Curve(HOSTILE, X, Y), Curve("validation 名\x07", X, Y**2 + 1, 7, True, mark=2)]
RANKS = [RankTimes("n0", {"compute": 1e-3, "wait": 2e-4, "update": 1e-4})]
MATRIX = np.array([[8, 1, 0], [0, 5, 2], [0, 0, 1]])
DRAWINGS = {
    "curves": partial(plots.draw_curves, CURVES, "cost", may_be_log=True),
    "many curves": partial(plots.draw_curves, CURVES * 9, "cost"),
    "one epoch": partial(plots.draw_curves, [Curve("training", X[:1], Y[:1])], "cost"),
    "nothing": partial(plots.draw_curves, [Curve("training", X, Y * np.nan)], "cost"),
    "huge": partial(plots.draw_curves, [Curve("training", X, 1e300 * Y)], "cost"),
    "long": partial(plots.draw_curves, [Curve("t", np.arange(9e3), np.ones(9000))], "cost"),
    "speed": partial(plots.draw_curves, CURVES[1:], "samples/s", has_zero=True),
    "steps": partial(plots.draw_curves, CURVES[1:], "learning rate", is_step=True),
    "confusion": partial(plots.draw_confusion, MATRIX, [HOSTILE, "a", "b" * 99]),
    "many classes": partial(plots.draw_confusion, np.eye(40, dtype=int), ["name"] * 40),
    "predictions": partial(plots.draw_predictions, Y, Y + 0.1, HOSTILE),
    "residuals": partial(plots.draw_residuals, Y, Y + 0.1, "price"),
    "one row": partial(plots.draw_residuals, Y[:1], Y[:1], "price"),
    "histogram": partial(plots.draw_histogram, Y),
    "equal residuals": partial(plots.draw_histogram, np.zeros(5)),
    "weights": partial(plots.draw_weights, np.outer(Y, Y[:3]), [HOSTILE, "b", "c"]),
    "no weights": partial(plots.draw_weights, np.zeros((2, 1)), ["a"]),
    "times": partial(plots.draw_step_times, RANKS * 2),
    "many ranks": partial(plots.draw_step_times, RANKS * 200),
    "pictures": partial(plots.draw_pictures, [np.zeros((4, 4, 3), np.uint8)], [HOSTILE]),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_of_a_page(draw):
    """One SVG element, with the colors and fonts of the page, and identifiers of its own."""
    svg = to_svg(draw, "f7", "label")
    # A page's parser knows xlink without a declaration.
    declared = svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1).replace("\x07", "")
    root = ElementTree.fromstring(declared)  # noqa: S314 (written here)
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "label")
    tags = {one.tag for one in root.iter()}
    assert not tags & {"script", "style", "metadata"}
    identifiers = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert all(one.startswith("f7-") for one in identifiers)
    styles = " ".join(one.get("style", "") for one in root.iter())
    assert not any(placeholder in svg for placeholder in PLACEHOLDERS)
    assert not re.search(r"(fill|stroke): #", styles)
    assert set(re.findall(r"var\(--([\w-]+)\)", styles)) <= {*SCHEMES, "font"}


def test_names_are_text():
    """Whatever is in them, mathematics included."""
    for name in ("curves", "confusion", "predictions", "weights"):
        svg = to_svg(DRAWINGS[name], "f1", "label")
        assert "<script" not in svg
        assert "&lt;script&gt;" in svg


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_as_a_file(draw, tmp_path):
    write_png(draw, HOSTILE, tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert GENERATOR.encode() in content[:200]


def test_the_settings_of_matplotlib_stay_as_they_are():
    """Nor do those of a user have an effect on figures."""
    expected = to_svg(DRAWINGS["curves"], "f1", "label")
    with mpl.rc_context({"lines.linewidth": 17.0, "text.usetex": True, "axes.grid": False}):
        before = dict(mpl.rcParams)
        assert to_svg(DRAWINGS["curves"], "f1", "label") == expected
        assert dict(mpl.rcParams) == before


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme):
    """WCAG 2.2: 4.5 for text on each background, 3 for lines."""
    colors = {role: pair[scheme] for role, pair in SCHEMES.items()}
    for ground in ("paper", "wash"):
        assert all(contrast(colors[ground], colors[r]) >= 4.5 for r in ("ink", "muted", "link"))
    series = [color for role, color in colors.items() if role.startswith("series")]
    assert all(contrast(colors["paper"], color) >= 3 for color in series)
    # The darkest cell of a confusion matrix, which has a number in it.
    for color in series[:2]:
        mixed = [
            round((int(color[i : i + 2], 16) + int(colors["paper"][i : i + 2], 16)) / 2)
            for i in (1, 3, 5)
        ]
        assert contrast("#{:02x}{:02x}{:02x}".format(*mixed), colors["ink"]) >= 4.5


def test_images():
    """Of any numbers; the range is common to all."""
    small, large = np.zeros((4, 5)), np.full((4, 5), 3.0)
    assert [one.max() for one in as_rgb([small, large])] == [0, 255]
    assert as_rgb([small])[0].shape == (4, 5, 3)
    assert as_rgb([np.arange(16, dtype=np.uint8).reshape(4, 4)])[0].max() == 255
    assert as_rgb([np.zeros((4, 4, 4), np.uint8)])[0].shape == (4, 4, 3)
    positive, zero = weight_images(np.array([[1.0] * 16, [0.0] * 16]), (4, 4))
    assert positive[0, 0, 3] == 255
    assert zero[0, 0, 3] == 0
    assert png_uri(positive).startswith("data:image/png;base64,iVBOR")


def test_predictions_that_are_not_finite():
    """The exponential of a predicted logarithm may overflow: such rows are counted, not drawn."""
    outputs = np.array([[0.0], [1.0], [np.inf], [3.5], [4.0]])
    found = SimpleNamespace(targets=np.arange(5.0)[:, np.newaxis], outputs=outputs, names=["y"])
    chosen = _target_plots(found, 0)
    assert len(chosen) == 3
    for plot in chosen:
        assert "nan" not in plot.caption
        assert to_svg(plot.draw, "f", "label").startswith("<svg")
    assert "without 1 rows whose predicted value is not finite" in chosen[-1].caption
    assert (
        _target_plots(SimpleNamespace(**vars(found) | {"outputs": np.full((5, 1), np.inf)}), 0)
        == []
    )
