"""Who can use the page: on a phone, with the keyboard, with a screen reader, on paper.

The page of a tiny example, and that of a trained run with more steps than fit on a screen.
"""

import base64
import re

import pytest
from browser import shown_as

import xpnet
from xpnet.explanation import explain, html, tiny

PHONE = 390
QUICK = {"epochs": 1, "model.hidden": [16, 12], "model.dropout": 0.1, "backend": "numpy"}


@pytest.fixture(scope="module")
def of_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    xpnet.train("digits", folder, settings=QUICK, report=lambda line: None)
    return explain(folder)


@pytest.fixture(scope="module", params=["tiny", "run"])
def explained(request):
    """An explanation and the path of its page."""
    e = explain(tiny()) if request.param == "tiny" else request.getfixturevalue("of_run")
    path = request.getfixturevalue("tmp_path_factory").mktemp("page") / "page.html"
    path.write_text(html.render(e), encoding="utf-8")
    return e, path


@pytest.fixture
def page(browser, explained):
    browser.get(explained[1].as_uri())
    return browser


@pytest.fixture
def phone(browser, explained):
    shown_as(browser, PHONE)
    browser.get(explained[1].as_uri())
    yield browser
    shown_as(browser)


def open_all(browser):
    """Show what is closed at first: the letters, and what 1000 does."""
    browser.execute_script(
        "document.querySelector('#letters').click();"
        "const e = document.querySelector('#logit-0'); e.value = 1000;"
        "e.dispatchEvent(new Event('input')); document.querySelector('#dz-1').focus()"
    )


@pytest.mark.long_but(width=[PHONE], scheme=["dark"], explained=["tiny"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (PHONE, "dark")])
def test_axe_finds_nothing(axe, explained, width, scheme):
    axe(explained[1], width=width, scheme=scheme, after=open_all)


ON_THE_SMALLER = pytest.mark.parametrize("explained", ["tiny"], indirect=True)  # axe takes seconds


@pytest.mark.long
@ON_THE_SMALLER
def test_axe_finds_nothing_before_anything_is_opened(axe, explained):
    axe(explained[1])


@pytest.mark.long
@ON_THE_SMALLER
def test_axe_finds_nothing_on_paper_where_the_page_was_dark(axe, explained):
    dark = "document.documentElement.dataset.theme = 'dark'"
    axe(explained[1], scheme="print", after=lambda browser: browser.execute_script(dark))


@pytest.mark.long
@ON_THE_SMALLER
def test_axe_finds_nothing_on_every_third_step(axe, page, explained):
    for tab in page.find_elements("css selector", "[role=tab]")[::3]:
        page.execute_script("arguments[0].click()", tab)
        axe()


CUT = """
const scrolls = ".scroll, .tensor, .formula, .triple, .facts dd, .expansion, .steps, .sr, #script";
return [...document.querySelectorAll("main *, header *, footer *")]
  .map((e) => [e, e.getBoundingClientRect()])
  .filter(([e, r]) => r.width && r.right > innerWidth + 0.5 && !e.closest(scrolls))
  .map(([e]) => e.outerHTML.slice(0, 80));
"""
SCROLLING = """
return [...document.querySelectorAll("main *")]
  .filter((e) => e.offsetParent && e.scrollWidth > e.clientWidth + 1)
  .filter((e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX))
  .map((e) => [e, e.outerHTML.slice(0, 80)])
  .map(([e, html]) => [e.matches(".more, .steps"), e.matches(".steps, [tabindex='0']"), html]);
"""
SMALL = """
return [...document.querySelectorAll("button, input, nav a, td[tabindex], td[role=gridcell]")]
  .map((e) => [e, e.getBoundingClientRect()])
  .filter(([e, r]) => r.width && Math.min(r.width, r.height) < 23.5)
  .map(([e, r]) => `${r.width} x ${r.height}: ${e.outerHTML.slice(0, 90)}`);
"""
REACHED = """
window.reached = [];
document.addEventListener("focusin", ({ target }) => {
  const outlined = target.name === "nudged" ? target.nextElementSibling : target;
  const { outlineStyle, outlineWidth } = getComputedStyle(outlined);
  const html = target.outerHTML.slice(0, 80);
  const seen = outlineStyle !== "none" && outlineWidth !== "0px" && target.checkVisibility();
  reached.push({ target, html, seen, id: target.id, tab: target.role === "tab" });
});
"""
IN_ORDER = """
const follows = (a, b) => a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING;
return reached.every(({ target }, i) => !i || follows(reached[i - 1].target, target));
"""


def test_nothing_is_wider_than_a_phone(phone):
    wide, window = phone.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == PHONE
    assert phone.execute_script(CUT) == []


def test_an_area_that_scrolls_is_marked_and_can_be_focused(phone):
    found = phone.execute_script(SCROLLING)
    assert len(found) > 3
    assert [html for marked, focusable, html in found if not (marked and focusable)] == []


def test_the_selected_step_is_in_view_in_the_strip(phone, explained):
    from selenium.webdriver.common.keys import Keys

    def seen():
        return phone.execute_script(
            "const strip = document.querySelector('.steps').getBoundingClientRect();"
            "const tab = document.querySelector('[role=tab][aria-selected=true]');"
            "const r = tab.getBoundingClientRect();"
            "return r.left >= strip.left - 1 && r.right <= strip.right + 1 && r.left >= 0;"
        )

    assert seen()
    for key in (Keys.HOME, Keys.END, Keys.ARROW_LEFT):
        phone.switch_to.active_element.send_keys(key)
        tab = phone.find_element("css selector", "[role=tab][aria-selected=true]")
        tab.send_keys(key)
        assert seen(), key
    phone.find_element("id", "before").click()
    assert seen()
    assert explained[0].opening > 3


def test_what_is_touched_is_large_enough(phone):
    open_all(phone)
    assert phone.execute_script(SMALL) == []


@pytest.mark.long_but(explained=["tiny"])
def test_the_tab_key_reaches_everything_in_the_order_of_reading(page):
    from selenium.webdriver.common.keys import Keys

    page.execute_script(REACHED)
    page.find_element("css selector", "body").send_keys(Keys.TAB)
    for _ in range(250):
        if page.execute_script("return document.activeElement.id") == "letters":
            break
        page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.execute_script(IN_ORDER)
    found = page.execute_script("return reached.map(({ target, ...rest }) => rest)")
    assert [one["html"] for one in found if not one["seen"]] == []
    assert sum(one["tab"] for one in found) == 1  # the others are reached by the arrow keys
    ids = {one["id"] for one in found}
    assert ids >= {"theme", "before", "after", "by", "unmoved", "reset", "copy", "letters"}
    assert ids >= {"logit-0", "slide-0", "dz-0"}
    assert sum(i.startswith("label-") for i in ids) == 1


@pytest.mark.long_but(explained=["tiny"])
def test_paper_has_every_step_and_every_section(page, explained):
    """The outline of the printed file, which Chromium makes of the headings that it prints."""
    e, _ = explained
    printed = page.execute_cdp_cmd("Page.printToPDF", {"generateDocumentOutline": True})
    raw = base64.b64decode(printed["data"])
    titles = " ".join(map(text_of, re.findall(rb"/Title (\(.*?[^\\]\)|<[^>]*>)", raw)))
    for step in e.steps:
        assert step.title in titles
    for heading in re.findall(r"<h2[^>]*>(.*?)</h2>", html.render(e)):
        assert re.sub("<.*?>", "", heading) in titles


def text_of(title):
    """A string of a PDF, in parentheses or in hexadecimal digits."""
    if title.startswith(b"<"):
        return bytes.fromhex(title[1:-1].decode()).decode("utf-16")
    return re.sub(r"\\(.)", r"\1", title[1:-1].decode("latin-1"))
