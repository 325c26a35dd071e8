"""Standard output that may fail while a training continues.

A log on a full disk, a reader that went away (``| head``) or a terminal that was closed is no
reason to end a training of a week: what it has learned is in its run folder.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["ensure_streams", "tolerant_streams"]


def ensure_streams() -> None:
    """Let standard output and error exist, and take any text.

    They are None where they were closed (``>&-``), and cannot write what their encoding lacks.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class TolerantStream(io.TextIOBase):
    """A text stream without a buffer that drops what cannot be written.

    ``lost`` is called with the first error. Each write is tried anew: there may be room again.
    """

    def __init__(self, stream: io.TextIOWrapper, lost: Callable[[OSError], None]) -> None:
        self._stream, self._raw = stream, io.FileIO(stream.fileno(), "w", closefd=False)
        self._lost: Callable[[OSError], None] | None = lost

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that it stands for."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write ``text`` or drop it."""
        data = memoryview(text.encode(self.encoding, "backslashreplace"))
        try:
            while data and (n := self._raw.write(data)):
                data = data[n:]
        except OSError as error:
            report, self._lost = self._lost, None
            if report:
                report(error)
        return len(text)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor that it writes to."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """True."""
        return True


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Make the failures of standard output and error harmless to the block, and say them once."""

    def lost(error: OSError) -> None:
        if error.errno != errno.EPIPE:  # a reader that went away does not want to know
            why = error.strerror or error
            print(f"standard output cannot be written: {why}; training continues", file=sys.stderr)

    before: dict[str, Any] = {"stdout": sys.stdout, "stderr": sys.stderr}
    reports = {"stdout": lost, "stderr": lambda error: None}
    for name, stream in before.items():
        if isinstance(stream, io.TextIOWrapper) and _has_file(stream):
            with contextlib.suppress(OSError):
                stream.flush()
            setattr(sys, name, TolerantStream(stream, reports[name]))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def _has_file(stream: io.TextIOWrapper) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False
