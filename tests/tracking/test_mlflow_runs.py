"""``MLflow``: a local store, read back by MLflow's own client."""

import os
import signal

import numpy as np
import pytest

import xpnet
from xpnet.errors import ConfigError, TrainingError
from xpnet.nn import Dense, ReLU
from xpnet.training.callbacks import Callback, StopOnSignal
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
for name in ("sqlalchemy", "alembic"):
    pytest.importorskip(name, reason="the local store of MLflow needs it")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own use of sqlalchemy


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database of MLflow, which takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        patch.chdir(path)
        yield mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}/mlflow.db")


def rows(n=60):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.integers(0, 3, n)


def trainer():
    return Trainer([Dense(6), ReLU(), Dense(3)], backend="numpy", batch_size=10)


def fitted(store, of, epochs, *more, **options):
    logging = xpnet.MLflow(store.tracking_uri, **options)
    callbacks = [logging, Norms(), *more]
    of.fit(rows(), epochs=epochs, validation_fraction=0.25, callbacks=callbacks)
    return logging


def logged(store, run_id, name):
    return [(m.step, m.value) for m in store.get_metric_history(run_id, name)]


def by_epoch(history, name):
    return [(record["epoch"], record[name]) for record in history]


@pytest.mark.long
def test_a_run_has_settings_metrics_scores_and_files(store, tmp_path):
    out, settings = tmp_path / "digits", {"epochs": 2, "tracking.mlflow": store.tracking_uri}
    run = xpnet.train("digits", out, settings=settings, report=lambda line: None)
    record = run.folder.read_json(run.folder.run_path)["mlflow"]
    assert record["uri"] == store.tracking_uri
    found = store.get_run(record["run_id"])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "digits")
    assert found.data.params["optimizer.name"] == "adamw"
    assert found.data.params["epochs"] == "2"
    assert found.data.tags["xpnet.version"]
    for name in ("loss", "val_accuracy", "lr", "rows_per_second"):
        assert logged(store, found.info.run_id, name) == by_epoch(run.folder.history(), name)
    norms = logged(store, found.info.run_id, "gradient/0.dense")
    assert norms == [(r["epoch"], r["norms"]["0.dense"]["gradient"]) for r in run.folder.history()]
    assert found.data.metrics["test_accuracy"] == run.test["accuracy"]
    files = {file.path for file in store.list_artifacts(found.info.run_id)}
    assert {"config.toml", "history.jsonl", "report.json", "best.safetensors"} <= files
    # resumed for more epochs, it is the same run; the first two are not logged again
    settings = {"epochs": 3, "tracking.mlflow": True}
    more = xpnet.train(None, out, settings=settings, resume=True, report=lambda line: None)
    assert more.folder.read_json(run.folder.run_path)["mlflow"] == record
    assert logged(store, found.info.run_id, "loss") == by_epoch(more.folder.history(), "loss")


@pytest.mark.long
def test_a_trainer_that_is_resumed_goes_on_with_its_run(store):
    made, again = trainer(), trainer()
    first = fitted(store, made, 2)
    again.restore(*made.snapshot())
    fitted(store, made, 4)  # from the snapshot on, it is lost
    last = fitted(store, again, 5)
    assert last.run_id == first.run_id
    assert logged(store, last.run_id, "loss") == by_epoch(again.history, "loss")
    assert store.get_run(last.run_id).data.params["optimizer.lr"] == "0.001"


@pytest.mark.long
def test_another_training_is_another_run(store):
    assert fitted(store, trainer(), 1).run_id != fitted(store, trainer(), 1).run_id


class At(Callback):
    def __init__(self, epoch, do):
        self.epoch, self.do = epoch, do

    def on_epoch_end(self, trainer, record):
        if record["epoch"] == self.epoch:
            self.do()


@pytest.mark.long
def test_a_run_says_how_it_ended(store):
    def fail():
        msg = "diverged"
        raise TrainingError(msg)

    def stop():  # as SIGINT does, which a process in the background may be deaf to
        raise KeyboardInterrupt

    interrupt = At(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(TrainingError, match="diverged"):
        fitted(store, made := trainer(), 2, At(1, fail))
    failed = made.snapshot()[1]["callbacks"]["MLflow"]["run_id"]
    assert store.get_run(failed).info.status == "FAILED"
    killed = fitted(store, trainer(), 3, interrupt, StopOnSignal()).run_id
    assert store.get_run(killed).info.status == "KILLED"
    assert len(logged(store, killed, "loss")) == 1
    with pytest.raises(KeyboardInterrupt):
        fitted(store, made := trainer(), 3, At(1, stop))
    killed = made.snapshot()[1]["callbacks"]["MLflow"]["run_id"]
    assert store.get_run(killed).info.status == "KILLED"


@pytest.mark.long
def test_a_server_that_goes_away_costs_a_line_and_no_epoch(store, monkeypatch):
    made, reports = trainer(), []
    logging = xpnet.MLflow(store.tracking_uri, report=reports.append)
    logging.begin()
    log, calls = logging._client.log_batch, []

    def gone(*args, **kwargs):
        calls.append(args)
        if len(calls) < 3:
            raise OSError(111, "connection refused")
        return log(*args, **kwargs)

    monkeypatch.setattr(logging._client, "log_batch", gone)
    for pause in ("AGAIN", "EVERY"):
        monkeypatch.setattr(f"xpnet.tracking.mlflow.{pause}", 0.0)
    made.fit(rows(), epochs=5, callbacks=[logging])
    assert logged(store, logging.run_id, "loss") == by_epoch(made.history, "loss")
    (line,) = reports
    assert line.startswith(
        f"MLflow: {store.tracking_uri}: [Errno 111] connection refused; training"
    )


@pytest.mark.long
def test_what_is_gone_begins_anew(store):
    lines = []
    logging = fitted(store, trainer(), 1, run_id="0" * 32, report=lines.append)
    assert logging.run_id != "0" * 32
    assert lines == [f"MLflow has no run {'0' * 32} any more: another one begins"]


def test_a_server_that_is_not_there_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = {"tracking.mlflow": "http://127.0.0.1:9"}
    with pytest.raises(
        ConfigError, match=r"^MLflow at http://127.0.0.1:9 cannot be used: .*refused"
    ):
        xpnet.train("digits", tmp_path / "run", settings=settings, report=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_a_file_after_the_flag_is_not_taken_for_a_server(tmp_path):
    with pytest.raises(ConfigError, match=r"mlflow must be true, false or a URI.*'flowers.csv'"):
        xpnet.load_config("digits", ["tracking.mlflow=flowers.csv"])
    for uri in ("sqlite:///a.db", "http://localhost:5000", "databricks"):
        assert xpnet.load_config("digits", [f"tracking.mlflow={uri}"]).tracking.mlflow == uri
    assert xpnet.load_config("digits", ["tracking.mlflow=yes"]).tracking.mlflow is True
