"""Synthetic traces: operators of known cost on a machine that disturbs them."""

from __future__ import annotations

import numpy as np

from cbsurgeon.checks.latency.share.trace import Node, Trace

BLOCK = (("MatMul", 300.0), ("Gelu", 90.0), ("MatMul", 310.0), ("Add", 12.0), ("LayerNorm", 25.0))
DEPTH = 4


def model(inserted: tuple[tuple[str, float], ...] = (), *, lost: bool = False) -> tuple[list[Node], list[float]]:
    """Blocks in a row, with operators after the second product of the last two; optionally without the fused GELU."""
    nodes, costs = [], []
    for block in range(DEPTH):
        for place, (op, cost) in enumerate(BLOCK):
            if lost and op == "Gelu" and block == DEPTH - 1:
                for part, part_cost in (("Erf", 80.0), ("Mul", 40.0)):
                    nodes.append(Node(part, "float[8]", "float[8]", f"{part}_{block}"))
                    costs.append(part_cost)
                continue
            nodes.append(Node(op, f"float[{8 + place}]", "float[8]", f"{op}_{block}_{place}"))
            costs.append(cost)
            if op == "MatMul" and place == 2 and block >= DEPTH // 2:
                for extra, extra_cost in inserted:
                    nodes.append(Node(extra, "float[8]", "float[1]", f"{extra}_{block}", f"blocks.{block}.mlp"))
                    costs.append(extra_cost)
    return nodes, costs


def traced(
    parts: tuple[list[Node], list[float]],
    rng: np.random.Generator,
    runs: int = 40,
    *,
    noise: float = 0.05,
    load: float = 0,
) -> Trace:
    """Runs of a model: noise only adds time; ``load`` is the share of operators that are preempted for milliseconds."""
    nodes, costs = parts
    base = np.array(costs)
    times = base * (1 + noise * rng.exponential(1.0, (runs, len(base))))
    times += (rng.random(times.shape) < load) * rng.exponential(4000.0, times.shape)
    return Trace(tuple(nodes), times, times.sum(1))
