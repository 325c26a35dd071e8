"""Data on the host: reading, checking, splitting, scaling, and the order of batches."""

from xpnet.data.augment import Augment
from xpnet.data.batches import Shuffle
from xpnet.data.columns import Columns, Described
from xpnet.data.dataset import Dataset, check, fingerprint
from xpnet.data.divided import Parts, parts_of, read_parts
from xpnet.data.encoder import Encoder, encoder_of
from xpnet.data.encoder_fit import EncoderStats, fit_encoder
from xpnet.data.idx import read_idx
from xpnet.data.named import NAMES, load_named
from xpnet.data.read import open_rows, read, streamable
from xpnet.data.scaling import (
    SCALINGS,
    Scaler,
    Scaling,
    TargetScaling,
    fit_scaler,
    scaler_of,
)
from xpnet.data.scan import Scan, scan
from xpnet.data.split import rare_classes, split
from xpnet.data.streamed_dataset import Assignment, StreamedDataset
from xpnet.data.wanted import Task

__all__ = [
    "Augment",
    "Columns",
    "Described",
    "Dataset",
    "read",
    "read_parts",
    "parts_of",
    "Parts",
    "read_idx",
    "Task",
    "load_named",
    "NAMES",
    "check",
    "fingerprint",
    "split",
    "rare_classes",
    "Encoder",
    "EncoderStats",
    "encoder_of",
    "fit_encoder",
    "fit_scaler",
    "scaler_of",
    "Scaler",
    "Scaling",
    "TargetScaling",
    "SCALINGS",
    "Shuffle",
    "StreamedDataset",
    "Assignment",
    "open_rows",
    "streamable",
    "scan",
    "Scan",
]
