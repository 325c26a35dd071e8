"""A run: a config, its data, a training and the folder that keeps it."""

from xpnet.run.job import Outcome, train
from xpnet.run.preprocessing import Splits
from xpnet.run.run_folder import Run, RunFolder, load_run
from xpnet.run.splits import load_splits

__all__ = ["Splits", "Outcome", "Run", "RunFolder", "load_splits", "load_run", "train"]
