"""The colors of a report by their roles, for pages in light and dark and for pictures on white.

A figure on a page is drawn with placeholders, which `figures` replaces by the page's CSS
variables: so one figure has contrast in both schemes. Series can be told apart by people with a
color vision deficiency (after Okabe and Ito, 2008).
"""

from dataclasses import dataclass

N_SERIES = 6
# Role: on white, on the dark page.
SCHEMES = {
    "paper": ("#ffffff", "#12161b"),
    "ink": ("#1b232d", "#e7eaee"),
    "muted": ("#56606b", "#a3adb8"),
    "rule": ("#d8dde3", "#323a44"),
    "wash": ("#f4f6f8", "#1b2128"),
    "link": ("#0b5cad", "#7fb8f5"),
    "series-1": ("#0072b2", "#56b4e9"),
    "series-2": ("#c14a00", "#ff9550"),
    "series-3": ("#00805c", "#35c99a"),
    "series-4": ("#a0457f", "#e79ac6"),
    "series-5": ("#7a6200", "#e6c84f"),
    "series-6": ("#5d6673", "#aeb7c2"),
}
_DRAWN = ("paper", "ink", "muted", "rule", *(f"series-{i}" for i in range(1, N_SERIES + 1)))
PLACEHOLDERS = {f"#{number:02x}fe{number:02x}": role for number, role in enumerate(_DRAWN, 1)}


@dataclass(frozen=True)
class Palette:
    """Colors for matplotlib.

    Attributes
    ----------
    colors : dict of str
        By role.
    has_titles : bool
        Whether figures have titles in them: those of a page have captions.
    """

    colors: dict[str, str]
    has_titles: bool = False

    def __getitem__(self, role: str) -> str:
        return self.colors[role]

    def series(self, number: int) -> str:
        """Return the color of a line by its number, counted from 0."""
        return self.colors[f"series-{number % N_SERIES + 1}"]


PAGE = Palette({role: placeholder for placeholder, role in PLACEHOLDERS.items()})
PICTURE = Palette({role: light for role, (light, _) in SCHEMES.items()}, has_titles=True)
