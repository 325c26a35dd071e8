"""Writes scripts/reports/gpu-model.md: a step on a GPU as modelled, beside its arithmetic limit.

python scripts/gpu_model.py [FILE]
"""

import sys
from pathlib import Path

from xpnet.bench import STANDARD_ON_GPU, Setting
from xpnet.bench.model import MACHINES, modelled
from xpnet.bench.model_tables import model_markdown

REPORT = Path(__file__).parent / "reports" / "gpu-model.md"
GPU, PRECISIONS = "H200", ("float32", "tf32", "bfloat16")
HEAD = """\
# Steps as modelled, and their arithmetic limits

Written by `python scripts/gpu_model.py` without a GPU, from the launches that the real step makes.
MB are what all but the products read and write, each array once. The limit is the products at the
rate of large ones, and those bytes as fast as a copy. The model gives each launch the time of its
operations or of its bytes, whichever is longer, and at least {launch} µs, or {product} if it is a
product. An {gpu} copies {copied} TB/s and computes {rates} TFLOP/s.
The model knows nothing of launches beside each other, and of bytes that a cache saves. Where the
ratio is large, launches are what a step takes; [what ran on a GPU](gpu.md) has the times.
"""


def report() -> str:
    """Return the report."""
    machine = MACHINES[GPU]
    rates = ", ".join(f"{machine.products[name]:g} ({name})" for name in PRECISIONS)
    sections = [HEAD.format(gpu=GPU, rates=rates, **machine._asdict())]
    for precision in PRECISIONS:
        setting = Setting("cuda", precision)
        models = {network: modelled(network, setting, machine) for network in STANDARD_ON_GPU}
        sections.append(f"## {precision}\n\n{model_markdown(models)}")
    return "\n".join(sections)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT
    path.write_text(report(), "utf-8")
