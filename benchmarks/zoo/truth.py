"""The ground truth of one entry: its MLP blocks, from classes and attributes, in the order they run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import BATCH, Entry
from benchmarks.zoo.rules import Remark, Rule, Veto, Where, matches, qualified


@dataclass
class Calls:
    """The calls of each projection: their number, order and input."""

    count: Counter[str] = field(default_factory=Counter)
    order: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


def _rules() -> tuple[tuple[Rule, ...], tuple[Veto, ...], tuple[Remark, ...]]:
    from benchmarks.zoo import timm_rules, transformers_rules

    return (
        timm_rules.RULES + transformers_rules.RULES,
        timm_rules.VETOES + transformers_rules.VETOES,
        timm_rules.REMARKS + transformers_rules.REMARKS,
    )


def truth(entry: Entry) -> dict[str, Any]:
    """Return the expected blocks of an entry, and the reasons of decisions that are not obvious.

    Raises:
        AssertionError: a rule names a projection that never ran, or one with a single token: the image or sequence of
            the zoo is too small, or a veto is missing.
    """
    module, args, kwargs = entry.build()
    found, notes = blocks(module)
    calls = run(module, args, kwargs, [path for block in found for path in block["fc2"]])
    for block in found:
        last = block["fc2"][0]
        assert calls.count[last], f"{entry.name}: {last} never ran"
        assert calls.tokens[last] > 1, f"{entry.name}: {last} sees one token"
        block["calls"] = calls.count[last]
    found.sort(key=lambda block: calls.order[block["fc2"][0]])
    return {"group": entry.group, "family": entry.family, "blocks": found, "notes": sorted(notes)}


def blocks(model: nn.Module) -> tuple[list[dict[str, Any]], set[str]]:
    """Blocks by the rules, in the order modules are registered, and the reasons that applied."""
    rules, vetoes, remarks = _rules()
    places = [Where(module, path, model) for path, module in model.named_modules()]
    notes: set[str] = set()
    refused: dict[str, str] = {}
    for where in places:
        for veto in vetoes:
            if matches(where.module, veto.owner) and (veto.when is None or veto.when(where)):
                refused[_join(where.path, veto.attribute)] = (
                    f"{_name(where)}.{veto.attribute}".rstrip(".") + f": {veto.why}"
                )
        notes.update(f"{_name(where)}: {remark.why}" for remark in remarks if matches(where.module, remark.kind))
    found: list[dict[str, Any]] = []
    taken: set[str] = set()
    for where in places:
        for rule in rules:
            block = _block(where, rule)
            if block is None or block["fc2"][0] in taken:
                continue
            reason = next((why for path, why in refused.items() if _below(where.path, path)), None)
            if reason:
                notes.add(f"not a block: {reason}")
            elif rule.when is not None and not rule.when(where):
                notes.add(f"not a block: {_name(where)}: {rule.refused}")
            else:
                found.append(block)
                taken.add(block["fc2"][0])
                if rule.why:
                    notes.add(f"block: {_name(where)}: {rule.why}")
    return found, notes


def _block(where: Where, rule: Rule) -> dict[str, Any] | None:
    """Return the block that a rule finds in a module; a rule with a wildcard ignores modules without its attributes."""
    if not matches(where.module, rule.kind):
        return None
    try:
        for path in (*rule.fc1, *rule.fc2):
            where.module.get_submodule(path)
    except AttributeError:
        if "*" in rule.kind:
            return None
        raise
    return {
        "fc1": [_join(where.path, path) for path in rule.fc1],
        "fc2": [_join(where.path, path) for path in rule.fc2],
    }


def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], paths: list[str]) -> Calls:
    """Run the model once and watch the modules at ``paths``."""
    calls = Calls()
    handles = [module.get_submodule(path).register_forward_hook(_watch(calls, path)) for path in paths]
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _watch(calls: Calls, path: str) -> Any:
    def hook(module: nn.Module, _: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        width = next(getattr(module, name) for name in ("out_features", "out_channels", "nf") if hasattr(module, name))
        calls.count[path] += 1
        calls.order.setdefault(path, len(calls.order))
        calls.tokens[path] = output.numel() // (BATCH * int(width))

    return hook


def _name(where: Where) -> str:
    return qualified(where.module).replace("transformers.models.", "").replace("timm.models.", "")


def _join(path: str, rest: str) -> str:
    return ".".join(part for part in (path, rest) if part)


def _below(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(ancestor + ".")
