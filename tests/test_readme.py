"""What the README shows can be typed: its Python runs as printed, its commands exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from xpnet.cli.main import cli

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
