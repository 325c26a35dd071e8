"""The page that a training leaves, of every kind of run, and what of it can be made later."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import xpnet
from xpnet.errors import CheckpointError, DataError
from xpnet.run import load
from xpnet.run.reporting import report_of
from xpnet.training.trainer import Trainer

pytest.importorskip("matplotlib", reason="charts are drawn by it")
pytestmark = pytest.mark.report

QUICK = {"epochs": 3, "batch_size": 16, "model.hidden": [8], "backend": "numpy", "threads": 1}
RNG = np.random.default_rng(0)


def table(rows=120):
    """Columns of every kind, as texts, and labels of every kind."""
    height = RNG.normal(170, 10, rows).round(1)
    colour = RNG.choice(["red", "green", "blue"], rows)
    day = [f"2024-0{1 + n % 9}-1{n % 7}" for n in range(rows)]
    score = (height - 170) / 10 + (colour == "red") + 0.3 * RNG.normal(size=rows)
    return {
        "height": [str(v) if n % 10 else "" for n, v in enumerate(height)],
        "colour": colour,
        "day": day,
        "kind": np.where(score > 0.8, "tall <b>", np.where(score > -0.3, "mid", "small")),
        "yes": np.where(score > 0.3, "yes", "no"),
        "score": score.round(3),
        "a": (score > 0).astype(int),
        "b": (height > 172).astype(int),
        "w": RNG.integers(1, 4, rows),
    }


TABLE = table()


@pytest.fixture
def csv(tmp_path):
    """A file of the features and of the labels that are named."""

    def written(*labels, name="table.csv"):
        names = ["height", "colour", "day", *labels]
        rows = zip(*(TABLE[name] for name in names), strict=True)
        path = tmp_path / name
        path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]) + "\n")
        return path

    return written


def go(source, folder, **settings):
    lines = []
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    run = xpnet.train(source, folder, settings=QUICK | dotted, report=lines.append)
    return run, lines


def text_of(path):
    return path.read_text("utf-8").replace("\u202f", " ")


KINDS = {
    "classes": (("kind",), {"data__label": "kind"}),
    "two classes": (("yes",), {"data__label": "yes"}),
    "one output": (("yes",), {"data__label": "yes", "loss__name": "binary_cross_entropy"}),
    "an ignored class": (("kind",), {"data__label": "kind", "loss__ignore_label": 1}),
    "values": (("score",), {"data__label": "score"}),
    "several values": (("score", "b"), {"data__label": ["score", "b"]}),
    "margins": (("yes",), {"data__label": "yes", "loss__name": "hinge"}),
    "several labels by margins": (
        ("a", "b"),
        {"data__label": ["a", "b"], "data__task": "multilabel", "loss__name": "hinge"},
    ),
    "several labels": (("a", "b"), {"data__label": ["a", "b"], "data__task": "multilabel"}),
    "weights": (("kind", "w"), {"data__label": "kind", "data__columns__weight": "w"}),
    "no test part": (("kind",), {"data__label": "kind", "data__test_fraction": 0.0}),
    "no validation": (("kind",), {"data__label": "kind", "data__validation_fraction": 0.0}),
    "rows in their file": (("yes",), {"data__label": "yes", "data__stream": "yes"}),
}


@pytest.mark.long_but(kind=["two classes", "several values", "several labels"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_leaves_its_page_and_the_same_can_be_made_again(kind, csv, tmp_path):
    labels, settings = KINDS[kind]
    run, lines = go(csv(*labels), tmp_path / "run", **settings)
    written = tmp_path / "run" / "report.html"
    assert lines[-1] == f"report {written}"
    assert written.stat().st_size < 200_000
    again = load(tmp_path / "run", backend="numpy").report(tmp_path / "again.html")
    assert again.read_bytes() == written.read_bytes()
    text = text_of(written)
    assert "<b>" not in text.replace('<b class="bad">', "").replace("<b>tall", "")
    assert "nan" not in re.findall(r">([^<>]*)</d[dt]>", text)
    if kind != "no test part":
        assert f"{run.test['rows']}" in text
        assert "Not on this page" not in text
    else:
        assert "data.test_fraction = 0" in text


def test_the_scores_and_the_rows_are_those_of_the_run(csv, tmp_path):
    run, _ = go(csv("kind"), tmp_path / "run", data__label="kind")
    report = report_of(run)
    scores = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report.scores == scores
    part = run.test_part()
    (p,) = run.predictions(part)
    wrong = np.flatnonzero(p.argmax(1) != part.y)
    surest = wrong[np.argsort(-p.max(1)[wrong], kind="stable")][:24]
    assert [shown.mistake.row for shown in report.mistakes] == surest.tolist()
    rows = set(zip(*(TABLE[name] for name in ("height", "colour", "day")), strict=True))
    for shown in report.mistakes:
        height, colour, day = shown.cells
        number = "" if height == "–" else str(float(height))
        assert (number, colour, day) in rows


@pytest.mark.parametrize("labels", [["yes"], ["a", "b"]], ids=["classes", "labels"])
def test_a_loss_without_probabilities_is_said_to_have_none(labels, csv, tmp_path):
    task = {"data__task": "multilabel"} if len(labels) > 1 else {}
    given = labels if len(labels) > 1 else labels[0]
    run, _ = go(csv(*labels), tmp_path / "run", data__label=given, loss__name="hinge", **task)
    text = text_of(tmp_path / "run" / "report.html")
    assert "ROC" in text
    assert "this loss gives no probability" in text
    for absent in ("Calibration", "How sure it is", " sure, and wrong"):
        assert absent not in text
    report = report_of(run)
    wrong = [m for m in report.mistakes if m.mistake.badness <= 0]
    assert report.mistakes
    assert not wrong
    if len(labels) == 1:
        counts = np.array(run.test["confusion"])
        assert len(report.mistakes) == min(24, counts.sum() - np.trace(counts))


def test_what_becomes_of_the_columns_is_said(csv, tmp_path):
    run, _ = go(csv("kind", "w"), tmp_path / "run", data__label="kind", data__columns__ignore=["w"])
    report = report_of(run)
    becomes = {feature.name: feature.becomes for feature in report.features}
    assert becomes["colour"] == "3 inputs, one for each value"
    assert becomes["height"].startswith(
        "a number, scaled (robust); an input that says it is missing"
    )
    assert "day of year" in becomes["day"]
    assert report.left_out == [("w", "ignored")]
    assert {feature.name: feature.missing for feature in report.features}["height"] == "12"
    assert {report.features[j].name for j in report.importance.columns} == {*becomes}


def test_the_importance_is_of_raw_columns_and_of_the_model(tmp_path):
    x = RNG.normal(size=(400, 3)).round(3)
    y = np.where(x[:, 1] > 0, "up", "down")
    lines = [
        "a,b,c,label",
        *(",".join([*map(str, row), name]) for row, name in zip(x, y, strict=True)),
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    run, _ = go(tmp_path / "t.csv", tmp_path / "run", epochs=20)
    importance = report_of(run).importance
    assert importance.columns[0] == 1
    assert importance.baseline == pytest.approx(run.test["accuracy"])
    assert importance.mean[0] > 0.3
    assert (np.abs(importance.mean[1:]) < 0.1).all()


def test_without_report_there_is_none(csv, tmp_path):
    _, lines = go(csv("kind"), tmp_path / "run", data__label="kind", report=False)
    assert not (tmp_path / "run" / "report.html").exists()
    assert not any(line.startswith("report ") for line in lines)
    load(tmp_path / "run").report()
    assert (tmp_path / "run" / "report.html").exists()


def test_images_are_shown_as_pictures(tmp_path):
    run, _ = go("digits", tmp_path / "run", epochs=1)
    text = text_of(tmp_path / "run" / "report.html")
    assert text.count('<img src="data:image/png;base64,') == len(report_of(run).mistakes) > 3
    assert report_of(run).mistakes[0].pixels.shape == (8, 8)
    assert report_of(run).mistakes[0].pixels.max() == 255
    assert "What does it go by?" not in text


def test_a_run_on_a_table_in_memory_has_its_page_and_takes_rows_for_another(tmp_path):
    pd = pytest.importorskip("pandas", reason="a table in memory")
    frame = pd.DataFrame({name: TABLE[name] for name in ("colour", "day", "score")})
    run, _ = go(frame, tmp_path / "run", data__label="score")
    page = tmp_path / "run" / "report.html"
    whole = page.read_bytes()
    assert b"Importance" in whole
    with pytest.raises(DataError, match=r"cannot be had again.*report\(path\)"):
        run.report()
    assert page.read_bytes() == whole
    poor = text_of(run.report(tmp_path / "poor.html"))
    assert "Not on this page" in poor
    assert "trained on a table in memory" in poor
    assert "By learning" not in poor
    other = text_of(run.report(tmp_path / "other.html", data=frame.head(50)))
    assert "the rows of the given table" in other
    assert "50" in other


def test_a_run_whose_data_has_gone_keeps_its_curves_and_scores(csv, tmp_path):
    source = csv("kind")
    go(source, tmp_path / "run", data__label="kind")
    source.unlink()
    run = load(tmp_path / "run")
    text = text_of(run.report(tmp_path / "page.html"))
    assert "table.csv" in text.partition("Not on this page")[2][:300]
    assert "Confusion" in text  # from report.json
    assert "Loss by epoch" in text
    assert "The surest mistakes" not in text
    with pytest.raises(DataError, match="cannot be had again"):
        run.report()


def test_a_saved_file_is_reported_beside_it(csv, tmp_path):
    source = csv("kind")
    run, _ = go(source, tmp_path / "run", data__label="kind", report=False)
    saved = run.save(tmp_path / "model.safetensors")
    page = load(saved).report()
    assert page == tmp_path / "model.html"
    assert "Confusion" in text_of(page)


def test_a_folder_without_history_or_scores_is_reported(csv, tmp_path):
    go(csv("kind"), tmp_path / "run", data__label="kind", report=False)
    for name in ("history.jsonl", "report.json", "run.json"):
        (tmp_path / "run" / name).unlink()
    assert "Confusion" in text_of(load(tmp_path / "run").report())


def test_what_prevents_the_page_is_one_warning_and_the_training_is_good(csv, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    warned = []
    settings = QUICK | {"data.label": "kind"}
    run = xpnet.train(
        csv("kind"),
        tmp_path / "run",
        settings=settings,
        report=lambda line: None,
        warn=warned.append,
    )
    assert len(warned) == 1
    assert warned[0].startswith("the report was not written: ")
    assert warned[0].endswith(f"; to try again: xpnet report {tmp_path / 'run'}")
    assert "\n" not in warned[0]
    assert (
        run.test["accuracy"]
        == json.loads((tmp_path / "run" / "report.json").read_text())["accuracy"]
    )
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_page_that_cannot_be_written_is_an_error_and_the_old_one_stays(csv, tmp_path):
    run, _ = go(csv("kind"), tmp_path / "run", data__label="kind")
    with pytest.raises(CheckpointError, match="there is no folder"):
        run.report(tmp_path / "none" / "page.html")


def test_warnings_are_kept_in_the_record_and_shown(csv, tmp_path):
    often = {"data__label": "kind", "checkpoint.min_seconds": 0}
    go(csv("kind"), tmp_path / "run", report=False, **often)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-9])
    settings = QUICK | {"data.label": "kind", "checkpoint.min_seconds": 0, "epochs": 4}
    lines = []
    xpnet.train(csv("kind"), tmp_path / "run", settings=settings, resume=True, report=lines.append)
    said = [line for line in lines if line.startswith("skipped: ")]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["warnings"][0] == said[0]
    assert "Warnings" in text_of(tmp_path / "run" / "report.html")


def test_nothing_is_printed_where_matplotlib_can_keep_no_files(csv, tmp_path):
    go(csv("kind"), tmp_path / "run", data__label="kind", report=False)
    code = (
        f"import xpnet; xpnet.load({str(tmp_path / 'run')!r}).report({str(tmp_path / 'p.html')!r})"
    )
    folder = tmp_path / "file"
    folder.touch()  # no folder can be made there
    environment = os.environ | {"MPLCONFIGDIR": str(folder / "x"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_trainer_without_a_run_has_a_page_at_the_command_line(tmp_path, capsys):
    from xpnet.cli.main import main

    x = RNG.normal(size=(60, 4)).astype(np.float32)
    trainer = Trainer([xpnet.Dense(3)], backend="numpy", batch_size=16)
    trainer.fit((x, x[:, :3].argmax(1)), epochs=2)
    path = trainer.save(tmp_path / "model.safetensors")
    np.savez(tmp_path / "rows.npz", x=x, y=x[:, :3].argmax(1))
    for file in ((), (str(tmp_path / "rows.npz"),)):
        with pytest.raises(SystemExit) as end:
            main(["report", str(path), *file, "--output", str(tmp_path / "p.html")])
        printed = capsys.readouterr()
        assert (end.value.code, printed.err) == (0, "")
        assert printed.out == f"report {tmp_path / 'p.html'}\n"
        assert ("Confusion" in text_of(tmp_path / "p.html")) == bool(file)


def test_a_folder_without_checkpoints_has_its_curves_and_scores(csv, tmp_path, capsys):
    from xpnet.cli.main import main

    go(csv("kind"), tmp_path / "run", data__label="kind", report=False)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "run")])
    assert (end.value.code, capsys.readouterr().err) == (0, "")
    text = text_of(tmp_path / "run" / "report.html")
    assert "no checkpoint in" in text
    assert "Confusion" in text
    assert "Loss by epoch" in text


def test_of_the_best_checkpoint_all_epochs_are_shown_and_of_another_no_scores(csv, tmp_path):
    source = csv("kind")
    uneven = {"optimizer__lr": 1.0, "epochs": 9, "data__validation_fraction": 0.2}
    go(source, tmp_path / "run", data__label="kind", checkpoint__min_seconds=0, **uneven)
    source.unlink()
    best, last = (load(tmp_path / "run", which=which) for which in ("best", "last"))
    assert best.checkpoint.path != last.checkpoint.path
    report = report_of(best)
    epoch = best.checkpoint.meta["position"]["epoch"]
    assert (len(report.history), report.kept) == (9, epoch)
    assert epoch < 9
    assert report.scores
    assert not report_of(last).scores


def test_a_folder_with_a_page_alone_is_not_trained_into(csv, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("mine")
    with pytest.raises(CheckpointError, match="already holds a run"):
        go(csv("kind"), tmp_path / "run", data__label="kind")
    assert (tmp_path / "run" / "report.html").read_text() == "mine"


def test_errors_of_the_command_are_one_line(csv, tmp_path, capsys):
    from xpnet.cli.main import main

    go(csv("kind"), tmp_path / "run", data__label="kind", report=False)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for arguments, said in (
        (["nowhere"], "no run folder 'nowhere'"),
        ([str(tmp_path / "run"), str(tmp_path / "other.csv")], "height"),
        ([str(tmp_path / "run"), "--output", str(tmp_path / "no" / "p.html")], "is not a folder"),
        ([str(tmp_path / "run"), "--output", ""], "--output is empty"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["report", *arguments])
        printed = capsys.readouterr()
        assert end.value.code == 2
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert said in printed.err
