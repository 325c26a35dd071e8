"""The page of a sweep: its numbers are those of the trials, and people can use it."""

import html
import re

import pytest

from xpnet.run.config_sources import load_config
from xpnet.search.folder import SweepFolder
from xpnet.search.metric import Metric
from xpnet.search.report import page_of
from xpnet.search.result import Sweep
from xpnet.search.space import read_space
from xpnet.search.trials import Trial

TABLE = {
    "optimizer.lr": {"low": 1e-4, "high": 0.1, "log": True},
    "model.hidden": {"choices": [[64], [128, 64]]},
    "optimizer.name": {"choices": ["adam", "sgd"]},
    "optimizer.momentum": {"low": 0.0, "high": 0.9},
}
SPACE = tuple(read_space(TABLE, lambda settings: load_config("digits", settings)))
ADAM = {"optimizer.lr": 0.0125, "model.hidden": "[128, 64]", "optimizer.name": '"adam"'}
SGD = {**ADAM, "optimizer.lr": 0.001, "optimizer.name": '"sgd"', "optimizer.momentum": 0.45}


@pytest.fixture
def found(tmp_path):
    folder = SweepFolder(tmp_path / "s")
    folder.path.mkdir()
    folder.begin("[sweep]\n", {}, load_config("digits"))
    trials = (
        Trial(0, "finished", 0.5, {**ADAM, "optimizer.lr": 0.1}, {1: 0.9, 2: 0.5}, 1.5),
        Trial(1, "finished", 0.25, ADAM, {1: 0.75, 2: 0.25}, 2.0),
        Trial(2, "pruned", None, SGD, {1: 1.125}, 0.5, "pruned at epoch 1"),
        Trial(3, "diverged", None, SGD, {}, 0.5, "<not> finite\x1b[2J"),
        Trial(4, "finished", 0.375, SGD, {1: float("nan"), 2: 0.375}, 1.0),
        Trial(5, "running", None, SGD, {1: 0.75}),
    )
    importance = {"optimizer.lr": 0.75, "model.hidden": 0.25}
    return Sweep(folder, Metric("loss"), SPACE, trials, importance, plain=trials[0])


def rows(page):
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    cells = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in table.split("<tr")[1:]
    ]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in cells]


def test_the_page_has_the_numbers_of_the_trials(found):
    page = page_of(found)
    assert "val_loss 0.5000 → 0.2500 in 5 trials on digits" in page
    assert "Trial 1 has the lowest val_loss" in page
    assert "trial 0, with the settings as they were, has 0.5000" in page
    words = "--set optimizer.lr=0.0125 --set 'model.hidden=[128, 64]' --set optimizer.name=adam"
    assert words in html.unescape(page)
    assert rows(page) == [
        ["1", "0.2500", "finished", "2.0", "0.0125", "128-64", "adam", "–"],
        ["4", "0.3750", "finished", "1.0", "0.001", "128-64", "sgd", "0.45"],
        ["0", "0.5000", "finished", "1.5", "0.1", "128-64", "adam", "–"],
        ["2", "(1.1250)", "pruned at epoch 1", "0.5", "0.001", "128-64", "sgd", "0.45"],
        ["3", "–", r"diverged: <not> finite\x1b[2J", "0.5", "0.001", "128-64", "sgd", "0.45"],
    ]
    assert "best so far: 0.25 at the end" in page
    assert "Importance: optimizer.lr 75%, model.hidden 25%" in page
    assert "val_loss by optimizer.lr; the best has 0.0125" in page
    assert page.index("val_loss by optimizer.lr") < page.index("val_loss by model.hidden")
    assert "of 4 trials; that of the best ends at 0.25" in page  # one has no epoch, one runs


def test_a_page_without_a_finished_trial_says_so(found):
    none = Sweep(found.folder, Metric("r2"), SPACE, found.trials[2:4], stopped="interrupted")
    page = page_of(none)
    assert "2 trials on digits, and none has finished" in page
    assert "The sweep is not at its end: interrupted." in page
    empty = page_of(Sweep(found.folder, Metric("r2"), SPACE, ()))
    assert "0 trials on digits" in empty


def test_the_page_is_small_and_where_it_is_said(found, tmp_path):
    path = found.report()
    assert path == found.folder.page_path
    assert path.stat().st_size < 200_000
    assert found.report(tmp_path / "other.html").read_text("utf-8") == path.read_text("utf-8")
    assert "//" not in re.sub(r"http://www.w3.org/\S*", "", path.read_text("utf-8"))


@pytest.mark.long_but(width=[390])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_people_can_use_it(found, axe, browser, width, scheme):
    axe(found.report(), width=width, scheme=scheme)
    assert not browser.get_log("browser")


def test_nothing_is_cut_on_a_phone(found, browser):
    from browser import shown_as  # the module, not the fixture

    shown_as(browser, 390)
    browser.get(found.report().as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
