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
from .interop.export import export as export
from .interop.onnx.read import from_onnx as from_onnx
from .interop.pytorch.export import (
    to_torch_source as to_torch_source,
    to_torch_state as to_torch_state,
)
from .interop.pytorch.read import from_torch as from_torch
from .nn import (
    Activation as Activation,
    BatchNorm as BatchNorm,
    CELU as CELU,
    Dense as Dense,
    Dropout as Dropout,
    ELU as ELU,
    Embedding as Embedding,
    FeatureScale as FeatureScale,
    Flatten as Flatten,
    GELU as GELU,
    GELUTanh as GELUTanh,
    GroupNorm as GroupNorm,
    HardSigmoid as HardSigmoid,
    HardSwish as HardSwish,
    Identity as Identity,
    Layer as Layer,
    LayerNorm as LayerNorm,
    LeakyReLU as LeakyReLU,
    LogSoftmax as LogSoftmax,
    Mish as Mish,
    PReLU as PReLU,
    RMSNorm as RMSNorm,
    ReLU as ReLU,
    SELU as SELU,
    Sequential as Sequential,
    SiLU as SiLU,
    Sigmoid as Sigmoid,
    Softmax as Softmax,
    Softplus as Softplus,
    Softsign as Softsign,
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
    Normal as Normal,
    Ones as Ones,
    Orthogonal as Orthogonal,
    Zeros as Zeros,
)
from .nn.losses import (
    BinaryCrossEntropy as BinaryCrossEntropy,
    CrossEntropy as CrossEntropy,
    ElementwiseLoss as ElementwiseLoss,
    Hinge as Hinge,
    Huber as Huber,
    Loss as Loss,
    MeanSquaredError as MeanSquaredError,
    NegativeLogLikelihood as NegativeLogLikelihood,
    Poisson as Poisson,
    SoftmaxCrossEntropy as SoftmaxCrossEntropy,
    SquaredHinge as SquaredHinge,
)
from .optim import schedules as schedules
from .optim.clipping import Clip as Clip
from .optim.optimizers import (
    SGD as SGD,
    Adadelta as Adadelta,
    Adagrad as Adagrad,
    Adam as Adam,
    Adamax as Adamax,
    AdamW as AdamW,
    Lion as Lion,
    NAdam as NAdam,
    Optimizer as Optimizer,
    RAdam as RAdam,
    RMSProp as RMSProp,
)
from .optim.schedules import Schedule as Schedule
from .registry import register as register
from .run import Run as Run, load as load, train as train
from .run.comparison import compare as compare
from .run.config import Config as Config
from .run.config_sources import load_config as load_config
from .search import Sweep as Sweep, sweep as sweep
from .step.mixed_precision import Mixed as Mixed
from .storage import CheckpointFolder as CheckpointFolder
from .tracking.live import LiveCurves as LiveCurves
from .tracking.mlflow import MLflow as MLflow
from .tracking.tensorboard import TensorBoard as TensorBoard
from .training.callbacks import (
    Callback as Callback,
    HistoryFile as HistoryFile,
    StopOnSignal as StopOnSignal,
)
from .training.checkpointing import Checkpointing as Checkpointing
from .training.early_stopping import EarlyStopping as EarlyStopping
from .training.loader import Loader as Loader
from .training.norms import Norms as Norms
from .training.progress import Progress as Progress
from .training.trainer import Trainer as Trainer

__version__: str
