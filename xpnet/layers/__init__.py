"""Layers: frozen descriptions with a forward and a backward; the formulas are in ``xpnet.ops``."""

from xpnet.layers.activation import (
    ACTIVATIONS,
    ELU,
    GELU,
    SELU,
    Activation,
    GELUTanh,
    Identity,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from xpnet.layers.base import Layer, Params, Shape, Variable
from xpnet.layers.dense import Dense
from xpnet.layers.dropout import Dropout
from xpnet.layers.flatten import Flatten
from xpnet.layers.normalization import BatchNorm, LayerNorm
from xpnet.layers.sequential import LAYERS, Sequential, layer_name

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "ELU",
    "Flatten",
    "GELU",
    "GELUTanh",
    "Identity",
    "LAYERS",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "Params",
    "ReLU",
    "SELU",
    "Sequential",
    "Shape",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Variable",
    "layer_name",
]
