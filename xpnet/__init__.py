"""Dense neural networks whose mathematics is written once against the Array API standard.

    from xpnet import Dense, ReLU, Sequential, Trainer

    model = Sequential([Dense(256), ReLU(), Dense(10)])
    trainer = Trainer(model, backend="cupy")
    trainer.fit((x, y), epochs=10)

The formulas, each beside its derivative, are in :mod:`xpnet.ops`; start there. The names below are
imported at their first use, so that ``import xpnet`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# module -> the public names it defines
_PUBLIC = {
    "xpnet.backends": ("Backend", "get_backend", "resolve"),
    "xpnet.callbacks": ("Callback", "Checkpointing", "EarlyStopping", "HistoryFile"),
    "xpnet.clipping": ("Clip",),
    "xpnet.config": ("Config", "load_config"),
    "xpnet.errors": (
        "BackendError",
        "CheckpointError",
        "ConfigError",
        "DataError",
        "TrainingError",
        "XpnetError",
    ),
    "xpnet.feed": ("Feed",),
    "xpnet.initializers": (
        "Constant",
        "GlorotNormal",
        "GlorotUniform",
        "HeNormal",
        "HeUniform",
        "LeCunNormal",
        "LeCunUniform",
        "Ones",
        "Orthogonal",
        "Zeros",
    ),
    "xpnet.layers": (
        "ELU",
        "GELU",
        "SELU",
        "BatchNorm",
        "Dense",
        "Dropout",
        "Flatten",
        "GELUTanh",
        "Identity",
        "LayerNorm",
        "LeakyReLU",
        "LogSoftmax",
        "ReLU",
        "Sequential",
        "SiLU",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Tanh",
    ),
    "xpnet.losses": (
        "BinaryCrossEntropy",
        "CrossEntropy",
        "Huber",
        "MeanSquaredError",
        "SoftmaxCrossEntropy",
    ),
    "xpnet.optimizers": ("SGD", "Adagrad", "Adam", "AdamW", "Lion", "RMSProp"),
    "xpnet.progress": ("Progress",),
    "xpnet.run": ("load_run",),
    "xpnet.trainer": ("Trainer",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*sorted(_HOME), "__version__", "schedules"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name == "schedules":  # as a module: schedules.Constant is not initializers.Constant
        return importlib.import_module("xpnet.schedules")
    msg = f"module 'xpnet' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from xpnet.backends import Backend, get_backend, resolve
    from xpnet.callbacks import Callback, Checkpointing, EarlyStopping, HistoryFile
    from xpnet.clipping import Clip
    from xpnet.config import Config, load_config
    from xpnet.errors import (
        BackendError,
        CheckpointError,
        ConfigError,
        DataError,
        TrainingError,
        XpnetError,
    )
    from xpnet.feed import Feed
    from xpnet.initializers import (
        Constant,
        GlorotNormal,
        GlorotUniform,
        HeNormal,
        HeUniform,
        LeCunNormal,
        LeCunUniform,
        Ones,
        Orthogonal,
        Zeros,
    )
    from xpnet.layers import (
        ELU,
        GELU,
        SELU,
        BatchNorm,
        Dense,
        Dropout,
        Flatten,
        GELUTanh,
        Identity,
        LayerNorm,
        LeakyReLU,
        LogSoftmax,
        ReLU,
        Sequential,
        Sigmoid,
        SiLU,
        Softmax,
        Softplus,
        Tanh,
    )
    from xpnet.losses import (
        BinaryCrossEntropy,
        CrossEntropy,
        Huber,
        MeanSquaredError,
        SoftmaxCrossEntropy,
    )
    from xpnet.optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSProp
    from xpnet.progress import Progress
    from xpnet.run import load_run
    from xpnet.trainer import Trainer
