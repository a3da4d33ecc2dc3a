"""Find whether code outside the captured parts hides tokens, by running the whole model.

If a model is captured in parts, some of its code is in no graph. This code may mix the tokens in front of the first
block, between two blocks, or behind the last one. To detect this, tokens are changed at the first block or at the
inputs, and the tokens at the later blocks and at the outputs are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cbsurgeon.graph.attention.hiding.candidates import MARKS
from cbsurgeon.graph.attention.hiding.trials import trials
from cbsurgeon.graph.attention.outside.places import places
from cbsurgeon.graph.attention.outside.runs import Entry, Runner, Shown
from cbsurgeon.graph.attention.probing.order import CLOSED, REACHED, Order, order_of
from cbsurgeon.graph.block import Inspection
from cbsurgeon.models.model import Model


def add_code_outside_parts(model: Model, found: Inspection) -> Inspection:
    """Return the inspection of a model captured in parts, with the stacks and inputs added for which code outside the
    parts hides tokens."""
    causal, unmasked, masks = dict(found.causal_stacks), dict(found.unmasked), list(found.masks)
    reversed_stacks = list(found.reversed_stacks)
    for group in places(found.blocks, found.attention):
        runner = Runner(model, group)
        entries = entries_of(runner, causal)
        for entry in entries:
            order, stacks = order_outside(runner, entry, padded=bool(found.masks))
            what = {"future": "later", "past": "earlier"}.get(order, "some later or earlier")
            sentence = f"code outside the captured parts hides {what} tokens from each token of {', '.join(stacks)}"
            reversed_stacks += [stack for stack in stacks if stack not in causal and order != "future"]
            causal |= {stack: (sentence,) for stack in stacks if stack not in causal}
        for name, stacks in hiding_inputs(runner, entries, set(found.masks)).items():
            why = f"{name} masks its tokens, but not as an attention mask"
            unmasked |= {stack: why for stack in stacks if stack not in unmasked}
            masks.append(name)
    return replace(
        found,
        causal_stacks=causal,
        reversed_stacks=tuple(dict.fromkeys(reversed_stacks)),
        unmasked=unmasked,
        masks=tuple(dict.fromkeys(masks)),
    )


def entries_of(runner: Runner, causal: Collection[str]) -> list[Entry]:
    """Return where tokens are changed: at the first block; and at the inputs, unless all tokens see each other from the
    first block on. What code in front of the first block hides is then seen in any case.

    Args:
        runner: runs the model.
        causal: the stacks whose tokens are known to see each other in an order.
    """
    first, *inputs = runner.entries()
    second = torch.arange(runner.count) >= runner.count // 2
    back, ahead = runner.moved(first, second), runner.moved(first, ~second)
    tokens = [name for name, shown in back.items() if len(shown.moved) == runner.count and name in ahead]
    mixed = [name for name in tokens if _reaches(back[name], second) and _reaches(ahead[name], ~second)]
    known = {back[name].stack for name in mixed} | set(causal)
    if set(mixed).intersection(_last(back).values()) or any(not back[name].stack for name in mixed):
        known.add(runner.first)
    return [first] if known.issuperset(runner.stacks) else [first, *inputs]


def _last(run: Mapping[str, Shown]) -> dict[str, str]:
    """The last block of each stack, by the turn of the run."""
    return {shown.stack: name for name, shown in run.items() if shown.stack}


class _Exit:
    """The tokens of one tensor that is compared."""

    def __init__(self, runner: Runner, entry: Entry, name: str, floor: float) -> None:
        self._runner, self._entry, self._name = runner, entry, name
        self.floors = [floor]

    def __call__(self, changed: Tensor, /) -> list[Tensor]:
        shown = self._runner.moved(self._entry, changed).get(self._name)
        return [torch.zeros(self._runner.count) if shown is None else shown.moved.float()]


def order_outside(runner: Runner, entry: Entry, *, padded: bool) -> tuple[Order, list[str]]:
    """Return the order in which the tokens see each other where they are last seen, and the stacks that they run
    through; ``open`` and no stack if each sees the others, or none does.

    Args:
        runner: runs the model.
        entry: where tokens are changed.
        padded: the example inputs contain padding.
    """
    behind = torch.arange(runner.count) >= runner.count // 2
    back, ahead = runner.moved(entry, behind), runner.moved(entry, ~behind)
    ends = [name for name, shown in back.items() if len(shown.moved) == runner.count and not shown.stack]
    for name in (*_last(back).values(), *ends):
        order = order_of(_Exit(runner, entry, name, back[name].floor), (runner.count,), padded, True)
        if order in ("future", "past", "mixed"):
            return order, _stacks(runner, entry, back, ahead)
    return "open", []


def _stacks(runner: Runner, entry: Entry, *runs: Mapping[str, Shown]) -> list[str]:
    """The stacks that some changed token reaches, and that of the block at which tokens were changed."""
    reached = {shown.stack for run in runs for shown in run.values() if bool((shown.moved > 0).any())}
    return [stack for stack in runner.stacks if stack in reached or (entry.leaf is None and stack == runner.first)]


def hiding_inputs(runner: Runner, entries: Sequence[Entry], known: set[str]) -> dict[str, list[str]]:
    """Return the inputs that hide some tokens from all others, each with the stacks that it concerns.

    Args:
        runner: runs the model.
        entries: where tokens are changed.
        known: names of the inputs that are known masks; they are not tried.
    """
    found: dict[str, list[str]] = {}
    for entry in entries:
        second = torch.arange(runner.count) >= runner.count // 2
        runs = [runner.moved(entry, half) for half in (second, ~second)]
        if not any(
            _reaches(one, half) for run, half in zip(runs, (second, ~second), strict=True) for one in run.values()
        ):
            continue
        for number, (name, leaf) in enumerate(zip(runner.names, runner.leaves, strict=True)):
            if name in known or name in found or number == entry.leaf or not isinstance(leaf, Tensor):
                continue
            if _hides(runner, entry, number):
                found[name] = _stacks(runner, entry, *runs)
    return found


def _hides(runner: Runner, entry: Entry, number: int) -> bool:
    """Whether some values of an input hide tokens that are not hidden with other values."""
    leaf, batched = runner.leaves[number], runner.batch_axes[number] == 0
    for hidden, pairs in trials(leaf, batched, (runner.count,), MARKS):
        for plain, marked in pairs:
            kept = runner.moved(entry, hidden, {number: marked})
            if any(_change(shown, hidden) <= shown.floor for shown in kept.values()):
                shown = runner.moved(entry, hidden, {number: plain})
                if any(is_hidden(shown[name], kept[name], hidden) for name in shown.keys() & kept.keys()):
                    return True
    return False


def is_hidden(shown: Shown, kept: Shown, hidden: Tensor) -> bool:
    """Return whether hidden tokens change the others in one run, and not in another.

    Args:
        shown, kept: the changes in the two runs.
        hidden: ``[tokens]``, true for the tokens that are changed.
    """
    before, after = _change(shown, hidden), _change(kept, hidden)
    return before > max(shown.floor, REACHED * float(shown.moved.max())) and after <= CLOSED * before


def _reaches(shown: Shown, changed: Tensor) -> bool:
    return _change(shown, changed) > shown.floor


def _change(shown: Shown, changed: Tensor) -> float:
    """The largest change of the tokens that were not changed, or of a tensor without tokens."""
    return float((shown.moved[~changed] if len(shown.moved) == len(changed) else shown.moved).max())
