"""What the README shows can be typed: its Python runs as printed, its commands exist."""

import csv
import importlib.util
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from xpnet.cli.main import cli, main

README = Path(__file__).parents[1] / "README.md"
IN_SOURCE = (README.parent / "xpnet").is_dir()  # and not in an image with xpnet installed
TEXT = README.read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands():
    """The words of every command that is shown, in a block after a $ or within a sentence."""
    shown = [
        part
        for line in "".join(blocks("console")).splitlines()
        if line.startswith("$ ")
        for part in line.removeprefix("$ ").split(" && ")
    ]
    shown += re.findall(r"`(xpnet [^`]*)`", TEXT.replace("\n", " "))
    return [shlex.split(command, comments=True) for command in dict.fromkeys(shown)]


COMMANDS = commands()
XPNET = [words[1:] for words in COMMANDS if words[0] == "xpnet"]
EXAMPLES = [
    words[2] for words in COMMANDS if words[:2] == ["python", "-m"] and words[2][:6] == "xpnet."
]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs_as_it_is_printed(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("words", XPNET, ids=" ".join)
def test_a_command_exists_and_takes_these_arguments(words):
    name, *args = words
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"there is no command {name}"
    command.make_context(name, args)  # a UsageError where it does not


# Commands with a placeholder, and those that other tests run in a shorter form.
NOT_AS_WRITTEN = {"FILE", "RUN", "FOLDER", "DIST", "bench", "mylib"}


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder with the files that the README's commands name, and a small MNIST."""
    from xpnet.data import named

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XPNET_DATA_DIR", str(tmp_path / "data"))
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
    rows = [[*x, y] for x, y in zip(digits.x[:60].tolist(), digits.y[:60].tolist(), strict=True)]
    write_rows("more.csv", None, rows)
    write_rows("new.csv", None, digits.x[:5].tolist())
    write_network("net.onnx")
    np.savez("huge.npz", x=x, y=x.argmax(axis=1))
    people = [[f"name {n}", n % 7, f"d{n % 3}", n % 2 == 0, n * 1.5, n + 0.5] for n in range(90)]
    names = ["name", "persons", "district", "member", "income", "hours"]
    write_rows("people.csv", names, people)
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
def test_the_commands_run_as_they_are_written_one_after_another(at_home, capsys):
    write_photos(at_home)
    ran = []
    for words in XPNET:
        if NOT_AS_WRITTEN & {*words} or not backends_are_here(words):
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
        ran.append(words)
    assert len(ran) >= 18


def backends_are_here(words):
    from xpnet.backends import backend_class

    names = words[words.index("--backends") + 1].split(",") if "--backends" in words else []
    return all(backend_class(name).probe().version for name in names)


@pytest.mark.parametrize("module", EXAMPLES)
def test_an_example_exists(module):
    assert importlib.util.find_spec(module) is not None


def test_the_readme_shows_every_command_and_both_examples():
    assert {words[0] for words in XPNET} == set(cli.list_commands(click.Context(cli)))
    for example in ("softmax_by_hand.py", "train_digits.py"):
        assert f"(xpnet/examples/{example})" in TEXT
    assert len(blocks("python")) >= 1
    assert len(EXAMPLES) >= 1


@pytest.mark.skipif(not IN_SOURCE, reason="the source of xpnet is not beside the tests")
@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_a_link_within_the_repository_leads_somewhere(target):
    assert (README.parent / target).exists()
