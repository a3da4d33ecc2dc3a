"""Inputs that contain every token id, and notes on integer inputs that were compared on few values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cbsurgeon.checks.parity.inputs.feed import VOCABULARY, Feed, Source

# Limits on the token ids compared and on their batches: seconds for a BERT on a CPU. The coverage is printed.
MOST_IDS = 8192
MOST_BATCHES = 128

# Values listed in a note about an input that was compared on a few values only.
MOST_LISTED = 3


def covered(source: Source, batch: int) -> dict[str, tuple[int, int]]:
    """Return integer input → (number of token ids compared, token ids of its table)."""
    found = {}
    for name, table in source.tables.items():
        each = _ids_per_batch(source, name, batch)
        found[name] = (min(len(table), MOST_IDS, each * MOST_BATCHES), len(table))
    return found


def vocabulary(source: Source, batch: int) -> Iterator[Feed]:
    """Yield batches that together contain every token id, or as many as the limits allow, in random order.

    If the model drops some positions, every id occurs a second time, shifted by half the length.
    """
    plan = {name: (ids, rows) for name, (ids, rows) in covered(source, batch).items() if ids}
    if not plan:
        return
    order = {
        name: source.tables[name][0] + torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:ids]
        for name, (ids, rows) in plan.items()
    }
    count = max(-(-ids // _ids_per_batch(source, name, batch)) for name, (ids, _) in plan.items())
    for step in range(2 * count if source.cut & set(order) else count):
        tensors = dict(source.draw(batch) if source.program is None else source.program.with_batch(batch, seed=step))
        for name, ids in order.items():
            like = tensors[name]
            start = step % count * like.numel()
            chosen = ids[torch.arange(start, start + like.numel()) % len(ids)].to(like.dtype).reshape(like.shape)
            tensors[name] = chosen.roll(like.shape[-1] // 2, -1) if step >= count and like.dim() else chosen
        yield Feed(VOCABULARY, batch, tensors)


def coverage(source: Source, plan: Sequence[Feed]) -> tuple[str, ...]:
    """Return one sentence per integer input whose values matter: how many token ids, or which few values, it had."""
    covers = any(feed.label == VOCABULARY for feed in plan)
    found = covered(source, max(feed.batch for feed in plan)) if covers else {}
    notes = [
        f"{name}: {'all ' if ids == rows else ''}{ids:,}{'' if ids == rows else f' of {rows:,}'} token ids compared"
        for name, (ids, rows) in found.items()
    ]
    if any(feed.given for feed in plan):
        return tuple(notes)
    for name in plan[0].tensors if plan else ():
        seen = [feed.tensors[name] for feed in plan]
        if name in found or seen[0].is_floating_point() or seen[0].is_complex() or not seen[0].numel():
            continue
        notes += _few(name, seen)
    return tuple(notes)


def _few(name: str, seen: Sequence[Tensor]) -> list[str]:
    """Return a sentence about an integer input that had only a few values, unless these are 0 and 1."""
    values = sorted({int(value) for tensor in seen for value in tensor.flatten().tolist()})
    if values == [0, 1] or len(values) > MOST_LISTED:
        return []
    said = f"value {values[0]} was" if len(values) == 1 else f"values {', '.join(map(str, values))} were"
    return [f"{name}: only the {said} compared; give others with inputs of your own"]


def _ids_per_batch(source: Source, name: str, batch: int) -> int:
    if source.program is not None:
        example = source.program.example[name]
        return batch * example.numel() // max(example.shape[source.program.batch_axes[name]], 1)
    port = next(port for port in source.ports if port.name == name)
    return int(torch.Size(port.shape(batch)).numel())
