"""Inject into real training runs the faults that long runs meet, and count what is lost.

    scripts/faults --short                            two minutes, for CI
    scripts/faults --report scripts/reports/faults    the long form, saved as .md and .json

After the faults, each run is compared bit for bit with an undisturbed one: weights, optimizer
moments, batch-norm statistics, totals, loss scale, schedule, early stopping and history. The exit
code is 1 if anything was lost or a traceback was printed.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median_low

import fuzz
import layered
import variations
from training import BACKENDS_TOLERANCE, LostError, Tally, Training

from xpnet.errors import CheckpointError
from xpnet.storage import CheckpointFolder, History, load
from xpnet.training.signals import SIGNALS

# With a save at the end of each epoch, also of those that take milliseconds.
EACH_EPOCH = "checkpoint.min_seconds=0"
COMMON = ("epochs=6", "batch_size=8", "checkpoint.every_steps=2", EACH_EPOCH, "backend=numpy")
COMMON += ("report=no",)  # which takes as long as they do; `each_call` has it
NETWORKS = {
    "adam, batch norm, dropout, plateau": (
        *("model.hidden=[16,8]", "model.normalization=batch_norm", "model.dropout=0.2"),
        *("schedule.name=plateau", "early_stopping.patience=20"),
    ),
    "momentum, clipping, cosine, host loader": (
        *("optimizer.name=sgd", "optimizer.momentum=0.9", "clip.norm=1.0"),
        *("schedule.name=cosine", "data.placement=host", "model.hidden=[8]"),
    ),
    "float16 with loss scale, accumulation": (
        *("mixed.dtype=float16", "accumulate=2", "model.hidden=[8]"),
    ),
    "streamed rows, noise": (*("data.stream=yes", "data.augment.noise=0.1", "model.hidden=[8]"),),
}

# Layers whose kernels are compiled into one another; a plateau does not ask how long is left.
VARIED = ("model.hidden=[16]", "model.normalization=layer_norm", "schedule.name=plateau")


def kills(training: Training, count: int, draw: random.Random) -> None:
    """Kill runs at random moments, ``count`` times in total, and resume each until it is done."""
    training.whole()  # run again below for its time, because the first run may compile kernels
    began, done, runs = time.monotonic(), 0, 0
    training.start(training.folder / "again").succeeds()
    seconds = time.monotonic() - began
    training.same(training.folder / "again")
    while done < count:
        out, runs = training.folder / f"killed-{runs}", runs + 1
        while done < count and kill_once(training, out, 0.8 * seconds, draw):
            done += 1
        training.start(out).succeeds()
        training.same(out)
        shutil.rmtree(out)


def kill_once(training: Training, out: Path, seconds: float, draw: random.Random) -> bool:
    """Start or resume a run and kill it; return whether it was still running."""
    before, process = leftovers(out), training.start(out)
    moment = time.monotonic() + draw.uniform(0.0, seconds)
    while process.running() and time.monotonic() < moment:
        time.sleep(0.0005)
    if draw.random() < 0.4:
        while process.running() and leftovers(out) <= before:
            pass  # until a file is being written
    if not process.kill():
        return False
    counts = training.tally.counts
    counts["kills"] += 1
    counts["kills during a write"] += bool(leftovers(out) - before)
    counts["kills before the first checkpoint"] += not list(out.glob("checkpoints/step-*"))
    return True


def leftovers(out: Path) -> set[Path]:
    """Return the files that a writer has begun but not yet renamed."""
    return {*out.glob(".*.xpnet-tmp"), *out.glob("checkpoints/.*.xpnet-tmp")}


def damage(training: Training, count: int, draw: random.Random) -> None:
    """Damage the newest checkpoint after each kill: the one before it is used, with a warning."""
    out, done = training.folder / "damaged", 0
    while done < count:
        shutil.rmtree(out, ignore_errors=True)
        for step in (12, 24, 36, 48):
            process = training.start(out)
            training.wait_for(process, out, step)
            if not process.kill():
                break
            training.tally.counts["kills"] += 1
            newest = list(CheckpointFolder(out / "checkpoints").steps().values())[-1]
            blob = bytearray(newest.read_bytes())
            if draw.random() < 0.5:
                blob = blob[: draw.randrange(len(blob))]
            else:
                blob[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
            newest.write_bytes(blob)
            done += 1
            training.tally.counts["checkpoints damaged"] += 1
            resumed = training.start(out, "epochs=1")  # already past it: only reads
            if "skipped" not in resumed.succeeds():
                msg = "a damaged checkpoint was used, or skipped without a warning"
                raise LostError(msg)
        training.start(out).succeeds()
        training.same(out)


def tampered(training: Training, bits: int) -> None:
    """Cut a checkpoint at every byte and flip ``bits`` bits of each: it must never be read."""
    counts, out = training.tally.counts, training.folder / "small"
    training.start(out, "epochs=1").succeeds()
    first = next(iter(CheckpointFolder(out / "checkpoints").steps().values()))
    with in_memory() as folder:
        tamper(first.read_bytes(), folder / "tampered.safetensors", bits, counts)


def tamper(content: bytes, path: Path, bits: int, counts: Counter) -> None:
    """Write ``content`` to ``path``, truncated and altered, and check that it cannot be loaded."""
    blob = bytearray(content)

    def refused() -> None:
        try:
            load(path)
        except CheckpointError:
            return
        msg = "a truncated or altered checkpoint was loaded"
        raise LostError(msg)

    for size in range(len(blob)):
        path.write_bytes(blob[:size])
        refused()
        counts["cuts of a checkpoint, one at each byte"] += 1
    for place in range(len(blob)):
        for bit in range(bits):
            flipped = 1 << (bit + place) % 8
            blob[place] ^= flipped
            path.write_bytes(blob)
            refused()
            blob[place] ^= flipped
            counts["bits flipped in a checkpoint"] += 1
    path.write_bytes(blob)
    load(path)


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A temporary folder, in memory if possible."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def each_call(training: Training, sample: int, seed: int) -> None:
    """Inject a kill, an error or a power cut at each file system call of a training run."""
    tally, layer = training.tally, layered.build(training.folder)
    if layer is None:
        tally.not_run.append("faults at each call to the file system: no C compiler, or not Linux")
        return
    settings = ["epochs=2", "checkpoint.every_steps=3", "checkpoint.keep=2", EACH_EPOCH]
    settings += ["backend=numpy", "batch_size=16", *next(iter(NETWORKS.values()))]
    with in_memory() as folder:
        shutil.copy(training.data, folder)
        result = layered.each_call(layer, folder, settings, sample, seed)
    tally.counts.update(result["counts"])
    tally.problems += result["lost"]
    for problem in result["lost"]:
        print(f"LOST {problem}", flush=True)


def clock(training: Training) -> None:
    """Train, kill and resume with a clock that goes back an hour each time it is read."""
    tally, layer = training.tally, layered.build(training.folder)
    if layer is None:
        tally.not_run.append("a clock that goes backwards: no C compiler, or not Linux")
        return
    backwards = layered.environment(layer, XPNET_LAYER_CLOCK="1")
    out, extra = training.folder / "backwards", "checkpoint.every=0.05s"
    process = training.start(out, extra, **backwards)
    training.wait_for(process, out, 6)
    process.kill()
    training.start(out, extra, **backwards).succeeds()
    tally.counts["kills"] += 1
    tally.counts["trainings by a clock that runs backwards"] += 2
    training.same(out, kept=False)


def signals(training: Training, count: int, draw: random.Random) -> None:
    """Stop a run with SIGTERM, SIGINT or SIGHUP, and resume it."""
    out, interrupted = training.folder / "signalled", 0
    for n in range(count):
        shutil.rmtree(out, ignore_errors=True)
        process = training.start(out)
        training.wait_for(process, out, draw.randrange(2, 30))
        process.signal(draw.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
        code, printed, _ = process.end()
        training.tally.counts["SIGTERM, SIGINT and SIGHUP"] += 1
        if code == 130 and "resume with" not in printed and "interrupted" not in printed:
            msg = f"signal {n}: the interruption was not reported: {printed!r}"
            raise LostError(msg)
        if code not in (0, 130):
            msg = f"signal {n}: exit code {code}"
            raise LostError(msg)
        interrupted += code == 130  # else it came after the last step
        training.start(out).succeeds()
        training.same(out)
    if not interrupted:
        msg = f"none of {count} signals interrupted a run"
        raise LostError(msg)


def as_from_a_terminal() -> None:
    """Let runs be interrupted where `nohup` or `&` have the signals ignored, which they inherit."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path | None]:
    """Mount a file system of that size; None if it cannot be mounted."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "xpnet-faults", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def full_disk(training: Training) -> None:
    """Fill the disk before a run, during it, and until its end."""
    tally = training.tally
    with small_disk(training.folder / "disk", 4096) as disk:
        if disk is None:
            tally.not_run.append("full disk: mounting a tmpfs is not permitted here")
            return
        out, ballast = disk / "run", disk / "ballast"
        fill(ballast)
        training.start(out).refused("No space left on device")
        os.truncate(ballast, ballast.stat().st_size - 8192)
        training.start(out).refused("are needed; free some space")
        tally.counts["full disks"] += 2
        ballast.unlink()

        for until_end in (False, True):
            process = training.start(out)
            training.wait_for(process, out, 6)
            process.signal(signal.SIGSTOP)
            fill(ballast)
            process.signal(signal.SIGCONT)
            if not until_end:
                while process.running() and "training continues" not in process.stderr():
                    time.sleep(0.001)
                ballast.unlink()
            code, printed, err = process.end()
            tally.counts["full disks"] += 1
            if "training continues" not in printed + err:
                msg = f"a full disk was not reported: {err[-300:]!r}"
                raise LostError(msg)
            if until_end and code == 0:
                training.same(out)  # deleting one of its old checkpoints made room
            elif code != (2 if until_end else 0):
                msg = f"exit code {code} on a full disk: {err[-300:]!r}"
                raise LostError(msg)
            ballast.unlink(missing_ok=True)
            if CheckpointFolder(out / "checkpoints").newest() is None:
                msg = "no valid checkpoint was left on a full disk"
                raise LostError(msg)
            training.start(out).succeeds()
            training.same(out)
            shutil.rmtree(out)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass


def file_limit(training: Training) -> None:
    """Limit the file size, as a quota does: every checkpoint fails, and training completes."""
    import resource

    out = training.folder / "limited"
    process = training.start(out)
    training.wait_for(process, out, 6)
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (2000, 2000))
    _, printed, err = process.end()
    training.tally.counts["files refused by a limit"] += 1
    if "checkpoint not saved, training continues" not in printed + err:
        msg = f"a failed write was not reported: {err[-300:]!r}"
        raise LostError(msg)
    training.start(out).succeeds()
    training.same(out)


def read_only(training: Training) -> None:
    """Train into a folder that is read-only from the start, or becomes read-only."""
    tally, disk = training.tally, training.folder / "ro"
    with small_disk(disk, 4096) as mounted:
        if mounted is None and os.geteuid() == 0:
            tally.not_run.append("read-only folder: mounting is not permitted, and root may write")
            return
        disk.chmod(0o555)
        lock_up = ["mount", "-o", "remount,ro", str(disk)] if mounted else ["true"]
        subprocess.run(lock_up, check=True)
        training.start(disk / "run").refused("cannot use the folder")
        tally.counts["read-only folders"] += 1
        if not mounted:
            return
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        process = training.start(disk / "run")
        training.wait_for(process, disk / "run", 6)
        process.kill()
        tally.counts["kills"] += 1
        subprocess.run(lock_up, check=True)
        training.start(disk / "run").refused("Read-only file system")
        tally.counts["read-only folders"] += 1
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        training.start(disk / "run").succeeds()
        training.same(disk / "run")


def changed_data(training: Training) -> None:
    """Change one digit of the data before a run is resumed."""
    out, before = training.folder / "changed", training.data.read_text()
    process = training.start(out)
    training.wait_for(process, out, 6)
    process.kill()
    training.tally.counts["kills"] += 1
    try:
        training.data.write_text(before.replace("1", "2", 1))
        training.start(out).refused("the data has changed since this run began")
    finally:
        training.data.write_text(before)
    training.tally.counts["data changed"] += 1
    training.start(out).succeeds()
    training.same(out)


def two_writers(training: Training, count: int) -> None:
    """Start several trainings in one folder at once: one trains, the others are refused."""
    out = training.folder / "contested"
    for _ in range(count):
        shutil.rmtree(out, ignore_errors=True)
        processes = [training.start(out) for _ in range(4)]
        ends = [process.end() for process in processes]
        training.tally.counts["second writers"] += 3
        odd = [e for e in ends if e[0] not in (0, 2) or (e[0] == 2 and "is in use by" not in e[2])]
        if odd or not any(code == 0 for code, _, _ in ends):
            msg = f"several writers ended with: {odd or ends}"
            raise LostError(msg)
        training.same(out)


def other_backend(training: Training, backend: str, draw: random.Random) -> None:
    """Resume a checkpoint on another array library, and then on the first one again."""
    out = training.folder / f"on-{backend}"
    step = draw.randrange(10, 20)
    for extra in ((), (f"backend={backend}",)):
        process = training.start(out, *extra)
        training.wait_for(process, out, step)
        process.kill()
        training.tally.counts["kills"] += 1
        step += 20
    training.tally.counts["changes of backend"] += 2
    training.start(out).succeeds()
    training.same(out, BACKENDS_TOLERANCE)


def long_run(folder: Path, steps: int, tally: Tally) -> dict[str, int]:
    """Train for ``steps`` steps; memory and open files must stay flat and the history readable."""
    per_epoch, epochs = 500, max(10, steps // 480)
    settings = ("batch_size=1", "model.hidden=[4]", "data.test_fraction=0.2", "backend=numpy")
    settings += ("report=no",)
    training = Training(folder, (*settings, f"epochs={epochs}"), tally, rows=per_epoch * 100 // 72)
    process = training.start(folder / "long", "checkpoint.every_steps=1000")
    samples: list[tuple[int, int]] = []
    history = History(folder / "long" / "history.jsonl")
    while process.running():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
            records = len(history.read())
            rss = Path(f"/proc/{process.popen.pid}/statm").read_text().split()[1]
            files = len(os.listdir(f"/proc/{process.popen.pid}/fd"))
            if records and int(rss):
                samples.append((int(rss) * os.sysconf("SC_PAGE_SIZE") // 1024, files))
        time.sleep(0.02)
    process.succeeds()
    done = history.read()[-1]["step"]
    quarter = max(1, len(samples) // 4)
    early, late = samples[:quarter], samples[-quarter:]
    grown = max(s[0] for s in late) - max(s[0] for s in early)
    # The median, since a checkpoint may be open while a sample is taken.
    opened = median_low(s[1] for s in late) - median_low(s[1] for s in early)
    tally.counts["steps of the long run"] += done
    if grown > 4096 or opened > 0:
        msg = f"over {done} steps memory grew by {grown} KiB and open files by {opened}"
        raise LostError(msg)
    return {"steps": done, "samples": len(samples), "grown_kib": grown, "opened": opened}


def inputs(count: int, seed: int, tally: Tally) -> dict[str, dict[str, int]]:
    """Feed damaged input to every reader."""
    counts = fuzz.fuzz(count, seed)
    tally.counts["inputs fuzzed"] += sum(c.total() for c in counts.values())
    tally.counts["tracebacks"] += sum(c["escaped"] for c in counts.values())
    return {name: dict(count) for name, count in counts.items()}


def conditions() -> dict[str, str]:
    """Return the machine and the versions that the faults ran on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    packages = ("xpnet", "numpy", "safetensors", "torch", "jax", "pyarrow")
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        **found,
    }


def markdown(result: dict) -> str:
    """Return the report as Markdown."""
    lines = ["# Faults injected into training runs, and what was lost", ""]
    lines += [f"`{result['command']}`, {result['seconds']} s.", ""]
    for title in ("counts", "conditions"):
        lines += [f"| {title} | |", "| --- | ---: |"]
        lines += [
            f"| {k} | {v:,} |" if isinstance(v, int) else f"| {k} | {v} |"
            for k, v in result[title].items()
        ]
        lines.append("")
    lines += ["| inputs | accepted | refused | escaped |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {c['accepted']:,} | {c['refused']:,} | {c['escaped']:,} |"
        for name, c in result["fuzzed"].items()
    ]
    grown = result["long"]
    if grown:
        lines += ["", f"Over {grown['steps']:,} steps memory grew by {grown['grown_kib']:,} KiB"]
        lines[-1] += f" and open files by {grown['opened']} ({grown['samples']:,} samples)."
    lines += ["", *(f"Not run: {reason}." for reason in result["not run"])]
    return "\n".join(lines).rstrip() + "\n"


def available(name: str) -> bool:
    """Return whether an array library can be imported."""
    from importlib.util import find_spec

    return find_spec(name) is not None


def campaign(folder: Path, options: argparse.Namespace, tally: Tally) -> dict:
    """Inject all faults; return the results other than the counts."""
    draw, short = random.Random(options.seed), options.short
    print(f"seed {options.seed}", flush=True)
    names = list(NETWORKS)[:1] if short else list(NETWORKS)
    for name in names:
        training = Training(folder / name.partition(",")[0], (*COMMON, *NETWORKS[name]), tally)
        with tally.case(f"kills ({name})"):
            kills(training, options.kills // len(names), draw)
    for backend in () if short else ("torch", "jax"):
        if not available(backend):
            tally.not_run.append(f"kills on {backend}: it is not installed")
            continue
        settings = (*COMMON, *NETWORKS[names[0]], f"backend={backend}")
        with tally.case(f"kills ({backend})"):
            kills(Training(folder / backend, settings, tally), options.kills // 20, draw)
    few = 1 if short else 8
    first, second = (
        Training(folder / str(n), (*COMMON, *network), tally)
        for n, network in enumerate([*NETWORKS.values()][:2])
    )
    third = Training(folder / "parts", (*COMMON, *VARIED), tally)
    cases: dict[str, Callable[[], None]] = {
        "damaged checkpoints": lambda: damage(first, 2 * few, draw),
        "a checkpoint cut and altered": lambda: tampered(first, 1 if short else 8),
        "each call to the file system": lambda: each_call(first, options.calls, options.seed),
        "clock": lambda: clock(first),
        "signals": lambda: signals(first, 2 * few, draw),
        "full disk": lambda: full_disk(first),
        "limit on files": lambda: file_limit(first),
        "read-only folder": lambda: read_only(first),
        "changed data": lambda: changed_data(first),
        "two writers": lambda: two_writers(first, few),
        "settings in other orders": lambda: variations.orders(second, 2 * few, draw),
        "parts and caches": lambda: variations.parts(third, few, draw),
        "fits interrupted in Python": lambda: variations.interrupted_fits(100 * few, draw, tally),
    }
    for name, case in cases.items():
        with tally.case(name):
            case()
    for backend in () if short else ("torch", "jax"):
        if available(backend):
            with tally.case(f"from numpy to {backend} and back"):
                settings = (*COMMON, *NETWORKS[list(NETWORKS)[1]])
                other_backend(Training(folder / "other", settings, tally), backend, draw)
    kept: dict = {"long": None, "fuzzed": {}}
    with tally.case("long run"):
        kept["long"] = long_run(folder / "long", options.steps, tally)
    with tally.case("inputs"):
        kept["fuzzed"] = inputs(options.inputs, options.seed, tally)
    return kept


def main() -> None:
    """Parse the options, inject all faults and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="take two minutes, for CI")
    parser.add_argument("--kills", type=int, help="minimum kills (short 20, long 240)")
    parser.add_argument("--calls", type=int, help="failing calls (short 60, long all, five times)")
    parser.add_argument("--steps", type=int, help="steps of the long run (5,000 or 100,000)")
    parser.add_argument("--inputs", type=int, help="inputs to fuzz (2,000 or 100,000)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--report", type=Path, help="write FILE.md and FILE.json")
    options = parser.parse_args()
    as_from_a_terminal()
    options.kills = options.kills or (20 if options.short else 240)
    options.calls = options.calls or (60 if options.short else 10**9)
    options.steps = options.steps or (5_000 if options.short else 100_000)
    options.inputs = options.inputs or (2_000 if options.short else 100_000)
    tally, began = Tally(), time.monotonic()
    tally.counts.update({"lost": 0, "tracebacks": 0})
    with tempfile.TemporaryDirectory(prefix="xpnet-faults-") as folder:
        kept = campaign(Path(folder), options, tally)
    counts = {k: v for k, v in tally.counts.items() if k not in ("lost", "tracebacks")}
    result = {
        "command": "scripts/faults" + (" --short" if options.short else ""),
        "seconds": round(time.monotonic() - began),
        "counts": {
            **counts,
            "lost": tally.counts["lost"],
            "tracebacks": tally.counts["tracebacks"],
        },
        "conditions": {**conditions(), "seed": str(options.seed)},
        "not run": tally.not_run,
        **kept,
    }
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        options.report.with_suffix(".md").write_text(markdown(result))
    print("\n".join(tally.problems))
    for name, count in result["counts"].items():
        print(f"{name}: {count:,}")
    for reason in tally.not_run:
        print(f"not run: {reason}")
    sys.exit(1 if tally.counts["lost"] or tally.counts["tracebacks"] else 0)


if __name__ == "__main__":
    main()
