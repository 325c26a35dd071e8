"""Where a training runs: a backend that was asked for or follows the data, and loaders for it."""

from typing import Any

from xpnet.backends import Backend, backend_class, backend_of, resolve
from xpnet.data import StreamedDataset
from xpnet.errors import BackendError, DataError
from xpnet.parallel import ALONE, Comm, own_device
from xpnet.training.loader import Loader
from xpnet.training.renewed_loader import RenewedLoader, RenewedRows
from xpnet.training.streamed_loader import StreamedLoader

__all__ = ["FORMS", "Placement", "check_labelled", "device_of"]

FORMS = (
    "data must be (x, y), (x, y, sample_weight), a Loader, a StreamedDataset, a table with label=, "
    "an iterable of batches, a DataLoader or Dataset of PyTorch, or a function that returns one"
)


class Placement:
    """The backend of a training, chosen at the first sight of data unless an object was given.

    ``backend`` is a name, a Backend or None, which with ``device="auto"`` follows the data;
    ``dtype`` None follows arrays that are used where they are, and is float32 otherwise. All ranks
    of ``comm`` make theirs at once: of the GPUs of a host each has its own.
    """

    def __init__(
        self,
        backend: Backend | str | None,
        device: str,
        dtype: str | None,
        comm: Comm = ALONE,
    ) -> None:
        self.backend: Backend | None = None
        self.name = "auto"
        if isinstance(backend, Backend):
            self.backend = backend
        elif backend is not None and backend != "auto":
            backend_class(backend)  # there is one of that name
            self.name = backend
        self.device, self.dtype = device, dtype
        self._own = device if self.backend is not None else device_of(comm, self.name, device)

    @property
    def follows_data(self) -> bool:
        """Whether the backend is still to be chosen, by the first data."""
        return self.backend is None and self.name == self.device == "auto"

    def resolve(self, x: Any = None) -> Backend:
        """Return the backend; the first call chooses it, by ``x`` where it follows the data."""
        if self.backend is None:
            follows = backend_of(x, self.dtype) if self.follows_data else None
            asked = self.name, self._own, self.dtype or "float32"
            self.backend = follows or resolve(*asked).backend
        return self.backend

    def loader(self, data: Any) -> Loader:
        """Return a loader on the backend, of arrays (x,), (x, y), (x, y, weight) or a stream.

        A Loader is returned as it is. Raises BackendError if it is for another backend.
        """
        if isinstance(data, StreamedDataset):
            return StreamedLoader(self.resolve(), data)
        if isinstance(data, RenewedRows):
            return RenewedLoader(self.resolve(data.first[0]), data)
        if not isinstance(data, Loader):
            return Loader(self.resolve(data[0]), *data)
        if self.follows_data:
            self.backend = data.backend
        if repr(backend := self.resolve()) != repr(data.backend):
            msg = f"the loader is for {data.backend}, but the training is on {backend}"
            raise BackendError(msg)
        return data

    def __str__(self) -> str:
        if self.backend is not None:
            return "{backend} {version} on {device}, {dtype}".format(**self.backend.describe())
        if self.follows_data:
            return "the backend chosen from the data"
        return " on ".join(word for word in (self.name, self.device) if word != "auto")


def device_of(comm: Comm, backend: str, device: str) -> str:
    """Return ``device`` as it is for one of several ranks: of the GPUs of a host each has its own.

    ``backend`` and ``device`` are names, or "auto". All ranks call it.
    """
    if comm.size > 1 and device == "auto":
        devices = backend_class("cupy" if backend == "auto" else backend).probe().devices
        device = "cuda" if devices and devices[0].startswith("cuda") else device
    return own_device(comm, device)


def check_labelled(data: Any) -> None:
    """Raise DataError for what is not (x, y), (x, y, weight), a Loader, a stream or such rows."""
    listed = isinstance(data, tuple | list) and len(data) in (2, 3)
    if not listed and not isinstance(data, Loader | StreamedDataset | RenewedRows):
        msg = f"{FORMS}; got {type(data).__name__}"
        raise DataError(msg)
