"""``plan``: turn an inspection and a choice into a recipe, or refuse the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from cbsurgeon.errors import NothingMatched, SurgeryError, UsageError, did_you_mean
from cbsurgeon.graph.block import Block, Inspection
from cbsurgeon.operators import Operator
from cbsurgeon.operators.registry import build, having, operator_class
from cbsurgeon.options import Choice, documented, resolve
from cbsurgeon.surgery.class_token import with_class_token
from cbsurgeon.surgery.recipe import Excluded, Recipe, RecipeSite, outline
from cbsurgeon.surgery.refusals import no_mask, occupied, unsuitable
from cbsurgeon.surgery.selection import Exclusion, select
from cbsurgeon.version import __version__
from cbsurgeon.vocabulary import BRANCHES, KINDS, POSITIONS


@documented(Choice)
def plan(found: Inspection, choice: Choice | None = None, /, **keywords: Any) -> Recipe:
    """Return the recipe for a choice of blocks, a position and an operator.

    Args:
        found: what :func:`cbsurgeon.inspect` returned.
        choice: the operator, blocks and position; or its fields as keywords. A keyword that is not a field is an option
            of the operator, such as ``initial=0.1`` of ``cb_s``. ``pos`` is that of Table 4b of the paper, ``at`` that
            of Table 4a (an attention branch has only End, and ``query`` for ``uniform_head``), and ``exclude="taps"``
            is section 4.4.

    Raises:
        NothingMatched: no block matches, or a requested block or position does not exist.
        UsageError: unknown operator, position, branch or selector.
        SurgeryError: the operator would leak the future of a causal model (unless it is ``causal``), or padding (unless
            it is ``masked``); a site is occupied; or the operator cannot work on a site's axes.
    """
    choice = resolve(Choice, choice, keywords, "plan")
    op, layers, pos, options = choice.op, choice.layers, choice.pos, choice.operator_options
    _known(pos, POSITIONS, "position", "--pos")
    _known(choice.at, BRANCHES, "branch", "--at")
    for kind in choice.kinds or ():
        _known(kind, (*KINDS, "attention"), "kind of block", "--kinds")
    operator = operator_class(op)
    if operator.fixed_position:
        choice = _at_attention(choice, operator)
        pos = choice.pos
    masked = bool(options.get("masked"))
    chosen: list[Block] = []
    if choice.at in ("mlp", "both"):
        chosen += select(found.blocks, layers, choice.kinds, found.rejected)
    if choice.at in ("msa", "both"):
        chosen += select(found.attention, layers, ["attention"])
    exclusion = Exclusion.read(choice.exclude, [*found.blocks, *found.attention])
    left_out = [
        Excluded(block.index, block.path, exclusion.reason(block) or _reason(block))
        for block in found.blocks
        if block not in chosen or exclusion.reason(block)
    ]
    chosen = [block for block in chosen if not exclusion.reason(block)]
    if operator.mixes_tokens:
        _refuse_leaks(found, chosen, hides_future=bool(options.get("causal")))
    if operator.mixes_tokens and not masked:
        _refuse_padding(found, operator, chosen, pos)
    sites, absent = _sites(chosen, pos, op, masked)
    if absent and not choice.allow_partial:
        raise _absent(absent, pos, chosen)
    _refuse_misfits(op, options, sites)
    if masked:
        _refuse_unmasked(found, sites)
    if not sites:
        raise NothingMatched(
            "no block is left",
            code="CB-LOCATE-02",
            where=f"--layers {layers}",
            why="all were excluded",
            do="exclude fewer, or choose more: --layers all",
        )
    places = {(str(block.kind), block.index): one.class_token for block in chosen if (one := block.sites.get(pos))}
    options = with_class_token(operator, options, [(site, places[site.kind, site.index]) for site in sites])
    return Recipe(
        op=op,
        options=options,
        layers=layers,
        position=pos,
        fingerprint=found.fingerprint,
        structure=tuple(outline(block) for block in found.blocks),
        sites=tuple(sites),
        excluded=tuple(left_out + [Excluded(block.index, block.path, reason) for block, reason in absent]),
        reference=found.reference,
        given=found.given if operator.mixes_tokens else (),
        versions={"cbsurgeon": __version__, "torch": torch.__version__.split("+")[0]},
    )


def _at_attention(choice: Choice, operator: type[Operator]) -> Choice:
    """The choice, changed to attention branches and the only position of the operator.

    Raises:
        UsageError: another position or branch was requested (CB-PLAN-02).
    """
    asked = [f"--pos {choice.pos}"] if choice.pos != Choice.pos else []
    asked += [f"--at {choice.at}"] if choice.at == "both" else []
    if asked:
        raise UsageError(
            f"{operator.name} fixes its position",
            code="CB-PLAN-02",
            where=" ".join(asked),
            why="it can only be inserted at the queries of attention",
            do=f"leave {' and '.join(word.split()[0] for word in asked)} out: --op {operator.name}",
        )
    return replace(choice, at="msa", pos=operator.fixed_position)


_HEADS = "choose heads that every chosen attention has, such as --op-option heads=0"


def _known(word: str, words: Sequence[str], what: str, where: str) -> None:
    if word not in words:
        raise UsageError(
            f"unknown {what} {word!r}",
            code="CB-PLAN-01",
            where=where,
            why=f"the values are {', '.join(words)}",
            do=did_you_mean(word, words, f"{where} ") or f"{where} {words[0]}",
        )


def _reason(block: Block) -> str:
    return "not in the selected layers" if block.default else f"kind {block.kind} is chosen only on request"


def _sites(
    blocks: Sequence[Block], pos: str, op: str, masked: bool
) -> tuple[list[RecipeSite], list[tuple[Block, str]]]:
    sites, absent, taken = list[RecipeSite](), list[tuple[Block, str]](), list[tuple[RecipeSite, str]]()
    for block in blocks:
        there = block.sites.get(pos)
        if there is None:
            only_end = block.kind == "attention" and pos != "end"
            reason = "an attention branch has only its End" if only_end else "this position does not exist"
            absent.append((block, block.unavailable.get(pos, reason)))
            continue
        site = RecipeSite(
            block.index,
            block.stack,
            block.kind,
            block.path,
            there.position,
            there.token_axes,
            there.channel_axis,
            there.batch_axes,
            there.tokens,
            there.channels,
            there.hooks,
            block.calls,
            mask=there.mask if masked else None,
            unfold=there.unfold,
            heads=there.heads,
        )
        if there.occupied is not None:
            taken.append((site, there.occupied))
        sites.append(site)
    if taken:
        raise occupied(*taken[0], op, [site.index for site, _ in taken])
    return sites, absent


def _absent(absent: Sequence[tuple[Block, str]], pos: str, chosen: Sequence[Block]) -> NothingMatched:
    block, reason = absent[0]
    return NothingMatched(
        f"{len(absent)} of {len(chosen)} requested blocks have no {pos} position",
        code="CB-LOCATE-04",
        where=f"block {block.index} ({block.path or 'no module'})",
        why=reason,
        do=f"choose {'another --pos, ' if pos in POSITIONS else ''}other --layers, or --allow-partial",
    )


def _refuse_misfits(op: str, options: dict[str, Any], sites: Sequence[RecipeSite]) -> None:
    """Refuse options and axes that the operator cannot work with, by building it for every site on the meta device."""
    for site in sites:
        try:
            with torch.device("meta"):
                operator = build(op, site.channels, site.channel_axis, site.token_axes, options)
        except UsageError as error:
            if error.code != "CB-OP-03":
                raise
            raise unsuitable(site, op, error.why) from None
        try:
            operator.choose(site.heads)
        except ValueError as error:
            raise unsuitable(site, op, str(error), _HEADS) from None
        if why := operator.refusal(site.tokens):
            raise unsuitable(site, op, why)


def _refuse_leaks(found: Inspection, chosen: Sequence[Block], *, hides_future: bool) -> None:
    """Refuse blocks of causal stacks. Causal stacks without a chosen block are not refused."""
    stacks = [stack for stack in dict.fromkeys(block.stack for block in chosen) if stack in found.causal_stacks]
    backwards = [stack for stack in stacks if stack in found.reversed_stacks]
    if backwards:
        raise SurgeryError(
            "some tokens do not see earlier ones, which a plain or causal mean would leak to them",
            code="CB-LEAK-10",
            where=f"{found.reference}, stack {', '.join(backwards)}",
            why="; ".join(sentence for stack in backwards for sentence in found.causal_stacks[stack]),
            do=_elsewhere(found) or "do not insert: no operator averages over exactly the tokens that each token sees",
        )
    if not stacks or hides_future:
        return
    raise SurgeryError(
        "the model is causal: a mean over all tokens would show every token its future",
        code="CB-LEAK-01",
        where=f"{found.reference}, stack {', '.join(stacks)}",
        why="; ".join(sentence for stack in stacks for sentence in found.causal_stacks[stack]),
        do="use the causal form, which averages over the tokens up to each one: --causal, or causal=True in Python"
        + (f"; or {other}" if (other := _elsewhere(found)) else ""),
    )


def _elsewhere(found: Inspection) -> str:
    """The advice to choose another stack, if there is one that is not causal; else empty."""
    free = [stack for stack in found.stacks if stack not in found.causal_stacks]
    return f"choose blocks of another stack (--layers {free[0]})" if free else ""


def _refuse_padding(found: Inspection, op: type[Operator], chosen: Sequence[Block], pos: str) -> None:
    """Refuse the plain mean for stacks that mask padding: the user has to choose the masked form."""
    places = [(block.stack, block.sites.get(pos)) for block in chosen]
    padded = [site for stack, site in places if stack in found.unmasked or (site is not None and site.mask is not None)]
    if not found.masks or not padded:
        return
    tied = all(site is not None and site.mask is not None for site in padded)
    reasons = "; ".join(f"{stack}: {why}" for stack, why in found.unmasked.items())
    if tied and "masked" in op.forms:
        do = "use the masked form, the mean of the tokens that are not padding: --masked, or masked=True in Python"
    elif tied:
        do = f"{op.name} has no masked form; use {' or '.join(having('masked'))} with --masked (in Python masked=True)"
    else:
        do = _without_padding(found)
    where = " in its attention" if tied else ""
    raise SurgeryError(
        f"the model masks padding{where}: a mean over all tokens would mix it into every token",
        code="CB-LEAK-02",
        where=f"{found.reference}, input {', '.join(found.masks)}",
        why="the output of a sample would depend on how much its neighbours in the batch are padded"
        + (f"; the masked form is not possible: {reasons}" if reasons and not tied else ""),
        do=do,
    )


def _without_padding(found: Inspection) -> str:
    """What to do about padding for which there is no masked form."""
    named = [name for name in found.masks if " " not in name]  # the others are descriptions, not names of inputs
    taken = {one if one in found.given else one.partition("_")[0] for one in named}  # ``batch_mask``: in ``batch``
    masked = {block.stack for block in found.blocks for site in block.sites.values() if site.mask is not None}
    free = [stack for stack in found.stacks if stack not in masked | found.unmasked.keys()]
    # A model that is given nothing but its mask has a mask that is computed from its tokens.
    leave = named and (not found.given or set(found.given) - taken)
    ways = [
        f"if no sample is padded, and forward() runs without {', '.join(named)}, leave it out of the inputs "
        "(--inputs, or inputs= in Python) and always call the model without it"
    ] * bool(leave)
    ways += [f"choose blocks of another stack (--layers {stack})" for stack in free[:1]]
    return "; or ".join(ways) or (
        "do not insert a token mean: the model computes this mask from its tokens, so that it cannot be left out, and "
        "no form of the mean follows it"
    )


def _refuse_unmasked(found: Inspection, sites: Sequence[RecipeSite]) -> None:
    """Refuse a masked operator at sites whose mask is not proved."""
    for site in sites:
        if site.mask is None:
            why = found.unmasked.get(site.stack, f"no attention of {site.stack} takes a mask, so none of it is padding")
            raise no_mask(site, why)
