"""``xpnet compare`` at the prompt."""

import json
import shutil

import pytest

from xpnet.run import train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "runs"
    for name, settings in {
        "wide": {"model.hidden": [32, 16], "epochs": 8},
        "narrow": {"model.hidden": [4], "epochs": 2},
        "seed": {"model.hidden": [32, 16], "epochs": 8, "seed": 1},
    }.items():
        settings |= {"backend": "numpy"}
        train("digits", folder / name, settings=settings, report=lambda line: None)
    return folder


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def report(run):
    return json.loads((run / "report.json").read_text())


def test_the_best_run_comes_first_with_the_settings_that_differ(xpnet, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    code, out, err = xpnet("compare", "runs/narrow", "runs/wide")
    assert (code, err) == (0, "")
    head, first, second = (line.split() for line in out.splitlines()[:3])
    assert head[:3] == ["run", "accuracy", "loss"]
    assert head[-2:] == ["epochs", "model.hidden"]
    assert first[:3] == ["wide", *(f"{report(runs / 'wide')[k]:.4f}" for k in ("accuracy", "loss"))]
    assert second[0] == "narrow"
    assert first[-3:] == ["8", "[32,", "16]"]
    assert second[-2:] == ["2", "[4]"]
    assert "optimizer" not in out
    assert "is the difference luck?\nnarrow is behind wide by 0." in out
    assert "on the same 359 test rows: hardly luck\n" in out
    assert "by McNemar's exact test" in out


def test_a_folder_is_all_of_its_runs_and_what_cannot_be_compared_is_said(xpnet, runs):
    code, out, err = xpnet("compare", "runs")
    assert (code, err) == (0, "")
    assert {line.split()[0] for line in out.splitlines()[1:4]} == {"wide", "narrow", "seed"}
    assert "note: tested on different rows, so that luck is in the difference: " in out
    assert "seed is behind" not in out
    quick = xpnet("compare", "runs", "--quick")[1]
    assert "luck?" not in quick
    assert quick.splitlines()[:4] == out.splitlines()[:4]


def test_every_width_has_every_setting_of_every_run(xpnet, runs, monkeypatch):
    for width in (40, 60, 80, 100, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, _ = xpnet("compare", "runs", "--quick")
        assert code == 0
        for word in ("wide", "narrow", "seed", "model.hidden", "[32, 16]", "[4]", "accuracy"):
            assert word in out, (width, word)
        tables = [line for line in out.splitlines() if not line.startswith("note: ")]
        assert max(map(len, tables)) <= width


def test_the_document_has_the_rows_and_the_pairs(xpnet, runs):
    code, out, err = xpnet("compare", "runs", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert {row["run"]: row["score"] for row in found["runs"]} == {
        path.name: report(path)["accuracy"] for path in runs.iterdir()
    }
    scores = [row["score"] for row in found["runs"]]
    assert scores == sorted(scores, reverse=True)
    (pair,) = found["against"]
    assert (pair["run"], pair["best"], pair["verdict"]) == ("narrow", "wide", "hardly luck")
    assert set(found["settings"]) == {"seed", "epochs", "model.hidden"}


def test_a_page_is_written_and_said(xpnet, runs):
    code, out, err = xpnet("compare", "runs", "--output", "compare.html")
    assert (code, err) == (0, "")
    assert out.endswith("\nwrote compare.html\n")
    page = (runs.parent / "compare.html").read_text()
    assert page.startswith("<!doctype html>")
    assert len(page) < 300_000
    assert xpnet("compare", "runs", "-o", "-") == (0, page, "")
    code, out, _ = xpnet("compare", "runs", "--json", "-o", "again.html")
    assert json.loads(out)["runs"]
    assert (runs.parent / "again.html").read_text() == page


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "Missing argument 'RUN...'"),
        (["runs/wide"], "takes two runs or more, and got runs/wide: xpnet show RUN shows a single"),
        (["runs/wide", "runs/wide"], "runs/wide is named twice, and compared once"),
        (["runs/wide", "runs/wid"], "did you mean 'wide'?"),
        (["runs/wide", "notes.csv"], "notes.csv is not a safetensors file"),
        (["runs", "-o", "absent/c.html"], "'absent' is not a folder"),
    ],
)
def test_what_cannot_be_compared_is_one_line(xpnet, runs, args, says):
    (runs.parent / "notes.csv").write_text("a,b\n1,2\n")
    code, out, err = xpnet("compare", *args)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_names_cannot_act_on_the_terminal_or_the_page(xpnet, runs):
    bad = "a\x1b[2J\u202e<img src=x>"
    (runs / "wide").rename(runs / bad)
    code, out, _ = xpnet("compare", "runs", "-o", "c.html")
    assert code == 0
    page = (runs.parent / "c.html").read_text()
    assert not set(out + page) & set("\x1b\u202e")
    assert "<img" not in page
