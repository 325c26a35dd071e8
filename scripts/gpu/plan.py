"""The stages of the report, the most informative first."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

__all__ = ["LIMIT", "PATIENCE", "ROOT", "WHOLE", "XPNET", "Stage", "stages"]

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
XPNET = (PYTHON, "-m", "gpu.xpnet")
# pytest-benchmark warns where pytest-xdist runs, and warnings are errors.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "gpu.recording")
PYTEST = (PYTHON, "-m", "pytest", "-q", "-rfE", "--tb=short", *PLUGINS)
WHOLE = 575.0  # seconds: what the limits add up to
PATIENCE = 6.0  # times as long may a rehearsal take, on a machine that does other things, too
LIMIT = "LIMIT"  # in a command: the seconds that the stage has for processes of its own
PRECISIONS = ("bfloat16", "tf32", "float32")


class Stage(NamedTuple):
    """A process that writes its results to ``json`` and ``md``, and ends with 0 if all is well."""

    name: str
    seconds: float  # its limit; what earlier stages have left is added
    command: Sequence[str]
    json: Path | None = None
    md: Path | None = None
    timed: bool = False  # whether the clocks are recorded before and after it


def stages(work: Path, rehearse: bool) -> list[Stage]:
    """Return the stages; ``work`` is for their files. A rehearsal does less of the same."""

    def stage(name: str, seconds: float, *command: str, **options: object) -> Stage:
        """Replace JSON and MD in the command by the stage's files."""
        files = {"JSON": work / f"{name}.json", "MD": work / f"{name}.md"}
        filled = [str(files.get(word, word)) for word in command]
        seconds *= PATIENCE if rehearse else 1.0
        return Stage(name, seconds, filled, files["JSON"], files["MD"], **options)  # type: ignore[arg-type]

    def ours(module: str) -> tuple[str, ...]:
        return PYTHON, "-m", f"gpu.{module}"

    def apart(folder: str) -> tuple[str, ...]:
        """Keep what is measured and remembered, such as algorithms, from what others remember."""
        return "env", f"XPNET_CACHE_DIR={work / folder}"

    def count(full: int, small: int) -> str:
        return str(small if rehearse else full)

    workers = ("-n", count(12, 2)) if find_spec("xdist") else ()
    chosen = "(cupy or real_gpu) and not nvrtc"  # NVRTC compiles the kernels without a GPU, too
    tests, others = ["tests"], ["tests"]
    if rehearse:
        chosen = "cupy and (flattened or bfloat16 and nearest_number)"
        tests = ["tests/kernels/test_cuda_step.py", "tests/kernels/test_cuda_mixed.py"]
        others = ["tests/ops/test_ops.py::test_dC_dW_is_the_componentwise_chain_rule"]
    tested = "cupy" if rehearse else "numpy,numpy-readonly,array-api-strict,cupy"
    required = ("--require-backend=cupy", f"--min-gpu-tests={count(500, 3)}")
    names = ("cupy", "torch:cuda:0", "jax:cuda:0")
    compared = ",".join(f"{n}:{dtype}" for n in names for dtype in ("float32", "float64"))
    few = ("--only", "xpnet cupy", "--rounds", "3", "--precision", "bfloat16")
    bench = ("bash", str(ROOT / "scripts/gpu-bench"), "MD", "JSON")

    fresh = apart("measured alone")  # not beside other processes on the GPU, as tests measure

    return [
        stage("environment", 15, *ours("environment"), "JSON"),
        stage("rates", 15, *ours("rates"), "JSON", timed=True),
        stage("tests", 120, "env", f"XPNET_TEST_BACKENDS={tested}", *PYTEST, "--long", *workers,
              *tests, "-k", chosen, *required, "--record", "JSON"),
        stage("replays", 30, *ours("replays"), count(1000, 8), "JSON"),
        stage("ranks", 25, *fresh, *ours("ranks"), "JSON"),
        stage("training", 40, *ours("training"), "JSON", "MD"),
        stage("curves", 30, *ours("curves"), count(100, 4), "JSON"),
        stage("command line", 20, *ours("commands"), "JSON"),
        stage("sanitizer", 50, *apart("under tools"), *ours("sanitizer"), LIMIT, "JSON"),
        stage("graphs", 25, *fresh, *ours("graphs"), "JSON", "MD", timed=True),
        stage("kernels", 35, *fresh, *ours("counters"), LIMIT, "JSON", "MD", timed=True),
        *(stage(f"bench {precision}", 35, *fresh, *bench, precision, timed=True)
          for precision in PRECISIONS),
        stage("profile", 20, *fresh, *XPNET, "bench", "--device", "cuda", *few, "--profile",
              "--json-file", "JSON", "--markdown", "MD", timed=True),
        stage("parity", 20, *XPNET, "parity", "digits", "--backends", compared, "--allow-missing",
              "--steps", count(20, 1), "--json-file", "JSON"),
        stage("other libraries", 25, *ours("libraries"), "JSON", *PYTEST[3:],
              *(() if rehearse else workers), *others),
    ]  # fmt: skip
