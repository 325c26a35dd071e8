"""A headless Chromium for the tests of pages, and axe-core, which looks for what people cannot use.

Needs Chromium and its driver (`apt-get install chromium chromium-driver`) and selenium; axe-core is
the file in the package selenium-axe-python. `tests/conftest.py` has the fixtures.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-prefers-reduced-motion",  # a smooth scroll moves the target
)  # fmt: skip
SIZE = (1200, 1400)
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
RUN = """
const [tags, done] = arguments;
axe.run(document, {runOnly: {type: "tag", values: tags}, elementRef: false})
  .then(({violations, incomplete, passes}) => done({violations, incomplete, passes}))
  .catch((error) => done({failed: String(error)}));
"""


def absent(request, reason):
    """Skip, or fail where the tests must not be skipped."""
    (pytest.fail if request.config.getoption("--require-browser") else pytest.skip)(reason)


def started(request, tmp_path_factory):
    """Yield a driver of a Chromium of its own; `downloads` is where it saves files."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        absent(request, "no browser: apt-get install chromium chromium-driver")
    if importlib.util.find_spec("selenium") is None:
        absent(request, "no selenium: pip install it")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    downloads = tmp_path_factory.mktemp("downloads")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    made.downloads = downloads
    made.set_script_timeout(120)
    yield made
    made.quit()


def as_new(driver):
    """Forget what another module's tests have set, shown and logged; return the driver."""
    shown_as(driver)
    driver.set_window_size(*SIZE)
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    return driver


def shown_as(driver, width=None, scheme=None):
    """Show pages `width` pixels wide, and as `light`, `dark` or `print`; None is the window's own.

    Up to 600 pixels it is a phone: a page without a viewport is then shown far too small.
    """
    if width is None:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    else:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width <= 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = [{"name": "prefers-color-scheme", "value": scheme}] * (scheme in ("light", "dark"))
    media = {"media": "print" if scheme == "print" else "", "features": colours}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


class Axe:
    """axe-core on pages in a browser."""

    def __init__(self, driver, source):
        self.driver, self.source = driver, source

    def __call__(self, page=None, *, width=1200, scheme="light", after=None):
        """Fail with a line for each thing on the page that axe-core finds at fault.

        `page` is a path or an address; None stays on the page that is shown. `after` is called with
        the driver before axe looks, to open what is closed at first. Returns what axe leaves open,
        such as the contrast on a picture, as a list of those lines.
        """
        found = self.results(page, width=width, scheme=scheme, after=after)
        assert found["passes"], "axe-core found nothing to look at: is the page empty?"
        lines = [*map(line, told(found["violations"]))]
        count = f"{len(lines)} finding{'s' * (len(lines) > 1)} of axe-core"
        assert not lines, f"{count} at {width} pixels, {scheme}:\n" + "\n".join(lines)
        return [*map(line, told(found["incomplete"]))]

    def results(self, page=None, *, width=1200, scheme="light", after=None):
        """Return axe-core's own `violations`, `incomplete` and `passes`."""
        shown_as(self.driver, width, scheme)
        try:
            if page is not None:
                self.driver.get(page.as_uri() if isinstance(page, Path) else page)
            if after is not None:
                after(self.driver)
            self.driver.execute_script(self.source)
            found = self.driver.execute_async_script(RUN, TAGS)
        finally:
            shown_as(self.driver)
        assert "failed" not in found, found["failed"]
        return found


def told(rules):
    """Return (rule, what it asks, selector, the element, what is wrong with it) of axe's rules."""
    return [
        (
            rule["id"],
            rule["help"],
            " ".join(map(str, node["target"])),
            node["html"],
            "; ".join(
                check["message"] for kind in ("any", "all", "none") for check in node.get(kind, ())
            ),
        )
        for rule in rules
        for node in rule["nodes"]
    ]


def line(finding):
    """One finding, on two lines."""
    rule, asks, selector, html, wrong = finding
    return f"  {rule}: {selector}: {wrong or asks}\n      {json.dumps(html[:160])[1:-1]}"


def axe_source(request):
    """Return the text of axe.min.js."""
    spec = importlib.util.find_spec("selenium_axe_python")
    if spec is None or spec.origin is None:
        absent(request, "no axe-core: pip install selenium-axe-python")
    return (Path(spec.origin).parent / "axe-core" / "axe.min.js").read_text("utf-8")
