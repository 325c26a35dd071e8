"""The site of the documentation: its formulas, its pages from the program, and that it is alone."""

import ast
import html
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import xpnet
from xpnet.cli.main import cli
from xpnet.explanation.notation import FUNCTIONS, WORDS
from xpnet.run.config_sources import template_text

ROOT = Path(__file__).parents[2]
SITE = ROOT / "scripts" / "site"
DOCS = Path(xpnet.__file__).parent / "docs"
MATHEMATICS = ("ops", "nn", "optim")


@pytest.fixture(scope="module")
def formulas():
    sys.path.insert(0, str(SITE))
    yield importlib.import_module("docs_formulas")
    sys.path.remove(str(SITE))


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("griffe", reason="no mkdocstrings: pip install -e '.[docs]'")
    sys.path.insert(0, str(SITE))
    yield importlib.import_module("docs_reference")
    sys.path.remove(str(SITE))


def docstrings():
    """(where, docstring, names of the arguments or fields) of every function and class."""
    for room in MATHEMATICS:
        for path in sorted((Path(xpnet.__file__).parent / room).glob("*.py")):
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    text = ast.get_docstring(node)
                    if text and not node.name.startswith("_"):
                        yield f"{room}/{path.stem}: {node.name}", text, names_in(node)


def names_in(node):
    if isinstance(node, ast.FunctionDef):
        found = {argument.arg for argument in node.args.args + node.args.kwonlyargs}
    else:
        found = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    return {name for name in found if len(name) > 1}


DOCSTRINGS = list(docstrings())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = max(z, 0). Nair and Hinton 2010.", ["a = max(z, 0)"]),
        ("dz = da where a > 0, else 0: at the kink", ["dz = da where a > 0, else 0"]),
        (
            "dz = 0 where z <= -3, da where z >= 3, else (z/3 + 1/2) da.",
            ["dz = 0 where z <= -3, da where z >= 3, else (z/3 + 1/2) da"],
        ),
        ("a = z Φ(z), Φ(z) = (1 + erf(z/√2)) / 2. H", ["a = z Φ(z)", "Φ(z) = (1 + erf(z/√2)) / 2"]),
        ("z = x W + b for x (N, I), W (I, J), b (J,)", ["z = x W + b"]),
        ("from logits; returns ℓ (N,) and log softmax(z) (N, K).", ["ℓ", "log softmax(z)"]),
        ("(the mean of x² + y²) is a number", ["x² + y²"]),
        ("A class with v = 0 adds nothing, even where a = 0;", ["v = 0", "a = 0"]),
        ("uniform in [0, 2**24), from 0..K-1, at most 1e-6 or -1 or 1", []),
        ("the rows of a table, in J. R. Stat. Soc. A 135, and/or a softmax layer of tanh", []),
        ("E_m[c_m], ..., the last", ["E_m[c_m]"]),
        ("and ``so a = b + c it``, or :func:`of y = z`", []),
        ("", []),
    ],
)
def test_a_formula_is_found_in_its_sentence(formulas, text, found):
    marked = formulas.marked(text)
    assert re.findall(f"{formulas.OPEN}(.*?){formulas.CLOSE}", marked) == found
    assert marked.replace(formulas.OPEN, "").replace(formulas.CLOSE, "") == text


def test_the_names_of_arguments_are_words_in_a_formula(formulas):
    text = "a = z where z > 0, else slope z, with a trained slope of shape (1,)."
    assert formulas.formulas(text)[0] == (True, "a = z where z > 0")
    assert formulas.formulas(text, ["slope"])[0] == (True, "a = z where z > 0, else slope z")


@pytest.mark.parametrize(
    ("where", "text", "names"), DOCSTRINGS, ids=[where for where, *_ in DOCSTRINGS]
)
def test_the_formulas_of_a_docstring_are_all_found_and_are_nothing_else(
    formulas, where, text, names
):
    """No sign of mathematics is left in the text, and no word of English is in a formula."""
    prose = re.split(r"\n\s*>>> ", text)[0]
    shown = formulas.to_markdown(prose, names)
    left = re.sub(f"{formulas.OPEN}.*?{formulas.CLOSE}", "", shown, flags=re.DOTALL)
    left = formulas.CODE.sub("", re.sub(r"```.*?```", "", left, flags=re.DOTALL))
    assert not re.search(r"[²³√Σ∂]| [=+] [a-zA-Z]\b|\b[a-z]_[a-z]{1,3}\b", left), left
    known = names | FUNCTIONS | WORDS
    for formula in re.findall(f"{formulas.OPEN}(.*?){formulas.CLOSE}", shown, re.DOTALL):
        words = set(re.findall(r"[A-Za-z]{3,}", formula.replace("_", " ")))
        parts = {part for name in names for part in name.split("_")}
        assert words <= known | parts | {"rest", "nks", "max"}, formula
        made = formulas.element(formula, names)
        assert made.startswith("<math><mrow>")
        assert "^" not in made
        assert "_" not in re.sub(r"<mtext>.*?</mtext>", "", made)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_formulas_of_a_page_are_no_words(formulas, page):
    text = (DOCS / page).read_text("utf-8")
    marked = formulas.marked_page(text)
    assert marked.replace(formulas.OPEN, "").replace(formulas.CLOSE, "") == text
    for formula in re.findall(f"{formulas.OPEN}(.*?){formulas.CLOSE}", marked, re.DOTALL):
        assert set(re.findall(r"[A-Za-z]{4,}", formula)) <= FUNCTIONS | WORDS, formula


def test_the_table_of_the_question_is_set(formulas):
    marked = formulas.marked_page((DOCS / "index.md").read_text("utf-8"))
    for formula in ("da_nk = -y_nk / (N a_nk)", "J_nks = a_nk (δ_ks - a_ns)"):
        assert f"| {formulas.OPEN}{formula}{formulas.CLOSE} |" in marked


def test_a_ratio_is_a_fraction_in_a_block_and_a_slash_in_a_line(formulas):
    assert formulas.element("dC/dW_ij", inline=False).count("<mfrac>") == 1
    assert "<mfrac>" not in formulas.element("dC/dW_ij")
    assert "<mfrac>" not in formulas.element("da / (N a_nk)", inline=False)


def test_a_block_is_formulas_code_or_text(formulas):
    text = "Adam\n\n    p -= ηv      or, Nesterov's,    p -= η(g + μv)\n\nand::\n\n    x = f(1)\n\n"
    made = formulas.to_markdown(text + ">>> 1 + 1\n2\n\n    a.py   what is in it")
    assert re.findall(r"```(\w+)", made) == ["formulas", "python", "pycon", "text"]
    rows = formulas.table("one_two   a = b        (N, K)\n" + " " * 20 + "c = d   (N,)")
    assert rows.count("<tr>") == 2
    assert "<td></td><td><math" in rows


def test_every_command_and_option_has_its_place(reference):
    page = reference.commands()
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        assert f"\n## {name}\n" in page
        for param in cli.get_command(ctx, name).params:
            for option in (o for o in param.opts if o.startswith("--")):
                assert option in page


def test_every_setting_has_its_place(reference):
    page, section, count = html.unescape(reference.settings()), "", 0
    for line in template_text().splitlines():
        if line.startswith("["):
            section = line[1 : line.index("]")] + "."
            assert f"\n## {section[:-1]}\n" in page
        setting = re.match(r"(?:# )?([a-z]\w*) = ([^\s#]+)", line)
        if setting:
            name, value = setting.groups()
            row = re.search(rf"(?m)^\| <code>{re.escape(section + name)}</code> \| (.*)$", page)
            assert f"<code>{value}" in row[1], line
            count += 1
        for words in re.findall(r" # (.+)$", line):
            assert words.lower() in page.lower()
    assert len(re.findall(r"(?m)^\| <code>", page)) == count >= 60


def test_every_public_name_has_its_place(reference):
    pages = "\n".join(path.read_text("utf-8") for path in sorted(DOCS.glob("api*.md")))
    described = re.findall(r"(?m)^::: (\S+)", reference.filled(pages))
    names = [path.removeprefix("xpnet.") for path in described if path.count(".") == 1]
    assert sorted([*names, "schedules", "__version__"]) == sorted(xpnet.__all__)
    assert "xpnet.optim.schedules" in described  # which `xpnet.schedules` is
    files = {path.stem for path in (Path(xpnet.__file__).parent / "ops").glob("[a-z]*.py")}
    assert {path[10:] for path in described if path.startswith("xpnet.ops.")} == files
    assert all(getattr(xpnet, name).__doc__ for name in names)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as `scripts/docs` builds it; what it says is an error."""
    for needed in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(needed, reason="no MkDocs Material: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "scripts" / "docs"), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


@pytest.mark.long
def test_the_site_names_no_other_place(site):
    """Nothing is fetched when it is read: what is not a link leads to its own files."""
    for path in sorted(site.rglob("*.html")):
        text = path.read_text("utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            assert not re.search(r"""(src|href)=["']?(https?:)?//""", tag), (path.name, tag)
    for path in sorted(site.rglob("*.css")):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text("utf-8")), path.name


@pytest.mark.long
def test_a_page_that_is_missing_or_a_broken_link_fails_the_build(tmp_path):
    pytest.importorskip("material", reason="no MkDocs Material: pip install -e '.[docs]'")
    for name in ("scripts/site", "scripts/reports", "xpnet"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("scripts/docs", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "xpnet" / "docs" / "table.md"
    page.write_text(page.read_text("utf-8") + "\n[nowhere](nowhere.md)\n", encoding="utf-8")
    command = [sys.executable, str(tmp_path / "scripts/docs"), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


@pytest.mark.long
def test_the_site_is_read_without_a_network_and_searched(site, browser):
    """Opened as files: formulas are there, nothing is asked of a network, the search finds."""
    browser.get((site / "api-ops.html").as_uri())
    assert len(browser.find_elements("css selector", "math")) > 100
    browser.get((site / "index.html").as_uri())
    assert browser.find_elements("css selector", "table.formulas math mfrac")
    box = browser.find_element("css selector", "input.md-search__input")
    browser.execute_script("arguments[0].focus()", box)
    box.send_keys("softmax_jacobian")
    from selenium.webdriver.support.wait import WebDriverWait

    def found(driver):
        return driver.find_elements("css selector", ".md-search-result__link")

    links = WebDriverWait(browser, 20).until(found)
    assert any("api-ops.html" in link.get_attribute("href") for link in links)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    asked = [entry["message"] for entry in browser.get_log("performance")]
    assert not [m for m in asked if re.search(r'requestWillBeSent.*"url":"https?:', m)]


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
@pytest.mark.parametrize("page", ["index", "api-optim", "commands", "settings", "table"])
def test_a_page_is_for_everybody(site, axe, page, width, scheme):
    axe(site / f"{page}.html", width=width, scheme=scheme)


@pytest.mark.long
@pytest.mark.parametrize("page", ["index.html", "api-optim.html", "commands.html", "data.html"])
def test_a_page_fits_a_phone(site, browser, page):
    from browser import shown_as

    shown_as(browser, 390)
    browser.get((site / page).as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
