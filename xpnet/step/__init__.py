"""One step of training, as a pure function; and what goes into it in parts, or narrower.

step.py              backpropagation, the update and the totals: the whole step, on one page
rows.py              batches that are rows of a data set on the device
microbatch.py        the gradient of a batch, accumulated over parts of it
mixed_precision.py   the step with layers in float16 or bfloat16, and its loss scale
data_parallel.py     the gradient of a batch whose rows are on several ranks
trace.py             the same step, an array at a time, each with its place and name
"""

from xpnet.step.rows import AnyBatch, Ordered, Rows, gathered
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
    "AnyBatch",
    "Batch",
    "BatchGradient",
    "Ordered",
    "Rows",
    "StepInputs",
    "Totals",
    "TrainState",
    "add",
    "dropout_keys",
    "gathered",
    "gradients",
    "make_evaluate_step",
    "make_gradient",
    "make_predict_step",
    "make_train_step",
    "zero_totals",
]
