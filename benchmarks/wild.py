"""Architectures in the style of public repositories: is every insertion right, or refused?

    python benchmarks/wild.py                 all networks: a table, and results/wild.json
    python benchmarks/wild.py dinov2 swin     only these networks; nothing is written

Each network of ``benchmarks/wild_networks`` contains Context Broadcasting written by hand, the number of blocks that a
person would choose, and the kind of leak that a plain mean would cause. A network is

- *right* if exactly these blocks are found, a leak is refused, and the inserted operator (plain, causal or masked)
  gives the same result as the hand-written one, at the captured batch size and at another one;
- *refused* if cbsurgeon raises an error that says why it cannot edit the network;
- *wrong* in every other case: another result, an undetected leak, a missed block, a crash.

The exit code is 1 if a network is wrong, or if more than a tenth are refused.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

RESULTS = ROOT / "benchmarks" / "results" / "wild.json"
LEAKS = {"causal": "CB-LEAK-01", "padded": "CB-LEAK-02"}
SAFE_FORM = {"causal": ("causal", {"causal": True}), "padded": ("masked", {"masked": True})}
CLOSE = 1e-4
"""Tolerance relative to the largest output, in float32: a few blocks with another order of reductions differ by about
1e-6."""
REFUSED_SHARE = 0.1
SECONDS = 120
"""Time limit per network in seconds; a network takes about two seconds."""


def verdict(name: str) -> tuple[str, str]:
    """Return ``right``, ``refused`` or ``wrong``, and one sentence of explanation."""
    import torch

    from benchmarks.wild_networks import NETWORKS
    from cbsurgeon.errors import CBSurgeonError

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = NETWORKS[name]
    module = network.build().eval()
    try:
        return _judged(network, module)
    except CBSurgeonError as error:
        return "refused", f"{error.code}: {error.what}; {error.where}; {error.why}"[:300]
    except Exception as error:  # a crash is a fault of cbsurgeon; the other networks must still be tested
        return "wrong", f"{type(error).__name__}: {error}"[:300]


def _judged(network: Any, module: Any) -> tuple[str, str]:
    import cbsurgeon as cbs
    from cbsurgeon.errors import SurgeryError
    from cbsurgeon.graph import inspect
    from cbsurgeon.models.model import Model

    model = Model(module, network.example(2))
    found = inspect(model)
    kinds = network.kinds or None
    chosen = [block for block in found.blocks if (block.kind in kinds if kinds else block.default)]
    if len(chosen) != network.blocks:
        nearest = "; ".join(f"{one.path}: {one.reason}: {one.detail}" for one in found.rejected[:2])
        return "wrong", f"{len(chosen)} blocks instead of {network.blocks}; nearest rejected: {nearest}"[:300]
    if not chosen:
        return "right", "no block, as it should be"
    mode, options, note = "cb", {}, ""
    if network.leak:
        try:
            cbs.plan(found, op="cb", layers="all", kinds=kinds)
        except SurgeryError as error:
            if error.code != LEAKS[network.leak]:
                return "wrong", f"{error.code} instead of {LEAKS[network.leak]}: {error.why}"[:300]
            note = f"{error.code}; "
        else:
            return "wrong", f"the {network.leak} leak was not noticed"
        if network.layers == "all":
            mode, options = SAFE_FORM[network.leak]
    recipe = cbs.plan(found, op="cb", layers=network.layers, kinds=kinds, options=options)
    try:
        edited = cbs.insert(model, recipe)
    except SurgeryError as error:
        if error.code not in ("CB-SURGERY-02", "CB-SURGERY-04"):
            raise
        edited, note = cbs.insert(model, recipe, on="program"), f"{note}on the program ({error.code}); "
    gaps = [_gap(network, module, edited, mode, batch) for batch in (2, 3)]
    if max(gaps) > CLOSE:
        return "wrong", f"{note}differs from the hand-written form by {max(gaps):.1e}"
    return "right", f"{note}{len(chosen)} blocks, largest difference {max(gaps):.1e}"


def _gap(network: Any, module: Any, edited: Any, mode: str, batch: int) -> float:
    import torch

    from benchmarks.wild_networks import by_hand

    inputs = network.example(batch)
    run = edited.module if edited.module is not None else edited.program.module()
    with torch.no_grad():
        got = run(*inputs)
        plain = module(*inputs)
        with by_hand(mode):
            expected = module(*inputs)
    got, plain, expected = (next(iter(torch.utils._pytree.tree_leaves(one))) for one in (got, plain, expected))
    assert not torch.equal(plain, expected), "the hand-written form must change something"
    return ((got - expected).abs().max() / expected.abs().max()).item()


def _child(name: str, queue: Any) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    queue.put(verdict(name))


def judge(name: str) -> tuple[str, str]:
    """Return the verdict, determined in a new process, so that a crash affects one network only."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(name, queue))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        return "wrong", f"no answer within {SECONDS} s"
    return queue.get() if not queue.empty() else ("wrong", f"the process ended with code {process.exitcode}")


def main(names: list[str]) -> int:
    """Test the networks; return the exit code."""
    import torch

    from benchmarks.wild_networks import NETWORKS

    results: dict[str, dict[str, str]] = {}
    for name in names or NETWORKS:
        answer, detail = judge(name)
        style = (NETWORKS[name].build.__doc__ or "").splitlines()[0]
        results[name] = {"verdict": answer, "detail": detail, "style": style}
        print(f"{name:20} {answer:8} {detail}", flush=True)
    totals = Counter(result["verdict"] for result in results.values())
    counts = {answer: totals[answer] for answer in ("right", "refused", "wrong")}
    print(f"\n{len(results)} networks: " + ", ".join(f"{count} {answer}" for answer, count in counts.items()))
    if not names:
        document = {"schema": "cbsurgeon.wild/1", "torch": torch.__version__, "totals": counts, "networks": results}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(counts["wrong"] > 0 or counts["refused"] > REFUSED_SHARE * len(results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
