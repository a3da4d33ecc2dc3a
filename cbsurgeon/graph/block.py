"""The result of an inspection: blocks, their sites, and rejected candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from cbsurgeon.graph.heads import Attention
from cbsurgeon.graph.reasons import Part, Reason
from cbsurgeon.operators.common.masking import Valid
from cbsurgeon.operators.common.unfolding import Unfold

SCHEMA = "cbsurgeon.inspect/1"

Kind = Literal["mlp", "glu", "conv-mlp", "token-mlp", "inverted-bottleneck", "attention"]
Position = Literal["front", "mid", "end", "query"]

Heads = tuple[tuple[tuple[int, int], ...], ...]
"""For every attention head, the ranges ``(start, stop)`` of channels that are its queries."""


APART = "that the model keeps apart; fold them into the batch if that is not wanted"
"""End of the note of a block whose tokens include views, crops or variates that no layer mixes."""

GROUPS = "on the axis of the samples: a mean is over the tokens of one group"
"""End of the note of a block whose module gets windows, frames or views as if they were samples."""


@dataclass(frozen=True)
class Hook:
    """An input or output of an ``nn.Module`` at which an operator can be inserted without renaming a key.

    Attributes:
        module: path of the module.
        when: ``output`` for a forward hook, ``input`` for a forward pre-hook.
        before_dropout: true if the branch's dropout is a function call, so that no module ends after it and in training
            the operator runs before the dropout. In evaluation this makes no difference.
    """

    module: str
    when: Literal["input", "output"]
    before_dropout: bool = False


@dataclass(frozen=True)
class Use:
    """The tensor of a site in the graph, for one call of the block.

    Attributes:
        value: name of the node whose value the operator is applied to.
        consumers: names of the nodes that read the operator's result instead; empty means all of them.
    """

    value: str
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mask:
    """The input that marks padding among the tokens of a site.

    Attributes:
        input: name of the parameter of a ``forward`` (and of the program's input).
        valid: which values mark a token: ``nonzero``; ``zero`` (true is padding); or ``open``, a mask that is added to
            attention scores, where a large negative number marks padding.
        module: path of the module whose ``forward`` it is; empty for the model itself.
        rows: it has one row of keys per query (all rows equal) instead of one row per sample.
    """

    input: str
    valid: Valid
    module: str = ""
    rows: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"input": self.input, "valid": self.valid, "module": self.module, "rows": self.rows}

    def __str__(self) -> str:
        marks = {"nonzero": "1 is a token", "zero": "1 is padding", "open": "added to scores"}[self.valid]
        return f"{self.input}{f' of {self.module}' if self.module else ''} ({marks})"


@dataclass(frozen=True)
class Site:
    """One position of a block at which an operator can be inserted: the tensor, its axes, and its module.

    Attributes:
        position: ``front``, ``mid`` or ``end``; ``query``, the result of the projection that makes an attention's
            queries.
        token_axes, channel_axis, batch_axes: roles of the tensor's axes, as non-negative indices.
        tokens: product of the sizes of the token axes at capture.
        channels: size of the channel axis.
        uses: the tensor in the program, once per call of the block.
        hooks: the module whose input or output the tensor is; empty if there is none.
        occupied: name of the operator that is already at this site, if any.
        mask: the input that marks padding among these tokens, if one was found and proved.
        class_token: position of the class token along the single token axis, if one was found and proved.
        unfold: how the tensor is split first, if samples and tokens share an axis; the axes above are then those of the
            split tensor.
        heads: which channels are the queries of each head, at ``query``.
        groups: groups of tokens per sample that share the batch axis, such as windows; the mean is over one group.
    """

    position: Position
    token_axes: tuple[int, ...]
    channel_axis: int
    batch_axes: tuple[int, ...]
    tokens: int
    channels: int
    uses: tuple[Use, ...]
    hooks: tuple[Hook, ...]
    occupied: str | None = None
    mask: Mask | None = None
    class_token: int | None = None
    unfold: Unfold | None = None
    heads: Heads = ()
    groups: int = 1


@dataclass(frozen=True)
class Block:
    """One MLP (or attention) branch of a residual stream.

    Attributes:
        index: number in graph order over all MLP blocks of the model.
        stack: name of the stack it belongs to (blocks on one residual stream, through changes of width).
        kind: ``mlp``, ``glu``, ``conv-mlp``, ``token-mlp``, ``inverted-bottleneck`` (or ``attention``).
        path: module path of the block; empty if it has no module.
        fc1, fc2: module paths of the up and down projections; several ``fc1`` for a gated MLP, empty if the projection
            has no module.
        token_axes: token axes of the residual branch's result (the End site).
        tokens, channels, hidden: sizes at capture.
        default: whether the block is chosen if ``kinds`` is not given.
        calls: how often the same module runs in one forward pass.
        sites: position → site, for the positions where an operator can be inserted.
        unavailable: position → reason, for the other positions.
        notes: facts a user should know (experts of a router, dropout as a function call ...).
        tapped: the residual stream after it is also an output of the model, as a feature map (section 4.4: no CB
            there); ``None`` if the model was captured in parts, which do not show that.
    """

    index: int
    stack: str
    kind: Kind
    path: str
    fc1: tuple[str, ...]
    fc2: tuple[str, ...]
    token_axes: tuple[int, ...]
    tokens: int
    channels: int
    hidden: int
    default: bool
    calls: int
    sites: dict[str, Site] = field(repr=False)
    unavailable: dict[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    tapped: bool | None = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the fields of the contract, plus the axes of each site."""
        return {
            "index": self.index,
            "stack": self.stack,
            "kind": self.kind,
            "path": self.path,
            "fc1": list(self.fc1),
            "fc2": list(self.fc2),
            "token_axes": list(self.token_axes),
            "tokens": self.tokens,
            "channels": self.channels,
            "hidden": self.hidden,
            "default": self.default,
            "calls": self.calls,
            "sites": {
                position: {
                    "token_axes": list(site.token_axes),
                    "channel_axis": site.channel_axis,
                    "batch_axes": list(site.batch_axes),
                    "tokens": site.tokens,
                    "channels": site.channels,
                    "modules": [f"{hook.module}:{hook.when}" for hook in site.hooks],
                    "nodes": [use.value for use in site.uses],
                    "occupied": site.occupied,
                    "mask": site.mask.to_dict() if site.mask is not None else None,
                    "class_token": site.class_token,
                    "unfold": site.unfold.to_dict() if site.unfold is not None else None,
                    "groups": site.groups,
                    **({"heads": [[list(part) for part in head] for head in site.heads]} if site.heads else {}),
                }
                for position, site in self.sites.items()
            },
            "unavailable": dict(self.unavailable),
            "notes": list(self.notes),
            "tapped": self.tapped,
        }


@dataclass(frozen=True)
class Rejected:
    """A candidate that is not a block, and why.

    Attributes:
        reason: stable code, such as ``one-token``; its ``sentence`` says what it means.
        detail: one sentence with the numbers of this case.
        nodes: names of the graph nodes concerned.
        path: module path concerned; empty if there is none.
        nearness: how many parts of the rule for an MLP hold; the candidates with most are listed first.
        reached: the parts of an MLP branch that were found.
    """

    reason: Reason
    detail: str
    nodes: tuple[str, ...]
    path: str
    nearness: int = 0
    reached: tuple[Part, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "reason": str(self.reason),
            "sentence": self.reason.sentence,
            "detail": self.detail,
            "nodes": list(self.nodes),
            "path": self.path,
            "nearness": self.nearness,
            "reached": [str(part) for part in self.reached],
        }


@dataclass(frozen=True)
class Inspection:
    """Everything that was found in a model.

    Attributes:
        blocks: MLP blocks in graph order.
        rejected: rejected candidates, nearest first.
        attention: attention branches of residual streams in graph order, with their own numbers and sites.
        attentions: every attention with a map in graph order, on a residual stream or not, for the analysis.
        reference: what was inspected.
        fingerprint: digest of the structure; a recipe made from this inspection contains it.
        causal_stacks: stack → its evidence, for the stacks whose tokens do not see later ones.
        reversed_stacks: the causal stacks in which a causal mean leaks as well, because tokens do not see earlier
            tokens, or see each other in another order than that of their axis.
        masks: names of the inputs that are padding masks.
        unmasked: for each stack with a padding mask that could not be proved, the reason.
        left_out: sub-modules that could not be captured, path → reason.
        operators: name and module path of every inserted operator, in graph order.
        given: the parameters of the model's ``forward()`` that the example inputs gave; empty for a program.
        seconds: time for ``capture`` and ``read``.
    """

    blocks: tuple[Block, ...]
    rejected: tuple[Rejected, ...]
    attention: tuple[Block, ...] = ()
    attentions: tuple[Attention, ...] = ()
    reference: str = "object"
    fingerprint: str = ""
    causal_stacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reversed_stacks: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    unmasked: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    operators: tuple[tuple[str, str], ...] = ()
    given: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def causal(self) -> tuple[str, ...]:
        """Evidence of causality, of all stacks; empty if no stack is causal."""
        return tuple(sentence for evidence in self.causal_stacks.values() for sentence in evidence)

    @property
    def stacks(self) -> tuple[str, ...]:
        """Stack names in graph order."""
        return tuple(dict.fromkeys(block.stack for block in self.blocks))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.inspect/1``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference,
            "fingerprint": self.fingerprint,
            "stacks": list(self.stacks),
            "blocks": [block.to_dict() for block in self.blocks],
            "attention": [block.to_dict() for block in self.attention],
            "attentions": [one.to_dict() for one in self.attentions],
            "rejected": [candidate.to_dict() for candidate in self.rejected],
            "causal": list(self.causal),
            "causal_stacks": {stack: list(evidence) for stack, evidence in self.causal_stacks.items()},
            "reversed_stacks": list(self.reversed_stacks),
            "masks": list(self.masks),
            "unmasked": dict(self.unmasked),
            "left_out": dict(self.left_out),
            "operators": [{"op": op, "path": path} for op, path in self.operators],
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        head = f"{self.reference}: {len(self.blocks)} MLP blocks, {len(self.rejected)} candidates rejected"
        rows = [
            f"  {block.index:>3}  {block.stack:<24} {block.kind:<20} {block.path or '(no module)':<32} "
            f"{block.tokens:>6} tokens x {block.channels} -> {block.hidden}"
            f"{'' if block.default else '  (only on request)'}"
            for block in self.blocks
        ]
        return "\n".join([head, *rows])
