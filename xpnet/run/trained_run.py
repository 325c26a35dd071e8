"""A trained run: loaded from its folder, or just trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from xpnet.backends import backend_of, resolve
from xpnet.data import Dataset, StreamedDataset
from xpnet.data.dataset import refuse_sparse
from xpnet.data.tables.memory import like_input, numbers_in, speaks_arrow
from xpnet.errors import CheckpointError, ConfigError, DataError, how_to_import
from xpnet.parallel import Comm
from xpnet.parallel.settings import Parallel
from xpnet.run.answers import answer_columns, class_names
from xpnet.run.config import IN_MEMORY, Config
from xpnet.run.preprocessing import Preprocessing, Splits, label_in, model_of
from xpnet.run.run_folder import RunFolder, check_which
from xpnet.run.splits import load_splits, read_rows
from xpnet.run.streamed_splits import is_large, open_part
from xpnet.settings import PositiveInt, build, convert, dump
from xpnet.storage import Checkpoint, is_safetensors
from xpnet.storage import load as read_checkpoint
from xpnet.storage.durable import storage_errors
from xpnet.storage.safe_open import as_path
from xpnet.training.class_labels import decided
from xpnet.training.loader import Loader, on_host
from xpnet.training.saved import file_at, is_trainer, trainer_of, write_at
from xpnet.training.trainer import Trainer

__all__ = ["Run", "config_of", "load", "load_run", "make_trainer", "trainer_at"]

PICKLES = (".pkl", ".pickle", ".joblib")


@dataclass(frozen=True)
class Run:
    """A trained run, ready to evaluate and predict.

    The last four are of the training that has just ended; see :func:`xpnet.run.train`.
    """

    folder: RunFolder
    config: Config
    trainer: Trainer
    preprocessing: Preprocessing
    fingerprint: str | None  # of the data that it was trained on
    checkpoint: Checkpoint | None  # None where an interruption came before there was any
    stopped: str | None = None  # why before the last epoch, if so
    interrupted: bool = False  # by a signal
    test: Mapping[str, Any] = field(default_factory=dict)  # scores on the test split, if any
    validation: Mapping[str, Any] = field(default_factory=dict)  # if it was scored on that instead

    def predict(self, x: Any) -> np.ndarray:
        """Return probabilities (N, K) for raw rows, or values for a regression.

        ``x`` is an array (N, ...) of what the run was trained on, or a table of pandas, polars,
        pyarrow or another library that speaks Arrow, whose columns are found by name. Raises
        DataError for anything else, and for rows that do not fit.
        """
        if speaks_arrow(x):
            return self._predicted(cast(Dataset, self.read(x, labelled=False)))
        kinds = set(self.preprocessing.columns.kinds if self.preprocessing.columns else ())
        if not kinds <= {"number"}:
            msg = f"the run was trained on a table with columns that are no numbers ({min(kinds)})"
            raise DataError(msg, python="pass a table, such as a DataFrame, with their names")
        return self._predicted(Dataset(_rows_of(x), None, None, "input"))

    def predict_classes(self, x: Any) -> np.ndarray:
        """Return the name of each row's class, (N,), of rows as :meth:`predict` takes them.

        Of several labels it is 0 or 1 for each, (N, J). Raises ConfigError for a regression.
        """
        classes, answers = self.preprocessing.classes, self.predict(x)
        if classes is None:
            return decided(answers, self.config.loss, None)
        return np.asarray(class_names(classes, answers))

    def predict_table(self, table: Any) -> Any:
        """Return the predictions for a table as a table of its library, with its index.

        Its columns are those of ``xpnet predict``: the class and the probability of every class, or
        the values of a regression.
        """
        return like_input(table, answer_columns(self.preprocessing, self.predict(table)))

    def evaluate(self, source: Any, *, label: Any = None, top: int = 3) -> dict[str, Any]:
        """Return the scores of the run on a labelled file or table, as ``xpnet evaluate`` does."""
        from xpnet.run.scores import scores

        top = convert(PositiveInt, top, "top")
        return scores(self, self.read(source, labelled=True, label=label), top)

    def save(self, path: str | Path) -> Path:
        """Write the run to one file, with the preprocessing and the config; return its path.

        :func:`xpnet.load` makes a Run of it. ``path`` is as for :meth:`Trainer.save`.
        Raises CheckpointError where it cannot be written.
        """
        tensors, meta = self.trainer.snapshot()
        meta |= {
            "preparation": self.preprocessing.meta(),
            "fingerprint": self.fingerprint,
            "config": dump(self.config),
        }
        return write_at(path, {**tensors, **self.preprocessing.tensors()}, meta)

    def _predicted(self, dataset: Dataset) -> np.ndarray:
        loader = self.preprocessing.loader(self.trainer.engine.backend, dataset)
        return self.preprocessing.answers(self.trainer.predict(loader))

    def predictions(self, dataset: Dataset | StreamedDataset) -> Iterator[np.ndarray]:
        """Yield what :meth:`predict` returns: at once for rows in memory, else batch by batch."""
        if isinstance(dataset, Dataset):
            yield self._predicted(dataset)
            return
        if not isinstance(dataset, StreamedDataset):
            yield self.predict(dataset)
            return
        loader = self.preprocessing.loader(self.trainer.engine.backend, dataset)
        yield from map(self.preprocessing.answers, self.trainer.predictions(loader))

    def test_part(self) -> Dataset | StreamedDataset:
        """Return the rows that training held out for testing.

        Raises DataError where there are none, or where the data has changed since: the split
        would be another one, and rows trained on would be tested on.
        """
        if (test := self.splits().test) is None:
            msg = f"{self.folder.path} was trained with data.test_fraction = 0: "
            msg += "give a FILE to evaluate on"
            raise DataError(msg)
        return test

    def splits(self) -> Splits:
        """Read the data that the run was trained on again, and split it as it was.

        Raises DataError where it was in memory, or has changed since.
        """
        if self.config.data.source == IN_MEMORY:
            msg = f"{self.folder.path} was trained on a table in memory or on arrays"
            raise DataError(
                msg, python="call evaluate(table)", command="give a FILE to evaluate on"
            )
        from xpnet.run.origin import origin_of

        splits = load_splits(self.config, origin=origin_of(self))
        if splits.fingerprint != self.fingerprint:
            msg = f"{splits.train.name} has changed since the run was trained on it: "
            msg += "give a FILE to evaluate on"
            raise DataError(msg)
        return splits

    def report(
        self, path: str | Path | None = None, *, data: Any = None, label: Any = None
    ) -> Path:
        """Write a page that shows how good the run is, where it fails and how it was made.

        ``path`` is by default ``report.html`` in the folder of the run. It is one file that needs
        no network. The rows are those of the test part, or of ``data``, a labelled file or table,
        as :meth:`evaluate` takes it. Where the run's own rows cannot be had any more, the page has
        the rest and says so.

        Raises DataError for rows that do not fit, and rather than replace a page that shows test
        rows by one that cannot; CheckpointError where the page cannot be written.
        """
        from xpnet.run.reporting import write_report

        return write_report(self, path, data, label=label)

    def read(self, source: Any, *, labelled: bool, label: Any = None) -> Dataset | StreamedDataset:
        """Read a file, or a table in memory, of the kind that the run was trained on.

        Columns are found by the names that the run knows, in any order, or by position where the
        file or the run has none. Other columns are left out, which ``columns.notes`` of the result
        says, and so is the label without ``labelled``. ``label`` names the column of labels where
        it is another than in training. The rows of a large file stay in it, where that can be. Of
        an archive or folder with a test part, that part is read if ``labelled``.
        Values of a category that training did not have are counted in the notes.

        Raises DataError for a column that is missing or ambiguous.
        """
        preprocessing = self.preprocessing
        columns, classes = preprocessing.columns, preprocessing.classes
        given = label_in(self.config, columns) if label is None else label
        if not speaks_arrow(source) and is_large(source):
            return open_part(source, self.config, preprocessing, given if labelled else None)
        if labelled:
            rows = read_rows(source, self.config, given, classes, columns, scored=True)
        else:
            rows = read_rows(source, self.config, None, None, columns)
        preprocessing.check_shape(rows.name, rows.feature_shape)
        columns = preprocessing.noting_unseen(rows.columns, lambda encoder: encoder.unseen(rows.x))
        return replace(rows, columns=columns)


def _rows_of(x: Any) -> np.ndarray:
    """Rows on the host, of an array of any library or of lists; raises DataError for others."""
    if isinstance(x, str | Path):
        msg = f"predict takes rows; got the path {str(x)!r}"
        raise DataError(msg, python="predict(pandas.read_csv(path)) takes those of a file")
    refuse_sparse("x", x)
    backend = backend_of(x)
    return on_host(numbers_in(x, "x"), "x") if backend is None else backend.to_host(x)


class _RunTrainer(Trainer):
    """The trainer of a run: what it is given has gone through the run's preprocessing."""

    def _loader(self, data: Any) -> Loader:
        return super()._loader(_encoded(data))

    def _rows(self, data: Any, label: str | int | None, learn: bool) -> Any:
        return super()._rows(_encoded(data), label, learn)

    def save(self, path: str | Path) -> Path:
        msg = "the trainer of a run has no preprocessing, without which its file is no use"
        raise ConfigError(msg, python="call save of the run itself")


def _encoded(data: Any) -> Loader:
    if not isinstance(data, Loader):
        msg = "the trainer of a run takes no raw rows, for the run's preprocessing comes first"
        raise DataError(msg, python="call predict of the run itself, as in xpnet.load(path)")
    return data


def make_trainer(
    config: Config, preprocessing: Preprocessing, backend: Any, comm: Comm | None = None
) -> Trainer:
    """Return the trainer that ``config`` describes, with its model built.

    ``comm`` are the ranks that train it; None is one process, to evaluate and to predict. It raises
    DataError for rows that did not come through a Loader of the preprocessing.
    """
    model = model_of(config, preprocessing)
    return _RunTrainer(
        model,
        config.loss,
        config.optimizer,
        backend=backend,
        batch_size=config.batch_size if isinstance(config.batch_size, int) else 1,
        seed=config.seed,
        schedule=config.schedule,
        clip=config.clip,
        step=config.step,
        accumulate=config.accumulate,
        mixed=config.mixed,
        threads=config.threads,
        comm=comm,
        parallel=Parallel() if comm is None else config.parallel,
    )


def trainer_at(
    checkpoint: Checkpoint, config: Config, preprocessing: Preprocessing, backend: Any
) -> Trainer:
    """Return a trainer with the weights of a checkpoint, to evaluate and to predict."""
    # Mixed precision is for training; not every backend has its dtypes. The number of threads is in
    # the checkpoint, and is not insisted on where there are fewer cores.
    here = replace(config, mixed=None, threads="auto")
    trainer = make_trainer(here, preprocessing, backend)
    trainer.restore(checkpoint.tensors, checkpoint.meta)
    return trainer


def _check_classes(config: Config, preprocessing: Preprocessing) -> None:
    """Raise CheckpointError if the model's outputs do not fit the config's loss."""
    predicts, classes, outputs = config.loss.predicts, preprocessing.classes, preprocessing.outputs
    fits = {
        "class": classes is not None and outputs == len(classes),
        "binary": preprocessing.task == "multilabel" or (classes is not None and outputs == 1),
        "value": preprocessing.task == "regression",
    }
    if not fits[predicts]:
        found = "no classes" if classes is None else f"{len(classes)} classes"
        msg = f"the checkpoint's model, {outputs} outputs for {found}, does not fit the run's loss"
        raise CheckpointError(msg)


def load(
    path: str | Path | RunFolder,
    *,
    backend: str | None = None,
    device: str | None = None,
    which: str = "auto",
    comm: Comm | None = None,
    parallel: Parallel = Parallel(),
) -> Run | Trainer:
    """Load what was trained: a Run of a run's folder or checkpoint, or a Trainer that was saved.

    ``path`` is the folder of a run, one of its checkpoint files, the file that
    :meth:`Trainer.save` or :meth:`Run.save` wrote, or the folder that they were given.
    ``backend`` and ``device`` are by default what this machine has, not a run's; a Trainer goes
    back to its own where that is here. ``which``, for the folder of a run, is "best", "last" or
    "auto": the best where training had a validation. ``comm`` and ``parallel`` are those of a
    Trainer, which goes on training on as many ranks as there are now.

    Raises CheckpointError where there is nothing that can be read, ConfigError for what is no path.
    """
    check_which(which)
    if (file := _file(path)) is not None:
        checkpoint = read_checkpoint(file)
        if is_trainer(checkpoint):
            return trainer_of(checkpoint, backend, device, comm=comm, parallel=parallel)
    if comm is not None or parallel != Parallel():
        msg = "comm and parallel are of a Trainer that goes on training, and a run does not"
        call = "xpnet.train(out=FOLDER, resume=True) goes on with a run"
        raise ConfigError(msg, python=call, command="go on with a run by --out FOLDER --resume")
    return load_run(path, backend=backend, device=device, which=which)


def load_run(
    path: str | Path | RunFolder,
    *,
    backend: str | None = None,
    device: str | None = None,
    which: str = "auto",
) -> Run:
    """Load a run, as :func:`load` does; raises CheckpointError for a file without one."""
    if (file := _file(path)) is not None:
        checkpoint = read_checkpoint(file)
        config = config_of(checkpoint)
        folder = RunFolder(file)
    else:
        folder = path if isinstance(path, RunFolder) else RunFolder(cast(Any, path))
        config = folder.config()
        checkpoint = folder.checkpoint(which)
    chosen = resolve(backend or "auto", device or "auto", config.dtype).backend
    try:
        preprocessing = Preprocessing.of(checkpoint.meta["preparation"], checkpoint.tensors)
        _check_classes(config, preprocessing)
        trainer = trainer_at(checkpoint, config, preprocessing, chosen)
    except (LookupError, TypeError, AttributeError) as error:
        msg = f"{checkpoint.path} was not saved by a run: {error}"
        raise CheckpointError(msg) from error
    fingerprint = checkpoint.meta.get("fingerprint")
    return Run(folder, config, trainer, preprocessing, fingerprint, checkpoint)


def _file(path: str | Path | RunFolder) -> Path | None:
    """The file that a path means, or None where it means the folder of a run."""
    if isinstance(path, RunFolder):
        return None
    found = as_path(path, "path")
    with storage_errors("find", found):
        if found.is_dir():
            inner = file_at(found)
            return inner if inner.exists() and not (found / "config.toml").exists() else None
        if not found.exists():
            return found if found.suffix == ".safetensors" else None
    if (remedy := _how_to_read(found)) and not is_safetensors(found):
        msg = f"{found} is not a file that xpnet saved"
        raise CheckpointError(msg, **remedy)
    return found


def _how_to_read(path: Path) -> dict[str, str]:
    """The remedies for a file whose name says that xpnet has not saved it; else none."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        python = "what wrote it reads it: pickle.load or joblib.load"
        return {"python": python, "command": "save it from Python: .save(path)"}
    if suffix == ".toml":
        return dict.fromkeys(("python", "command"), "give the folder of the run")
    return how_to_import(path)


def config_of(checkpoint: Checkpoint) -> Config:
    """Return the config that a run's checkpoint has; raises CheckpointError without one."""
    path, meta = checkpoint.path, checkpoint.meta
    if is_trainer(checkpoint):
        msg = f"{path} has a model that was saved without a run, so no columns and no classes"
        remedy = {"command": f"make a run of it: xpnet train FILE --from {path}"}
        raise CheckpointError(msg, python="xpnet.load(path) makes a Trainer of it", **remedy)
    if not isinstance(table := meta.get("config"), dict) or "preparation" not in meta:
        msg = f"{path} has neither the config of a run nor the settings of a trainer"
        raise CheckpointError(msg, python="restore(tensors, meta) of a Trainer takes it")
    try:
        return build(Config, table)
    except (ConfigError, AttributeError, TypeError) as error:
        msg = f"the config of {path} cannot be used here: {error}"
        raise CheckpointError(msg) from error
