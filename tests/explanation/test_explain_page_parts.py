"""The parts of the page that people move: a nudged logit, large logits, letters, code to copy."""

import dataclasses
import time

import numpy as np
import pytest

from xpnet.explanation import explain, html, tiny
from xpnet.explanation.model import Example, Letter

SHOW = "arguments[0].scrollIntoView({block: 'center'})"


@pytest.fixture(scope="module")
def explanation():
    letters = (
        Letter("array", "da_nk", "the gradient $∂C/∂a_nk$", "(N, K) = (1, 3)"),
        Letter("array", "W_ij", "the weights", "(I, K) = (3, 3)"),
        Letter("index", "k", "an output", "0 to 2"),
    )
    script = 'import numpy as np\n\nprint(1 < 2, "&amp;")\n'
    return dataclasses.replace(explain(tiny()), legend=letters, script=script)


@pytest.fixture(scope="module")
def address(explanation, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html.render(explanation), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    """A freshly loaded page; fails if the browser logged an error."""
    browser.get_log("browser")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def value(page, name):
    return float(page.find_element("id", name).get_attribute("data-v").replace("Infinity", "inf"))


def values(page, name, K=3):
    return np.array([value(page, f"{name}-{k}") for k in range(K)])


def type_into(page, name, text):
    element = page.find_element("id", name)
    page.execute_script(SHOW, element)
    element.clear()
    element.send_keys(text)


def slide(page, name, x):
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; "
    page.execute_script(script + "e.dispatchEvent(new Event('input'))", name, x)


def choose(page, s):
    page.execute_script(f"document.querySelector('#nudged input[value=\"{s}\"]').click()")


def by_numpy(z, s, by):
    """What softmax and the sigmoid are before and after, and their Jacobians."""
    moved = z + by * np.eye(len(z))[s]
    softmax = lambda z: np.exp(z) / np.exp(z).sum()  # noqa: E731
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    a, b = softmax(z), sigmoid(z)
    return {
        "softmax": (a, softmax(moved), np.diag(a) - np.outer(a, a)),
        "sigmoid": (b, sigmoid(moved), np.diag(b * (1 - b))),
    }


@pytest.mark.parametrize(("s", "by"), [(0, 1.5), (2, -0.01)])
def test_a_nudged_logit_moves_as_numpy_says(page, s, by):
    z = explain(tiny()).playground.logits
    choose(page, s)
    slide(page, "by", by)
    for name, (before, after, J) in by_numpy(z, s, by).items():
        np.testing.assert_allclose(values(page, f"{name}-after"), after, rtol=1e-13, atol=0)
        actual = values(page, f"{name}-actual")
        np.testing.assert_allclose(actual, after - before, rtol=1e-9, atol=1e-16)
        predicted = values(page, f"{name}-predicted")
        np.testing.assert_allclose(predicted, J[:, s] * by, rtol=1e-13, atol=0)
        assert np.count_nonzero(actual) == (3 if name == "softmax" else 1)
    assert page.find_element("id", "by-shown").text == f"{by:+.4f}".replace("-", "−")


def test_the_row_and_the_column_of_the_nudged_logit_light_up(page):
    choose(page, 2)
    for name in ("softmax", "sigmoid"):
        lit, row = (
            [e.get_attribute("id") for e in page.find_elements("css selector", selector)]
            for selector in (f"#nudge-{name} td.lit", f"#nudge-{name} td.row")
        )
        assert lit == [f"{name}-J-{k}-2" for k in range(3)]
        assert row == [f"{name}-J-2-{s}" for s in range(3)]


def test_the_nudge_begins_from_the_logits_that_were_typed(page):
    type_into(page, "logit-0", "-2")
    choose(page, 1)
    slide(page, "by", 0.25)
    z = explain(tiny()).playground.logits.copy()
    z[0] = -2.0
    after = by_numpy(z, 1, 0.25)["softmax"][1]
    np.testing.assert_allclose(values(page, "softmax-after"), after, rtol=1e-13, atol=0)


def test_a_logit_of_1000_has_the_right_loss_and_the_way_through_j_says_where_it_ends(page):
    """By hand: softmax is 1 and 0, the gradient 1 and -1, log-sum-exp leaves 1000 - 0.4."""
    type_into(page, "logit-0", "1000")
    assert page.find_element("id", "loss").text == "999.6000"
    np.testing.assert_array_equal(values(page, "softmax"), [1, 0, 0])
    np.testing.assert_array_equal(values(page, "gradient"), [1, -1, 0])
    assert page.find_element("id", "da-1").text == "−∞"
    assert np.isnan(values(page, "product")).all()
    assert page.find_element("id", "product-1").text == "nan"
    said = page.find_element("id", "extreme").text
    assert "rounded to 0" in said
    assert "−∞ · 0, which is nan" in said
    assert "−log a would be ∞" in said
    assert "999.6000" in said
    type_into(page, "logit-0", "715.4")  # a at the label is 3e-311, whose reciprocal is infinite
    said = page.find_element("id", "extreme").text
    assert "only 3" in said
    assert "products that are infinite" in said
    assert "−log a would be 715.0000" in said
    type_into(page, "logit-0", "3")
    assert not page.find_element("id", "extreme").is_displayed()
    np.testing.assert_allclose(
        values(page, "product"), values(page, "gradient"), rtol=1e-13, atol=0
    )


def test_a_typed_logit_moves_the_slider_however_large_it_is(page):
    type_into(page, "logit-2", "-750.5")
    slider = page.find_element("id", "slide-2")
    assert float(slider.get_property("value")) == -750.5
    assert float(slider.get_attribute("max")) == 10
    assert value(page, "softmax-2") < 5e-324
    page.find_element("id", "reset").click()
    assert float(slider.get_attribute("min")) == -10


def test_a_small_probability_has_a_bar(page):
    type_into(page, "logit-2", "-11")
    gauge = "document.querySelector('#softmax-2').previousElementSibling.firstElementChild"
    assert value(page, "softmax-2") == pytest.approx(3e-6, rel=0.2)
    assert page.execute_script(f"return {gauge}.getBoundingClientRect().width") >= 1
    wrong = "document.querySelector('#wrong-2').previousElementSibling.firstElementChild"
    assert page.execute_script(f"return {wrong}.getBoundingClientRect().width") == 0


def test_bars_are_full_at_the_largest_number(page):
    for name in ("softmax", "gradient"):
        shown = np.abs(values(page, name))
        script = "const gauge = document.getElementById(arguments[0]).previousElementSibling; "
        script += "return [gauge.firstElementChild, gauge].map((e) => e.offsetWidth)"
        bar, gauge = page.execute_script(script, f"{name}-{shown.argmax()}")
        assert bar == pytest.approx(gauge / (2 if name == "gradient" else 1), abs=1)


def test_the_letters_are_in_reach_and_those_of_the_step_are_marked(page):
    from selenium.webdriver.common.keys import Keys

    button = page.find_element("id", "letters")
    panel = page.find_element("id", "letters-panel")
    for _ in range(2):
        assert not panel.is_displayed()
        button.send_keys(Keys.ENTER)
        assert panel.is_displayed()
        assert button.get_attribute("aria-expanded") == "true"
        panel.find_element("css selector", "dt")
        page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert page.switch_to.active_element == button
    assert marked(page) == ["da", "k"]
    page.find_element("id", "tab-1").click()
    assert marked(page) == ["W"]


def marked(page):
    found = page.find_elements("css selector", "#legend .here")
    return [e.get_attribute("data-name") for e in found]


CLIPBOARDS = {
    "allowed": "navigator.clipboard.writeText = async (text) => { window.copied = text; }",
    "refused": "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))",
    "missing": "Object.defineProperty(navigator, 'clipboard', {value: undefined})",
}


@pytest.mark.parametrize("clipboard", CLIPBOARDS)
def test_the_code_is_copied_with_a_clipboard_and_without(page, explanation, clipboard):
    page.execute_script(CLIPBOARDS[clipboard])
    page.execute_script(
        "document.addEventListener('copy', () => { window.copied = getSelection().toString(); })"
    )
    page.find_element("id", "copy").click()
    said = page.find_element("id", "copied")
    deadline = time.monotonic() + 10
    while not said.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert said.text == "Copied."
    assert page.execute_script("return window.copied").strip() == explanation.script.strip()


def test_the_buttons_below_turn_to_the_next_step_and_back(page):
    first = page.find_element("css selector", "[role=tab][aria-selected=true]")
    page.find_element("id", "after").click()
    assert first.get_attribute("aria-selected") == "false"
    page.find_element("id", "before").click()
    assert first.get_attribute("aria-selected") == "true"
    page.find_element("css selector", "[role=tab]").click()
    assert not page.find_element("id", "before").is_displayed()


def test_a_picture_is_drawn_pixel_by_pixel(browser, tmp_path):
    pixels = np.linspace(0, 1, 12).reshape(3, 4)
    example = Example("Row 3.", pixels, (), "cat", (("dog", 0.75), ("cat", 0.25)))
    path = tmp_path / "page.html"
    path.write_text(html.render(dataclasses.replace(explain(tiny()), example=example)), "utf-8")
    browser.get(path.as_uri())
    script = """const image = document.querySelector("#example img");
    const c = document.createElement("canvas");
    c.width = image.naturalWidth; c.height = image.naturalHeight;
    const draw = c.getContext("2d"); draw.drawImage(image, 0, 0);
    return [...draw.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 1);"""
    drawn = np.reshape(browser.execute_script(script), (3, 4))
    np.testing.assert_array_equal(drawn, np.round(255 * pixels))
    example = browser.find_element("id", "example").text
    assert "the model says dog, which is wrong" in example
    assert "0.7500" in example


def test_the_columns_of_a_row_are_a_table(browser, tmp_path):
    example = Example("Row 3.", None, (("age", "31"), ("<town>", "Bern")), "1.5")
    path = tmp_path / "page.html"
    path.write_text(html.render(dataclasses.replace(explain(tiny()), example=example)), "utf-8")
    browser.get(path.as_uri())
    rows = browser.find_elements("css selector", "#example tbody tr")
    assert [row.text for row in rows] == ["age 31", "<town> Bern"]


def test_of_many_classes_the_two_ways_show_those_with_the_largest_gradient(browser, tmp_path):
    e = explain([6, 20], loss="softmax_cross_entropy", label=17)
    path = tmp_path / "page.html"
    path.write_text(html.render(e), "utf-8")
    browser.get(path.as_uri())
    rows = browser.find_elements("css selector", "#both tbody tr")[:-1]
    shown = [int(row.find_element("css selector", "th").text) for row in rows]
    assert shown == sorted(np.argsort(-np.abs(e.two_ways.fused[0]))[:12])
    assert 17 in shown
    assert "the 12 of 20 classes" in browser.find_element("id", "both").text


def test_both_ways_are_side_by_side_and_their_steps_are_a_click_away(page):
    e = explain(tiny())
    rows = page.find_elements("css selector", "#both tbody tr")
    for k, row in enumerate(rows[:-1]):
        through, fused = (cell.text for cell in row.find_elements("css selector", ".bars"))
        assert through == fused == f"{e.two_ways.fused[0, k]:.4f}".replace("-", "−")
    links = page.find_elements("css selector", "#both [data-step]")
    assert [e.steps[int(link.text) - 1].way for link in links] == ["jacobian"] * 3 + ["fused"]
    links[-1].click()
    chosen = page.find_element("css selector", "[role=tab][aria-selected=true]")
    assert chosen.get_attribute("id") == f"tab-{links[-1].text}"
