"""The fixture `axe`: it finds what is wrong, where it is wrong, and only there."""

import pytest
from browser import TAGS

PAGE = """<!doctype html>
<html lang="en"><head><title>A page</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ background: #fff; color: #222; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: {dark}; }} }}
@media print {{ body {{ color: {printed}; }} }}
@media (max-width: 500px) {{ body {{ {narrow} }} }}
</style></head>
<body><main><h1>A page</h1>{more}</main></body></html>
"""
GOOD = {"dark": "#eee", "printed": "#000", "narrow": "", "more": ""}


@pytest.fixture
def write(tmp_path):
    def written(**values):
        path = tmp_path / "page.html"
        path.write_text(PAGE.format(**{**GOOD, **values}), encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_a_page_that_all_can_use(axe, write, scheme):
    assert axe(write(), scheme=scheme) == []
    assert axe(write(), width=360, scheme=scheme) == []


@pytest.mark.parametrize(
    ("values", "only"),
    [
        ({"dark": "#333"}, {"scheme": "dark"}),
        ({"printed": "#ddd"}, {"scheme": "print"}),
        ({"narrow": "color: #ddd"}, {"width": 360}),
    ],
    ids=["dark", "print", "phone"],
)
def test_too_little_contrast_is_found_where_it_is(axe, write, values, only):
    page = write(**values)
    axe(page)
    with pytest.raises(AssertionError, match=r"1 finding .*\n  color-contrast: h1: .*\n.*<h1>"):
        axe(page, **only)
    axe(page)  # and what was set is off again


def test_a_finding_says_the_rule_the_element_and_what_to_do(axe, write):
    page = write(more='<img src="data:,"><button></button><h4 id="deep">too deep</h4>')
    with pytest.raises(AssertionError) as caught:
        axe(page)
    said = str(caught.value)
    assert said.startswith("3 findings of axe-core at 1200 pixels, light:\n")
    for rule in ("image-alt: img: ", "button-name: button: ", "heading-order: #deep: "):
        assert rule in said
    assert '<img src=\\"data:,\\">' in said


def test_what_is_closed_at_first_is_looked_at_after_it_is_opened(axe, write):
    page = write(more='<p id="p" hidden style="color: #ddd">pale</p>')
    axe(page)
    with pytest.raises(AssertionError, match="color-contrast: #p"):
        axe(page, after=lambda b: b.execute_script("document.querySelector('#p').hidden = false"))
    with pytest.raises(AssertionError, match="color-contrast: #p"):
        axe()  # the page that is shown


def test_what_cannot_be_decided_is_returned(axe, write):
    open_ = axe(write(more='<p style="background: linear-gradient(#fff, #000)">where?</p>'))
    assert [line.partition(":")[0].strip() for line in open_] == ["color-contrast"]


def test_its_rules_are_those_of_wcag_and_best_practice(axe, write):
    passes = axe.results(write())["passes"]
    assert {tag for rule in passes for tag in rule["tags"]} >= set(TAGS) - {"wcag21a", "wcag21aa"}
