"""What a person watches while a network trains: a live bar on a terminal, else plain lines."""

import sys
import time
from typing import Any, TextIO

from xpnet.training.callbacks import MANY, Callback, EpochMetrics

__all__ = ["Progress", "clock", "epoch_line"]

REFRESH = 0.25  # seconds between readings, each of which waits for the device
PLAIN_REFRESH = 30.0  # seconds between lines within an epoch, where nothing can be overwritten


class Progress(Callback):
    """Loss, accuracy, samples per second and time left.

    ``live=None`` draws a bar where ``stream`` is a terminal and prints a line per epoch elsewhere.
    The pace is that after the first step, which may have to be compiled.
    """

    first_rank_only = True

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.live = self.stream.isatty() if live is None else live
        self._bar: Any = None
        self._began = self._shown = self._last = 0.0
        self._from = self._first = 0  # the step that the pace counts from, and this run's first

    def on_train_begin(self, trainer: Any) -> None:
        self._began = self._shown = time.monotonic()
        self._from = self._first = trainer.position.step
        if self.live:
            self._bar = _Bar(self.stream, trainer)

    def steps_between(self, trainer: Any) -> int:
        return 1 if trainer.position.step < self._first + 2 else MANY

    def on_step_end(self, trainer: Any) -> None:
        now = time.monotonic()
        if trainer.position.step == self._first + 1 and trainer.chosen_threads.measured:
            self._say(f"threads {trainer.chosen_threads}")
        if trainer.position.step == self._first + 2:  # at its start the first one was done
            self._began, self._from = self._last, self._first + 1
        self._last = now
        if now - self._shown < (REFRESH if self.live else PLAIN_REFRESH):
            return
        record = trainer.read()
        self._shown = time.monotonic()
        epoch, batch, step = trainer.position
        if self._bar:
            pace = self._pace(trainer) if step > self._first + 1 else (0.0, 0.0)
            self._bar.update(step, _numbers(record), *pace)
        else:
            width = len(str(trainer.epochs))
            place = f"epoch {epoch + 1:>{width}}/{trainer.epochs} "
            place += f"batch {batch}/{trainer.steps_per_epoch}"
            self._say(f"{place}  {_numbers(record)}{self._left(trainer)}")

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        line = epoch_line(record, trainer.epochs)
        if self._bar:  # which has the pace, and on 80 columns no room for the validation
            self._say(line)
            means: EpochMetrics = {
                name: record[name] for name in ("loss", "accuracy") if name in record
            }
            self._bar.update(trainer.position.step, _numbers(means), *self._pace(trainer))
        else:
            pace = f"  {record['rows_per_second']:>7,.0f} rows/s"
            self._say(line + pace + self._left(trainer))
        self._shown = time.monotonic()

    def on_train_end(self, trainer: Any) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None

    def _pace(self, trainer: Any) -> tuple[float, float]:
        """Samples per second since the first step, and the seconds left at that pace."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        done = trainer.position.step - self._from
        left = trainer.epochs * trainer.steps_per_epoch - trainer.position.step
        samples = done * trainer.rows / trainer.steps_per_epoch
        return samples / seconds, left * seconds / done if done else 0.0

    def _left(self, trainer: Any) -> str:
        seconds = self._pace(trainer)[1]
        return f"  {clock(seconds)} left" if seconds else ""

    def _say(self, line: str) -> None:
        if self._bar:
            self._bar.print(line)
        else:
            print(line, file=self.stream, flush=True)


def epoch_line(record: EpochMetrics, epochs: int) -> str:
    """Return one epoch's record as a line.

    >>> epoch_line({"epoch": 3, "loss": 0.5, "accuracy": 0.9}, 10)
    'epoch  3/10  loss 0.5000  accuracy 0.9000'
    """
    return f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  {_numbers(record)}"


def _numbers(record: EpochMetrics) -> str:
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return "  ".join(f"{name} {record[name]:.4f}" for name in names if name in record)


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss.

    >>> clock(75.2), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class _Bar:
    """A rich progress bar over all the steps of a run."""

    def __init__(self, stream: TextIO, trainer: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.trainer = trainer
        self.progress = Progress(
            TextColumn("{task.fields[place]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("{task.fields[pace]}", style="dim"),
            console=Console(file=stream, highlight=False),
            auto_refresh=False,
            transient=True,
        )
        total = trainer.epochs * trainer.steps_per_epoch
        step = trainer.position.step
        self.task = self.progress.add_task("", total=total, place="", numbers="", pace="")
        self.progress.start()
        self.update(step, "preparing the first step", 0.0, 0.0)

    def update(self, step: int, numbers: str, rows: float, left: float) -> None:
        epoch = min(self.trainer.position.epoch + 1, self.trainer.epochs)
        pace = f"{rows:,.0f} rows/s {clock(left)} left" if rows else ""
        place = f"epoch {epoch}/{self.trainer.epochs}"
        self.progress.update(
            self.task, completed=step, place=place, numbers=numbers, pace=pace, refresh=True
        )

    def print(self, line: str) -> None:
        self.progress.console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        self.progress.stop()
