"""Architectures in the style of public repositories: is every insertion right, or refused?

    python benchmarks/wild.py                 all networks: a table, and results/wild.json
    python benchmarks/wild.py dinov2 swin     those alone; nothing is written

Each network of ``benchmarks/wild_networks`` has Context Broadcasting written into it by hand, and says how many blocks
a person would choose and what a plain mean would leak. A network is

- *right* when exactly those blocks are found, a leak is refused, and the inserted operator (plain, causal or masked)
  gives what the hand-written one does, at the captured batch and at another;
- *refused* when cbsurgeon says that it cannot do it;
- *wrong* in every other case: another result, a leak that nobody noticed, a block missed, a crash.

Ends with 1 when a network is wrong, or more than a tenth are refused.
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
"""Relative to the largest output, float32: a few blocks whose reductions run in another order differ by about 1e-6."""
REFUSED_SHARE = 0.1
SECONDS = 120
"""A network takes about two seconds; one that takes this long has hung."""


def verdict(name: str) -> tuple[str, str]:
    """``right``, ``refused`` or ``wrong``, and one sentence of explanation."""
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
    except Exception as error:  # a crash is a fault of cbsurgeon, and the other networks are still to be judged
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
    """The verdict from a process of its own: a crash of one network ends nothing else."""
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
    """Judge the networks; the exit code is the verdict on all of them."""
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
