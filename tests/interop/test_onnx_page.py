"""The page that trains, in a real browser: its losses are those of xpnet's own training.

Needs a browser (tests/browser.py), and npm, which fetches onnxruntime-web.
"""

import base64
import gzip
import json
import re
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from browser import absent, shown_as
from safetensors.numpy import load_file, save_file

import xpnet
from xpnet.errors import CheckpointError, ConfigError, DataError

pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")

from xpnet.interop.onnx.adopt import adopt
from xpnet.interop.onnx.html import CDN, render
from xpnet.interop.onnx.step import about, step_model

VERSION = CDN.partition("@")[2].partition("/")[0]
SETTINGS = {
    "epochs": 4,
    "model.hidden": [32],
    "model.dropout": 0.1,
    "optimizer.name": "adamw",
    "backend": "numpy",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return xpnet.train("digits", folder, settings=SETTINGS, report=lambda line: None)


@pytest.fixture(scope="module")
def runtime(request, tmp_path_factory):
    """The folder of onnxruntime-web, of the version that pages name."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    if npm is None:
        absent(request, "no npm, which fetches onnxruntime-web")
    command = [npm, "pack", "--silent", f"onnxruntime-web@{VERSION}"]
    try:
        subprocess.run(command, cwd=folder, check=True, timeout=300, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        absent(request, f"npm cannot fetch onnxruntime-web: {error}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        # Python 3.11 has the filter from its fourth release on.
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safe)
    return folder / "package"


def asked(browser, script):
    """What a promise in the page comes to."""
    return browser.execute_async_script(
        f"const done = arguments[0]; ({script}).then(done, (e) => done(String(e)))"
    )


@pytest.fixture(scope="module")
def page(browser, runtime, run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render(run, runtime=runtime), encoding="utf-8")
    browser.get(path.as_uri())
    assert asked(browser, "ready") is None
    return browser


@pytest.mark.long
def test_the_page_learns_the_digits_along_xpnets_own_curve(page, run):
    """The losses of each epoch are those in the run's history, dropout and schedule included."""
    steps = page.execute_script("return about.steps_per_epoch")
    for record in run.trainer.history:
        asked(page, f"trained({record['step']}, false)")
        loss, count = page.execute_script(
            "return ['loss', 'denominator'].map((k) => state['totals/' + k].data[0])"
        )
        assert abs(loss / count - record["loss"]) < 1e-4
    assert len(page.execute_script("return losses")) == 4 * steps
    shown = float(page.find_element("id", "accuracy").text.removesuffix(" %"))
    assert shown > 80
    right = page.find_elements("css selector", "#rows li.right")
    assert len(right) + len(page.find_elements("css selector", "#rows li.wrong")) == 36
    assert abs(len(right) / 36 - shown / 100) < 0.2
    assert page.get_log("browser") == []


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(page, axe, width, scheme):
    asked(page, "trained(Math.max(step, 1), false)")
    axe(width=width, scheme=scheme)
    shown_as(page, width)
    wide = page.execute_script("return document.documentElement.scrollWidth")
    shown_as(page)
    assert wide <= width


@pytest.mark.long
def test_its_weights_go_back_into_a_run(page, run, tmp_path):
    total = page.execute_script("return about.steps")
    asked(page, f"trained({total}, false)")
    page.find_element("id", "download").click()
    name = f"digits-step-{total}.safetensors"
    for _ in range(100):
        if (file := page.downloads / name).exists():
            break
        asked(page, "frame()")
        subprocess.run(["sleep", "0.05"], check=True)
    lines = adopt(run.folder.path, file, tmp_path / "second")
    assert lines[0].endswith(f"4 epochs, {total} steps")
    second = xpnet.load(tmp_path / "second", backend="numpy")
    x = np.asarray(run.test_part().x)
    last = xpnet.load(run.folder.path, backend="numpy", which="last")
    np.testing.assert_allclose(second.predict(x), last.predict(x), rtol=0, atol=1e-3)
    more = xpnet.train(
        None, tmp_path / "second", settings={"epochs": 5}, resume=True, report=lambda line: None
    )
    assert more.trainer.position.epoch == 5


@pytest.mark.long
def test_the_buttons(page):
    """Reset, one step, a slider, and Train, which trains to the end and says so."""
    button = {name: page.find_element("id", name) for name in ("play", "once", "reset", "fast")}
    button["reset"].click()
    asked(page, "current")
    asked(page, "new Promise((go) => setTimeout(go, 50))")
    assert page.find_element("id", "step").text == "0"
    button["once"].click()
    asked(page, "current")
    assert page.find_element("id", "step").text == "1"
    button["fast"].click()
    button["play"].click()
    asked(page, "current")
    assert button["play"].text == "Done"
    assert "predicted correctly" in page.find_element("id", "status").text
    page.execute_script(
        "one('#factor').value = 1; one('#factor').dispatchEvent(new Event('input'))"
    )
    assert page.find_element("id", "factor-shown").text == "10"
    assert page.execute_script("return factor") == 10


@pytest.mark.parametrize(
    "settings",
    [
        {"loss.class_weights": "balanced"},
        pytest.param({"optimizer.lr_factors": {"0.dense": 0.1}}, marks=pytest.mark.long),
        pytest.param({"optimizer.freeze": ["0.dense"]}, marks=pytest.mark.long),
        pytest.param({"schedule.name": "one_cycle"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_what_is_in_a_page_follows_xpnets_curve(settings, tmp_path):
    """Its step, state, rows and order, in onnxruntime; digits of which some are rare."""
    runtime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[onnx]'")
    digits, _ = xpnet.data.load_named("digits")
    kept = (digits.y > 4) | (np.arange(len(digits.y)) % 3 == 0)
    np.savez(tmp_path / "rows.npz", x=digits.x[kept], y=digits.y[kept])
    settings = {**SETTINGS, "epochs": 2, "model.dropout": 0.0, "threads": 1, **settings}
    run = xpnet.train(
        tmp_path / "rows.npz", tmp_path / "run", settings=settings, report=lambda line: None
    )
    page = render(run)
    about = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])

    def blob(name, dtype=np.uint8):
        text = re.search(rf'id="blob-{name}">([^<]*)<', page)[1]
        return np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype)

    raw, state = blob("state"), {}
    for t in about["state"]:
        end = t["start"] + t["length"] * np.dtype(t["dtype"]).itemsize
        state[t["name"]] = raw[t["start"] : end].view(t["dtype"]).reshape(t["shape"])
    x, y = blob("x", np.float32).reshape(-1, *about["shape"]), blob("y", np.int64)
    session = runtime.InferenceSession(blob("step").tobytes())
    inputs = {i.name for i in session.get_inputs()}
    order, size = blob("orders", np.uint32)[: len(x)], about["batch_size"]
    for step, start in enumerate(range(0, len(x), size)):
        at = order[start : start + size]
        given = {"x": x[at], "y": y[at], "step": np.array(step), **state}
        given["lr"] = np.array(about["rates"][min(step, len(about["rates"]) - 1)], np.float32)
        names = [o.name for o in session.get_outputs()]
        made = session.run(names, {k: v for k, v in given.items() if k in inputs})
        state |= {k.removeprefix("new/"): v for k, v in zip(names, made, strict=True)}
    found = state["totals/loss"] / state["totals/denominator"]
    assert abs(found - run.trainer.history[0]["loss"]) < 1e-4


@pytest.mark.long
def test_it_fits_a_phone(page):
    page.set_window_size(500, 900)
    width, inner = page.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert width <= inner


def test_without_a_runtime_the_page_names_the_cdn_and_no_other_origin(run):
    page = render(run)
    assert f'"runtime": "{CDN}"' in page
    assert "script-src 'unsafe-inline' 'wasm-unsafe-eval' blob: https://cdn.jsdelivr.net;" in page
    assert 'id="blob-wasm"' not in page


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 500},
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"trained": True}, marks=pytest.mark.long),
        pytest.param({"epochs": 2}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_page_claims_xpnets_curve_only_where_it_follows_it(run, options):
    assert ("the curve is that of" in render(run, **options)) == (not options)


def test_what_a_page_cannot_have_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no dist folder of onnxruntime-web"):
        render(run, runtime=tmp_path)
    with pytest.raises(ConfigError, match="must be https"):
        render(run, runtime="http://example.org/")
    monkeypatch.setattr("xpnet.interop.onnx.html.MAX_BYTES", 1000)
    with pytest.raises(DataError, match="1,258 rows would be 314 KiB in a page"):
        render(run)


def test_a_state_that_a_program_of_ones_own_has_saved(run, tmp_path):
    """Made contiguous, as safetensors needs it, NumPy's 0-d arrays have an axis."""
    newest = load_file(next(iter((run.folder.checkpoint_path).glob("step-*"))))
    names = about(step_model(run.trainer, learning_rate="input"))["state"]
    state = {name: np.ascontiguousarray(newest[name]) for name in names}
    assert state["totals/loss"].shape == (1,)
    file, step = tmp_path / "state.safetensors", run.trainer.position.step
    save_file(state, file, metadata={"xpnet_step": json.dumps({"step": step})})
    adopt(run.folder.path, file, tmp_path / "out")
    again = xpnet.load(tmp_path / "out", backend="numpy")
    for name, value in again.trainer.params.items():
        np.testing.assert_array_equal(value, newest[f"params/{name}"])


def test_a_file_that_no_step_has_written_is_refused(run, tmp_path):
    file = tmp_path / "other.safetensors"
    file.write_bytes(b"not one")
    with pytest.raises(CheckpointError, match="exported step: it is not a safetensors file"):
        adopt(run.folder.path, file, tmp_path / "out")
    save_file({"params/other": np.ones(2)}, file, metadata={"xpnet_step": '{"step": 3}'})
    with pytest.raises(CheckpointError, match=r"other\.safetensors: the checkpoint does not fit"):
        adopt(run.folder.path, file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    newest = next(iter((run.folder.checkpoint_path).glob("step-*")))
    with pytest.raises(CheckpointError, match="step: its metadata does not say after which"):
        adopt(run.folder.path, newest, tmp_path / "out")
