"""Join the inspections of a model's parts that were captured one by one into one inspection of the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cbsurgeon.graph.block import Block, Inspection
from cbsurgeon.graph.blocks.assembly import common_prefix, fingerprint
from cbsurgeon.graph.capture.parts import Parts
from cbsurgeon.graph.capture.tracing import origins
from cbsurgeon.models.model import Model
from cbsurgeon.operators.common.unfolding import Unfold


def path_under(prefix: str, path: str) -> str:
    """Return the path in the whole model of a module of a part."""
    return f"{prefix}.{path}" if path else prefix


def _unfold_under(unfold: Unfold | None, prefix: str) -> Unfold | None:
    return replace(unfold, module=path_under(prefix, unfold.module)) if unfold is not None and unfold.module else unfold


def block_under(block: Block, prefix: str) -> Block:
    """Return a part's block with its paths in the whole model."""
    sites = {
        position: replace(
            site,
            hooks=tuple(replace(hook, module=path_under(prefix, hook.module)) for hook in site.hooks),
            mask=replace(site.mask, module=path_under(prefix, site.mask.module)) if site.mask is not None else None,
            unfold=_unfold_under(site.unfold, prefix),
        )
        for position, site in block.sites.items()
    }
    return replace(
        block,
        stack=stack_under(prefix, block.stack),
        path=path_under(prefix, block.path),
        fc1=tuple(path_under(prefix, path) for path in block.fc1),
        fc2=tuple(path_under(prefix, path) for path in block.fc2),
        sites=sites,
        tapped=None,
    )


def stack_under(prefix: str, stack: str) -> str:
    """Return the stack in the whole model; layers that were captured one by one share the stack of their container."""
    if stack == "model":
        stack = ""
    return (
        common_prefix([prefix]) or prefix
        if any(part.isdigit() for part in prefix.split("."))
        else path_under(prefix, stack)
    )


def joined(model: Model, parts: Parts, found: Sequence[Inspection], captured: float) -> Inspection:
    """Return one inspection for several captured parts, with blocks numbered over all of them."""
    prefixes = [program.prefix for program in parts.programs]

    def through(branches: Iterable[tuple[str, Block]]) -> tuple[Block, ...]:
        """Number the blocks; a block's calls are those in its part times the runs of the part in the model."""
        return tuple(
            replace(block, index=i, calls=block.calls * parts.runs.get(prefix, 1))
            for i, (prefix, block) in enumerate(branches)
        )

    blocks = through((prefix, block) for prefix, part in zip(prefixes, found, strict=True) for block in part.blocks)
    attention = through((prefix, b) for prefix, part in zip(prefixes, found, strict=True) for b in part.attention)
    masks = {prefix: part.masks for prefix, part in zip(prefixes, found, strict=True)}
    return Inspection(
        blocks=blocks,
        rejected=tuple(sorted((r for part in found for r in part.rejected), key=lambda one: -one.nearness)),
        attention=attention,
        attentions=tuple(replace(one, index=i) for i, one in enumerate(a for part in found for a in part.attentions)),
        reference=model.provenance.reference,
        fingerprint=fingerprint(blocks),
        causal_stacks={stack: one for part in found for stack, one in part.causal_stacks.items()},
        reversed_stacks=tuple(dict.fromkeys(stack for part in found for stack in part.reversed_stacks)),
        masks=origins(model, parts.programs, masks),
        unmasked={stack: why for part in found for stack, why in part.unmasked.items()},
        left_out=dict(parts.left_out),
        operators=tuple(dict.fromkeys(one for part in found for one in part.operators)),
        seconds={"capture": captured, "read": sum(part.seconds["read"] for part in found)},
    )
