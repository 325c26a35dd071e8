"""Standard output whose failure does not stop training.

A log on a full disk, a reader that exited (``| head``) or a closed terminal is no reason to end a
week of training: the results are in the run folder.
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
    """Make sure that standard output and error exist and accept any text.

    They are None if they were closed (``>&-``), and otherwise fail on characters that their
    encoding lacks.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class TolerantStream(io.TextIOBase):
    """An unbuffered text stream that drops what cannot be written.

    ``lost`` is called with the first error only. Every write is attempted: the disk may have room
    again.
    """

    def __init__(self, stream: io.TextIOWrapper, lost: Callable[[OSError], None]) -> None:
        self._stream, self._raw = stream, io.FileIO(stream.fileno(), "w", closefd=False)
        self._lost: Callable[[OSError], None] | None = lost

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the underlying stream."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write ``text``, or drop it if that fails."""
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
        """Return whether it is a terminal."""
        return not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """Return the file descriptor that it writes to."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Keep failures of standard output and error from ending the block, and report them once."""

    def lost(error: OSError) -> None:
        if error.errno != errno.EPIPE:  # a reader that exited needs no report
            why = error.strerror or error
            print(f"cannot write to standard output: {why}; training continues", file=sys.stderr)

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
