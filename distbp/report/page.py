"""A report as files: one page that needs no other, or its figures as pictures.

The page has no script and loads nothing: its policy forbids the browser to. All text is escaped by
jinja2; only figures, which matplotlib has escaped, are inserted as they are.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distbp.errors import ConfigError, DataError
from distbp.report import plots
from distbp.report.elements import Element, Folded, Gallery, Page, Plot, Plots
from distbp.report.figures import GENERATOR, to_svg, write_png
from distbp.report.palette import SCHEMES
from distbp.report.pictures import png_uri
from distbp.storage.atomic import atomic_write

_MARK_BYTES = 4096  # of a file, among which its generator is named


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("distbp.report", "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    numbers = iter(range(1, 1 << 20))

    def figure(plot: Plot, label: str) -> Markup:
        return Markup(to_svg(plot.draw, f"f{next(numbers)}", label))  # noqa: S704 (escaped by it)

    # The package's own file, as the policy of the page allows no other.
    style, _, _ = environment.loader.get_source(environment, "page.css")  # type: ignore[union-attr]
    schemes = {
        "light": {role: colors[0] for role, colors in SCHEMES.items()},
        "dark": {role: colors[1] for role, colors in SCHEMES.items()},
    }
    return environment.get_template("page.html").render(
        page=page, figure=figure, png_uri=png_uri, schemes=schemes, generator=GENERATOR,
        style=style, ids=_identifiers(page),
    )  # fmt: skip


def _identifiers(page: Page) -> list[str]:
    return [f"section-{number}" for number, _ in enumerate(page.sections, 1)]


def write_page(page: Page, path: Path, is_forced: bool = False) -> None:
    """Write the page to a file, atomically.

    Raises
    ------
    ConfigError
        There is a file of another program, and it is not to be overwritten.
    DataError
        It cannot be written.
    """
    check_overwrite(path, is_forced)
    with atomic_write(path, DataError) as temporary:
        temporary.write_text(render(page), encoding="utf-8")


def check_overwrite(path: Path, is_forced: bool) -> None:
    """Raise ConfigError unless `path` is free, a report, or to be overwritten."""
    if not path.exists():
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is not a directory. Create it, or name another.")
        return
    if path.is_file() and (is_forced or _is_own(path)):
        return
    raise ConfigError(
        f"{path} exists already, and is no report. Give the output another name, or overwrite a "
        "file with --force."
    )


def _is_own(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(_MARK_BYTES)


def write_pictures(page: Page, folder: Path, is_forced: bool = False) -> list[Path]:
    """Write each figure of a page as a PNG file, in a directory that is made if need be.

    Raises
    ------
    ConfigError, DataError
        As `write_page` does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise ConfigError(f"{folder} cannot be created: {failure.strerror}.") from failure
    found = [(folder / f"{name}.png", plot) for name, plot in _named_plots(page)]
    for path, _ in found:
        check_overwrite(path, is_forced)
    for path, plot in found:
        with atomic_write(path, DataError) as temporary:
            write_png(plot.draw, plot.title, temporary)
    return [path for path, _ in found]


def _named_plots(page: Page) -> Iterator[tuple[str, Plot]]:
    """Yield each figure with its name; those of several runs begin with the run's."""
    taken: set[str] = set()
    for section in page.sections:
        for plot in _plots(section.items):
            name, number = f"{section.prefix}{plot.name}", 2
            while name in taken:
                name, number = f"{section.prefix}{plot.name}-{number}", number + 1
            taken.add(name)
            yield name, plot


def _plots(items: Iterable[Element]) -> Iterator[Plot]:
    for item in items:
        if isinstance(item, Plots):
            yield from item.plots
        elif isinstance(item, Gallery):
            images = [one.image for one in item.pictures]
            labels = ["\n".join(one.lines) for one in item.pictures]
            draw = partial(plots.draw_pictures, images, labels)
            yield Plot(item.name, item.title, item.caption, draw)
        elif isinstance(item, Folded):
            yield from _plots(item.items)
