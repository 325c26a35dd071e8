"""A training as a run of MLflow: its settings, metrics, scores and files."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from xpnet.backends.backend import installed_version
from xpnet.errors import BackendError, ConfigError, require
from xpnet.tracking.tracker import Tracker, numbers, settings_of
from xpnet.training.callbacks import EpochMetrics, StopOnSignal

__all__ = ["MLflow"]

EXPERIMENT = "xpnet"  # unless MLFLOW_EXPERIMENT_NAME names another
EVERY = 1.0  # seconds between two calls: a server takes longer than a short epoch
AGAIN = 60.0  # seconds until a server that was not reached is asked again
# MLflow's own defaults keep a training waiting for minutes where a server is gone.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
PARAMS, METRICS, LONGEST = 100, 1000, 6000  # that one call takes; characters of a setting
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
LARGEST = 100 * 2**20  # bytes of a file that is copied to the run


class MLflow(Tracker):
    """Log a training as a run of MLflow, at ``uri`` or where MLflow itself logs by default.

    That is MLFLOW_TRACKING_URI or else, in MLflow 3.17, the file mlflow.db in this folder, which
    takes no server (``mlflow ui`` shows it). Settings become parameters, the numbers of each epoch
    metrics at the step of its number, under the names of the history. The run ends as FINISHED,
    FAILED, or KILLED where a signal ended the training. ``run_id`` is a run to go on with; a
    resumed training goes on with its own, and logs no epoch twice. ``name`` is that of a new run,
    in the experiment MLFLOW_EXPERIMENT_NAME, else xpnet.

    What fails once training has begun is reported once; it is tried again later and at the end.
    Raises BackendError where the package is missing, and before training ConfigError where the
    run cannot be made.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        run_id: str | None = None,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__(settings, report)
        require("mlflow", "mlflow", "logging to MLflow")
        self._client: Any = None
        self.uri, self.run_id, self.name = uri, run_id, name
        self._begun = False
        self._logged = 0  # the last epoch
        self._next = 0.0  # when to log

    def check(self) -> None:
        """Raise ConfigError where the server or database cannot be used."""
        with self._refused(), _patience():
            self._connect()
            self._client.get_experiment_by_name(_experiment())

    def begin(self) -> str:
        """Make the run, or take up the one that there is; return its id. Raises ConfigError."""
        with self._refused(), _patience():
            if not self._begun:
                self._connect()
                taken_up = self.run_id is not None and self._taken_up(self.run_id)
                if not taken_up:
                    self.run_id, self._logged = self._new(), 0
                self._begun = True
        assert self.run_id is not None
        return self.run_id

    def _connect(self) -> None:
        self._client = _client(self.uri)
        self.uri = self._client.tracking_uri

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """Turn an error of the block into a ConfigError."""
        try:
            yield
        except BackendError:
            raise
        except Exception as error:  # of a store that may be a plugin: whatever it raises
            where = f" at {self.uri}" if self.uri else ""
            msg = f"MLflow{where} cannot be used: {_reason(error)}"
            raise ConfigError(
                msg,
                python="MLflow('sqlite:///mlflow.db') logs to a file",
                command="--mlflow sqlite:///mlflow.db logs to a file",
            ) from error

    def on_train_begin(self, trainer: Any) -> None:
        self.settings = settings_of(trainer) if self.settings is None else self.settings
        self.begin()
        self._next = 0.0
        self._log(trainer)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        if time.monotonic() >= self._next:
            self._log(trainer)

    def on_train_end(self, trainer: Any) -> None:
        self._log(trainer)
        received = any(isinstance(c, StopOnSignal) and c.received for c in trainer.callbacks)
        killed = received or isinstance(trainer.failed, KeyboardInterrupt)
        status = "KILLED" if killed else "FINISHED" if trainer.failed is None else "FAILED"
        with self._tolerant():
            self._client.set_terminated(self.run_id, status)
        self._begun = False

    def finish(self, scores: Mapping[str, Any], files: Iterable[Path] = ()) -> None:
        """Log the scores of the test as ``test_...``, and copy files to the run."""
        found = {f"test_{name}": v for name, v in scores.items() if type(v) in (int, float)}
        with self._tolerant():
            self._client.log_batch(self.run_id, metrics=_metrics(found, self._logged))
            for file in files:
                if file.is_file() and file.stat().st_size <= LARGEST:
                    self._client.log_artifact(self.run_id, str(file))

    def state(self) -> Mapping[str, Any]:
        return {"run_id": self.run_id}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.run_id = state["run_id"] if self.run_id is None else self.run_id

    def _new(self) -> str:
        """Make a run with its settings and tags; return its id."""
        from mlflow.entities import Param
        from mlflow.tracking.context.registry import resolve_tags

        client, experiment = self._client, _experiment()
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        tags = resolve_tags({"xpnet.version": str(installed_version(("xpnet",), "xpnet"))})
        run_id = client.create_run(number, tags=tags, run_name=self.name).info.run_id
        params = iter([Param(k, _shortened(v)) for k, v in (self.settings or {}).items()])
        while some := [*islice(params, PARAMS)]:
            client.log_batch(run_id, params=some)
        return run_id

    def _taken_up(self, run_id: str) -> bool:
        """Go on with a run; return False where it is no longer there."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.report(f"MLflow has no run {run_id} any more: another one begins")
            return False
        self._client.update_run(run_id, status="RUNNING")
        logged = self._client.get_metric_history(run_id, "loss") if run.data.metrics else []
        self._logged = max((metric.step for metric in logged), default=0)
        return True

    def _log(self, trainer: Any) -> None:
        """Log the epochs that are not there yet."""
        new = [record for record in trainer.history if record["epoch"] > self._logged]
        metrics = [m for r in new for m in _metrics(numbers(r), r["epoch"])]
        with self._tolerant():
            for first in range(0, len(metrics), METRICS):
                self._client.log_batch(self.run_id, metrics=metrics[first : first + METRICS])
            self._logged = new[-1]["epoch"] if new else self._logged

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Within it an error is reported, the first one, and the training goes on."""
        try:
            with _patience():
                yield
            self._next = time.monotonic() + EVERY
        except Exception as error:
            self._next = time.monotonic() + AGAIN
            self._say(f"{self.uri}: {_reason(error)}")


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)


def _client(uri: str | None) -> Any:
    """A client of the server or database at ``uri``."""
    import mlflow

    uri = mlflow.get_tracking_uri() if uri is None else uri
    if uri.startswith(DATABASES):  # which mlflow-skinny reads with the help of these
        for module in ("sqlalchemy", "alembic"):
            require(module, "mlflow", f"logging to {uri}")
    return mlflow.MlflowClient(tracking_uri=uri)


@contextmanager
def _patience() -> Iterator[None]:
    """Within it MLflow waits for a server as PATIENCE says, unless the environment does."""
    ours = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items()]


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _reason(error: Exception) -> str:
    """The message without what a library tells its own developers, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if cause := re.search(r"Caused by .*?: (.*?)[\"')]*$", text):  # of a request
        text = cause[1]
    text = text.partition(". ")[0]
    return text if len(text) <= 300 else f"{text[:299]}…"
