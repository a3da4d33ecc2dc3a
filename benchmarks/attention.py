"""Recall and precision of the attentions that inspection lists, for every model of the zoo.

    python benchmarks/attention.py                    the whole sweep: a table, and results/attention.json
    python benchmarks/attention.py --only timm/swin   those models again; the other results stay
    python benchmarks/attention.py --missing          only models without a result
    python benchmarks/attention.py --truth            write attention_truth.json anew (look at the diff)

The ground truth does not use cbsurgeon: the eager model runs once, and every function it calls is recorded
(``zoo/attention_truth.py``). The two lists of attentions, with their numbers of keys in execution order, are compared;
each difference is a missed or an extra attention. The exit code is 1 if there is a difference, or if a model cannot be
captured.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.zoo import entries  # noqa: E402
from benchmarks.zoo.attention_truth import attentions  # noqa: E402
from benchmarks.zoo.entry import Entry  # noqa: E402
from benchmarks.zoo.scores import good, rates, summary  # noqa: E402
from benchmarks.zoo.sweeping import Sweep, attempt, installed, parser  # noqa: E402

TRUTH = ROOT / "benchmarks" / "attention_truth.json"
RESULTS = ROOT / "benchmarks" / "results" / "attention.json"
PACKAGES = ("torch", "timm", "torchvision", "transformers")


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep, or write the ground truth; return the exit code."""
    accepted = parser((__doc__ or "").splitlines()[0], RESULTS)
    accepted.add_argument("--truth", action="store_true", help="write the ground truth instead of comparing with it")
    options = accepted.parse_args(arguments)
    if options.truth:
        return _write_truth(options.only, options.missing)
    expected = read_truth()
    return Sweep(
        script=Path(__file__),
        schema="cbsurgeon.attention-coverage/1",
        results=RESULTS,
        entries=lambda: [entry for entry in entries() if entry.name in expected],
        measure=lambda entry: measure(entry, expected[entry.name]),
        lost=lambda entry, result: {**_nothing(entry, expected[entry.name]), **result},
        good=good,
        summary=summary,
        table=table,
        packages=PACKAGES,
    ).run(options)


def read_truth() -> dict[str, list[list[Any]]]:
    """Module path and keys of every attention that ran, by name of the model."""
    models: dict[str, list[list[Any]]] = json.loads(TRUTH.read_text())["models"]
    return models


def _write_truth(only: str, missing: bool) -> int:
    """Run the chosen models and write their attentions, after each model."""
    known = read_truth() if (only or missing) and TRUTH.exists() else {}
    failed = 0
    for entry in entries():
        if not re.search(only, f"{entry.group} {entry.name}") or (missing and entry.name in known):
            continue
        try:
            known[entry.name] = [[seen.path, seen.keys] for seen in attentions(entry)]
        except Exception as error:  # reported, and the exit code is 1
            failed += 1
            print(f"FAILED {entry.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{len(known[entry.name]):4} {entry.name}", file=sys.stderr, flush=True)
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
        head = json.dumps({"schema": "cbsurgeon.attention-truth/1", "packages": installed(PACKAGES)})
        TRUTH.write_text(f'{head[:-1]}, "models": {{\n{rows}\n}}}}\n')
    print(f"{TRUTH.name}: {sum(map(len, known.values()))} attentions in {len(known)} models, {failed} failed")
    return 1 if failed else 0


def measure(entry: Entry, expected: list[list[Any]]) -> dict[str, Any]:
    """Compare the attentions that inspection lists for a model with those that ran."""
    with attempt(entry, **_nothing(entry, expected)) as result:
        result.update(compared(entry, expected))
    return result


def compared(entry: Entry, expected: list[list[Any]]) -> dict[str, Any]:
    """Return the attentions that inspection misses, those that did not run, and those in parts that it left out.

    Inspection lists a part that cannot be captured, with the reason, in ``left_out``: its attentions are counted
    separately.
    """
    from cbsurgeon.graph import inspect
    from cbsurgeon.models.model import Model, Provenance

    module, args, kwargs = entry.build()
    found = inspect(Model(module, args, Provenance(entry.name), kwargs, batch_axis=entry.batch_axis), check=False)
    inside = [one for one in expected if any(f"{one[0]}.".startswith(f"{part}.") for part in found.left_out)]
    expected = [one for one in expected if one not in inside]
    ran, listed = [keys for _, keys in expected], [one.keys for one in found.attentions]
    missed, extra = list[str](), list[str]()
    for what, start, end, first, last in SequenceMatcher(None, ran, listed, autojunk=False).get_opcodes():
        if what != "equal":
            missed += [f"{path or 'model'} ({keys} keys)" for path, keys in expected[start:end]]
            extra += [f"{one.path or 'model'} ({one.keys} keys)" for one in found.attentions[first:last]]
    return {
        "expected": len(expected),
        "found": len(listed),
        "missed": missed,
        "extra": extra,
        "inside_left_out": len(inside),
        "left_out": dict(found.left_out),
    }


def _nothing(entry: Entry, expected: list[list[Any]]) -> dict[str, Any]:
    return {
        "group": entry.group,
        "family": entry.family,
        "expected": len(expected),
        "found": 0,
        "missed": [f"{path or 'model'} ({keys} keys)" for path, keys in expected],
        "extra": [],
        "seconds": {},
    }


def table(models: Mapping[str, Any]) -> str:
    """Return the models with differences, and the sums per group, as text."""
    lines = []
    for name, result in models.items():
        remarks = [f"error: {result['error']}"] if result.get("error") else []
        remarks += [f"missed: {place}" for place in result["missed"]] if not remarks else []
        remarks += [f"extra: {place}" for place in result["extra"]]
        lines += [name, *(f"    {remark}" for remark in remarks)] if remarks else []
    for group, row in summary(models).items():
        lines.append(
            f"{group:<14}{row['models']:>4} models, {row['failed']} failed  {row['expected']:>6} ran {row['found']:>6}"
            f" listed {row['missed']:>4} missed {row['extra']:>4} extra  {rates(row)}"
        )
    inside = sum(result.get("inside_left_out", 0) for result in models.values())
    lines.append(f"{inside} more ran in parts that cannot be captured; inspection names these parts and the reason")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
