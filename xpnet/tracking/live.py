"""Curves in a notebook that are drawn anew while a network trains."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from xpnet.report.charts import Line, curves
from xpnet.report.learning import NOT_METRICS
from xpnet.training.callbacks import MANY, Callback, EpochMetrics
from xpnet.training.progress import Progress, clock, epoch_line

__all__ = ["LiveCurves", "in_notebook"]

SHARE = 10  # drawing takes at most one second in so many
# A notebook is light or dark, and a page that shows it later may drop style sheets: colours that
# are readable on both, and text in the colour of the text around it.
COLOURS = {
    "series-1": "#3b82c4", "series-2": "#d9772b", "ink": "currentColor", "soft": "currentColor",
    "line": "#8888884d", "card": "none",
}  # fmt: skip
STYLE = """<style>
.xpnet-live { max-width: 60rem; font-variant-numeric: tabular-nums; }
.xpnet-live progress { width: 100%; height: .5rem; }
.xpnet-live .charts { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; }
.xpnet-live .charts > div { flex: 1 1 20rem; max-width: 32rem; min-width: 0; }
.xpnet-live svg { display: block; width: 100%; height: auto; overflow: visible; }
.xpnet-live svg text { font-size: 11px; fill: currentColor; }
.xpnet-live ul { display: flex; gap: 0 1rem; list-style: none; margin: 0; padding: 0; }
.xpnet-live li i { display: inline-block; width: 1.5em; vertical-align: .28em; margin-right: .4em; }
</style>"""


def in_notebook() -> bool:
    """Return whether this runs in the kernel of a notebook, which can show and update pictures."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class LiveCurves(Callback):
    """Draw loss, accuracy and metrics of training and validation in one output of a notebook.

    Above them are how far it is, the last epoch, and the time left. The output is updated at most
    every ``every`` seconds, and so that drawing takes at most a tenth of the time; what it shows at
    the end stays in the notebook. Outside of one it says so, and prints as :class:`xpnet.Progress`
    does. ``xpnet.train`` uses it in a notebook by default.
    """

    first_rank_only = True

    def __init__(self, every: float = 1.0) -> None:
        self.every = every
        self._instead: Progress | None = None
        self._display: Any = None
        self._charts = ""
        self._told = False

    def on_train_begin(self, trainer: Any) -> None:
        self._instead = None if in_notebook() else Progress()
        self._began, self._from = time.monotonic(), trainer.position.step
        self._charts, self._display, self._next, self._redraw = "", None, 0.0, 0.0
        if self._instead is not None:
            if not self._told:
                print("LiveCurves draws in a notebook; here are lines instead")
            self._told = True
            self._instead.on_train_begin(trainer)
        else:
            self._show(trainer, "preparing the first step")

    def steps_between(self, trainer: Any) -> int:
        return MANY if self._instead is None else self._instead.steps_between(trainer)

    def on_step_end(self, trainer: Any) -> None:
        if self._instead is not None:
            self._instead.on_step_end(trainer)
        elif time.monotonic() >= self._next:
            epoch = trainer.position.epoch + 1
            self._show(trainer, epoch_line({"epoch": epoch, **trainer.read()}, trainer.epochs))

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        if self._instead is not None:
            self._instead.on_epoch_end(trainer, record)
        elif time.monotonic() >= self._redraw:
            self._draw(trainer)

    def on_train_end(self, trainer: Any) -> None:
        if self._instead is not None:
            self._instead.on_train_end(trainer)
        else:
            self._draw(trainer)

    def _draw(self, trainer: Any) -> None:
        """Draw the curves, and show them."""
        began, history = time.monotonic(), trainer.history
        try:
            self._charts = "".join(f"<div>{chart}</div>" for chart in _charts(history))
        except Exception as error:  # a picture is no reason to lose a training
            print(
                f"LiveCurves cannot draw, {type(error).__name__}: {error}; here are lines instead"
            )
            self._instead = Progress()
            self._instead.on_train_begin(trainer)
        self._show(trainer, epoch_line(history[-1], trainer.epochs) if history else "")
        now = time.monotonic()
        self._redraw = now + max(self.every, SHARE * (now - began))

    def _show(self, trainer: Any, line: str) -> None:
        from IPython.display import display

        output = _Output(self._html(trainer, line), line)
        if self._display is None:
            self._display = display(output, display_id=True)
        else:
            self._display.update(output)
        self._next = time.monotonic() + self.every

    def _html(self, trainer: Any, line: str) -> str:
        from markupsafe import escape

        done, total = trainer.position.step, trainer.epochs * trainer.steps_per_epoch
        bar = f'<progress value="{done}" max="{total}" aria-label="steps"></progress>'
        about = [line, self._ended(trainer) or self._left(trainer, done, total)]
        text = escape("  ·  ".join(part for part in about if part))
        return f'<div class="xpnet-live">{STYLE}<div>{text}</div>{bar}' + (
            f'<div class="charts">{self._charts}</div></div>'
        )

    def _ended(self, trainer: Any) -> str:
        """Why training ended before its last epoch, if it did."""
        if trainer.failed is not None:
            return f"failed: {type(trainer.failed).__name__}"
        return f"stopped: {trainer.stopped}" if trainer.stopped else ""

    def _left(self, trainer: Any, done: int, total: int) -> str:
        seconds, steps = time.monotonic() - self._began, done - self._from
        if done >= total:
            return f"{clock(seconds)} in all"
        return f"{clock(seconds / steps * (total - done))} left" if steps else ""


class _Output:
    """What a notebook shows, and in a console without pictures a line."""

    def __init__(self, html: str, line: str) -> None:
        self._html, self._line = html, line

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._line


def _charts(history: Sequence[EpochMetrics]) -> Iterator[str]:
    """A chart for each thing that is measured, of training and validation."""
    epochs = [record["epoch"] for record in history]
    names = dict.fromkeys(name for record in history for name in record if name not in NOT_METRICS)
    for name in dict.fromkeys(name.removeprefix("val_") for name in names):
        both = {"training": name, "validation": f"val_{name}"}
        lines = [
            Line(part, epochs, [record.get(key, float("nan")) for record in history], f"series-{n}")
            for n, (part, key) in enumerate(both.items(), 1)
            if key in names
        ]
        chart = curves(
            lines,
            title=f"{name} by epoch",
            x_label="epoch",
            y_label=name,
            log=name == "loss",
            legend=True,
        )
        yield re.sub(r"var\(--([\w-]+)\)", lambda m: COLOURS.get(m[1], m[0]), chart.__html__())
