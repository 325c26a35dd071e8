"""Hostile input: whatever it is, a reader succeeds or raises an error of one line.

The targets and their mutations are those of scripts/fuzz.py; here Hypothesis drives them and also
generates configs setting by setting, and the command line gets the worst files in a process whose
memory is limited.
"""

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpnet.data import read
from xpnet.errors import ConfigError, DataError, XpnetError
from xpnet.run.config import Config, to_toml
from xpnet.run.config_sources import load_config

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
fuzz = importlib.import_module("fuzz")
sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return fuzz.Bench(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_a_target_succeeds_or_raises_an_error_of_one_line(bench, name):
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    examples = 10 if name in fuzz.SLOW else 40

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**64))
    def run(seed):
        assert fuzz.attempt(fuzz.TARGETS[name], bench, random.Random(seed)) is not None

    run()


# ------------------------------------------------------------------------------------ the config

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["adam", "dense", "10min", "cuda:1", "float16", "1" * 400, "a.b"]),
)
KEYS = st.sampled_from(
    (
        *("name", "units", "rate", "lr", "hidden", "layers", "activation", "source", "label"),
        *("every", "patience", "dtype", "norm", "value", "reduction", "scaling", "x\ty"),
    )
)
TABLES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


def result_or_message(make):
    """Return what `make` returns, or the message of the ConfigError that it raises."""
    try:
        return make()
    except ConfigError as error:
        return str(error)


@settings(max_examples=80)
@given(
    table=st.dictionaries(
        st.sampled_from([*Config.__dataclass_fields__, "no_such", ""]), TABLES, max_size=4
    )
)
def test_any_table_is_a_config_or_a_config_error_of_one_line(table):
    from xpnet.settings import build

    made = result_or_message(lambda: build(Config, table))
    if isinstance(made, Config):
        made = to_toml(made).replace("\n", "")
    assert "\n" not in made


@settings(max_examples=60)
@given(text=st.text(max_size=30), key=st.sampled_from(["", "optimizer.lr=", "model.layers=", "a="]))
def test_any_text_is_an_override_or_a_config_error_of_one_line(text, key):
    made = result_or_message(lambda: load_config("digits", [key + text]))
    assert isinstance(made, Config) or "\n" not in made


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"a = [" + b"[" * 5000, b"epochs = " + b"9" * 5000, b"epochs = 1\nepochs = 2"],
)
def test_an_error_names_the_hostile_toml_file(tmp_path, content):
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"my\.toml") as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- the files


def test_a_path_inside_an_archive_is_not_followed(tmp_path):
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.npz"
    eye = fuzz.npy_bytes(np.eye(2))
    path.write_bytes(fuzz.zip_bytes({"../x.npy": eye, "/tmp/y.npy": eye, "x.npy": eye}))
    before = sorted(tmp_path.rglob("*"))
    assert read(path, label=None).x.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert sorted(tmp_path.rglob("*")) == before
    path.write_bytes(fuzz.zip_bytes({"../x.npy": eye}))
    with pytest.raises(DataError, match="no array of features"):
        read(path, label=None)


def test_a_symbolic_link_is_read_as_its_target(tmp_path):
    (tmp_path / "a.csv").write_text(fuzz.csv_text(4))
    links = {"b.csv": "a.csv", "loop.csv": "loop.csv", "gone.csv": "no.csv", "folder.csv": "."}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert len(read(tmp_path / "b.csv")) == 4
    for name in list(links)[1:]:
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.csv"):
        with pytest.raises(DataError, match="is not a regular file"):
            read(tmp_path / name)


# ------------------------------------------------------------ the command line, memory limited

LIMITED = """
import resource, sys
import xpnet.run, xpnet.cli.commands.train, safetensors.numpy
import pyarrow.compute, pyarrow.csv
try:
    import xpnet.kernels.cpu.fused_step
except ImportError:
    pass
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from xpnet.cli.main import main
main(sys.argv[2:])
"""


def limited(*arguments, extra=2**26):
    """Run the command line with ``extra`` bytes of memory beyond what the libraries take."""
    command = [sys.executable, "-c", LIMITED, str(extra), *map(str, arguments)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def bomb():
    """Return 128 MiB of zeros, compressed into 128 KiB."""
    return fuzz.npz_bytes(x=np.zeros((2**17, 2**10), np.uint8), y=np.arange(2**17) % 2)


def table(rows):
    return "a,b,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in rows)


def rows(n=20, **columns):
    value = {"a": lambda i: i, "b": lambda i: -i, "label": lambda i: i % 2} | columns
    return table((value["a"](i), value["b"](i), value["label"](i)) for i in range(n))


def labelled(x):
    return fuzz.zip_bytes({"x.npy": x, "y.npy": fuzz.npy_bytes(np.arange(2))})


HOSTILE = {
    "object-array.npz": (lambda: labelled(fuzz.OBJECTS), "Python objects"),
    "declared.npy": (lambda: fuzz.HUGE, "its header declares 1099511627776 bytes"),
    "declared.npz": (lambda: labelled(fuzz.HUGE), "its header declares"),
    "declared.idx": (lambda: b"\0\0\x08\2" + b"\x7f\xff\xff\xff" * 2, "its header declares"),
    "zip-bomb.npz": (bomb, "zip-bomb.npz[x]: cannot be read: Unable to allocate"),
    "one-class.csv": (lambda: rows(label=lambda i: "x"), "all rows belong to class 'x'"),
    "one-row.csv": (lambda: rows(1), "there is nothing to learn"),
    "no-rows.csv": (lambda: rows(0), "a header but no rows"),
    "empty.csv": (lambda: "", "the file is empty"),
    "few.csv": (lambda: rows(2), "no class has a row for each of 2 parts"),
    "inf.csv": (lambda: rows(b=lambda i: "inf" if i == 3 else i), "line 5, column 1 ('b')"),
    "ragged.csv": (lambda: rows(b=lambda i: "1,2" if i == 3 else i), "line 5: 4 columns"),
    "latin.csv": (lambda: rows().encode() + b"\xe9,1,1\n", "line 22, column 0 ('a'): 'é'"),
    "overflow.csv": (lambda: rows(a=lambda i: f"{i}e300"), "too large"),
}


@pytest.mark.long_but(name=["zip-bomb.npz", "inf.csv"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set by /proc")
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_file_costs_one_line_and_exit_code_2_and_leaves_no_run(tmp_path, name):
    make, message = HOSTILE[name]
    content = make()
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = tmp_path / "run"
    options = ("--backend", "numpy", "--set", "epochs=1", "--set", "data.scaling=none")
    # Arrow's threads have stacks of some megabytes each.
    extra = 2**26 if name.endswith((".npy", ".npz", ".idx")) else 2**29
    done = limited("train", path, "--out", out, "--quiet", *options, extra=extra)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_constant_feature_is_accepted(tmp_path):
    (tmp_path / "flat.csv").write_text(rows(a=lambda i: 7.0))
    paths = (str(tmp_path / "flat.csv"), "--out", str(tmp_path / "run"))
    printed = fuzz.command("train", *paths, "--set", "epochs=1", "--backend", "numpy")
    assert "test accuracy" in printed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set by /proc")
def test_a_checkpoint_that_declares_more_than_the_file_is_refused_in_little_memory(bench):
    run = bench.copy()
    newest = max((run / "checkpoints").glob("step-*"))
    for other in {*(run / "checkpoints").iterdir()} - {newest}:
        other.unlink()
    for declared in (2**62, 99_999_999):
        newest.write_bytes(declared.to_bytes(8, "little") + b"{" + bytes(100))
        done = limited("show", run)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert newest.name in done.stderr


@pytest.mark.long_but(name=["config.toml"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "name",
    [
        *("config.toml", "run.json", "history.jsonl", "report.json", "run.lock"),
        *("checkpoints/best.safetensors", "checkpoints/step-0000009999.safetensors"),
    ],
)
def test_a_run_folder_with_a_pipe_or_device_does_not_hang(bench, name):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        run = bench.copy()
        (run / name).unlink(missing_ok=True)
        make(run / name)
        for command in (("show", run), ("train", "--resume", "--out", run, "--set", "epochs=3")):
            done = limited(*command, extra=2**30)
            assert done.returncode in (0, 2), done.stderr
            if done.returncode == 2:
                error = done.stderr.splitlines()[-1]
                assert "not a regular file" in error or "symbolic links" in error
                assert name in error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_config_that_is_not_a_regular_file_or_too_large_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(2**40)
    reasons = {"pipe": "not a regular file", "zero": "not a regular file", "huge": "are more than"}
    for name, reason in reasons.items():
        with pytest.raises(ConfigError, match=rf"{name}\.toml.*{reason}"):
            load_config(str(tmp_path / f"{name}.toml"))


NEWEST = """
import resource, sys
import safetensors.numpy
from xpnet.storage import CheckpointFolder
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
folder = CheckpointFolder(sys.argv[1])
print(folder.newest().path.name, *folder.skipped, sep="\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set by /proc")
def test_a_checkpoint_that_does_not_fit_into_memory_is_named_and_skipped(bench):
    from xpnet.storage import save

    folder = bench.copy() / "checkpoints"
    path = folder / "step-0000009999.safetensors"
    save(path, {"x": np.zeros(2**27, np.uint8)}, {})
    command = [sys.executable, "-c", NEWEST, str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    size = path.stat().st_size
    assert lines == [bench.newest.name, f"{path} does not fit into memory: it has {size:,} bytes"]


def test_an_error_about_the_values_names_the_file(tmp_path, bench):
    large = bench.file("large.csv", fuzz.csv_text(4).encode().replace(b"-", b"9e300", 1))
    few = bench.file("few.npz", fuzz.npz_bytes(x=np.eye(4), y=np.arange(4) % 2))
    for words in (
        ("predict", bench.good, large),
        ("evaluate", bench.good, large),
        ("train", few, "--out", tmp_path / "run"),
    ):
        with pytest.raises(XpnetError) as caught:
            fuzz.command(*map(str, words))
        assert str(caught.value).startswith(f"error: {few if words[0] == 'train' else large}: ")


ESCAPES = "\x1b]0;title\x07\x9b31m\u202e[/b]"


def test_names_are_escaped_on_the_terminal(tmp_path, bench):
    """Classes, files and records whose names contain control characters and rich's markup."""
    text = fuzz.csv_text().replace("yes", ESCAPES)
    data = bench.file("escapes.csv", text.encode())
    run = tmp_path / "run"
    settings = ("--set", "epochs=1", "--set", "model.hidden=[2]", "--backend", "numpy")
    printed = fuzz.command("train", str(data), "--out", str(run), *settings)
    printed += fuzz.command("evaluate", str(run))
    assert r"\x1b]0;title\x07\x9b31m\u202e[/b]" in printed
    (run / "run.json").write_text(json.dumps({"status": ESCAPES}))
    (run / "history.jsonl").write_text(json.dumps({"epoch": ESCAPES}) + "\n")
    printed += fuzz.command("show", str(run))
    data.write_text(text.replace("no\n", f"maybe{ESCAPES}\n"))
    for words in (["evaluate", str(run), str(data)], ["predict", str(run), f"no{ESCAPES}.csv"]):
        with pytest.raises(XpnetError) as caught:
            fuzz.command(*words)
        printed += str(caught.value)
    assert not {c for c in printed if not c.isprintable() and c != "\n"}
    predicted = fuzz.command("predict", str(run), str(bench.data))
    assert f"p_{ESCAPES}" in predicted  # unchanged in a file or a pipe


@pytest.mark.skipif(os.name == "nt", reason="file names are not bytes on Windows")
def test_a_file_name_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.csv")
    with open(path, "w") as file:
        file.write(fuzz.csv_text())
    done = limited("train", path.decode("utf-8", "surrogateescape"), "--out", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "data.source must be text that UTF-8 can encode" in done.stderr
    assert not (tmp_path / "run").exists()


def test_sizes_that_are_too_large_are_refused_before_anything_is_written(tmp_path, bench):
    for setting, message in {
        "model.hidden=[4611686018427387904]": "parameters: make its layers smaller",
        "epochs=4611686018427387904": "are more than 2147483647 steps",
    }.items():
        words = ("train", str(bench.data), "--out", str(tmp_path / "run"))
        with pytest.raises(XpnetError, match=message):
            fuzz.command(*words, "--set", setting)
        assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------- the output


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs /dev/null")
def test_an_output_that_is_a_device_or_a_link_stays_one(tmp_path, bench):
    words = ("predict", str(bench.good), str(bench.data), "-o")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "link.csv").symlink_to("target.csv")
    for name in ("null", "link.csv"):
        fuzz.command(*words, str(tmp_path / name))
        assert (tmp_path / name).is_symlink()
    assert Path("/dev/null").is_char_device()
    printed = fuzz.command(*words[:-1])
    assert (tmp_path / "target.csv").read_text() == printed == fuzz.command(*words, "-")
    with pytest.raises(XpnetError, match="No space left on device"):
        fuzz.command(*words, "/dev/full")


def test_a_folder_with_a_file_that_a_run_would_write_is_not_overwritten(tmp_path, bench):
    for name in ("history.jsonl", "run.json", "report.json", "config.toml"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(XpnetError, match="already holds a run"):
            fuzz.command("train", str(bench.data), "--out", str(folder))
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [(name, "mine")]


def test_an_error_names_a_label_that_the_run_does_not_know(bench):
    path = bench.file("other.csv", fuzz.csv_text(4).replace("yes", "maybe").encode())
    with pytest.raises(XpnetError, match="label 'maybe' is not among the 2 known classes"):
        fuzz.command("evaluate", str(bench.good), str(path))
