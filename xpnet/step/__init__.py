"""One step of training, as a pure function; and what goes into it in parts, or narrower.

step.py              backpropagation, the update and the totals: the whole step, on one page
microbatch.py        the gradient of a batch, accumulated over parts of it
mixed_precision.py   the step with layers in float16 or bfloat16, and its loss scale
trace.py             the same step, an array at a time, each with its place and name
"""

from xpnet.step.step import (
    Batch,
    BatchGradient,
    StepInputs,
    Totals,
    TrainState,
    add,
    dropout_keys,
    gradients,
    make_evaluate_step,
    make_gradient,
    make_predict_step,
    make_train_step,
    zero_totals,
)

__all__ = [
    "Batch",
    "BatchGradient",
    "StepInputs",
    "Totals",
    "TrainState",
    "add",
    "dropout_keys",
    "gradients",
    "make_evaluate_step",
    "make_gradient",
    "make_predict_step",
    "make_train_step",
    "zero_totals",
]
