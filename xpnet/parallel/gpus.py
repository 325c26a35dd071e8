"""Which GPU is whose, where several ranks are on one host."""

import ctypes
import sys
from collections.abc import Sequence
from typing import NamedTuple

from xpnet.parallel.comm import Comm

__all__ = ["OwnGpu", "own_device", "own_gpu", "visible_gpus"]


class OwnGpu(NamedTuple):
    """The GPU of a rank, and with which other rank of its host it shares it, if with one."""

    number: int
    shared_with: int | None


def visible_gpus() -> list[bytes]:
    """Return the identity of each GPU that this process sees, in CUDA's order; [] without CUDA.

    The driver itself is asked, and no context is made on any of them.
    """
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count, device, identity = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(16)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for i in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), i)
        cuda.cuDeviceGetUuid_v2(identity, device)  # of its part, where a GPU is divided
        found.append(identity.raw)
    return found


def own_gpu(comm: Comm, device: str) -> OwnGpu | None:
    """Return this rank's GPU: the first one it sees that no earlier rank of its host has.

    All ranks of a host call it. ``device`` is "cuda", or "cuda:N" for a certain one. Where there
    are fewer GPUs than ranks, they take turns. None where this rank sees no such GPU.
    """
    asked, seen = device.partition(":")[2], visible_gpus()
    wanted = {i: g for i, g in enumerate(seen) if not asked or asked == str(i)}
    given = _given(comm.host.allgather(list(wanted.values())))
    own = given[comm.local_rank]
    if own is None:
        return None
    others = [r for r, gpu in enumerate(given) if gpu == own and r != comm.local_rank]
    number = next(i for i, gpu in wanted.items() if gpu == own)
    return OwnGpu(number, comm.rank - comm.local_rank + others[0] if others else None)


def _given(seen: Sequence[Sequence[bytes]]) -> list[bytes | None]:
    """What each rank of a host is given of what it sees.

    >>> _given([[b"a", b"b"], [b"a", b"b"], [b"a", b"b"]]), _given([[b"a"], [b"b"], []])
    ([b'a', b'b', b'a'], [b'a', b'b', None])
    """
    given: list[bytes | None] = []
    for rank, own in enumerate(seen):
        free = [gpu for gpu in own if gpu not in given]
        given.append(free[0] if free else own[rank % len(own)] if own else None)
    return given


def own_device(comm: Comm, device: str) -> str:
    """Return ``device`` with the number of this rank's GPU: of "cuda" on two ranks, "cuda:1".

    What names a GPU, or none, is returned as it is. All ranks of a host call it.
    """
    if comm.local_size == 1 or device != "cuda":
        return device
    own = own_gpu(comm, device)
    return device if own is None else f"cuda:{own.number}"
