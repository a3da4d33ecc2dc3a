"""Find the padding mask of every site: the input, the meaning of its values, and the proof that it masks these tokens.

The mask of an attention is proved by running the nodes between the input and the scores. Each position of the input
gets a different pattern over the samples, and exactly the keys at the marked positions must be masked. This shows which
value marks padding, and that position ``k`` of the mask is key ``k``, for any arithmetic or indexing in between.
The keys are matched to the tokens of a block by their axis, which is followed through the graph.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from cbsurgeon.errors import pass_out_of_memory
from cbsurgeon.graph.attention.scores import Scores, find_scores, raw_inputs
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.roles import unfolded
from cbsurgeon.graph.axes.table import BATCH, PRIME, Dim, Dims
from cbsurgeon.graph.block import Mask, Site
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.program import Program
from cbsurgeon.operators.common.masking import CLOSED, VALID, Valid

LOWERED = 40.0
"""A score this far below the largest of its row gets a weight of e^-40, below the rounding error of every dtype."""

ANYWHERE = "*"
"""Used as stack: the attention belongs to no stack, and its keys are not known to be the tokens of any block."""


@dataclass(frozen=True)
class Tie:
    """The padding mask of one attention.

    Attributes:
        stack: the stack that the attention belongs to; empty if it is not in a residual branch.
        inputs: the inputs that reach its mask.
        keys: the axis of its keys.
        mask: the input that masks keys, if this is proved; else ``None``.
        why: the reason if it is not proved.
        outside: the keys are computed from tensors outside the stack, as in cross-attention.
    """

    stack: str
    inputs: tuple[str, ...]
    keys: Dim
    mask: Mask | None
    why: str = ""
    outside: bool = False


def ties(program: Program, reading: Reading, members: Iterable[tuple[str, Found]], *, run: bool) -> list[Tie]:
    """Return the padding mask of every attention that an input reaches as a mask.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every attention.
        run: whether the program can be run (its parameters hold values).
    """
    raw = raw_inputs(reading.flow)
    known: dict[object, tuple[Mask | None, str]] = {}
    found: list[Tie] = []
    stacks: dict[fx.Node, str] = {}
    streams: dict[str, set[fx.Node]] = {}
    for stack, attention in members:
        stacks |= dict.fromkeys(attention.branch.between.nodes, stack)
        own = (attention.branch.stream, attention.branch.total)
        streams.setdefault(stack, set()).update(node for node in own if node is not None)
    for one in find_scores(reading.flow, reading.flow.order):
        names = sorted(frozenset[str]().union(*(raw.get(mask, frozenset()) for mask in one.masks)))
        if not names or not one.keys:
            continue
        same = (one.masks, one.steps)
        if same not in known:
            known[same] = _prove(program, reading.flow, one, names) if run else (None, "the model has no weights")
        stack = stacks.get(one.node, "")
        outside = one.key is not None and bool(stack) and not _depends(one.key, streams[stack])
        found.append(Tie(stack, tuple(names), one.keys, *known[same], outside))
    return found


def _depends(node: fx.Node, others: Container[fx.Node]) -> bool:
    """Whether a node is computed from any of the others."""
    queue, seen = [node], set[fx.Node]()
    while queue:
        current = queue.pop()
        if current in others:
            return True
        if current not in seen:
            seen.add(current)
            queue.extend(current.all_input_nodes)
    return False


def mask_of(flow: Flow, site: Site, value: fx.Node, stack: str, found: Sequence[Tie]) -> Mask | str:
    """Return the padding mask of a site, or the reason why it cannot be found; empty if the stack has no padding mask.

    Args:
        flow: axis factors of the graph.
        site: the site.
        value: its tensor.
        stack: the stack of its block.
        found: the padding masks of all attentions of the program.
    """
    dims = dims_of(flow, site, value)
    across = [dims[axis] for axis in site.token_axes]
    own = [tie for tie in found if tie.stack in (stack, ANYWHERE) or (not tie.stack and _of_any(flow, tie, across))]
    # Keys from outside the stack are its tokens only if they have the same axis.
    own = [tie for tie in own if not tie.outside or _shares_axis(flow, tie.keys, across)]
    if not own:
        return ""
    if len(site.token_axes) != 1:
        return f"its tokens have {len(site.token_axes)} axes, but a mask has one"
    if len(site.batch_axes) != 1 or [factor.axis for factor in dims[site.batch_axes[0]]] != [BATCH]:
        return "its batch axis is merged with another axis"
    near = [tie for tie in own if _same(flow, tie.keys, across[0])]
    if not near:
        hiding = ", ".join(dict.fromkeys(name for tie in own for name in tie.inputs))
        return f"the keys that {hiding} masks are other tokens than those of this site, or only some of them"
    masks = list(dict.fromkeys(tie.mask for tie in near))
    if len(masks) > 1 or masks[0] is None:
        return next((tie.why for tie in near if tie.mask is None), "its attentions use different masks")
    return masks[0]


def dims_of(flow: Flow, site: Site, value: fx.Node) -> Dims:
    """Return the dimensions that a site's axes index: those of its tensor, after a shared axis is split."""
    split = unfolded(flow.of(value)) if site.unfold is not None else None
    return split[0] if split is not None else flow.of(value)


def placed(flow: Flow, found: Sequence[Tie], tensors: Iterable[tuple[Site, fx.Node]]) -> list[Tie]:
    """Return the masks; a mask outside any stack whose keys match no site's tokens gets the stack :data:`ANYWHERE`.

    Such a mask may apply to the tokens of any stack.

    Args:
        flow: axis factors of the graph.
        found: the padding masks of all attentions.
        tensors: every site and its tensor.
    """
    tokens = [dims_of(flow, site, value)[axis] for site, value in tensors for axis in site.token_axes]
    return [tie if tie.stack or _of_any(flow, tie, tokens) else replace(tie, stack=ANYWHERE) for tie in found]


def _shares_axis(flow: Flow, keys: Dim, tokens: Iterable[Dim]) -> bool:
    """Whether any factor of the keys' axis is also one of the tokens' axes."""
    roots = {flow.table.root(factor.axis) for dim in tokens for factor in dim}
    return any(flow.table.root(factor.axis) in roots for factor in keys)


def _of_any(flow: Flow, tie: Tie, tokens: Iterable[Dim]) -> bool:
    return any(_same(flow, tie.keys, one) for one in tokens)


def _same(flow: Flow, keys: Dim, tokens: Dim) -> bool:
    """Whether keys and tokens are the same axis and nothing was cut off or added in between."""
    if not (len(keys) == len(tokens) == 1):
        return False
    return flow.table.root(keys[0].axis) == flow.table.root(tokens[0].axis) and keys[0].size == tokens[0].size


def _prove(program: Program, flow: Flow, one: Scores, names: Sequence[str]) -> tuple[Mask | None, str]:
    """Return the input that is a mask, with the meaning of its values, or ``None`` and the reason.

    Every possible meaning is tried. Only a single input can be proved.
    """
    if len(names) != 1:
        return None, f"the mask is made from several inputs ({', '.join(names)})"
    name = names[0]
    given = next(node for node in flow.order if node.name == name)
    dims = flow.of(given)
    if name not in program.batch_axes or [factor.axis for factor in dims[0]] != [BATCH]:
        return None, f"the first axis of {name} is not the batch, or its size is fixed"
    rows = any(dims[1:-1])
    if len(dims) < 2 or len(dims[-1]) != 1 or (rows and not _rows_alike(program, name)):
        where = f" of {program.prefix}" if program.prefix else ""
        return None, f"{name}{where} of shape [{_shape(given)}] does not hold one value per sample and token"
    codes = _codes(dims[-1][0].size)
    dtype = program.example[name].dtype
    for valid in VALID if dtype.is_floating_point else VALID[:2]:
        if _is_written(program.example[name], valid) and _means(program, flow, one, name, valid, codes):
            return Mask(name, valid, rows=rows), ""
    return (
        None,
        f"masking a token in {name} does not mask exactly the key at the same position: the mask has another "
        "resolution or is combined with other values",
    )


def _rows_alike(program: Program, name: str) -> bool:
    """Return whether a mask that the model computes for a captured part masks some keys, the same for every query."""
    mask = program.example[name]
    rows = mask.reshape(len(mask), -1, mask.shape[-1])
    return bool(program.prefix) and bool((rows == rows[:, :1]).all()) and bool((rows != rows[..., :1]).any())


def _is_written(example: Tensor, valid: Valid) -> bool:
    """Return whether the example's values fit a mask of this meaning; large numbers, for example, only fit an *open*
    mask."""
    if valid == "open":
        return bool(((example == 0) | (example < CLOSED)).all())
    return bool(((example == 0) | (example == 1)).all())


def _codes(tokens: int) -> Tensor:
    """Return ``[samples, tokens]``: each token has a different pattern over the samples and is masked in half of
    them."""
    number = torch.arange(tokens)
    ones = [(number >> bit) % 2 == 1 for bit in range(max(1, (tokens - 1).bit_length()))]
    return torch.stack([row for one in ones for row in (one, ~one)])


def _means(program: Program, flow: Flow, one: Scores, name: str, valid: Valid, codes: Tensor) -> bool:
    """Whether an input of this meaning masks exactly the keys at the positions it marks."""
    like, execution = program.example[name], Execution(program)
    before = _hidden(program, execution, flow, one, name, _written(torch.ones_like(codes[:2]), valid, like))
    # Two samples at a time: the scores of a long sequence are large.
    return all(
        _follows(before, _hidden(program, execution, flow, one, name, _written(pair, valid, like)), ~pair)
        for pair in (codes[i : i + 2] for i in range(0, len(codes), 2))
    )


def _written(pattern: Tensor, valid: Valid, like: Tensor) -> Tensor:
    """A pattern of tokens as a mask of some meaning, shaped like the example."""
    if valid == "open":
        mask = torch.zeros(pattern.shape, dtype=like.dtype).masked_fill(~pattern, torch.finfo(like.dtype).min)
    else:
        mask = (pattern if valid == "nonzero" else ~pattern).to(like.dtype)
    return mask[(slice(None), *[None] * (like.dim() - 2))].expand(len(mask), *like.shape[1:])


def _hidden(program: Program, execution: Execution, flow: Flow, one: Scores, name: str, mask: Tensor) -> Tensor | None:
    """Return ``[samples, rows, keys]``, true where a key gets no weight; ``None`` if the scores have another layout."""
    samples = len(mask)
    inputs = {**program.with_batch(samples), name: mask}
    override = {} if one.product is None else {one.product.name: _zeros(flow, one.product, samples)}
    try:
        read = execution.values(inputs, [one.read.name], override)[one.read.name]
    except Exception as error:  # the model may reject a mask of this meaning; then the mask has another meaning
        pass_out_of_memory(error)
        return None
    leading = flow.of(one.read)[0]
    if read.dim() < 2 or not leading or leading[0].axis != BATCH or read.shape[0] % samples:
        return None
    if read.dtype == torch.bool:
        read = torch.zeros(read.shape).masked_fill(~read, float("-inf"))
    rows = read.float().reshape(samples, -1, read.shape[-1])
    return rows <= rows.amax(dim=-1, keepdim=True) - LOWERED


def _zeros(flow: Flow, product: fx.Node, samples: int) -> Tensor:
    """Scores that are equal for all keys."""
    sizes = [size // PRIME * samples if size % PRIME == 0 else size for size in flow.table.sizes(product)]
    return torch.zeros(sizes, dtype=product.meta["val"].dtype)


def _follows(before: Tensor | None, after: Tensor | None, hidden: Tensor) -> bool:
    """Whether exactly the marked tokens are masked keys, besides those that are always masked. Rows without any visible
    key (queries of padding, in some models) are ignored."""
    if before is None or after is None or after.shape[-1] != hidden.shape[-1]:
        return False
    expected = before | hidden[:, None, :]
    seeing = ~(expected.all(dim=-1) | after.all(dim=-1))
    return bool(seeing.any(dim=1).all()) and torch.equal(after[seeing], expected[seeing])


def _shape(node: fx.Node) -> str:
    return ", ".join(str(size) for size in node.meta["val"].shape)
