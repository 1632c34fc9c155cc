"""Reports of real runs in headless Chromium: on a phone, in the dark, by keyboard, on paper."""

import re
import time

import chromium
import pytest
from ranks import ROOT, Job, command_of, distbp

PHONE, DESKTOP = (390, 844), (1280, 900)
TABBED = 80  # elements that the keyboard reaches, at most
START_LIMIT_S = 120.0

pytestmark = pytest.mark.skipif(
    chromium.program() is None, reason="chromium-headless-shell is not installed"
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return a folder with reports of images, a table and a regression, and of two runs."""
    folder = tmp_path_factory.mktemp("reports")
    train = ("--epochs", 4, "--quiet", "--engine", "numpy", "--out")
    (folder / "prices.csv").write_text(
        "".join(
            f"{line}\n" for line in ["a,b,price", *(f"{i % 7},{i},{3.5 * i}" for i in range(90))]
        )
    )
    images = ROOT / "scripts" / "digits.npz"
    table = ROOT / "scripts" / "penguins.csv"
    test = ("--test-fraction", 0.2, "--quiet")
    distbp("import", images, "digits.h5", *test, folder=folder)
    distbp("import", table, "penguins.h5", "--label", "species", "--missing", "mean", *test,
           folder=folder)  # fmt: skip
    distbp("import", "prices.csv", "prices.h5", "--label", "price", *test, folder=folder)
    for name in ("digits", "penguins", "prices"):
        distbp("train", f"{name}.h5", *train, name, folder=folder, n=2)
        pictures = ("--png", "png") if name == "digits" else ()
        distbp("report", name, "--out", f"{name}.html", *pictures, folder=folder)
    distbp("train", "digits.h5", *train, "deep", "--hidden", "50,20", folder=folder)
    distbp("report", "digits", "deep", "--out", "two.html", folder=folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize("name", ["digits", "penguins", "prices", "two"])
def test_a_page_on_a_phone_and_on_a_desktop(reports, browser, name):
    """It asks for no other file, writes nothing to the console, and fits into the window."""
    path = reports / f"{name}.html"
    for width, height in (PHONE, DESKTOP):
        for scheme in ("light", "dark"):
            browser.open(path, width, height, scheme)
            assert browser.requests == [path.resolve().as_uri()]
            assert browser.messages == []
            assert browser.ask("document.documentElement.scrollWidth") == width
            ground = browser.ask("getComputedStyle(document.documentElement).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) < 128) == (scheme == "dark")
    # Figures follow the scheme: their text has the color of the page's.
    colors = "[...document.querySelectorAll('svg text')].map(t => getComputedStyle(t).fill)"
    own = browser.ask("getComputedStyle(document.documentElement).color")
    assert set(browser.ask(colors)) == {own}
    loaded = "[...document.images].every(image => image.naturalWidth > 0)"
    assert browser.ask(loaded)


def test_a_page_by_keyboard(reports, browser):
    """The first key leads past the links; each element that is reached shows that it is."""
    browser.open(reports / "digits.html", *DESKTOP)
    browser.press("Tab")
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter")
    assert browser.ask("document.activeElement.id") == "content"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    seen = []
    for _ in range(TABBED):
        browser.press("Tab")
        seen.append(browser.ask("document.activeElement.tagName"))
        if seen[-1] == "SUMMARY":
            break
        assert browser.ask(outline) != "none"
    assert "DIV" in seen  # a table that may have to be scrolled
    browser.press("Enter")
    assert browser.ask("document.querySelector('details').open")


def test_a_page_for_a_screen_reader(reports, browser):
    """Each figure has the role of an image, and a sentence as its name."""
    browser.open(reports / "digits.html", *DESKTOP)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = [one["role"]["value"] for one in nodes if not one["ignored"]]
    assert {"main", "navigation", "heading", "table", "rowheader", "columnheader"} <= set(roles)
    figures = browser.ask("document.querySelectorAll('svg').length")
    names = [one["name"]["value"] for one in nodes if one.get("role", {}).get("value") == "image"]
    assert sum("." in name for name in names) >= figures >= 4
    assert all(names)


def test_a_page_on_paper(reports, browser):
    """What is folded is printed, too, in dark ink, although the reader prefers a dark page."""
    browser.open(reports / "digits.html", *DESKTOP, scheme="dark")
    assert browser.print().startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.ask("document.querySelector('details table').getBoundingClientRect().height") > 0
    ground = browser.ask("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", media="")


def test_the_plots(reports):
    """Each is a file of its own."""
    names = {path.name for path in (reports / "png").iterdir()}
    assert {"cost.png", "confusion-matrix.png", "worst-errors.png", "step-times.png"} <= names


def test_a_run_that_is_going_on(reports, browser):
    """It is not disturbed, and shows how far it has got."""
    words = ("train", "digits.h5", "--out", "long", "--epochs", 100_000, "--quiet")
    words += ("--engine", "numpy")
    job = Job(command_of(words), reports)
    end = time.monotonic() + START_LIMIT_S
    lines = reports / "long" / "metrics.jsonl"
    while not lines.exists() or not lines.stat().st_size:
        assert time.monotonic() < end
        time.sleep(0.05)
    distbp("report", "long", "--out", "long.html", folder=reports)
    assert job.process.poll() is None
    browser.open(reports / "long.html", *PHONE)
    assert browser.messages == []
    assert "epochs, running" in browser.ask("document.querySelector('.subtitle').textContent")
    assert browser.ask("document.querySelectorAll('svg').length") >= 3
