"""A page that trains the model of a run in a browser, with its exported step."""

import base64
import gzip
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet import page
from xpnet.data import Dataset, Shuffle
from xpnet.data.augment import Augment
from xpnet.errors import ConfigError, DataError
from xpnet.escape import escape
from xpnet.interop.onnx.coefficients import learning_rates
from xpnet.interop.onnx.step import predict_model, refuse, step_model
from xpnet.optim.schedules import Plateau
from xpnet.run.config import IN_MEMORY
from xpnet.run.origin import origin_of
from xpnet.run.splits import load_splits
from xpnet.run.trained_run import Run, make_trainer
from xpnet.step import dropout_keys
from xpnet.training.memory import in_words
from xpnet.training.trainer import Trainer

__all__ = ["CDN", "render"]

CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
RUNTIME = {"ort": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
MAX_BYTES = 32 * 2**20  # of rows in a page
MAX_PLANNED = 2**20  # numbers of orders and of keys; after them the page draws its own
MAX_STEPS = 1_000_000
PICTURES, UNITS = 36, 32


class _Rows(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None


def render(
    run: Run,
    *,
    runtime: str | Path | None = None,
    rows: int | None = None,
    epochs: int | None = None,
    trained: bool = False,
) -> str:
    """Return the HTML of a page that trains the run's model from its first weights.

    ``runtime`` is the folder ``dist`` of the npm package onnxruntime-web, whose files go into the
    page, or an https address that the page loads them from, by default a CDN's. ``rows`` limits
    the rows to train on, ``epochs`` is by default the run's; ``trained`` begins with the run's
    weights. The rows, their order and the keys of dropout are xpnet's own, so that the page follows
    the curve of ``xpnet train``.
    Raises ConfigError or DataError for a run whose data cannot go into a page.
    """
    config = run.config
    refuse(config.mixed, config.accumulate)
    if config.data.source == IN_MEMORY:
        msg = f"{run.folder.path} was trained on a table in memory, and a page needs the rows: "
        msg += "train from a file"
        raise DataError(msg)
    if config.start is not None and not trained:
        msg = f"{run.folder.path} started from the weights of {config.start.source}, which it does "
        msg += "not keep: a page can begin with the run's last ones"
        raise ConfigError(msg, python="pass trained=True", command="add --trained")
    splits = load_splits(config, origin=origin_of(run))
    if splits.fingerprint != run.fingerprint:
        msg = f"{splits.train.name} has changed since the run was trained on it"
        raise DataError(msg)
    trainer = make_trainer(config, run.preprocessing, "numpy")
    trainer.restore(*_beginning(run, trainer, trained=trained))
    held = splits.validation if splits.test is None else splits.test
    train = _rows_of(run, trainer, splits.train, rows)
    scored = None if held is None else _rows_of(run, trainer, held, 2000)
    epochs = epochs or int(config.epochs)
    steps = epochs * -(-len(train.x) // trainer.batch_size)
    if steps > MAX_STEPS:
        msg = f"a page takes at most {MAX_STEPS:,} steps; {epochs:,} epochs have {steps:,}"
        raise ConfigError(msg, python="pass fewer epochs", command="give fewer --epochs")
    return _page(run, trainer, train, scored, epochs, runtime, trained=trained)


def _beginning(
    run: Run, trainer: Trainer, *, trained: bool
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """A state at the first step: with the run's weights, or with the first ones.

    Either has the class weights that were counted in the run's rows.
    """
    tensors, meta = run.trainer.snapshot()
    if not trained:
        first, begun = trainer.snapshot()
        return first, {**begun, **{k: v for k, v in meta.items() if k == "class_weights"}}
    return tensors, {**meta, "position": {"epoch": 0, "batch": 0, "step": 0}, "history": []}


def _rows_of(run: Run, trainer: Trainer, data: Any, most: int | None) -> _Rows:
    """The rows as the model takes them."""
    if not isinstance(data, Dataset):
        msg = f"{data.name} is streamed from its file: a page has its rows in itself"
        raise DataError(msg, command="choose a smaller data set")
    whole = len(data)
    data = data.take(np.arange(min(whole, most or whole)))
    preprocessing, dtype = run.preprocessing, trainer.engine.backend.dtype_name
    x = preprocessing.encoder.apply(data.x, dtype)
    if x.nbytes > MAX_BYTES:
        limit = MAX_BYTES * len(x) // x.nbytes
        msg = f"{len(x):,} rows would be {in_words(x.nbytes)} in a page, which has room for "
        msg += in_words(MAX_BYTES)
        raise DataError(msg, python=f"pass rows={limit}", command=f"give --rows {limit}")
    assert data.y is not None
    y = preprocessing.scaled_targets(data.y)
    y = y.astype(np.int64 if trainer.loss.predicts == "class" and y.ndim == 1 else dtype)
    weight = None if data.weight is None else data.weight.astype(dtype)
    return _Rows(np.ascontiguousarray(x), np.ascontiguousarray(y), weight)


def _page(
    run: Run,
    trainer: Trainer,
    train: _Rows,
    held: _Rows | None,
    epochs: int,
    runtime: str | Path | None,
    *,
    trained: bool,
) -> str:
    address, blobs = _runtime(runtime)
    n, batch_size = len(train.x), trainer.batch_size
    per_epoch = -(-n // batch_size)
    steps, tensors = epochs * per_epoch, trainer.engine.tensors()
    targets = None if train.y.dtype == np.int64 else (train.y.shape[1] if train.y.ndim > 1 else 0)
    model = step_model(
        trainer,
        epochs=epochs,
        rows=n,
        targets=targets,
        weight=train.weight is not None,
        learning_rate="input",
    )
    table, packed = _packed(tensors)
    planned = min(epochs, MAX_PLANNED // n)
    random = trainer.model.n_random
    keys = [dropout_keys(trainer.seed, t, random) for t in range(steps)] if random else []
    nothing = np.zeros(0, train.x.dtype)
    blobs |= {
        "step": model.SerializeToString(),
        "predict": predict_model(trainer).SerializeToString(),
        "state": packed,
        "x": train.x.tobytes(),
        "y": train.y.tobytes(),
        "weight": (nothing if train.weight is None else train.weight).tobytes(),
        "held_x": (nothing if held is None else held.x).tobytes(),
        "held_y": (nothing if held is None else held.y).tobytes(),
        "orders": b"".join(
            Shuffle(trainer.seed, e).order(n).astype("<u4").tobytes() for e in range(planned)
        ),
        "keys": np.array(keys[: MAX_PLANNED // max(2 * random, 1)], "<i4").tobytes(),
    }
    image, first = _image(run, trainer)
    data = {
        "name": run.folder.path.name,
        "runtime": address,
        "dtype": train.x.dtype.name,
        "state": table,
        "rows": n,
        "held": 0 if held is None else len(held.x),
        "batch_size": batch_size,
        "steps_per_epoch": per_epoch,
        "steps": steps,
        "shape": list(train.x.shape[1:]),
        "targets": list(train.y.shape[1:]),
        "indices": train.y.dtype == np.int64,
        "weighted": train.weight is not None,
        "random_layers": random,
        "rates": _rates(trainer, steps, per_epoch),
        "seed": trainer.seed,
        "fingerprint": run.fingerprint,
        "classes": list(map(escape, run.preprocessing.classes or ())),
        "image": image,
        "pictures": PICTURES,
        "first_layer": first,
        "shown": 0 if first is None else min(UNITS, tensors[first].shape[1]),
    }
    # Where the page has all that xpnet's own training had.
    whole = n == run.folder.read_json(run.folder.run_path).get("train_rows")
    drawn = planned == epochs and len(keys) * 2 * random <= MAX_PLANNED
    config = run.config
    fixed = config.data.augment == Augment() and not isinstance(trainer.schedule, Plateau)
    follows = whole and drawn and fixed and not trained and epochs == config.epochs
    words = _words(run, trainer, data, tensors, first)
    return page.render(
        "xpnet.interop.onnx",
        "page.html",
        **words,
        address=address,
        origin=re.sub(r"^(https://[^/]+).*", r"\1", address or ""),
        follows=follows,
        data=data,
        blobs={name: _packed_text(raw) for name, raw in blobs.items()},
    )


def _rates(trainer: Trainer, steps: int, per_epoch: int) -> list[float]:
    base = trainer.optimizer.lr
    if isinstance(trainer.schedule, Plateau):
        return [base]
    return learning_rates(trainer.schedule, base, steps, per_epoch).tolist()


def _packed(tensors: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], bytes]:
    """The state's tensors one after the other, each at a multiple of 8 bytes, and where."""
    table, parts, start = [], [], 0
    for name, value in tensors.items():
        size = {"name": name, "dtype": value.dtype.name, "shape": list(value.shape)}
        table.append({**size, "start": start, "length": int(value.size)})
        raw = np.ascontiguousarray(value).tobytes()
        parts.append(raw + bytes(-len(raw) % 8))
        start += len(parts[-1])
    return table, b"".join(parts)


def _image(run: Run, trainer: Trainer) -> tuple[list[int] | None, str | None]:
    """The height and width of rows that are grey pictures, and the weights that meet them."""
    shape = run.preprocessing.feature_shape
    columns = run.preprocessing.columns
    named = bool(columns and columns.kinds)
    side = math.isqrt(math.prod(shape))
    if named or side < 4 or (len(shape) == 1 and side * side != shape[0]):
        return None, None
    if len(shape) == 3 and shape[-1] == 1:
        shape = shape[:2]
    if len(shape) > 2:
        return None, None
    image = [side, side] if len(shape) == 1 else list(shape)
    weights = [e for e in trainer.engine.params_layout.entries if e.variable == "W"]
    first = weights[0] if weights and weights[0].shape[0] == math.prod(image) else None
    return image, None if first is None else f"params/{first.name}"


def _words(
    run: Run,
    trainer: Trainer,
    data: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    first: str | None,
) -> dict[str, str]:
    classes = data["classes"]
    what = Path(run.config.data.source).stem or "the data"
    kind = f"tell {len(classes)} classes apart" if classes else "predict numbers"
    sizes = [math.prod(trainer.model.input_shape or ())]
    sizes += [e.shape[1] for e in trainer.engine.params_layout.entries if e.variable == "W"]
    chain = "-".join(map(str, sizes))
    lead = f"A {chain} network, {trainer.engine.params_layout.size:,} parameters, learns to {kind} "
    lead += f"from {data['rows']:,} rows of {what}. Each step is one ONNX model that xpnet wrote: "
    lead += "forward, backward and update. Nothing leaves this machine."
    return {
        "title": f"{what} learnt in the browser",
        "heading": f"A network learns {what}, here, as you watch",
        "lead": lead,
        "epochs": str(data["steps"] // data["steps_per_epoch"]),
        "steps": str(data["steps"]),
        "held": f"{data['held']:,}",
        "shown": str(data["shown"]),
        "units": "0" if first is None else str(tensors[first].shape[1]),
    }


def _runtime(runtime: str | Path | None) -> tuple[str | None, dict[str, bytes]]:
    """The address that the page loads onnxruntime-web from, or its files."""
    given = CDN if runtime is None else str(runtime)
    if "://" in given:
        if not re.fullmatch(r"https://[\w.:/@+~-]+", given):
            msg = f"the runtime's address must be https://HOST/FOLDER/; got {given!r}"
            raise ConfigError(msg)
        return given.rstrip("/") + "/", {}
    folder = Path(given)
    folder = folder / "dist" if (folder / "dist").is_dir() else folder
    missing = [name for name in RUNTIME.values() if not (folder / name).is_file()]
    if missing:
        msg = f"{str(folder)!r} is no dist folder of onnxruntime-web: it has no {missing[0]}"
        remedy = "npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz, then package/dist"
        raise ConfigError(msg, python=remedy, command=remedy)
    return None, {key: (folder / name).read_bytes() for key, name in RUNTIME.items()}


def _packed_text(raw: bytes) -> str:
    return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()
