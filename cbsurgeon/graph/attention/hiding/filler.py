"""Find inputs that hide tokens by other means than an attention mask, by running a stack.

For instance, keys, values, weights or whole branches are multiplied by a mask of zeros and ones; a large negative
number is added to scores whose softmax is written out; or tokens only attend to tokens with the same document number.
The graph does not show that such a step hides tokens, so the stack is run. Some values of the input are set to a value
that could mark padding (they are *marked*), the tokens at these positions are changed, and the other tokens are
compared. The input hides tokens if the other tokens stay the same, but change if no value is marked.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Literal

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.hiding.candidates import COMPARISONS, FINITE, MARKS, candidate_marks, told_apart
from cbsurgeon.graph.attention.hiding.crossing import beside
from cbsurgeon.graph.attention.hiding.trials import (
    Pair,
    Trials,
    absent,
    choices,
    elsewhere,
    is_choice,
    is_mask,
    is_scale,
    orders,
    scattered,
    trials,
)
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.order import CLOSED
from cbsurgeon.graph.attention.probing.stretches import Layout, Stretch, Tokens, layout_of, pooled, stretch
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.program import Program

Answer = Literal["padding", "order", "free"]
"""What an input does: it hides marked tokens, it holds the places of the tokens in an order, or neither."""


def marking_inputs(
    program: Program,
    reading: Reading,
    members: Sequence[tuple[str, Found]],
    run: Probe,
    known: Mapping[str, Container[str]],
) -> dict[str, tuple[str, Answer]]:
    """Return, for each stack that has one, the name of an input that hides some tokens from the others, and how.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block, attention included.
        run: runs the stacks.
        known: for each stack, the inputs that are already known to hide its tokens; they are not tried.
    """
    found: dict[str, tuple[str, Answer]] = {}
    nodes = {node.name: node for node in reading.flow.order}
    marks = {name: (*MARKS, *candidate_marks(program, reading, name)) for name in program.input_names}
    for stack, group in by_stack(reading, members).items():
        names = [name for name in program.input_names if name not in known.get(stack, ())]
        for tokens, own in resolutions(reading.flow, group).items():
            for name in names:
                if stack not in found:
                    answer = _there(run, program, reading, nodes[name], tokens, own, marks[name])
                    if answer != "free":
                        found[stack] = (name, answer)
    return found


def _there(
    run: Probe,
    program: Program,
    reading: Reading,
    given: fx.Node,
    tokens: Tokens,
    own: Sequence[Found],
    marks: Sequence[int],
) -> Answer:
    """Return whether and how an input hides tokens of some blocks from each other.

    The run starts at the residual stream of the first block, so that tokens that are replaced before it (masked image
    modelling) do not count as hidden. If no token influences another one from there on, the run starts further
    upstream, at the first tensor that holds these tokens.
    """
    stream = own[0].branch.stream
    assert stream is not None
    compared = _may_be_absent(reading, given)
    layout = layout_of(reading.flow, given, tokens, alone=True)
    if not compared and is_scale(program.example[given.name]):
        marks = [mark for mark in marks if mark >= 0]  # ``1 + scale`` is zero at -1
    both = [stretch(reading, stream, own[-1].branch.total, tokens, far=far) for far in (False, True)]
    parts = [part for part in both if part is not None]
    for part in parts:
        if not _bypasses_entry(given, part):
            continue
        own_value = layout if compared or part.entry is stream else None
        answer = _hides(run, program, given.name, part, marks, own_value)
        if answer in (None, "free"):
            answer = _loses(run, program, reading, given, part, tokens, marks if compared else ()) or answer
        if answer is not None:
            return answer
    # No token influences another one: the input may mask a mean over the tokens at the end of the model.
    ends = [end for part in parts for end in pooled(reading, part) if _bypasses_entry(given, end)]
    own_value = layout if compared else None
    answers = (_hides(run, program, given.name, end, marks, own_value, looks=False) for end in ends)
    found = next((answer for answer in answers if answer not in (None, "free")), None)
    if found is None:
        found = next((one for end in ends if (one := _together(run, program, reading, given, end))), None)
    return found or "free"


def _loses(
    run: Probe,
    program: Program,
    reading: Reading,
    given: fx.Node,
    part: Stretch,
    tokens: Tokens,
    marks: Sequence[int],
) -> Answer | None:
    """Return how some token loses its influence on all others if an input holds other values; ``None`` if none does.
    Which token it is, is not known: the values belong to groups of tokens, or choose one of several masks."""
    example, batched = program.example[given.name], given.name in program.batch_axes
    chosen = choices(example, batched) if beside(reading, part, tokens, (), given) else ()
    pairs = chain(elsewhere(example, batched, part.sizes, marks), chosen)
    return _any_loses(run, given, part, pairs) or _together(run, program, reading, given, part)


def _together(run: Probe, program: Program, reading: Reading, given: fx.Node, part: Stretch) -> Answer | None:
    """Return how some token loses its influence if an input with one number per token holds several numbers that
    the graph tells apart, such as two marks."""
    example = program.example[given.name]
    numbers = told_apart(program, reading, given.name) if example.shape[-1:] == (part.count,) else []
    return _any_loses(run, given, part, scattered(example, part.count, numbers))


def _any_loses(run: Probe, given: fx.Node, part: Stretch, pairs: Iterable[Pair]) -> Answer | None:
    for plain, marked in pairs:
        try:
            if run.loses(part, {given.name: plain}, {given.name: marked}):
                tokens = part.layouts[part.exits[-1]].places
                return "order" if tokens and run.ordered(part, {given.name: marked}, 0) else "padding"
        except (IndexError, RuntimeError, ValueError):  # the model does not take these values
            continue
    return None


def _may_be_absent(reading: Reading, given: fx.Node) -> bool:
    """Return whether the graph compares the values of an input with a number, or asks which of them are finite: then
    zeros, or values that are no numbers, may mean that a token is absent."""
    raw = raw_inputs(reading.flow)
    return any(
        aten.name(node) in COMPARISONS | FINITE
        and len(aten.tensors(node)) == 1
        and given.name in raw.get(aten.tensors(node)[0], ())
        for node in reading.flow.order
    )


def _bypasses_entry(given: fx.Node, part: Stretch) -> bool:
    """Return whether an input reaches an exit of a stretch without passing its entry."""
    queue, seen = [given], set[fx.Node]()
    while queue:
        node = queue.pop()
        if node in part.exits:
            return True
        if node not in seen and node is not part.entry:
            seen.add(node)
            queue += node.users
    return False


def _hides(
    run: Probe,
    program: Program,
    name: str,
    part: Stretch,
    marks: Sequence[int],
    own: Layout | None,
    *,
    looks: bool = True,
) -> Answer | None:
    """Return whether and how marking some tokens in an input hides them from the others, or from the exits if these
    hold no tokens (``looks`` is false); ``None`` if tokens do not influence each other even if none is marked."""
    example, batched = program.example[name], name in program.batch_axes
    compared = [mark for mark in marks if mark not in MARKS]
    mixed = False
    unsure: Answer | None = None
    some: list[tuple[Answer, Trials]] = [
        ("padding", chain(trials(example, batched, part.sizes, marks), absent(example, own, compared))),
        ("order", orders(example, batched, part.sizes) if looks else iter(())),
    ]
    if not is_mask(example):  # ranks and times are tried first: a time that is marked may seem to be padding
        some.reverse()
    tried = ((how, hidden, pair) for how, sets in some for hidden, pairs in sets for pair in pairs)
    for how, hidden, (plain, marked) in tried:
        looked = ~hidden if looks else None
        try:
            open_ = run.passes(part, {name: plain}, hidden, looked)
            mixed |= open_ > 0
            if open_ > 0 and run.passes(part, {name: marked}, hidden, looked) <= CLOSED * open_:
                if how == "padding":  # a flag that makes a model causal is no padding
                    flag = looks and is_choice(example) and run.ordered(part, {name: marked}, 0)
                    return "order" if flag else how
                back = [run.passes(part, {name: given}, ~hidden, hidden) for given in (plain, marked)]
                if back[0] <= CLOSED * open_ < back[1]:  # tokens in front do not see the others, those behind them do
                    return "order"
                unsure = unsure or ("order" if back[1] > CLOSED * open_ else "padding")
        except (IndexError, RuntimeError, ValueError):  # the model does not take these values: they mark nothing
            continue
    return unsure or ("free" if mixed else None)
