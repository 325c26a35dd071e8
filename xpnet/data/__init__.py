"""Data on the host: reading, checking, splitting, scaling, and the order of batches."""

from xpnet.data.augment import Augment
from xpnet.data.batches import Shuffle, prefetch
from xpnet.data.columns import Columns
from xpnet.data.dataset import Dataset, check, fingerprint
from xpnet.data.idx import read_idx
from xpnet.data.named import NAMES, load_named
from xpnet.data.read import Task, open_rows, read, streamable
from xpnet.data.scaling import SCALINGS, Scaler, Scaling, fit_scaler, scaler_of
from xpnet.data.scan import Scan, scan
from xpnet.data.split import split
from xpnet.data.streamed_dataset import Assignment, StreamedDataset

__all__ = [
    "Augment",
    "Columns",
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
    "scaler_of",
    "Scaler",
    "Scaling",
    "SCALINGS",
    "Shuffle",
    "prefetch",
    "StreamedDataset",
    "Assignment",
    "open_rows",
    "streamable",
    "scan",
    "Scan",
]
