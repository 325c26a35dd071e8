"""The study of a sweep, without any training: what Optuna suggests, keeps and prunes."""

import math

import pytest

pytest.importorskip("optuna", reason="a sweep needs Optuna")

import optuna

from xpnet.errors import CheckpointError, ConfigError
from xpnet.run.config_sources import load_config
from xpnet.search.plan import Sweeping
from xpnet.search.space import read_space
from xpnet.search.study import Study
from xpnet.search.trials import Outcome

TABLE = {
    "optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
    "optimizer.name": {"choices": ["adam", "sgd"]},
    "optimizer.momentum": {"low": 0.0, "high": 0.9},
    "batch_size": {"low": 16, "high": 256, "log": True},
}
SPACE = read_space(TABLE, lambda settings: load_config("digits", settings))


def study(folder, resume=False, epochs=10, **sweeping):
    return Study(folder, Sweeping(**sweeping), SPACE, maximize=False, epochs=epochs, resume=resume)


def planted(values):
    """A function with its least value at lr = 0.01 with SGD of momentum 0.6."""
    bad = 0.0 if values["optimizer.name"] == '"sgd"' else 1.0
    momentum = values.get("optimizer.momentum", 0.6)
    return (math.log10(values["optimizer.lr"]) + 2) ** 2 + (momentum - 0.6) ** 2 + bad


def search(s, trials):
    for _ in range(trials):
        trial = s.ask()
        s.tell(trial.number, Outcome("finished", planted(trial.values), 0.5))
    return s.trials()


def best(trials):
    return min(trials, key=lambda t: t.value)


def test_it_finds_a_planted_optimum_where_chance_does_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tpe = search(study(tmp_path / "a"), 40)
    chance = search(study(tmp_path / "b", sampler="random"), 40)
    assert best(tpe).value < 0.02 < best(chance).value
    assert best(tpe).values["optimizer.name"] == '"sgd"'
    late = [t.value for t in tpe[20:]]
    assert sum(late) / len(late) < 0.5 * sum(t.value for t in chance) / len(chance)


def test_what_is_suggested_does_not_depend_on_interruptions(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = search(study(tmp_path / "a", seed=3), 16)
    search(study(tmp_path / "b", seed=3), 5)
    for done in (5, 6, 13):
        again = study(tmp_path / "b", resume=True, seed=3)
        assert len(again.trials()) == done
        search(again, {5: 1, 6: 7, 13: 3}[done])
    assert again.trials() == whole
    (tmp_path / "c").mkdir()
    other = search(study(tmp_path / "c", seed=4), 16)
    assert [t.values for t in other] != [t.values for t in whole]


def test_a_trial_that_had_begun_is_taken_up_with_its_settings_and_epochs(tmp_path):
    first = study(tmp_path)
    search(first, 2)
    begun = first.ask()
    assert not first.report(begun.number, 1, 0.5)
    again = study(tmp_path, resume=True)
    (found,) = again.running()
    assert (found.number, found.values, found.curve) == (2, begun.values, {1: 0.5})
    again.report(2, 1, 0.7)  # told again after the restore: the first holds
    again.report(2, 2, 0.25)
    again.tell(2, Outcome("finished", 0.25, 1.5))
    last = study(tmp_path, resume=True).trials()[2]
    assert last.curve == {1: 0.5, 2: 0.25}
    assert (last.state, last.value, last.seconds) == ("finished", 0.25, 1.5)


def test_a_torn_line_costs_nothing_that_was_whole(tmp_path):
    before = search(study(tmp_path), 3)
    path = tmp_path / "trials.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"wor')
    again = study(tmp_path, resume=True)
    assert again.trials() == before
    assert path.read_bytes() == whole
    assert len(search(again, 2)) == 5
    assert len(study(tmp_path, resume=True).trials()) == 5
    path.write_bytes(whole.replace(b'{"op_code"', b'{"op', 1) + b"xx\nyy\n")
    with pytest.raises(CheckpointError, match=r"trials.log cannot be read"):
        study(tmp_path, resume=True)


def test_the_file_is_one_that_optuna_reads(tmp_path):
    search(study(tmp_path), 6)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "trials.log"))
    theirs = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    ours = best(study(tmp_path, resume=True).trials())
    assert (theirs.best_trial.number, theirs.best_value) == (ours.number, ours.value)


def test_a_trial_that_is_worse_than_the_median_is_pruned_after_a_fifth_of_its_epochs(tmp_path):
    s = study(tmp_path, epochs=10)
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):
        number = s.ask().number
        assert [s.report(number, epoch, value) for epoch in range(1, 11)] == [False] * 10
        s.tell(number, Outcome("finished", value, 1.0))
    number = s.ask().number
    assert [s.report(number, epoch, 0.35) for epoch in (1, 2)] == [False, True]
    s.tell(number, Outcome("pruned", reason="pruned at epoch 2"))
    number = s.ask().number
    assert [s.report(number, epoch, 0.25) for epoch in (1, 2)] == [False, False]
    assert s.trials()[5].state == "pruned"
    assert s.trials()[5].value is None


@pytest.mark.parametrize("pruner", ["hyperband", "asha", "none"])
def test_every_pruner_takes_the_reports(tmp_path, pruner):
    s = study(tmp_path, pruner=pruner, epochs=9)
    pruned = 0
    for n in range(12):
        number = s.ask().number
        for epoch in range(1, 10):
            if s.report(number, epoch, float(n)):
                pruned += 1
                break
        s.tell(number, Outcome("finished", float(n), 1.0))
    assert (pruned > 0) == (pruner != "none")


def test_the_sampler_keeps_away_from_where_trials_diverge(tmp_path):
    def told(state):
        folder = tmp_path / state
        folder.mkdir()
        s = study(folder)
        for _ in range(40):
            trial = s.ask()
            big = trial.values["optimizer.lr"] > 0.01
            s.tell(trial.number, Outcome(state, reason="x") if big else Outcome("finished", 1.0))
        return sum(t.values["optimizer.lr"] > 0.01 for t in s.trials()[12:])

    assert told("diverged") < told("failed") - 3


def test_importance_is_that_of_the_planted_setting(tmp_path):
    s = study(tmp_path, sampler="random")
    assert s.importance() == {}
    for _ in range(40):
        trial = s.ask()
        s.tell(trial.number, Outcome("finished", math.log10(trial.values["optimizer.lr"]) ** 2))
    found = s.importance()
    assert next(iter(found)) == "optimizer.lr"
    assert found["optimizer.lr"] > 0.6
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_trial_that_is_enqueued_comes_first(tmp_path):
    s = study(tmp_path)
    given = {"optimizer.lr": 0.5, "optimizer.name": '"adam"', "batch_size": 100}
    s.enqueue(given)
    assert s.ask().values == given
    assert s.ask().values != given


def test_a_database_keeps_the_trials_where_one_is_named(tmp_path):
    pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'all.db'}"
    search(study(tmp_path, storage=url), 2)
    assert len(study(tmp_path, resume=True, storage=url).trials()) == 2
    with pytest.raises(ConfigError, match=r"the storage has a study 'xpnet .*' already"):
        study(tmp_path, storage=url)
    with pytest.raises(ConfigError, match=r"sweep.storage cannot be opened"):
        study(tmp_path, storage="sqlite://///no/such/folder/x.db")
    assert not (tmp_path / "trials.log").exists()
