"""A run that several ranks train, here as threads: what each of them does, and has at the end."""

import json
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from thread_ranks import on_ranks

from xpnet.errors import CheckpointError, ConfigError, DataError, XpnetWarning
from xpnet.parallel import ALONE
from xpnet.run import ranks, train, train_run
from xpnet.run.resuming import MAY_CHANGE

SETTINGS = {
    "dtype": "float64",
    "step": "portable",
    "batch_size": 256,
    "model.hidden": [8],
    "schedule": "constant",
    "threads": 1,
    "report": False,
}


@pytest.fixture
def by_ranks(monkeypatch):
    """Train by so many ranks; return, by rank, the run and the lines that it reported."""
    local = threading.local()
    monkeypatch.setattr(ranks, "joined", lambda *asked: getattr(local, "comm", ALONE))
    monkeypatch.setattr(ranks, "connected", lambda comm, config: comm)

    def run(size, *args, settings=(), **options):
        def on_rank(comm):
            local.comm, lines = comm, []
            given = {"settings": {**SETTINGS, **dict(settings)}, "report": lines.append, **options}
            return train(*args, **given), lines

        return on_ranks(size, on_rank)

    return run


def history(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(folder):
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [[record[name] for name in names] for record in history(folder)]


def test_rank_0_writes_and_tells_and_all_have_the_run(by_ranks, tmp_path):
    (one, alone), *_ = by_ranks(1, "digits", tmp_path / "one", settings={"epochs": 3})
    found = by_ranks(3, "digits", tmp_path / "three", settings={"epochs": 3})
    (first, lines), *others = found
    np.testing.assert_allclose(losses(tmp_path / "three"), losses(tmp_path / "one"), rtol=1e-12)
    [line] = [line for line in lines if line not in alone and "epoch" not in line]
    assert line == "threads: each has 85 or 86 of 256 rows of a batch"
    record = json.loads((tmp_path / "three/run.json").read_text())
    assert (record["ranks"], record["hosts"], record["engine"]) == (3, 1, "threads")
    assert record["status"] == "finished"
    x = np.random.default_rng(0).integers(0, 17, (5, 64)).astype(np.float64)
    for run, said in others:
        assert said == []
        assert run.test == first.test
        assert run.test["loss"] == pytest.approx(one.test["loss"], rel=1e-9)
        assert run.folder.path == first.folder.path
        assert run.checkpoint.meta == first.checkpoint.meta
        np.testing.assert_array_equal(run.predict(x), first.predict(x))
    np.testing.assert_allclose(first.predict(x), one.predict(x), rtol=1e-9)


def test_a_run_is_resumed_by_another_number_of_ranks(by_ranks, tmp_path):
    by_ranks(1, "digits", tmp_path / "whole", settings={"epochs": 6})
    for size, epochs in ((4, 2), (2, 4), (1, 6)):
        settings = {"epochs": epochs, "parallel.buckets": size}
        by_ranks(size, "digits", tmp_path / "parts", settings=settings, resume=True)
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-12)


def test_ordered_sums_are_the_same_bits_on_any_number_of_ranks(by_ranks, tmp_path):
    ordered = {"epochs": 2, "parallel.reduce": "ordered", "parallel.parts": 4}
    for size in (1, 2, 4):
        by_ranks(size, "digits", tmp_path / f"{size}", settings=ordered)
        assert losses(tmp_path / f"{size}") == losses(tmp_path / "1")


def test_rank_0_alone_needs_the_run_folder_and_the_config(by_ranks, tmp_path, monkeypatch):
    """The others take what they need from it, so no path is read but of the data."""
    by_ranks(2, "digits", tmp_path / "run", settings={"epochs": 1})
    seen, inner = [], train_run.Asked.of

    def of(*args, **options):
        seen.append(threading.get_ident())
        return inner(*args, **options)

    monkeypatch.setattr(train_run.Asked, "of", of)
    found = by_ranks(2, None, tmp_path / "run", settings={"epochs": 2}, resume=True)
    assert len(seen) == 1
    assert [run.config.epochs for run, _ in found] == [2, 2]


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"batch_size": "largest"}, ConfigError, "is what fits one device, and 2 ranks share"),
        ({"parallel.reduce": "ordered", "parallel.parts": 1}, ConfigError, "too few for 2"),
        ({"data.source": "no.csv"}, DataError, "no such file"),
        ({"optimizer.lr": -1}, ConfigError, "lr must be"),
    ],
)
def test_an_error_is_raised_by_all_ranks(by_ranks, tmp_path, settings, kind, says):
    raised = []

    def note(size):
        try:
            by_ranks(size, "digits", tmp_path / "run", settings=settings)
        except kind as error:
            raised.append(str(error))

    note(2)
    assert len(raised) == 1
    assert says in raised[0]
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_is_an_error_of_all_ranks(by_ranks, tmp_path):
    by_ranks(1, "digits", tmp_path / "run", settings={"epochs": 1})
    with pytest.raises(CheckpointError, match="already holds a run"):
        by_ranks(2, "digits", tmp_path / "run", settings={"epochs": 1})


def test_what_goes_wrong_while_rank_0_writes_is_an_error_of_all(by_ranks, tmp_path, monkeypatch):
    from xpnet.training import callbacks

    def full(self, record):
        msg = "no space left"
        raise CheckpointError(msg)

    monkeypatch.setattr(callbacks.History, "append", full)
    with pytest.raises(CheckpointError, match="the end of this training was not saved"):
        by_ranks(2, "digits", tmp_path / "run", settings={"epochs": 1})
    assert json.loads((tmp_path / "run/run.json").read_text())["status"].startswith("failed: ")


def test_a_warning_is_given_once():
    def warn():
        warnings.warn("all see this", XpnetWarning, stacklevel=2)

    with ranks.warnings_once(ALONE), pytest.warns(XpnetWarning, match="all see this"):
        warn()
    with ranks.warnings_once(SimpleNamespace(rank=1)):
        warn()


def test_how_ranks_work_together_may_change_when_a_run_is_resumed():
    assert "parallel" in MAY_CHANGE
