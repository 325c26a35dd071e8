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
    "xpnet.training.callbacks": ("Callback", "Checkpointing", "EarlyStopping", "HistoryFile"),
    "xpnet.optim.clipping": ("Clip",),
    "xpnet.run.config": ("Config", "load_config"),
    "xpnet.errors": (
        "BackendError",
        "CheckpointError",
        "ConfigError",
        "DataError",
        "TrainingError",
        "XpnetError",
    ),
    "xpnet.training.loader": ("Loader",),
    "xpnet.nn.initializers": (
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
    "xpnet.nn": (
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
    "xpnet.nn.losses": (
        "BinaryCrossEntropy",
        "CrossEntropy",
        "Huber",
        "MeanSquaredError",
        "SoftmaxCrossEntropy",
    ),
    "xpnet.optim.optimizers": ("SGD", "Adagrad", "Adam", "AdamW", "Lion", "RMSProp"),
    "xpnet.training.progress": ("Progress",),
    "xpnet.run": ("load",),
    "xpnet.training.trainer": ("Trainer",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*sorted(_HOME), "__version__", "schedules"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name == "schedules":  # as a module: schedules.Constant is not initializers.Constant
        return importlib.import_module("xpnet.optim.schedules")
    msg = f"module 'xpnet' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from xpnet.backends import Backend, get_backend, resolve
    from xpnet.errors import (
        BackendError,
        CheckpointError,
        ConfigError,
        DataError,
        TrainingError,
        XpnetError,
    )
    from xpnet.nn import (
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
    from xpnet.nn.initializers import (
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
    from xpnet.nn.losses import (
        BinaryCrossEntropy,
        CrossEntropy,
        Huber,
        MeanSquaredError,
        SoftmaxCrossEntropy,
    )
    from xpnet.optim.clipping import Clip
    from xpnet.optim.optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSProp
    from xpnet.run import load
    from xpnet.run.config import Config, load_config
    from xpnet.training.callbacks import Callback, Checkpointing, EarlyStopping, HistoryFile
    from xpnet.training.loader import Loader
    from xpnet.training.progress import Progress
    from xpnet.training.trainer import Trainer
