"""The page in a real browser: clicked, typed into, and its numbers compared with xpnet's own.

tests/browser.py says what it needs.
"""

import numpy as np
import pytest

from xpnet.explanation import explain, html, of_sizes, tiny
from xpnet.nn.losses import CrossEntropy, SoftmaxCrossEntropy
from xpnet.ops.softmax import softmax, softmax_jacobian


@pytest.fixture(scope="module")
def tiny_page(tmp_path_factory):
    return write(tiny(), tmp_path_factory.mktemp("page"))


def write(subject, folder, convention="both"):
    path = folder / "page.html"
    path.write_text(html.render(explain(subject, convention=convention)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, tiny_page):
    """A freshly loaded page; fails if the browser logged an error."""
    browser.get_log("browser")
    browser.get(tiny_page)
    yield browser
    assert browser.get_log("browser") == []


def value(browser, selector):
    element = browser.find_element("css selector", selector)
    return float(element.get_attribute("data-v"))


def playground(browser, K):
    """Return the numbers that the page shows now."""
    return {
        "loss": value(browser, "#loss"),
        "a": np.array([value(browser, f"#softmax-{k}") for k in range(K)]),
        "dz": np.array([value(browser, f"#gradient-{k}") for k in range(K)]),
        "wrong": np.array([value(browser, f"#wrong-{k}") for k in range(K)]),
        "J": np.array([[value(browser, f"#J-{k}-{s}") for s in range(K)] for k in range(K)]),
    }


def by_xpnet(logits, label):
    z, y = np.array([logits]), np.array([label], dtype=np.int32)
    loss, dz = SoftmaxCrossEntropy()(z, y)
    a = softmax(z)
    J = softmax_jacobian(a)[0]
    wrong = CrossEntropy()(a, y)[1][0] * np.diag(J)
    return {"loss": float(loss), "a": a[0], "dz": dz[0], "wrong": wrong, "J": J}


def assert_same(shown, expected):
    for name, x in expected.items():
        np.testing.assert_allclose(shown[name], x, rtol=1e-12, atol=1e-14, err_msg=name)


def type_into(browser, selector, text):
    element = browser.find_element("css selector", selector)
    element.clear()
    element.send_keys(text)


def test_the_page_begins_with_xpnets_numbers(page):
    explanation = explain(tiny())
    assert_same(playground(page, 3), by_xpnet(explanation.playground.logits, 1))
    np.testing.assert_allclose(
        playground(page, 3)["J"], explanation.playground.jacobian, rtol=1e-14, atol=0
    )


@pytest.mark.long
def test_typed_logits_and_a_clicked_label_are_followed(page):
    for k, logit in enumerate((2.5, -0.75, 3.125)):
        type_into(page, f"#logit-{k}", str(logit))
    assert_same(playground(page, 3), by_xpnet([2.5, -0.75, 3.125], 1))
    page.find_element("id", "label-2").click()
    shown = playground(page, 3)
    assert_same(shown, by_xpnet([2.5, -0.75, 3.125], 2))
    assert page.find_element("id", "loss").text == f"{shown['loss']:.4f}"
    assert page.find_element("id", "gradient-2").text == f"{shown['dz'][2]:.4f}".replace("-", "−")
    page.find_element("id", "reset").click()
    assert_same(playground(page, 3), by_xpnet(explain(tiny()).playground.logits, 1))


def test_logits_far_apart_stay_finite(page):
    type_into(page, "#logit-0", "1000")
    shown = playground(page, 3)
    assert shown["loss"] == pytest.approx(999.6)
    np.testing.assert_allclose(shown["dz"], [1, -1, 0])
    assert np.isfinite(shown["wrong"]).all()


def test_a_slider_and_a_half_typed_number_do_no_harm(page):
    script = "const e = document.querySelector('#slide-1'); e.value = 2; "
    page.execute_script(script + "e.dispatchEvent(new Event('input'))")
    logits = explain(tiny()).playground.logits.copy()
    logits[1] = 2.0
    assert_same(playground(page, 3), by_xpnet(logits, 1))
    page.find_element("id", "logit-1").clear()
    assert_same(playground(page, 3), by_xpnet(logits, 1))


def visible(browser):
    panels = browser.find_elements("css selector", ".panel:not([hidden])")
    assert len(panels) == 1
    return panels[0]


@pytest.mark.long
def test_every_step_lights_the_summed_index_in_the_operands_and_picks_a_result(page):
    steps = explain(tiny()).steps
    for i, step in enumerate(steps):
        page.find_element("id", f"tab-{i + 1}").click()
        panel = visible(page)
        assert panel.get_attribute("data-summed") == step.summed
        assert panel.find_elements("css selector", ".result td.picked")
        having = [t for t in step.operands if set(t.letters) & set(step.summed)]
        tensors = panel.find_elements("css selector", ".operand")
        for tensor, shown in zip(step.operands, tensors, strict=True):
            lit = shown.find_elements("css selector", "td.lit")
            assert bool(lit) == (tensor in having)
        if step.summed:
            assert {e.text for e in panel.find_elements("css selector", ".formula .on")} == set(
                step.summed
            )
        assert not panel.find_elements("css selector", ".result .on")


@pytest.mark.long_but(convention=["column"])
@pytest.mark.parametrize("convention", ["rows", "column"])
def test_the_written_out_sum_is_the_picked_number(page, convention):
    if convention == "column":
        page.find_element("css selector", "[data-convention=column]").click()
    checked = 0
    for i, step in enumerate(explain(tiny()).steps):
        if not step.product:
            continue
        page.find_element("id", f"tab-{i + 1}").click()
        panel = visible(page)
        assert panel.get_attribute("id").endswith(convention)
        for cell in panel.find_elements("css selector", ".result td"):
            cell.click()
            shown = float(panel.find_element("css selector", ".expansion").get_attribute("data-v"))
            assert shown == pytest.approx(float(cell.get_attribute("data-v")), abs=1e-13)
            checked += 1
    assert checked > 20


def test_the_lit_cells_of_the_softmax_step_are_a_column_of_the_jacobian(page):
    i = explain(tiny()).opening + 1
    page.find_element("id", f"tab-{i}").click()
    panel = visible(page)
    panel.find_elements("css selector", ".result td")[2].click()
    lit = panel.find_elements("css selector", "table[data-name=J] td.lit")
    assert [e.get_attribute("data-at") for e in lit] == ["0 0 2", "0 1 2", "0 2 2"]
    assert len(panel.find_elements("css selector", "table[data-name=da] td.lit")) == 3


def test_the_keyboard_is_enough(page):
    from selenium.webdriver.common.keys import Keys

    tab = page.find_element("css selector", "[role=tab][aria-selected=true]")
    first = int(tab.get_attribute("id").removeprefix("tab-"))
    tab.send_keys(Keys.ARROW_DOWN)
    active = page.switch_to.active_element
    assert active.get_attribute("id") == f"tab-{first + 1}"
    assert active.get_attribute("aria-selected") == "true"
    active.send_keys(Keys.HOME)
    assert visible(page).get_attribute("id").startswith("step-1-")
    page.switch_to.active_element.send_keys(Keys.END)
    result = visible(page).find_element("css selector", ".result td[tabindex='0']")
    result.send_keys(Keys.ARROW_RIGHT)
    assert page.switch_to.active_element.get_attribute("data-at") == "0 1"
    assert "picked" in page.switch_to.active_element.get_attribute("class")
    page.find_element("id", "dz-0").send_keys("")  # focus
    assert len(page.find_elements("css selector", "#jacobian td.lit")) == 6


def colour(browser):
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_light_and_dark_follow_the_system_and_the_button(page):
    light, dark = "rgb(252, 251, 247)", "rgb(23, 23, 26)"
    assert colour(page) == light
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert colour(page) == dark
    button = page.find_element("id", "theme")
    button.click()
    assert colour(page) == light
    button.click()
    assert colour(page) == dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colour(page) == dark
    button.click()
    assert colour(page) == light


def test_nothing_is_fetched_but_the_page_itself(page):
    import json

    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    assert asked
    assert all(url.startswith(("file:", "data:", "chrome:", "about:")) for url in asked)


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_is_never_wider_than_the_window(page, width):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    wide = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


@pytest.mark.long
@pytest.mark.long_but(convention=["column"])
@pytest.mark.parametrize(
    ("subject", "convention"),
    [
        (lambda: of_sizes([784, 128, 10], 32), "both"),
        (lambda: of_sizes([4, 3, 3], 3, "softmax_cross_entropy"), "column"),
        (lambda: tiny("huber", "softmax"), "rows"),
        (lambda: of_sizes([2, 1], 2, "binary_cross_entropy"), "both"),
    ],
)
def test_other_subjects_show_without_a_complaint(browser, subject, convention, tmp_path):
    browser.get_log("browser")
    browser.get(write(subject(), tmp_path, convention))
    for tab in browser.find_elements("css selector", "[role=tab]"):
        tab.click()
        visible(browser)
    assert browser.get_log("browser") == []


def test_every_example_of_a_batch_has_its_own_jacobian(browser, tmp_path):
    subject = of_sizes([4, 3], 3, "cross_entropy")
    browser.get(write(subject, tmp_path, "rows"))
    steps, i = explain(subject).steps, explain(subject).opening + 1
    browser.find_element("id", f"tab-{i}").click()
    panel = visible(browser)
    panel.find_element("css selector", ".result td[data-at='2 1']").click()
    shown = panel.find_elements("css selector", "table[data-name=J]:not([hidden])")
    assert [table.get_attribute("data-n") for table in shown] == ["2"]
    total = float(panel.find_element("css selector", ".expansion").get_attribute("data-v"))
    assert total == pytest.approx(steps[i - 1].result.values[2, 1], abs=1e-14)
