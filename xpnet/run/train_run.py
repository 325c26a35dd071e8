"""Training into a run folder, from the start or from a checkpoint."""

import inspect
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Never, cast

from xpnet.backends import Resolved
from xpnet.data.tables.memory import speaks_arrow
from xpnet.errors import ConfigError
from xpnet.nn import Dense
from xpnet.nn.fit import check_batches
from xpnet.parallel import ALONE, Comm, agreed, shared_by_all, shared_by_host
from xpnet.run import ranks
from xpnet.run.asked import Asked
from xpnet.run.batch_size import with_batch_size
from xpnet.run.config import IN_MEMORY, Config
from xpnet.run.description import describe
from xpnet.run.job import Job
from xpnet.run.origin import Origin
from xpnet.run.overrides import as_settings
from xpnet.run.preprocessing import Preprocessing, Splits
from xpnet.run.resuming import check_folder
from xpnet.run.run_folder import RunFolder
from xpnet.run.splits import Data, make_splits, read_data
from xpnet.run.streamed_splits import is_streamed
from xpnet.run.trackers import check_usable
from xpnet.run.trained_run import Run, make_trainer
from xpnet.settings import convert, did_you_mean, kinds_of, section_with
from xpnet.storage import CheckpointFolder
from xpnet.storage.safe_open import as_path
from xpnet.tracking.live import LiveCurves, in_notebook
from xpnet.training.callbacks import Callback, check_callbacks
from xpnet.training.snapshot import check_length
from xpnet.training.trainer import Trainer

__all__ = ["Prepared", "new_folder", "prepare", "train"]


class Prepared(NamedTuple):
    """A training whose settings are checked, and whose data is read and split."""

    config: Config
    folder: RunFolder
    chosen: Resolved
    splits: Splits
    origin: Origin | None  # what it starts from
    comm: Comm  # the ranks that train it


def train(
    source: Any = None,
    out: str | Path | None = None,
    *,
    recipe: str | None = None,
    settings: Iterable[str] | Mapping[str, Any] = (),
    start_from: str | Path | Run | None = None,
    resume: bool = False,
    progress: Callback | Literal[False] | None = None,
    callbacks: Iterable[Callback] = (),
    scored: Literal["test", "validation"] = "test",
    report: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
    **unknown: Never,
) -> Run:
    """Train into the folder ``out`` and score the result on the test part: all of ``xpnet train``.

    ``source`` is a recipe (by default the digits), the path of a TOML or data file, a Config, or a
    table in memory, of pandas, polars, pyarrow or another library that speaks Arrow. ``recipe``
    names the settings for data, by default "table" for a table; ``settings`` are on top, as
    :func:`~xpnet.run.config_sources.load_config` takes them. ``out`` is by default a new folder
    ``runs/NAME-DATE-TIME``. ``start_from`` is a run, or a saved file, whose weights training starts
    from, with its columns, encoding and architecture (:mod:`xpnet.run.origin`); ``start.*`` of the
    settings has more on that. With ``resume`` the run goes on from its newest good checkpoint, or
    begins where there is none; without a source it keeps its own config.
    ``progress`` shows the training while it runs: by default :class:`xpnet.LiveCurves` in a
    notebook and nothing elsewhere; False is nothing, and :class:`xpnet.Progress` prints.
    ``callbacks`` watch it beside that. What compares trainings has them ``scored`` on the
    validation part: the test part is for the one that is chosen.
    ``report`` is called with each line meant for the user, ``warn`` (else ``report``) with those
    that tell of trouble.

        run = train("flowers.csv", settings={"data.label": "species", "epochs": 100})
        print(run.test["accuracy"], run.predict(rows))

    Raises ConfigError, DataError or BackendError before anything is written, CheckpointError where
    the folder is in use, holds another run or cannot be written.
    """
    if resume and out is None:
        msg = "to resume, name the run folder"
        raise ConfigError(msg, python="train(out=FOLDER, resume=True)", command="add --out DIR")
    _refuse(source, unknown)
    scored = convert(Literal["test", "validation"], scored, "scored")
    watching = check_callbacks(callbacks)
    if progress is None and in_notebook():
        progress = LiveCurves()
    if progress:
        watching.insert(0, progress)
    comm = ranks.joined(source, settings, recipe)
    report, warn = ranks.only_first(comm, report), ranks.only_first(comm, warn or report)
    with ranks.warnings_once(comm):
        ready = prepare(
            source,
            out,
            recipe=recipe,
            settings=settings,
            start_from=start_from,
            resume=resume,
            report=report,
            comm=comm,
        )
        return _trained(ready, watching, report, warn, resume=resume, scored=scored)


def _trained(
    ready: Prepared,
    watching: list[Callback],
    report: Callable[[str], None],
    warn: Callable[[str], None],
    *,
    resume: bool,
    scored: Literal["test", "validation"],
) -> Run:
    config, folder, chosen, splits, origin, comm = ready
    epochs = cast(int, config.epochs)  # no longer "auto"
    config.data.augment.check(splits.train.feature_shape)
    for line in describe(splits):
        report(line)
    config = with_batch_size(config, chosen.backend, splits, report)
    try:
        trainer = make_trainer(config, splits.preprocessing, chosen.backend, comm)
    except ConfigError as error:  # rows of other features than the model of a saved file takes
        raise error if origin is None else error.within(origin.name) from None
    check_length(epochs, math.ceil(len(splits.train) / trainer.batch_size))
    check_batches(trainer.model, len(splits.train), trainer.batch_size, config.accumulate)
    parameters = f"{trainer.engine.params_layout.size:,} parameters"
    report(f"model {_chain(trainer)}: {parameters}, {config.dtype}")
    if origin is not None and not origin.resumed:
        assert config.start is not None
        started = trainer.start_from(
            origin.checkpoint,
            optimizer_state=config.start.optimizer_state,
            new_head=config.start.new_head or origin.new_head(splits.preprocessing),
            report=report,
        )
        if origin.run is None and not started.anew:
            report(_meaning(splits.preprocessing))
    of_ranks = ranks.described(comm)
    if of_ranks:
        report(ranks.in_words(of_ranks, trainer.batch_size))
    job = Job(config, folder, chosen, splits, trainer, report, warn, comm, of_ranks)
    with job.only_writer():
        # Another training may have begun or ended here since the first check; now none can.
        shared_by_all(comm, lambda: check_folder(config, folder, resume=resume))
        job.restore()
        if origin is not None and not origin.resumed:
            shared_by_all(comm, job.save)  # so that whoever resumes needs the source no more
        if resume:
            report(_position(trainer, epochs))
        interrupted = job.fit(watching)
        if trainer.stopped and not interrupted:
            report(f"stopped: {trainer.stopped}")
        return job.trained(interrupted=interrupted, scored=scored)


def prepare(
    source: Any,
    out: str | Path | None,
    *,
    recipe: str | None = None,
    settings: Iterable[str] | Mapping[str, Any] = (),
    start_from: str | Path | Run | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
    comm: Comm = ALONE,
) -> Prepared:
    """Check the settings of a training, and read and split its data, as :func:`train` does.

    Nothing is written.
    """
    settings = as_settings(settings)
    if start_from is not None:
        settings = _with_start(settings, start_from)
    table = source if speaks_arrow(source) else None
    source = IN_MEMORY if table is not None else source

    def first() -> tuple[Asked, Config]:
        folder = RunFolder(new_folder(source) if out is None else as_path(out, "out"))
        asked = Asked.of(source, settings, recipe, folder, resume=resume)
        config = asked.config(report)
        check_usable(config.tracking, folder)
        ranks.check_batch_size(config, comm)
        return asked, config

    asked, config = shared_by_all(comm, first)
    comm, origin = ranks.connected(comm, config), asked.origin
    chosen = ranks.resolved(comm, config)
    if config.tf32 is not None:
        chosen.backend.allow_tf32(config.tf32)
    report(f"backend {chosen.backend.name} on {chosen.backend.device_name} ({chosen.reason})")
    streamed = table is None and is_streamed(config)
    if streamed:
        report(f"data {config.data.source}: its rows stay in the file; scanning them once")
    reads = (comm.rank if streamed else comm.local_rank) == 0
    read = partial(read_data, config, table, origin)
    data: Data = agreed(comm, read if reads else None)
    before = config
    config = shared_by_all(comm, lambda: asked.config(lambda line: None, data, data.rows(before)))
    if origin is None:
        config.model.check_hidden()
    elif not origin.resumed:
        report(origin.line)
    shared = shared_by_all if streamed else shared_by_host
    splits = shared(comm, lambda: make_splits(config, data or read(), origin))
    return Prepared(splits.config, asked.folder, chosen, splits, origin, comm)


def new_folder(source: str | Path | Config | None, what: str = "") -> str:
    """Return the name of a folder that does not exist yet: ``runs/NAME[-WHAT]-DATE-TIME``."""
    name = Path(source.data.source if isinstance(source, Config) else source or "digits").stem
    name = ("table" if name == IN_MEMORY else name) + (f"-{what}" if what else "")
    new = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([new], (f"{new}-{n}" for n in itertools.count(2)))
    return next(name for name in names if not Path(name).exists())


def _with_start(
    settings: list[str] | Mapping[str, Any], start: str | Path | Run
) -> list[str] | Mapping[str, Any]:
    """The settings with what to start from."""
    if isinstance(start, Trainer):
        msg = (
            "a run starts from a run or a file, and a Trainer is in memory; save it, and give the "
        )
        msg += "file: start_from=trainer.save(path)"
        raise ConfigError(msg)
    path = start.folder.path if isinstance(start, Run) else as_path(start, "start_from")
    given = {"start.source": str(path)}
    if isinstance(start, Run) and start.checkpoint is not None and start.folder.path.is_dir():
        best = start.checkpoint.path == CheckpointFolder(start.folder.checkpoint_path).best_path
        given["start.which"] = "best" if best else "last"
    if isinstance(settings, Mapping):
        return {**given, **settings, "start.source": given["start.source"]}
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    return [*texts[1:], *settings, texts[0]]


def _refuse(source: Any, unknown: Iterable[str]) -> None:
    """Raise ConfigError for what is no source, and for arguments that train does not have."""
    if not (source is None or isinstance(source, str | Path | Config) or speaks_arrow(source)):
        msg = "train takes a recipe, the path of a file, a Config or a table, whose columns have "
        msg += f"names; got {type(source).__name__}; Trainer(...).fit((x, y), epochs=...) takes "
        msg += "arrays, as does a table of them"
        raise ConfigError(msg)
    for name in unknown:
        msg = f"train has no argument {name!r}"
        section = section_with(Config, name)
        if section or name in kinds_of(Config):
            key = f"{section}.{name}" if section else name
            msg += f"; settings={{{key!r}: ...}} sets it"
            raise ConfigError(msg)
        own = inspect.signature(train).parameters
        msg += f"; {did_you_mean(name, [key for key in own if key != 'unknown'])}"
        raise ConfigError(msg)


def _meaning(preprocessing: Preprocessing) -> str:
    """What the outputs of a model stand for that knows no names."""
    names = preprocessing.classes or preprocessing.targets or ("the target",)
    line = f"its outputs are taken for {', '.join(names[:10])}{', ...' if names[10:] else ''}"
    return f"{line}, in this order; start.new_head = true begins the last layer anew"


def _position(trainer: Trainer, epochs: int) -> str:
    epoch, batch, step = trainer.position
    if step == 0:
        return "no checkpoint to resume from yet: starting"
    if epoch >= epochs:
        return f"all {epoch} epochs are done; to train further: --set epochs={2 * epoch}"
    return f"resuming after step {step}: epoch {epoch + 1}, batch {batch + 1}"


def _chain(trainer: Trainer) -> str:
    """The widths of the input, of each dense layer, and of what else changes them: 64-128-10."""
    model = trainer.model
    before = model.input_shape or ()
    widths = ["x".join(map(str, before))]
    for layer, shape in zip(model.layers, model.shapes(), strict=True):
        if isinstance(layer, Dense) or shape != before:
            widths.append("x".join(map(str, shape)))
        before = shape
    return "-".join(widths)
