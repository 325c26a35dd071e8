"""Feed damaged and hostile files to every part of xpnet that reads files.

    python scripts/fuzz.py --inputs 20000                         counted, from a seed
    python scripts/fuzz.py --atheris csv -- -max_total_time=60    guided by coverage, with atheris

For any input, a reader must either work or raise XpnetError with a one-line message, and the
command line must exit with 0 or 2 without a traceback. What is asked for in another way (settings
in another order, a table with its columns moved, added, named or not) must give the same answer, or
be refused where it cannot be told. Anything else has escaped: it is printed with the seed that
reproduces it, and the exit code is 1.
"""

import argparse
import contextlib
import copy
import csv
import gzip
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# ---------------------------------------------------------------------------------------- seeds


def csv_text(rows: int = 40) -> str:
    """Return a small table with three features and two classes, as CSV."""
    draw = random.Random(7)
    lines = ["a,b,c,label"]
    for n in range(rows):
        values = [draw.gauss(n % 2, 1) for _ in range(3)]
        lines.append(",".join(f"{v:.4f}" for v in values) + (",no" if n % 2 else ",yes"))
    return "\n".join(lines) + "\n"


def npy_bytes(array: np.ndarray, **kwargs: Any) -> bytes:
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """Return the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def idx_bytes(array: np.ndarray) -> bytes:
    """Return the bytes of an IDX file of uint8."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    """Return a zip file whose members have the given names and contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def parquet_bytes() -> bytes | None:
    """Return a small Parquet file; None without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None
    file = io.BytesIO()
    pq.write_table(pa.table({"p": [1.0, 2.0, 3.0], "q": [3, 4, 5], "y": ["u", "v", "u"]}), file)
    return file.getvalue()


def png_bytes() -> bytes | None:
    """Return a small PNG image, which is turned by its EXIF data; None without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return None
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(file, "PNG", exif=exif)
    return file.getvalue()


EYE, LABELS = np.eye(4), np.arange(4) % 2
IMAGES = idx_bytes(np.arange(24).reshape(4, 6))
OBJECTS = npy_bytes(np.array([[{}, 1]], object), allow_pickle=True)
TEXTS = npy_bytes(np.array(["a", "b", "a", None], object), allow_pickle=True)
FIELDS = npy_bytes(np.array([(1.5, 2, "a"), (0, 3, "b")], [("p", "f4"), ("q", "i2"), ("y", "U1")]))
HUGE = npy_bytes(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(1048576, 1048576)")
CONFIG = """\
epochs = 3
batch_size = 8
backend = "numpy"
[data]
source = "table.csv"
label = "label"
scaling = "minmax"
[model]
hidden = [4, 3]
activation = "tanh"
[[model.layers]]
name = "dense"
units = 3
[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
[schedule]
name = "cosine"
[early_stopping]
patience = 2
[checkpoint]
every = "10min"
"""
SETTINGS = (
    "optimizer.lr=0.01",
    "optimizer=adam",
    "optimizer.name=sgd",
    "model.hidden=[256,128]",
    'model.layers=[{name="dense",units=3}]',
    "schedule.name=cosine",
    "schedule.warmup=0.1",
    "loss=cross_entropy",
    "loss.label_smoothing=.1",
    "optimizer.momentum=9e-1",
    "optimizer.nesterov=yes",
    "model.activation=gelu",
    "checkpoint.every=10min",
    "data.label=3",
    "batch_size=auto",
    "batch_size=largest",
    "clip.norm=1",
    "mixed.dtype=float16",
)
FILES: dict[str, list[bytes]] = {
    "table.csv": [
        csv_text(6).encode(),
        b"1,2,3\n4,5,6\n",
        b"\xef\xbb\xbf1;2\n3;4\n",
        b'1,"a\nb"\n',
    ],
    "table.csv.gz": [gzip.compress(csv_text(6).encode(), mtime=0)],
    "table.npy": [npy_bytes(EYE), npy_bytes(np.array([["a", "b"]])), OBJECTS, TEXTS, FIELDS, HUGE],
    "table.npz": [
        npz_bytes(x=EYE, y=LABELS),
        npz_bytes(x_train=EYE, y_train=LABELS[:, None], x_test=EYE, y_test=LABELS),
        npz_bytes(arr_0=EYE, arr_1=np.eye(4)[LABELS]),
        zip_bytes({"x.npy": npy_bytes(EYE), "y.npy": TEXTS}),
        zip_bytes({"x.npy": OBJECTS}),
        zip_bytes({"x.npy": HUGE, "y.npy": npy_bytes(LABELS)}),
        zip_bytes({"../x.npy": npy_bytes(EYE), "/y.npy": npy_bytes(LABELS)}),
    ],
    "table.idx": [IMAGES],
    "table.idx.gz": [gzip.compress(IMAGES, mtime=0)],
    **({"table.parquet": [made]} if (made := parquet_bytes()) else {}),
    **({"table.png": [image]} if (image := png_bytes()) else {}),
}

# ------------------------------------------------------------------------------------ mutations

TOKENS = (
    *(b",", b"\n", b'"', b"nan", b"inf", b"9" * 20, b"\0", b"-", b"\xff" * 4, b"(", b"[" * 3000),
    *(b"1" * 5000, b"=", b"'''", b"1e999", b"\x80\x04", b"../", b"{", b"]", b"\xed\xa0\x80"),
    *(b"[/b]", b"\x1b]0;title\x07", b"\xe2\x80\xae"),
)
VALUES = (
    *(None, True, -1, 0, 2**70, 1.5, 1e308, float("nan"), float("inf"), "", "x", "x\ny", "\x00"),
    *([], {}, [None], [[]], {"name": "x"}, "9" * 400, [1, "a"], {"a": {"b": []}}, "Infinity"),
    *("[/b]", "\x1b]0;title\x07", "\u202e", "\ud800"),
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return ``content`` with up to four edits: overwrite, delete, insert, truncate, flip a bit."""
    for _ in range(draw.randint(0, 4)):
        at = draw.randint(0, len(content))
        new = draw.choice(TOKENS) if draw.random() < 0.5 else draw.randbytes(draw.randint(1, 3))
        edit = draw.randrange(5)
        if edit == 0:
            content = content[:at] + new + content[at + len(new) :]
        elif edit == 1:
            content = content[:at] + content[at + draw.randint(1, 8) :]
        elif edit == 2:
            content = content[:at] + new + content[at:]
        elif edit == 3:
            content = content[:at]
        elif content:
            at = draw.randrange(len(content))
            content = (
                content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
            )
    return content


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) for every value inside a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def tampered(value: Any, draw: random.Random) -> Any:
    """Return a copy of a JSON value with one or two values replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 2)):
        if not value or not isinstance(value, dict):
            return draw.choice(VALUES)
        top = draw.choice(list(value))  # otherwise nearly all edits would hit the largest branch
        container, key = draw.choice([(value, top), *places(value[top])])
        if draw.random() < 0.2:
            del container[key]
        elif draw.random() < 0.1 and isinstance(container, dict):
            container["extra"] = draw.choice(VALUES)
        else:
            container[key] = copy.deepcopy(draw.choice(VALUES))
    return value


# -------------------------------------------------------------------------------------- targets

Target = Callable[["Bench", random.Random], None]


def command(*arguments: str) -> str:
    """Run the command line in this process; return what it printed.

    Raises AssertionError if it breaks its promise, and XpnetError with its error line.
    """
    from xpnet.cli.main import main
    from xpnet.errors import XpnetError

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code
    # Lines before the last may be warnings, such as of a damaged checkpoint that was skipped.
    lines = err.getvalue().splitlines()
    foreseen = "a bug in xpnet" not in err.getvalue()
    if code == 2 and foreseen and [s for s in lines if s.startswith("error: ")] == lines[-1:]:
        raise XpnetError(lines[-1])
    unseen = {c for c in out.getvalue() + err.getvalue() if c in "\x1b\x07\u202e"}
    if unseen and arguments[0] != "predict":  # predict writes its CSV unescaped
        msg = f"control characters were printed: {unseen}"
        raise AssertionError(msg)
    if code != 0:
        msg = f"exit code {code}, standard error: {err.getvalue()[:500]!r}"
        raise AssertionError(msg)
    return out.getvalue()


class Bench:
    """A working folder with a good run to tamper with."""

    def __init__(self, folder: Path) -> None:
        from xpnet.run import RunFolder
        from xpnet.storage import load

        self.folder = folder
        self.data = folder / "good.csv"  # the targets write over table.csv
        self.data.write_text(csv_text())
        self.good = folder / "good"
        settings = (
            "epochs=2",
            "backend=numpy",
            "model.hidden=[4]",
            "model.normalization=batch_norm",
        )
        named = [word for setting in settings for word in ("--set", setting)]
        train = ("train", str(self.data), "--recipe", "none", "--out", str(self.good), "--quiet")
        command(*train, *named)
        self.newest = max((self.good / "checkpoints").glob("step-*"))
        self.checkpoint = load(self.newest)
        self.run_folder = RunFolder
        self.answers = {
            "predict": command("predict", str(self.good), str(self.data)),
            "evaluate": command("evaluate", str(self.good), str(self.data), "--json"),
        }

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def copy(self) -> Path:
        """Return a fresh copy of the good run."""
        path = self.folder / "copy"
        shutil.rmtree(path, ignore_errors=True)
        return Path(shutil.copytree(self.good, path))


def read_file(name: str) -> Target:
    """Return the target that reads the format of ``name``."""

    def target(bench: Bench, draw: random.Random) -> None:
        from xpnet.data import read

        path = bench.file(name, damaged(draw.choice(FILES[name]), draw))
        task = draw.choice(["classification", "regression"])
        read(path, label=draw.choice(["auto", None, 0, "y"]), task=task)

    return target


def parts(bench: Bench, draw: random.Random) -> None:
    """All parts of an archive, or of a folder of images in which one is damaged."""
    from xpnet.data import read_parts

    label, size = draw.choice(["auto", None]), draw.choice([None, (3, 2)])
    if (image := png_bytes()) is None or draw.random() < 0.5:
        read_parts(
            bench.file("table.npz", damaged(draw.choice(FILES["table.npz"]), draw)),
            label=label,
            array=draw.choice([None, "x", "arr_1"]),
        )
        return
    folder = bench.folder / "images"
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(draw.randint(1, 5)):
        names = [draw.choice(["train", "test", "a", "b", ".c"]) for _ in range(draw.randint(0, 3))]
        path = folder.joinpath(*names, draw.choice(["1.png", "2.jpg", "3.txt", ".4.png"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(image, draw) if draw.random() < 0.3 else image)
    read_parts(folder, label=label, image_size=size)


def streamed(bench: Bench, draw: random.Random) -> None:
    """Stream a data file: scan it, then read it once in shuffled windows."""
    from xpnet.data import Shuffle, open_rows, scan, streamable

    name = draw.choice([name for name in FILES if streamable(name)])
    path = bench.file(name, damaged(draw.choice(FILES[name]), draw))
    file = open_rows(path, draw.choice(["auto", None, 0, "x"]))
    task = draw.choice(["classification", "regression"])
    for part in scan(file, (0.7, 0.3), task=task, window_bytes=100).parts:
        if len(part):
            rows = sum(len(batch.x) for batch in part.batches(3, Shuffle(0, 0)))
            assert rows == len(part), (rows, len(part))


def config(bench: Bench, draw: random.Random) -> None:
    """A TOML file that is read, written and read again."""
    from xpnet.run.config import to_toml
    from xpnet.run.config_sources import load_config

    path = bench.file("my.toml", damaged(CONFIG.encode(), draw))
    read_back = bench.file("again.toml", to_toml(load_config(str(path))).encode())
    load_config(str(read_back))


def settings(bench: Bench, draw: random.Random) -> None:
    """An argument of ``--set``."""
    from xpnet.run.config_sources import load_config

    text = damaged(draw.choice(SETTINGS).encode(), draw).decode("utf-8", "surrogateescape")
    load_config("digits", [text, draw.choice(SETTINGS)])


def checkpoint(bench: Bench, draw: random.Random) -> None:
    """A checkpoint whose bytes are damaged."""
    from xpnet.storage import load

    load(bench.file("a.safetensors", damaged(bench.newest.read_bytes(), draw)))


def manifest(bench: Bench, draw: random.Random) -> None:
    """A checkpoint whose digests are all correct but whose content is invalid."""
    from xpnet.storage import save

    run = bench.copy()
    meta = tampered(bench.checkpoint.meta, draw) if draw.random() < 0.8 else bench.checkpoint.meta
    tensors = dict(bench.checkpoint.tensors)
    if meta is bench.checkpoint.meta:
        name = draw.choice(list(tensors))
        strange = (None, np.zeros(0), np.ones((2, 3)), np.array(True), tensors[name] * np.nan)
        tensors[name] = draw.choice(strange)
        tensors = {k: v for k, v in tensors.items() if v is not None}
    if not isinstance(meta, dict):
        return
    (run / "checkpoints" / "best.safetensors").unlink(missing_ok=True)
    save(run / "checkpoints" / bench.newest.name, tensors, meta)
    use(bench, run, draw)


def run_folder(bench: Bench, draw: random.Random) -> None:
    """A run folder in which one file is damaged or tampered with."""
    run = bench.copy()
    name = draw.choice(["config.toml", "run.json", "history.jsonl", "report.json", "run.lock"])
    path = run / name
    content = path.read_bytes()
    if name.endswith("json") and draw.random() < 0.6:
        path.write_text(json.dumps(tampered(json.loads(content), draw)))
    elif name == "history.jsonl" and draw.random() < 0.6:
        records = [tampered(json.loads(line), draw) for line in content.splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        path.write_bytes(damaged(content, draw))
    use(bench, run, draw)


def use(bench: Bench, run: Path, draw: random.Random) -> None:
    """Run one of the commands that take a run folder."""
    what = draw.randrange(4)
    if what == 0:
        command("show", str(run))
    elif what == 1:
        command("evaluate", str(run))
    elif what == 2:
        command("predict", str(run), str(bench.data))
    else:
        command("train", "--out", str(run), "--resume", "--quiet", "--set", "epochs=3")


def prediction(bench: Bench, draw: random.Random) -> None:
    """A damaged file of rows to predict."""
    path = bench.file("new.csv", damaged(csv_text(6).encode(), draw))
    command("predict", str(bench.good), str(path))


def order(bench: Bench, draw: random.Random) -> None:
    """The same settings in two orders: the same config, or both are refused."""
    from xpnet.errors import XpnetError
    from xpnet.run.config_sources import load_config

    def loaded(settings: list[str]) -> Any:
        try:
            return load_config("digits", settings)
        except XpnetError as error:
            return error

    keys: dict[str, str] = {}  # what is given twice has an order: the last holds
    for setting in draw.sample(SETTINGS, draw.randint(2, 6)):
        keys.setdefault(setting.partition("=")[0].removesuffix(".name"), setting)
    one, other = loaded([*keys.values()]), loaded(draw.sample([*keys.values()], len(keys)))
    if isinstance(one, XpnetError) and isinstance(other, XpnetError):
        raise one
    assert one == other, (list(keys.values()), one, other)


def columns(bench: Bench, draw: random.Random) -> None:
    """The rows of the run, in a file with other columns: its answers must stay the same."""
    from xpnet.errors import XpnetError

    table = list(csv.reader(io.StringIO(csv_text())))
    cells = dict(zip(table[0], zip(*table[1:], strict=True), strict=True))
    labelled = draw.random() < 0.5
    if not labelled:
        del cells["label"]
    rows = len(table) - 1
    changed = draw.choice(["nothing", "order", "order", "more", "no header", "renamed", "gone"])
    if changed == "more":
        added = {"vip": "yes", "0": "7", "z": f"{draw.random()}", "Class": "no"}
        cells |= {name: (added[name],) * rows for name in draw.sample([*added], draw.randint(1, 2))}
    if changed in ("more", "order"):
        cells = {name: cells[name] for name in draw.sample([*cells], len(cells))}
    if changed == "nothing" and draw.random() < 0.5:
        first = draw.randrange(2)
        cells = {draw.choice(["", "id"]): tuple(map(str, range(first, first + rows)))} | cells
    if changed in ("renamed", "gone"):
        name = draw.choice("abc")
        column = cells.pop(name)
        cells |= {"d": column} if changed == "renamed" else {}
    path = write_table(bench, cells, changed != "no header", draw)
    asked = ("evaluate", "--json") if labelled else ("predict",)
    try:
        got = command(*asked, str(bench.good), str(path))
    except XpnetError as error:
        if changed in ("renamed", "gone"):
            raise
        got = str(error)
    want = "" if changed in ("renamed", "gone") else bench.answers[asked[0]]
    assert got == want, (changed, path.read_bytes()[:200], got, want)


def write_table(
    bench: Bench, cells: dict[str, tuple[str, ...]], header: bool, draw: random.Random
) -> Path:
    """Write columns as text with some delimiter, or as Parquet."""
    if header and parquet_bytes() and draw.random() < 0.3:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = bench.folder / "columns.parquet"
        typed = {n: c if n == "label" else [_number(v) for v in c] for n, c in cells.items()}
        pq.write_table(pa.table(typed), path)
        return path
    path = bench.folder / "columns.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=draw.choice(",;\t"))
        writer.writerows([list(cells)] * header)
        writer.writerows(zip(*cells.values(), strict=True))
    return path


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def training(bench: Bench, draw: random.Random) -> None:
    """Run the train command; if it refuses the file, it must leave no run folder."""
    from xpnet.errors import XpnetError

    name = draw.choice(list(FILES))
    path = bench.file(name, damaged(draw.choice(FILES[name]), draw))
    out = bench.folder / "new-run"
    shutil.rmtree(out, ignore_errors=True)
    scaling, task = draw.choice(["standard", "max", "none"]), draw.choice(["", "regression"])
    flags = ["epochs=1", "backend=numpy", "model.hidden=[2]", f"data.scaling={scaling}"]
    flags += ["data.validation_fraction=0", "data.stratify=false"] if draw.random() < 0.5 else []
    flags += ["data.task=regression", "loss=mean_squared_error"] if task else []
    flags += ["data.stream=yes"] if draw.random() < 0.3 else []
    named = [word for flag in flags for word in ("--set", flag)]
    try:
        command("train", str(path), "--out", str(out), "--quiet", *named)
    except XpnetError as error:
        if out.exists() and "not finite" not in str(error):
            msg = f"refused the file but left a run folder: {error}"
            raise AssertionError(msg) from None
        raise


TARGETS: dict[str, Target] = {
    "config": config,
    "set": settings,
    **{name.removeprefix("table."): read_file(name) for name in FILES},
    "parts": parts,
    "streamed": streamed,
    "checkpoint": checkpoint,
    "manifest": manifest,
    "run-folder": run_folder,
    "prediction": prediction,
    "order": order,
    "columns": columns,
    "train": training,
}
SLOW = {
    "manifest",
    "run-folder",
    "prediction",
    "columns",
    "train",
}  # each takes as long as ten others

# ---------------------------------------------------------------------------------------- driver


def attempt(target: Target, bench: Bench, draw: random.Random) -> str | None:
    """Return "accepted" or "refused", or print the traceback and return None if one escaped."""
    from xpnet.errors import XpnetError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target(bench, draw)
    except XpnetError as error:
        if "\n" in str(error):
            print(f"a message of more than one line: {error!r}")
            return None
        return "refused"
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return None
    return "accepted"


def fuzz(inputs: int, seed: int = 0, only: str | None = None) -> dict[str, Counter]:
    """Try about ``inputs`` inputs, spread over all targets; return each target's counts."""
    chosen = [only] if only else list(TARGETS)
    weights = {name: 1 if name in SLOW else 10 for name in chosen}
    counts: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in chosen:
            counts[name] = Counter(accepted=0, refused=0, escaped=0)
            for n in range(max(1, inputs * weights[name] // sum(weights.values()))):
                result = attempt(TARGETS[name], bench, random.Random(f"{seed} {name} {n}"))
                if result is None:
                    print(f"^ escaped: --only {name} --seed {seed}, input {n}", flush=True)
                counts[name][result or "escaped"] += 1
    return counts


def guided(name: str, options: list[str]) -> None:
    """Let atheris choose the bytes that a target reads, starting from valid ones."""
    import atheris

    with atheris.instrument_imports(include=["xpnet"]):
        pass
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        good = FILES.get(f"table.{name}", [bench.newest.read_bytes(), CONFIG.encode()])
        for n, content in enumerate(good):
            (corpus / str(n)).write_bytes(content)

        def one(data: bytes) -> None:
            globals()["damaged"] = lambda content, draw: data
            if attempt(TARGETS[name], bench, random.Random(len(data))) is None:
                msg = f"escaped: {data!r}"
                raise RuntimeError(msg)

        atheris.Setup([sys.argv[0], *options, str(corpus)], one)
        atheris.Fuzz()


def main() -> None:
    """Read the options, fuzz and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=5000, help="how many (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument("--only", choices=list(TARGETS), help="fuzz this target only")
    parser.add_argument(
        "--atheris", metavar="TARGET", choices=list(TARGETS), help="fuzz it guided by coverage"
    )
    parser.add_argument("libfuzzer", nargs="*", help="options of libFuzzer, after --")
    options = parser.parse_args()
    if options.atheris:
        return guided(options.atheris, options.libfuzzer)
    counts = fuzz(options.inputs, options.seed, options.only)
    for name, count in counts.items():
        print(f"{name:14}", ", ".join(f"{n:6,} {what}" for what, n in count.items()))
    escaped = sum(count["escaped"] for count in counts.values())
    print(f"inputs fuzzed: {sum(map(Counter.total, counts.values())):,}, escaped: {escaped}")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
