"""Figures as SVG in a page, or as PNG files.

On a page, colors and fonts are those of its style sheet, so that a figure follows the color scheme
of whoever reads it; text stays text. All of matplotlib's settings are made here, for the time of
drawing.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from distbp.report.palette import PAGE, PICTURE, PLACEHOLDERS, Palette

Draw = Callable[[Palette], Figure]
GENERATOR = "distbp report"  # in each file, which may therefore be overwritten
_DPI = 200
_FONT = "DejaVu Sans"  # which matplotlib brings


def to_svg(draw: Draw, prefix: str, label: str) -> str:
    """Return a figure as an SVG element.

    Parameters
    ----------
    draw : function of Palette
    prefix : str
        Of all identifiers in it, unlike that of other figures in the page.
    label : str
        The identifier of the element that says what the figure shows.
    """
    file = io.BytesIO()
    with _settings(PAGE):
        figure = draw(PAGE)
        figure.savefig(file, format="svg", transparent=True)
    width, height = figure.get_size_inches() * 72
    svg = file.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    body = svg[svg.index(">") + 1 :]
    # matplotlib's own style would apply to the whole page; the page's style sheet has it.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r"<[^>]*>", lambda found: _page_tag(found[0], prefix), body)
    body = re.sub(r'<g (clip-path="[^"]*")>((?:<use [^>]*>)+)</g>', _hoist_style, body)
    start = f'<svg class="plot" role="img" aria-labelledby="{label}"'
    return f'{start} viewBox="0 0 {width:g} {height:g}">{body.strip()}'


def _page_tag(tag: str, prefix: str) -> str:
    """Return a tag of matplotlib's SVG with the page's colors and font."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)  # which nothing refers to
    tag = re.sub(r'\bid="|href="#|url\(#', rf"\g<0>{prefix}-", tag)
    tag = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", tag)
    # A hundredth of a point is less than a pixel on any screen.
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag).replace(" \n", "")
    for placeholder, role in PLACEHOLDERS.items():
        tag = tag.replace(f": {placeholder}", f": var(--{role})")
    return tag


def _hoist_style(group: re.Match[str]) -> str:
    """Return a group of marks with their common style written once."""
    styles = set(re.findall(r'style="([^"]*)"', group[2]))
    if len(styles) != 1:
        return group[0]
    marks = re.sub(r' style="[^"]*"', "", group[2])
    return f'<g {group[1]} style="{styles.pop()}">{marks}</g>'


def write_png(draw: Draw, title: str, path: Path) -> None:
    """Write a figure, with its title, as a PNG file."""
    with _settings(PICTURE):
        figure = draw(PICTURE)
        figure.suptitle(title, fontsize=10, color=PICTURE["ink"])
        figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": GENERATOR})


@contextmanager
def _settings(palette: Palette) -> Iterator[None]:
    """Draw with the colors of a palette, and restore matplotlib's settings after it."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the style that the user has chosen
        mpl.rcParams.update(_rc(palette))
        # Of names in other scripts: the fonts of the reader's browser have these glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied.*")
        yield


def _rc(palette: Palette) -> Any:
    ink, muted, rule = palette["ink"], palette["muted"], palette["rule"]
    return {
        "font.family": "sans-serif", "font.sans-serif": [_FONT], "font.size": 9.0,
        "text.color": ink, "text.parse_math": False, "text.usetex": False,
        "axes.edgecolor": muted, "axes.labelcolor": ink, "axes.facecolor": "none",
        "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
        "axes.spines.right": False, "axes.unicode_minus": True, "axes.linewidth": 0.8,
        "grid.color": rule, "grid.linewidth": 0.7, "grid.linestyle": "-", "grid.alpha": 1.0,
        "xtick.color": muted, "ytick.color": muted, "xtick.labelcolor": ink,
        "ytick.labelcolor": ink, "legend.frameon": False, "legend.fontsize": 8.5,
        "figure.facecolor": palette["paper"], "savefig.facecolor": "auto",
        "svg.fonttype": "none", "svg.hashsalt": "distbp", "path.simplify": True,
        "path.simplify_threshold": 0.2,
    }  # fmt: skip
