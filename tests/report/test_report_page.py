"""The page of a run in a real browser: seen, used by keyboard, read aloud and printed."""

import numpy as np
import pytest
from browser import shown_as

import xpnet

pytest.importorskip("matplotlib", reason="charts are drawn by it")
pytestmark = pytest.mark.report

QUICK = {"epochs": 6, "batch_size": 32, "model.hidden": [16], "backend": "numpy", "threads": 1}


def digits(folder):
    return xpnet.train("digits", folder / "run", settings=QUICK, report=str)


def table(folder):
    rng = np.random.default_rng(0)
    size, colour = rng.normal(size=300).round(2), rng.choice(["red", "green", "blue"], 300)
    kind = np.where(size + (colour == "red") + 0.5 * rng.normal(size=300) > 0.4, "ripe", "unripe")
    rows = [f"{a},{b},{c}" for a, b, c in zip(size, colour, kind, strict=True)]
    (folder / "fruit.csv").write_text("\n".join(["size,colour,kind", *rows]))
    return xpnet.train(folder / "fruit.csv", folder / "run", settings=QUICK, report=str)


def regression(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).round(3)
    y = (x @ [1.0, -2.0, 0.0] + 0.3 * rng.normal(size=300)).round(3)
    rows = [",".join(map(str, [*row, v])) for row, v in zip(x, y, strict=True)]
    (folder / "price.csv").write_text("\n".join(["age,rooms,noise,price", *rows]))
    settings = QUICK | {"data.label": "price"}
    return xpnet.train(folder / "price.csv", folder / "run", settings=settings, report=str)


SHOWS = {
    digits: ("Confusion", "By class", "Calibration", "Loss"),
    table: ("ROC", "Precision and recall", "Importance of the columns", "Confusion"),
    regression: ("Predicted against true", "Residuals", "Residuals by prediction"),
}


@pytest.fixture(scope="module", params=SHOWS, ids=lambda made: made.__name__)
def written(request, tmp_path_factory):
    run = request.param(tmp_path_factory.mktemp(request.param.__name__))
    return run, run.folder.page_path, SHOWS[request.param]


def test_it_shows_the_run_without_an_error_or_the_network(browser, written):
    run, page, titles = written
    assert page.stat().st_size < 250_000
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    names = [e.text for e in browser.find_elements("css selector", "h3")]
    assert {*titles} <= {*names}
    shown = browser.find_element("css selector", "h1").text.replace("\u202f", " ")
    if "accuracy" in run.test:
        assert shown.startswith(f"Right on {100 * run.test['accuracy']:.1f} % of the ")
    for image in browser.find_elements("css selector", "img"):
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
    for chart in browser.find_elements("css selector", ".chart svg"):
        assert chart.size["width"] > 200
        assert chart.get_attribute("aria-label")


@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_as_wide_as_the_window(browser, written, width):
    shown_as(browser, width)
    browser.get(written[1].as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return innerWidth") == width
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.card, .tiles div')]"
        ".filter(c => c.scrollWidth > c.clientWidth + 1).map(c => c.innerText.slice(0, 40))"
    )
    assert wide == []
    shown_as(browser)


def test_its_colours_follow_the_theme(browser, written):
    browser.get(written[1].as_uri())
    read = "return getComputedStyle(document.querySelector('.chart path[style*=series]')).stroke"
    colours = []
    for _ in range(2):
        browser.find_element("css selector", "#theme").click()
        colours.append(browser.execute_script(read))
    assert len(set(colours)) == 2


@pytest.mark.long_but(scheme=["dark"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark"), (1200, "print")])
def test_it_is_for_all(axe, written, width, scheme):
    def opened(browser):
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")

    axe(written[1], width=width, scheme=scheme, after=opened)
