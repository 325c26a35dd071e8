"""The study of a sweep: Optuna suggests the settings, and keeps every trial in a file.

One process reads and writes the file, a journal of lines, whoever trains. A line that a crash has
torn is cut off, so that nothing before it is lost.

What is suggested follows from the sweep's seed, the trial's number and the trials before it, not
from how often the sweep was resumed.

    Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019.
    Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE).
    Watanabe et al., "PED-ANOVA", IJCAI 2023 (importance).
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.errors import CheckpointError, ConfigError, first_line, require
from xpnet.escape import escape
from xpnet.search.plan import Sweeping
from xpnet.search.space import Parameter, Value
from xpnet.search.trials import Outcome, Trial
from xpnet.storage.durable import storage_errors

if TYPE_CHECKING:
    import optuna

__all__ = ["Study"]

STARTUP = 10  # trials that are drawn at random before TPE has seen enough
UNPRUNED = 5  # trials that run to their end before the median prunes


class Study:
    """The trials of a sweep, in ``folder``; it takes up what is there.

    ``epochs`` are those of a trial, which some pruners count in. Raises BackendError without
    Optuna, CheckpointError for a file that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        sweeping: Sweeping,
        space: list[Parameter],
        *,
        maximize: bool,
        epochs: int,
        resume: bool,
    ) -> None:
        require("optuna", "sweep", "a sweep")
        import optuna

        self.space, self.sweeping = space, sweeping
        self._open: dict[int, Any] = {}  # number -> Optuna's trial
        self._reported: dict[int, set[int]] = {}  # number -> the epochs that are recorded
        name = "sweep" if sweeping.storage is None else f"xpnet {folder.resolve().name}"
        with _quiet():
            storage = _storage(folder, sweeping.storage)
            options: Any = {
                "storage": storage,
                "study_name": name,
                "pruner": _pruner(sweeping.pruner, epochs),
                "sampler": self._sampler(0),
            }
            try:
                direction = "maximize" if maximize else "minimize"
                self._study = (
                    optuna.load_study(**options)
                    if resume
                    else optuna.create_study(**options, direction=direction)
                )
            except optuna.exceptions.DuplicatedStudyError:
                msg = f"the storage has a study {name!r} already"
                raise ConfigError(
                    msg, python="choose another out", command="choose another --out"
                ) from None
            except KeyError:
                if storage.get_all_studies():
                    msg = f"the storage has no study {name!r}: was the folder renamed? give it "
                    raise CheckpointError(msg + "back its name") from None
                # it was interrupted before its first line
                self._study = optuna.create_study(**options, direction=direction)

    def enqueue(self, values: Mapping[str, Value]) -> None:
        """Have a trial with these values before the suggested ones."""
        with _quiet():
            self._study.enqueue_trial(dict(values))

    def known(self) -> list[dict[str, Value]]:
        """Return the values of all trials, those that are enqueued included."""
        return [t.system_attrs.get("fixed_params", t.params) for t in self._trials()]

    def ask(self) -> Trial:
        """Begin a trial: the one that is enqueued, or what the sampler suggests."""
        with _quiet():
            trials = self._trials()
            waiting = [t.number for t in trials if t.state.name == "WAITING"]
            self._study.sampler = self._sampler(min(waiting, default=len(trials)))
            return self._begun(self._study.ask())

    def running(self) -> list[Trial]:
        """Return the trials that had begun when the sweep ended, to be continued."""
        import optuna

        with _quiet():
            found = []
            for t in [t for t in self._trials() if t.state.name == "RUNNING"]:
                self._study.sampler = self._sampler(t.number)
                found.append(self._begun(optuna.trial.Trial(self._study, t._trial_id)))
            return found

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record the value of an epoch; return whether the trial is to be pruned."""
        trial = self._open[number]
        with _quiet():
            if epoch not in self._reported[number]:
                trial.report(value, epoch)
                self._reported[number].add(epoch)
            return self.sweeping.pruner != "none" and bool(trial.should_prune())

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended.

        One that diverged counts as pruned for the sampler, which then keeps away from there.
        """
        import optuna

        states = optuna.trial.TrialState
        trial = self._open.pop(number)
        with _quiet():
            trial.set_user_attr("state", outcome.state)
            trial.set_user_attr("seconds", round(outcome.seconds, 3))
            if outcome.loss is not None and math.isfinite(outcome.loss):
                trial.set_user_attr("loss", outcome.loss)
            if outcome.reason:
                trial.set_user_attr("reason", outcome.reason)
            if outcome.state == "finished":
                self._study.tell(trial, outcome.value)
            else:
                bad = outcome.state == "failed"
                self._study.tell(trial, state=states.FAIL if bad else states.PRUNED)

    def trials(self) -> list[Trial]:
        """Return the trials that have begun, by number."""
        with _quiet():
            return [self._trial(t) for t in self._trials() if t.state.name != "WAITING"]

    def importance(self) -> dict[str, float]:
        """Return the share of each setting in how good a trial is, largest first.

        By PED-ANOVA, of the trials that finished; {} of fewer than five, or where all are equal.
        """
        import optuna

        done = [t for t in self._trials() if t.state.name == "COMPLETE"]
        values = {t.value for t in done}
        varied = {name for t in done for name in t.params}
        if len(done) < 5 or len(values) < 2 or len(varied) < 2:
            return {}
        with _quiet(), np.errstate(all="ignore"):
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            try:
                found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
            except (ValueError, RuntimeError, ZeroDivisionError):  # too alike to tell
                return {}
        return {k: float(v) for k, v in found.items() if math.isfinite(v)}

    @property
    def seconds(self) -> float:
        """How long the sweep took until it was interrupted."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    @seconds.setter
    def seconds(self, value: float) -> None:
        with _quiet():
            self._study.set_user_attr("seconds", round(value, 3))

    def _trials(self) -> list["optuna.trial.FrozenTrial"]:
        return self._study.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> Any:
        import optuna

        state = np.random.SeedSequence([self.sweeping.seed, number]).generate_state(1)
        seed = int(state[0])
        if self.sweeping.sampler != "tpe":  # the trials of a grid are enqueued
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            group=any(p.needs for p in self.space),
            constant_liar=True,
            n_startup_trials=STARTUP,
            warn_independent_sampling=False,
        )

    def _begun(self, trial: "optuna.trial.Trial") -> Trial:
        values: dict[str, Value] = {}
        for p in self.space:
            if not p.applies(values):
                continue
            if p.choices:
                values[p.key] = trial.suggest_categorical(p.key, p.choices)
            elif p.whole:
                low, high, step = int(p.low), int(p.high), int(p.step or 1)
                values[p.key] = trial.suggest_int(p.key, low, high, step=step, log=p.log)
            else:
                values[p.key] = trial.suggest_float(p.key, p.low, p.high, step=p.step, log=p.log)
        self._open[trial.number] = trial
        frozen = trial.storage.get_trial(trial._trial_id)
        self._reported[trial.number] = {*frozen.intermediate_values}
        return self._trial(frozen)

    def _trial(self, frozen: "optuna.trial.FrozenTrial") -> Trial:
        values = {
            p.key: p.rounded(frozen.params[p.key]) for p in self.space if p.key in frozen.params
        }
        state = frozen.user_attrs.get("state", "running")
        return Trial(
            frozen.number,
            "running" if frozen.state.name == "RUNNING" else state,
            frozen.value if frozen.state.name == "COMPLETE" else None,
            values,
            dict(sorted(frozen.intermediate_values.items())),
            float(frozen.user_attrs.get("seconds", 0.0)),
            frozen.user_attrs.get("reason", ""),
            frozen.user_attrs.get("loss"),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's log, and its warnings of what is experimental, from the user."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _pruner(name: str, epochs: int) -> Any:
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner(UNPRUNED, n_warmup_steps=max(1, epochs // 5))
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(1, max(epochs, 2), reduction_factor=3)
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3)
    return optuna.pruners.NopPruner()


def _storage(folder: Path, url: str | None) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if url is not None:
        import optuna

        try:
            return optuna.storages.RDBStorage(url)
        except Exception as error:  # whatever a database or its driver raises
            why = escape(first_line(error))
            msg = f"sweep.storage cannot be opened: {why}"
            raise ConfigError(msg) from None

    path = folder / "trials.log"
    with storage_errors("open", path):
        _cut_torn_line(path)
        try:
            return JournalStorage(JournalFileBackend(str(path), _OnlyWriter()))
        except ValueError as error:
            msg = f"{path} cannot be read: {error}"
            raise CheckpointError(msg) from None


class _OnlyWriter:
    """No lock of Optuna's, which would outlive a killed process: the folder's own is held."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line without an end: a crash came while it was written."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
