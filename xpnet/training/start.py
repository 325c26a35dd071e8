"""A training that starts from the weights of another one: fine-tuning.

Layers are found by their names in a checkpoint, such as ``2.dense``, and taken where all their
tensors have the shapes that they have there. The last layer may have another number of outputs,
and then begins anew; any other difference is an error, since a network with some layers of random
weights in the middle is no start. Each line of :attr:`Start.lines` says what was done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from xpnet.errors import CheckpointError, ConfigError, TrainingError
from xpnet.nn import Shape
from xpnet.nn.layout import Layout
from xpnet.optim.groups import frozen
from xpnet.registry import name_of
from xpnet.storage import Checkpoint, CheckpointFolder, load
from xpnet.storage.safe_open import as_path
from xpnet.training.saved import file_at

if TYPE_CHECKING:
    from xpnet.training.trainer import Trainer

__all__ = ["Source", "Start", "source_of", "start"]

Tensors = Mapping[str, np.ndarray]
Layers = dict[str, dict[str, Shape]]  # the shapes of each layer's tensors, by name


class Source(NamedTuple):
    """What a training can start from."""

    name: str  # for people
    tensors: Tensors  # as those of a checkpoint
    rule: str  # the registered name of the update rule
    updates: int  # that this rule has made
    encoded: bool = False  # whether a run's preprocessing comes before the model
    inputs: Shape | None = None  # of its model, where that is written


@dataclass(frozen=True)
class Start:
    """What was taken from a source, and what begins anew: names of layers."""

    taken: tuple[str, ...]
    anew: tuple[str, ...]
    lines: tuple[str, ...]  # all of it in words


def source_of(source: Any) -> Source:
    """Return what to start from: a Trainer, a Run, a Checkpoint, or the path of a run or a file.

    Of a run's folder it is the best checkpoint, where there is one, or else the last.
    Raises CheckpointError where nothing can be read, TrainingError for random weights.
    """
    name, source = "the given trainer", getattr(source, "trainer", source)
    if isinstance(source, str | Path):
        source = _read(as_path(source, "what to start from"))
    if isinstance(source, Checkpoint):
        name, tensors, meta = str(source.path), source.tensors, source.meta
        settings = _table(_table(meta.get("trainer")).get("settings") or meta.get("config"))
        rule = _table(settings.get("optimizer")).get("name", "adam")
        shape = _table(settings.get("model")).get("input_shape")
        counts = isinstance(shape, list) and all(type(n) is int for n in shape)
        inputs = tuple(cast(list, shape)) if counts else None
    elif hasattr(source, "snapshot"):
        (tensors, meta), rule = source.snapshot(), name_of(source.optimizer)
        inputs = source.model.input_shape
    else:
        msg = "a training starts from a Trainer, a Run, a saved file or the folder of a run; "
        msg += f"got {type(source).__name__}"
        arrays = "assign arrays by name, trainer.params = ..., for weights alone"
        raise ConfigError(msg, python=arrays if isinstance(source, Mapping) else "")
    if meta.get("trained") is False:
        msg = f"{name} has not been trained: its weights are random"
        raise TrainingError(msg)
    try:
        done = meta["position"]["step"] + meta.get("updates_before", 0)
        done -= int(tensors.get("skipped", 0))
    except (LookupError, TypeError, ValueError) as error:
        msg = f"{name} is no checkpoint of a training: {error!r}"
        raise CheckpointError(msg) from error
    return Source(name, tensors, rule, done, "preparation" in meta, inputs)


def _table(value: Any) -> dict[str, Any]:
    """A table of a checkpoint; its digests are right, but anybody may have written it."""
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Checkpoint:
    folder = path / "checkpoints"
    if not (folder.is_dir() or (path / "config.toml").is_file()):
        return load(file_at(path))
    checkpoints = CheckpointFolder(folder)
    if (found := checkpoints.best() or checkpoints.newest()) is None:
        msg = f"no checkpoint in {folder} to start from"
        raise CheckpointError(msg)
    return found


def start(
    trainer: "Trainer", source: Source, *, optimizer_state: bool = False, new_head: bool = False
) -> tuple[Start, dict[str, np.ndarray]]:
    """Return what ``trainer`` takes from ``source``, and its tensors with that in them.

    ``new_head`` has the last layer begin anew in any case. Raises ConfigError for a layer that
    does not fit, and where the state of the optimizer is to be kept and cannot be.
    """
    engine = trainer.engine
    own, theirs = _own(engine.params_layout, engine.stats_layout), _layers(source.tensors)
    last = engine.params_layout.entries[-1].name.rpartition(".")[0] if own else ""
    taken, anew, lines = list[str](), list[str](), list[str]()
    for layer, shapes in own.items():
        if layer == last and _ends_anew(shapes, theirs.get(layer), new_head=new_head):
            anew.append(layer)
            now, before = _outputs(shapes), _outputs(theirs.get(layer, {}))
            other = f": {now} outputs, and {before} there" if before not in (None, now) else ""
            lines.append(f"the last layer, {layer}, begins anew{other}")
        elif layer not in theirs:
            anew.append(layer)
            lines.append(f"{layer} is not in {source.name}, and begins anew")
        elif shapes == theirs[layer]:
            taken.append(layer)
        else:
            raise _misfit(layer, shapes, theirs[layer], source.name)
    if not taken:
        msg = f"no layer of {source.name} has the name of one here: it has "
        msg += f"{', '.join(theirs) or 'none'}, and this model {', '.join(own) or 'none'}"
        raise ConfigError(msg)
    lines.insert(0, f"weights of {source.name}: {', '.join(taken)}")
    if left := [layer for layer in theirs if layer not in own]:
        lines.append(f"left out, for this model has no such layers: {', '.join(left)}")
    slots = _slots(trainer, source, anew) if optimizer_state else ()
    lines.append(
        f"the optimizer keeps its state of {source.updates:,} updates"
        if optimizer_state
        else "the optimizer begins anew"
    )
    if still := _frozen(trainer, own, anew):
        lines.append(f"frozen: {', '.join(still)}")
    tensors = engine.tensors()
    for key, mine in tensors.items():
        kind, _, name = key.partition("/")
        kept = (kind in ("params", "stats") and name.rpartition(".")[0] in taken) or (
            kind == "slots" and name.partition("/")[0] in slots
        )
        if kept:
            tensors[key] = np.asarray(source.tensors[key]).astype(mine.dtype)
            if not np.isfinite(tensors[key]).all():
                msg = f"{source.name} has values of {name} that are not finite in {mine.dtype}"
                raise CheckpointError(msg)
    return Start(tuple(taken), tuple(anew), tuple(lines)), tensors


def _own(*layouts: Layout) -> Layers:
    layers: Layers = {}
    for e in sorted((e for layout in layouts for e in layout.entries), key=lambda e: e.layer):
        layers.setdefault(e.name.rpartition(".")[0], {})[e.name] = e.shape
    return layers


def _layers(tensors: Tensors) -> Layers:
    layers: Layers = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind in ("params", "stats"):
            layers.setdefault(name.rpartition(".")[0], {})[name] = tuple(tensor.shape)
    return layers


def _outputs(shapes: dict[str, Shape]) -> int | None:
    return next((shape[-1] for shape in shapes.values() if shape), None)


def _ends_anew(ours: dict[str, Shape], theirs: dict[str, Shape] | None, *, new_head: bool) -> bool:
    """Whether the last layer begins anew: asked to, or with other outputs and nothing else."""
    if new_head or theirs is None or theirs == ours:
        return new_head
    pairs = [(shape, theirs.get(name, ())) for name, shape in ours.items()]
    return ours.keys() == theirs.keys() and all(a[:-1] == b[:-1] for a, b in pairs)


def _misfit(layer: str, ours: dict[str, Shape], theirs: dict[str, Shape], name: str) -> ConfigError:
    names = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    here, there = ours.get(names[0], "not there"), theirs.get(names[0], "not there")
    msg = f"{layer} cannot start from {name}: {names[0]} is {there} there, and {here} here; "
    msg += "only the outputs of the last layer may differ, so the rows need the same features and "
    return ConfigError(msg + "the layers the same widths")


def _slots(trainer: "Trainer", source: Source, anew: list[str]) -> tuple[str, ...]:
    """The names of the optimizer's slots; raises ConfigError where their state cannot be kept."""
    rule, slots = name_of(trainer.optimizer), trainer.engine.optimizer.slots
    if anew:
        problem = f"{anew[-1]} begins anew, and a rule counts its steps for all layers alike"
    elif rule != source.rule:
        problem = f"that is of {source.rule}, and this training's rule is {rule}"
    elif lost := [
        key for key in trainer.engine.tensors() if key[:6] == "slots/" and key not in source.tensors
    ]:
        problem = f"{source.name} has no {lost[0]}"
    else:
        return slots
    msg = f"the state of the optimizer cannot be kept: {problem}"
    raise ConfigError(
        msg, python="leave out optimizer_state", command="leave out start.optimizer_state"
    )


def _frozen(trainer: "Trainer", own: Layers, anew: Iterable[str]) -> list[str]:
    """The layers that are frozen; raises ConfigError where random weights would stay."""
    still = set(frozen(trainer.optimizer, trainer.engine.params_layout))
    if random := [layer for layer in anew if still.issuperset(own[layer])]:
        msg = f"{random[0]} begins anew and is frozen, so its weights would stay random"
        raise ConfigError(
            msg, python="take it out of freeze", command="take it out of optimizer.freeze"
        )
    return [layer for layer, names in own.items() if still.intersection(cast(Any, names))]
