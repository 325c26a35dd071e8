"""A run: a config, its data, a training and the folder that keeps it."""

from xpnet.run.preprocessing import Splits
from xpnet.run.run_folder import RunFolder
from xpnet.run.splits import load_splits
from xpnet.run.train_run import train
from xpnet.run.trained_run import Run, load

__all__ = ["Run", "RunFolder", "Splits", "load", "load_splits", "train"]
