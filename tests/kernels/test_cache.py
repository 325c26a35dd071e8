"""The bits of a training do not depend on what Numba's cache holds: real processes, cold and warm.

LLVM inlines a function that was just compiled, and not one that comes from the cache, so code that
is cached in pieces rounds otherwise the second time.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("numba", reason="the kernels are compiled by Numba: pip install '.[fast]'")

SCRIPT = """
import hashlib, sys
import numpy as np
from xpnet.nn import ACTIVATIONS, Dense, Dropout, Sequential
from xpnet.nn import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from xpnet.nn.layout import initialize
from xpnet.nn.losses import LOSSES, _ClassificationLoss
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.kernels.cpu.fused_step import FusedStep
from xpnet.step import Batch, StepInputs, TrainState, dropout_keys, zero_totals

every, dtype = sys.argv[1] == "every", sys.argv[2]
layers = {name: [cls()] for name, cls in ACTIVATIONS.items()}
norms = LayerNorm(), BatchNorm(), RMSNorm(), GroupNorm(groups=3), Dropout(0.2)
layers |= {f"{type(norm).__name__}": [norm] for norm in norms} | {"norms": norms}
cases = {f"layer {name}": (more, "softmax_cross_entropy", "sgd") for name, more in layers.items()}
cases |= {f"rule {name}": ([], "softmax_cross_entropy", name) for name in OPTIMIZERS}
cases |= {f"loss {name}": ([], name, "sgd") for name in LOSSES}
options = {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5, 1.5), "ignore_label": 2}
cases |= {f"options {name}": ([], name, "sgd") for name, cls in LOSSES.items()
          if issubclass(cls, _ClassificationLoss)}
cases |= {f"weights {name}": ([], name, "sgd") for name in LOSSES}
some = ("layer gelu", "layer norms", "rule adam", "options softmax_cross_entropy")
for case in cases if every else some:
    more, loss, rule = cases[case]
    loss, rule = LOSSES[loss](**options if "options" in case else {}), OPTIMIZERS[rule]()
    model = Sequential([Dense(9), *more, Dense(4)]).build((6,))
    step = FusedStep(model, loss, rule, Clip(norm=0.3, value=0.1), dtype)
    params, stats = (np.array(v, dtype) for v in initialize(model, 0))
    state = TrainState(params, stats, rule.init(params), zero_totals(params))
    rng = np.random.default_rng(0)
    for i in range(5):
        x = rng.normal(size=(33, 6)).astype(dtype)
        y = rng.integers(0, 4, 33).astype("int32")
        y = y if loss.predicts == "class" else np.eye(4, dtype=dtype)[y]
        keys = dropout_keys(0, i, model.n_random)
        inputs = StepInputs(i, rule.coefficients(rule.lr, i + 1), keys)
        with np.errstate(all="ignore"):  # a cross-entropy of what are no probabilities
            weight = rng.uniform(size=33).astype(dtype) if "weights" in case else None
            state, _ = step(state, Batch(x, y, weight), inputs)
    arrays = (state.params, state.stats, *state.slots, *state.totals)
    print(case, hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
"""


def bits(which, dtype, folder):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, which, dtype],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
@pytest.mark.parametrize(
    ("which", "dtype"), [("some", "float32"), ("some", "float64"), ("every", "float32")]
)
def test_a_cold_a_warm_and_a_half_warm_cache_give_the_same_bits(which, dtype, tmp_path):
    cold = bits(which, dtype, tmp_path)
    assert len(cold) == len(set(cold)) >= 3
    kept = sorted(tmp_path.rglob("*.nbi"))
    assert len(kept) > len(cold)
    assert bits(which, dtype, tmp_path) == cold
    for path in kept[::2]:
        path.unlink()
    assert bits(which, dtype, tmp_path) == cold
