"""Operators that read the class token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cbsurgeon.operators.base import Operator


class ClassToken(Operator):
    """An operator that reads the class token.

    A tensor does not show which token is the class token. Planning proves it on the graph, and refuses the operator if
    there is no class token (a mixer, global pooling) or no proof. A site with several token axes (an image, windows)
    has none.

    Args:
        class_token: position of the class token along the single token axis; by default 0, its position in timm,
            torchvision and transformers.
    """

    def __init__(
        self, channels: int, channel_axis: int, token_axes: Sequence[int], *, class_token: int | None = None
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.single_token_axis("a class token")
        if class_token is not None and (not isinstance(class_token, int) or isinstance(class_token, bool)):
            raise ValueError(f"class_token is {class_token!r}, not a position such as 0")
        self.place = class_token

    def options(self) -> dict[str, Any]:
        """``class_token``, if it was given."""
        return {} if self.place is None else {"class_token": self.place}

    def refusal(self, tokens: int) -> str:
        """Return why the class token cannot be one of this many tokens; empty if it can."""
        place = self.place or 0
        return "" if -tokens <= place < tokens else f"there are {tokens} tokens, and no token {place}"

    def class_token(self, x: Tensor) -> Tensor:
        """The class token, its axis kept with size 1."""
        axis = self.token_axes[0]
        place = self.place or 0
        return x.narrow(axis, place + x.shape[axis] if place < 0 else place, 1)
