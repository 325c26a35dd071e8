"""The renderers: one explanation as terminal text, Markdown, LaTeX and HTML."""

import dataclasses
import io
import re
import shutil
import subprocess
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from xpnet.cli.commands.explain import FORMATS
from xpnet.cli.commands.explain import explain as command
from xpnet.errors import ConfigError
from xpnet.explanation import explain, html, latex, markdown, of_sizes, terminal, tiny, wording
from xpnet.explanation.model import Format
from xpnet.explanation.notation import latex as to_latex
from xpnet.explanation.notation import mathml, plain
from xpnet.nn import ACTIVATIONS
from xpnet.nn.losses import LOSSES

CONVENTIONS = ["rows", "column", "both"]


def on_terminal(explanation, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    terminal.show(explanation, console)
    return console.file.getvalue()


RENDERERS = {
    "terminal": on_terminal,
    "markdown": markdown.render,
    "latex": latex.render,
    "html": html.render,
}


@pytest.mark.parametrize("name", RENDERERS)
def test_an_explanation_renders_itself_in_the_formats_of_the_command(name):
    assert tuple(RENDERERS) == FORMATS == get_args(Format)
    explanation = explain(tiny())
    assert explanation.render(name) == RENDERERS[name](explanation)
    assert str(explanation) == RENDERERS["terminal"](explanation)
    with pytest.raises(ConfigError, match="form must be one of terminal, markdown, latex, html"):
        explanation.render("pdf")


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_number_of_every_step_is_in_the_text(name, convention):
    explanation = explain(tiny(), convention=convention)
    shown = RENDERERS[name](explanation).replace("−", "-")
    for step in explanation.steps:
        for tensor in (*step.operands, step.result):
            for cell in np.ravel(wording.numbers(tensor.values)):
                assert str(cell) in shown
    for _, dz, dW in wording.way_rows(explanation):
        assert dz in shown
        assert dW in shown


@pytest.mark.parametrize("name", RENDERERS)
def test_every_line_of_code_and_the_question_are_in_the_text(name):
    explanation = explain(tiny())
    flat = " ".join(RENDERERS[name](explanation).split()).replace("&quot;", '"')
    flat = flat.replace("&gt;", ">").replace("&#x27;", "'")
    assert "is a Jacobian, a matrix" in flat
    for step in explanation.steps:
        assert step.title in flat
        for code in step.code:
            for line in code.text.splitlines():
                ascii_part = re.sub(r"\s*#.*", "", line).strip()
                if name != "latex":
                    assert ascii_part in flat
                else:  # braces are escaped there
                    assert ascii_part.split("{")[0] in flat


@pytest.mark.long_but(convention=["both"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_terminal_of_80_columns_is_enough(loss, convention):
    for subject in (tiny(loss, "gelu_tanh"), of_sizes([784, 12, 10], 8, loss, "elu")):
        out = on_terminal(explain(subject, convention=convention), width=120)
        assert max(map(len, out.splitlines())) <= 80


@pytest.fixture(scope="module")
def large():
    return explain(of_sizes([784, 128, 10], 32))


@pytest.mark.parametrize("name", RENDERERS)
def test_large_arrays_are_told_by_shape_and_norm(name, large):
    explanation = large
    shown = RENDERERS[name](explanation)
    W = explanation.steps[0].operands[1].values
    assert wording.norm(W) in shown
    assert len(shown) < 400_000


FORMULAS = [
    part
    for table in (ACTIVATIONS, LOSSES)
    for cls in table.values()
    for part in getattr(cls, "formula", None) or ()
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_formula_has_balanced_latex_and_well_formed_mathml(formula):
    import xml.etree.ElementTree as ElementTree

    shown = to_latex(formula)
    assert shown.count("{") == shown.count("}")
    assert shown.isascii()
    ElementTree.fromstring(mathml(formula).replace("&nbsp;", " "))
    assert "⟨" not in plain(formula)


def needs_latex():
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-extra lmodern")


def compile_latex(document, folder):
    (folder / "e.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "e.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-2000:]
    assert (folder / "e.pdf").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("loss", "activation", "convention"),
    [
        ("cross_entropy", None, "both"),
        ("huber", "gelu_tanh", "column"),
        ("binary_cross_entropy", "softmax", "rows"),
    ],
)
def test_the_latex_compiles(loss, activation, convention, tmp_path):
    needs_latex()
    compile_latex(latex.render(explain(tiny(loss, activation), convention=convention)), tmp_path)


def test_every_formula_compiles(tmp_path):
    needs_latex()
    lines = [rf"\[ x = {to_latex(f)} \]" for f in FORMULAS]
    compile_latex(latex.PREAMBLE + "\n".join(lines) + "\n\\end{document}\n", tmp_path)


def test_the_page_is_one_file_that_asks_for_nothing():
    page = html.render(explain(tiny()))
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|//cdn|@import|url\(|<script src|<link rel=.stylesheet", page)
    assert "{{" not in page.split("<script>")[0]


def test_a_gradient_that_is_no_number_is_told_in_words():
    subject = tiny("binary_cross_entropy")
    params = [{**subject.params[0], "b": np.array([60.0, 0.0, 0.0])}]
    explanation = explain(subject.__class__(**{**vars(subject), "params": params}))
    for render in RENDERERS.values():
        assert "has rounded to 0 or 1" in " ".join(render(explanation).split())


def test_class_names_cannot_break_out_of_the_page():
    subject = tiny()
    evil = ("</script><script>alert(1)</script>", "<b>", "&")
    page = html.render(explain(subject.__class__(**{**vars(subject), "classes": evil})))
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "z_nj = Σ_i x_ni W_ij + b_j"),
        (["--convention", "column"], "z_jn = Σ_i W_ji x_in + b_j"),
        (
            ["4", "3", "2", "--batch", "2", "--activation", "tanh"],
            "A network 4-3-2 and a batch of 2",
        ),
        (["--format", "markdown"], "```math"),
        (["--format", "latex"], r"\documentclass"),
        (["--format", "html"], "<!doctype html>"),
        (["--loss", "huber", "--label", "2"], "huber"),
        (["digits", "--sample", "5", "--loss", "cross_entropy"], "digits: row 5"),
    ],
)
def test_the_command_explains(arguments, expected):
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert expected in result.output


def test_the_command_takes_the_format_from_the_name_of_the_file(tmp_path):
    starts = {
        "a.md": "# ",
        "a.tex": "\\documentclass",
        "a.html": "<!doctype",
        "a.txt": "One example",
    }
    for name, start in starts.items():
        CliRunner().invoke(command, ["-o", str(tmp_path / name)], catch_exceptions=False)
        assert (tmp_path / name).read_text("utf-8").startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "batch must be 1 to"),
        (["digits", "mnist"], "give sizes such as"),
        (["²", "³"], "give sizes such as"),
        (["9" * 5000, "3"], "give sizes such as"),
        (["--batch", "100000000000000000000"], "batch must be 1 to 1000000"),
        (["--seed", str(2**63)], r"seed 0 to 2\^63 - 1"),
        (["784"], "give at least two sizes, inputs and outputs"),
        (["no-such-thing"], "no recipe or file"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.mark.parametrize("name", RENDERERS)
def test_the_name_of_a_file_is_shown_and_does_not_act(name):
    bad = "a\u202eb\x9b\x1b[2J<img src=x>.csv"
    subject = dataclasses.replace(tiny(), title=bad, rows=bad)
    text = RENDERERS[name](explain(subject))
    assert not set(text) & set("\u202e\x9b\x1b")
    assert "u202eb" in text
    assert ("\\<img" if name == "markdown" else "img src=x") in text
    assert ("<img" in text.replace("\\<", "")) == (name in ("terminal", "latex"))


def test_a_dollar_in_the_name_of_a_file_is_not_a_formula():
    subject = dataclasses.replace(tiny(), rows="$x$.csv")
    assert r"\$x\$.csv" in latex.render(explain(subject))
    assert r"\$x\$.csv" in markdown.render(explain(subject))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_rendered_in_every_form(activation):
    explanation = explain(tiny("softmax_cross_entropy", activation))
    for render in RENDERERS.values():
        assert len(render(explanation)) > 1000
