"""Run a whole module with changed tokens, and measure how much each block and each output changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.errors import pass_out_of_memory
from cbsurgeon.graph.attention.outside.places import Place, Tokens, tokens_of_input, tokens_of_output
from cbsurgeon.graph.attention.probing.influence import SMALL
from cbsurgeon.graph.attention.probing.order import REACHED
from cbsurgeon.graph.capture.batch.axis import batch_of
from cbsurgeon.graph.capture.parts import example
from cbsurgeon.graph.capture.substitution import call_with
from cbsurgeon.graph.capture.tracing import input_names
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.models.model import Model

MOST_ENTRIES = 4
"""Number of axes of the inputs that are tried as tokens."""


NOTHING: Mapping[int, Tensor] = {}
"""No inputs instead of those of the example."""


@dataclass(frozen=True)
class Entry:
    """Where tokens are changed: at an input, or at the output of the block that runs first (``leaf`` is ``None``)."""

    leaf: int | None
    tokens: Tokens


@dataclass(frozen=True)
class Shown:
    """How much each token of a tensor changes.

    Attributes:
        moved: the largest change of each token; of all of them if the tensor holds no tokens.
        stack: the stack of the block whose output it is; empty for an output of the model.
        floor: a change below this is rounding error.
    """

    moved: Tensor
    stack: str
    floor: float


class Runner:
    """Runs the whole model with some tokens changed.

    Args:
        model: the model.
        places: the outputs of its blocks; all hold the same number of tokens.

    Attributes:
        count, stacks: the number of tokens, and the stacks of the blocks.
        leaves, names, batch_axes: the tensors of the example inputs, the names of their parameters, and their batch
            axes.
        first: the stack of the block that runs first, after tokens were changed there.
    """

    def __init__(self, model: Model, places: list[Place]) -> None:
        assert model.module is not None
        self._module, self._places = model.module, places
        self.leaves, self._spec = pytree.tree_flatten(example(model))
        self.names = input_names(model)
        batch = batch_of(model.module, example(model), model.batch_axis)
        self.batch_axes, self._samples = batch.axes, batch.size
        self.count = places[0].tokens.count
        self.stacks = list(dict.fromkeys(place.stack for place in places))
        self.first = ""
        self._known: dict[tuple[Entry, bytes], dict[str, Shown]] = {}
        self._state = _replaced_small_parameters(model.module)
        self._plain: tuple[Mapping[int, Tensor], dict[str, tuple[Tensor, str]]] | None = None

    def entries(self) -> list[Entry]:
        """Return the output of the first block, and the axes of inputs that could hold the same tokens."""
        found = [
            Entry(number, tokens)
            for number, (leaf, axis) in enumerate(zip(self.leaves, self.batch_axes, strict=True))
            for tokens in tokens_of_input(leaf, axis, self.count)
        ]
        return [Entry(None, self._places[0].tokens), *found[:MOST_ENTRIES]]

    def moved(self, entry: Entry, which: Tensor, given: Mapping[int, Tensor] = NOTHING) -> dict[str, Shown]:
        """Return how much the output of each block, in the order of the run, and each output of the model changes.

        Args:
            entry: where tokens are changed. The block at which they are is left out.
            which: ``[tokens]``, true for the tokens to change.
            given: inputs to use instead of the example's, by number. The result is empty if the model rejects them.
        """
        key = (entry, which.numpy().tobytes())
        if given is NOTHING and key in self._known:
            return self._known[key]
        if self._plain is None or self._plain[0] is not given:
            self._plain = given, self._run(given, None, None)
        plain, changed = self._plain[1], self._run(given, entry, which)
        moved = {
            name: Shown(
                (changed[name][0] - rows).abs().nan_to_num().amax(dim=1),
                stack,
                REACHED * float(rows.nan_to_num().abs().max()),
            )
            for name, (rows, stack) in plain.items()
            if name in changed and changed[name][0].shape == rows.shape
        }
        if given is NOTHING:
            self._known[key] = moved
        return moved

    def _run(self, given: Mapping[int, Tensor], entry: Entry | None, which: Tensor | None) -> dict[str, Any]:
        """Return the rows and the stack of each tensor that is compared; only the first call of each block counts."""
        seen: dict[str, tuple[Tensor, str]] = {}
        at_block = which if entry is not None and entry.leaf is None else None
        parts = dict(self._module.named_modules(remove_duplicate=False))
        handles = [
            self._hook(parts[place.module], f"block {number}", place, seen, at_block)
            for number, place in enumerate(self._places)
        ]
        leaves = [given.get(number, leaf) for number, leaf in enumerate(self.leaves)]
        if entry is not None and entry.leaf is not None and which is not None:
            leaves[entry.leaf] = entry.tokens.changed(leaves[entry.leaf], which)
        args, kwargs = copied(*pytree.tree_unflatten(leaves, self._spec))
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                output = call_with(self._module, self._state, args, kwargs)
        except Exception as error:  # the model does not accept these inputs, so the run shows nothing
            pass_out_of_memory(error)
            return {}
        finally:
            for handle in handles:
                handle.remove()
        if at_block is not None and seen:
            self.first = seen.pop(next(iter(seen)))[1]
        for number, leaf in enumerate(pytree.tree_leaves(output)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                tokens = tokens_of_output(leaf, self._samples, self.count)
                if tokens is not None:
                    seen[f"output {number}"] = tokens.rows(leaf).double(), ""
        return seen

    def _hook(
        self, module: nn.Module, name: str, place: Place, seen: dict[str, tuple[Tensor, str]], which: Tensor | None
    ) -> Any:
        def look(tensor: Any) -> Any:
            if name in seen or not isinstance(tensor, Tensor):
                return tensor
            if which is not None and not seen:
                tensor = place.tokens.changed(tensor, which)
            seen[name] = place.tokens.rows(tensor).double(), place.stack
            return tensor

        if place.when == "output":
            return module.register_forward_hook(lambda _module, _args, output: look(output))
        return module.register_forward_pre_hook(lambda _module, args: (look(args[0]), *args[1:]) if args else None)


def _replaced_small_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return random values for the parameters that are (nearly) zero: a head that starts at zero shows no change."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point() and tensor.numel() and float(tensor.detach().abs().max()) < SMALL:
            found[name] = (torch.randn(tensor.shape, generator=generator, dtype=torch.float32) / 10).to(tensor)
    return found
