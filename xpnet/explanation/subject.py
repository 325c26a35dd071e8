"""The subject of an explanation: a built model with its weights, a loss and a few examples."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.check.sample import drawn, drawn_for, sample_rows
from xpnet.errors import ConfigError
from xpnet.nn import ACTIVATIONS, ReLU, Sequential
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.nn.losses import LOSSES, CrossEntropy, Loss
from xpnet.registry import name_of
from xpnet.run import Run, load
from xpnet.run.config import ModelConfig
from xpnet.run.config_sources import load_config
from xpnet.run.plain_run import is_saved
from xpnet.run.trained_run import load_run
from xpnet.settings import build_named
from xpnet.training.trainer import Trainer

__all__ = ["Subject", "of_config", "of_run", "of_sizes", "of_trainer", "subject_of", "tiny"]

MOST_ROWS = 10**6

# Small enough to follow by hand. The label is not the likeliest class, so the gradient is large.
X = ((1.0, 2.0, -1.0),)
W = ((0.5, -0.2, 0.1), (0.3, 0.4, -0.5), (-0.1, 0.2, 0.6))
B = (0.1, 0.0, -0.1)
LABEL = 1


@dataclass(frozen=True, eq=False)
class Subject:
    """The inputs of a training step to explain: N examples, on the host, in float64."""

    title: str
    model: Sequential
    loss: Loss
    params: list[dict[str, np.ndarray]]  # a mapping per layer, including statistics
    x: np.ndarray  # (N, ...)
    y: np.ndarray  # (N,) int32 labels, or (N, K) targets
    weights: str  # where the weights come from
    classes: tuple[str, ...] = ()
    train: bool = True  # False: dropout and batch normalisation as in inference
    seed: int = 0
    rows: str = "synthetic"  # where the rows come from


def _loss(name: str | None, default: type[Loss] = CrossEntropy) -> Loss:
    return default() if name is None else build_named(LOSSES, name, "loss")


def _first_weights(model: Sequential, seed: int) -> list[dict[str, np.ndarray]]:
    split = [
        layout.split(v) for layout, v in zip(layouts(model), initialize(model, seed), strict=True)
    ]
    return [dict(layer) for layer in merge(*split)]


def subject_of(
    source: Any,
    batch: int,
    sample: int,
    label: int | None,
    loss: str | None,
    activation: str | None,
    seed: int | None,
) -> Subject:
    """Return the subject that ``source`` names.

    That is None, widths, a recipe, a file, a run, a saved model or a Trainer.

    A Subject is returned as it is. Raises ConfigError, CheckpointError or DataError.
    """
    if isinstance(source, Subject):
        if (batch, sample, label, loss, activation, seed) != (1, 0, None, None, None, None):
            msg = "a Subject has its own rows, loss and weights: omit the options"
            raise ConfigError(msg)
        return source
    if isinstance(source, Trainer) and (loss, activation, seed) != (None, None, None):
        msg = "a trainer has its own loss, activation and seed: omit the options"
        raise ConfigError(msg)
    if not (1 <= batch <= MOST_ROWS and sample >= 0 and 0 <= (seed or 0) < 2**63):
        msg = f"batch must be 1 to {MOST_ROWS}, sample >= 0 and seed 0 to 2^63 - 1; "
        msg += f"got {batch}, {sample} and {seed or 0}"
        raise ConfigError(msg)
    if isinstance(source, str | Path) and (Path(source).is_dir() or is_saved(source)):
        if (loss, activation, seed) != (None, None, None):
            msg = "a run has its own loss, activation and seed"
            raise ConfigError(
                msg,
                python="omit loss, activation and seed",
                command="omit --loss, --activation and --seed",
            )
        found = load(source, backend="numpy", device="cpu")
        if isinstance(found, Run):
            return of_run(found, batch, sample, label)
        source = found
    if isinstance(source, str | Path):
        return of_config(str(source), batch, sample, loss, activation, label, seed)
    if not isinstance(source, Sequence | Trainer | None):
        msg = "explain takes widths such as [784, 128, 10], a recipe, a TOML file or a run folder; "
        msg += f"got {type(source).__name__}"
        raise ConfigError(msg)
    if sample:
        msg = "synthetic rows have no sample to choose"
        raise ConfigError(msg, python="omit sample", command="omit --sample")
    if isinstance(source, Trainer):
        return of_trainer(source, batch, label)
    if source is None and batch == 1:
        return tiny(loss, activation, label, seed)
    return of_sizes((3, 3) if source is None else source, batch, loss, activation, label, seed)


def tiny(
    loss: str | None = None,
    activation: str | None = None,
    label: int | None = None,
    seed: int | None = None,
) -> Subject:
    """Return an example that fits on a page: N = 1, I = 3, J = K = 3.

    Its numbers are fixed, or random if an ``activation`` (which adds a hidden layer of 3) or a
    ``seed`` is given. Raises ConfigError.
    """
    if activation is not None or seed is not None:
        hidden = [] if activation is None else [3]
        drawn = of_sizes([3, *hidden, 3], 1, loss, activation, label, seed)
        return dataclasses.replace(drawn, title="One example, three inputs, three classes")
    chosen = _loss(loss)
    model = ModelConfig(hidden=()).model((3,), 3, chosen)
    params: list[dict[str, np.ndarray]] = [{"W": np.array(W), "b": np.array(B)}]
    params += [{} for _ in model.layers[1:]]
    y = _targets(chosen, np.array([LABEL], dtype=np.int32), 3, label)
    title = "One example, three inputs, three classes"
    return Subject(title, model, chosen, params, np.array(X), y, "chosen to be readable")


def of_sizes(
    sizes: Sequence[int],
    batch: int = 1,
    loss: str | None = None,
    activation: str | None = None,
    label: int | None = None,
    seed: int | None = None,
) -> Subject:
    """Return a network of these widths with its initial weights, and standard normal examples.

    Raises ConfigError.
    """
    if len(sizes) < 2 or min(sizes) < 1 or batch < 1:
        got = " ".join(map(str, sizes))
        msg = f"give at least two sizes, inputs and outputs, each >= 1; got {got}"
        raise ConfigError(msg)
    chosen, seed = _loss(loss), seed or 0
    layer = ReLU() if activation is None else build_named(ACTIVATIONS, activation, "activation")
    model = ModelConfig(hidden=tuple(sizes[1:-1]), activation=layer).model(
        (sizes[0],), sizes[-1], chosen
    )
    x, labels = drawn(seed, batch, (sizes[0],), sizes[-1])
    y = _targets(chosen, labels, sizes[-1], label)
    title = f"A network {'-'.join(map(str, sizes))} and a batch of {batch}"
    params = _first_weights(model, seed)
    return Subject(title, model, chosen, params, x, y, f"initial weights of seed {seed}", seed=seed)


def of_trainer(trainer: Trainer, batch: int = 1, label: int | None = None) -> Subject:
    """Return a trainer's network with its weights, and standard normal examples.

    Raises TrainingError where the sizes are not known, ConfigError.
    """
    params = trainer.params
    model, loss, seed = trainer.model, trainer.loss, trainer.seed
    layers: list[dict[str, np.ndarray]] = [{} for _ in model.layers]
    for layout in layouts(model):
        for e in layout.entries:
            layers[e.layer][e.variable] = params[e.name].astype(np.float64)
    x, labels, K = drawn_for(trainer, batch)
    y = _targets(loss, labels, K, label)
    title = f"A trainer's network and a batch of {batch}"
    return Subject(title, model, loss, layers, x, y, "the trainer's", train=False, seed=seed)


def _targets(loss: Loss, labels: np.ndarray, n_classes: int, label: int | None) -> np.ndarray:
    """Return the labels with ``label`` in the first row, one-hot for losses without class indices.

    Raises ConfigError.
    """
    if label is not None:
        if not 0 <= label < n_classes:
            msg = f"label must be a class from 0 to {n_classes - 1}; got {label}"
            raise ConfigError(msg)
        labels = labels.copy()
        labels[0] = label
    return labels if loss.predicts == "class" else np.eye(n_classes)[labels]


def _relabelled(
    loss: Loss, y: np.ndarray, n_classes: int, label: int | None, whose: str
) -> np.ndarray:
    """Return targets that come with the data, with ``label`` in the first row.

    Raises ConfigError for a label where they are not classes.
    """
    if loss.predicts == "class":
        return _targets(loss, y, n_classes, label)
    if label is not None:
        msg = f"{whose} predicts a {loss.predicts}, not a class"
        raise ConfigError(msg, python="omit label", command="omit --label")
    return y


def of_config(
    source: str,
    batch: int = 1,
    sample: int = 0,
    loss: str | None = None,
    activation: str | None = None,
    label: int | None = None,
    seed: int | None = None,
) -> Subject:
    """Return the model of a recipe or TOML file with its initial weights, and rows of its data.

    Raises ConfigError or DataError.
    """
    named = {"loss": loss, "model.activation": activation, "seed": seed}
    config = load_config(source, [f"{k}={v}" for k, v in named.items() if v is not None])
    rows = sample_rows(config, sample + batch)
    config = rows.config
    _check_sample(sample, len(rows.x), rows.source)
    y = rows.y[sample:].astype(np.int32 if config.loss.predicts == "class" else np.float64)
    y = _relabelled(config.loss, y, rows.model.output_shape[0], label, f"the loss of {source}")
    return Subject(
        f"{source}: "
        + (f"row {sample}" if len(y) == 1 else f"rows {sample}..{sample + len(y) - 1}"),
        rows.model,
        config.loss,
        _first_weights(rows.model, config.seed),
        rows.x[sample:],
        y,
        f"initial weights of seed {config.seed}",
        seed=config.seed,
        rows=rows.source,
    )


def of_run(
    run: str | Path | Run, batch: int = 1, sample: int = 0, label: int | None = None
) -> Subject:
    """Return a trained model and rows of its test data, which training did not see.

    ``run`` is its path, or itself on NumPy. Raises CheckpointError, ConfigError or DataError.
    """
    run = run if isinstance(run, Run) else load_run(run, backend="numpy", device="cpu")
    part, preprocessing = run.test_part(), run.preprocessing
    _check_sample(sample, len(part), f"the test data of {part.name}")
    some = part.take(np.arange(sample, min(sample + batch, len(part))))
    x = preprocessing.encoder.apply(some.x, "float64")
    loss, y = run.config.loss, np.asarray(some.y)
    y = _relabelled(loss, y, preprocessing.outputs, label, "the run's loss")
    y = preprocessing.scaled_targets(y)
    engine = run.trainer.engine
    state = engine.host_state()
    split = engine.params_layout.split(state.params), layouts(engine.model)[1].split(state.stats)
    params = [{k: v.astype(np.float64) for k, v in layer.items()} for layer in merge(*split)]
    return Subject(
        f"A trained run: sample {sample} of the test data",
        engine.model,
        loss,
        params,
        x,
        y if loss.predicts == "class" else y.astype(np.float64).reshape(len(y), -1),
        f"trained, {run.checkpoint.path.name if run.checkpoint else run.folder.path.name}",
        run.preprocessing.classes or (),
        train=False,
        seed=run.config.seed,
        rows=f"{part.name}, held out",
    )


def _check_sample(sample: int, count: int, where: str) -> None:
    if not 0 <= sample < count:
        msg = f"sample must be a row from 0 to {count - 1} of {where}; got {sample}"
        raise ConfigError(msg)


def setting_of(subject: Subject, backend: Any) -> tuple[tuple[str, str], ...]:
    """Return the facts about where the numbers come from, as (name, value) pairs."""
    model = subject.model
    widths = [model.input_shape or (), *model.shapes()]
    chain = ["x".join(map(str, shape)) for shape in widths]
    chain = [w for i, w in enumerate(chain) if i == 0 or w != chain[i - 1] or i == 1]
    described = backend.describe()
    return (
        ("network", "-".join(chain)),
        ("loss", f"{name_of(subject.loss)}, reduction {subject.loss.reduction}"),
        ("batch", f"N = {len(subject.x)}, {subject.rows}"),
        ("weights", subject.weights),
        ("computed by", "{backend} {version} on {device}, {dtype}".format(**described)),
    )
