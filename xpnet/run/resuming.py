"""Whether a config may go on with the run of a folder: what may change, and what was decided."""

from pathlib import Path

from xpnet.errors import CheckpointError, ConfigError
from xpnet.run.config import Config
from xpnet.run.run_folder import RunFolder
from xpnet.settings import build, dump, flattened

__all__ = ["MAY_CHANGE", "check_folder", "check_same", "consistent"]

# What may change when a run is resumed: how long, where, and how often it is saved. The data may be
# elsewhere; its fingerprint tells whether it is the same.
MAY_CHANGE = (
    *("epochs", "backend", "device", "step", "threads", "tf32", "accumulate", "report"),
    *("checkpoint", "early_stopping", "parallel", "tracking"),
    *("data.source", "data.test", "data.data_dir", "data.placement"),
)
# What may be "auto" until the data is read.
DECIDED = (
    *(("epochs",), ("batch_size",), ("model", "dropout")),
    *(("data", "stream"), ("data", "validation_fraction")),
)


def consistent(config: Config, folder: RunFolder, *, resume: bool, whole: bool = True) -> Config:
    """Return ``config`` with what it leaves open as the folder's run, if it resumes that, has it.

    ``whole`` says whether the data has been read, and what depends on it been decided. Raises
    CheckpointError where a run would be overwritten, ConfigError where it would be resumed with
    another network, data or optimizer.
    """
    if not resume and folder.exists():
        msg = f"{str(folder.path)!r} already holds a run"
        raise CheckpointError(
            msg,
            python="pass resume=True to continue it, or choose another out",
            command="add --resume to continue it, or choose another --out",
        )
    if not resume or not folder.config_path.exists():
        return config
    earlier = folder.config()
    config = _as_decided(config, earlier)
    if not whole:
        return config
    if config.start is not None and earlier.start is None:
        msg = f"cannot resume with a run to start from: {str(folder.path)!r} began with random "
        msg += "weights"
        raise ConfigError(
            msg,
            python="leave start_from out, or choose another out",
            command="leave out --from, or choose another --out",
        )
    check_same(config, earlier, folder.path)
    return config


def check_folder(config: Config, folder: RunFolder, *, resume: bool) -> None:
    """Raise what :func:`consistent` raises of what is in the folder now."""
    consistent(config, RunFolder(folder.path), resume=resume)


def check_same(
    config: Config, earlier: Config, where: Path, may_change: tuple[str, ...] = MAY_CHANGE
) -> None:
    """Raise ConfigError where ``config`` differs from that of what is resumed in ``where``."""
    ours, theirs = flattened(dump(config)), flattened(dump(earlier))
    for key in sorted({*ours, *theirs}):
        free = key in may_change or key.partition(".")[0] in may_change
        if not free and ours.get(key) != theirs.get(key):
            msg = f"cannot resume with {key} = {ours.get(key)!r}: {str(where)!r} was trained "
            msg += f"with {theirs.get(key)!r}"
            raise ConfigError(msg, python="choose another out", command="choose another --out")


def _as_decided(config: Config, earlier: Config) -> Config:
    """Return ``config`` with what it leaves open as ``earlier``, which was resolved, has it."""
    ours, theirs = dump(config), dump(earlier)
    for *path, key in DECIDED:
        mine, then = ours, theirs
        for name in path:
            mine, then = mine[name], then[name]
        if mine[key] in ("auto", "largest"):  # what fits now may differ from what fitted then
            mine[key] = then[key]
    return build(Config, ours)
