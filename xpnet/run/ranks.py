"""What several ranks that train one run do differently from one process.

Rank 0 reads the settings, decides, and writes; the others are told. So they need neither the config
nor the run folder to be on their host: only the data has to be, once for all ranks of a host.
"""

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from xpnet.backends import Resolved, backend_class, resolve
from xpnet.errors import ConfigError, TrainingError, XpnetError
from xpnet.parallel import ALONE, Comm, join
from xpnet.parallel.launcher import launched
from xpnet.run.config import Config
from xpnet.run.config_sources import load_config

__all__ = [
    "by_first",
    "check_batch_size",
    "connected",
    "described",
    "in_words",
    "joined",
    "only_first",
    "resolved",
]

T = TypeVar("T")


def joined(source: Any, settings: Iterable[str] | Mapping[str, Any], recipe: str | None) -> Comm:
    """Return the ranks that were started to train together, which can tell one another of it.

    Whether they are to is the setting parallel.engine, as each of them sees it. What else is wrong
    with the settings is found later, when all can be told.
    """
    launch = launched()
    if launch is None or launch.size == 1:
        return ALONE
    try:
        config = load_config(source or "digits", settings, recipe=recipe)
    except (XpnetError, OSError):
        config = Config()
    if config.parallel.engine == "none":
        return ALONE
    return join(replace(config.parallel, engine="mpi"), backend=config.backend, device="cpu")


def connected(comm: Comm, config: Config) -> Comm:
    """Return the ranks as the settings that all of them have by now connect them."""
    if comm.size == 1:
        return comm
    return join(config.parallel, backend=config.backend, device=config.device)


def by_first(comm: Comm, function: Callable[[], T]) -> T:
    """Return on all ranks what ``function`` returns on rank 0, or raise what it raises there."""
    if comm.size == 1:
        return function()
    value, error = None, None
    if comm.rank == 0:
        try:
            value = function()
        except Exception as raised:
            error = raised
    value, told = comm.bcast((value, None if error is None else _for_others(error)))
    if told is not None:
        raise error or told
    return value  # type: ignore[return-value]


def _for_others(error: Exception) -> Exception:
    """An error as other processes can have it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class of its own raises there
        return TrainingError(f"{type(error).__name__}: {error}")
    return error


def only_first(comm: Comm, tell: Callable[[str], None]) -> Callable[[str], None]:
    """Return what tells a line on rank 0, and nothing on the others."""
    return tell if comm.rank == 0 else lambda line: None


def resolved(comm: Comm, config: Config) -> Resolved:
    """Return the backend on this rank's device: of the GPUs of a host each rank has its own."""
    name, device = config.backend, config.device
    if comm.size == 1:
        return resolve(name, device, config.dtype)
    if device in ("auto", "cuda"):
        devices = backend_class("cupy" if name == "auto" else name).probe().devices
        gpus = [d for d in devices if d.startswith("cuda:")]
        device = gpus[comm.local_rank % len(gpus)] if gpus else device
    return resolve(name, device, config.dtype)


def check_batch_size(config: Config, comm: Comm) -> None:
    """Raise ConfigError for a batch size that is tried out, which is done on one device."""
    if comm.size > 1 and config.batch_size == "largest":
        msg = "batch_size 'largest' is what fits one device, and "
        msg += f"{comm.size} ranks share each batch"
        command = "give the number of their rows together, such as --batch-size 1024"
        raise ConfigError(msg, command=command, python="give the number of their rows together")


def described(comm: Comm) -> dict[str, Any]:
    """Return what is recorded of the ranks, {} of a process alone; all of them call it."""
    if comm.size == 1:
        return {}
    hosts = comm.allgather(comm.local_rank).count(0)
    return {"ranks": comm.size, "hosts": hosts, "engine": comm.note or comm.name}


def in_words(found: Mapping[str, Any], batch_size: int) -> str:
    """Return the line for the log.

    >>> in_words({"ranks": 4, "hosts": 1, "engine": "MPI (MPICH 5.0.2)"}, 128)
    '4 ranks on 1 host: MPI (MPICH 5.0.2), 32 of 128 rows of a batch each'
    """
    ranks, hosts = found["ranks"], found["hosts"]
    least, more = divmod(batch_size, ranks)
    each = f"{least:,} or {least + 1:,}" if more else f"{least:,}"
    where = "1 host" if hosts == 1 else f"{hosts} hosts"
    line = f"{ranks} ranks on {where}: {found['engine']}, {each} of {batch_size:,} rows of a batch"
    return f"{line} each"
