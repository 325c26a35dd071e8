"""The documentation can be typed: every block of every page runs, in order, as it is printed."""

import importlib.metadata
import re
import shlex
import tomllib
from pathlib import Path

import page_blocks
import pytest

import xpnet

ROOT = Path(__file__).parents[1]
DOCS = Path(xpnet.__file__).parent / "docs"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]}
TEXTS = {name: path.read_text("utf-8") for name, path in PAGES.items()}
IN_SOURCE = (ROOT / "xpnet").is_dir()  # and not in an image with xpnet installed
BLOCKS = {name: page_blocks.blocks(text) for name, text in TEXTS.items()}
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([\w-]+))?\)")


def every(what):
    """Return (page, item) for each item of each page, and their names."""
    pairs = [(name, item) for name in TEXTS for item in what(name)]
    return {"argvalues": pairs, "ids": [f"{name}: {item}"[:90] for name, item in pairs]}


def xpnet_commands(name):
    shown = [words[1:] for words in page_blocks.all_commands(TEXTS[name]) if words[0] == "xpnet"]
    return [" ".join(map(repr, words)) for words in shown if words]


@pytest.mark.parametrize(("page", "words"), **every(xpnet_commands))
def test_a_command_exists_and_takes_these_arguments(page, words):
    page_blocks.check_arguments(shlex.split(words))


@pytest.mark.parametrize("page", TEXTS)
def test_the_blocks_of_a_page_are_of_a_kind_that_is_tested(page):
    for block in BLOCKS[page]:
        assert block.language in page_blocks.LANGUAGES, f"{page}, line {block.line}"
        assert not block.mark or block.mark in page_blocks.MARKS, f"{page}, line {block.line}"
        if block.language == "python":
            compile(block.text, page, "exec")
        if block.language == "console":
            assert block.text.startswith("$ "), f"{page}, line {block.line}"
    assert TEXTS[page].count("```") == 2 * len(BLOCKS[page]), "a fence that is not read"


@pytest.mark.skipif(not IN_SOURCE, reason="pyproject.toml is not beside the tests")
@pytest.mark.parametrize("page", TEXTS)
def test_what_a_page_installs_is_there_to_be_installed(page):
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    for words in page_blocks.all_commands(TEXTS[page]):
        if "pip" in words:
            page_blocks.check_installs(words, pyproject)
    for quoted in re.findall(r"pip install '?([^'`\n]+)", TEXTS[page]):
        page_blocks.check_installs([quoted], pyproject)


def runs_commands(name):
    return any(block.language == "console" for block in BLOCKS[name])


def extras(name):
    """The extras that a page installs, but for what may be missing."""
    shown = [block.text for block in BLOCKS[name] if block.language == "console" and not block.mark]
    named = re.findall(r"pip install '\.\[([\w,-]+)\]'", "".join(shown))
    return {extra for names in named for extra in names.split(",")}


def skip_without(wanted):
    """Skip where a package of these extras is not installed."""
    if not wanted:
        return
    if not IN_SOURCE:
        pytest.skip("pyproject.toml is not beside the tests")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for extra in sorted(wanted):
        for requirement in pyproject["project"]["optional-dependencies"][extra]:
            package = re.match(r"[\w.-]+", requirement)[0]
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                pytest.skip(f"{package} is not installed: pip install '.[{extra}]'")


def run_in(folder, name, monkeypatch):
    skip_without(extras(name))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XPNET_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HOME", str(folder / "home"))
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    page_blocks.run(PAGES[name], TEXTS[name])


# The README names files that its reader has; tests/test_readme.py makes them.
OF_DOCS = [name for name in TEXTS if name != "README.md"]


@pytest.mark.parametrize("page", [name for name in OF_DOCS if not runs_commands(name)])
def test_the_python_of_a_page_runs_as_it_is_printed(page, tmp_path, monkeypatch):
    run_in(tmp_path, page, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("page", [name for name in OF_DOCS if runs_commands(name)])
def test_a_page_runs_as_it_is_printed(page, tmp_path, monkeypatch):
    run_in(tmp_path, page, monkeypatch)


@pytest.mark.skipif(not IN_SOURCE, reason="the source of xpnet is not beside the tests")
@pytest.mark.parametrize("page", TEXTS)
def test_a_link_of_a_page_leads_somewhere(page):
    for target, anchor in LINK.findall(page_blocks.FENCE.sub("", TEXTS[page])):
        path = (PAGES[page].parent / target).resolve()
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text("utf-8")), f"{target}#{anchor}"


def anchors(text):
    """Return the anchors that GitHub, and the site, give to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", page_blocks.FENCE.sub("", text))
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain}


def test_a_block_that_is_not_run_says_why_and_they_are_few():
    marked = [block for found in BLOCKS.values() for block in found if block.mark]
    assert len(marked) <= 20
