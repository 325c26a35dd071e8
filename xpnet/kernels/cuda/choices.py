"""Which algorithm each product takes on a GPU: measured once, and kept in a folder.

A file for each product is written aside and linked to its name, so of two processes that measure
at the same time one is first, and the other takes the algorithm of that one.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from hashlib import sha256
from math import isfinite
from pathlib import Path
from threading import get_ident
from typing import Any

from xpnet.errors import BackendError

__all__ = ["ALGORITHM_BYTES", "Choices", "is_switched_off"]

ALGORITHM_BYTES = 64  # of a cublasLtMatmulAlgo_t
SWITCH = "XPNET_TIME_PRODUCTS"
OFF = ("0", "false", "no", "off")


def is_switched_off() -> bool:
    """Whether the environment variable XPNET_TIME_PRODUCTS says that nothing is timed."""
    return os.environ.get(SWITCH, "").strip().lower() in OFF


class Choices:
    """The choices for a ``gpu`` with a ``version`` of cuBLASLt, in ``folder``."""

    def __init__(self, folder: Path, gpu: str, version: int) -> None:
        self._folder, self._of = folder, {"gpu": gpu, "cublasLt": version}

    def find(self, product: str) -> bytes | None:
        """Return what is kept for a product, an algorithm or b""; None if nothing is.

        Raises BackendError where the file is damaged or cannot be read.
        """
        try:
            text = self.path(product).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self.refused(product, f"cannot be read: {error.strerror or error}") from error
        try:
            record = json.loads(text)
            same = self._record(product).items() <= record.items()
            algorithm = bytes.fromhex(record["algorithm"])
        except (ValueError, KeyError, TypeError, AttributeError):
            same, algorithm = False, b""
        if not same or len(algorithm) not in (0, ALGORITHM_BYTES):
            raise self.refused(product, "is damaged")
        return algorithm

    def prepare(self) -> None:
        """Make the folder; raises BackendError if nothing can be kept in it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{self._folder} cannot be made: {error.strerror or error}"
            raise BackendError(msg) from error
        if not os.access(self._folder, os.W_OK):
            msg = f"{self._folder} cannot be written to"
            raise BackendError(msg)

    def keep(self, product: str, algorithm: bytes, seconds: Sequence[float]) -> bytes:
        """Keep an algorithm, and return the one that is kept: another process may have been first.

        Raises BackendError where it cannot be kept.
        """
        us = [round(1e6 * s, 2) if isfinite(s) else None for s in seconds]
        record = {**self._record(product), "algorithm": algorithm.hex(), "us": us}
        path = self.path(product)
        aside = path.with_suffix(f".{os.getpid()}-{get_ident()}")
        try:
            aside.write_text(json.dumps(record) + "\n", "utf-8")
            try:
                os.link(aside, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links, where the last process is the one
                aside.replace(path)
        except OSError as error:
            msg = f"{path} cannot be written: {error.strerror or error}"
            raise BackendError(msg) from error
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        kept = self.find(product)
        return algorithm if kept is None else kept

    def refused(self, product: str, why: str) -> BackendError:
        """Return the error of a file that is not to be used."""
        return BackendError(f"{self.path(product)} {why}; once it is deleted, it is made again")

    def path(self, product: str) -> Path:
        """The file of a product."""
        return self._folder / f"{sha256(self.name(product).encode()).hexdigest()[:32]}.json"

    def name(self, product: str) -> str:
        """A product's name that no other GPU or version has."""
        return "; ".join([*(f"{key} {value}" for key, value in self._of.items()), product])

    def _record(self, product: str) -> dict[str, Any]:
        return {**self._of, "product": product}
