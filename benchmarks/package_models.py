"""Models of public packages beside the zoo: is every insertion right, or refused?

    python benchmarks/package_models.py                 all models of the installed packages, and results/packages.json
    python benchmarks/package_models.py monai diffusers  only these; nothing is written

The packages are not dependencies of cbsurgeon: pip install vit-pytorch monai diffusers segment-anything dinov2
segmentation-models-pytorch x-transformers timesformer-pytorch perceiver-pytorch performer-pytorch linformer
nystrom-attention memory-efficient-attention-pytorch

The operator by hand is a hook on every module that the package calls a feed-forward or an MLP. A model is

- *right* if the plain mean is refused where the model is causal or padded, and the inserted operator (plain, causal or
  masked) gives the same result as the hooks, on the module and on the captured program;
- *refused* if cbsurgeon raises an error that says why it cannot edit the model, or finds no MLP with the reasons;
- *wrong* in every other case.

The exit code is 1 if a model is wrong.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

RESULTS = ROOT / "benchmarks" / "results" / "packages.json"
CLOSE = 1e-5
"""Tolerance relative to the largest output, in float32: the same operators in another order differ by about 1e-6."""
LEAKS = {"causal": "CB-LEAK-01", "masked": "CB-LEAK-02"}


def judge(sample: Any) -> tuple[str, str]:
    """Return ``right``, ``refused`` or ``wrong``, and one sentence of explanation."""
    import torch

    from cbsurgeon.errors import CBSurgeonError

    torch.manual_seed(0)
    module, inputs, keywords = sample.build()
    _without_zeros(module.eval())
    try:
        return _judged(sample, module, inputs, keywords)
    except CBSurgeonError as error:
        return "refused", f"{error.code}: {error.what}; {error.why}"[:300]
    except Exception as error:  # a crash is a fault of cbsurgeon; the other models must still be tested
        return "wrong", f"{type(error).__name__}: {error}"[:300]


def _judged(sample: Any, module: Any, inputs: Any, keywords: Any) -> tuple[str, str]:
    import cbsurgeon as cbs
    from cbsurgeon.errors import SurgeryError

    model = cbs.Model(module, inputs, example_kwargs=keywords)
    found = cbs.inspect(model)
    options = {sample.form: True} if sample.form else {}
    if sample.form:
        try:
            cbs.plan(found, op="cb", layers="all")
        except SurgeryError as error:
            if error.code != LEAKS[sample.form]:
                raise
        else:
            return "wrong", f"the leak was not noticed; it needs the {sample.form} form"
    recipe = cbs.plan(found, op="cb", layers="all", options=options)
    expected, count = _by_hand(sample, module, inputs, keywords)
    gaps = []
    for on in ("module", "program"):
        edited = cbs.insert(model, recipe, on=on)
        run = edited.module if on == "module" else edited.program.module()
        gaps.append(_gap(_floats(run, inputs, keywords), expected))
    if max(gaps) > CLOSE:
        return "wrong", f"{len(recipe.sites)} blocks, {count} MLPs: differs from the hooks by {max(gaps):.1e}"
    return "right", f"{len(recipe.sites)} blocks, largest difference {max(gaps):.1e}"


def _without_zeros(module: Any) -> None:
    """Give random values to parameters that are all 0: with them, some models have a constant output."""
    import torch

    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)


def _by_hand(sample: Any, module: Any, inputs: Any, keywords: Any) -> tuple[list[Any], int]:
    """Return the model's outputs with the operator as hooks on its MLPs, and the number of these."""
    named = [(name, one) for name, one in module.named_modules() if type(one).__name__ in sample.mlps]
    outer = [one for name, one in named if not any(name.startswith(f"{other}.") for other, _ in named)]
    hooks = [one.register_forward_hook(lambda _, __, y: _mean(sample, y, keywords.get("mask"))) for one in outer]
    try:
        return _floats(module, inputs, keywords), len(outer)
    finally:
        for hook in hooks:
            hook.remove()


def _mean(sample: Any, y: Any, keep: Any) -> Any:
    """Context Broadcasting as a person would write it."""
    import torch

    axes = tuple(range(2, y.dim())) if sample.channels_first else tuple(range(1, y.dim() - 1))
    if y[0].numel() == y.shape[1 if sample.channels_first else -1]:
        return y  # a single token
    if sample.form == "causal":
        return (y + y.cumsum(1) / torch.arange(1, y.shape[1] + 1)[:, None]) / 2
    if sample.form == "masked":
        weight = keep[..., None].to(y.dtype)
        return (y + (y * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)) / 2
    return (y + y.mean(axes, keepdim=True)) / 2


def _floats(run: Any, inputs: Any, keywords: Any) -> list[Any]:
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        result = run(*inputs, **keywords)
    leaves = torch.utils._pytree.tree_leaves(result.to_tuple() if hasattr(result, "to_tuple") else result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _gap(got: list[Any], expected: list[Any]) -> float:
    assert len(got) == len(expected), "another number of outputs"
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True))


def main(names: list[str]) -> int:
    """Test the models; return the exit code."""
    import torch

    from benchmarks.packages import MODELS

    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    versions, rows = {}, []
    for name, sample in MODELS.items():
        if names and not any(name.startswith(wanted) for wanted in names):
            continue
        try:
            versions[sample.package] = importlib.metadata.version(sample.package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name:55} not installed")
            continue
        result, said = judge(sample)
        rows.append({"model": name, "verdict": result, "detail": said})
        print(f"{name:55} {result:8} {said}", flush=True)
    counts = Counter(row["verdict"] for row in rows)
    print(f"\n{len(rows)} models: {', '.join(f'{counts[one]} {one}' for one in ('right', 'refused', 'wrong'))}")
    if not names:
        document = {
            "schema": "cbsurgeon.packages/1",
            "versions": {"torch": torch.__version__, **versions},
            "counts": dict(counts),
            "models": rows,
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
