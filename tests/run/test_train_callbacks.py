"""What watches a run from outside, and the part that it is scored on."""

import math

import pytest

from xpnet.errors import ConfigError
from xpnet.run import load_splits, train
from xpnet.run.config import Config
from xpnet.run.overrides import as_setting, overlaid, toml_text
from xpnet.run.scores import scores
from xpnet.training.callbacks import Callback

SETTINGS = {"epochs": 3, "model.hidden": [8], "step": "portable", "threads": 1}


class Stop(Callback):
    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 2:
            trainer.stop("enough")


def go(out, **options):
    return train("digits", out, settings=SETTINGS, report=len, **options)


def test_callbacks_watch_a_run_and_may_stop_it(tmp_path):
    run = go(tmp_path / "r", callbacks=[Stop()])
    assert run.stopped == "enough"
    assert len(run.folder.history()) == 2
    assert run.folder.read_json(run.folder.run_path)["status"] == "enough"
    with pytest.raises(ConfigError, match="callbacks must be a list of Callback objects; got 3"):
        go(tmp_path / "s", callbacks=3)


def test_a_run_is_scored_on_the_validation_part_where_that_is_asked_for(tmp_path):
    run = go(tmp_path / "r", scored="validation")
    assert not run.test
    assert not run.folder.report_path.exists()
    best = min(record["val_loss"] for record in run.folder.history())
    assert math.isclose(run.validation["loss"], best, rel_tol=1e-6)
    assert run.validation == scores(run, load_splits(run.config).validation)
    assert go(tmp_path / "s").validation == {}
    with pytest.raises(ConfigError, match=r"scored must be one of 'test', 'validation'; got 'tst'"):
        go(tmp_path / "t", scored="tst")


NUMBERS = [3, 0.1, 1e-05, 1e30, True]
TEXTS = ["sgd", "4", "true", "a b", "", " a", 'q"', "é\n", "[1]"]
TABLES = [[], [1, [2]], ["a"], {"name": "sgd", "lr": 0.1}, {"0_x": {"b c": [True]}}]


@pytest.mark.parametrize("value", [*NUMBERS, *TEXTS, *TABLES])
def test_a_setting_in_words_is_read_as_its_value(value):
    text = as_setting("data.label", value)
    table = overlaid(Config, {}, [text], len)
    assert table["data"]["label"] == value
    assert "\n" not in text


@pytest.mark.parametrize("value", [None, object(), [None], {"a": {1}}])
def test_what_no_file_can_hold_is_no_setting_in_words(value):
    with pytest.raises(ConfigError, match=r"data.label must be a plain value, which a file"):
        as_setting("data.label", value)
    with pytest.raises(TypeError):
        toml_text(value)
