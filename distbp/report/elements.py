"""What a page of a report consists of: sections of notes, tables, figures and images.

Plain data: `page` turns them into HTML, whose template asks an element for its `kind`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Union

import numpy as np

from distbp.report.figures import Draw


class Fact(NamedTuple):
    """A number at the top of a page, with what it is and where it is from."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Plot:
    """A figure: what it shows is said by a title and a sentence.

    Attributes
    ----------
    name : str
        Of its file, without a suffix.
    title, caption : str
    draw : function of Palette
    """

    name: str
    title: str
    caption: str
    draw: Draw


@dataclass(frozen=True)
class Picture:
    """An image of uint8 (height, width, 3 or 4) with lines of text below it."""

    image: np.ndarray
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Images in rows."""

    kind: ClassVar[str] = "gallery"
    name: str
    title: str
    caption: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes
    ----------
    caption : str
    headers : sequence of str
    rows : sequence of sequences of str
    is_text : bool
        Whether the cells are text, and not numbers, which are aligned to the right.
    """

    kind: ClassVar[str] = "table"
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False


@dataclass(frozen=True)
class Plots:
    """Figures, and perhaps a table, side by side if the page is wide enough."""

    kind: ClassVar[str] = "plots"
    plots: Sequence[Plot]
    table: Table | None = None


@dataclass(frozen=True)
class Folded:
    """Elements that are shown on request, and in print."""

    kind: ClassVar[str] = "folded"
    title: str
    items: "Sequence[Element]"


Element = Union[Note, Plots, Gallery, Table, Folded]  # noqa: UP007 (a forward reference)


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; `prefix` begins the names of its plots' files."""

    title: str
    items: Sequence[Element]
    prefix: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes
    ----------
    title, subtitle : str
    facts : sequence of Fact
    sections : sequence of Section
    written : str
        When.
    version : str
        Of distbp.
    """

    title: str
    subtitle: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    written: str
    version: str
