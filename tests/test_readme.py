"""What the README shows can be typed, and its tables are those of the reports."""

import csv
import importlib.util
import re
from pathlib import Path

import click
import numpy as np
import page_blocks
import pytest

from xpnet.cli.main import cli, main

README = Path(__file__).parents[1] / "README.md"
REPORTS = README.parent / "scripts" / "reports"
TEXT = README.read_text("utf-8")
COMMANDS = page_blocks.all_commands(TEXT)
XPNET = [words[1:] for words in COMMANDS if words[0] == "xpnet"]


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 150


@pytest.mark.parametrize(
    "code", [block.text for block in page_blocks.blocks(TEXT) if block.language == "python"]
)
def test_the_python_runs_as_it_is_printed(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})


# Commands with a placeholder, and those that other tests run in a shorter form.
NOT_AS_WRITTEN = {"FILE", "RUN", "FOLDER", "bench", "mylib", "--ranks"}


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder with the files that the README's commands name, and a small MNIST."""
    from xpnet.data import named

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XPNET_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "data").mkdir()
    rng, sizes = np.random.default_rng(0), {}
    for name, shape in named.FILES.items():
        sizes[name] = (200 if "train" in name else 50, *shape[1:])
        values = rng.integers(0, 10 if "labels" in name else 256, sizes[name], np.uint8)
        header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
        (tmp_path / "data" / name).write_bytes(header + values.tobytes())
    monkeypatch.setattr(named, "FILES", sizes)
    x = rng.normal(size=(90, 3)).round(3)
    species = np.array(["aster", "rose", "tulip"])[x.argmax(axis=1)]
    rows = [[*row, name] for row, name in zip(x.tolist(), species, strict=True)]
    write_rows("flowers.csv", ["a", "b", "c", "species"], rows)
    digits, _ = named.load_named("digits")
    write_rows("new.csv", None, digits.x[:5].tolist())
    write_network("net.onnx")
    return tmp_path


def write_rows(path, names, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows] if names else rows)


def write_network(path):
    onnx = pytest.importorskip("onnx", reason="no onnx: pip install '.[onnx]'")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "W")
    x, z = (helper.make_tensor_value_info(n, kind, ["N", k]) for n, k in (("x", 4), ("z", 2)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["z"])], "net", [x], [z])
    graph.initializer.append(weights)
    onnx.save(helper.make_model(graph), path)


def write_photos(folder):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for n in range(40):
        path = folder / "photos" / ("cats" if n % 2 else "dogs") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((6, 6), 100 * (n % 2) + n, np.uint8)).save(path)


@pytest.mark.long
@pytest.mark.report
def test_the_commands_run_as_they_are_written_one_after_another(at_home, capsys):
    write_photos(at_home)
    ran = []
    for words in XPNET:
        if NOT_AS_WRITTEN & {*words}:
            continue
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        if "cuda" in words and ended.value.code == 2:
            assert "cuda" in err, words  # no GPU here, said in a line
            assert err.count("\n") == 1, words
            continue
        assert ended.value.code == 0, (words, err)
        assert out or "--output" in words, words
        if words == ["train"]:
            assert out.splitlines()[-1] == re.search(r"(?m)^test accuracy .*$", TEXT)[0]
        ran.append(words)
    assert len(ran) >= 14


def test_the_readme_shows_every_command_and_both_examples():
    assert {words[0] for words in XPNET} == set(cli.list_commands(click.Context(cli)))
    for example in ("softmax_by_hand", "train_digits"):
        assert f"(xpnet/examples/{example}.py)" in TEXT
        assert importlib.util.find_spec(f"xpnet.examples.{example}") is not None


def rows_of(text, first):
    """The cells of the rows of the table whose head begins with this cell."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            break
    else:
        pytest.fail(f"no table {first!r}")
    assert set(next(lines)) <= set("|-: ")
    found = []
    for line in lines:
        if not line.startswith("|"):
            return found
        found.append([cell.strip(" *") for cell in line.strip("|").split("|")])
    return found


def report(name):
    if not REPORTS.is_dir():
        pytest.skip("the reports are not beside the tests")
    return (REPORTS / name).read_text("utf-8")


def test_the_portability_table_is_that_of_the_report():
    shown = rows_of(TEXT, "library")
    assert shown == rows_of(report("portability.md"), "library")
    assert len(shown) >= 10


def test_the_times_are_those_of_the_report():
    measured = rows_of(report("bench-cpu.md"), "network, batch, optimizer")
    shown = rows_of(TEXT, "network, batch, optimizer")
    assert len(shown) == len(measured)
    for row, (name, limit, *cells) in zip(shown, measured, strict=True):
        widths, batch, rule = name.split(":")
        ratios = [re.search(r"\((.+)\)", cell)[1] for cell in cells]
        numpy, portable, _, _, *peers = ratios  # xpnet on PyTorch and on JAX are left out
        limit = f"{round(float(limit.replace(',', ''))):,} µs"
        names = f"{widths}, {batch}, {'Adam' if rule == 'adam' else rule.upper()}"
        assert row == [names, limit, numpy, portable, *peers]


def test_the_scores_on_tables_are_those_of_the_report():
    names = {
        "xpnet": "xpnet",
        "scikit-learn, HistGradientBoosting": "boosting",
        "PyTorch by skorch, a plain network": "PyTorch MLP",
        "scikit-learn, MLPClassifier and MLPRegressor": "scikit-learn MLP",
        "scikit-learn, logistic regression and ridge": "linear",
    }
    measured = {row[0]: row[1:4] for row in rows_of(report("bench-tables.md"), "peer")}
    shown = TEXT[TEXT.index("## How good on tables") :]
    shown = [[c.strip(" *") for c in line.strip("|").split("|")] for line in shown.splitlines()]
    shown = {row[0]: row[1:] for row in shown if row[0] in names}
    assert shown.keys() == names.keys()
    for name, (rank, score, seconds) in shown.items():
        theirs = measured.pop(names[name])
        assert [rank, seconds] == [theirs[0], theirs[2]]
        assert score == f"{float(theirs[1]):.3f}"
    assert not measured


def test_what_is_to_be_trusted_is_what_the_reports_say():
    counts = dict(rows_of(report("faults.md"), "counts"))
    tried = int(counts["cuts of a checkpoint, one at each byte"].replace(",", ""))
    tried += int(counts["bits flipped in a checkpoint"].replace(",", ""))
    assert f"{counts['kills']} kills, {counts['kills during a write']} of them during" in TEXT
    assert f"{tried:,} files" in TEXT
    assert counts["lost"] == "0"
    planted = rows_of(report("mutants.md"), "room")[-1]
    assert f"{planted[1]} mistakes planted" in TEXT
    assert f"{planted[2]} noticed, {planted[3]} change no result" in TEXT
    assert planted[0] == "all"
    assert planted[4] == "0"
