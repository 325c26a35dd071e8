"""``LiveCurves``: one output of a notebook that is updated, and lines anywhere else."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import xpnet
from xpnet.nn import Dense, ReLU
from xpnet.tracking import live
from xpnet.training.callbacks import Callback
from xpnet.training.trainer import Trainer


class Display:
    """What IPython's display would show: each output with its updates."""

    def __init__(self):
        self.outputs = []

    def __call__(self, output, *, display_id):
        assert display_id is True
        shown = [output]
        self.outputs.append(shown)
        return type("Handle", (), {"update": staticmethod(shown.append)})


@pytest.fixture
def shown(monkeypatch):
    """The outputs of a notebook."""
    pytest.importorskip("IPython", reason="a notebook needs IPython")
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr("xpnet.run.train_run.in_notebook", lambda: True)
    return display.outputs


def fit(epochs=4, curves=None, **more):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    trainer = Trainer([Dense(6), ReLU(), Dense(3)], backend="numpy", batch_size=10)
    curves = xpnet.LiveCurves() if curves is None else curves
    options = {
        "validation_fraction": 0.25,
        "callbacks": [curves, *more.pop("callbacks", ())],
        **more,
    }
    trainer.fit(data, epochs=epochs, **options)
    return trainer


def labels(html):
    return re.findall(r'aria-label="([^"]*by epoch)"', html)


def test_one_output_shows_all_curves_and_how_far_it_is(shown):
    trainer = fit(metrics={"share": lambda y, p: float(np.mean(y == p))})
    ((*_, last),) = shown
    html = last._repr_html_()
    assert labels(html) == ["loss by epoch", "accuracy by epoch", "share by epoch"]
    assert '<progress value="20" max="20"' in html
    line = f"epoch 4/4  loss {trainer.history[-1]['loss']:.4f}"
    assert line in html
    assert repr(last).startswith(line)
    assert html.count("training</li>") == 2  # one's own metric is of the validation
    assert html.count("validation</li>") == 3


def test_it_needs_no_style_sheet_and_no_script(shown):
    fit()
    html = shown[0][-1]._repr_html_()
    assert not re.search(r"var\(--|<script|http", html)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_it_is_drawn_no_more_often_than_asked(shown):
    fit(epochs=50, curves=xpnet.LiveCurves(every=3600.0))
    assert len(shown[0]) == 3  # at the start, after the first epoch, at the end
    shown.clear()
    fit(epochs=5, curves=xpnet.LiveCurves(every=0.0))
    assert len(shown[0]) > 20  # of 25 steps, nearly all


def test_a_training_that_fails_says_so(shown):
    class Fail(Callback):
        def on_epoch_end(self, trainer, record):
            msg = "no"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError):
        fit(callbacks=[Fail()])
    assert "failed: RuntimeError" in shown[0][-1]._repr_html_()


def test_the_reason_of_a_stop_is_text(shown):
    class Stop(Callback):
        def on_epoch_end(self, trainer, record):
            trainer.stop("<b>enough</b>")

    fit(callbacks=[Stop()])
    assert "stopped: &lt;b&gt;enough" in shown[0][-1]._repr_html_()


def test_what_cannot_be_drawn_does_not_end_the_training(shown, monkeypatch, capsys):
    def broken(*args, **kwargs):
        msg = "no fonts"
        raise ValueError(msg)

    monkeypatch.setattr(live, "curves", broken)
    assert len(fit().history) == 4
    out = capsys.readouterr().out
    assert out.count("LiveCurves cannot draw, ValueError: no fonts") == 1
    assert "epoch 4/4" in out


def test_elsewhere_it_prints_lines_and_says_so_once(capsys):
    curves = xpnet.LiveCurves()
    fit(epochs=2, curves=curves)
    fit(epochs=1, curves=curves)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "LiveCurves draws in a notebook; here are lines instead"
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2", "1/1"]
    assert "LiveCurves" not in "".join(lines)


def test_a_run_in_a_notebook_is_drawn_unless_it_is_not_wanted(shown, tmp_path):
    settings = {"epochs": 1, "model.hidden": [4]}
    for n, progress in enumerate((None, False)):
        options = {"settings": settings, "report": lambda line: None, "progress": progress}
        xpnet.train("digits", tmp_path / str(n), **options)
    assert len(shown) == 1


@pytest.mark.long
def test_a_real_notebook_keeps_the_last_picture(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    code = "import xpnet\nrun = xpnet.train('digits', out='run', settings={'epochs': 3})"
    cells = [nbformat.v4.new_code_cell(code)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    pictures = [o.data for o in notebook.cells[0].outputs if o.output_type == "display_data"]
    assert len(pictures) == 1
    assert labels(pictures[0]["text/html"]) == ["loss by epoch", "accuracy by epoch"]
    assert pictures[0]["text/plain"].startswith("epoch 3/3")
