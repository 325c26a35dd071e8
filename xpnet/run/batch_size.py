"""``batch_size = "largest"``: the largest batch that fits the memory of the device."""

from collections.abc import Callable
from dataclasses import replace

from xpnet.backends import Backend
from xpnet.nn.fit import alone_in
from xpnet.run.config import Config
from xpnet.run.preprocessing import Splits, model_of
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.training.engine import Engine
from xpnet.training.memory import fitting_batch, footprint

__all__ = ["with_batch_size"]


def with_batch_size(
    config: Config, backend: Backend, splits: Splits, report: Callable[[str], None]
) -> Config:
    """Return ``config`` with a number for its batch size, found by trying steps on zeros."""
    if config.batch_size != "largest":
        return config
    preprocessing, loss, optimizer = splits.preprocessing, config.loss, config.optimizer
    model = model_of(config, preprocessing)
    need = footprint(model, optimizer, 8 if config.dtype == "float64" else 4)
    xp, where = backend.xp, backend.device
    kind = xp.int32 if loss.predicts == "class" else backend.dtype

    def attempt(rows: int) -> None:
        engine = Engine(backend, model, loss, optimizer, config.clip)
        x = xp.zeros((rows, *preprocessing.input_shape), dtype=backend.dtype, device=where)
        shape = (rows,) if loss.predicts == "class" else (rows, preprocessing.outputs)
        y = xp.zeros(shape, dtype=kind, device=where)
        keys = dropout_keys(config.seed, 0, model.n_random)
        numbers = StepInputs(0, engine.optimizer.coefficients(optimizer.lr, 1), keys)
        backend.synchronize(engine.train(Batch(x, y), numbers))

    size = fitting_batch(need, backend, len(splits.train), attempt)
    while size > 2 and alone_in(model, len(splits.train), size, config.accumulate):
        size -= 1
    report(f"batch size {size:,} is the largest that fits")
    return replace(config, batch_size=size)
