"""Find which tokens of a stack influence which others, by running the part of the program that holds the stack.

Some tokens of the stack's input are changed, and the tokens of its output are compared. This detects causality whatever
the operators are: a triangular mask, a decay that is multiplied with the scores, a running sum, a causal convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from cbsurgeon.errors import pass_out_of_memory
from cbsurgeon.graph.attention.probing.derivatives import Derivatives, sources
from cbsurgeon.graph.attention.probing.differences import Differences
from cbsurgeon.graph.attention.probing.order import (
    FEW,
    Order,
    depends_on_place,
    groups_of,
    hidden,
    influence_is_lost,
    order_of,
    output_is_lost,
    spread,
    turned,
)
from cbsurgeon.graph.attention.probing.running import Runner
from cbsurgeon.graph.attention.probing.stretches import Stretch
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.program import Program

SMALL = 1e-2
"""Parameters whose largest magnitude is below this are replaced while probing: a branch that starts at zero (ReZero,
adaptive norms, layer scale) would otherwise have no influence."""

KEPT = 4
"""How many stretches with their inputs are kept, because most trials repeat the inputs in which no token is marked."""


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
        self._recent: list[tuple[Stretch, Mapping[str, Tensor], Runner | None]] = []
        self._read: tuple[Stretch, fx.Node, list[Tensor | None]] | None = None

    def order(self, part: Stretch, *, padded: bool, sites: bool = True) -> Order:
        """Return which tokens the tokens of a stretch do not see.

        Args:
            part: the stretch.
            padded: the example inputs contain padding, so that the last token may be one that no other token sees.
            sites: some block of the stretch is an MLP. A class token that only reads the others is one-way, but blocks
                of class attention alone have no MLP over these tokens.
        """
        run = self._runner(part)
        return "unknown" if run is None else order_of(run, part.sizes, padded, sites)

    def apart(self, part: Stretch) -> bool:
        """Return whether each tested token of a stretch changes itself and no other, at every exit."""
        run = self._runner(part)
        if run is None:
            return False
        for place in sorted({0, part.count // 2, part.count - 1}):
            chosen = torch.zeros(part.count, dtype=torch.bool)
            chosen[place] = True
            for moved, floor in zip(run(chosen), run.floors, strict=True):
                if not hidden(float(moved[~chosen].max()), float(moved[chosen].max()), floor):
                    return False
        return True

    def turned(self, part: Stretch) -> bool:
        """Return whether later tokens influence earlier ones at some exit of a stretch, but not at the last."""
        run = self._runner(part)
        return run is not None and turned(run, part.count)

    def groups(self, part: Stretch) -> int:
        """Return the number of groups of tokens that do not influence each other, each of several tokens; 0 if there is
        one, or if it is not known."""
        run = self._runner(part)
        return groups_of(run, part.count) if run is not None else 0

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

    def loses(self, part: Stretch, plain: Mapping[str, Tensor], marked: Mapping[str, Tensor]) -> bool:
        """Return whether some token influences others with some inputs of the program, and none with others.

        Args:
            part: the stretch. If its exits hold no tokens, the influence is that on the exits.
            plain, marked: the inputs to use instead of the examples.
        """
        runs = [self._runner(part, given) for given in (plain, marked)]
        before, after = runs
        if before is None or after is None:
            return False
        lost = influence_is_lost if part.layouts[part.exits[-1]].places else output_is_lost
        return lost(before, after, part.count)

    def ordered(self, part: Stretch, given: Mapping[str, Tensor], sample: int) -> bool:
        """Return whether the tokens of one sample see each other in an order.

        Args:
            part: the stretch.
            given: inputs of the program to use instead of the examples.
            sample: the number of the sample.
        """
        one = self._sample({**self._program.example, **given}, sample)
        run = self._runner(part, example=one)
        return run is not None and depends_on_place(run, part.count)

    def own_order(self, part: Stretch, *, opaque: bool = False) -> bool:
        """Return whether the tokens of a stretch see each other in an order that depends on their values.

        Args:
            part: the stretch.
            opaque: some operator of the stretch may have a wrong derivative or none, so changes are measured.
        """
        shown: list[dict[int, Tensor]] = []
        for sample in range(2):
            example = self._sample(self._program.example, sample)
            plain = self._execution.values(example, [part.entry.name], self._parameters)[part.entry.name]
            noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(sample), dtype=torch.float32)
            for entry in (plain, plain + (plain.float().std() * noise).to(plain)):
                found = self._sources(part, example, entry, opaque=opaque)
                if found is None:
                    return False
                shown.append(found)
        first = shown[0]
        return any(
            one.keys() != first.keys() or any(not torch.equal(one[place], first[place]) for place in first)
            for one in shown[1:]
        )

    def _sources(
        self, part: Stretch, example: Mapping[str, Tensor], entry: Tensor, *, opaque: bool
    ) -> dict[int, Tensor] | None:
        """Return the tokens that influence some tested tokens of a stretch, if the tested ones see each other in an
        order."""
        if not opaque:
            try:
                return sources(Derivatives(self._execution, example, self._parameters, part, entry), part.count)
            except (NotImplementedError, RuntimeError) as error:  # some operator has no derivative
                pass_out_of_memory(error)
        differences = Differences(self._execution, example, self._parameters, part, entry)
        return sources(differences, len(differences.places))

    def read(self, part: Stretch, memory: fx.Node, axis: int, *, opaque: bool = False) -> Tensor | None:
        """Return which positions along an axis of a node influence some tested tokens of the last exit of a stretch, in
        the first sample, ``[tokens, positions]``; ``None`` if one of the tokens does not depend on the node.

        Args:
            part: the stretch.
            memory: the node.
            axis: the axis.
            opaque: as in :meth:`own_order`.
        """
        example = self._sample(self._program.example, 0)
        value = self._execution.values(example, [memory.name], self._parameters)[memory.name]
        places, beside = spread(part.count, FEW), replace(part, entry=memory)
        if not opaque:
            try:
                if self._read is None or self._read[0] is not part or self._read[1] is not memory:
                    run = Derivatives(self._execution, example, self._parameters, beside, value)
                    self._read = part, memory, [run.read(torch.arange(part.count) == one) for one in places.tolist()]
            except (NotImplementedError, RuntimeError) as error:  # some operator has no derivative
                pass_out_of_memory(error)
            else:
                found = [one for one in self._read[2] if one is not None]
                if len(found) < len(places):
                    return None
                return torch.stack([one.movedim(axis, 0).flatten(1).any(dim=1) for one in found])
        return Differences(self._execution, example, self._parameters, beside, value).read(axis)[places]

    def _sample(self, inputs: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
        """Return one sample of some inputs, or the last one if there are not as many."""
        return {
            name: tensor.narrow(axis, min(sample, tensor.shape[axis] - 1), 1)
            if (axis := self._program.batch_axes.get(name)) is not None
            else tensor
            for name, tensor in inputs.items()
        }

    def _runner(
        self, part: Stretch, given: Mapping[str, Tensor] | None = None, example: Mapping[str, Tensor] | None = None
    ) -> Runner | None:
        """Return what runs a stretch; ``None`` if a value is not finite. The :data:`KEPT` latest are used again."""
        if example is not None:
            return self._made(part, given or {}, example)
        given = given or {}
        for held, values, run in self._recent:
            if held is part and _equal(values, given):
                return run
        run = self._made(part, given, self._program.example if given else self._example)
        self._recent = [(part, given, run), *self._recent[: KEPT - 1]]
        return run

    def _made(self, part: Stretch, given: Mapping[str, Tensor], example: Mapping[str, Tensor]) -> Runner | None:
        names = [node.name for node in (part.entry, *part.exits)]
        override = {**self._parameters, **given}
        plain = self._execution.values(example, names, override)
        if not all(bool(tensor.isfinite().all()) for tensor in plain.values()):
            return None
        return Runner(self._execution, example, override, part, plain)


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def _first_sample(program: Program) -> Mapping[str, Tensor]:
    """Return the first sample of the example inputs if all of them are floats, which halves the time of a run.

    The samples of other inputs differ in more than their values: masks and token ids mark different tokens as padding.
    """
    floats = all(tensor.is_floating_point() for tensor in program.example.values())
    if not floats or set(program.batch_axes) != set(program.example):
        return program.example
    return {name: tensor.narrow(program.batch_axes[name], 0, 1) for name, tensor in program.example.items()}


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
