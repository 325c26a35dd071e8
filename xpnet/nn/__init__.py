"""Layers: frozen descriptions, with a forward and a backward; the formulas are in ``xpnet.ops``."""

from xpnet.nn.activation import (
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
from xpnet.nn.dense import Dense
from xpnet.nn.dropout import Dropout
from xpnet.nn.flatten import Flatten
from xpnet.nn.layer import Layer, Params, Shape, Variable
from xpnet.nn.normalization import BatchNorm, LayerNorm
from xpnet.nn.sequential import LAYERS, Sequential, layer_name

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
