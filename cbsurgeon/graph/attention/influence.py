"""Find which tokens of a stack influence which others, by running the part of the program that holds the stack.

Some tokens of the stack's input are changed, and the tokens of its output are compared. This detects causality whatever
the operators are: a triangular mask, a decay that is multiplied with the scores, a running sum, a causal convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from cbsurgeon.graph.attention.stretches import Stretch
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.program import Program

CLOSED = 1e-4
"""If the influence in one direction is below this fraction of the influence in the other, it is rounding error (of a
Fourier transform, or of a mask that is large but finite). Without a mask, the two directions differ far less."""

REACHED = 1e-6
"""A token counts as changed if it changes by more than this fraction of the largest change of any token. The rounding
error of a Fourier transform is about 1e-7 of the largest change in float32."""

SMALL = 1e-2
"""Parameters whose largest magnitude is below this are replaced while probing: a branch that starts at zero (ReZero,
adaptive norms, layer scale) would otherwise have no influence."""

FEW, MANY = 8, 32
"""Number of tokens that are changed one by one to check that tokens see each other in the order of their axis: ``FEW``
if the two halves of an axis already showed that order, else ``MANY``."""

SOME, STEPS = 4, 6
"""How many tokens, besides the second and the last but one, are followed to all that they reach, and in how many steps:
in each, the tokens that were reached are changed as well."""

Order = Literal["future", "past", "mixed", "open", "unknown"]
"""Which tokens a token does not see: later ones, earlier ones, some in another order, none, or unknown."""


class Probe:
    """Runs stretches of one program with changed tokens.

    Args:
        program: the captured program, with weights.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._execution = Execution(program)
        self._parameters = replaced_small_parameters(program)
        self._example = _first_sample(program)

    def order(self, part: Stretch, *, padded: bool, sites: bool = True) -> Order:
        """Return which tokens the tokens of a stretch do not see.

        Args:
            part: the stretch.
            padded: the example inputs contain padding, so that the last token may be one that no other token sees.
            sites: some block of the stretch is an MLP. A class token that only reads the others is one-way, but blocks
                of class attention alone have no MLP over these tokens.
        """
        run = self._runner(part)
        if run is None:
            return "unknown"
        order = self._order(run, part, padded, sites)
        return "open" if order in ("future", "past", "mixed") and _only_moved(run, part.count) else order

    def _order(self, run: _Runner, part: Stretch, padded: bool, sites: bool) -> Order:
        seen: Order = "unknown"
        for axis, size in enumerate(part.sizes):
            if size > 1:
                found = _across(run, later(part.sizes, axis))
                if found in ("future", "past"):
                    return "mixed" if found == "future" and _against(run, part.count, FEW) else found
                seen = found if seen == "unknown" else seen
        if not _last_is_hidden(run, part.count, padded) and not (sites and _one_way(run, part.count, padded)):
            return seen
        return "mixed" if _against(run, part.count, MANY) else "future"

    def apart(self, part: Stretch) -> bool:
        """Return whether each tested token of a stretch changes itself and no other, at every exit."""
        run = self._runner(part)
        if run is None:
            return False
        for place in sorted({0, part.count // 2, part.count - 1}):
            chosen = torch.zeros(part.count, dtype=torch.bool)
            chosen[place] = True
            for moved, floor in zip(run(chosen), run.floors, strict=True):
                if not _hidden(float(moved[~chosen].max()), float(moved[chosen].max()), floor):
                    return False
        return True

    def passes(self, part: Stretch, given: Mapping[str, Tensor], changed: Tensor, looked: Tensor | None) -> float:
        """Return the largest change of some tokens when other tokens are changed.

        Args:
            part: the stretch.
            given: inputs of the program to use instead of the examples.
            changed, looked: ``[tokens]``, true for the tokens to change and for the tokens to compare; ``None`` to
                compare exits that hold no tokens.

        Returns:
            the largest change at any exit; not-a-number if an output is not finite.
        """
        run = self._runner(part, given)
        if run is None:
            return float("nan")
        return max(float((moved if looked is None else moved[looked]).max()) for moved in run(changed))

    def _runner(self, part: Stretch, given: Mapping[str, Tensor] | None = None) -> _Runner | None:
        names = [node.name for node in (part.entry, *part.exits)]
        override = {**self._parameters, **(given or {})}
        example = self._program.example if given else self._example
        plain = self._execution.values(example, names, override)
        if not all(bool(tensor.isfinite().all()) for tensor in plain.values()):
            return None
        return _Runner(self._execution, example, override, part, plain)


def _first_sample(program: Program) -> Mapping[str, Tensor]:
    """Return the first sample of the example inputs if all of them are floats, which halves the time of a run.

    The samples of other inputs differ in more than their values: masks and token ids mark different tokens as padding.
    """
    floats = all(tensor.is_floating_point() for tensor in program.example.values())
    if not floats or set(program.batch_axes) != set(program.example):
        return program.example
    return {name: tensor.narrow(program.batch_axes[name], 0, 1) for name, tensor in program.example.items()}


class _Runner:
    """Runs a stretch with changed tokens and measures how much every token of every exit changes."""

    def __init__(
        self,
        execution: Execution,
        example: Mapping[str, Tensor],
        override: Mapping[str, Tensor],
        part: Stretch,
        plain: dict[str, Tensor],
    ) -> None:
        self._execution, self._example, self._override = execution, example, override
        self._part, self._plain = part, plain
        exits = [plain[node.name].double() for node in part.exits]
        eps = [torch.finfo(plain[node.name].dtype).eps for node in part.exits]
        self.floors = [10 * one * float(tensor.abs().max()) for one, tensor in zip(eps, exits, strict=True)]

    def __call__(self, changed: Tensor) -> list[Tensor]:
        """Return, for every exit, the largest change of each token, ``[tokens]``, when the given tokens are changed."""
        part, entry = self._part, self._plain[self._part.entry.name]
        rows = part.layouts[part.entry].rows(entry).clone()
        generator = torch.Generator().manual_seed(int(changed.nonzero()[0]) + 1)
        noise = torch.randn(rows[changed].shape, generator=generator, dtype=torch.float32).to(entry.dtype)
        rows[changed] += noise * (entry.float().std() + 1e-3).to(entry.dtype)
        override = {**self._override, part.entry.name: part.layouts[part.entry].tensor(rows, entry)}
        names = [node.name for node in part.exits]
        after = self._execution.values(self._example, names, override)
        return [
            (part.layouts[node].rows(after[node.name]).double() - self._rows(node)).abs().nan_to_num().amax(dim=1)
            for node in part.exits
        ]

    def _rows(self, node: fx.Node) -> Tensor:
        return self._part.layouts[node].rows(self._plain[node.name]).double()


def _only_moved(run: _Runner, count: int) -> bool:
    """Whether tokens are only moved (rolled, shuffled): changing one token changes a single token of the output."""
    for token in sorted({0, count // 3, count // 2, count - 1}):
        alone = torch.zeros(count, dtype=torch.bool)
        alone[token] = True
        shown = [int((moved > floor).sum()) for moved, floor in zip(run(alone), run.floors, strict=True)]
        if max(shown) != 1:
            return False
    return True


def later(sizes: tuple[int, ...], axis: int) -> Tensor:
    """Return ``[tokens]``, true for the tokens in the second half of one token axis."""
    place = torch.arange(sizes[axis]).view(-1, *[1] * (len(sizes) - axis - 1)).expand(sizes)
    return place.reshape(-1) >= sizes[axis] // 2


def _across(run: _Runner, behind: Tensor) -> Order:
    """Return the order that is shown by changing each half of the tokens, at the first exit that shows an order."""
    back_moves, ahead_moves = run(behind), run(~behind)
    for back, ahead, floor in zip(back_moves, ahead_moves, run.floors, strict=True):
        backward, forward = float(back[~behind].max()), float(ahead[behind].max())
        if _hidden(backward, forward, floor):
            return "future"
        if _hidden(forward, backward, floor):
            return "past"
        if backward > 0 and forward > 0:
            return "open"
    return "unknown"


def _last_is_hidden(run: _Runner, count: int, padded: bool) -> bool:
    """Return whether the last token sees tokens that do not see it, in any order.

    This detects a prefix that all tokens see, blocks of tokens that see each other, and axes that were merged. With
    padding, the last token that another one sees is tested.
    """
    for last in [count - 1, *(count - 2**step for step in range(1, count.bit_length()) if padded)]:
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[last] = True
        alone = run(chosen)
        if padded and not any(bool((_reached(moved) & ~chosen).any()) for moved in alone):
            continue
        for place, moved in enumerate(alone):
            others = ~(_reached(moved) | chosen)
            if not bool(others.any()):
                continue
            back, forward = float(moved[others].max()), float(run(others)[place][last])
            if forward > run.floors[place] and _hidden(back, forward, run.floors[place]):
                # One token may reach the others through a mean over all tokens, too little to be measured. What it
                # reaches is changed as well: if the others do not see the last token, they do not see these either.
                together = float(run(~others)[place][others].max())
                if _hidden(together, forward, run.floors[place]):
                    return True
        return False
    return False


def _one_way(run: _Runner, count: int, padded: bool) -> bool:
    """Return whether some tokens influence others to which nothing ever leads back, however many layers follow.

    This detects a prompt behind causal tokens, queries in front of the tokens that they read, and every other one-way
    influence that two halves and the last token do not show. Windows and convolutions are not one-way: what a token
    reaches in several layers reaches it as well. With padding, tokens that no other token sees are left out.
    """
    for place in dict.fromkeys([*_places(count, SOME).tolist(), min(1, count - 1), max(count - 2, 0)]):
        reached = torch.zeros(count, dtype=torch.bool)
        reached[place] = True
        for _ in range(STEPS):
            moves = run(reached)
            grown = reached | torch.stack([_reached(moved) for moved in moves]).any(dim=0)
            if bool(grown.all()) or (padded and int(grown.sum()) == 1):
                break
            if torch.equal(grown, reached):
                ahead = [float(moved[grown].max()) for moved in run(~grown)]
                back = [float(moved[~grown].max()) for moved in moves]
                pairs = zip(back, ahead, run.floors, strict=True)
                if any(forward > floor and _hidden(less, forward, floor) for less, forward, floor in pairs):
                    return True
                break
            reached = grown
    return False


def _places(count: int, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _against(run: _Runner, count: int, most: int) -> bool:
    """Return whether some token sees a later token that does not see it. If so, a causal mean leaks as well."""
    places = _places(count, most)
    sees = []
    for place in places:
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[place] = True
        sees.append(torch.stack([_reached(moved)[places] for moved in run(chosen)]).any(dim=0))
    by_changed = torch.stack(sees)  # [changed, moved]
    return bool((by_changed & ~by_changed.T).tril(-1).any())  # the changed token is later, and does not see the other


def _reached(moved: Tensor) -> Tensor:
    """Return ``[tokens]``, true for the tokens that change by more than rounding error."""
    return moved > REACHED * float(moved.max())


def _hidden(less: float, more: float, floor: float) -> bool:
    return more > 0 and (less == 0 or (more > floor and less <= CLOSED * more))


def replaced_small_parameters(program: Program) -> dict[str, Tensor]:
    """Return random values for the parameters that are (nearly) zero, by the name of their placeholder."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for spec in program.exported.graph_signature.input_specs:
        tensor = program.exported.state_dict.get(str(spec.target)) if spec.kind is InputKind.PARAMETER else None
        if tensor is None or not tensor.is_floating_point() or not tensor.numel():
            continue
        if float(tensor.detach().abs().max()) < SMALL:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32) / 10
            found[str(getattr(spec.arg, "name", ""))] = noise.to(tensor)
    return found
