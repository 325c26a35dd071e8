"""``xpnet.sweep``: all of ``xpnet train --sweep``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends.threads import cores
from xpnet.data.tables.memory import speaks_arrow
from xpnet.errors import ConfigError, DataError, require
from xpnet.parallel.launcher import refuse_several
from xpnet.run.by_rows import by_rows
from xpnet.run.config import IN_MEMORY, Config, to_toml
from xpnet.run.config_sources import load_config
from xpnet.run.description import describe
from xpnet.run.origin import given_keys
from xpnet.run.overrides import as_setting
from xpnet.run.resuming import MAY_CHANGE, check_same
from xpnet.run.train_run import Prepared, new_folder, prepare
from xpnet.run.trained_run import Run
from xpnet.search.auto import auto_space
from xpnet.search.base import base_of, resumed
from xpnet.search.ending import finish
from xpnet.search.folder import SweepFolder
from xpnet.search.loop import Loop, Status
from xpnet.search.metric import choose_metric
from xpnet.search.plan import Plan, read_plan, with_trials
from xpnet.search.result import Sweep
from xpnet.search.space import Parameter, combinations, read_space, value_of
from xpnet.search.study import Study
from xpnet.search.trials import Base
from xpnet.settings import dump, flattened
from xpnet.storage import RunLock
from xpnet.storage.durable import atomic_write_text, make_folder
from xpnet.storage.safe_open import as_path

__all__ = ["sweep"]

HELD_OUT = 0.2  # of the rows, as a validation part where the settings have none
FEW = 100  # rows of a validation part, whose scores are coarse
# What may change between two calls for one sweep; how long a trial trains is what is compared.
FREE = tuple(key for key in MAY_CHANGE if key not in ("epochs", "early_stopping", "checkpoint"))


def sweep(
    source: Any = None,
    space: str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    time: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    monitor: str | None = None,
    seed: int | None = None,
    parallel: int | None = None,
    storage: str | None = None,
    recipe: str | None = None,
    settings: Iterable[str] | Mapping[str, Any] = (),
    start_from: str | Path | Run | None = None,
    resume: bool = False,
    progress: Callable[[Status], None] | None = None,
    report: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
) -> Sweep:
    """Search the settings of a run for the best, into the folder ``out``.

    ``source``, ``recipe``, ``settings`` and ``start_from`` are those of :func:`xpnet.train`, and
    what all trials share. ``space`` says what is searched: "auto" (the default), the path of a TOML
    file, or a mapping from settings to ranges such as ``{"low": 1e-4, "high": 0.1, "log": True}``
    and ``{"choices": [[64], [128, 64]]}`` (:mod:`xpnet.search.space`). The keywords up to
    ``storage`` are the settings of the file's [sweep] (:class:`xpnet.search.plan.Sweeping`).

    Every trial is a run in ``out``/trials, whose value is its score on the validation part; the
    first has the settings of the run itself where the space has them. The test part is not looked
    at until the end: then the best is in ``out``/best, and scored once.

    With ``resume`` the sweep in ``out`` goes on, with trials that had begun from their checkpoints;
    ``trials`` counts all. An interruption leaves it so. ``progress`` is called with the state
    after each epoch, ``report`` with each line meant for the user, ``warn`` with those that
    tell of trouble.

        found = xpnet.sweep("flowers.csv", settings={"data.label": "species"}, trials=20)
        print(found.best.value, found.settings(found.best), found.run.test["accuracy"])

    Raises ConfigError, DataError or BackendError before anything is written, CheckpointError where
    the folder is in use or cannot be written, TrainingError where no trial could be trained.
    """
    refuse_several("a sweep")
    require("optuna", "sweep", "a sweep")
    options = {
        "trials": trials,
        "time": time,
        "sampler": sampler,
        "pruner": pruner,
        "monitor": monitor,
        "seed": seed,
        "parallel": parallel,
        "storage": storage,
    }
    if resume and out is None:
        msg = "to resume, name the folder of the sweep"
        raise ConfigError(msg, python="sweep(out=FOLDER, resume=True)", command="add --out DIR")
    folder = SweepFolder(_new_folder(source) if out is None else as_path(out, "out"))
    if resume:
        folder.check_there()
        plan, base = resumed(folder, source, space, options, recipe, settings, start_from)
    else:
        folder.check_free()
        plan = read_plan("auto" if space is None else space, options)
        base = base_of(source, recipe, settings, start_from)
    search = _Search(folder, plan, base, resume, report, warn or report)
    return search.carried_out(progress)


class _Search:
    """The stages of a sweep, and what they share."""

    def __init__(
        self,
        folder: SweepFolder,
        plan: Plan,
        base: Base,
        resume: bool,
        report: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self.folder, self.resume, self.report, self.warn = folder, resume, report, warn
        given = base
        self.notes: list[str] = []
        self.ready = _prepared(given, folder, report)
        self.held_out = self.ready.splits.validation is None
        if self.held_out:
            base = replace(base, settings=(*base.settings, _fraction(HELD_OUT)))
            self.ready = _prepared(base, folder, lambda line: None)
        self.config = self.ready.config
        space = plan.space
        if space is None:
            rows = len(self.ready.splits.train)
            space = auto_space(self.config, rows, architecture=self.ready.origin is None)
        try:
            self.space = read_space(space, self._check(base))
        except ConfigError as error:
            raise error.within("space" if plan.name == "auto" else plan.name) from None
        own = {p.key: self._own(p, base) for p in self.space}
        self.own = {key: value for key, value in own.items() if value is not None}
        self.metric = choose_metric(plan.sweeping.monitor, self.config, self.space)
        grid = combinations(self.space) if plan.sweeping.sampler == "grid" else None
        self.grid = grid
        sweeping = with_trials(plan.sweeping, None if grid is None else len(grid))
        if sweeping.pruner != "none" and not self.metric.comparable(self.config, self.space):
            self.notes.append("pruning is off: the losses of different trials cannot be compared")
            sweeping = replace(sweeping, pruner="none")
        self.sweeping = sweeping
        self.plan = plan.to_toml({p.key: p.table() for p in self.space})
        self.given = given
        self.base = replace(base, metric=self.metric, settings=(*base.settings, *self._shared()))

    def carried_out(self, progress: Callable[[Status], None] | None) -> Sweep:
        """Search, and finish with the best."""
        for line in describe(self.ready.splits):
            self.report(line)
        self._say_validation()
        for line in self.notes:
            self.report(line)
        with RunLock(self.folder.path) as lock:
            if lock.taken_over:
                self.warn(lock.taken_over)
            if self.resume:
                check_same(self.config, self.folder.config(), self.folder.path, FREE)
                self._check_data()
                atomic_write_text(self.folder.plan_path, self.plan)
            else:
                self.folder.check_free()
                self._begin()
            epochs = self.config.epochs
            study = Study(
                self.folder.path,
                self.sweeping,
                self.space,
                maximize=self.metric.maximize,
                epochs=epochs if isinstance(epochs, int) else 1,
                resume=self.resume,
            )
            self._enqueue(study)
            told = (self.report, self.warn, progress)
            loop = Loop(self.folder, self.sweeping, self.base, study, self.own, *told)
            self.report(loop.headline)
            stopped, interrupted = loop.run()
            trials = tuple(study.trials())
            own = {p.key: self.own.get(p.key) for p in self.space if p.applies(self.own)}
            found = Sweep(
                self.folder,
                self.metric,
                tuple(self.space),
                trials,
                study.importance(),
                plain=next((t for t in trials if t.values == own), None),
                stopped=stopped,
                interrupted=interrupted,
            )
            retrain = self.given.settings if self.held_out else None
            return finish(found, self.base, retrain, self.report, self.warn)

    def _check(self, base: Base) -> Callable[[list[str]], Config]:
        """The function that builds a trial's config with such settings."""
        origin = self.ready.origin
        source = IN_MEMORY if speaks_arrow(base.source) else base.source
        task: Any = self.config.data.task
        rows = len(self.ready.splits.train) + len(self.ready.splits.validation or ())

        def check(settings: list[str]) -> Config:
            texts = [*base.settings, *settings]
            config = load_config(source, texts, recipe=base.recipe, task=task, rows=rows)
            config = by_rows(config, rows)
            return config if origin is None else origin.config(config, given_keys(settings))

        return check

    def _shared(self) -> list[str]:
        """What a sweep sets for every trial."""
        shared = []
        given = {*given_keys(self.given.settings)}
        if self.metric.name in ("loss", "accuracy"):  # the epoch that is kept is that of the score
            shared.append(f"early_stopping.monitor={self.metric.name}")
        if not any(key.startswith("checkpoint") for key in given):
            shared.append("checkpoint.keep=1")
        if "threads" not in given and self.sweeping.parallel > 1:
            shared.append(f"threads={max(1, cores() // self.sweeping.parallel)}")
        return shared

    def _say_validation(self) -> None:
        rows = len(self.ready.splits.validation or ())
        if self.held_out:
            line = f"validation {rows:,} rows are held out for the search, as these settings have "
            self.report(line + "no validation part; the best is trained on all rows at the end")
        if rows < FEW:
            line = f"the validation part has {rows} rows: trials that are close may differ by "
            self.warn(line + "chance alone")

    def _begin(self) -> None:
        make_folder(self.folder.path)
        base, source = self.given, self.given.source
        if isinstance(source, Config):
            path = self.folder.path / "source.toml"
            atomic_write_text(path, to_toml(source))
            source = str(path.resolve())
            self.base = replace(self.base, source=source)
            self.given = replace(self.given, source=source)
        stored = {
            "source": IN_MEMORY if speaks_arrow(source) else source,
            "recipe": base.recipe,
            "settings": [*base.settings],
            "start_from": base.start_from,
            "fingerprint": self.ready.splits.fingerprint,
        }
        self.folder.begin(self.plan, stored, self.config)

    def _check_data(self) -> None:
        before = self.folder.read_json(self.folder.base_path).get("fingerprint")
        if before != self.ready.splits.fingerprint:
            msg = "the data has changed since this sweep began: resume with the same data, "
            msg += "or search in another folder"
            raise DataError(msg)

    def _enqueue(self, study: Study) -> None:
        """Begin with the run's own settings; a grid with all, or as many as there are trials."""
        known, trials = study.known(), self.sweeping.trials or 0
        if self.grid is not None:
            left = [values for values in self.grid if values not in known]
            if trials < len(self.grid):
                np.random.default_rng(self.sweeping.seed).shuffle(left)
            for values in left[: max(0, trials - len(known))]:
                study.enqueue(values)
            return
        if known:
            return
        if all(p.key in self.own for p in self.space if p.applies(self.own)):
            study.enqueue({p.key: self.own[p.key] for p in self.space if p.applies(self.own)})

    def _own(self, parameter: Parameter, base: Base) -> Any:
        """The value of a parameter that stands for the run's own setting; None if none does."""
        key, check = parameter.key, self._check(base)
        for text in parameter.choices:
            if check([as_setting(key, value_of(text))]) == check([]):
                return text
        value = flattened(dump(self.config)).get(key)
        if parameter.choices or not isinstance(value, int | float):
            return None
        return value if parameter.holds(value) else None


def _prepared(base: Base, folder: SweepFolder, report: Callable[[str], None]) -> Prepared:
    return prepare(
        base.source,
        folder.path / ".base",
        recipe=base.recipe,
        settings=base.settings,
        start_from=base.start_from,
        report=report,
    )


def _fraction(value: float) -> str:
    return f"data.validation_fraction={value}"


def _new_folder(source: Any) -> str:
    return new_folder(IN_MEMORY if speaks_arrow(source) else source, "sweep")
