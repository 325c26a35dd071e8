"""The captured graph of a step: its nodes, and the host's and the GPU's microseconds apart.

    python -m gpu.graphs FILE MARKDOWN

A launch of ours is one node; a product may be several, which cuBLAS chooses. The longest path says
how many must follow one another.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu.card import card
from gpu.keeping import Kept, table
from gpu.subject import Capturing, of_network, taken
from xpnet.bench.launches import averaged

CASES = [
    ("64-32-10:32:sgd", "tf32"),
    ("784-512-256-10:128:adam", "float32"),
    ("784-512-256-10:128:adam", "bfloat16"),
    ("784-2500-2000-1500-1000-500-10:1024:adam", "bfloat16"),
    ("8192-8192-8192-8192:4096:sgd", "bfloat16"),
]
TABLE_HEADS = ("KERNEL", "ID", "topoId", "node", "func", "handle", "label")
HIDDEN = ("names", "step", "dot")  # in the JSON alone
NODE = re.compile(r'^\s*"([^"\n]*_node_\d+)"\s*\[(.*?)\];', re.DOTALL | re.MULTILINE)
EDGE = re.compile(r'"([^"\n]*_node_\d+)"\s*->\s*"([^"\n]*_node_\d+)"')
WORDS = re.compile(r"[A-Za-z_]\w+")
KERNEL_NODE_PARAMS = 4  # cudaGraphDebugDotFlagsKernelNodeParams
UNNAMED = "unnamed"
DOT = 4000  # characters of CUDA's text that are kept


def described(text: Callable[[int], str]) -> dict[str, Any]:
    """Return what :func:`nodes` finds, in a longer text where the short one names no kernels."""
    found: dict[str, Any] = {}
    for flags in (0, KERNEL_NODE_PARAMS):
        dot = text(flags)
        found = nodes(dot) | {"dot": dot[:DOT]}
        if found["names"] and UNNAMED not in found["names"]:
            break
    return found


def nodes(dot: str) -> dict[str, Any]:
    """Return the nodes by name, the edges and the longest path of CUDA's text of a graph."""
    labels = {}
    for at, options in NODE.findall(dot):
        label = re.search(r'label="(.*?)"', options, re.DOTALL)
        labels[at] = named(label[1] if label else "")
    edges = set(EDGE.findall(dot))
    return {
        "nodes": len(labels),
        "names": dict(Counter(labels.values()).most_common()),
        "edges": len(edges),
        "longest path": longest(set(labels), edges),
    }


def named(label: str) -> str:
    """Return the name in a node's label, which has its number, too, and may have a table."""
    found = [w for w in WORDS.findall(label) if w not in TABLE_HEADS]
    return max(found, key=len, default=UNNAMED)[:100]


def longest(labels: set[str], edges: set[tuple[str, str]]) -> int:
    """Return how many nodes the longest path has."""
    depth = dict.fromkeys(labels, 1)
    for _ in labels:
        longer = {b: depth.get(a, 1) + 1 for a, b in edges if depth.get(a, 1) >= depth.get(b, 1)}
        if not longer:
            break
        for a, b in edges:
            depth[b] = max(depth.get(b, 1), depth.get(a, 1) + 1)
    return max(depth.values(), default=0)


def measured(network: str, precision: str) -> dict[str, Any]:
    """Return a row of the table, and under "names" the names of the nodes."""
    its = card()
    ready = taken(of_network(network, precision), wrap=Capturing)
    with ready.executor.active():
        for _ in range(4):
            ready.take()
        replay = ready.executor.replays[0]
        found = described(replay.__self__.debug_dot_str)
        gpu = averaged(replay, its.synchronize)
        few = 40  # that the queue of launches holds: the host does not wait for the GPU
        its.synchronize()
        began = time.perf_counter()
        for _ in range(few):
            ready.take()
        host = (time.perf_counter() - began) / few * 1e6
        whole = averaged(ready.take, its.synchronize)
    launches = re.search(r"(\d+) launches", ready.step.note)
    return {
        "network": network,
        "precision": precision,
        "launches": int(launches[1]) if launches else None,
        **found,
        "host µs": host,
        "GPU µs": gpu,
        "step µs": whole,
        "step": ready.step.note,
    }


def main(file: str, markdown: str) -> int:
    """Measure every case."""
    kept, rows = Kept(file), []
    for network, precision in CASES:
        try:
            found = measured(network, precision)
        except Exception as error:  # continue with the next one
            kept.miss(f"{network} in {precision}: {type(error).__name__}: {error}")
            continue
        rows.append(found)
        kept.put(graphs=rows)
        if not found["nodes"]:
            kept.miss(f"{network} in {precision}: no node was found in CUDA's text of the graph")
        print(f"{network} in {precision}: {found['names']}", flush=True)
        shown = [{k: v for k, v in row.items() if k not in HIDDEN} for row in rows]
        lists = [f"- {row['network']} in {row['precision']}: {listed(row)}" for row in rows]
        Path(markdown).write_text("\n".join([table(shown), "", *lists]) + "\n", "utf-8")
    return kept.code


def listed(row: dict[str, Any]) -> str:
    """Return the names of a graph's nodes, and how often each is there."""
    return ", ".join(f"{n} {name}" for name, n in row["names"].items())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
