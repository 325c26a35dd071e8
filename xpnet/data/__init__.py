"""Data on the host: reading, checking, splitting and scaling it, and the order of its batches."""

from xpnet.data.batches import batch_count, batches, prefetch
from xpnet.data.dataset import Dataset, check, fingerprint
from xpnet.data.idx import read_idx
from xpnet.data.named import NAMES, load_named
from xpnet.data.read import Task, read
from xpnet.data.scaling import SCALINGS, Scaler, Scaling, fit_scaler
from xpnet.data.split import split

__all__ = [
    "Dataset",
    "read",
    "read_idx",
    "Task",
    "load_named",
    "NAMES",
    "check",
    "fingerprint",
    "split",
    "fit_scaler",
    "Scaler",
    "Scaling",
    "SCALINGS",
    "batches",
    "batch_count",
    "prefetch",
]
