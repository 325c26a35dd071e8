"""One checkpoint: named host arrays and JSON data in one safetensors file.

Any program that reads safetensors can read the arrays. The file's ``__metadata__`` adds::

    xpnet    the manifest, JSON: {"kind": "checkpoint", "version": 1, "nbytes": ...,
             "sha256": {tensor: digest of its dtype, shape and bytes}, "meta": {...}}
    sha256   the digest of the whole header, computed with 64 zeros in place of itself

The header's digest covers the manifest, the manifest's digests cover the arrays, and the format
allows no other bytes: any altered bit is detected. Reading executes no code and allocates no more
than the actual file size. The digests detect accidents; they do not prove who wrote a file.

    Format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xpnet.errors import CheckpointError, how_to_import
from xpnet.storage.durable import atomic_write, storage_errors, write_output
from xpnet.storage.safe_open import open_regular

__all__ = ["VERSION", "Checkpoint", "is_safetensors", "load", "save"]

VERSION = 1
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *INTEGERS, "float16", "float32", "float64")
MAX_HEADER = 100_000_000  # the limit of the format
UNSIGNED = b"0" * 64
# Quotes inside the manifest are escaped, so this matches the digest of the header only.
SIGNATURE = re.compile(rb'(?<="sha256":")[0-9a-f]{64}(?=")')


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file: host arrays by name, the data saved with them, and its path."""

    tensors: dict[str, np.ndarray]
    meta: dict[str, Any]
    path: Path


def save(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    *,
    output: bool = False,
) -> None:
    """Write a checkpoint; it is complete on the disk when this returns.

    ``tensors`` are NumPy arrays of any shape and layout, of a bool, integer or float dtype up to 64
    bits. ``meta`` is JSON data, and is loaded as JSON stores it: tuples as lists, keys as strings
    (NaN and infinities unchanged). With ``output`` a symbolic link is followed, as wherever a user
    says what to write to; in a run folder, which may be somebody else's, it is not.
    Raises CheckpointError; the previous file is then kept.
    """
    chunks = _encode(tensors, meta)
    write_output(path, chunks) if output else atomic_write(path, *chunks)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint and verify every byte of it; the arrays are new and writable.

    Raises CheckpointError if the file is missing, torn, altered, not an xpnet checkpoint, or was
    written by a newer version of xpnet.
    """
    path = Path(path)
    with storage_errors("read", path), open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header = _read_header(file, size, path)
            manifest = _manifest(header, path)
            torn = 8 + len(header) + manifest["nbytes"] - size
            if torn > 0:
                problem = f"is torn: its last {torn} bytes are missing; use an older checkpoint"
                raise _error(path, problem)
            if torn < 0:
                raise _error(path, f"has been altered: {-torn} bytes follow its end")
            file.seek(0)
            blob = file.read(size)
            return Checkpoint(_tensors(blob, manifest["sha256"], path), manifest["meta"], path)
        except MemoryError:
            raise _error(path, f"does not fit into memory: it has {size:,} bytes") from None


def is_safetensors(path: str | Path) -> bool:
    """Return whether a file begins as a safetensors file does; False if it cannot be read."""
    try:
        with open(open_regular(path), "rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER


def _encode(
    tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> tuple[bytes, bytes, memoryview]:
    """Return the three parts of a file: the header's length, the signed header, the data."""
    import safetensors.numpy

    arrays = {name: _portable(name, value) for name, value in tensors.items()}
    manifest = {
        "kind": "checkpoint",
        "version": VERSION,
        "nbytes": sum(array.nbytes for array in arrays.values()),
        "sha256": {name: _digest(array) for name, array in arrays.items()},
        "meta": dict(meta),
    }
    try:
        text = json.dumps(manifest)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the metadata of a checkpoint must be JSON data: {error}"
        raise CheckpointError(msg) from error
    metadata = {"xpnet": text, "sha256": UNSIGNED.decode()}
    blob = safetensors.numpy.save(arrays, metadata)
    end = 8 + int.from_bytes(blob[:8], "little")
    return blob[:8], _signed(blob[8:end]), memoryview(blob)[end:]


def _portable(name: str, value: Any) -> np.ndarray:
    """Return ``value`` as the format requires it: C order, little-endian."""
    if not isinstance(name, str) or name == "__metadata__" or not name.isprintable():
        msg = f"a tensor cannot be named {name!r}; use printable text other than '__metadata__'"
        raise CheckpointError(msg)
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.name not in DTYPES:
        kind = getattr(value, "dtype", type(value).__name__)
        msg = f"tensor {name!r} must be a NumPy array of {', '.join(DTYPES)}; got {kind}"
        raise CheckpointError(msg)
    # safetensors 0.8 writes the memory of a strided array without regard to its strides.
    # ascontiguousarray would turn 0-d arrays into 1-d ones.
    return np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _signed(header: bytes) -> bytes:
    """Insert the digest of ``header`` into the place reserved for it."""
    unsigned = SIGNATURE.sub(UNSIGNED, header, count=1)
    return SIGNATURE.sub(hashlib.sha256(unsigned).hexdigest().encode(), header, count=1)


def _read_header(file: BinaryIO, total: int, path: Path) -> bytes:
    """Return the JSON header of a file of ``total`` bytes, after verifying its digest."""
    start = file.read(9)
    size = int.from_bytes(start[:8], "little")
    if len(start) < 8 or total < 8 + size <= MAX_HEADER:
        raise _error(path, "is torn: it ends inside its header; use an older checkpoint")
    if size > MAX_HEADER or start[8:] != b"{":
        raise _error(path, "is not a safetensors file", **how_to_import(path))
    header = start[8:] + file.read(size - 1)
    if SIGNATURE.search(header) is None:
        remedy = "xpnet.from_torch(path, layers) reads a state dict of PyTorch's"
        command = f"xpnet import {path} OUT --like RUN reads a state dict of PyTorch's"
        problem = "is not an xpnet checkpoint: its header has no digest"
        raise _error(path, problem, python=remedy, command=command)
    if _signed(header) != header:
        raise _error(path, "has been altered: the digest of its header differs")
    return header


def _manifest(header: bytes, path: Path) -> dict[str, Any]:
    """Return the manifest; its digest is right, but anybody may have written it."""
    try:
        manifest = json.loads(json.loads(header)["__metadata__"]["xpnet"])
        version = manifest["version"]
        known = manifest["kind"] == "checkpoint" and isinstance(version, int)
    except (ValueError, LookupError, TypeError, RecursionError):
        known = False
    if not known:
        raise _error(path, "is not an xpnet checkpoint: it has no readable manifest")
    if version > VERSION:
        raise _error(path, f"has format version {version}, newer than {VERSION}; update xpnet")
    fields = {"nbytes": int, "sha256": dict, "meta": dict}
    if not all(isinstance(manifest.get(name), kind) for name, kind in fields.items()):
        raise _error(path, "is not an xpnet checkpoint: its manifest is incomplete")
    return manifest


def _tensors(blob: bytes, digests: dict[str, str], path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in the order in which they were saved, after verifying their digests."""
    import safetensors
    import safetensors.numpy

    try:
        tensors = safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise _error(path, f"has been altered: {error}") from error
    if tensors.keys() != digests.keys():
        raise _error(path, "has been altered: its tensors are not those of its manifest")
    for name, array in tensors.items():
        if _digest(array) != digests[name]:
            raise _error(path, f"has been altered: the digest of tensor {name!r} differs")
    return {name: tensors[name] for name in digests}


def _error(path: Path, problem: str, **remedy: str) -> CheckpointError:
    return CheckpointError(f"{path} {problem}", **remedy)
