"""The page of a comparison, in a real browser. tests/browser.py says what it needs."""

import pytest
from browser import shown_as

from xpnet.report.comparison import Curves, comparison_page

NAN = float("nan")
LONG = "a-run-with-a-name-that-is-much-longer-than-a-phone-is-wide-" * 2


def row(name, score, metric="accuracy", **more):
    known = {"run": name, "metric": metric, "score": score, "status": "finished", "loss": 0.1}
    known |= {"best_epoch": 3, "epochs": 5, "parameters": 12_345, "seconds": 1.5, "test_rows": 359}
    return known | more


def pair(run, best, verdict, p):
    counts = {"both_wrong": 6, "run_wrong": 10, "best_wrong": 1, "rows": 359}
    about = {"run": run, "best": best, "verdict": verdict, "score": "accuracy"}
    return {**about, **counts, "difference": 0.02, "p": p, "corrected": p, "test": "McNemar's"}


ROWS = [
    row("first", 0.98),
    row(LONG, 0.97),
    row('<img src="x" onerror="alert(1)">', 0.9, loss=None, best_epoch=None, seconds=None),
    row("flat", 0.1, "r2"),
    row("waiting", None, None, status="training", test_rows=None),
]
CURVES = [
    Curves("loss of the validation", [(r["run"], [1, 2, 3], [1.0, NAN, 0.01]) for r in ROWS]),
    Curves("accuracy of the training", [("first", [1], [0.5])]),
]
SETTINGS = {"optimizer.lr": [0.1, 0.01, None, 0.3, 1e-9], "model.hidden": [[256] * 40] * 5}
AGAINST = [pair(LONG, "first", "may be luck", 0.3), pair("third", "first", "hardly luck", 1e-9)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "compare.html"
    text = comparison_page(ROWS, CURVES, SETTINGS, AGAINST, ["a note with <b>signs</b>"])
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_logs_no_error(browser, page, width, scheme):
    shown_as(browser, width, scheme)
    try:
        browser.get(page.as_uri())
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        text = browser.execute_script("return document.body.innerText")
        drawn = browser.execute_script("return document.querySelectorAll('.chart svg path').length")
        assert browser.execute_script("return document.querySelector('img')") is None
    finally:
        shown_as(browser)
    assert browser.get_log("browser") == []
    assert drawn > 10
    for words in ("5 runs compared", "0.9800", "may be luck", '<img src="x"', "<b>signs</b>"):
        assert words in text
    assert "first has the best accuracy, 0.9800 on 359 test rows." in text
    assert "Its lead over third is more than luck explains; over a-run-with" in text


@pytest.mark.long_but(width=[360], scheme=["dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_everybody_can_use_the_page(axe, page, width, scheme):
    axe(page, width=width, scheme=scheme)


@pytest.mark.parametrize(
    ("rows", "against", "says"),
    [
        ([row("a", None, None)] * 2, [], "None of these runs has a score on a test part."),
        ([row("a", 0.5, test_rows=None), row("b", 0.4)], [], "a has the best accuracy, 0.5000."),
        (ROWS[:2], [pair("b", "first", "may be luck", 1)], "Its lead over b may be luck."),
        (ROWS[:2], [pair("b", "first", "hardly luck", 0)], "over b is more than luck explains."),
    ],
)
def test_the_page_begins_with_what_it_says(rows, against, says):
    assert says in comparison_page(rows, [], {}, against, [])


def test_a_page_without_curves_pairs_and_differences():
    text = comparison_page(ROWS[:2], [], {}, [], [])
    assert "All settings are the same." in text
    for words in ("luck?", "Learning curves", "Mind"):
        assert words not in text
