"""Pages of Markdown as what they promise: blocks that are run in order, and what they print.

A page is run in a fresh folder, from its first block to its last:

    python     is executed, all blocks of a page in one namespace; a `text` block right after it is
               what it prints
    console    `$ COMMAND` is run; the lines below it are what it prints; `# exit code 1` says that
               the command fails, and how
    any other  a line that ends in `NAME`: before a block puts it into the file NAME

`...` in what is printed stands for any text, and as a line for any lines. A line such as
*(needs a GPU)* before a block says why it may not run here; `MARKS` has them all. What installs
packages is not run: the extras that it names are looked up.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from xpnet.cli.main import cli, main
from xpnet.nn import LAYERS
from xpnet.nn.activation import ACTIVATIONS
from xpnet.nn.initializers import INITIALIZERS
from xpnet.nn.losses import LOSSES
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.optim.schedules import SCHEDULES

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w./-]+\.\w+)`:$")
MARK = re.compile(r"^\*\((.+)\)\*$")
# Reason -> whether the block is run all the same, to see that what is missing is said in a line.
MARKS = {
    "needs a GPU": True,
    "needs an MPI": True,
    "needs several hosts": False,
    "needs Docker": False,
    "needs Slurm": False,
    "needs the network": False,
    "needs a library of yours": False,
    "takes minutes": False,
}
LANGUAGES = {"python", "console", "text", "toml", "csv", "json", "yaml", "html", ""}
SHELL = {"cat", "head", "ls", "mkdir", "cp", "rm"}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    mark: str  # why it may not run here
    file: str  # that it is written to
    follows: bool  # whether nothing stands between it and the block before


class Command(NamedTuple):
    """A line of a console block, and what the page says that it prints."""

    words: list[str]
    printed: str
    code: int
    settings: dict[str, str]  # variables of its environment


def blocks(text):
    """Return the blocks of a page, in order."""
    found, end = [], -1
    for m in FENCE.finditer(text):
        before = text[: m.start()].rstrip()
        last = before.rpartition("\n")[2]
        mark, file = MARK.match(last), FILE.search(last)
        found.append(
            Block(
                m[1],
                m[2],
                text.count("\n", 0, m.start()) + 1,
                mark[1] if mark else "",
                file[1] if file and m[1] != "console" else "",
                len(before) == end,
            )
        )
        end = m.end()
    return found


def commands(block):
    """Return the commands of a console block."""
    found = []
    for part in re.split(r"(?m)^\$ ", block.text)[1:]:
        line, _, printed = part.replace("\\\n", " ").partition("\n")
        code = re.search(r"# exit code (\d)", line)
        for piece in line.split(" && "):
            words = shlex.split(piece, comments=True)
            first = next(n for n, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
            settings = dict(word.split("=", 1) for word in words[:first])
            found.append(Command(words[first:], "", int(code[1]) if code else 0, settings))
        found[-1] = found[-1]._replace(printed=printed)
    return found


def in_prose(text):
    """Return the words of every command of xpnet within a sentence."""
    prose = FENCE.sub("", text).replace("\n", " ")
    return [shlex.split(c, comments=True) for c in re.findall(r"`(xpnet [^`]*)`", prose)]


def all_commands(text):
    """Return the words of every command that a page shows, in a block or within a sentence."""
    shown = [c.words for b in blocks(text) if b.language == "console" for c in commands(b)]
    return [*shown, *in_prose(text)]


def check_arguments(words):
    """Fail unless xpnet has this command, and it takes these arguments."""
    while words and words[0] == "--plugin":
        words = words[2:]
    name, *args = words
    if name.startswith("-") or name.isupper():  # an option of all commands, or a placeholder
        return
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"there is no command {name}"
    command.make_context(name, args)  # a UsageError where it does not


def check_installs(words, pyproject):
    """Fail unless the extras that a command installs are there."""
    extras = tomllib.loads(pyproject)["project"]["optional-dependencies"]
    for names in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(names.split(",")) <= {*extras}, names


@contextlib.contextmanager
def as_at_a_prompt():
    """Let what runs warn as it does there, and take out again what it registers."""
    tables = (ACTIVATIONS, LAYERS, LOSSES, OPTIMIZERS, SCHEDULES, INITIALIZERS)
    before = [dict(table) for table in tables]
    modules = {*sys.modules}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as Python's own default
            yield
    finally:
        for table, kept in zip(tables, before, strict=True):
            table.clear()
            table.update(kept)
        for name in {*sys.modules} - modules:
            if name.startswith("xpnet_plugin_"):
                del sys.modules[name]


def run(path, text):
    """Run a page in the current folder, which is fresh; return how many blocks were run."""
    with as_at_a_prompt():
        return _run(path, text)


def _run(path, text):
    space, printed, ran = {"__name__": "__main__"}, "", 0
    for block in blocks(text):
        where = f"{path.name}, line {block.line}"
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "text" and block.follows:
            compare(block.text, printed, where)
        elif block.mark and not MARKS[block.mark]:
            continue
        elif block.language == "python":
            if block.mark:
                continue
            printed = execute(block, path, space)
        elif block.language == "console":
            for command in commands(block):
                run_command(command, where, may_fail=bool(block.mark))
        else:
            continue
        ran += 1
    return ran


def execute(block, path, space):
    """Execute a block of Python, whose lines count as in the page, and return what it prints."""
    out = io.StringIO()
    code = "\n" * block.line + block.text
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(path), "exec"), space)
    return out.getvalue()


def run_command(command, where, may_fail):
    """Run a command, and compare its exit code and what it prints with what the page says."""
    words, printed, expected, _ = command
    if words[:4] == ["python", "-m", "pip", "install"]:
        return
    code, out, err = call(words, command.settings)
    shown = " ".join(words)
    if may_fail and code == 2:
        assert err.count("\n") == 1, f"{where}: {shown}: {err}"
        return
    assert code == expected, f"{where}: {shown}: exit code {code}\n{out}\n{err}"
    if printed.strip():
        compare(printed, out + (err if code == 2 else ""), f"{where}: {shown}")


def call(words, settings):
    """Return the exit code of a command and what it writes to its two streams.

    ``settings`` are variables of its environment, of which PYTHONPATH adds to what is there.
    """
    if words[0] == "xpnet" and not settings:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main(words[1:])
        return ended.value.code or 0, out.getvalue(), err.getvalue()
    if words[0] in ("xpnet", "python"):
        words = [sys.executable, *(["-m", "xpnet"] if words[0] == "xpnet" else []), *words[1:]]
    else:
        assert words[0] in SHELL, f"{words[0]} is not for a page that has to run anywhere"
    paths = [settings.get("PYTHONPATH", ""), *sys.path]
    ours = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}  # of this test run
    env = {**ours, **settings, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout, done.stderr


def compare(shown, actual, where):
    """Fail unless what a page shows is what was printed, but for its dots."""
    wanted = [line.rstrip() for line in shown.strip("\n").splitlines()]
    got = [line.rstrip() for line in actual.strip("\n").splitlines()]
    pattern = ""
    for line in wanted:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(part) for part in line.split("...")) + r"\n"
    text = "".join(f"{line}\n" for line in got)
    assert re.fullmatch(pattern, text), f"{where} shows\n{shown}\nand prints\n{text}"
