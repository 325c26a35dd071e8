"""The names of ``import xpnet``: the one list, for type checkers and for ``__init__.py``.

lazy_loader reads it at run time, so it has nothing but relative imports.
"""

from . import ops as ops
from .backends import Backend as Backend, get_backend as get_backend, resolve as resolve
from .check.gradcheck import gradcheck as gradcheck
from .check.parity import parity as parity
from .data import Dataset as Dataset, StreamedDataset as StreamedDataset, read as read
from .errors import (
    BackendError as BackendError,
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    DataError as DataError,
    TrainingError as TrainingError,
    XpnetError as XpnetError,
)
from .explanation import explain as explain
from .nn import (
    ELU as ELU,
    GELU as GELU,
    SELU as SELU,
    Activation as Activation,
    BatchNorm as BatchNorm,
    Dense as Dense,
    Dropout as Dropout,
    Flatten as Flatten,
    GELUTanh as GELUTanh,
    Identity as Identity,
    Layer as Layer,
    LayerNorm as LayerNorm,
    LeakyReLU as LeakyReLU,
    LogSoftmax as LogSoftmax,
    ReLU as ReLU,
    Sequential as Sequential,
    SiLU as SiLU,
    Sigmoid as Sigmoid,
    Softmax as Softmax,
    Softplus as Softplus,
    Tanh as Tanh,
    Variable as Variable,
)
from .nn.initializers import (
    Constant as Constant,
    GlorotNormal as GlorotNormal,
    GlorotUniform as GlorotUniform,
    HeNormal as HeNormal,
    HeUniform as HeUniform,
    Initializer as Initializer,
    LeCunNormal as LeCunNormal,
    LeCunUniform as LeCunUniform,
    Ones as Ones,
    Orthogonal as Orthogonal,
    Zeros as Zeros,
)
from .nn.losses import (
    BinaryCrossEntropy as BinaryCrossEntropy,
    CrossEntropy as CrossEntropy,
    Huber as Huber,
    Loss as Loss,
    MeanSquaredError as MeanSquaredError,
    SoftmaxCrossEntropy as SoftmaxCrossEntropy,
)
from .optim import schedules as schedules
from .optim.clipping import Clip as Clip
from .optim.optimizers import (
    SGD as SGD,
    Adagrad as Adagrad,
    Adam as Adam,
    AdamW as AdamW,
    Lion as Lion,
    Optimizer as Optimizer,
    RMSProp as RMSProp,
)
from .optim.schedules import Schedule as Schedule
from .run import Run as Run, load as load, train as train
from .run.config import Config as Config, load_config as load_config
from .step.mixed_precision import Mixed as Mixed
from .storage import CheckpointFolder as CheckpointFolder
from .training.callbacks import (
    Callback as Callback,
    Checkpointing as Checkpointing,
    EarlyStopping as EarlyStopping,
    HistoryFile as HistoryFile,
    StopOnSignal as StopOnSignal,
)
from .training.loader import Loader as Loader
from .training.progress import Progress as Progress
from .training.trainer import Trainer as Trainer

__version__: str
