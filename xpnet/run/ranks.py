"""What several ranks that train one run do differently from one process.

Rank 0 reads the settings, decides, and writes; the others are told. So they need neither the config
nor the run folder to be on their host: only the data has to be, once for all ranks of a host.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from xpnet.backends import Resolved, resolve
from xpnet.errors import ConfigError, XpnetError, XpnetWarning
from xpnet.parallel import ALONE, Comm, join
from xpnet.parallel.launcher import launched
from xpnet.run.config import Config
from xpnet.run.config_sources import load_config
from xpnet.training.placement import device_of

__all__ = [
    "check_batch_size",
    "connected",
    "described",
    "in_words",
    "joined",
    "only_first",
    "resolved",
    "warnings_once",
]


def joined(source: Any, settings: Iterable[str] | Mapping[str, Any], recipe: str | None) -> Comm:
    """Return the ranks that were started to train together, which can tell one another of it.

    Whether they are to is the setting parallel.engine, as each of them sees it. What else is wrong
    with the settings is found later, when all can be told.
    """
    if launched() is None:
        return ALONE
    try:
        config = load_config(source or "digits", settings, recipe=recipe)
    except (XpnetError, OSError):
        config = Config()
    if config.parallel.engine == "none":
        return join(config.parallel)
    return join(replace(config.parallel, engine="mpi"), backend=config.backend, device="cpu")


def connected(comm: Comm, config: Config) -> Comm:
    """Return the ranks as the settings that all of them have by now connect them."""
    if comm.size == 1:
        return comm
    return join(config.parallel, backend=config.backend, device=config.device)


def only_first(comm: Comm, tell: Callable[[str], None]) -> Callable[[str], None]:
    """Return what tells a line on rank 0, and nothing on the others."""
    return tell if comm.rank == 0 else lambda line: None


def resolved(comm: Comm, config: Config) -> Resolved:
    """Return the backend on this rank's device: of the GPUs of a host each rank has its own."""
    name = config.backend
    return resolve(name, device_of(comm, name, config.device), config.dtype)


def check_batch_size(config: Config, comm: Comm) -> None:
    """Raise ConfigError for a batch size that is tried out, which is done on one device."""
    if comm.size > 1 and config.batch_size == "largest":
        msg = "batch_size 'largest' is what fits one device, and "
        msg += f"{comm.size} ranks share each batch"
        command = "give the number of their rows together, such as --batch-size 1024"
        raise ConfigError(msg, command=command, python="give the number of their rows together")


@contextmanager
def warnings_once(comm: Comm) -> Iterator[None]:
    """Within it rank 0 alone warns of what all ranks see."""
    with warnings.catch_warnings():
        if comm.rank > 0:
            warnings.simplefilter("ignore", XpnetWarning)
        yield


def described(comm: Comm) -> dict[str, Any]:
    """Return what is recorded of the ranks, {} of a process alone; all of them call it."""
    if comm.size == 1:
        return {}
    return {"ranks": comm.size, "hosts": comm.hosts(), "engine": comm.note or comm.name}


def in_words(found: Mapping[str, Any], batch_size: int) -> str:
    """Return the line for the log.

    >>> in_words({"ranks": 3, "engine": "3 ranks on this host, connected by MPICH 5.0.2"}, 128)
    '3 ranks on this host, connected by MPICH 5.0.2: each has 42 or 43 of 128 rows of a batch'
    """
    least, more = divmod(batch_size, found["ranks"])
    each = f"{least:,} or {least + 1:,}" if more else f"{least:,}"
    return f"{found['engine']}: each has {each} of {batch_size:,} rows of a batch"
