"""Update rules and clips that the kernels of both kinds are compared on."""

from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSProp,
)

RULES = {
    "sgd": SGD(0.1),
    "sgd with decay": SGD(0.1, weight_decay=0.1),
    "momentum": SGD(0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": RMSProp(0.01, weight_decay=0.1),
    "adagrad": Adagrad(0.1, lr_decay=0.1, initial_accumulator=0.1, weight_decay=0.1),
    "adam with decay": Adam(0.01, weight_decay=0.1),
    "adamw": AdamW(0.01, weight_decay=0.1),
    "lion": Lion(0.01),
    "damped": SGD(0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "adam, amsgrad": Adam(0.01, amsgrad=True),
    "nadam": NAdam(0.01, weight_decay=0.1),
    "radam": RAdam(0.01, weight_decay=0.1),
    "adamax": Adamax(0.01, weight_decay=0.1),
    "adadelta": Adadelta(1.0, weight_decay=0.1),
}
CLIPS = {
    "no clip": Clip(),
    "norm": Clip(norm=0.2),
    "both": Clip(norm=0.2, value=0.05),
    "a loose norm": Clip(norm=100.0),
}
