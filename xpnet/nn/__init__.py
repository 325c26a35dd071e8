"""Layers: frozen descriptions, with a forward and a backward; the formulas are in ``xpnet.ops``."""

from xpnet.nn.activation import (
    ACTIVATIONS,
    CELU,
    ELU,
    GELU,
    SELU,
    Activation,
    GELUTanh,
    HardSigmoid,
    HardSwish,
    Identity,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from xpnet.nn.dense import Dense
from xpnet.nn.dropout import Dropout
from xpnet.nn.embedding import Embedding
from xpnet.nn.feature_scale import FeatureScale
from xpnet.nn.flatten import Flatten
from xpnet.nn.layer import LAYERS, Layer, Params, Shape, Variable
from xpnet.nn.normalization import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from xpnet.nn.prelu import PReLU
from xpnet.nn.sequential import Sequential
from xpnet.registry import name_of as layer_name

__all__ = [
    "Activation",
    "ACTIVATIONS",
    "BatchNorm",
    "CELU",
    "Dense",
    "Dropout",
    "ELU",
    "Embedding",
    "FeatureScale",
    "Flatten",
    "GELU",
    "GELUTanh",
    "HardSigmoid",
    "HardSwish",
    "GroupNorm",
    "Identity",
    "Layer",
    "layer_name",
    "LayerNorm",
    "LAYERS",
    "LeakyReLU",
    "LogSoftmax",
    "Mish",
    "Params",
    "PReLU",
    "ReLU",
    "RMSNorm",
    "SELU",
    "Sequential",
    "Shape",
    "Sigmoid",
    "SiLU",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "Variable",
]
