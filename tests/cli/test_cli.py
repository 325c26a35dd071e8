"""The command line as users and shells call it."""

import ast
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
import unicodedata
from pathlib import Path

import click
import numpy as np
import pytest

from xpnet import __version__
from xpnet.backends.numpy import NumpyBackend
from xpnet.cli import benches
from xpnet.cli.main import COMMANDS, main
from xpnet.cli.output import check_places
from xpnet.errors import DataError
from xpnet.run import load

COLUMNS = ("a", "b", "c", "d")


def process(*args, script=None, **options):
    command = ["-c", script] if script else ["-m", "xpnet", *map(str, args)]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "TERM": "xterm"}
    return subprocess.Popen([sys.executable, *command], text=True, env=env, **options)


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def flowers(path, rows=60, labelled=True):
    x = np.random.default_rng(0).normal(size=(rows, 4)).round(3)
    names = np.array(["aster", "rose", "tulip"])[np.argmax(x[:, :3], axis=1)]
    lines = [",".join([*COLUMNS, "species"] if labelled else COLUMNS)]
    for row, name in zip(x.tolist(), names, strict=True):
        lines.append(",".join([*map(str, row), *([name] if labelled else [])]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with flowers.csv, rows.csv (without labels) and a run trained on the first."""
    folder = tmp_path_factory.mktemp("cli")
    flowers(folder / "rows.csv", labelled=False)
    data = flowers(folder / "flowers.csv")
    with pytest.raises(SystemExit):
        main(["train", str(data), "--out", str(folder / "run"), "--epochs=3", "--recipe=none"])
    return folder


# ------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(xpnet, name):
    code, out, err = xpnet(name, "--help")
    assert (code, err) == (0, "")
    assert f"\n  xpnet {name}" in out
    assert COMMANDS[name].endswith(".")


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_the_list_of_commands_is_shown_first(xpnet, args):
    code, out, err = xpnet(*args)
    assert (code, err) == (0, "")
    assert all(name in out and line in out for name, line in COMMANDS.items())


def test_the_version_is_that_of_the_package(xpnet):
    assert xpnet("--version") == (0, f"xpnet, version {__version__}\n", "")


def test_help_and_import_load_no_array_library_and_no_rich():
    script = """
import sys
import xpnet
from xpnet.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print([m for m in ("numpy", "rich", "torch", "jax", "pooch", "asyncio") if m in sys.modules])
"""
    out, _ = process(script=script, **PIPES).communicate()
    assert out.splitlines()[-1] == "[]"


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["train", "--quit"], "No such option '--quit'"),
        (["train", "mnits"], "no recipe or file 'mnits'; did you mean 'mnist'?"),
        (["train", "a", "b"], "unexpected extra argument"),
        (["train", "--resume"], "to resume, name the run folder: add --out DIR"),
        (["train", "--out", ""], "--out is empty; name the folder"),
        (["train", "--set", "epoch=3"], "unknown setting 'epoch'; did you mean 'epochs'?"),
        (["train", "--set", "epochs"], "--set takes KEY=VALUE"),
        (["train", "--device", "gpu"], "unknown device 'gpu'"),
        (["train", "--backend", "nunpy"], "did you mean 'numpy'?"),
        (["train", "absent.csv"], "absent.csv: no such file"),
        (["train", "absent.toml"], "cannot read config 'absent.toml'"),
        (["train", "mnist", "--data-dir", "absent"], "no such folder to look for mnist in"),
        (["evaluate"], "Missing argument 'RUN'"),
        (["evaluate", "absent"], "no run folder 'absent'"),
        (["evaluate", "."], "is not a run folder"),
        (["predict", "absent", "x.csv"], "no run folder 'absent'"),
        (["show", "absent"], "no run folder 'absent'"),
        (["show", "absent", "--epochs", "x"], "'x' is not a valid integer"),
        (["show", "absent", "--epochs", "0"], "0 is not in the range x>=1"),
        (["init", ""], "the name of the file is empty"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(xpnet, args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = xpnet(*args)
    assert code == 2
    assert err.startswith("error: ")
    assert says in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_on_request(xpnet, monkeypatch):
    from xpnet.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["train", "mnits", "--debug"])
    monkeypatch.setenv("XPNET_DEBUG", "1")
    with pytest.raises(click.UsageError):
        main(["trian"])


@pytest.mark.parametrize("value", ["0", "", " ", "false", "No", "off"])
def test_a_value_that_means_no_leaves_debugging_off(xpnet, monkeypatch, value):
    monkeypatch.setenv("XPNET_DEBUG", value)
    code, _, err = xpnet("trian")
    assert (code, err[:7]) == (2, "error: ")


def test_an_unforeseen_error_is_one_line_too(xpnet, monkeypatch):
    def fault(*_, **__):
        return [][0]

    monkeypatch.setattr("xpnet.run.asked.load_config", fault)
    code, _, err = xpnet("train")
    assert code == 2
    assert err.startswith("error: IndexError: list index out of range (a bug in xpnet; --debug")
    with pytest.raises(IndexError):
        main(["--debug", "train"])


def test_a_gpu_that_another_process_has_is_not_a_bug_and_an_illegal_access_is(
    xpnet, monkeypatch, tmp_path
):
    """CuPy's own error, as of a GPU in exclusive mode, from the first array on."""
    error, text = type("CUDARuntimeError", (RuntimeError,), {}), []

    class Busy(NumpyBackend):
        def place(self, host):
            raise error(text[-1])

    monkeypatch.setattr("xpnet.backends.numpy.NumpyBackend", Busy)
    for said, told in {
        "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable": (
            "error: the GPU cannot be used: CUDARuntimeError: {}: run nvidia-smi, or use "
            "--device cpu"
        ),
        "cudaErrorIllegalAddress: an illegal memory access was encountered": (
            "error: CUDARuntimeError: {} (a bug in xpnet; --debug shows the traceback)"
        ),
    }.items():
        text.append(said)
        code, _, err = xpnet("train", "digits", "--device", "cpu", "--out", tmp_path / said[9:20])
        assert code == 2
        assert told.format(said) in err


def test_a_thread_that_cannot_be_started_is_not_a_bug(xpnet, monkeypatch, tmp_path):
    def start(self):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr("threading.Thread.start", start)
    code, _, err = xpnet("train", "--out", tmp_path / "run", "--set", "epochs=1", "--quiet")
    assert (code, err) == (
        2,
        "error: no thread can be started: raise the limit on processes (ulimit -u)\n",
    )


def test_a_file_that_is_not_asked_for_needs_no_folder(monkeypatch):
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    check_places(None, "-")
    with pytest.raises(DataError, match=r"cannot write b\.json: '\.' is not writable"):
        check_places("b.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_reported_before_training(xpnet, trained, tmp_path):
    tmp_path.chmod(0o500)
    code, out, err = xpnet("train", trained / "flowers.csv", "--out", tmp_path / "run")
    assert (code, "epoch" in out) == (2, False)
    assert "Permission denied" in err


def test_a_file_in_place_of_the_run_folder_is_reported_before_training(xpnet, trained):
    code, out, err = xpnet("train", trained / "flowers.csv", "--out", trained / "rows.csv")
    assert (code, "epoch" in out) == (2, False)
    assert "cannot use the folder" in err


# ----------------------------------------------------------------------------------------- train


def test_the_last_line_is_the_test_accuracy(xpnet, trained, tmp_path):
    train = ["train", trained / "flowers.csv", "--recipe", "none", "--epochs", "2"]
    code, out, err = xpnet(*train, "--out", tmp_path / "loud")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("backend numpy on cpu (")
    assert lines[1].startswith("data flowers: 42 train, 6 validation, 12 test; 4 features, 3 ")
    assert lines[2].split() == ["column", "kind", "missing", "distinct", "values", "used", "as"]
    assert lines[4].split()[:3] == ["a", "number", "0"]
    assert lines[8].split()[:4] == ["species", "category", "0", "3"]
    assert lines[9].startswith("label: species, the last column (3 classes: aster, rose, tulip), a")
    assert lines[10].startswith("model 4-128-3: ")
    assert lines[11].startswith("epoch  1/2" if lines[11][6] == " " else "epoch 1/2")
    assert "rows/s" in lines[11]
    assert "left" in lines[11]
    assert lines[-1].startswith("test accuracy ")
    assert "\x1b" not in out
    assert xpnet(*train, "--out", tmp_path / "quiet", "--quiet") == (0, f"{lines[-1]}\n", "")


def test_a_run_without_a_name_gets_a_folder_of_its_own(xpnet, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # within a second, mostly
        code, out, _ = xpnet("train", trained / "flowers.csv", "--set", "epochs=1")
        assert code == 0
        assert "run folder runs/flowers-" in out
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_run_resumes_with_its_original_settings(xpnet, trained, tmp_path):
    out = ["--out", tmp_path / "run"]
    settings = ["--recipe", "none", *(f"--set={s}" for s in ("epochs=2", "model.hidden=[5]"))]
    assert xpnet("train", trained / "flowers.csv", *out, *settings)[0] == 0
    code, said, _ = xpnet("train", *out, "--resume", "--set", "epochs=3")
    assert code == 0
    assert "resuming after step 2: epoch 3, batch 1" in said
    assert "model 4-5-3" in said
    code, said, _ = xpnet("train", *out, "--resume")
    assert (code, said.splitlines()[-1][:13]) == (0, "test accuracy")
    assert "all 3 epochs are done" in said
    code, _, err = xpnet("train", trained / "flowers.csv", *out, "--resume")
    assert "cannot resume with" in err


def test_a_warning_is_not_silenced_by_quiet(xpnet, trained, tmp_path):
    train = ["train", trained / "flowers.csv", "--out", tmp_path / "run", "--quiet"]
    train += ["--set", "checkpoint.min_seconds=0"]  # a checkpoint of each epoch
    xpnet(*train, "--set", "epochs=2")
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    content = newest.read_bytes()
    newest.unlink()
    newest.write_bytes(content[:-1])
    code, out, err = xpnet(*train, "--set", "epochs=2", "--resume")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err.startswith(f"skipped: {newest} is torn")


def test_a_config_from_init_trains(xpnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert xpnet("init", "my.toml") == (0, "wrote my.toml; train with: xpnet train my.toml\n", "")
    assert "already" in xpnet("init", "my.toml")[2]
    assert xpnet("init", "my.toml", "--force")[0] == 0
    settings = ["--set", "epochs=1", "--set", "model.hidden=[8]"]
    assert xpnet("train", "my.toml", "--out", "run", *settings)[0] == 0


def test_a_config_for_an_editor_names_its_schema_and_trains(xpnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = xpnet("init", "my.toml", "--schema")
    assert (code, err) == (0, "")
    assert out.startswith("wrote xpnet.schema.json, which the first line of my.toml names")
    assert (tmp_path / "my.toml").read_text("utf-8").startswith("#:schema ./xpnet.schema.json\n")
    code, out, err = xpnet("schema")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "xpnet.schema.json").read_text("utf-8")
    assert json.loads(out)["properties"]["optimizer"]
    assert xpnet("schema", "-o", "again.json")[1].startswith("wrote again.json; name it in the")
    assert (tmp_path / "again.json").read_text("utf-8") == out
    settings = ["--set", "epochs=1", "--set", "model.hidden=[8]"]
    assert xpnet("train", "my.toml", "--out", "run", *settings)[0] == 0


# ---------------------------------------------------------------------- evaluate, predict, show


def test_evaluate_ends_with_the_accuracy_that_training_ended_with(xpnet, trained):
    code, out, err = xpnet("evaluate", trained / "run")
    assert (code, err) == (0, "")
    report = json.loads((trained / "run" / "report.json").read_text())
    assert out.splitlines()[-1] == f"accuracy {report['accuracy']:.4f}"
    assert "rows of a class (down) by prediction (across)" in out
    assert json.loads(xpnet("evaluate", trained / "run", "--json")[1]) == report
    flowers = trained / "flowers.csv"
    code, out, _ = xpnet("evaluate", trained / "run", flowers, "--which", "last", "--top", "2")
    assert "rows 60" in out
    run = load(trained / "run", which="last")
    ranks = np.argsort(-run.predict(run.read(flowers, labelled=False).x), axis=1)[:, :2]
    right = (ranks == run.read(flowers, labelled=True).y[:, None]).any(axis=1)
    assert f"top 2 accuracy {right.mean():.4f}" in out
    code, _, err = xpnet("evaluate", trained / "run", trained / "rows.csv")
    assert code == 2
    assert "rows.csv: has no labels to score against, only the features" in err


def test_predictions_are_those_of_the_api(xpnet, trained, tmp_path, monkeypatch):
    code, out, err = xpnet("predict", trained / "run", trained / "rows.csv")
    assert (code, err) == (0, "")
    header, *rows = csv.reader(io.StringIO(out))
    run = load(trained / "run")
    p = run.predict(run.read(trained / "rows.csv", labelled=False).x)
    assert header == ["class", "p_aster", "p_rose", "p_tulip"]
    np.testing.assert_allclose([[float(v) for v in row[1:]] for row in rows], p, rtol=0, atol=5e-7)
    assert [row[0] for row in rows] == [("aster", "rose", "tulip")[k] for k in p.argmax(axis=1)]
    assert xpnet("predict", trained / "run", trained / "flowers.csv")[1] == out
    there = tmp_path / "p.csv"
    code, said, _ = xpnet("predict", trained / "run", trained / "rows.csv", "-o", there)
    assert (code, said) == (0, f"60 predictions in {there}\n")
    assert there.read_text() == out
    stdin = io.TextIOWrapper(io.BytesIO((trained / "rows.csv").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert xpnet("predict", trained / "run", "-") == (0, out, "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "standard input: line 1: the file is empty"),
        (b"1,2\n", "standard input: features have shape (2,); the run was trained on (4,)"),
        (b"a,b,c\n1,2,3\n", "no column 'd'"),
        (b"1,2,3,x\n", "standard input: line 1, column 3"),
        (b"\xff", "standard input: line 1: a header but no rows"),
    ],
)
def test_rows_that_cannot_be_predicted_are_reported(xpnet, trained, monkeypatch, content, says):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, out, err = xpnet("predict", trained / "run", "-")
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_show_prints_the_layers_the_history_and_the_config(xpnet, trained):
    code, out, err = xpnet("show", trained / "run", "--epochs", "2")
    assert (code, err) == (0, "")
    assert "W (4, 128)" in out
    assert f"{4 * 128 + 128 + 128 * 3 + 3:,}" in out
    assert "last 2 of 3 epochs" in out
    assert "status finished" in out
    assert "[optimizer]\nname = " in out


def test_show_prints_the_plan_of_a_step(xpnet, trained):
    code, out, err = xpnet("show", trained / "run", "--plan")
    assert (code, err) == (0, "")
    assert "forward\n  z0 = x W0\n" in out
    assert "dW0 = xᵀ d" in out
    assert re.search(r"\nupdate\n  p = \(.*step_size.*; m = .*; v = ", out)
    assert re.search(r"\(\d+, 128\), [\d,]+ bytes\n", out)
    assert "portable" not in out
    assert "ranks" not in out


def test_show_prints_the_plan_of_a_step_that_ranks_share(xpnet, trained):
    code, out, err = xpnet("show", trained / "run", "--plan", "--ranks", "5")
    assert (code, err) == (0, "")
    assert "on 13 of 64 rows" in out
    size = 4 * 128 + 128 + 128 * 3 + 3 + 4
    begin = f"begin the sum over 5 ranks of {size:,} numbers: g; Σℓ, D, correct, counted"
    assert f"\nranks\n  {begin}\n" in out
    assert "  wait for the sums over 5 ranks; C = Σℓ / D\n" in out


def test_the_plan_of_a_run_has_a_line_for_each_group_of_parameters(xpnet, tmp_path):
    flowers(tmp_path / "a.csv")
    groups = [
        f"--set=optimizer.{s}" for s in ("name=adamw", "decay=weights", "freeze=['0.dense.b']")
    ]
    train = ["train", tmp_path / "a.csv", "--recipe", "none", "--out", tmp_path / "run"]
    assert xpnet(*train, "--epochs", "1", *groups)[0] == 0
    code, out, err = xpnet("show", tmp_path / "run", "--plan")
    assert (code, err) == (0, "")
    updates = out.partition("update\n")[2]
    assert [line.rpartition(" for ")[2] for line in updates.splitlines()[::2]] == [
        "0.dense.W, 2.dense.W",
        "2.dense.b",
    ]


def test_everything_that_is_printed_goes_through_one_place():
    """No command prints by itself: cli/output.py escapes what comes from files and names."""
    folder = Path(benches.__file__).parent
    places = {"main.py", "output.py", "streams.py"}  # errors, and what goes through
    files = [path for path in folder.rglob("*.py") if path.name not in places]
    assert len(files) > 20
    for path in files:
        calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
        for called in (ast.unparse(call.func) for call in calls):
            assert called not in ("print", "click.echo", "click.secho"), path.name
            assert not called.endswith((".add_row", ".add_column", ".print")), path.name


BAD = "a\u202eb\x9b2J\x1b[31m\u200f<img src=x>|c"


def test_no_text_of_a_file_acts_on_a_terminal_or_a_page(xpnet, tmp_path):
    data = flowers(tmp_path / f"{BAD}.csv")
    data.write_text(data.read_text().replace("rose", f'"{BAD}"').replace("a,b,", f'"{BAD}",b,', 1))
    run = tmp_path / f"{BAD}run"
    settings = ["--set", "epochs=1", "--set", "model.hidden=[4]", "--backend", "numpy"]
    printed = [xpnet("train", data, "--out", run, *settings)]
    printed += [xpnet(command, run) for command in ("show", "evaluate", "explain")]
    printed += [xpnet("explain", run, "--format", form) for form in ("html", "markdown", "latex")]
    printed += [xpnet("gradcheck", data, *settings[:4])]
    report = tmp_path / "parity.md"
    parity = ("parity", data, "--backends", "numpy", "--steps", 1, "--markdown", report)
    printed += [xpnet(*parity), (0, report.read_text(), "")]
    printed += [xpnet("train", data, "--out", run), xpnet("show", tmp_path / BAD)]
    for code, out, err in printed:
        assert code in (0, 2)
        text = out + err
        assert not set(text) & set("\u202e\x9b\x1b\u200f"), text
    html, markdown = printed[4][1], printed[5][1] + report.read_text()
    assert "<img" not in html
    assert "\\<img" in markdown
    assert "<img" not in markdown.replace("\\<img", "")


@pytest.mark.long
@pytest.mark.parametrize("library", ["torch", "jax", "numba", "array_api_strict"])
def test_a_broken_library_ends_neither_the_list_of_backends_nor_a_training(library, tmp_path):
    pytest.importorskip(library, reason="a broken one stands for it")
    (tmp_path / f"{library}.py").write_text("raise OSError('cannot open shared object')\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    script = (
        "import json; from xpnet.run import train; from xpnet.cli.main import main\n"
        "train('digits', 'run', settings=['epochs=1', 'device=cpu', 'threads=1'])\n"
        "print(json.load(open('run/run.json'))['step'])\n"
        "main(['backends'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    says = f"{library}, which cannot be imported (OSError: cannot open shared object)"
    assert says in done.stdout
    assert ("portable: the fused step needs" in done.stdout) == (library == "numba")


def test_show_reads_only_what_it_prints(xpnet, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    history = run / "history.jsonl"
    history.write_text("{}\n" * 400_000 + history.read_text())
    tracemalloc.start()
    code, out, _ = xpnet("show", run, "--epochs", 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (code, "last 2 of 4000" in out) == (0, True)
    assert peak < 2**24
    for bad in ('{"a": ' + "[" * 900 + "]" * 900 + "}", '{"a": "' + "x" * 2**21 + '"}'):
        history.write_text(f"{bad}\n")
        code, _, err = xpnet("show", run)
        assert code == 2
        assert "history.jsonl line 1 is not a" in err


def test_show_escapes_control_characters_of_the_config(xpnet, tmp_path):
    data = flowers(tmp_path / "a\u202eb\x9b2J.csv")
    assert xpnet("train", data, "--out", tmp_path / "run", "--set", "epochs=1")[0] == 0
    code, out, _ = xpnet("show", tmp_path / "run")
    assert code == 0
    assert r"a\u202eb\x9b2J.csv" in out
    assert all(c == "\n" or unicodedata.category(c)[0] != "C" for c in out)


def test_backends_lists_what_is_available(xpnet):
    code, out, err = xpnet("backends")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("numpy", "cupy", "torch", "jax", "array-api-strict"))
    engines = [line for line in out.splitlines() if line.startswith(("mpi ", "nccl "))]
    assert len(engines) == 2
    assert out.splitlines()[-1].startswith("auto is ")


# ------------------------------------------------------------------------------- real processes


LONG = ["--set", "model.hidden=[16]", "--set", "dtype=float64", "--set", "epochs=40"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    process("train", "--out", out, *LONG, **PIPES).communicate()
    return load(out, which="last").checkpoint.tensors


@pytest.mark.long_but(number=[signal.SIGINT])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_resumed_run_ends_with_the_same_bits(
    tmp_path, uninterrupted, number
):
    child = process("train", "--out", "run", *LONG, cwd=tmp_path, **PIPES)
    for line in child.stdout:
        if line.startswith("epoch  3/"):
            break
    child.send_signal(number)
    rest, err = child.communicate()
    assert child.returncode == 130
    last = f"interrupted by {number.name}; resume with: xpnet train --out run --resume"
    assert rest.splitlines()[-1] == last
    assert err == ""
    status = json.loads((tmp_path / "run" / "run.json").read_text())["status"]
    assert status == f"interrupted by {number.name}"
    stopped = load(tmp_path / "run", which="last").checkpoint.meta["position"]
    assert 3 <= stopped["epoch"] < 40
    resumed = process(*last.split()[6:], cwd=tmp_path, **PIPES)
    out, err = resumed.communicate()
    assert f"resuming after step {stopped['step']}:" in out
    assert (resumed.returncode, err) == (0, "")
    ended = load(tmp_path / "run", which="last").checkpoint.tensors
    assert {k: v.tobytes() for k, v in ended.items()} == {
        k: v.tobytes() for k, v in uninterrupted.items()
    }


def test_a_second_signal_ends_the_process_at_once():
    script = """
import os, signal, time
import numpy as np
from xpnet import Dense, Trainer
from xpnet.training.callbacks import Callback, StopOnSignal
class Twice(Callback):
    def on_step_end(self, trainer):
        print("first", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        print("second", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("still here", flush=True)
data = np.ones((4, 3)), np.zeros(4, int)
Trainer([Dense(2)]).fit(data, epochs=9, callbacks=[StopOnSignal(), Twice()])
"""
    child = process(script=script, **PIPES)
    out, err = child.communicate()
    assert (child.returncode, out.split(), err) == (-signal.SIGTERM, ["first", "second"], "")


def test_a_reader_that_exits_early_is_not_reported_as_an_error(trained, tmp_path):
    many = flowers(tmp_path / "many.csv", rows=5000, labelled=False)
    child = process("predict", trained / "run", many, **PIPES)
    assert child.stdout.readline() == "class,p_aster,p_rose,p_tulip\n"
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    child.wait()


def test_a_terminal_shows_a_live_bar(trained, tmp_path):
    pty = pytest.importorskip("pty", reason="terminals are POSIX")
    master, slave = pty.openpty()
    settings = ["--set", "epochs=2", "--set", "batch_size=1", "--set", "backend=array-api-strict"]
    train = ["train", trained / "flowers.csv", "--out", tmp_path / "run", *settings]
    child = process(*train, stdout=slave, stderr=slave)
    os.close(slave)
    shown = bytearray()
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux: the other side has closed it
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert child.wait() == 0
    text = shown.decode()
    assert "\x1b[2K" in text  # a line drawn over
    for word in ("epoch 1/2", "epoch 2/2", "100%", "loss 0.", "accuracy 0.", "rows/s", " left"):
        assert word in text
    assert text.rstrip().splitlines()[-1].startswith("test accuracy")


@pytest.mark.long
def test_two_trainings_into_one_folder_are_refused(tmp_path):
    settings = [f"--set={s}" for s in ("epochs=100000", "model.hidden=[4]")]
    settings.append("--set=checkpoint.min_seconds=0")  # a checkpoint of each epoch
    first = process("train", "--out", "run", *settings, cwd=tmp_path, **PIPES)
    try:
        for line in first.stdout:
            if line.startswith("epoch"):
                break
        second = process("train", "--out", "run", "--resume", *settings, cwd=tmp_path, **PIPES)
        _, err = second.communicate()
        assert second.returncode == 2
        assert f"error: run is in use by pid {first.pid} on host" in err
    finally:
        first.kill()
        first.communicate()
    third = process("train", "--out", "run", "--resume", "--set", "epochs=1", cwd=tmp_path, **PIPES)
    out, err = third.communicate()
    assert third.returncode == 0
    assert f"pid {first.pid} on host" in err
    assert "ended without releasing the lock" in err
    assert "epochs are done" in out
