"""Durable storage of a training run: checkpoints, the lock on the run folder, the history.

It contains host NumPy arrays and JSON data only, so that a run saved with one array library resumes
with another. By convention the arrays are named ``params/0.dense.W``, ``slots/m/0.dense.W``,
``stats/``, ``preprocess/``, and ``meta["position"]`` is the epoch, batch and step to resume at.
"""

from xpnet.storage.checkpoint_file import Checkpoint, is_safetensors, load, save
from xpnet.storage.checkpoint_folder import CheckpointFolder
from xpnet.storage.durable import atomic_write_text, preflight
from xpnet.storage.history import History
from xpnet.storage.lock import RunLock, writer_of

__all__ = [
    "Checkpoint",
    "CheckpointFolder",
    "History",
    "RunLock",
    "atomic_write_text",
    "is_safetensors",
    "load",
    "preflight",
    "save",
    "writer_of",
]
