"""Find whether code outside the captured parts hides tokens, by running the whole model.

If a model is captured in parts, some of its code is in no graph. This code may mix the tokens of one part before they
enter the next part. To detect this, the tokens at the first block are changed, and the tokens at the later blocks are
compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.graph.attention.probing.order import CLOSED, REACHED
from cbsurgeon.graph.block import Block, Inspection
from cbsurgeon.graph.capture.parts import example
from cbsurgeon.graph.capture.tracing import input_names
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.models.model import Model


@dataclass(frozen=True)
class _Place:
    """The output of one block: the module and hook where it is observed, and its token axes."""

    stack: str
    module: str
    when: str
    tokens: tuple[int, ...]
    count: int

    def rows(self, tensor: Tensor) -> Tensor:
        """``[tokens, everything else]``."""
        return tensor.movedim(self.tokens, tuple(range(len(self.tokens)))).reshape(self.count, -1)

    def changed(self, tensor: Tensor, which: Tensor) -> Tensor:
        """The tensor with noise added to the tokens marked true in ``[tokens]``."""
        front = tensor.movedim(self.tokens, tuple(range(len(self.tokens))))
        noise = torch.randn(front.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
        where = which.view(*front.shape[: len(self.tokens)], *[1] * (front.dim() - len(self.tokens)))
        added = noise.to(tensor) * (tensor.float().std() + 1e-3).to(tensor)
        return (front + torch.where(where, added, torch.zeros_like(added))).movedim(
            tuple(range(len(self.tokens))), self.tokens
        )


def add_code_between_parts(model: Model, found: Inspection) -> Inspection:
    """Return the inspection of a model captured in parts, with the stacks and inputs added for which the code between
    the parts hides tokens."""
    causal, unmasked, masks = dict(found.causal_stacks), dict(found.unmasked), list(found.masks)
    reversed_stacks = list(found.reversed_stacks)
    for places in _places(found.blocks, found.attention):
        runner = _Runner(model, places)
        stacks = list(dict.fromkeys(place.stack for place in places))
        if runner.hides_by_order():
            sentence = f"the code between the parts {', '.join(stacks)} hides later or earlier tokens from each token"
            causal |= {stack: (sentence,) for stack in stacks if stack not in causal}
            reversed_stacks += [stack for stack in stacks if stack not in found.causal_stacks]
        for name in runner.hiding_inputs(set(found.masks)):
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


def _places(*branches: Sequence[Block]) -> list[list[_Place]]:
    """Return the outputs of the blocks, in groups with the same number of tokens."""
    groups: dict[int, list[_Place]] = {}
    for block in (one for some in branches for one in some):
        site = block.sites.get("end")
        if site is not None and site.hooks and site.unfold is None and site.tokens > 1:
            hook = site.hooks[0]
            place = _Place(block.stack, hook.module, hook.when, site.token_axes, site.tokens)
            groups.setdefault(site.tokens, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


class _Runner:
    """Runs the whole model with some tokens changed at the block that runs first."""

    def __init__(self, model: Model, places: list[_Place]) -> None:
        assert model.module is not None
        self._model, self._module, self._places = model, model.module, places
        self._leaves, self._spec = pytree.tree_flatten(example(model))

    def hides_by_order(self) -> bool:
        """Return whether changes of one half of the tokens reach the other half, but not the other way round."""
        count = self._places[0].count
        behind = torch.arange(count) >= count // 2
        back, ahead = self._moved({}, behind), self._moved({}, ~behind)
        for place in back.keys() & ahead.keys():
            backward, forward = float(back[place][~behind].max()), float(ahead[place][behind].max())
            less, more = sorted((backward, forward))
            floor = REACHED * float(torch.maximum(back[place], ahead[place]).max())
            if more > floor and less <= CLOSED * more:
                return True
        return False

    def hiding_inputs(self, known: set[str]) -> list[str]:
        """Return the names of the inputs of zeros and ones that hide some tokens from all others."""
        count, found = self._places[0].count, []
        hidden = torch.arange(count) >= count - max(count // 3, 1)
        for number, (name, leaf) in enumerate(zip(input_names(self._model), self._leaves, strict=True)):
            fits = isinstance(leaf, Tensor) and leaf.dim() > 1 and leaf.shape[-1] == count
            if name in known or not fits or not bool(((leaf == 0) | (leaf == 1)).all()):
                continue
            for filler in (0, 1):
                shown = torch.full_like(leaf, 1 - filler)
                with_filler = torch.where(hidden, torch.full_like(leaf, filler), shown)
                open_, closed = (self._moved({number: one}, hidden) for one in (shown, with_filler))
                if any(self._is_hidden(open_[place], closed[place], hidden) for place in open_.keys() & closed.keys()):
                    found.append(name)
                    break
        return found

    @staticmethod
    def _is_hidden(shown: Tensor, filler: Tensor, hidden: Tensor) -> bool:
        reached, kept = float(shown[~hidden].max()), float(filler[~hidden].max())
        return reached > REACHED * float(shown.max()) and kept <= CLOSED * reached

    def _moved(self, given: Mapping[int, Tensor], which: Tensor) -> dict[int, Tensor]:
        """Return, for each block after the first (by its turn in the run), the largest change of each token."""
        plain, changed = self._run(given, None), self._run(given, which)
        return {
            number: (changed[number] - plain[number]).abs().nan_to_num().amax(dim=1)
            for number in list(plain.keys() & changed.keys())
            if number != min(plain) and plain[number].shape == changed[number].shape
        }

    def _run(self, given: Mapping[int, Tensor], which: Tensor | None) -> dict[int, Tensor]:
        """Return the output of each block, ``[tokens, everything else]``, numbered in the order the blocks run.

        Only the first call of each block counts. The result is empty if the model rejects the inputs.
        """
        seen: dict[int, Tensor] = {}
        parts = dict(self._module.named_modules())
        handles = [self._hook(parts[place.module], number, seen, which) for number, place in enumerate(self._places)]
        leaves = [given.get(number, leaf) for number, leaf in enumerate(self._leaves)]
        args, kwargs = copied(*pytree.tree_unflatten(leaves, self._spec))
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._module(*args, **kwargs)
        except Exception:  # the model does not accept this mask, so the run shows nothing
            return {}
        finally:
            for handle in handles:
                handle.remove()
        order = {number: turn for turn, number in enumerate(seen)}
        return {order[number]: rows for number, rows in seen.items()}

    def _hook(self, module: nn.Module, number: int, seen: dict[int, Tensor], which: Tensor | None) -> Any:
        place = self._places[number]

        def look(tensor: Any) -> Any:
            if number in seen or not isinstance(tensor, Tensor):
                return tensor
            if which is not None and not seen:
                tensor = place.changed(tensor, which)
            seen[number] = place.rows(tensor).double()
            return tensor

        if place.when == "output":
            return module.register_forward_hook(lambda _module, _args, output: look(output))
        return module.register_forward_pre_hook(lambda _module, args: (look(args[0]), *args[1:]) if args else None)
