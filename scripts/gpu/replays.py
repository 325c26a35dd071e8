"""Replays of a step's graph from one state must all give the same bits.

    python -m gpu.replays COUNT FILE

Each begins from the same parameters, moments and batch. Two thirds run beside products on another
stream, so that blocks come in another order: a race between blocks, which racecheck does not
see, would show as another sum.
"""

import sys
import time
from typing import Any

from gpu.card import card
from gpu.keeping import Kept
from gpu.subject import SUBJECTS, taken
from xpnet.kernels.cuda.buffers import arrays


def bits(x: Any) -> Any:
    """Return an array's bits as whole numbers."""
    return x.reshape(-1).view({2: "uint16", 4: "uint32", 8: "uint64"}[x.dtype.itemsize])


def differing(subject: Any, count: int) -> tuple[int, str]:
    """Return how many of ``count`` replays differ from the first step, which is eager; a note."""
    ready, its = taken(subject), card()
    executor, step = ready.executor, ready.step
    with executor.active():
        ready.take()  # the first state of a step becomes its own: from now on others are copied
        state, _ = step(ready.state, ready.batch, ready.inputs)
        expected = [executor.place(executor.to_host(x)) for x in arrays(state)]
        for _ in range(3):
            step(ready.state, ready.batch, ready.inputs)
        wrong = []
        for turn in range(count):
            its.disturb(executor, turn)
            state, _ = step(ready.state, ready.batch, ready.inputs)
            pairs = zip(arrays(state), expected, strict=True)
            found = [(bits(a) != bits(b)).any() for a, b in pairs if a.size]
            wrong.append(sum(map(_as_int, found[1:]), _as_int(found[0])))
        return sum(int(n) > 0 for n in wrong), step.note


def _as_int(flag: Any) -> Any:
    return flag.astype("int32")


def main(count: str, file: str) -> int:
    """Replay every subject."""
    kept, found = Kept(file), {}
    for name, subject in SUBJECTS.items():
        began = time.perf_counter()
        try:
            wrong, note = differing(subject, int(count))
        except Exception as error:  # continue with the next one
            kept.miss(f"{name}: {type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - began
        found[name] = {"replays": int(count), "different": wrong, "step": note}
        kept.put(replays=found)
        print(f"{name}: {wrong} of {count} replays differ ({note}; {seconds:.1f} s)", flush=True)
        if wrong:
            kept.miss(f"{name}: {wrong} of {count} replays from one state gave other bits")
        if not note.startswith("CUDA graph"):
            kept.miss(f"{name}: the step is no graph: {note}")
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
