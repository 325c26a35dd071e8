"""``batch_size = "largest"``: the largest batch that fits the memory of the device."""

from collections.abc import Callable
from dataclasses import replace

from xpnet.backends import Backend
from xpnet.nn.fit import alone_in
from xpnet.run.config import Config
from xpnet.run.preprocessing import Splits
from xpnet.run.trained_run import make_trainer
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader
from xpnet.training.memory import fitting_batch, footprint

__all__ = ["with_batch_size"]


def with_batch_size(
    config: Config, backend: Backend, splits: Splits, report: Callable[[str], None]
) -> Config:
    """Return ``config`` with a number for its batch size, found by trying steps on zeros."""
    if config.batch_size != "largest":
        return config
    rows, loss, preprocessing = len(splits.train), config.loss, splits.preprocessing
    placed = _placed(config, backend, splits)
    model = make_trainer(config, preprocessing, backend).model
    need = footprint(model, config.optimizer, 8 if config.dtype == "float64" else 4)
    labels = loss.predicts == "class"

    def zeros(size: int) -> Batch:
        xp, where = backend.xp, backend.device
        x = xp.zeros((size, *preprocessing.input_shape), dtype=backend.dtype, device=where)
        shape = (size,) if labels else (size, preprocessing.outputs)
        return Batch(x, xp.zeros(shape, dtype=xp.int32 if labels else x.dtype, device=where))

    def attempt(size: int) -> None:
        engine = make_trainer(config, preprocessing, backend).engine
        for each in dict.fromkeys((size, rows % size or size)):  # the last batch of an epoch, too
            _take_steps(engine, backend.bound(zeros)(each), config)

    size = fitting_batch(need, backend, rows, attempt)
    del placed
    while size > 2 and alone_in(model, rows, size, config.accumulate):
        size -= 1
    report(f"batch size {size:,} is the largest that fits")
    return replace(config, batch_size=size)


def _placed(config: Config, backend: Backend, splits: Splits) -> list[Loader]:
    """The rows, which in the training are in the device's memory, too, unless they do not fit."""
    if backend.free_memory() is None:
        return []
    data, place = config.data, splits.preprocessing.loader
    train = place(backend, splits.train, data.placement, data.augment)
    return [train] if splits.validation is None else [train, place(backend, splits.validation)]


def _take_steps(engine: Engine, batch: Batch, config: Config) -> None:
    """Take as many steps as may each take more memory than the one before."""
    for step in range(engine.step.until_steady):
        keys = dropout_keys(config.seed, step, engine.model.n_random)
        numbers = engine.coefficients(config.optimizer.lr, step + 1)
        cost = engine.train(batch, StepInputs(step, numbers, keys))
    engine.backend.synchronize(cost)
