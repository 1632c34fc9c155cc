"""Links of the documentation to files of this repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    Path("README.md"),
    *(
        path.relative_to(ROOT)
        for name in ("scripts", "tests")
        for path in (ROOT / name).rglob("*.md")
    ),
]


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links in the Markdown text of a page that lead nowhere."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page):
    assert broken_links(ROOT / page, (ROOT / page).read_text("utf-8")) == []


def test_a_broken_link_is_found():
    text = "[a](test_links.py) [b](test_nothing.py) [c](https://nothing.org/) [d](conftest.py#x)"
    assert broken_links(Path(__file__), text) == ["test_nothing.py"]
