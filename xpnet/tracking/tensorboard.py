"""Event files for TensorBoard, by the writer and the protocol of TensorBoard itself."""

import io
import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xpnet.errors import CheckpointError, require
from xpnet.storage.durable import storage_errors
from xpnet.storage.safe_open import as_path, open_regular
from xpnet.tracking.tracker import Tracker, grouped, numbers, settings_of
from xpnet.training.callbacks import EpochMetrics

__all__ = ["TensorBoard"]

SHARE = 100  # the time of a histogram of all weights is at most one in so many seconds


class TensorBoard(Tracker):
    """Write what TensorBoard shows of a training: ``tensorboard --logdir FOLDER``.

    After each epoch, at the step of its number: loss, accuracy and metrics of training and
    validation, the learning rate, the pace, and the norms by layer where :class:`xpnet.Norms` adds
    them; and, as often as takes no hundredth of the time, histograms of the weights. The settings
    are a text and, for the tab HPARAMS, a session, to which the scores of the test belong.

    A resumed training goes on in a new file of the same folder, whose first event tells TensorBoard
    to forget the epochs that are repeated. Of what was trained before, without this callback,
    the history is written. An epoch is written whole or not at all: what a full disk refuses is
    reported once, and written with a later epoch.

    Raises BackendError where the package ``tensorboard`` is missing; TensorFlow is not needed.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__(settings, report)
        require("tensorboard", "tensorboard", "writing event files")
        self.folder = as_path(folder, "folder")
        self.written = 0  # epochs
        self._path: Path | None = None
        self._histograms_at, self._histograms_of = 0.0, 0  # when due, and how many epochs had them

    def on_train_begin(self, trainer: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self.settings = settings_of(trainer) if self.settings is None else self.settings
        went_before = any(self.folder.glob("*tfevents*"))
        self.written = min(self.written, len(trainer.history)) if went_before else 0
        self._path, self._histograms_at = None, 0.0
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._begin = [
            event_pb2.Event(file_version="brain.Event:2"),
            event_pb2.Event(step=self.written + 1, session_log=restart),
        ]
        if not self.written:
            self._begin = [*self._begin, *_introduction(self.folder, self.settings)]
        self._catch_up(trainer)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self._catch_up(trainer)

    def on_train_end(self, trainer: Any) -> None:
        whole = trainer.position.batch == 0 and trainer.failed is None
        self._catch_up(trainer, last=whole)

    def finish(self, scores: Mapping[str, Any], files: Iterable[Path] = ()) -> None:
        """Write the scores of the test, as of the last epoch, and that the session is over."""
        found = {f"{name}/test": v for name, v in scores.items() if type(v) in (int, float)}
        self._append([*_scalars(found, self.written), _end_of_session()])

    def state(self) -> Mapping[str, Any]:
        return {"written": self.written}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.written = int(state["written"])

    def _catch_up(self, trainer: Any, *, last: bool = False) -> None:
        """Write the epochs that are not in the file yet, all or none of them."""
        history, began = trainer.history, time.monotonic()
        events = [
            e for r in history[self.written :] for e in _scalars(grouped(numbers(r)), r["epoch"])
        ]
        due = last or (bool(events) and began >= self._histograms_at)
        if history and due and self._histograms_of < len(history):
            events += _histograms(trainer, history[-1]["epoch"])
            self._histograms_of, took = len(history), time.monotonic() - began
            self._histograms_at = time.monotonic() + SHARE * took
        if (events or self._path is None) and self._append(events):
            self.written = len(history)

    def _append(self, events: Iterable[Any]) -> bool:
        """Append events with one write; return whether they are in the file."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        path, begin = (self._path, []) if self._path else (self._new(), self._begin)
        buffer, now = io.BytesIO(), time.time()
        writer = RecordWriter(buffer)
        for event in [*begin, *events]:
            event.wall_time = now
            writer.write(event.SerializeToString())
        try:
            _append(path, buffer.getvalue())
        except CheckpointError as error:
            self._say(error)
            return False
        self._path = path
        return True

    def _new(self) -> Path:
        """The name of a file that is not there yet, and is read after those that are."""
        name = f"events.out.tfevents.{int(time.time()):010}.xpnet"
        paths = (self.folder / f"{name}.{n:04}" for n in itertools.count())
        return next(path for path in paths if not path.exists())


def _append(path: Path, data: bytes) -> None:
    """Append to a file all of the data or none of it; raises CheckpointError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with storage_errors("append to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(open_regular(path, flags), "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                whole = file.write(data) == len(data)
            except OSError:
                file.truncate(size)
                raise
            if not whole:
                file.truncate(size)
                msg = f"cannot append to {path}: the disk is full"
                raise CheckpointError(msg)


def _event(summary: Any, step: int) -> Any:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(step=step, summary=summary)


def _scalars(values: Mapping[str, float], step: int) -> list[Any]:
    """One event with all the numbers of a step."""
    from tensorboard.compat.proto import summary_pb2

    # Not as tensors, which TensorBoard's own reader of files does not forget after a restart.
    named = [summary_pb2.Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()]
    return [_event(summary_pb2.Summary(value=named), step)] if named else []


def _histograms(trainer: Any, step: int) -> list[Any]:
    """A histogram for each tensor of parameters."""
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb

    engine = trainer.engine
    named = engine.params_layout.named(engine.backend.to_host(engine.state.params))
    found = [histogram_pb(f"parameters/{tag}", x) for tag, x in named.items()]
    summaries = [value for summary in found for value in summary.value]
    return [_event(summary_pb2.Summary(value=summaries), step)] if summaries else []


def _introduction(folder: Path, settings: Mapping[str, Any]) -> list[Any]:
    """What is told once: the settings, as a text and as those of a session."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    lines = [f"| {key} | `{_plain(value)}` |" for key, value in settings.items()]
    text = "\n".join(["| setting | value |", "| --- | --- |", *lines])
    plain = {key: _plain(value) for key, value in settings.items() if value is not None}
    of_session = hparams_pb(
        plain, trial_id=folder.parent.name or folder.name, start_time_secs=time.time()
    )
    return [_event(text_pb("settings", text), 0), _event(of_session, 0)]


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, bool | int | float | str):
        return value
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return shown.replace("|", "/")


def _end_of_session() -> Any:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    value = summary_pb2.Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(data),
        tensor=metadata.NULL_TENSOR,
    )
    return _event(summary_pb2.Summary(value=[value]), 0)
