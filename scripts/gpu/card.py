"""The GPU itself: clocks, power, memory, and the libraries that are loaded for it."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Card", "card", "clocks", "clocks_line", "loaded", "throttled"]

ASKED = ["nvidia-smi", "-q", "-d", "CLOCK,POWER,PERFORMANCE,TEMPERATURE"]
LIBRARIES = r"lib(cuda|cudart|cublas|cublasLt|nvrtc|nvrtc-builtins|nvJitLink|cudnn)\b.*\.so"
WANTED = {  # our name -> its path in nvidia-smi's answer, of which a driver has one or another
    "sm": ("Clocks/SM",),
    "memory": ("Clocks/Memory",),
    "sm max": ("Max Clocks/SM",),
    "power": ("GPU Power Readings/Instantaneous Power Draw", "GPU Power Readings/Power Draw",
              "GPU Power Readings/Average Power Draw"),
    "power limit": ("GPU Power Readings/Current Power Limit", "GPU Power Readings/Power Limit"),
    "temperature": ("Temperature/GPU Current Temp",),
}  # fmt: skip
REASONS = re.compile(r"^Clocks (?:Event|Throttle) Reasons/(.+)")
COUNTERS = re.compile(r"^Clocks (?:Event|Throttle) Reasons Counters/(.+)")
HARMLESS = ("Idle", "Applications Clocks Setting", "Display Clock Setting", "Sync Boost")


def clocks() -> dict[str, Any]:
    """Return clocks, power, and what slows the GPU down; empty where nvidia-smi does not answer."""
    try:
        done = subprocess.run(ASKED, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return answered(done.stdout)


def answered(text: str) -> dict[str, Any]:
    """Return the facts in an answer of nvidia-smi, whose sections are indented, for its first GPU.

    >>> answered("GPU 0\\n    Clocks\\n        SM   : 1980 MHz\\n")
    {'sm': '1980 MHz', 'active': [], 'slowed': {}}
    """
    found: dict[str, str] = {}
    sections: list[tuple[int, str]] = []
    for line in text.splitlines():
        name, colon, value = line.partition(" : ")
        depth, name = len(line) - len(line.lstrip()), name.strip()
        sections = [s for s in sections if 0 < s[0] < depth]
        path = "/".join([*(s[1] for s in sections), name])
        if colon:
            found.setdefault(path, value.strip())
        if name:
            sections.append((depth, name))
    facts: dict[str, Any] = {}
    for name, paths in WANTED.items():
        values = [found[path] for path in paths if found.get(path, "N/A") != "N/A"]
        facts |= {name: values[0]} if values else {}
    reasons = {k.rpartition("/")[2]: v for k, v in found.items() if REASONS.match(k)}
    counters = {k.rpartition("/")[2]: v for k, v in found.items() if COUNTERS.match(k)}
    facts["active"] = [k for k, v in reasons.items() if v == "Active" and k not in HARMLESS]
    micro = {k: re.match(r"\d+", v) for k, v in counters.items()}
    facts["slowed"] = {k: int(n[0]) for k, n in micro.items() if n}
    return facts


def throttled(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """Return for how many microseconds each reason has slowed the GPU down in between."""
    first, last = before.get("slowed", {}), after.get("slowed", {})
    return {k: n - first.get(k, 0) for k, n in last.items() if n > first.get(k, 0)}


def clocks_line(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return a sentence on both, or "" if there are none."""
    if not after:
        return ""

    def said(facts: dict[str, Any]) -> str:
        values = [f"{k} {facts[k]}" for k in ("sm", "memory", "power", "temperature") if k in facts]
        return ", ".join([*values, *facts["active"]])

    slowed = throttled(before, after)
    times = ", ".join(f"{reason} for {n / 1e6:.2f} s" for reason, n in slowed.items())
    first = f"Before: {said(before)}; after" if before else "After"
    return f"{first}: {said(after)}; slowed down by {times or 'nothing'}."


def loaded() -> list[str]:
    """Return the paths of the CUDA libraries that this process has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    except OSError:
        return []
    paths = {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) == 6}
    return sorted(p for p in paths if re.search(LIBRARIES, p))


class Card(Protocol):
    """What the stages need of CuPy beyond xpnet's own executor."""

    def synchronize(self) -> None: ...
    def without_pool(self) -> None:
        """Allocate each array by itself from now on."""
        ...

    def disturb(self, executor: Any, turn: int) -> None:
        """Change what runs beside the next step: nothing at turn 0, then more and more."""
        ...

    def profiled(self) -> contextlib.AbstractContextManager[None]:
        """Return a context within which a profiler records launches."""
        ...

    def used(self) -> int:
        """Return the bytes of all arrays that are alive."""
        ...

    def facts(self) -> dict[str, Any]: ...


class CupyCard:
    """CuPy's current device."""

    def __init__(self) -> None:
        import cupy

        self._cupy, self._noise = cupy, None

    def synchronize(self) -> None:
        self._cupy.cuda.Device().synchronize()

    def without_pool(self) -> None:
        self._cupy.cuda.set_allocator(None)

    def disturb(self, executor: Any, turn: int) -> None:
        cupy = self._cupy
        if self._noise is None:
            stream = cupy.cuda.Stream(non_blocking=True)
            self._noise = stream, [cupy.ones((1024, 1024), "float32") for _ in range(3)]
        stream, (a, b, out) = self._noise
        with stream:
            for _ in range(turn % 3):  # some 30 microseconds each, on another stream
                cupy.matmul(a, b, out=out)

    @contextlib.contextmanager
    def profiled(self) -> Iterator[None]:
        self.synchronize()
        self._cupy.cuda.runtime.profilerStart()
        yield
        self.synchronize()
        self._cupy.cuda.runtime.profilerStop()

    def used(self) -> int:
        return self._cupy.get_default_memory_pool().used_bytes()

    def facts(self) -> dict[str, Any]:
        import io

        config = io.StringIO()
        with contextlib.redirect_stdout(config):
            self._cupy.show_config()
        properties = self._cupy.cuda.runtime.getDeviceProperties(0)
        names = ("multiProcessorCount", "totalGlobalMem", "l2CacheSize", "major", "minor")
        of_card = {name: int(properties[name]) for name in names if name in properties}
        return {"card": of_card, "CuPy": config.getvalue().splitlines()}


class StandInCard:
    """The CPU of a rehearsal."""

    def synchronize(self) -> None:
        pass

    def without_pool(self) -> None:
        pass

    def disturb(self, executor: Any, turn: int) -> None:
        executor.order = turn % 4  # of the threads and blocks that the emulator runs

    def profiled(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def used(self) -> int:
        return 0

    def facts(self) -> dict[str, Any]:
        return {"card": {}, "CuPy": []}


def card() -> Card:
    """Return the card: in a rehearsal a stand-in."""
    makes: Callable[[], Card] = StandInCard if os.environ.get("XPNET_GPU_REHEARSAL") else CupyCard
    return makes()
