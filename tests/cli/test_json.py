"""``--json`` of every command: one document on standard output, and nothing else."""

import csv
import io
import json
import math
import shutil

import numpy as np
import pytest

from xpnet.cli.main import COMMANDS, main
from xpnet.cli.output import only_json, print_json, say
from xpnet.run import load

# What reports nothing that another program would read.
WITHOUT = {
    "init": "writes the template to the file that is named",
    "schema": "writes a JSON document as it is",
    "completion": "writes a script for a shell",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a run of a table, two of its runs in a folder, its rows, and other forms."""
    folder = tmp_path_factory.mktemp("json")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).round(3)
    names = np.array(["aster", "rose\x7f", "tulip\u202e"])[x.argmax(axis=1)]
    rows = [["a", "b", "c", "species"], *([*r, n] for r, n in zip(x.tolist(), names, strict=True))]
    with open(folder / "flowers.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    for seed in (0, 1):
        out = folder / "runs" / f"r{seed}"
        command = ["train", folder / "flowers.csv", "--recipe=none", "--epochs=2", "--out", out]
        with pytest.raises(SystemExit):
            main([*map(str, command), f"--set=seed={seed}", "--set=model.hidden=[4]", "--quiet"])
    safetensors = pytest.importorskip("safetensors.numpy")
    run = load(folder / "runs" / "r0", backend="numpy")
    tensors, _ = run.trainer.snapshot()
    about = {"xpnet_step": json.dumps({"step": 4})}
    safetensors.save_file(tensors, folder / "state.safetensors", metadata=about)
    return folder


def calls(here, tmp_path):
    """For each command the arguments of calls of it, beside --json."""
    runs, data = here / "runs", here / "flowers.csv"
    run, small = runs / "r0", ["--set", "model.hidden=[4]"]
    weights = tmp_path / "weights.safetensors"
    return {
        "train": [[data, "--out", tmp_path / "new", "--epochs", "1"]],
        "evaluate": [[run], [run, data]],
        "predict": [[run, data]],
        "show": [
            [run],
            [runs],
            [data],
            [run, "--plan", "--ranks", "2"],
            [run / "checkpoints/best.safetensors"],
        ],
        "export": [[run, weights]],
        "import": [[weights, tmp_path / "net.safetensors", "--like", run]],
        "adopt": [[run, here / "state.safetensors", "--out", tmp_path / "adopted"]],
        "backends": [[]],
        "explain": [[], [run], ["4", "3", "--output", tmp_path / "step.md"]],
        "report": [[run, "--output", tmp_path / "report.html"]],
        "compare": [[runs], [run, runs / "r1", "--quick", "-o", tmp_path / "c.html"]],
        "gradcheck": [[run, "--samples", "2"], ["digits", *small, "--samples", "1"]],
        "parity": [["digits", *small, "--backends", "numpy", "--steps", "1"]],
        "bench": [["--rows", "4-2:8:sgd", "--only", "xpnet numpy, portable", "--rounds", "1"]],
    }


def strict(text):
    """The document, which has neither NaN nor a key twice."""

    def once(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(text, parse_constant=pytest.fail, object_pairs_hook=once)


def test_every_command_that_reports_prints_one_document(xpnet, here, tmp_path):
    asked = calls(here, tmp_path)
    assert {*asked, *WITHOUT} == set(COMMANDS), "add the command to calls() or to WITHOUT"
    for name, several in asked.items():
        for args in several:
            code, out, err = xpnet(name, *args, "--json")
            assert code == 0, (name, err)
            assert strict(out), name
            assert out.isascii(), name
            assert not set(out) & set("\x7f\x1b"), name
            assert "--json" in xpnet(name, "--help")[1]
    for name in WITHOUT:
        assert "--json" not in xpnet(name, "--help")[1]


def test_an_error_is_a_line_and_no_document(xpnet, here, tmp_path):
    for name, several in calls(here, tmp_path).items():
        args = ["--threads=1"] if name == "bench" else several[0] + ["--no-such-option"]
        code, out, err = xpnet(name, *args, "--json")
        assert (code, out) == (2, ""), name
        assert err.startswith("error: "), name
        assert err.count("\n") == 1, name


def test_the_document_shares_standard_output_with_no_file(xpnet, here):
    run = here / "runs/r0"
    several = (
        ["gradcheck", run, "--json-file", "-"],
        ["parity", "--markdown", "-"],
        ["bench", "--json-file", "-"],
        ["compare", here / "runs", "--output", "-"],
        ["report", run, "--output", "-"],
    )
    for args in several:
        code, out, err = xpnet(*args, "--json")
        assert (code, out) == (2, ""), args
        assert "which has the document of --json: name a file" in err, args


def test_a_control_character_of_a_class_is_spelt_out_and_is_the_same_once_read(xpnet, here):
    _, out, _ = xpnet("evaluate", here / "runs/r0", "--json")
    assert "rose\\u007f" in out
    assert strict(out)["classes"] == ["aster", "rose\x7f", "tulip\u202e"]


def test_what_is_not_finite_is_written_as_in_the_history(capsys):
    print_json({"loss": math.nan, "best": [math.inf, -math.inf], "n": 0.5})
    out = capsys.readouterr().out
    assert strict(out) == {"loss": "NaN", "best": ["Infinity", "-Infinity"], "n": 0.5}
    assert math.isnan(float(strict(out)["loss"]))


def test_what_is_for_people_goes_to_standard_error(capsys):
    with only_json(True):
        say("a line")
    with only_json(False):
        say("another")
    assert capsys.readouterr() == ("another\n", "a line\n")


def test_a_training_says_where_its_run_is_and_how_it_ended(xpnet, here, tmp_path):
    train = ["train", here / "flowers.csv", "--recipe=none", "--set", "model.hidden=[4]"]
    out = tmp_path / "run"
    code, text, err = xpnet(*train, "--epochs", 3, "--out", out, "--json")
    found = strict(text)
    assert (code, found["folder"], found["status"], found["epochs"]) == (0, str(out), "finished", 3)
    assert found["rows"] == {"train": 42, "validation": 6, "test": 12}
    assert found["test"] == json.loads((out / "report.json").read_text())
    assert found["seconds"] == json.loads((out / "run.json").read_text())["seconds"]
    assert f"run folder {out}\n" in err
    assert err.splitlines()[-1] == f"test accuracy {found['test']['accuracy']:.4f}"
    shutil.rmtree(out)
    code, text, err = xpnet(*train, "--epochs", 3, "--out", out, "--json", "--quiet")
    assert (strict(text)["test"], err) == (found["test"], "")


def test_predictions_are_those_of_the_csv_with_all_their_digits(xpnet, here, tmp_path):
    run, data = here / "runs/r0", here / "flowers.csv"
    found = strict(xpnet("predict", run, data, "--json")[1])
    header, *rows = csv.reader(io.StringIO(xpnet("predict", run, data)[1], newline=""))
    assert [list(row) for row in found] == [header] * 60
    p = load(run, backend="numpy").predict(load(run).read(data, labelled=False).x)
    mine = np.array([[row[name] for name in header[1:]] for row in found], np.float32)
    assert np.array_equal(mine, p)
    assert [row["class"] for row in found] == [row[0] for row in rows]
    code, out, err = xpnet("predict", run, data, "--json", "-o", tmp_path / "p.json")
    assert (code, out, err) == (0, "", f"60 predictions in {tmp_path / 'p.json'}\n")
    assert strict((tmp_path / "p.json").read_text()) == found


def test_show_has_the_numbers_of_the_files(xpnet, here):
    run = here / "runs/r0"
    found = strict(xpnet("show", run, "--json", "--epochs", 1)[1])
    lines = (run / "history.jsonl").read_text().splitlines()
    assert found["history"] == [json.loads(lines[-1])]
    assert found["record"] == json.loads((run / "run.json").read_text())
    assert (found["kind"], found["epochs"], found["status"]) == ("run", 2, "finished")
    arrays = [layer["arrays"] for layer in found["layers"]]
    assert arrays == [{"W": [3, 4], "b": [4]}, {}, {"W": [4, 3], "b": [3]}]
    assert sum(math.prod(s) for a in arrays for s in a.values()) == found["parameters"]
    folder = strict(xpnet("show", here / "runs", "--json")[1])
    assert [row["path"] for row in folder["runs"]] == [str(here / "runs" / f"r{n}") for n in "01"]
    table = strict(xpnet("show", here / "flowers.csv", "--json")[1])
    assert [c["column"] for c in table["columns"]] == ["a", "b", "c", "species"]
    assert table["rows"] == 60


def test_what_was_written_is_named_with_its_size(xpnet, here, tmp_path):
    weights = tmp_path / "weights.safetensors"
    found = strict(xpnet("export", here / "runs/r0", weights, "--json")[1])
    assert (found["path"], found["bytes"]) == (str(weights), weights.stat().st_size)
    assert any("nn.Sequential" in line for line in found["lines"])
