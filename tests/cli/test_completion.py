"""Completion: what is offered, that no TAB is slow or fails, and the shells themselves."""

import gzip
import itertools
import os
import re
import shutil
import subprocess
import sys

import click
import pytest
from terminal import Terminal

from xpnet.cli.completion import completing
from xpnet.cli.completion.columns import column_names
from xpnet.cli.completion.settings import Settings
from xpnet.cli.completion.shells import SHELLS
from xpnet.cli.main import COMMANDS, COMPLETE, cli, main
from xpnet.data.tables import read_table
from xpnet.errors import ConfigError
from xpnet.run.config import Config
from xpnet.run.config_sources import load_config
from xpnet.settings import classes_of, kinds_of

HEADER = ["sepal length", "petal", "species"]
HEAVY = {"numpy", "pyarrow", "rich", "jinja2", "matplotlib", "xpnet.run", "xpnet.nn"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of the settings, which the first TAB fills."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(tmp_path, monkeypatch, cache):
    """The current folder: runs, a table, a config that names it."""
    for name in ("runs/first", "runs/second", "runs/empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/first", "runs/second"):
        (tmp_path / name / "config.toml").touch()
    os.utime(tmp_path / "runs/first", (1, 1))
    (tmp_path / "flowers.csv").write_text(f"{','.join(HEADER)}\n1,2,a\n")
    (tmp_path / "my.toml").write_text('[data]\nsource = "flowers.csv"\n')
    (tmp_path / "net.safetensors").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XPNET_CACHE_DIR", str(cache))
    monkeypatch.setenv(COMPLETE, "zsh_complete")
    for parameter in cli.params:
        monkeypatch.setattr(parameter, "type", parameter.type)
    completing(cli)
    return tmp_path


def offered(line, shell="zsh"):
    """What is offered at the end of a line."""
    *words, typed = line.split(" ")[1:]
    found = SHELLS[shell](cli, {}, "xpnet", COMPLETE).get_completions(words, typed)
    assert len({item.value for item in found}) == len(found)
    return [item.value for item in found]


def test_commands_and_options(folder):
    assert offered("xpnet ") == [*COMMANDS]
    assert offered("xpnet tr") == ["train"]
    assert offered("xpnet train --ba") == ["--backend", "--batch-size"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--plugin my", ["my.toml"]),
        ("train --backend ", ["auto", "numpy", "cupy", "torch", "jax", "array-api-strict"]),
        ("train --device c", ["cpu", "cuda", "cuda:0"]),
        ("train --task r", ["regression"]),
        ("train --step ", ["auto", "portable", "fused", "jit"]),
        ("train --batch-size ", ["auto", "largest"]),
        ("train --recipe ", ["digits", "fashion-mnist", "mnist", "table", "none"]),
        ("train m", ["mnist", "my.toml"]),
        ("train r", ["runs/"]),
        ("train --out runs/e", ["runs/empty/"]),
        ("train .h", [".hidden"]),
        ("show runs/", ["runs/second", "runs/first", "runs/empty/"]),
        ("evaluate ", ["runs/second", "runs/first", "net.safetensors", "runs/"]),
        ("evaluate runs/first f", ["flowers.csv"]),
        ("evaluate runs/first flowers.csv --label ", HEADER),
        ("train flowers.csv --label s", ["sepal length", "species"]),
        ("train flowers.csv --label petal --ignore p", ["petal"]),
        ("train my.toml --weight ", HEADER),
        ("train nowhere.csv --label ", []),
        ("train --label ", []),
        ("explain --loss hu", ["huber"]),
        ("explain --activation rel", ["relu"]),
        ("explain 4 3 my", ["my.toml"]),
        ("import net.onnx out.safetensors --loss po", ["poisson"]),
        ("parity --backends numpy,j", ["numpy,jax"]),
        ("train --set optim", ["optimizer=", "optimizer."]),
        ("train --set optimizer.name=ada", ["adagrad", "adam", "adamw", "adamax", "adadelta"]),
        ("train --set optimizer.name=lion --set optimizer.b", ["beta1=", "beta2="]),
        ("train --set optimizer=rmsprop --set optimizer.ce", ["centered="]),
        ("train --set optimizer.ntk=", ["true", "false"]),
        ("train --set data.header=", ["auto", "yes", "no"]),
        ("train --set data.source=m", ["my.toml", "mnist"]),
        ("train flowers.csv --set data.columns.ignore=p", ["petal"]),
        ("train --set nothing.", []),
        ("train --set epochs=", ["auto"]),
        ("train --set optimizer.lr=", []),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_is_offered(folder, line, expected):
    assert offered(f"xpnet {line}") == [before(line) + word for word in expected]


def before(line):
    """What a value of --set has in front of it: its key."""
    last = line.rpartition(" ")[2]
    if "=" in last:
        return last.partition("=")[0] + "="
    return f"{last.rpartition('.')[0]}." if " --set " in line and "." in last else ""


def settings_of(cls, path=""):
    """Every setting, and the class that has to be chosen for it."""
    for key, kind in kinds_of(cls).items():
        yield f"{path}{key}", []
        for name, chosen in (classes_of(cls, key) or {}).items():
            for inner in kinds_of(chosen):
                yield f"{path}{key}.{inner}", [f"{path}{key}.name={name}"]
        if classes_of(cls, key) is None and kinds_of(kind):
            yield from settings_of(kind, f"{path}{key}.")


@pytest.mark.usefixtures("folder")
def test_every_setting_can_be_reached_a_part_at_a_time():
    count = 0
    for key, chosen in settings_of(Config):
        settings, typed = Settings(chosen), ""
        for part in key.split("."):
            found = {item.value for item in settings.complete(typed + part[:1])}
            typed += part
            assert {f"{typed}=", f"{typed}."} & found, (key, chosen)
            typed += "."
            count += 1
    assert count > 400


def refusal(settings):
    try:
        load_config("digits", settings)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("folder")
def test_every_value_that_is_offered_is_one():
    """Unless another setting does not fit beside it, or is needed."""
    beside = r"missing setting|does not fit|gives no single loss|is no |needs a momentum"
    beside, count = re.compile(beside), 0
    for key, chosen in settings_of(Config):
        if key in ("data.source", "data.test", "data.data_dir", "start.source"):
            continue
        for item in Settings(chosen).values(key):
            why = refusal([*chosen, f"{key}={item.value}"])
            assert not why or beside.search(why), (key, item.value)
            count += 1
    assert count > 200


@pytest.mark.usefixtures("folder")
def test_a_setting_is_offered_with_what_it_means():
    said = {item.value: item.help for item in Settings().complete("optimizer.")}
    assert said["optimizer.freeze="].startswith("layers that stay as they are")
    assert (
        "default 0.001"
        in {i.value: i.help for i in Settings(["optimizer=adam"]).keys("optimizer.")}[
            "optimizer.lr="
        ]
    )
    (rule,) = (item for item in Settings().values("optimizer.name") if item.value == "sgd")
    assert rule.help.startswith("Stochastic gradient descent")


@pytest.mark.usefixtures("folder")
def test_no_command_fails_at_a_tab():
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        options = [p.opts[0] for p in command.params if isinstance(p, click.Option)]
        for option, typed in itertools.product(["", *options], ["", "x", "/", "a=", "'", "\x1b"]):
            offered(" ".join(filter(None, ["xpnet", name, option])) + f" {typed}")


def test_a_tab_imports_nothing_heavy(folder):
    offered("xpnet train --set ")  # fills the cache
    script = "import sys; from xpnet.cli.main import main\ntry: main()\n"
    script += "except SystemExit: print(*sys.modules, file=sys.stderr)"
    for line in ("xpnet ", "xpnet train flowers.csv --label ", "xpnet train --set optimizer."):
        words = line.split(" ")
        environment = {**os.environ, "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip()
        assert not HEAVY & set(done.stderr.split())


def test_the_settings_are_read_from_the_cache_until_something_is_installed(folder, monkeypatch):
    first = Settings().schema
    monkeypatch.setattr("xpnet.run.schema.config_schema", lambda: pytest.fail("made again"))
    assert Settings().schema == first
    (folder / "site-packages").mkdir()
    monkeypatch.syspath_prepend(folder / "site-packages")
    with pytest.raises(pytest.fail.Exception, match="made again"):
        Settings().schema  # noqa: B018


def test_a_cache_that_cannot_be_written_or_read_does_no_harm(folder, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setenv("XPNET_CACHE_DIR", str(folder / "file"))
    assert offered("xpnet train --set ep") == ["epochs="]


# ---------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff", "# by hand\n", "\n\n"])
def test_columns_are_those_that_the_reader_finds(tmp_path, mark, start):
    path = tmp_path / "a.csv"
    rows = [HEADER, ["1", "2", "a"], ["3", "4", "b"]]
    path.write_text(start + "".join(mark.join(row) + "\n" for row in rows), "utf-8")
    assert column_names(str(path)) == [*read_table(path).names] == HEADER
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert column_names(str(packed)) == HEADER


def test_columns_of_other_formats(tmp_path):
    import pyarrow as pa
    from pyarrow import feather, parquet

    table = pa.table({name: [1, 2] for name in HEADER})
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "a.feather")
    (tmp_path / "a.jsonl").write_text('{"sepal length": 1, "petal": 2, "species": 3}\n')
    attributes = "@relation a\n@attribute 'sepal length' numeric\n@ATTRIBUTE petal numeric\n"
    (tmp_path / "a.arff").write_text(attributes + "@attribute species {a,b}\n@data\n1,2,a\n")
    for path in tmp_path.iterdir():
        assert column_names(str(path)) == HEADER, path


def test_what_is_no_table_has_no_columns_and_nothing_waits(folder):
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 4000)
    (folder / "empty.csv").touch()
    (folder / "bad.parquet").write_bytes(b"PAR1")
    (folder / "bad.csv.gz").write_bytes(b"no")
    (folder / "bad.jsonl").write_text("[")
    (folder / "bad.toml").write_text("[")
    os.mkfifo(folder / "pipe.csv")
    for name in (
        "empty.csv",
        "bad.parquet",
        "bad.csv.gz",
        "bad.jsonl",
        "bad.toml",
        "pipe.csv",
        "runs",
    ):
        assert offered(f"xpnet train {name} --label ") == []
    offered("xpnet train noise.csv --label ")


# ----------------------------------------------------------------------------------------- shells


@pytest.fixture
def shell(folder, monkeypatch, request):
    """Return a function that starts a shell in a terminal, with xpnet on its path, completed."""
    program = folder / "bin" / "xpnet"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m xpnet "$@"\n')
    program.chmod(0o755)
    monkeypatch.delenv(COMPLETE)
    environment = {
        **os.environ,
        "TERM": "xterm",
        "PS1": "$ ",
        "HOME": str(folder),
        "COLUMNS": "200",
    }
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    started = []

    def start(name):
        if shutil.which(name) is None:
            pytest.skip(f"no {name}: apt-get install {name}")
        terminal = Terminal([name, *QUIET[name], "-i"], folder, environment)
        started.append(terminal)
        terminal.typed(f"{LOADS[name]}; echo rea''dy\n", r"\nready", 60)
        return terminal

    yield start
    for terminal in started:
        terminal.close()


QUIET = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}
LOADS = {
    "bash": 'eval "$(xpnet completion bash)"',
    "zsh": 'autoload -U compinit; compinit -u; eval "$(xpnet completion zsh)"',
    "fish": "xpnet completion fish | source",
}


@pytest.mark.parametrize("name", SHELLS)
def test_a_real_shell_completes(shell, name):
    clear = "\x15"  # Ctrl-U
    terminal = shell(name)
    terminal.typed("xpnet tra\t", "train ")
    terminal.typed(f"{clear}xpnet train --set optimizer.wei\t", r"optimizer\.weight_decay=")
    terminal.typed("0.1 --set data.stra\t", r"data\.stratify=$")
    terminal.typed("f\t", r"false ")
    terminal.typed(f"{clear}xpnet train flowers.csv --label sep\t", r"sepal\\ length ")
    terminal.typed(f"{clear}xpnet evaluate runs/f\t", "runs/first ")
    terminal.typed(f"{clear}xpnet train --out runs/e\t", "runs/empty/")


def test_bash_completes_behind_an_equals_within_quotes_and_before_the_end(shell):
    terminal = shell("bash")
    terminal.typed("xpnet train --set data.stra\t", r"data\.stratify=$")
    assert "stratify" not in terminal.typed("f\t", "alse ")  # it adds the rest, not the key again
    terminal.typed("\x15", "")
    terminal.typed("xpnet train flowers.csv --label 'sep\t", "'sepal length' ")
    terminal.typed("\x15xpnet train flö.csv --set optimizer.wei x\x02\x02\t", r"ght_decay= ?x")


def test_the_command_installs_it(folder, monkeypatch, capsys):
    monkeypatch.delenv(COMPLETE)
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, path in {
        "bash": ".local/share/bash-completion/completions/xpnet",
        "zsh": ".local/share/zsh/site-functions/_xpnet",
        "fish": ".config/fish/completions/xpnet.fish",
    }.items():
        monkeypatch.setenv("SHELL", f"/usr/bin/{name}")
        for _ in range(2):
            with pytest.raises(SystemExit, match="0"):
                main(["completion", "--install"])
        assert capsys.readouterr().out.startswith(f"wrote {folder / path}\n")
        with pytest.raises(SystemExit, match="0"):
            main(["completion"])
        assert capsys.readouterr().out == (folder / path).read_text()
    monkeypatch.setenv("SHELL", "/bin/sh")
    with pytest.raises(SystemExit, match="2"):
        main(["completion"])
    assert (
        "'sh' is not bash, zsh or fish: name one, such as xpnet completion bash"
        in capsys.readouterr().err
    )
