"""``Attention``: one attention of a model, as an inspection lists it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

AttentionKind = Literal["self", "cross", "window", "class"]


@dataclass(frozen=True)
class Attention:
    """One attention with a map of queries by keys, in one forward pass.

    A module that runs several times is listed once per run, in graph order.

    Attributes:
        index: number in graph order over all attentions of the model.
        stack: the residual stack it belongs to, as in :class:`~cbsurgeon.graph.block.Block`.
        path: module path of the attention; empty if it has no module.
        heads: number of attention heads. With grouped keys and values, the number of query heads.
        queries, keys: numbers of positions in one map at capture; in one window if there are several.
        kind: ``self``; ``cross`` (the keys come from another tensor, or the queries are learned); ``window`` (each map
            covers one group of tokens: a window, a grid, a frame); ``class`` (a single query and several keys).
        causal: queries do not see later keys.
        masked: there is another mask: an input of the model (padding) or a fixed mask (shifted windows).
        windows: maps per sample and head.
        learned: positions among the keys of tokens that are parameters (class, distillation, register tokens).
        class_token: position of the class token among the keys, if one was proved.
        grid: sizes of the grid of the spatial keys (height and width; frames first for video), if they lie on one.
        mixed: what a projection over the heads (talking heads) mixes: ``scores``, ``weights``, ``both`` or ``""``.
    """

    index: int
    stack: str
    path: str
    heads: int
    queries: int
    keys: int
    kind: AttentionKind
    causal: bool
    masked: bool
    windows: int = 1
    learned: tuple[int, ...] = ()
    class_token: int | None = None
    grid: tuple[int, ...] | None = None
    mixed: Literal["", "scores", "weights", "both"] = ""

    @property
    def spatial(self) -> tuple[int, ...]:
        """Positions of the keys that are not learned tokens."""
        return tuple(place for place in range(self.keys) if place not in set(self.learned))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "index": self.index,
            "stack": self.stack,
            "path": self.path,
            "heads": self.heads,
            "queries": self.queries,
            "keys": self.keys,
            "kind": self.kind,
            "causal": self.causal,
            "masked": self.masked,
            "windows": self.windows,
            "learned": list(self.learned),
            "class_token": self.class_token,
            "grid": list(self.grid) if self.grid is not None else None,
            "mixed": self.mixed,
        }
