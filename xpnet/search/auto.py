"""The space of ``--sweep auto``: what most often matters, around the settings that a run has."""

from typing import Any

from xpnet.nn import ACTIVATIONS
from xpnet.optim.schedules import Constant
from xpnet.registry import name_of
from xpnet.run.config import Config

__all__ = ["auto_space"]

WIDEST, NARROWEST = 1024, 16


def auto_space(config: Config, rows: int, *, architecture: bool = True) -> dict[str, Any]:
    """Return a space around ``config``, whose numbers are decided, for so many training rows.

    Ten times the learning rate either way, half and twice the batch, other widths and depths, the
    activation, dropout, weight decay, and whether the rate falls. Without ``architecture`` (a run
    that starts from another) the model stays.
    """
    lr, batch = config.optimizer.lr, config.batch_size
    low, high = (float(f"{end:.3g}") for end in (lr / 10, lr * 10))
    space: dict[str, Any] = {"optimizer.lr": {"low": low, "high": high, "log": True}}
    if isinstance(batch, int):
        least = max(config.accumulate, 2)
        sizes = sorted({size for size in (batch // 2, batch, 2 * batch) if least <= size <= rows})
        if len(sizes) > 1:
            space["batch_size"] = {"choices": sizes}
    model = config.model
    if architecture and model.layers is None and model.hidden:
        space["model.hidden"] = {"choices": _widths(model.hidden)}
        activations = dict.fromkeys([name_of(model.activation), "relu", "gelu", "tanh"])
        if name_of(model.activation) in ACTIVATIONS:
            space["model.activation"] = {"choices": [*activations]}
        space["model.dropout"] = {"low": 0.0, "high": 0.5, "step": 0.05}
    if hasattr(config.optimizer, "weight_decay"):
        own = config.optimizer.weight_decay
        space["optimizer.weight_decay"] = {"choices": sorted({own, 0.0, 1e-5, 1e-4, 1e-3, 1e-2})}
    if config.schedule == Constant():
        space["schedule.name"] = {"choices": ["constant", "cosine"]}
    return space


def _widths(hidden: tuple[int, ...]) -> list[list[int]]:
    """The hidden layers as they are, half and twice as wide, and with one more or one fewer."""
    half = [max(width // 2, min(width, NARROWEST)) for width in hidden]
    twice = [min(2 * width, max(width, WIDEST)) for width in hidden]
    tried = [[*hidden], half, twice, [*hidden, hidden[-1]], [*hidden[:-1]] or [*hidden, *half]]
    return [widths for n, widths in enumerate(tried) if widths not in tried[:n]]
